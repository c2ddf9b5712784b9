"""B-trees of thin metadata, changed under a transaction. See thintree.pxd."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from lamella._kernels._thinblocks cimport Meta, meta_fail, meta_node
from lamella._kernels._thindisk cimport (
    DETAILS_SIZE, FAULT_COUNT, FAULT_DEPTH, FAULT_NODE, FAULT_NONE, FAULT_ORDER, MAPPING_SIZE, MAX_DEPTH, META_BLOCK,
    NODE_INTERNAL, NODE_LEAF, get64, node_find, node_flags, node_key, node_max, node_n, node_value, put64)
from lamella._kernels._thinnode cimport (
    node_append, node_at, node_begin, node_count, node_erase, node_full, node_insert, node_key_at, node_prepend, node_seek)
from lamella._kernels._thintxn cimport (
    LEAF_DATA, LEAF_PLAIN, LEAF_TREES, Books, Leaf, Tree, Txn, block_drop, block_new, block_own, block_shadow, txn_acquire,
    txn_raise, txn_release)

cdef enum:
    _MAPPING = 0
    _DETAILS = 1

MAPPING, DETAILS = _MAPPING, _DETAILS
N_BOOKS = sizeof(Books) // 8


cdef inline uint8_t* _place(Txn* t, uint64_t b) noexcept nogil:
    """Return the place of a block that is known to be on the device."""
    return t.m.arena + b * META_BLOCK


cdef inline uint64_t _child(const uint8_t* node, int64_t i) noexcept nogil:
    return get64(node_value(node, <uint32_t>i))


cdef const uint8_t* tree_find(Meta* m, uint64_t root, uint32_t size, uint64_t key) noexcept nogil:
    cdef const uint8_t* node
    cdef int64_t i
    cdef int _level
    m.fault = FAULT_NONE
    for _level in range(MAX_DEPTH):
        node = meta_node(m, root, size)
        if node == NULL:
            return NULL
        i = node_seek(node, key) if node_n(node) else -1
        if i < 0:
            return NULL
        if node_flags(node) != NODE_INTERNAL:
            return node_value(node, <uint32_t>i) if node_key(node, <uint32_t>i) == key else NULL
        root = _child(node, i)
    meta_fail(m, root, FAULT_DEPTH)
    return NULL


cdef int tree_next(Meta* m, uint64_t root, uint32_t size, uint64_t key, uint64_t* found) noexcept nogil:
    cdef uint64_t right = 0        # where keys go on behind the way taken
    cdef bint has_right = False
    cdef const uint8_t* node
    cdef int64_t i
    cdef int _level
    for _level in range(2 * MAX_DEPTH):
        node = meta_node(m, root, size)
        if node == NULL:
            return -1
        i = node_find(node, key)
        if node_flags(node) == NODE_INTERNAL:
            i = max(i, 0)
            if i + 1 < node_n(node):
                right, has_right = _child(node, i + 1), True
            root = _child(node, i)
            continue
        if i < 0 or node_key(node, <uint32_t>i) != key:
            i += 1
        if i < node_n(node):
            found[0] = node_key(node, <uint32_t>i)
            return 1
        if not has_right:
            return 0
        root, has_right, key = right, False, 0
    return meta_fail(m, root, FAULT_DEPTH)


cdef int tree_last(Meta* m, uint64_t root, uint32_t size, uint64_t* found) noexcept nogil:
    cdef const uint8_t* node
    cdef uint32_t n
    cdef int _level
    for _level in range(MAX_DEPTH):
        node = meta_node(m, root, size)
        if node == NULL:
            return -1
        n = node_n(node)
        if n == 0:
            return 0
        if node_flags(node) != NODE_INTERNAL:
            found[0] = node_key(node, n - 1)
            return 1
        root = _child(node, n - 1)
    return meta_fail(m, root, FAULT_DEPTH)


cdef int64_t tree_nodes(Meta* m, uint64_t root, uint32_t size) noexcept nogil:
    cdef uint64_t block[MAX_DEPTH]
    cdef uint32_t at[MAX_DEPTH]
    cdef const uint8_t* node
    cdef int64_t n = 1, leaves_below = -1          # the depth whose children are leaves
    cdef int depth = 0
    block[0], at[0] = root, 0
    while depth >= 0:
        node = meta_node(m, block[depth], size)
        if node == NULL:
            return -1
        if node_flags(node) != NODE_INTERNAL:
            leaves_below = depth - 1
            depth -= 1
        elif at[depth] == 0 and depth == leaves_below:
            n += node_n(node)
            depth -= 1
        elif at[depth] >= node_n(node):
            n += node_n(node)
            depth -= 1
        elif depth + 1 == MAX_DEPTH or n > m.n_blocks:
            return meta_fail(m, block[depth], FAULT_DEPTH)
        else:
            block[depth + 1], at[depth + 1] = _child(node, at[depth]), 0
            at[depth] += 1
            if depth != leaves_below:
                depth += 1
    return n


cdef int tree_begin(Txn* t, Tree* tree, uint32_t size) noexcept nogil:
    tree.root, tree.n_nodes = block_new(t, 0), 1
    if tree.root < 0:
        return -1
    node_begin(_place(t, tree.root), <uint64_t>tree.root, NODE_LEAF, size)
    return 0


cdef uint8_t* _shadow_child(Txn* t, uint8_t* node, uint32_t i, uint32_t size, Leaf leaf) noexcept nogil:
    """Shadow child ``i`` of a node that may be changed."""
    cdef uint64_t was = _child(node, i), b = was
    cdef uint8_t* child = block_shadow(t, &b, size, leaf)
    if child != NULL and b != was:
        put64(node_at(node, i), b)
    return child


cdef bint _to_the_left(Txn* t, uint8_t* node, uint32_t i, uint8_t* child, bint appending) noexcept nogil:
    """Move entries of full child ``i`` to the one before it, where that has room and may be changed as it is."""
    cdef uint64_t b
    cdef uint8_t* left
    cdef uint32_t most = node_max(child), unused, k
    if i == 0:
        return False
    b = _child(node, i - 1)
    if b >= <uint64_t>t.m.n_blocks or not block_own(t, b):
        return False
    left = _place(t, b)
    unused = most - min(node_n(left), most)
    if node_max(left) != most or node_flags(left) != node_flags(child) or unused < most // 4:
        return False
    k = min(unused if appending else unused // 2, most - most // 3)
    node_append(left, child, 0, k)
    node_erase(child, 0, k)
    put64(node_key_at(node, i), node_key(child, 0))
    return True


cdef int _make_room(Txn* t, Tree* tree, uint8_t* node, uint32_t i, uint8_t* child, uint64_t key) noexcept nogil:
    """Divide full child ``i`` of a node that has room, both changeable: evenly, or so that keys that ascend fill leaves."""
    cdef uint32_t n = node_n(child), keep
    cdef bint appending = key > node_key(child, n - 1)
    cdef uint8_t* right
    cdef uint8_t child_block[8]
    cdef int64_t made
    if _to_the_left(t, node, i, child, appending):
        return 0
    made = block_new(t, 0)
    if made < 0:
        return -1
    keep = n - n // 3 if appending else n // 2
    right = _place(t, made)
    memcpy(right, child, 32)                       # header: flags, sizes
    put64(right + 8, <uint64_t>made)
    node_count(right, 0)
    node_append(right, child, keep, n)
    node_count(child, keep)
    put64(child_block, <uint64_t>made)
    node_insert(node, i + 1, node_key(right, 0), child_block)
    tree.n_nodes += 1
    return 0


cdef uint8_t* _raise_root(Txn* t, Tree* tree, uint8_t* node, uint64_t key) noexcept nogil:
    """Put a new root above a full one."""
    cdef int64_t made = block_new(t, 0)
    cdef uint8_t* root
    cdef uint8_t below[8]
    if made < 0:
        return NULL
    root = _place(t, made)
    node_begin(root, <uint64_t>made, NODE_INTERNAL, 8)
    put64(below, <uint64_t>tree.root)
    node_insert(root, 0, node_key(node, 0), below)
    tree.root = made
    tree.n_nodes += 1
    return root if _make_room(t, tree, root, 0, node, key) == 0 else NULL


cdef uint8_t* _step(Txn* t, Tree* tree, uint8_t* node, uint32_t size, Leaf leaf, uint64_t key, bint room,
                    int64_t* i) noexcept nogil:
    """Go to the child of a node for ``key``, which becomes the transaction's own; ``i`` is its place. NULL and a fault."""
    cdef uint8_t* child
    i[0] = max(node_seek(node, key), 0)
    if room and key < node_key(node, 0):
        put64(node_key_at(node, 0), key)
    child = _shadow_child(t, node, <uint32_t>i[0], size, leaf)
    if child == NULL or not room or not node_full(child):
        return child
    if _make_room(t, tree, node, <uint32_t>i[0], child, key) < 0:
        return NULL
    i[0] = max(node_find(node, key), 0)
    child = _shadow_child(t, node, <uint32_t>i[0], size, leaf)        # one of the two, which may be changed already
    if child != NULL and node_full(child):
        meta_fail(&t.m, _child(node, i[0]), FAULT_NODE)
        return NULL
    return child


cdef int tree_path(Txn* t, Tree* tree, uint32_t size, Leaf leaf, uint64_t key, bint room, Path* path) noexcept nogil:
    cdef uint64_t b = <uint64_t>tree.root
    cdef uint8_t* node = block_shadow(t, &b, size, leaf)
    cdef uint8_t* child
    cdef int64_t i = 0
    if node == NULL:
        return -1
    tree.root = <int64_t>b
    if room and node_full(node):
        node = _raise_root(t, tree, node, key)
        if node == NULL:
            return -1
    path.depth, path.low, path.high = 0, 0, <uint64_t>-1
    path.block[0] = <uint64_t>tree.root
    while node_flags(node) == NODE_INTERNAL:
        if path.depth + 1 >= MAX_DEPTH:
            return meta_fail(&t.m, path.block[path.depth], FAULT_DEPTH)
        child = _step(t, tree, node, size, leaf, key, room, &i)
        if child == NULL:
            return -1
        path.low = max(path.low, node_key(node, <uint32_t>i))
        if i + 1 < node_n(node):
            path.high = min(path.high, node_key(node, <uint32_t>(i + 1)) - 1)
        path.idx[path.depth] = <uint32_t>i
        path.depth += 1
        path.block[path.depth] = _child(node, i)
        node = child
    path.depth += 1
    return 0


cdef int tree_put(Txn* t, Tree* tree, uint32_t size, Leaf leaf, uint64_t key, const uint8_t* value) noexcept nogil:
    cdef Path path
    cdef uint8_t* node
    cdef int64_t i
    cdef bint new = tree_find(&t.m, <uint64_t>tree.root, size, key) == NULL
    if t.m.fault != FAULT_NONE or tree_path(t, tree, size, leaf, key, new, &path) < 0:
        return -1
    node = _place(t, path.block[path.depth - 1])
    i = node_find(node, key)
    if new:
        node_insert(node, <uint32_t>(i + 1), key, value)
    elif i >= 0:
        memcpy(node_at(node, <uint32_t>i), value, size)
    return new


cdef int _even_out(Txn* t, Tree* tree, uint8_t* node, uint32_t i, uint32_t size, Leaf leaf) noexcept nogil:
    """Join child ``i``, which has too few entries, with a neighbour, or take some from it. 1 where the two are one now."""
    cdef uint32_t at = i - 1 if i > 0 else 0
    cdef uint8_t* left = _shadow_child(t, node, at, size, leaf)
    cdef uint8_t* right = NULL if left == NULL else _shadow_child(t, node, at + 1, size, leaf)
    cdef uint32_t n_left, n_right, most, total
    if right == NULL:
        return -1
    n_left, n_right, most = node_n(left), node_n(right), node_max(left)
    if node_flags(left) != node_flags(right) or node_max(right) != most:
        return meta_fail(&t.m, _child(node, at), FAULT_NODE)
    total = n_left + n_right
    if total <= 2 * (most // 3):
        node_append(left, right, 0, n_right)
        if block_drop(t, _child(node, at + 1)) < 0:
            return -1
        node_erase(node, at + 1, at + 2)
        tree.n_nodes -= 1
        return 1
    if n_left < n_right:
        node_append(left, right, 0, total // 2 - n_left)
        node_erase(right, 0, total // 2 - n_left)
    else:
        node_prepend(right, left, total // 2)
        node_count(left, total // 2)
    put64(node_key_at(node, at + 1), node_key(right, 0))
    return 0


cdef int _mend(Txn* t, Tree* tree, uint32_t size, Leaf leaf, Path* path) noexcept nogil:
    """Give the nodes of a way enough entries again, from the leaf up, and shorten the tree where it can be."""
    cdef int level = path.depth - 1
    cdef uint8_t* node
    cdef uint8_t* above
    cdef uint64_t b
    cdef uint32_t i
    cdef int joined
    while level > 0:
        node, above, i = _place(t, path.block[level]), _place(t, path.block[level - 1]), path.idx[level - 1]
        if node_n(node) >= node_max(node) // 3:
            break
        if node_n(above) > 1 and node_n(node) == 0:
            if block_drop(t, path.block[level]) < 0:
                return -1
            node_erase(above, i, i + 1)
            tree.n_nodes -= 1
        elif node_n(above) > 1:
            joined = _even_out(t, tree, above, i, size, leaf)
            if joined < 0:
                return -1
        level -= 1
    node = _place(t, <uint64_t>tree.root)
    while node_flags(node) == NODE_INTERNAL and node_n(node) == 1:
        b = <uint64_t>tree.root
        tree.root = <int64_t>_child(node, 0)
        tree.n_nodes -= 1
        if block_drop(t, b) < 0:
            return -1
        node = meta_node(&t.m, <uint64_t>tree.root, size)
        if node == NULL:
            return -1
        if node_flags(node) == NODE_INTERNAL and node_n(node) == 1 and not block_own(t, <uint64_t>tree.root):
            break
    return 0


cdef int64_t tree_cut(Txn* t, Tree* tree, uint32_t size, Leaf leaf, uint64_t begin, uint64_t end, int64_t most) noexcept nogil:
    cdef uint64_t key = 0
    cdef Path path
    cdef uint8_t* node
    cdef int64_t i, j
    cdef int is_there = tree_next(&t.m, <uint64_t>tree.root, size, begin, &key)
    if is_there < 0:
        return -1
    if is_there == 0 or key >= end or most <= 0:
        return 0
    if tree_path(t, tree, size, leaf, key, False, &path) < 0:
        return -1
    node = _place(t, path.block[path.depth - 1])
    i = node_find(node, key)
    j = min(node_find(node, end - 1) + 1, i + most)
    if i < 0 or node_key(node, <uint32_t>i) != key or j <= i:
        return meta_fail(&t.m, path.block[path.depth - 1], FAULT_ORDER)
    if leaf == LEAF_DATA and (t.owners == NULL or t.owners(t, node, <uint32_t>i, <uint32_t>j, -1) < 0):
        return -1
    node_erase(node, <uint32_t>i, <uint32_t>j)
    return j - i if _mend(t, tree, size, leaf, &path) == 0 else -1


cdef int _drop_values(Txn* t, const uint8_t* node, Leaf leaf) noexcept nogil:
    """Take an owner from everything that a leaf points at."""
    cdef uint32_t i, n = node_n(node)
    if leaf == LEAF_DATA:
        return t.owners(t, node, 0, n, -1) if t.owners != NULL else -1
    if leaf == LEAF_TREES:
        for i in range(n):
            if tree_drop(t, _child(node, i), MAPPING_SIZE, LEAF_DATA) < 0:
                return -1
    return 0


cdef int tree_drop(Txn* t, uint64_t root, uint32_t size, Leaf leaf) noexcept nogil:
    cdef uint64_t block[MAX_DEPTH]
    cdef uint32_t at[MAX_DEPTH]
    cdef const uint8_t* node
    cdef uint64_t b = root
    cdef int depth = -1                            # of the node whose children are being dropped
    while True:
        if b < <uint64_t>t.m.n_blocks and t.counts[b] > 1:
            if block_drop(t, b) < 0:
                return -1
        else:
            node = meta_node(&t.m, b, size)
            if node == NULL:
                return -1
            if t.counts[b] == 0 or depth + 1 == MAX_DEPTH:
                return meta_fail(&t.m, b, FAULT_COUNT if t.counts[b] == 0 else FAULT_DEPTH)
            if node_flags(node) == NODE_INTERNAL:
                depth += 1
                block[depth], at[depth] = b, 0
            elif _drop_values(t, node, leaf) < 0 or block_drop(t, b) < 0:
                return -1
        while depth >= 0 and at[depth] >= node_n(_place(t, block[depth])):
            if block_drop(t, block[depth]) < 0:
                return -1
            depth -= 1
        if depth < 0:
            return 0
        b = _child(_place(t, block[depth]), at[depth])
        at[depth] += 1


cdef Tree* _which(Txn* t, int which, uint32_t* size, Leaf* leaf) except NULL:
    if which == _MAPPING:
        size[0], leaf[0] = MAPPING_SIZE, LEAF_TREES
        return &t.b.mapping
    if which == _DETAILS:
        size[0], leaf[0] = DETAILS_SIZE, LEAF_PLAIN
        return &t.b.details
    raise ValueError(f"no tree {which}")


def begin(tuple parts not None, int which):
    """Make the tree of mappings (MAPPING), or that of details (DETAILS), empty. For all here: errors as txn_raise says."""
    cdef Txn t
    cdef uint32_t size = 0
    cdef Leaf leaf = LEAF_PLAIN
    try:
        txn_acquire(&t, parts)
        if tree_begin(&t, _which(&t, which, &size, &leaf), size) < 0:
            txn_raise(&t)
    finally:
        txn_release(&t)


def find(tuple parts not None, int which, uint64_t key):
    """Return the value of ``key`` as bytes, or None."""
    cdef Txn t
    cdef uint32_t size = 0
    cdef Leaf leaf = LEAF_PLAIN
    cdef const uint8_t* value
    try:
        txn_acquire(&t, parts)
        value = tree_find(&t.m, <uint64_t>_which(&t, which, &size, &leaf).root, size, key)
        if t.m.fault != FAULT_NONE:
            txn_raise(&t)
        return None if value == NULL else value[:size]
    finally:
        txn_release(&t)


def put(tuple parts not None, int which, uint64_t key, const uint8_t[::1] value):
    """Map ``key`` to ``value``; without one, only make the way to the key this transaction's own. Tell if it was new."""
    cdef Txn t
    cdef Path path
    cdef uint32_t size = 0
    cdef Leaf leaf = LEAF_PLAIN
    cdef Tree* tree
    cdef int done
    try:
        txn_acquire(&t, parts)
        tree = _which(&t, which, &size, &leaf)
        if value is None:
            done = tree_path(&t, tree, size, leaf, key, False, &path)
        elif value.shape[0] != size:
            raise ValueError(f"a value of {value.shape[0]} bytes, not {size}")
        else:
            done = tree_put(&t, tree, size, leaf, key, &value[0])
        if done < 0:
            txn_raise(&t)
        return done == 1
    finally:
        txn_release(&t)


def remove(tuple parts not None, int which, uint64_t key):
    """Remove ``key`` and tell if it was there; what its value points at keeps its owners."""
    cdef Txn t
    cdef uint32_t size = 0
    cdef Leaf leaf = LEAF_PLAIN
    cdef Tree* tree
    cdef int64_t done
    try:
        txn_acquire(&t, parts)
        tree = _which(&t, which, &size, &leaf)
        done = tree_cut(&t, tree, size, leaf, key, key + 1, 1)
        if done < 0:
            txn_raise(&t)
        return done == 1
    finally:
        txn_release(&t)
