"""The state of a scan and what it works on; tarscan.pxd says what they mean together."""
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.string cimport memcpy
from lamella._kernels cimport _status as st
from lamella._kernels cimport _ustar as u
from lamella._kernels._rows cimport Rows

cdef extern from *:
    """
    #define LAM_FAR ((int64_t)0x4000000000000000)
    """
    const int64_t FAR "LAM_FAR"  # 2**62: no offset is greater; no enum, whose C type would be unsigned

cdef enum:
    SCAN_SCRATCH_FULL = 5  # a verdict beside those of _status.pxd; SCRATCH_FULL in Python
    WINDOW = 4096          # bytes that scan_fd_core reads at once
    # Global headers are read again for every member: so many bytes of them are free, then 8 for each byte of the stream.
    GLOBAL_BUDGET = 0x4000000    # 64 MiB; a literal: Cython cannot evaluate 1 << 26 under overflowcheck

cdef enum Phase:
    PHASE_HEADER = 0       # filling ``block``
    PHASE_SKIP = 1         # ``left`` bytes of payload, ``pad`` of padding
    PHASE_BODY = 2         # ``left`` bytes of an extended header to append to the scratch buffer
    PHASE_MAP = 3          # the sparse map at the beginning of a payload
    PHASE_EXTENSION = 4    # filling ``block`` with an old GNU sparse extension
    PHASE_MEMBER = 5       # the member whose header is ``head`` waits for its row
    PHASE_END = 6

cdef struct Span:
    # a body in the scratch buffer
    int64_t off
    int64_t len
    int64_t stream_off     # where it stood in the stream
    int64_t has            # 0: there is none

cdef struct ScanState:
    # All zeros at the start. What a caller may read: offset, n_entries, phase, fault*.
    int64_t offset         # in the uncompressed stream, of the next byte to take; at most 2**62
    int64_t n_entries
    int64_t left
    int64_t pad
    int64_t maybe          # the size that a member without payload stated
    int64_t header_off     # of the block being filled or last filled
    int64_t used           # bytes of scratch in use: global records, then what waits for its member
    int64_t global_len
    int64_t global_spent
    Span pax
    Span name
    Span link
    int64_t map_off        # sparse map in the scratch buffer: int64 pairs (offset, nbytes)
    int64_t map_n          # numbers of it so far
    int64_t map_want       # numbers to come to, -1 before the count was read
    int64_t map_value      # of the number being read
    int64_t map_taken      # bytes of the payload that the map took
    int64_t map_room       # bytes of the payload
    int64_t fault_off
    int64_t fault_value
    int64_t entry_off      # path of the member in hand, in the scratch buffer (entry_in 1); in block (2), in head (3)
    int64_t entry_len
    int32_t entry_in
    int32_t fault
    int32_t phase
    int32_t fill           # bytes of block
    int32_t body_kind      # type flag of the body being read
    int32_t map_digits
    int32_t os_errno
    int32_t spare
    uint8_t block[512]
    uint8_t head[512]

cdef struct ScanLimits:
    # fields of lamella.Limits
    int64_t entries
    int64_t pax_bytes
    int64_t xattrs         # of one entry, each spelling; other pax keywords likewise, but 256 at least
    int64_t sparse_entries
    int64_t path           # 65,535 at most

cdef struct Scan:
    # everything a core works on; the caller owns what it points to
    ScanState* s
    uint8_t* scratch
    Py_ssize_t scratch_cap
    Rows* r
    Py_ssize_t n_rows      # rows in use, <= r.cap
    Py_ssize_t arena_used  # <= r.arena_cap
    ScanLimits limits

cdef inline int scan_fail(ScanState* s, int fault, int64_t off, int64_t value) noexcept nogil:
    """Note the fault and return the verdict for it."""
    if fault == u.FAULT_SCRATCH:
        return SCAN_SCRATCH_FULL
    s.fault, s.fault_off, s.fault_value = fault, off, value
    if fault >= u.FAULT_ENTRIES:
        return st.OVER_LIMIT
    return st.TRUNCATED if fault >= u.FAULT_CUT_HEADER else st.BAD_FORMAT

cdef inline int scan_fill(ScanState* s, const uint8_t* p, Py_ssize_t n, Py_ssize_t* at) noexcept nogil:
    """Fill the block from ``p[at:n]``; OK when it is full, else NEED_INPUT."""
    cdef Py_ssize_t take = u.BLOCK - s.fill
    if take > n - at[0]:
        take = n - at[0]
    if s.fill == 0:
        s.header_off = s.offset
        if s.phase == PHASE_HEADER:
            s.entry_in = 0
    memcpy(s.block + s.fill, p + at[0], take)
    s.fill += take
    s.offset += take
    at[0] += take
    return st.OK if s.fill == u.BLOCK else st.NEED_INPUT

cdef inline Py_ssize_t scan_skip(ScanState* s, Py_ssize_t n) noexcept nogil:
    """Pass over payload and padding, ``n`` bytes at most; return how many."""
    cdef int64_t payload = s.left if s.left < n else n
    cdef int64_t padding = s.pad if s.pad < n - payload else n - payload
    s.left -= payload
    s.pad -= padding
    s.offset += payload + padding
    return payload + padding
