"""A transaction on thin metadata: which blocks may be changed, where a new one comes from, who points at it.

Nothing that the committed transaction needs is written over. A block made since (FRESH) that has one owner is changed in
place; any other is *shadowed*: a new block is taken, the bytes are copied, the old one loses an owner. What was shared
stays with the others, so everything that it points at gets one owner more.

Counts of metadata blocks are a column in memory; ``thinspace`` writes the changed ones (DIRTY) when the transaction ends.
A block is given out when its count is zero and the committed transaction does not need it (USED). All buffers are the
caller's, in a tuple of this order (lamella.block.transaction has it): arena, state, fd, counts, books, and for the data
space map bitmaps, committed bitmaps, counts free, none free before, changed.
"""
from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from lamella._kernels._thinblocks cimport (
    AS_SUPERBLOCK, CHECKED, DIRTY, FRESH, HELD, USED, Meta, meta_block, meta_fail, meta_node, meta_raise)
from lamella._kernels._thindisk cimport (
    FAULT_COUNT, FAULT_FULL, FAULT_NODE, FAULT_NONE, FAULT_RANGE, META_BLOCK, NODE_INTERNAL, SALT_NODE, SLACK, get64,
    node_fits, node_flags, node_max, node_n, node_size, node_value, put64)

cdef enum:
    N_PARTS = 10
    MOST_COUNT = 0x7fffffff      # owners of a block

cdef enum Leaf:                  # what a leaf's values are
    LEAF_PLAIN = 0               # nothing that is counted
    LEAF_TREES = 1               # roots of trees: metadata blocks
    LEAF_DATA = 2                # mappings: data block << 24 | time

cdef struct Tree:
    int64_t root
    int64_t n_nodes              # kept where somebody has counted them

cdef struct Books:               # int64 items only, so that an int64 array is one
    int64_t time                 # the pool's clock of snapshots
    int64_t held_root            # metadata snapshot; 0: none
    int64_t n_free               # metadata blocks that can be given out
    int64_t n_held               # ... that the committed transaction needs and this one does not
    int64_t n_over               # ... with a count above two
    int64_t cursor               # where the search for the next begins
    int64_t index                # block of the metadata space map's index
    Tree counts                  # metadata counts above two
    int64_t data_blocks          # of the data device
    int64_t data_used            # of these, with a count
    int64_t data_held            # without one, needed by the committed transaction
    int64_t data_cursor
    Tree data_index              # the data space map's tree of bitmaps
    Tree data_counts             # ... and of counts above two
    Tree mapping                 # device -> root of its tree
    Tree details                 # device -> details

cdef struct Txn

# Count the blocks that entries [i, j) of a leaf of mappings point at up or down by one; -1 and a fault
ctypedef int (*Owners)(Txn* t, const uint8_t* leaf, uint32_t i, uint32_t j, int change) noexcept nogil

cdef struct Txn:
    Meta m
    uint32_t* counts             # n_blocks
    Books b                      # a copy, written back by txn_release
    Books* books
    int64_t n_bitmaps            # the data space map's columns: one item a bitmap
    int64_t* bitmaps             # block
    int64_t* before              # block as committed, -1 for one that was not there
    int64_t* n_unused            # counts of zero in it, and the first of them: hints
    int64_t* first_unused
    uint8_t* changed             # its index entry is to be written
    Owners owners                # NULL where no leaf of mappings can be met
    int64_t* freed               # data blocks that lose their last owner are noted here, or NULL
    int64_t freed_cap
    int64_t n_freed
    Py_buffer views[N_PARTS]
    int n_views

cdef inline int64_t block_new(Txn* t, uint8_t kind) noexcept nogil:
    """Take a free block, zeroed, with one owner; -1 and FAULT_FULL where there is none."""
    cdef int64_t _k, b = t.b.cursor
    for _k in range(t.m.n_blocks):
        if b < 0 or b >= t.m.n_blocks:
            b = 0
        if t.counts[b] == 0 and not t.m.state[b] & USED:
            t.counts[b] = 1
            t.m.state[b] = HELD | FRESH | DIRTY | kind
            t.b.cursor = b + 1
            t.b.n_free -= 1
            memset(t.m.arena + b * META_BLOCK, 0, META_BLOCK)
            return b
        b += 1
    return meta_fail(&t.m, 0, FAULT_FULL)

cdef inline int block_take(Txn* t, uint64_t b) noexcept nogil:
    """Give a block that is in use one owner more."""
    if b >= <uint64_t>t.m.n_blocks:
        return meta_fail(&t.m, b, FAULT_RANGE)
    if t.counts[b] == 0 or t.counts[b] >= MOST_COUNT:
        return meta_fail(&t.m, b, FAULT_COUNT)
    t.counts[b] += 1
    t.m.state[b] |= DIRTY
    t.b.n_over += t.counts[b] == 3
    return 0

cdef inline int block_drop(Txn* t, uint64_t b) noexcept nogil:
    """Take one owner from a block; without any it is free, for this transaction only if it was made in it."""
    if b >= <uint64_t>t.m.n_blocks:
        return meta_fail(&t.m, b, FAULT_RANGE)
    if t.counts[b] == 0:
        return meta_fail(&t.m, b, FAULT_COUNT)
    t.b.n_over -= t.counts[b] == 3
    t.counts[b] -= 1
    t.m.state[b] |= DIRTY
    if t.counts[b] == 0 and t.m.state[b] & USED:
        t.b.n_held += 1
    elif t.counts[b] == 0:
        t.b.n_free += 1
        t.m.state[b] &= ~(HELD | CHECKED | FRESH | AS_SUPERBLOCK)
    return 0

cdef inline bint block_own(const Txn* t, uint64_t b) noexcept nogil:
    """Tell whether a block on the device may be changed in place."""
    return t.m.state[b] & FRESH and t.counts[b] == 1

cdef inline int _share_children(Txn* t, const uint8_t* node, Leaf leaf) noexcept nogil:
    cdef uint32_t i, n = node_n(node)
    if node_flags(node) != NODE_INTERNAL and leaf == LEAF_PLAIN:
        return 0
    if node_flags(node) != NODE_INTERNAL and leaf == LEAF_DATA:
        return t.owners(t, node, 0, n, 1) if t.owners != NULL else meta_fail(&t.m, 0, FAULT_NODE)
    for i in range(n):
        if block_take(t, get64(node_value(node, i))) < 0:
            return -1
    return 0

cdef inline uint8_t* block_shadow(Txn* t, uint64_t* b, uint32_t size, Leaf leaf) noexcept nogil:
    """Return tree node ``b`` so that it may be changed; ``b`` becomes the block where it now is. NULL and a fault."""
    cdef uint8_t* old = meta_node(&t.m, b[0], size)
    cdef uint8_t* node
    cdef int64_t made
    if old == NULL:
        return NULL
    if node_max(old) != node_fits(node_size(old)):     # room is counted on
        meta_fail(&t.m, b[0], FAULT_NODE)
        return NULL
    if block_own(t, b[0]):
        return old
    if t.counts[b[0]] == 0:
        meta_fail(&t.m, b[0], FAULT_COUNT)
        return NULL
    made = block_new(t, 0)
    if made < 0 or (t.counts[b[0]] > 1 and _share_children(t, old, leaf) < 0) or block_drop(t, b[0]) < 0:
        return NULL
    node = t.m.arena + made * META_BLOCK
    memcpy(node, old, META_BLOCK)
    put64(node + 8, <uint64_t>made)
    b[0] = <uint64_t>made
    return node

cdef inline void txn_release(Txn* t) noexcept:
    """Write the books back and give back every buffer; harmless after an acquire that failed."""
    if t.books != NULL:
        memcpy(t.books, &t.b, sizeof(Books))
        t.books = NULL
    while t.n_views > 0:
        t.n_views -= 1
        PyBuffer_Release(&t.views[t.n_views])

cdef inline void* _view(Txn* t, object part, Py_ssize_t itemsize, Py_ssize_t* n) except? NULL:
    cdef Py_buffer* view = &t.views[t.n_views]
    PyObject_GetBuffer(part, view, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
    t.n_views += 1
    if view.itemsize != itemsize:
        raise ValueError(f"items of {view.itemsize} bytes, not {itemsize}")
    n[0] = view.len // itemsize
    return view.buf

cdef inline int txn_acquire(Txn* t, tuple parts) except -1:
    """Take the buffers of ``parts`` into ``t``, checked against each other; release it whatever comes of this."""
    cdef Py_ssize_t n_arena, n_blocks, n_counts, n_books, n, k
    cdef void* columns[5]
    memset(t, 0, sizeof(Txn))
    if len(parts) != N_PARTS:
        raise ValueError(f"a transaction has {N_PARTS} parts, not {len(parts)}")
    t.m.arena = <uint8_t*>_view(t, parts[0], 1, &n_arena)
    t.m.state = <uint8_t*>_view(t, parts[1], 1, &n_blocks)
    t.m.fd = parts[2]
    t.counts = <uint32_t*>_view(t, parts[3], 4, &n_counts)
    t.m.n_blocks = n_blocks
    if n_arena < (n_blocks + SLACK) * META_BLOCK or n_counts != n_blocks:
        raise ValueError(f"an arena of {n_arena} bytes, {n_counts} counts: not for {n_blocks} blocks and {SLACK}")
    for k in range(5):
        columns[k] = _view(t, parts[5 + k], 1 if k == 4 else 8, &n)
        if k and n != t.n_bitmaps:
            raise ValueError("columns of the data space map differ in length")
        t.n_bitmaps = n
    t.bitmaps, t.before = <int64_t*>columns[0], <int64_t*>columns[1]
    t.n_unused, t.first_unused, t.changed = <int64_t*>columns[2], <int64_t*>columns[3], <uint8_t*>columns[4]
    t.books = <Books*>_view(t, parts[4], 8, &n_books)
    if n_books * 8 != sizeof(Books):
        t.books = NULL
        raise ValueError(f"books of {n_books} items, not {sizeof(Books) // 8}")
    memcpy(&t.b, t.books, sizeof(Books))
    return 0

cdef inline int txn_raise(const Txn* t) except -1:
    """Raise what the fault says."""
    from lamella.errors import PoolFullError
    if t.m.fault == FAULT_FULL:
        raise PoolFullError("no block is free", what="metadata")
    return meta_raise(&t.m)
