"""The inodes of ext4 read from its device: which differ in two images, and what they are as rows of a table.

A system kernel that only reads, by position, from descriptors that it is given; an image is a descriptor, a *shape*
(the items of Image in _ext4disk.pxd behind ``fd``: base, block, inode, per_group, n_inodes, n_blocks, bits, cluster), and
for each group the first block of its inode table and how many inodes of that may be in use. Scratch is SCRATCH_BLOCKS
times a block and an inode, and 8-byte aligned.

changed() compares inodes in ranges of their numbers. Two are the same though their access times or checksums differ: a
tree that was only read has changed nothing. An inode of no name (links 0, or beyond those that were ever written) is
none. rows() writes what a walk of the mounted file system would say of inodes. runs() tells where a file's bytes are,
small() gives those that lie in the inode itself, owners() finds the files that blocks belong to.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from lamella._kernels._ext4disk cimport Fault, Image
from lamella._kernels._rows cimport Rows

cdef enum:
    SCRATCH_BLOCKS = 16
    CHUNK = 262144               # bytes of inodes that are read at a time, besides: twice this for changed()

cdef enum RowOption:
    KEEP_SELINUX = 1
    NO_XATTRS = 2

cdef struct InodeState:          # int64 items only, so that an int64 array is one; zeros begin
    int64_t next                 # the next range, row or inode
    int64_t done                 # ... inodes of that range that are done
    int64_t n_out                # items written
    int64_t arena                # bytes of the arena in use
    int64_t need                 # with OUTPUT_FULL of rows(): bytes wanted beyond ``arena``
    int64_t budget               # blocks that runs() and owners() may look at: those of the file system, to begin with
    int64_t fault                # with BAD_FORMAT and OS_ERROR: a FaultKind,
    int64_t block                # ... the block,
    int64_t inode                # ... the inode,
    int64_t error                # ... errno

# ``ranges`` are pairs (first inode, number of inodes). AT_END; OUTPUT_FULL where ``cap`` numbers were written.
cdef int changed_inodes(const Image* a, const Image* b, const int64_t* ranges, int64_t n_ranges, InodeState* s,
                        uint32_t* out, uint16_t* modes_a, uint16_t* modes_b, int64_t cap, uint8_t* scratch,
                        Fault* f) noexcept nogil

# Fill row i from inodes[i]; the rows have paths, and symlinks get theirs anew with the text behind. A row whose inode is
# a socket is left as it is but for modes[i]. AT_END, OUTPUT_FULL (the arena), BAD_FORMAT, OS_ERROR.
cdef int inode_rows(const Image* m, const uint32_t* inodes, Rows* r, uint16_t* modes, uint32_t* nlink, uint64_t dev,
                    InodeState* s, int options, uint8_t* scratch, Fault* f) noexcept nogil
