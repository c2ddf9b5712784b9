"""A walk through one tree of dm-thin metadata, in key order, that can stop anywhere and go on in another call.

``Walk`` lies in a buffer of the caller: the levels that are open, from the root down, and which blocks the window has. On
each level stand a node, the entry that is next, and the keys that the parent leaves to the node.
Keys must ascend and stay within those bounds, so no node is met twice in one tree and a circle ends at once. Numbers
that a caller may have changed are bounded where they are used. A fault is in the ``Meta``.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from lamella._kernels._thinblocks cimport HELD, WINDOW, Meta, meta_fail, meta_node, meta_passing, meta_run
from lamella._kernels._thindisk cimport (
    FAULT_DEPTH, FAULT_NONE, FAULT_ORDER, MAX_DEPTH, META_BLOCK, NODE_INTERNAL, get64, node_flags, node_key, node_n, node_value)

cdef enum:
    KEY_MOST = 0x7FFFFFFFFFFFFFFF            # all keys are less: columns of keys are int64

cdef struct Level:
    int64_t block
    int64_t index                # entry that is next
    int64_t low                  # keys of the node are in [low, high]
    int64_t high

cdef struct Walk:
    int64_t depth                # levels that are open; 0: at the end
    int64_t n_reads              # calls made so far
    int64_t first                # what the window has, see Meta
    int64_t n_window
    int64_t begin                # the run that is not finished: of ``length`` blocks, none if that is 0
    int64_t data
    int64_t length
    int64_t time
    Level path[MAX_DEPTH]

cdef inline void walk_open(Walk* w, uint64_t root) noexcept nogil:
    """Begin at the root of a tree."""
    w.depth, w.n_reads, w.first, w.n_window = 1, 0, 0, 0
    w.begin = w.data = w.length = w.time = 0
    w.path[0].block = <int64_t>root
    w.path[0].index = w.path[0].low = 0
    w.path[0].high = KEY_MOST - 1

cdef inline int walk_acquire(Walk** w, int64_t[::1] cursor, Meta* m) except -1:
    """Point ``w`` into the caller's cursor and let ``m`` know what its window has."""
    if cursor.shape[0] * 8 < <Py_ssize_t>sizeof(Walk):
        raise ValueError(f"a cursor has {sizeof(Walk) // 8} numbers")
    w[0] = <Walk*>&cursor[0]
    if not 0 <= w[0].depth <= MAX_DEPTH:
        raise ValueError("not a cursor of a walk")
    if m.window != NULL and 0 <= w[0].first <= m.n_blocks and 0 <= w[0].n_window <= m.n_blocks - w[0].first:
        m.first, m.n_window = w[0].first, min(w[0].n_window, <int64_t>WINDOW)
    return 0

cdef inline void walk_release(Walk* w, const Meta* m) noexcept nogil:
    w.first, w.n_window = m.first, m.n_window
    w.n_reads += m.n_reads

cdef inline void _keep_window(Meta* m) noexcept nogil:
    """Give what is in the window its places: inner nodes, that are met again when their children have passed."""
    cdef int64_t i
    for i in range(m.n_window):
        if not m.state[m.first + i] & HELD:
            memcpy(m.arena + (m.first + i) * META_BLOCK, m.window + i * META_BLOCK, META_BLOCK)
            m.state[m.first + i] |= HELD

cdef inline const uint8_t* walk_node(Meta* m, const Walk* w, uint32_t size) noexcept nogil:
    """Return the node of the deepest level that is open, of a tree with values of ``size`` bytes; it is there until the next call."""
    cdef const Level* top = &w.path[w.depth - 1]
    cdef uint64_t number = <uint64_t>top.block
    cdef const uint8_t* node
    cdef int64_t run = 1
    if w.depth == 1 or m.window == NULL:
        return meta_node(m, number, size)
    if not m.first <= top.block < m.first + m.n_window:
        node = meta_node(m, <uint64_t>w.path[w.depth - 2].block, size)
        if node == NULL:
            return NULL
        if 0 <= w.path[w.depth - 2].index < node_n(node) and node_flags(node) == NODE_INTERNAL:
            run = meta_run(node, <uint32_t>w.path[w.depth - 2].index)
    node = meta_passing(m, number, run, size)
    if node != NULL and node_flags(node) == NODE_INTERNAL and not m.state[number] & HELD:
        _keep_window(m)
        node = meta_node(m, number, size)
    return node

cdef inline bint keys_wrong(const uint8_t* node, int64_t low, int64_t high) noexcept nogil:
    """Tell whether keys of ``node`` do not ascend, or lie outside [low, high]."""
    cdef uint32_t n = node_n(node), i
    cdef uint64_t before, key
    cdef bint wrong
    if n == 0:
        return False
    before = node_key(node, 0)
    wrong = before < <uint64_t>low
    for i in range(1, n):
        key = node_key(node, i)
        wrong |= key <= before
        before = key
    return wrong or before > <uint64_t>high

cdef inline int walk_enter(Meta* m, const Walk* w, const uint8_t* node) noexcept nogil:
    """Check the keys of the deepest node; -1 and a fault."""
    cdef const Level* top = &w.path[w.depth - 1]
    if keys_wrong(node, top.low, top.high) or (node_n(node) == 0 and w.depth > 1):
        return meta_fail(m, <uint64_t>top.block, FAULT_ORDER)
    return 0

cdef inline int walk_down(Meta* m, Walk* w, const uint8_t* node) noexcept nogil:
    """Open the child that is next, below ``node``, an inner one with such an entry; -1 and a fault."""
    cdef Level* top = &w.path[w.depth - 1]
    cdef uint32_t i = <uint32_t>top.index
    cdef Level* below
    if w.depth >= MAX_DEPTH:
        return meta_fail(m, <uint64_t>top.block, FAULT_DEPTH)
    below = &w.path[w.depth]
    below.block, below.index = <int64_t>get64(node_value(node, i)), 0
    below.low = <int64_t>node_key(node, i)
    below.high = <int64_t>node_key(node, i + 1) - 1 if i + 1 < node_n(node) else top.high
    w.depth += 1
    return 0

cdef inline void walk_up(Walk* w) noexcept nogil:
    """Close the deepest level, and go on to the parent's next entry."""
    w.depth -= 1
    if w.depth > 0:
        w.path[w.depth - 1].index += 1

cdef inline const uint8_t* walk_leaf(Meta* m, Walk* w, uint32_t size) noexcept nogil:
    """Go to the next leaf with an entry left, and return it; NULL at the end (``depth`` is 0) or with a fault."""
    cdef const uint8_t* node
    cdef Level* top
    m.fault = FAULT_NONE
    while w.depth > 0:
        top = &w.path[w.depth - 1]
        node = walk_node(m, w, size)
        if node == NULL:
            return NULL
        if (top.index == 0 or node_flags(node) != NODE_INTERNAL) and walk_enter(m, w, node) < 0:
            return NULL
        if not 0 <= top.index < node_n(node):
            walk_up(w)
        elif node_flags(node) != NODE_INTERNAL:
            return node
        elif walk_down(m, w, node) < 0:
            return NULL
    return NULL
