"""512-byte tar records -> rows of a table. Resumable at any byte; nothing is allocated here.

Formats: v7, ustar, pax (local ``x`` and Solaris ``X``, global ``g``), GNU long names ``L`` and ``K``, base-256 numbers, GNU
sparse (old ``S``, pax 0.0, 0.1, 1.0), star's atime, ``SCHILY.xattr.`` and ``LIBARCHIVE.xattr.``. Precedence of a value: local
pax, global pax, GNU long name, header.

A row is appended as soon as its headers are complete: ``size`` is the content's once expanded, ``data_off`` the offset of
the payload in the uncompressed stream (-1 where there is none). With F_SPARSE the payload is only the regions of EXT_SPARSE:
as many bytes as the sum of their sizes, which was checked against the member's. A run of extras equal to that of the row
before is shared with it. Paths are normalised: no leading, trailing or doubled ``/``, no ``.`` component; the root is empty;
``..`` stays and sets F_DOTDOT, also for a hard link's target. A symlink's target is verbatim.

Links, devices, fifos and directories with a size: readers disagree whether a payload follows. If the next block is a
header with a good checksum, or zeros, none does; else the size is passed over.

The core consumes all the input it is given and jumps over payload; it returns NEED_INPUT for more, OUTPUT_FULL when the
columns or the arena lack room for the next row, SCAN_SCRATCH_FULL when the scratch buffer does (grow it, contents kept), AT_END
once the end marker was met (one zero block; what follows is consumed unread), or BAD_FORMAT, TRUNCATED, OVER_LIMIT with
``fault``, ``fault_off`` (absolute offset) and ``fault_value`` in the state. A state is good for nothing after an error.
"""
from libc.stdint cimport int64_t, uint8_t
from lamella._kernels._scan cimport Scan, ScanLimits, ScanState

# Tell whether the state can have come from here and fits the scratch buffer; the cores rely on it.
cdef bint state_ok(ScanState* s, Py_ssize_t scratch_cap) noexcept nogil

# Scan ``p[at:n]`` and move ``at``; a verdict, or a negative Status with the fault in the state.
cdef int scan_core(Scan* o, const uint8_t* p, Py_ssize_t n, Py_ssize_t* at) noexcept nogil

# Scan the tar of ``nbytes`` at ``base`` of a regular file, from the state's offset; payload is not read.
#
# NEED_INPUT at the end of the file, OS_ERROR with ``os_errno`` in the state; else as scan_core().
cdef int scan_fd_core(Scan* o, int fd, int64_t base, int64_t nbytes) noexcept nogil

# Say whether the stream may end here: OK, TRUNCATED with the fault in the state, or OUTPUT_FULL: a row waits for room.
cdef int finish_core(ScanState* s) noexcept nogil
