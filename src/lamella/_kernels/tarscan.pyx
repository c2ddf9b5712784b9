"""Scan a tar stream into a table; tarscan.pxd says what is read and how."""
from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcpy, memset, strerror
from posix.stat cimport S_ISREG, fstat, struct_stat
from posix.unistd cimport pread
from lamella._kernels cimport _status as st
from lamella._kernels cimport _ustar as u
from lamella._kernels._cursor cimport Slice, slice_of, slice_text
from lamella._kernels._emit cimport emit
from lamella._kernels._number cimport number_field
from lamella._kernels._pax cimport KW_SP_MAP, N_KEYWORDS, Extras, pax_apply, pax_check, pax_collect
from lamella._kernels._rows cimport Rows, rows_acquire, rows_release
from lamella._kernels._scan cimport (FAR, GLOBAL_BUDGET, PHASE_BODY, PHASE_END, PHASE_EXTENSION, PHASE_HEADER, PHASE_MAP,
                                     PHASE_MEMBER, PHASE_SKIP, SCAN_SCRATCH_FULL, WINDOW, Scan, ScanState, Span, scan_fail,
                                     scan_fill, scan_skip)
from lamella._kernels._sparse cimport map_begin, map_check, map_from_records, map_take, old_sparse, old_sparse_begin

from lamella.errors import LimitExceededError, TarFormatError, TruncatedError

STATE_NBYTES: int = sizeof(ScanState)
NEED_INPUT: int = st.NEED_INPUT
OUTPUT_FULL: int = st.OUTPUT_FULL
AT_END: int = st.AT_END
SCRATCH_FULL: int = SCAN_SCRATCH_FULL

_SENTENCES = (
    "no fault", "bad checksum", "unknown type flag", "unsupported type flag", "malformed mode", "malformed uid",
    "malformed gid", "malformed size", "malformed mtime", "malformed atime", "malformed device number", "malformed pax record",
    "NUL in a pax name", "global pax header gives a size", "two extended headers of one kind", "misplaced global pax header",
    "no member after an extended header", "malformed sparse map", "unknown sparse format", "malformed extended attribute",
    "input ends inside a header", "input ends inside an extended header", "input ends inside a payload",
    "input ends before the member of an extended header", "entries", "pax_bytes", "xattrs", "sparse_entries", "path",
)


cdef int64_t _padding(int64_t n) noexcept nogil:
    return -n & (u.BLOCK - 1)


cdef bint _pending(const ScanState* s) noexcept nogil:
    return s.pax.has or s.name.has or s.link.has


cdef bint _span_ok(const Span* b, const ScanState* s) noexcept nogil:
    return b.has == 0 or (b.off >= 0 and b.len >= 0 and b.len <= s.used and b.off <= s.used - b.len)


cdef Span* _body(ScanState* s) noexcept nogil:
    # where the body being read is noted; a global one has no place of its own
    return &s.pax if s.body_kind == 120 else &s.name if s.body_kind == 76 else &s.link


cdef bint state_ok(ScanState* s, Py_ssize_t scratch_cap) noexcept nogil:
    cdef bint ok = s.offset >= 0 and s.offset <= FAR and s.left >= 0 and s.left <= FAR and s.pad >= 0 and s.pad < u.BLOCK
    ok = ok and s.fill >= 0 and s.fill <= u.BLOCK and s.used >= 0 and s.used <= scratch_cap
    ok = ok and s.maybe >= 0 and s.maybe <= FAR and s.global_len >= 0 and s.global_len <= s.used
    ok = ok and _span_ok(&s.pax, s) and _span_ok(&s.name, s) and _span_ok(&s.link, s)
    ok = ok and s.global_spent >= 0 and s.global_spent <= FAR and s.n_entries >= 0 and s.n_entries <= FAR
    if s.phase == PHASE_BODY:
        return ok and s.left <= scratch_cap - s.used and (s.body_kind == 103 or _body(s).has != 0)
    if s.phase == PHASE_MAP or s.phase == PHASE_EXTENSION or s.phase == PHASE_MEMBER:
        ok = ok and s.map_n >= 0 and s.map_n <= s.used and s.map_off == s.used - 8 * s.map_n and s.map_off >= 0
        ok = ok and s.map_taken >= 0 and s.map_taken <= s.map_room and s.map_room <= FAR and s.map_value >= 0
    if s.phase == PHASE_MAP:
        ok = ok and s.map_want <= scratch_cap and s.map_n <= (s.map_want if s.map_want >= 0 else 0)
        ok = ok and (s.map_want - s.map_n) * 8 <= scratch_cap - s.used
    return ok and s.phase >= PHASE_HEADER and s.phase <= PHASE_END


cdef int _begin_body(Scan* o, const uint8_t* h) noexcept nogil:
    # an extended header: its body goes to the scratch buffer
    cdef ScanState* s = o.s
    cdef int64_t size = -1
    cdef Span* span
    s.body_kind = 120 if h[156] == 88 else h[156]
    span = _body(s)
    if number_field(h + 124, 12, &size) < 0 or size < 0:
        return scan_fail(s, u.FAULT_SIZE, s.header_off, 0)
    if s.body_kind == 103 and _pending(s):
        return scan_fail(s, u.FAULT_ORDER, s.header_off, 0)
    if s.body_kind != 103 and span.has:
        return scan_fail(s, u.FAULT_TWICE, s.header_off, 0)
    if size > o.limits.pax_bytes or (s.body_kind == 103 and size > o.limits.pax_bytes - s.global_len):
        return scan_fail(s, u.FAULT_PAX_BYTES, s.header_off, size)
    if size > o.scratch_cap - s.used:
        return SCAN_SCRATCH_FULL
    if s.body_kind != 103:
        span.off, span.len, span.has, span.stream_off = s.used, 0, 1, s.offset
    s.phase, s.fill, s.left, s.pad = PHASE_BODY, 0, size, _padding(size)
    return st.OK


cdef int _end_body(Scan* o) noexcept nogil:
    # the body is complete: s.used is its end
    cdef ScanState* s = o.s
    cdef Span* span = _body(s)
    cdef Py_ssize_t at = 0
    cdef int fault = u.FAULT_NONE
    cdef int64_t begin = s.global_len if s.body_kind == 103 else span.off
    cdef int64_t n = s.used - begin
    if s.body_kind == 103 or s.body_kind == 120:
        fault = pax_check(slice_of(o.scratch + begin, n), s.body_kind == 103, &at)
    if fault != u.FAULT_NONE:
        return scan_fail(s, fault, s.offset - n + at, 0)
    if s.body_kind == 103:
        s.global_len = s.used = begin + at      # without NULs that follow the last record
    else:
        span.len = n
    s.phase = PHASE_SKIP
    return st.OK


cdef int _header(Scan* o) noexcept nogil:
    # s.block is full
    cdef ScanState* s = o.s
    cdef const uint8_t* h = s.block
    cdef uint8_t flag = h[156]
    cdef int64_t after
    if u.block_is_zero(h):
        if _pending(s):
            return scan_fail(s, u.FAULT_ALONE, s.header_off, 0)
        s.phase = PHASE_END
        return st.OK
    if not u.checksum_ok(h):
        if s.maybe == 0:
            return scan_fail(s, u.FAULT_CHECKSUM, s.header_off, 0)
        # the member before had a payload after all, and this was its first block
        after = s.maybe + _padding(s.maybe) - u.BLOCK
        s.left = s.maybe - u.BLOCK if s.maybe > u.BLOCK else 0
        s.pad, s.maybe, s.fill, s.phase = after - s.left, 0, 0, PHASE_SKIP
        return st.OK
    s.maybe, s.entry_in = 0, 2
    if flag == 120 or flag == 103 or flag == 88 or flag == 76 or flag == 75:        # x g X L K
        return _begin_body(o, h)
    if flag == 83:                                                                  # S
        return old_sparse_begin(o, h)
    if flag == 86 or flag == 77 or flag == 68:                                      # V M D
        return scan_fail(s, u.FAULT_UNSUPPORTED, s.header_off, flag)
    if flag != 0 and (flag < 48 or flag > 55):
        return scan_fail(s, u.FAULT_TYPE, s.header_off, flag)
    return _member(o, h, False)


cdef uint8_t _kind(const u.Member* m) noexcept nogil:
    # v7 knows directories by their slash; all readers extend that to its type flag, NUL (tests/contract 36)
    cdef const Slice* full = &m.name if m.name.n else &m.prefix
    if m.flag != 0 and m.flag != 48 and m.flag != 55 and m.flag != 83:
        return m.flag
    if full.n and full.p[full.n - 1] == 47 and (m.flag == 0 or m.format == u.V7):
        return 53
    return 48


cdef int _records(Scan* o, u.Member* m, Extras* x, Slice* kw) noexcept nogil:
    # global and local pax records over the header; returns a verdict
    cdef ScanState* s = o.s
    cdef Py_ssize_t at = 0
    cdef int fault
    memset(kw, 0, N_KEYWORDS * sizeof(Slice))
    if (s.global_spent - GLOBAL_BUDGET) // 8 > s.offset:
        return scan_fail(s, u.FAULT_PAX_BYTES, s.header_off, s.global_spent)
    fault = pax_collect(slice_of(o.scratch, s.global_len), kw, x, &at)
    if fault != u.FAULT_NONE:
        return scan_fail(s, fault, s.header_off, x.limit + 1)
    if s.pax.has:
        fault = pax_collect(slice_of(o.scratch + s.pax.off, s.pax.len), kw, x, &at)
        if fault != u.FAULT_NONE:
            return scan_fail(s, fault, s.pax.stream_off + at, x.limit + 1)
    fault = pax_apply(kw, m)
    return st.OK if fault == u.FAULT_NONE else scan_fail(s, fault, s.pax.stream_off if s.pax.has else s.header_off, 0)


cdef void _name_entry(Scan* o, const uint8_t* h, const Slice* name) noexcept nogil:
    # remember the path for error messages
    cdef ScanState* s = o.s
    s.entry_in = 2 if h == s.block else 3
    if name.p >= o.scratch and name.p < o.scratch + o.scratch_cap:
        s.entry_in, s.entry_off, s.entry_len = 1, name.p - o.scratch, name.n


cdef int _resolve(Scan* o, const uint8_t* h, u.Member* m, Extras* x, Slice* kw) noexcept nogil:
    # all that is known of the member whose header is h; returns a verdict
    cdef ScanState* s = o.s
    cdef int rc
    cdef int fault = u.member_read(h, m)
    if fault != u.FAULT_NONE:
        return scan_fail(s, fault, s.header_off, 0)
    if s.name.has:
        m.prefix.n = 0
        m.name = slice_text(o.scratch + s.name.off, s.name.len)
    if s.link.has:
        m.link = slice_text(o.scratch + s.link.off, s.link.len)
    if m.flag == 83:
        m.sparse = u.SPARSE_STORED
        if number_field(h + 483, 12, &m.real_size) < 0 or m.real_size < 0:
            return scan_fail(s, u.FAULT_SIZE, s.header_off, 0)
    if s.global_len or s.pax.has:
        rc = _records(o, m, x, kw)
        if rc != st.OK:
            return rc
    _name_entry(o, h, &m.name)
    m.kind = _kind(m)
    fault = (u.FAULT_UID if m.uid < 0 or m.uid > 0xFFFFFFFFLL else u.FAULT_GID if m.gid < 0 or m.gid > 0xFFFFFFFFLL else
             u.FAULT_SIZE if m.size > FAR - u.BLOCK - s.offset else
             u.FAULT_DEVICE if m.major < 0 or m.major > 0xFFFFFFFFLL or m.minor < 0 or m.minor > 0xFFFFFFFFLL else
             u.FAULT_SPARSE if m.sparse and m.kind != 48 else u.FAULT_NONE)
    if fault != u.FAULT_NONE:
        return scan_fail(s, fault, s.header_off, 0)
    if m.prefix.n + m.name.n > o.limits.path:
        return scan_fail(s, u.FAULT_PATH, s.header_off, m.prefix.n + m.name.n)
    if m.link.n > o.limits.path and (m.kind == 49 or m.kind == 50):
        return scan_fail(s, u.FAULT_PATH, s.header_off, m.link.n)
    if s.n_entries >= o.limits.entries:
        return scan_fail(s, u.FAULT_ENTRIES, s.header_off, s.n_entries + 1)
    return st.OK


cdef void _forget(ScanState* s) noexcept nogil:
    # the member has its row: what waited for it is void
    s.n_entries += 1
    s.global_spent += s.global_len
    s.pax.has = s.name.has = s.link.has = 0
    s.used, s.fill, s.phase = s.global_len, 0, PHASE_HEADER


cdef int _member(Scan* o, const uint8_t* h, bint mapped) noexcept nogil:
    # the headers are complete; ``mapped``: so is the sparse map
    cdef ScanState* s = o.s
    cdef u.Member m
    cdef Extras x
    cdef Slice kw[N_KEYWORDS]
    cdef Slice map
    cdef int64_t off = s.map_off, n = s.map_n
    cdef int rc
    x.scratch, x.cap, x.low, x.limit = o.scratch, o.scratch_cap, s.used, o.limits.xattrs
    x.top = o.scratch + o.scratch_cap - (<size_t>(o.scratch + o.scratch_cap) & 7)
    x.n_items = x.n_kind[0] = x.n_kind[1] = x.n_kind[2] = 0
    rc = _resolve(o, h, &m, &x, kw)
    if rc != st.OK:
        return rc
    map = slice_of(NULL, 0)
    if m.sparse:
        if m.sparse == u.SPARSE_PAYLOAD:
            if not mapped:
                return map_begin(s, h, m.size)
            m.size -= s.map_taken
        rc = u.FAULT_NONE
        if m.sparse == u.SPARSE_RECORDS:
            off, n = x.low, 0
            rc = map_from_records(slice_of(o.scratch + s.pax.off, s.pax.len), kw[KW_SP_MAP], &x, &n)
        if rc == u.FAULT_NONE:
            rc = u.FAULT_SPARSE_ENTRIES if n // 2 > o.limits.sparse_entries else map_check(o.scratch + off, &n, &m)
        if rc != u.FAULT_NONE:
            return scan_fail(s, rc, s.header_off, n // 2)
        map = slice_of(o.scratch + off, 8 * n)
    rc = emit(o, &m, &x, &map)
    if rc != st.OK:
        return rc
    _forget(s)
    if m.kind != 48:
        s.maybe = m.size
    elif m.size:
        s.left, s.pad, s.phase = m.size, _padding(m.size), PHASE_SKIP
    return st.OK


cdef int _take_body(Scan* o, const uint8_t* p, Py_ssize_t n, Py_ssize_t* at) noexcept nogil:
    cdef ScanState* s = o.s
    cdef Py_ssize_t take = s.left if s.left < n - at[0] else n - at[0]
    memcpy(o.scratch + s.used, p + at[0], take)
    s.used += take
    s.left -= take
    s.offset += take
    at[0] += take
    return st.NEED_INPUT if s.left else _end_body(o)


cdef int scan_core(Scan* o, const uint8_t* p, Py_ssize_t n, Py_ssize_t* at) noexcept nogil:
    cdef ScanState* s = o.s
    cdef int rc = st.OK
    if n - at[0] > FAR - s.offset:
        return scan_fail(s, u.FAULT_SIZE, s.offset, 0)
    # what the table's columns can hold
    o.limits.path = min(o.limits.path, 0xFFFF)
    o.limits.pax_bytes = min(o.limits.pax_bytes, <int64_t>1 << 31)
    o.limits.sparse_entries = min(o.limits.sparse_entries, <int64_t>1 << 27)
    while rc == st.OK:
        if s.phase == PHASE_HEADER:
            rc = scan_fill(s, p, n, at)
            if rc == st.OK:
                rc = _header(o)
        elif s.phase == PHASE_SKIP:
            at[0] += scan_skip(s, n - at[0])
            if s.left or s.pad:
                return st.NEED_INPUT
            s.phase = PHASE_HEADER
        elif s.phase == PHASE_BODY:
            rc = _take_body(o, p, n, at)
        elif s.phase == PHASE_MAP:
            rc = map_take(o, p, n, at)
        elif s.phase == PHASE_EXTENSION:
            rc = scan_fill(s, p, n, at)
            if rc == st.OK:
                rc = old_sparse(o, s.block, 21)
        elif s.phase == PHASE_MEMBER:
            rc = _member(o, s.head, True)
        else:
            s.offset += n - at[0]
            at[0] = n
            return st.AT_END
    return rc


cdef int scan_fd_core(Scan* o, int fd, int64_t base, int64_t nbytes) noexcept nogil:
    cdef ScanState* s = o.s
    cdef uint8_t window[WINDOW]
    cdef Py_ssize_t at, got
    cdef int rc
    while True:
        if s.phase == PHASE_SKIP and s.offset < nbytes:
            scan_skip(s, nbytes - s.offset)
        got = pread(fd, window, WINDOW, base + s.offset)
        if got < 0:
            if errno == EINTR:
                continue
            s.os_errno = errno
            return st.OS_ERROR
        at = 0
        rc = scan_core(o, window, got, &at)
        if rc != st.NEED_INPUT or got == 0:
            return rc


cdef int finish_core(ScanState* s) noexcept nogil:
    if s.phase == PHASE_END:
        return st.OK
    if s.phase == PHASE_MEMBER or s.fill == u.BLOCK:
        return st.OUTPUT_FULL
    if s.phase == PHASE_BODY or s.phase == PHASE_EXTENSION:
        return scan_fail(s, u.FAULT_CUT_BODY, s.offset, 0)
    if s.phase == PHASE_MAP or (s.phase == PHASE_SKIP and (s.left or s.pad)):
        return scan_fail(s, u.FAULT_CUT_PAYLOAD, s.offset, 0)
    if s.fill:
        return scan_fail(s, u.FAULT_CUT_HEADER, s.offset, 0)
    return scan_fail(s, u.FAULT_CUT_MEMBER, s.offset, 0) if _pending(s) else st.OK


cdef object _entry(ScanState* s, const uint8_t* scratch, Py_ssize_t scratch_cap):
    # the normalised path of the member in hand, None before it is known
    cdef const uint8_t* h = s.block
    cdef u.Member m
    path = b""
    if s.entry_in == 1:
        if s.entry_off < 0 or s.entry_len < 0 or s.entry_off > scratch_cap - s.entry_len:
            return None
        path = scratch[s.entry_off:s.entry_off + min(s.entry_len, 4096)]
    elif s.entry_in == 2 or s.entry_in == 3:
        if s.entry_in == 3:
            h = s.head
        u.member_read(h, &m)
        path = m.prefix.p[:m.prefix.n] + b"/" + m.name.p[:m.name.n] if m.prefix.n else m.name.p[:m.name.n]
    else:
        return None
    return b"/".join([part for part in path.split(b"/") if part not in (b"", b".")])


cdef object _error(ScanState* s, int rc, const uint8_t* scratch, Py_ssize_t scratch_cap):
    # the exception for a negative verdict
    if rc == st.OS_ERROR:
        return OSError(s.os_errno, strerror(s.os_errno).decode())
    entry = _entry(s, scratch, scratch_cap)
    sentence = _SENTENCES[s.fault]
    if rc == st.OVER_LIMIT:
        return LimitExceededError(sentence, s.fault_value, entry=entry)
    if s.fault == u.FAULT_TYPE or s.fault == u.FAULT_UNSUPPORTED:
        sentence = f"{sentence} {chr(s.fault_value)!r}"
    return (TruncatedError if rc == st.TRUNCATED else TarFormatError)(sentence, offset=s.fault_off, entry=entry)


cdef int _load(ScanState* s, const uint8_t[::1] state, Py_ssize_t scratch_cap) except -1:
    if state.shape[0] != sizeof(ScanState):
        raise ValueError(f"a state has {sizeof(ScanState)} bytes, not {state.shape[0]}")
    memcpy(s, &state[0], sizeof(ScanState))
    if not state_ok(s, scratch_cap):
        raise ValueError("the state is not one that a scan left, or the scratch buffer is not the one it used")
    return 0


cdef int _open(Scan* o, ScanState* s, Rows* r, const uint8_t[::1] state, uint8_t[::1] scratch, tuple columns,
               Py_ssize_t n_rows, Py_ssize_t arena_used, const int64_t[::1] limits) except -1:
    # check the arguments; the columns are acquired when this succeeds
    if limits.shape[0] != 5:
        raise ValueError(f"there are 5 limits, not {limits.shape[0]}")
    _load(s, state, scratch.shape[0])
    o.s, o.r = s, r
    o.scratch, o.scratch_cap = (&scratch[0] if scratch.shape[0] else <uint8_t*>s), scratch.shape[0]
    o.n_rows, o.arena_used = n_rows, arena_used
    memcpy(&o.limits, &limits[0], sizeof(o.limits))
    rows_acquire(r, columns, True)
    if n_rows < 0 or n_rows > r.cap or arena_used < 0 or arena_used > r.arena_cap:
        rows_release(r)
        raise ValueError(f"{n_rows} rows and {arena_used} arena bytes in use, of {r.cap} and {r.arena_cap}")
    return 0


def scan(const uint8_t[::1] buf not None, Py_ssize_t begin, uint8_t[::1] state not None, uint8_t[::1] scratch not None,
         tuple columns not None, Py_ssize_t n_rows, Py_ssize_t arena_used, const int64_t[::1] limits not None):
    """Scan ``buf[begin:]`` and return (end, n_rows, arena_used, verdict).

    ``state`` is STATE_NBYTES bytes, zeros at the start. ``limits``: entries, pax_bytes, xattrs, sparse_entries, path.
    TarFormatError, TruncatedError, LimitExceededError as tarscan.pxd says, with the offset in the stream.
    """
    cdef Scan o
    cdef ScanState s
    cdef Rows r
    cdef Py_ssize_t n = buf.shape[0], at = begin
    cdef const uint8_t* p = &buf[0] if n else <const uint8_t*>b""
    cdef int rc
    if begin < 0 or begin > n:
        raise ValueError(f"begin {begin} of {n} bytes")
    _open(&o, &s, &r, state, scratch, columns, n_rows, arena_used, limits)
    with nogil:
        rc = scan_core(&o, p, n, &at)
    rows_release(&r)
    memcpy(&state[0], &s, sizeof(s))
    if rc < 0:
        raise _error(&s, rc, o.scratch, o.scratch_cap)
    return at, o.n_rows, o.arena_used, rc


def scan_fd(int fd, uint8_t[::1] state not None, uint8_t[::1] scratch not None, tuple columns not None, Py_ssize_t n_rows,
            Py_ssize_t arena_used, const int64_t[::1] limits not None, int64_t base=0):
    """Scan the tar that begins at ``base`` of a regular file without reading payload; (n_rows, arena_used, verdict).

    NEED_INPUT means the end of the file: finish() then tells whether the tar may end there. Errors as scan(), and OSError.
    """
    cdef Scan o
    cdef ScanState s
    cdef Rows r
    cdef struct_stat about
    cdef int rc
    if fstat(fd, &about) < 0:
        raise OSError(errno, strerror(errno).decode())
    if not S_ISREG(about.st_mode) or base < 0:
        raise ValueError("not a regular file, or a base below 0")
    _open(&o, &s, &r, state, scratch, columns, n_rows, arena_used, limits)
    with nogil:
        rc = scan_fd_core(&o, fd, base, about.st_size - base)
    rows_release(&r)
    memcpy(&state[0], &s, sizeof(s))
    if rc < 0:
        raise _error(&s, rc, o.scratch, o.scratch_cap)
    return o.n_rows, o.arena_used, rc


def finish(const uint8_t[::1] state not None, const uint8_t[::1] scratch not None):
    """Raise TruncatedError if a stream that ends here is cut short; ValueError if a row still waits for room."""
    cdef ScanState s
    cdef int rc
    _load(&s, state, scratch.shape[0])
    rc = finish_core(&s)
    if rc == st.OUTPUT_FULL:
        raise ValueError("a row waits for room")
    if rc < 0:
        raise _error(&s, rc, &scratch[0] if scratch.shape[0] else <const uint8_t*>b"", scratch.shape[0])


def offset(const uint8_t[::1] state not None):
    """Return the offset in the stream of the next byte to scan."""
    cdef ScanState s
    if state.shape[0] != sizeof(ScanState):
        raise ValueError(f"a state has {sizeof(ScanState)} bytes, not {state.shape[0]}")
    memcpy(&s, &state[0], sizeof(ScanState))
    return s.offset
