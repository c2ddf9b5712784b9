"""Maps as extents: see extents.pxd for the contract."""
from libc.stdint cimport int64_t, uint64_t
from lamella._kernels._status cimport OK, OUTPUT_FULL

SWEEP_WORDS = sizeof(Sweep) // 8

cdef enum:
    LANES = 32               # searches that wait for memory together
    STRIDE = 8               # rows compared in one go

cdef extern from *:
    """
    #define lam_prefetch(p) __builtin_prefetch(p)
    """
    void prefetch "lam_prefetch"(const void* p) noexcept nogil


# -- lookup --------------------------------------------------------------------------------------------------------

cdef Py_ssize_t _gallop(const Map* m, Py_ssize_t at, int64_t block) noexcept nogil:
    """Return a row behind the last that begins at ``block`` or before, by steps that double; ``at`` is no such row."""
    cdef Py_ssize_t step = 1
    while at < m.n and m.thin[at] <= block:
        at += step
        step *= 2
    return min(at, m.n)


cdef void _search(const Map* m, Py_ssize_t low, Py_ssize_t high, const int64_t* blocks, Py_ssize_t* rows) noexcept nogil:
    """Find for each of LANES blocks the last row of [low, high) that begins at it or before; ``low`` where there is none.

    Every search takes the same steps, so none waits for a branch, and all wait for memory at once.
    """
    cdef Py_ssize_t size = high - low, half, next
    cdef Py_ssize_t k
    for k in range(<Py_ssize_t>LANES):
        rows[k] = low
    while size > 1:
        half = size // 2
        size -= half
        next = size // 2
        for k in range(<Py_ssize_t>LANES):
            rows[k] += half & -<Py_ssize_t>(m.thin[rows[k] + half] <= blocks[k])
            prefetch(m.thin + rows[k] + next)
    for k in range(<Py_ssize_t>LANES):
        prefetch(m.length + rows[k])
        prefetch(m.data + rows[k])
        prefetch(m.time + rows[k])


cdef void look_up(const Map* m, const int64_t* blocks, Py_ssize_t n, int64_t* data, int64_t* time) noexcept nogil:
    cdef int64_t wanted[LANES]
    cdef Py_ssize_t rows[LANES]
    cdef Py_ssize_t at = 0, k, lanes, row = 0, low = 0, high
    cdef int64_t last = -1
    cdef uint64_t inside = 0
    cdef bint ascending, is_in
    while at < n:
        lanes = min(n - at, <Py_ssize_t>LANES)
        wanted[0] = blocks[at]
        ascending = last <= wanted[0]
        for k in range(1, <Py_ssize_t>LANES):
            wanted[k] = blocks[at + k] if k < lanes else wanted[k - 1]
            ascending &= wanted[k - 1] <= wanted[k]
        low = low if ascending else 0
        high = _gallop(m, low, wanted[lanes - 1]) if ascending else m.n
        last = wanted[lanes - 1] if ascending else <int64_t>(-1)
        if m.n:
            _search(m, low, high, wanted, rows)
            low = rows[lanes - 1] if ascending else 0
        for k in range(lanes):
            is_in = False
            if m.n:
                row = rows[k]
                inside = <uint64_t>wanted[k] - <uint64_t>m.thin[row]
                is_in = wanted[k] >= 0 and inside < <uint64_t>m.length[row]
            data[at + k] = <int64_t>(<uint64_t>m.data[row] + inside) if is_in else <int64_t>(-1)
            if time != NULL:
                time[at + k] = m.time[row] if is_in else <int64_t>(-1)
        at += lanes


# -- sweeps --------------------------------------------------------------------------------------------------------

cdef inline uint64_t _pos(const Map* m, const Place* at) noexcept nogil:
    return <uint64_t>m.thin[at.row] + at.used


cdef inline uint64_t _left(const Map* m, const Place* at) noexcept nogil:
    """Blocks of the row that are not done."""
    cdef uint64_t length = <uint64_t>m.length[at.row]
    return length - at.used if length > at.used else 0


cdef inline void _go(const Map* m, Place* at, uint64_t n) noexcept nogil:
    at.used += n
    if at.used >= <uint64_t>m.length[at.row]:
        at.row += 1
        at.used = 0


cdef inline bint _flush(Sweep* at, Runs* out) noexcept nogil:
    """Write the run that waits; False, and nothing is changed, where there is no room."""
    if at.length == 0:
        return True
    if out.n >= out.cap:
        return False
    if out.kind != NULL:
        out.kind[out.n] = at.kind
    out.begin[out.n] = <int64_t>at.begin
    out.length[out.n] = <int64_t>at.length
    out.left_data[out.n] = at.left_data
    out.right_data[out.n] = at.right_data
    out.n += 1
    at.length = 0
    return True


cdef inline bint _put(Sweep* at, uint64_t begin, uint64_t length, int64_t data, int64_t time, Runs* out) noexcept nogil:
    """Add a run of a spliced map; False, and nothing is changed, where there is no room."""
    if (at.length != 0 and begin == at.begin + at.length and time == at.right_data
            and <uint64_t>data == <uint64_t>at.left_data + at.length):
        at.length += length
        return True
    if not _flush(at, out):
        return False
    at.begin, at.length, at.left_data, at.right_data = begin, length, data, time
    return True


cdef void _pass(const Map* below, Place* at, uint64_t end) noexcept nogil:
    """Leave out what lies before ``end``."""
    while at.row < below.n and _pos(below, at) < end:
        _go(below, at, min(_left(below, at), end - _pos(below, at)))


cdef int splice_maps(const Map* below, const Map* above, Sweep* at, Runs* out) noexcept nogil:
    cdef Place* low = &at.left
    cdef Place* high = &at.right
    cdef uint64_t n
    while low.row < below.n or high.row < above.n:
        if low.row < below.n and (high.row >= above.n or _pos(below, low) < <uint64_t>above.thin[high.row]):
            n = _left(below, low)
            if high.row < above.n:
                n = min(n, <uint64_t>above.thin[high.row] - _pos(below, low))
            if n and not _put(at, _pos(below, low), n, <int64_t>(<uint64_t>below.data[low.row] + low.used),
                              below.time[low.row], out):
                return OUTPUT_FULL
            _go(below, low, n)
            continue
        n = <uint64_t>above.length[high.row]
        if above.data != NULL and n and not _put(at, <uint64_t>above.thin[high.row], n, above.data[high.row],
                                                 above.time[high.row], out):
            return OUTPUT_FULL
        _pass(below, low, <uint64_t>above.thin[high.row] + n)
        high.row += 1
    return OK if _flush(at, out) else OUTPUT_FULL


cdef Py_ssize_t _alike(const Map* left, const Map* right, int64_t i, int64_t j) noexcept nogil:
    """Count rows from ``i`` and ``j`` that are the same in both, by whole strides."""
    cdef Py_ssize_t n = 0, most = min(left.n - i, right.n - j), k
    cdef int64_t unlike
    while n + STRIDE <= most:
        unlike = 0
        for k in range(n, n + STRIDE):
            unlike |= ((left.thin[i + k] ^ right.thin[j + k]) | (left.data[i + k] ^ right.data[j + k])
                       | (left.length[i + k] ^ right.length[j + k]))
        if unlike:
            break
        n += STRIDE
    return n


cdef struct Piece:
    # blocks that lie within one row of each map, or of one where the other has none
    int64_t kind
    uint64_t begin
    uint64_t n
    int64_t left
    int64_t right


cdef inline void _piece(const Map* left, const Place* lp, const Map* right, const Place* rp, Piece* p) noexcept nogil:
    """Find the next piece; one of the maps has a row left."""
    cdef bint has_left = lp.row < left.n, has_right = rp.row < right.n
    cdef uint64_t lpos = _pos(left, lp) if has_left else 0, rpos = _pos(right, rp) if has_right else 0
    p.left = p.right = -1
    if has_left and (not has_right or lpos <= rpos):
        p.kind, p.begin, p.n = LEFT_ONLY, lpos, _left(left, lp)
        p.left = <int64_t>(<uint64_t>left.data[lp.row] + lp.used)
        if has_right and lpos < rpos:
            p.n = min(p.n, rpos - lpos)
        if not has_right or lpos < rpos:
            return
        p.right = <int64_t>(<uint64_t>right.data[rp.row] + rp.used)
        p.kind = SAME if p.left == p.right else DIFFERENT
        p.n = min(p.n, _left(right, rp))
        return
    p.kind, p.begin, p.n = RIGHT_ONLY, rpos, _left(right, rp)
    p.right = <int64_t>(<uint64_t>right.data[rp.row] + rp.used)
    if has_left:
        p.n = min(p.n, lpos - rpos)


cdef inline bint _add(Sweep* at, const Piece* p, bint join, Runs* out) noexcept nogil:
    """Add a piece of a delta; False, and nothing is changed, where there is no room."""
    if (at.length != 0 and p.kind == at.kind and p.begin == at.begin + at.length
            and (join or ((p.kind == RIGHT_ONLY or <uint64_t>p.left == <uint64_t>at.left_data + at.length)
                          and (p.kind == LEFT_ONLY or <uint64_t>p.right == <uint64_t>at.right_data + at.length)))):
        at.length += p.n
        return True
    if not _flush(at, out):
        return False
    at.kind, at.begin, at.length, at.left_data, at.right_data = p.kind, p.begin, p.n, p.left, p.right
    return True


cdef int classify_maps(const Map* left, const Map* right, bint join, bint same, Sweep* at, Runs* out) noexcept nogil:
    cdef Place* lp = &at.left
    cdef Place* rp = &at.right
    cdef Piece p
    cdef Py_ssize_t alike
    while lp.row < left.n or rp.row < right.n:
        _piece(left, lp, right, rp, &p)
        if p.kind == SAME and not same:
            if lp.used == 0 and rp.used == 0:
                alike = _alike(left, right, lp.row, rp.row)
                lp.row += alike
                rp.row += alike
                if alike:
                    continue
        elif p.n and not _add(at, &p, join, out):
            return OUTPUT_FULL
        if p.kind != RIGHT_ONLY:
            _go(left, lp, p.n)
        if p.kind != LEFT_ONLY:
            _go(right, rp, p.n)
    return OK if _flush(at, out) else OUTPUT_FULL


# -- the Python side -----------------------------------------------------------------------------------------------

cdef int _map(Map* m, const int64_t[::1] thin, const int64_t[::1] data, const int64_t[::1] length,
              const int64_t[::1] time) except -1:
    m.n = thin.shape[0]
    if (length.shape[0] != m.n or (data is not None and data.shape[0] != m.n)
            or (time is not None and time.shape[0] != m.n)):
        raise ValueError("columns of one map are of one length")
    m.thin = &thin[0] if m.n else NULL
    m.length = &length[0] if m.n else NULL
    m.data = &data[0] if m.n and data is not None else NULL
    m.time = &time[0] if m.n and time is not None else NULL
    return 0


cdef Sweep* _sweep(int64_t[::1] state) except NULL:
    cdef Sweep* at
    if state.shape[0] * 8 < <Py_ssize_t>sizeof(Sweep):
        raise ValueError(f"a state has {sizeof(Sweep) // 8} words")
    at = <Sweep*>&state[0]
    if at.left.row < 0 or at.right.row < 0:
        raise ValueError("not a state of this kernel")
    return at


cdef int _runs(Runs* out, int64_t[::1] begin, int64_t[::1] length, int64_t[::1] left, int64_t[::1] right) except -1:
    out.cap = begin.shape[0]
    out.n = 0
    if out.cap < 1 or length.shape[0] != out.cap or left.shape[0] != out.cap or right.shape[0] != out.cap:
        raise ValueError("output columns are of one length, at least 1")
    out.kind = NULL
    out.begin, out.length, out.left_data, out.right_data = &begin[0], &length[0], &left[0], &right[0]
    return 0


def lookup(const int64_t[::1] thin not None, const int64_t[::1] data not None, const int64_t[::1] length not None,
           const int64_t[::1] time, const int64_t[::1] blocks not None, int64_t[::1] data_out not None,
           int64_t[::1] time_out):
    """Write the data block (-1: not mapped) of each of ``blocks``, and its time unless ``time_out`` is None."""
    cdef Map m
    cdef Py_ssize_t n = blocks.shape[0]
    _map(&m, thin, data, length, time)
    if data_out.shape[0] != n or (time_out is not None and (time is None or time_out.shape[0] != n)):
        raise ValueError(f"{n} blocks want as many places")
    if n == 0:
        return
    with nogil:
        look_up(&m, &blocks[0], n, &data_out[0], &time_out[0] if time_out is not None else NULL)


def splice(const int64_t[::1] thin not None, const int64_t[::1] data not None, const int64_t[::1] length not None,
           const int64_t[::1] time not None, const int64_t[::1] thin_above not None, const int64_t[::1] data_above,
           const int64_t[::1] length_above not None, const int64_t[::1] time_above, int64_t[::1] state not None,
           int64_t[::1] thin_out not None, int64_t[::1] data_out not None, int64_t[::1] length_out not None,
           int64_t[::1] time_out not None):
    """Lay a map over another, or, where ``data_above`` is None, take its ranges out; return (rows written, all done?)."""
    cdef Map below, above
    cdef Runs out
    cdef Sweep* at = _sweep(state)
    cdef int got
    if (data_above is None) != (time_above is None):
        raise ValueError("ranges have neither data nor time")
    _map(&below, thin, data, length, time)
    _map(&above, thin_above, data_above, length_above, time_above)
    _runs(&out, thin_out, length_out, data_out, time_out)
    with nogil:
        got = splice_maps(&below, &above, at, &out)
    return out.n, got == OK


def classify(const int64_t[::1] thin not None, const int64_t[::1] data not None, const int64_t[::1] length not None,
             const int64_t[::1] thin_right not None, const int64_t[::1] data_right not None,
             const int64_t[::1] length_right not None, bint join, bint same, int64_t[::1] state not None,
             int64_t[::1] kind not None, int64_t[::1] begin not None, int64_t[::1] length_out not None,
             int64_t[::1] left not None, int64_t[::1] right not None):
    """Write what two maps have at the same blocks, as runs; return (rows written, all done?)."""
    cdef Map left_map, right_map
    cdef Runs out
    cdef Sweep* at = _sweep(state)
    cdef int got
    _map(&left_map, thin, data, length, None)
    _map(&right_map, thin_right, data_right, length_right, None)
    _runs(&out, begin, length_out, left, right)
    if kind.shape[0] != out.cap:
        raise ValueError("output columns are of one length, at least 1")
    out.kind = &kind[0]
    with nogil:
        got = classify_maps(&left_map, &right_map, join, same, at, &out)
    return out.n, got == OK
