"""Recount references and read space maps: see thincount.pxd for the contract."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp
from lamella._kernels._thinblocks cimport Meta, meta_acquire, meta_block, meta_fail, meta_raise
from lamella._kernels._thindisk cimport (
    BITMAP_COUNTS, BITMAP_HEADER, DETAILS_SIZE, FAULT_DEPTH, FAULT_ORDER, FAULT_RANGE, FAULT_SPARSE, FAULT_TWICE, FAULT_VALUE,
    MAPPING_SIZE, NODE_INTERNAL, SALT_BITMAP, TIME_BITS, bitmap_get, get64, node_flags, node_key, node_max, node_n, node_value)
from lamella._kernels._thinwalk cimport Level, Walk, walk_acquire, walk_down, walk_enter, walk_node, walk_release, walk_up

PER_BITMAP = BITMAP_COUNTS
NOT_IN_TREE = in_tree()


# -- trees ---------------------------------------------------------------------------------------------------------

cdef int _enter(Meta* m, const Walk* w, const uint8_t* node, Count* c) noexcept nogil:
    """Check a node that is met for the first time; -1 and a fault."""
    cdef int64_t block = w.path[w.depth - 1].block
    cdef uint32_t n = node_n(node)
    if walk_enter(m, w, node) < 0:
        return -1
    if w.depth > 1 and n < node_max(node) // 3:
        return meta_fail(m, <uint64_t>block, FAULT_SPARSE)
    if n > 0:
        c.keys[2 * block], c.keys[2 * block + 1] = <int64_t>node_key(node, 0), <int64_t>node_key(node, n - 1)
    return 0


cdef int _again(Meta* m, const Walk* w, const Count* c, uint64_t block, int64_t low, int64_t high) noexcept nogil:
    """Judge a reference to a node that was met before, from a place with keys in [low, high]; -1 and a fault."""
    cdef int64_t i
    if c.kinds[block] != c.kind:
        return meta_fail(m, block, FAULT_TWICE)
    for i in range(w.depth):
        if w.path[i].block == <int64_t>block:
            return meta_fail(m, block, FAULT_DEPTH)
    if c.keys[2 * block] < low or c.keys[2 * block + 1] > high:
        return meta_fail(m, block, FAULT_ORDER)
    return 0


cdef int _refer(Meta* m, Walk* w, Count* c, const uint8_t* node) noexcept nogil:
    """Count the reference that is next in an inner node; 1: the child is open, 0: it was met before, -1: a fault."""
    cdef Level* top = &w.path[w.depth - 1]
    cdef uint32_t i = <uint32_t>top.index
    cdef uint64_t block = get64(node_value(node, i))
    cdef int64_t low = <int64_t>node_key(node, i)
    cdef int64_t high = <int64_t>node_key(node, i + 1) - 1 if i + 1 < node_n(node) else top.high
    cdef int got
    if block >= <uint64_t>m.n_blocks:
        got = meta_fail(m, block, FAULT_RANGE)
    else:
        c.uses[block] += 1
        if c.uses[block] == 1:
            c.kinds[block] = c.kind
            got = walk_down(m, w, node)
            if got == 0:
                return 1
        else:
            got = _again(m, w, c, block, low, high)
    if got < 0:
        w.begin, w.data = low, high
    top.index += 1
    return got


cdef int _count_leaf(Meta* m, Walk* w, Count* c, const uint8_t* leaf) noexcept nogil:
    """Count the data blocks that a leaf points at; -1 and a fault where one is not in the pool."""
    cdef const uint8_t* values = node_value(leaf, 0)
    cdef int64_t i, n = node_n(leaf), data
    cdef bint wrong = False
    if c.n_data < 0:
        return 0
    for i in range(n):
        data = <int64_t>(get64(values + i * MAPPING_SIZE) >> TIME_BITS)
        if data >= c.n_data:
            wrong = True
        elif c.data != NULL:
            c.data[data] += 1
    if wrong:
        return meta_fail(m, <uint64_t>w.path[w.depth - 1].block, FAULT_VALUE)
    return 0


cdef int count_tree(Meta* m, Walk* w, Count* c) noexcept nogil:
    cdef const uint8_t* node
    cdef Level* top
    cdef int got
    while w.depth > 0:
        top = &w.path[w.depth - 1]
        node = walk_node(m, w, c.size)
        if node == NULL or (top.index == 0 and _enter(m, w, node, c) < 0):
            w.begin, w.data = top.low, top.high
            walk_up(w)
            return -1
        if node_flags(node) != NODE_INTERNAL:
            w.begin, w.data = top.low, top.high
            got = _count_leaf(m, w, c, node)
            walk_up(w)
            if got < 0:
                return -1
            continue
        got = 0
        while got == 0 and 0 <= top.index < node_n(node):
            got = _refer(m, w, c, node)
        if got < 0:
            return -1
        if got == 0:
            walk_up(w)
    return 0


# -- space maps ----------------------------------------------------------------------------------------------------

cdef void _unpack(const uint8_t* bitmap, uint32_t* counts, int64_t n) noexcept nogil:
    """Take the first ``n`` counts of a bitmap."""
    cdef uint32_t[4] counted
    cdef int64_t i = 0, k
    cdef uint8_t byte, before = 0
    counted[0] = counted[1] = counted[2] = counted[3] = 0
    while i < n:
        byte = bitmap[BITMAP_HEADER + i // 4]
        if byte != before:                       # equal bytes come together
            before = byte
            for k in range(4):
                counted[k] = bitmap_get(bitmap, <uint32_t>(i + k))
                if counted[k] == 3:
                    counted[k] = in_tree()
        for k in range(min(4, n - i)):
            counts[i + k] = counted[k]
        i += 4


cdef int64_t _equal(const uint32_t* a, const uint32_t* b, int64_t i, int64_t n) noexcept nogil:
    """Return the first index from ``i`` on at which two arrays of ``n`` differ."""
    while n - i >= 1024 and memcmp(a + i, b + i, 4096) == 0:
        i += 1024
    while i < n and a[i] == b[i]:
        i += 1
    return i


# -- the Python side -----------------------------------------------------------------------------------------------

cdef int _open(Count* c, const Meta* m, uint32_t[::1] uses, uint8_t[::1] kinds, int kind) except -1:
    if uses.shape[0] != m.n_blocks or kinds.shape[0] != m.n_blocks or m.n_blocks == 0:
        raise ValueError("uses and kinds have a number for each metadata block")
    if not 1 <= kind <= 255:
        raise ValueError(f"kind {kind}")
    c.uses, c.kinds, c.kind = &uses[0], &kinds[0], <uint8_t>kind
    return 0


def tree(uint8_t[::1] arena not None, uint8_t[::1] state not None, uint8_t[::1] window, int fd,
         int64_t[::1] cursor not None, uint32_t[::1] uses not None, uint8_t[::1] kinds not None,
         int64_t[:, ::1] keys not None, int kind, int size, uint32_t[::1] data, int64_t n_data):
    """Count what the tree at the cursor refers to, in ``uses`` and, for data blocks, in ``data``, if that is not None.

    Data blocks are ``n_data``, which is less than 0 for a tree whose values are not mappings.
    A node that is damaged is raised; after that the cursor is past it, and its numbers 4 and 5 are the first and the last
    key that are lost. The reference to the root is the caller's to count.
    """
    cdef Meta m
    cdef Walk* w = NULL
    cdef Count c
    cdef int got
    meta_acquire(&m, arena, state, window, fd)
    walk_acquire(&w, cursor, &m)
    _open(&c, &m, uses, kinds, kind)
    if keys.shape[0] != m.n_blocks or keys.shape[1] != 2 or not 1 <= size <= DETAILS_SIZE:
        raise ValueError(f"two keys for each metadata block, values of 1 to {DETAILS_SIZE} bytes")
    if n_data >= 0 and (size != MAPPING_SIZE or (data is not None and data.shape[0] != n_data)):
        raise ValueError(f"a mapping has {MAPPING_SIZE} bytes, and each data block a count")
    c.keys, c.size, c.n_data = &keys[0, 0], <uint32_t>size, n_data
    c.data = &data[0] if data is not None and n_data > 0 else NULL
    with nogil:
        got = count_tree(&m, w, &c)
    walk_release(w, &m)
    if got < 0:
        meta_raise(&m)


def bitmaps(uint8_t[::1] arena not None, uint8_t[::1] state not None, int fd, const int64_t[::1] blocks not None,
            int64_t begin, uint32_t[::1] uses not None, uint8_t[::1] kinds not None, int kind,
            uint32_t[::1] counts not None):
    """Read bitmap blocks, from the one at ``begin`` on, to ``counts``, PER_BITMAP for each; return (next, calls made).

    Each counts as in use. The next one is behind the last, or is damaged, which one call more raises where it begins there.
    A count that is in the tree of counts is NOT_IN_TREE.
    """
    cdef Meta m
    cdef Count c
    cdef const uint8_t* block
    cdef int64_t i = begin, n = blocks.shape[0], room = counts.shape[0], number
    meta_acquire(&m, arena, state, None, fd)
    _open(&c, &m, uses, kinds, kind)
    if not 0 <= begin <= n or room > n * BITMAP_COUNTS or room <= (n - 1) * BITMAP_COUNTS:
        raise ValueError("as many bitmaps as the counts need")
    with nogil:
        while i < n:
            number = blocks[i]
            block = meta_block(&m, <uint64_t>number, SALT_BITMAP)
            if block != NULL and c.uses[number] > 0:
                meta_fail(&m, <uint64_t>number, FAULT_TWICE)
                block = NULL
            if block == NULL:
                break
            c.uses[number], c.kinds[number] = 1, c.kind
            _unpack(block, &counts[i * BITMAP_COUNTS], min(<int64_t>BITMAP_COUNTS, room - i * BITMAP_COUNTS))
            i += 1
    if i < n and i == begin:
        meta_raise(&m)
    return i, m.n_reads


def mismatches(const uint32_t[::1] has not None, const uint32_t[::1] wants not None, int64_t begin,
               int64_t[:, ::1] rows not None):
    """Fill ``rows`` with runs (first block, blocks, count, count wanted) of what differs from ``begin`` on; return (rows, next)."""
    cdef int64_t i = begin, n = has.shape[0], at = 0, first
    if wants.shape[0] != n or rows.shape[1] != 4 or begin < 0:
        raise ValueError("counts of the same blocks, and rows of four")
    with nogil:
        while i < n and at < rows.shape[0]:
            i = _equal(&has[0], &wants[0], i, n)
            first = i
            while i < n and has[i] != wants[i] and has[i] == has[first] and wants[i] == wants[first]:
                i += 1
            if i > first:
                rows[at, 0], rows[at, 1], rows[at, 2], rows[at, 3] = first, i - first, has[first], wants[first]
                at += 1
    return at, i
