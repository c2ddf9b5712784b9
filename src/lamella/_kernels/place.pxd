"""Rows and their payload -> inodes below one directory. A system kernel.

The caller gives rows in archive order together with the chunk of the tar stream that they were scanned from; the
kernel makes what can be made without a decision and stops at a row that policy must decide (verdict SPECIAL, the
reason in the state). The caller removes the obstacle, or does the row itself, and calls again.

Confinement: a path is resolved from the root descriptor by openat2 with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS, and
only its directory part; the last component is never followed. Descriptors of directories are kept in ``levels``, a
stack along the current path: a level is dropped as soon as the path moves on, and all of them by place_reset(), which
the caller uses whenever it removed or replaced a directory itself. So no remembered descriptor outlives its name.

Several threads can write files: the placing thread makes them, in the order of the rows, and a file whose bytes are all
in the chunk becomes a job of a batch (_jobs.pxd). Who has its descriptor can finish it whatever happens to its name
meanwhile, so the outcome is that of one thread. Making is not shared: two threads in one directory wait for each other.

Order for a file: open(O_EXCL, mode), data, owner, mode (only if the open could not give it), xattrs, times, close;
the kernel clears set-id bits on chown and capabilities on chown and write. Directories get theirs by place_finish(),
children first, when nothing below them will change any more.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from lamella._kernels._rows cimport Rows

cdef enum:
    MAX_LEVELS = 64
    PATH_CAP = 4096
    JOBS_CAP = 128           # files of a batch, all open

cdef enum Option:
    OPT_FRESH = 1            # the root was empty and without default ACL or set-group-id: nothing below need be asked
    OPT_CHOWN = 2            # owners are applied
    OPT_TOLERANT = 4         # a refused xattr is a warning (rootless)
    OPT_NO_XATTRS = 8
    OPT_SELINUX = 16         # security.selinux and system.nfs4_acl are applied too
    OPT_ESCAPE_OVERLAY = 32  # overlay's own xattrs are stored escaped, not dropped
    OPT_NO_TRUSTED = 64      # trusted.* is dropped with a warning
    OPT_HOLES = 128          # runs of zeros become holes
    OPT_SYNC = 256           # fdatasync every file
    OPT_KEEP_DIRLINKS = 512  # a directory entry over a symlink is SPECIAL
    OPT_ASK_DUPLICATES = 2048  # a path met twice is SPECIAL
    OPT_ASK_LINKS = 4096     # every hard link is SPECIAL
    OPT_WRITABLE_DIRS = 8192   # directories are made with u+rwx until place_finish()
    OPT_CLAMP_TIMES = 16384  # times outside 1970..2262 become 0
    OPT_ZERO_DEVICE = 32768  # a 0:0 character device is made like any other

cdef enum Special:
    SP_NONE = 0
    SP_WHITEOUT = 1          # basename starts with .wh.
    SP_DOTDOT = 2            # path or hard link target has a ".." component
    SP_ROOT = 3              # the root's own entry
    SP_PARENT = 4            # the directory part is missing, unlisted in the index, or crosses a non-directory
    SP_REPLACE_DIR = 5       # a directory stands where something else goes
    SP_DIRLINK = 6           # OPT_KEEP_DIRLINKS
    SP_LINK = 7              # a hard link whose target was not found as it is
    SP_DEVICE = 8            # a device that may not be made, or 0:0
    SP_OWNER = 9             # an id that the map does not hold
    SP_DUPLICATE = 10        # OPT_ASK_DUPLICATES

cdef enum Warning:
    WARN_XATTR_UNSUPPORTED = 1   # the file system has no such xattrs (ENOTSUP)
    WARN_XATTR_REFUSED = 2       # EPERM, tolerated
    WARN_XATTR_OVERLAY = 3       # overlay's own xattr dropped
    WARN_XATTR_TRUSTED = 4       # trusted.* dropped
    WARN_TIME_CLAMPED = 5        # the file system cannot hold this time
    WARN_XATTR_NAME = 6          # a name that no xattr can have

cdef struct Level:
    int32_t fd
    int32_t path_end         # the level is PlaceState.path[:path_end]
    uint8_t acl              # has a default ACL, so children inherit one
    uint8_t setgid           # children inherit its group

cdef struct OpenFile:
    # a regular file in progress
    int32_t fd               # -1: none
    uint8_t inherits         # 1 when its open() could not give the final owner
    uint8_t acl
    int64_t row
    int64_t done             # packed payload bytes already used
    int64_t region           # sparse: region in progress and bytes of it written
    int64_t region_done

cdef struct PlaceState:
    int32_t root_fd          # the caller's; never closed here
    int32_t n_levels
    uint32_t options
    uint32_t euid
    uint32_t egid
    int32_t os_errno         # of the last OS_ERROR
    int32_t special          # of the last SPECIAL
    OpenFile file            # what the next chunk continues
    int64_t row              # row at which the last call stopped
    int64_t failed_row       # of the last error
    int64_t n_files
    int64_t n_bytes          # payload bytes placed: written, or left out for a hole
    int64_t n_duplicates     # rows that took over a path of this layer
    int64_t n_warnings       # warnings so far; those that do not fit the buffer are dropped
    Level levels[MAX_LEVELS]
    char path[PATH_CAP]

cdef struct IdRanges:
    const int64_t* items     # triples (container, host, count), container -1: the rest; NULL: no map
    Py_ssize_t n

cdef struct Job:
    OpenFile file
    int32_t error            # once it is done: 0, errno, or -1 for BAD_FORMAT

cdef struct Jobs:
    # see _jobs.pxd
    uint64_t span            # items that nobody took: begin in the upper half, end in the lower
    uint32_t news            # futex: servers sleep on it
    uint32_t n_done          # futex: the placing thread sleeps on it
    uint32_t n_put
    uint32_t n_asleep
    uint32_t waiting
    uint32_t stop
    Place* place             # of the batch
    Job items[JOBS_CAP]

cdef struct Place:
    PlaceState* st
    Rows* rows
    const uint8_t* chunk
    Py_ssize_t chunk_len
    int64_t chunk_off        # offset of chunk[0] in the uncompressed stream
    uint32_t* slots
    uint64_t mask
    uint64_t seed
    IdRanges uids
    IdRanges gids
    int64_t* warnings        # pairs (row, Warning)
    Py_ssize_t warnings_cap  # in pairs
    Jobs* jobs               # NULL: no other thread helps

# Do jobs for the placing thread until ``q.stop``.
cdef void place_serve(Jobs* q) noexcept nogil
# Go through rows [begin, end); returns a Status and leaves the next row in st.row.
cdef int place_rows(Place* c, Py_ssize_t begin, Py_ssize_t end) noexcept nogil
# Give the directory row ``row``, open as ``fd``, its metadata; returns a Status.
cdef int place_dir_meta(Place* c, Py_ssize_t row, int fd) noexcept nogil
# Close everything the state holds open.
cdef void place_reset(PlaceState* st) noexcept nogil

cdef class Batch:
    cdef Jobs jobs
    cdef bint busy           # a call of place() has it
