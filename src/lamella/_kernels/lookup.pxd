"""Given paths looked up in one branch of a union, and what the union's own extended attributes say of its rows.

follow() is a walk that is told its names: for every wanted row of a table of paths it writes, at the same row of another
table, what the branch has there, as a walk would (one statx and one listxattrat a name, one openat2 and close a
directory). Nothing is listed, so what it costs depends on the paths alone. A system kernel: it touches nothing but what
lies below the descriptor, and follows no symlink. Policy, which branch comes next and what hides what, is the caller's.

own() reads overlayfs's extended attributes (kernel document overlayfs.rst) out of rows, and takes them away: ``facts``
says what they mean, and attributes of a nested overlay, ``trusted.overlay.overlay.X``, become ``trusted.overlay.X``
(tests/contract 27). Names that overlayfs keeps for itself (origin, impure, nlink, ...) just go (65).
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t
from lamella._kernels._rows cimport Rows
from lamella._kernels._status cimport Status

cdef enum Verdict:
    SKIPPED = 0              # not wanted
    ABSENT = 1               # no such name, or its directory is none
    FOUND = 2                # the row is written
    WHITEOUT = 3             # a 0:0 character device, or with AUFS the name .wh.NAME
    SOCKET = 4               # something that has no row (tests/contract 116)

cdef enum FollowOption:
    XATTR_AT = 1             # as in walk.pxd
    XATTR_CWD = 2
    KEEP_SELINUX = 4
    DROP_KEPT = 8
    AUFS = 16                # whiteouts are names
    BY_PARTS = 32            # directories are opened component by component, as where the kernel has no openat2
    PLAIN = 64               # nothing is a whiteout: a 0:0 device is a row

cdef enum Fact:
    HIDING = 1               # overlay.whiteout: hides, if the directory is XWHITEOUTS and the file is empty (25)
    OPAQUE = 2               # overlay.opaque "y", or with AUFS .wh..wh..opq: hides what is lower
    XWHITEOUTS = 4           # overlay.opaque "x": hides nothing itself (26)
    METACOPY = 8             # the content is that of a lower file
    REDIRECT = 16            # the lower name is another one

cdef enum Namespace:
    TRUSTED = 1              # trusted.overlay.
    USER = 2                 # user.overlay.

cdef struct FollowState:     # int64 items only, so that an int64 array is one; zeros begin
    int64_t next             # item of ``order`` that comes next
    int64_t arena            # bytes of the arena in use
    int64_t need_arena       # with OUTPUT_FULL: bytes wanted beyond ``arena``,
    int64_t need_scratch     # ... bytes of scratch wanted in all
    int64_t error            # with OS_ERROR: errno
    int64_t row              # ... and the row

cdef struct Follow:
    int root_fd
    int options
    const Rows* names        # the paths
    const int64_t* order     # rows, those of one directory in one run, a directory before what is in it
    Py_ssize_t n_order
    const int32_t* parents   # the row of the directory of each row, -1 for the root where that has no row
    const uint8_t* want
    Rows* out
    uint8_t* verdict
    uint8_t* facts           # OPAQUE of AUFS directories is set
    uint32_t* nlink          # of FOUND rows
    uint8_t* scratch
    int64_t scratch_cap

# Go on; AT_END, OUTPUT_FULL or OS_ERROR. All arrays have as many items as ``names`` has rows, and nothing stays open.
cdef Status follow_rows(Follow* w, FollowState* s) noexcept nogil

# ``facts[i]``, and with REDIRECT its text at text_off[i], text_len[i] of the arena; ext_off and ext_len say where what
# is left of each run of extras is: where it was, or at r.arena_cap + an offset of ``more``. The bytes of ``more`` in
# use; -1 where a row is malformed, or ``more_cap`` is less than all ext_len together.
cdef int64_t own_rows(const Rows* r, int namespaces, uint8_t* facts, int64_t* text_off, uint16_t* text_len,
                      int64_t* ext_off, uint32_t* ext_len, uint8_t* more, int64_t more_cap) noexcept nogil
