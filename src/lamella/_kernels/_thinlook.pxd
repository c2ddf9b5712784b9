"""Look-ups in the tree of a thin device, many at a time.

Descents of GROUP blocks come first, and the leaves they lead to are on their way from memory meanwhile; a block that
lies in the leaf of the one before it is not descended for.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from lamella._kernels._thinblocks cimport Meta, meta_height, meta_node
from lamella._kernels._thindisk cimport (
    FAULT_NONE, MAPPING_SIZE, META_BLOCK, NODE_HEADER, NODE_INTERNAL, TIME_BITS, get64, node_flags,
    node_key, node_n, node_value)
from lamella._kernels._thinnode cimport node_seek
from lamella._kernels.thintree cimport tree_find

cdef extern from *:
    void __builtin_prefetch(const void* p) noexcept nogil

cdef enum:
    GROUP = 16                   # look-ups under way at a time
    LEAF_ENTRIES = 252           # of a leaf of mappings
    TIME_MASK = 0xffffff

cdef struct Finger:              # where the last look-up went
    uint64_t leaf                # block
    uint64_t low                 # keys from low to high, both included, belong into it
    uint64_t high

cdef inline int _descend(Meta* m, uint64_t root, int depth, uint64_t key, Finger* f) noexcept nogil:
    """Go down to the leaf for ``key``, without touching it but by prefetch; -1."""
    cdef const uint8_t* node
    cdef const uint8_t* place
    cdef int64_t i
    cdef int _level
    f.low, f.high = 0, <uint64_t>-1
    for _level in range(depth - 1):
        node = meta_node(m, root, MAPPING_SIZE)
        if node == NULL:
            return -1
        if node_flags(node) != NODE_INTERNAL:
            break
        i = node_seek(node, key)
        if i > 0:
            f.low = max(f.low, node_key(node, <uint32_t>i))
        i = max(i, 0)
        if i + 1 < node_n(node):
            f.high = min(f.high, node_key(node, <uint32_t>(i + 1)) - 1)
        root = get64(node_value(node, <uint32_t>i))
    f.leaf = root
    if root < <uint64_t>m.n_blocks:
        place = m.arena + root * META_BLOCK
        __builtin_prefetch(place)
        __builtin_prefetch(m.state + root)
        if key - f.low < LEAF_ENTRIES:             # where it is if the leaf has no gaps
            __builtin_prefetch(place + NODE_HEADER + 8 * (key - f.low))
            __builtin_prefetch(place + NODE_HEADER + 8 * (LEAF_ENTRIES + key - f.low))
    return 0

cdef inline int _at_leaf(Meta* m, uint64_t leaf, uint64_t key, int64_t* data, int64_t* time) noexcept nogil:
    """Finish a look-up."""
    cdef const uint8_t* node = meta_node(m, leaf, MAPPING_SIZE)
    cdef const uint8_t* value = NULL
    cdef int64_t i
    cdef uint64_t packed
    if node == NULL:
        return -1
    if node_flags(node) == NODE_INTERNAL:          # a tree of uneven depth is damaged, but says where a key is
        value = tree_find(m, leaf, MAPPING_SIZE, key)
        if value == NULL and m.fault != FAULT_NONE:
            return -1
    elif node_n(node):
        i = node_seek(node, key)
        if i >= 0 and node_key(node, <uint32_t>i) == key:
            value = node_value(node, <uint32_t>i)
    if value == NULL:
        data[0] = time[0] = -1
        return 0
    packed = get64(value)
    data[0], time[0] = <int64_t>(packed >> TIME_BITS), <int64_t>(packed & TIME_MASK)
    return 0

cdef inline int look_up(Meta* m, uint64_t root, const int64_t* blocks, Py_ssize_t n, int64_t* data,
                        int64_t* time) noexcept nogil:
    """Look ``n`` blocks up: data block and time, -1 both where nothing is mapped; -1 and a fault. Ascending is quick."""
    cdef Finger f
    cdef uint64_t leaves[GROUP]
    cdef Py_ssize_t k, at, end
    cdef uint64_t key
    cdef int depth = meta_height(m, root, MAPPING_SIZE)
    if depth < 0:
        return -1
    f.leaf, f.low, f.high = root, 1, 0
    at = 0
    while at < n:
        end = min(at + GROUP, n)
        for k in range(at, end):
            key = <uint64_t>blocks[k]
            if not f.low <= key <= f.high and _descend(m, root, depth, key, &f) < 0:
                return -1
            leaves[k - at] = f.leaf
        for k in range(at, end):
            if _at_leaf(m, leaves[k - at], <uint64_t>blocks[k], &data[k], &time[k]) < 0:
                return -1
        at = end
    return 0
