"""One directory tree -> rows in path order. A system kernel; it touches nothing but what lies below the descriptor.

The walk is depth first and takes the names of a directory in bytewise order, which is the order of paths with ``/``
lowest: rows need no sorting. The root is the first row, with an empty path. Each name costs one statx (and one
listxattrat); a directory also openat, getdents64 and close. No symlink is followed. A directory on which something is
mounted gives what is mounted; ``dev`` tells.

Everything the walk remembers stands in the caller's memory. ``state`` is a WalkState; ``scratch`` is a stack with,
for every directory on the way down, a frame and its names. When a column, the arena or the scratch is full the verdict
is OUTPUT_FULL and need_rows, need_arena or need_scratch says how much more to make room for; the caller grows it,
contents kept, and calls again. At most max_fds directories are open at a time (fewer where the process has no more
to give): outer ones are closed, and on the way back opened as ``..`` and known again by device and inode.

Verdicts: AT_END; OUTPUT_FULL; SPECIAL for a name without row (special; its path is in the arena at path_off, not
kept), call again to go on; OS_ERROR with error and the path likewise; BAD_FORMAT where the state or the scratch is
not what the walk left there. After anything but AT_END, walk_release() closes what is open.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from lamella._kernels._rows cimport Rows

cdef struct WalkState:       # int64 items only, so that an int64 array is one; zeros (and max_fds) begin a walk
    int64_t rows             # rows written
    int64_t arena            # bytes of the arena in use
    int64_t need_rows        # with OUTPUT_FULL: rows wanted beyond ``rows``,
    int64_t need_arena       # ... bytes wanted beyond ``arena``,
    int64_t need_scratch     # ... bytes of scratch wanted in all
    int64_t special          # with SPECIAL: WalkSpecial
    int64_t error            # with OS_ERROR: errno
    int64_t path_off         # with SPECIAL and OS_ERROR: the path concerned, in the arena
    int64_t path_len
    int64_t linked           # rows whose link_group is LINK_PENDING
    int64_t holes            # sum over files of size minus allocated bytes, where positive
    int64_t max_fds          # directories open at a time, at least 3
    int64_t top              # bytes of scratch in use
    int64_t frame            # offset of the innermost directory's frame + 1; 0 before the walk, -1 after
    int64_t low              # offset of the outermost open frame but the root's, 0 for none
    int64_t n_open           # frames that hold a descriptor, the root's not counted
    int64_t bits             # WalkBit
    int64_t ext_off          # the last run of extras written
    int64_t ext_len

cdef enum WalkBit:
    WB_ATIME = 1             # O_NOATIME was refused once; it is not tried again
    WB_HERE = 2              # the thread's working directory is the innermost frame's

cdef enum WalkSpecial:
    GHOST = 1                # the directory lists the name and denies it (tests/contract 107), or it is just gone
    SOCKET = 2               # tests/contract 116

cdef enum WalkOption:
    XATTR_AT = 1             # read extended attributes by listxattrat and getxattrat
    XATTR_CWD = 2            # ... by fchdir and llistxattr: the thread owns its working directory (own_cwd)
    KEEP_SELINUX = 4         # security.selinux too
    DROP_KEPT = 8            # not overlayfs's notes to itself (origin, impure, nlink, uuid), which cost a call each

cdef enum:
    LINK_PENDING = -2        # link_group of a row with several links, until walk_link()

# Go on with the walk of the directory ``root_fd`` (any descriptor of it, O_PATH too); a Status.
cdef int walk_rows(int root_fd, Rows* r, WalkState* state, uint8_t* scratch, Py_ssize_t scratch_cap,
                   int options) noexcept nogil
# Close every descriptor of an unfinished walk, and end it.
cdef void walk_release(WalkState* state, const uint8_t* scratch, Py_ssize_t scratch_cap) noexcept nogil
# Turn LINK_PENDING of rows [0, n) into link groups by (dev, ino). ``slots``: zeroed, a power of two of items, more than
# there are such rows; ``mask`` their count - 1. Returns the number of groups.
cdef int64_t walk_link(Rows* r, Py_ssize_t n, uint32_t* slots, uint64_t mask, uint64_t seed) noexcept nogil
