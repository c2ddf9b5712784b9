"""Rows and source streams -> a tar stream. See splice.pxd."""
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcpy, memset
from lamella._kernels._rows cimport Rows, rows_acquire, rows_release
from lamella._kernels._status cimport AT_END, BAD_FORMAT, NEED_INPUT, OK, OUTPUT_FULL, SPECIAL, Status
from lamella._kernels.tarform cimport FAULT_ARENA, Fault, Form, form_core, form_raise

cdef enum:
    BLOCK = 512

cdef int64_t MAX_OFF = 0x7FFFFFFFFFFFFFFF

STATE_ITEMS = sizeof(Splice) // 8
FULL, MORE, DONE, HEAD = OUTPUT_FULL, NEED_INPUT, AT_END, SPECIAL


cdef Status _begin(const Rows* r, const int64_t* rows, const int64_t* offs, Splice* s, Form* f, uint8_t* head,
                   Py_ssize_t head_cap) noexcept nogil:
    """Form the headers of the next row."""
    cdef int64_t row = rows[s.next_idx]
    cdef Py_ssize_t n
    f.fault = FAULT_ARENA
    if row < 0 or row >= r.cap:
        return BAD_FORMAT
    f.link_row = -1
    n = form_core(r, <Py_ssize_t>row, f, head, head_cap)
    if n == OUTPUT_FULL:
        return SPECIAL
    if n < BLOCK:
        return BAD_FORMAT
    s.off, s.left = offs[s.next_idx], f.payload
    if s.left and (s.off < 0 or s.off > MAX_OFF - s.left):
        f.fault = <Fault>0
        return BAD_FORMAT
    s.head_off, s.head_end = 0, n
    s.pad = -s.left & (BLOCK - 1)
    s.next_idx += 1
    return OK


cdef inline Py_ssize_t _least(int64_t a, int64_t b) noexcept nogil:
    return <Py_ssize_t>(a if a < b else b)


cdef Status splice_core(const Rows* r, const int64_t* rows, const int64_t* offs, Py_ssize_t end, Splice* s, Form* f,
                        uint8_t* head, Py_ssize_t head_cap, const uint8_t* chunk, int64_t chunk_off, Py_ssize_t n_chunk,
                        uint8_t* out, Py_ssize_t cap, Py_ssize_t* used) noexcept nogil:
    cdef Py_ssize_t n, room
    cdef int64_t at
    cdef Status status
    while True:
        room = cap - used[0]
        if room == 0 and (s.head_off < s.head_end or s.left or s.pad or s.next_idx < end):
            return OUTPUT_FULL
        if s.head_off < s.head_end:
            n = _least(s.head_end - s.head_off, room)
            memcpy(out + used[0], head + s.head_off, n)
            s.head_off += n
        elif s.left:
            at = s.off - chunk_off
            if at < 0:
                f.fault = <Fault>0
                return BAD_FORMAT
            if at >= n_chunk:
                return NEED_INPUT
            n = _least(_least(n_chunk - at, s.left), room)
            memcpy(out + used[0], chunk + at, n)
            s.off += n
            s.left -= n
        elif s.pad:
            n = _least(s.pad, room)
            memset(out + used[0], 0, n)
            s.pad -= n
        elif s.next_idx < end:
            n = 0
            status = _begin(r, rows, offs, s, f, head, head_cap)
            if status != OK:
                return status
        else:
            return AT_END
        used[0] += n


cdef int _load(Splice* s, int64_t[::1] state, Py_ssize_t end, Py_ssize_t head_cap) except -1:
    if state.shape[0] * 8 != sizeof(Splice):
        raise ValueError(f"a state has {sizeof(Splice) // 8} items, not {state.shape[0]}")
    memcpy(s, &state[0], sizeof(Splice))
    if (s.next_idx < 0 or s.next_idx > end or s.head_off < 0 or s.head_end < s.head_off or s.head_end > head_cap
            or s.off < -1 or s.left < 0 or s.off > MAX_OFF - s.left or s.pad < 0):
        raise ValueError("not the state of this stream")
    return 0


def splice(tuple columns not None, const int64_t[::1] rows not None, const int64_t[::1] offs not None, Py_ssize_t end,
           int64_t[::1] state not None, const uint8_t[::1] chunk not None, int64_t chunk_off, uint8_t[::1] out not None,
           uint8_t[::1] head not None, clamp_mtime=None, bint libarchive_xattr=False, bint sparse=False):
    """Fill ``out`` with the next bytes of the tar of ``rows[:end]``, content from ``chunk`` of the source stream.

    ``offs``: the offset in the source of each item's content, -1 for none. ``state`` is STATE_ITEMS of int64 zeros, the
    first of them the item to begin at; with ``head`` (the headers of one row) it makes the stream resumable at any byte.
    Return (nbytes, verdict): FULL; MORE, for the source's next chunk; HEAD, to go on with a larger ``head``; DONE.
    ValueError where an offset lies before the chunk, and as tarform.form; FormatError for a row that tar cannot hold.
    """
    cdef Rows r
    cdef Form f
    cdef Splice s
    cdef Py_ssize_t used = 0
    cdef Status status
    cdef const uint8_t* p_chunk = &chunk[0] if chunk.shape[0] else NULL
    cdef uint8_t* p_out = &out[0] if out.shape[0] else NULL
    cdef const int64_t* p_rows = &rows[0] if rows.shape[0] else NULL
    cdef const int64_t* p_offs = &offs[0] if offs.shape[0] else NULL
    if (end < 0 or end > rows.shape[0] or offs.shape[0] != rows.shape[0] or chunk_off < 0
            or chunk_off > MAX_OFF - chunk.shape[0] or head.shape[0] < BLOCK):
        raise ValueError("as many offsets as rows, and a head of 512 bytes at least")
    _load(&s, state, end, head.shape[0])
    memset(&f, 0, sizeof(Form))
    f.has_clamp = clamp_mtime is not None
    f.clamp_mtime = clamp_mtime if f.has_clamp else 0
    f.libarchive_xattr, f.sparse, f.n_uncarried = libarchive_xattr, sparse, s.n_uncarried
    rows_acquire(&r, columns, False)
    try:
        with nogil:
            status = splice_core(&r, p_rows, p_offs, end, &s, &f, &head[0], head.shape[0], p_chunk, chunk_off,
                                 chunk.shape[0], p_out, out.shape[0], &used)
        s.n_uncarried = f.n_uncarried
        memcpy(&state[0], &s, sizeof(Splice))
        if status == BAD_FORMAT and <int>f.fault == 0:
            raise ValueError(f"content at {s.off} is not in what comes from {chunk_off} on")
        if status == BAD_FORMAT:
            form_raise(&r, <Py_ssize_t>rows[s.next_idx], f.fault)
    finally:
        rows_release(&r)
    return used, status
