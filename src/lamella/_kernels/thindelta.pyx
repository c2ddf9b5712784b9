"""Compare two trees of mappings: see thindelta.pxd for the contract."""
from libc.stdint cimport int64_t, uint8_t, uint64_t, uint32_t
from lamella._kernels._thinblocks cimport Meta, meta_acquire, meta_fail, meta_height, meta_raise
from lamella._kernels._thindisk cimport (
    FAULT_NONE, FAULT_VALUE, MAPPING_SIZE, NODE_INTERNAL, TIME_BITS, get64, node_flags, node_key,
    node_n, node_value)
from lamella._kernels._thinwalk cimport (
    KEY_MOST, Level, Walk, walk_acquire, walk_down, walk_enter, walk_node, walk_open, walk_release, walk_up)

CURSOR = sizeof(Delta) // 8
RIGHT = sizeof(Walk) // 8                # where the right walk begins


# -- runs ----------------------------------------------------------------------------------------------------------

cdef inline void _put(Rows* out, const Delta* d) noexcept nogil:
    out.kind[out.n], out.begin[out.n], out.length[out.n] = d.kind, d.begin, d.length
    out.left_begin[out.n], out.right_begin[out.n] = d.left_begin, d.right_begin
    out.n += 1


cdef inline bint _take(Delta* d, Rows* out, int64_t kind, int64_t key, int64_t left, int64_t right) noexcept nogil:
    """Add a block to the run, or begin another; False where there is no row for the one that ends."""
    if kind == d.kind and key - d.begin == d.length and d.length > 0 and (out.loose or (
            (left < 0 or left - d.left_begin == d.length) and (right < 0 or right - d.right_begin == d.length))):
        d.length += 1
        return True
    if d.length > 0:
        if out.n >= out.cap:
            return False
        _put(out, d)
    d.kind, d.begin, d.length, d.left_begin, d.right_begin = kind, key, 1, left, right
    return True


# -- one side ------------------------------------------------------------------------------------------------------

cdef inline Level* _top(const Side* s) noexcept nogil:
    return &s.w.path[s.w.depth - 1]


cdef inline int64_t _key(const Side* s) noexcept nogil:
    return <int64_t>node_key(s.node, <uint32_t>_top(s).index)


cdef inline uint64_t _child(const Side* s) noexcept nogil:
    return get64(node_value(s.node, <uint32_t>_top(s).index))


cdef int _settle(Side* s) noexcept nogil:
    """Have the deepest node that has an entry left; ``node`` is NULL at the end. -1 and a fault."""
    cdef const uint8_t* node
    cdef Level* top
    if s.node != NULL and 0 <= _top(s).index < s.n:
        return 0
    s.node = NULL
    while s.w.depth > 0:
        top = _top(s)
        node = walk_node(&s.m, s.w, MAPPING_SIZE)
        if node == NULL or ((top.index == 0 or node_flags(node) != NODE_INTERNAL) and walk_enter(&s.m, s.w, node) < 0):
            return -1
        s.n = node_n(node)
        if 0 <= top.index < s.n:
            s.node, s.is_leaf = node, node_flags(node) != NODE_INTERNAL
            return 0
        walk_up(s.w)
    return 0


cdef inline int _down(Side* s) noexcept nogil:
    """Open the child that is next; -1 and a fault."""
    cdef int got = walk_down(&s.m, s.w, s.node)
    s.node = NULL
    return got


cdef int _outside(Side* s) noexcept nogil:
    """A value of the leaf lies outside the pool."""
    return meta_fail(&s.m, <uint64_t>_top(s).block, FAULT_VALUE)


# -- both sides ----------------------------------------------------------------------------------------------------

cdef int _alone(Delta* d, Side* s, Rows* out, int64_t kind, int64_t below) noexcept nogil:
    """Take mappings of one side's leaf with keys less than ``below``; 1: no row is left, -1: a fault."""
    cdef Level* top = _top(s)
    cdef const uint8_t* values = node_value(s.node, 0)
    cdef int64_t key, data
    while top.index < s.n:
        key = _key(s)
        if key >= below:
            return 0
        data = <int64_t>(get64(values + top.index * MAPPING_SIZE) >> TIME_BITS)
        if data >= out.n_data:
            return _outside(s)
        if not _take(d, out, kind, key, -1 if kind == RIGHT_ONLY else data, -1 if kind == LEFT_ONLY else data):
            return 1
        top.index += 1
    return 0


cdef int _both(Delta* d, Side* a, Side* b, Rows* out) noexcept nogil:
    """Compare two leaves until one ends; 1: no row is left, -1: a fault."""
    cdef Level* x = _top(a)
    cdef Level* y = _top(b)
    cdef const uint8_t* xs = node_value(a.node, 0)
    cdef const uint8_t* ys = node_value(b.node, 0)
    cdef int64_t i = x.index, k = y.index, left, right, key, other, kind
    cdef int got = 0
    while i < a.n and k < b.n:
        key, other = <int64_t>node_key(a.node, <uint32_t>i), <int64_t>node_key(b.node, <uint32_t>k)
        left = <int64_t>(get64(xs + i * MAPPING_SIZE) >> TIME_BITS)
        right = <int64_t>(get64(ys + k * MAPPING_SIZE) >> TIME_BITS)
        if left >= out.n_data or right >= out.n_data:
            got = _outside(a if left >= out.n_data else b)
            break
        kind = SAME if left == right else DIFFERENT
        if key < other:
            kind, right = LEFT_ONLY, -1
        elif other < key:
            kind, left, key = RIGHT_ONLY, -1, other
        if (kind != SAME or out.same) and not _take(d, out, kind, key, left, right):
            got = 1
            break
        i += kind != RIGHT_ONLY
        k += kind != LEFT_ONLY
    x.index, y.index = i, k
    return got


cdef int _open_nodes(Delta* d, Side* a, Side* b, Rows* out) noexcept nogil:
    """Both are at inner nodes: pass over a child that both have, or open what begins first; -1 and a fault."""
    cdef int64_t left, right
    if _child(a) == _child(b):
        _top(b).index += 1
        if out.same:
            d.shared = a.w.depth
            return _down(a)
        _top(a).index += 1
        return 0
    left, right = d.left_height - a.w.depth, d.right_height - b.w.depth
    if _key(a) != _key(b):
        return _down(a if _key(a) < _key(b) else b)
    if left >= right and _down(a) < 0:
        return -1
    if right >= left:
        return _down(b)
    return 0


cdef int _step(Delta* d, Side* a, Side* b, Rows* out) noexcept nogil:
    """Go on by a node; 0: further, 1: no row is left, 2: at the end, -1: a fault."""
    if _settle(a) < 0:
        return -1
    if d.shared >= 0:
        if a.w.depth > d.shared:
            return _alone(d, a, out, SAME, KEY_MOST) if a.is_leaf else _down(a)
        d.shared = -1
    if _settle(b) < 0:
        return -1
    if a.node == NULL and b.node == NULL:
        return 2
    if b.node == NULL:
        return _alone(d, a, out, LEFT_ONLY, KEY_MOST) if a.is_leaf else _down(a)
    if a.node == NULL:
        return _alone(d, b, out, RIGHT_ONLY, KEY_MOST) if b.is_leaf else _down(b)
    if a.is_leaf and b.is_leaf:
        return _both(d, a, b, out)
    if a.is_leaf:
        return _alone(d, a, out, LEFT_ONLY, _key(b)) if _key(a) < _key(b) else _down(b)
    if b.is_leaf:
        return _alone(d, b, out, RIGHT_ONLY, _key(a)) if _key(b) < _key(a) else _down(a)
    return _open_nodes(d, a, b, out)


cdef int fill_delta(Delta* d, Side* left, Side* right, Rows* out) noexcept nogil:
    cdef int got = 0
    left.m.fault = right.m.fault = FAULT_NONE
    while got == 0:
        got = _step(d, left, right, out)
    if got == 2 and d.length > 0 and out.n < out.cap:
        _put(out, d)
        d.length = 0
    return -1 if got < 0 else 0


# -- the Python side -----------------------------------------------------------------------------------------------

def open_delta(uint8_t[::1] arena not None, uint8_t[::1] state not None, int fd, int64_t[::1] cursor not None,
               uint64_t left_root, uint64_t right_root, bint same):
    """Begin at the roots of two trees; ``same`` as it will be said to delta()."""
    cdef Meta m
    cdef Delta* d
    if cursor.shape[0] < CURSOR:
        raise ValueError(f"a cursor has {CURSOR} numbers")
    meta_acquire(&m, arena, state, None, fd)
    d = <Delta*>&cursor[0]
    walk_open(&d.left, left_root)
    walk_open(&d.right, right_root)
    d.kind = d.begin = d.length = d.left_begin = d.right_begin = 0
    d.left_height = d.right_height = 0
    d.shared = -1
    if left_root == right_root:
        d.right.depth, d.left.depth, d.shared = 0, 1 if same else 0, 0 if same else -1
        return
    with nogil:
        d.left_height = meta_height(&m, left_root, MAPPING_SIZE)
        if d.left_height > 0:
            d.right_height = meta_height(&m, right_root, MAPPING_SIZE)
    d.left.n_reads = m.n_reads
    if d.left_height < 0 or d.right_height < 0:
        meta_raise(&m)


def delta(uint8_t[::1] arena not None, uint8_t[::1] state not None, uint8_t[::1] left_window,
          uint8_t[::1] right_window, int fd, int64_t[::1] cursor not None, tuple columns not None, int64_t n_data,
          bint same, bint loose):
    """Fill five columns (kind, begin, length, left data, right data) with runs of what differs; return how many.

    ``same``: runs that are alike are wanted, too. ``loose``: a run goes on where its data blocks do not follow each other;
    data columns then have the first block's. An answer shorter than the columns is the last one.
    """
    cdef Side left, right
    cdef Rows out
    cdef Delta* d
    cdef int64_t[::1] kind, begin, length, left_begin, right_begin
    cdef int got
    kind, begin, length, left_begin, right_begin = columns
    out.n, out.cap, out.n_data, out.same, out.loose = 0, kind.shape[0], n_data, same, loose
    if out.cap < 1 or {begin.shape[0], length.shape[0], left_begin.shape[0], right_begin.shape[0]} != {out.cap}:
        raise ValueError("columns are of one length, at least 1")
    out.kind, out.begin, out.length = &kind[0], &begin[0], &length[0]
    out.left_begin, out.right_begin = &left_begin[0], &right_begin[0]
    if cursor.shape[0] < CURSOR:
        raise ValueError(f"a cursor has {CURSOR} numbers")
    d = <Delta*>&cursor[0]
    meta_acquire(&left.m, arena, state, left_window, fd)
    meta_acquire(&right.m, arena, state, right_window, fd)
    walk_acquire(&left.w, cursor, &left.m)
    walk_acquire(&right.w, cursor[sizeof(Walk) // 8:], &right.m)
    left.node = right.node = NULL
    if not 0 <= d.length <= <int64_t>KEY_MOST or d.begin < 0 or d.left_begin < -1 or d.right_begin < -1:
        raise ValueError("not a cursor of a delta")
    with nogil:
        got = fill_delta(d, &left, &right, &out)
    walk_release(left.w, &left.m)
    walk_release(right.w, &right.m)
    if got < 0:
        meta_raise(&left.m if left.m.fault != FAULT_NONE else &right.m)
    return out.n
