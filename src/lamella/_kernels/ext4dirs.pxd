"""The directories of ext4 read from its device: their entries as columns, of some of them or of all that is below.

A system kernel that only reads; images are those of ext4.pxd. An entry is four numbers: the inode of its directory, its
own inode, the file type that the directory gives it (0 where it does not say), and a name in an arena. With DEEP the
output is the queue as well: directories that are found are read in their turn, until nothing is left. Each is read once:
a directory that has two names ends it (FAULT_TWICE), so a circle does.

Blocks of entries are read as they come: interior nodes of hash trees look like one free entry, checksums like another.
A directory is written whole or not at all, so what comes out does not depend on the room there is.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t
from lamella._kernels._ext4disk cimport Fault, Image

cdef enum ListOption:
    DEEP = 1

cdef enum:
    TYPE_DIR = 2                 # file types of entries, as the format numbers them
    TYPE_SOCKET = 6
    LIST_BLOCKS = 8              # scratch is so many blocks,
    LIST_ROOM = 131072           # ... and so many bytes besides

cdef struct ListState:           # int64 items only, so that an int64 array is one; zeros begin
    int64_t next                 # the next of the directories that were asked for
    int64_t next_entry           # with DEEP: the next entry that may be one
    int64_t n_out                # entries written
    int64_t arena                # bytes of the arena in use
    int64_t need_out             # with OUTPUT_FULL: entries wanted beyond ``n_out``,
    int64_t need_arena           # ... bytes of the arena beyond ``arena``
    int64_t budget               # blocks that may be looked at
    int64_t fault                # with BAD_FORMAT and OS_ERROR: as in InodeState
    int64_t block
    int64_t inode
    int64_t error

cdef struct Listed:              # the columns
    uint32_t* parent
    uint32_t* inode
    uint8_t* kind
    int64_t* name_off
    uint8_t* name_len
    int64_t cap
    uint8_t* arena
    int64_t arena_cap

# ``seen``: a bit for each inode, of those directories that were read. AT_END, OUTPUT_FULL, BAD_FORMAT, OS_ERROR.
cdef int list_dirs(const Image* m, const uint32_t* dirs, int64_t n_dirs, Listed* out, uint8_t* seen, int64_t seen_cap,
                   ListState* s, int options, uint8_t* scratch, Fault* f) noexcept nogil
