"""Names of a directory as records: read from branches, merged as their union shows them, spelled as FUSE takes them.

Records stand one behind another in the caller's bytes, each a Dirent and the name, padded with zeros to a multiple of
eight. What comes out of them is checked and copied before it is used: another thread may write there.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from lamella._kernels._status cimport Status

cdef enum:
    DIRENT = 24              # sizeof(Dirent)
    FUSE_DIRENT = 24         # struct fuse_dirent, without its name
    FUSE_ENTRY = 128         # struct fuse_entry_out, which stands before it where a status is asked for

cdef struct Dirent:
    uint64_t ino
    uint64_t number          # in its directory, from 1 on, ascending
    uint16_t branch, n       # number of the branch that has it, bytes of the name
    uint8_t kind             # DT_*
    uint8_t gone             # not 0: it is not shown, nor is anything of that name in a later branch
    uint8_t spare[2]

cdef struct ReadState:
    int64_t used             # bytes of records, in and out
    int64_t n_names          # what was read: records,
    int64_t n_devices        # of which character devices,
    int64_t n_unknown        # of a kind that the file system does not tell,
    int64_t n_marks          # whose names begin with ".wh."
    int64_t error            # errno

# Append what directory ``fd`` lists from where it stands, but "." and "..": AT_END; OUTPUT_FULL with less room than
# twice the scratch: call again; OS_ERROR.
cdef Status read_names(int fd, uint16_t branch, uint8_t* scratch, int64_t scratch_cap, uint8_t* out, int64_t cap,
                       ReadState* s) noexcept nogil

# Leave of records[:used] those that are shown: branch after branch, each ending at ``ends``, a name hides its like in
# later ones; with ``aufs`` ".wh.NAME" is not shown and hides NAME in later ones. They are numbered from 1 on.
# ``slots`` are zeros, more than there are records, ``mask`` their count - 1. Bytes in use, and ``n_shown``; -1 for malformed
# records.
cdef int64_t merge_names(uint8_t* records, int64_t used, const int64_t* ends, Py_ssize_t n_ends, uint32_t* slots,
                         uint64_t mask, uint64_t seed, bint aufs, int64_t* n_shown) noexcept nogil

cdef struct Reply:
    int64_t used, n_found    # bytes of out, items of found
    int64_t at               # where the next record stands
    uint64_t number          # of the last one
    uint8_t* out
    int64_t cap
    int64_t* found           # where in out those stand of which the caller says more
    int64_t found_cap
    uint64_t skipped         # is added to a number to make an offset
    int kind                 # of those that are found; -1: all
    bint plus

# Spell records[begin:end] as struct fuse_dirent; with ``plus`` as struct fuse_direntplus whose entry is zeros. ``flips``
# has for each branch the bits by which the numbers of its inodes are shown otherwise. It ends where out is full. OK or
# BAD_FORMAT.
cdef Status spell_names(const uint8_t* records, int64_t begin, int64_t end, const uint64_t* flips, Py_ssize_t n_flips,
                        Reply* r) noexcept nogil
