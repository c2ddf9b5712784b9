"""B-trees of thin metadata, changed under a transaction: put, remove, cut a range, drop a whole tree. No file is written.

A tree maps uint64 keys to values of ``size`` bytes; ``leaf`` says what these are. All nodes but the root keep at least a
third of their entries. Every function answers -1 with a fault in ``t.m`` (``txn_raise``) where a block is damaged, where its
count contradicts the tree or where no block is free; the transaction is then of no use any more.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from lamella._kernels._thinblocks cimport Meta
from lamella._kernels._thindisk cimport MAX_DEPTH
from lamella._kernels._thintxn cimport Leaf, Tree, Txn

cdef struct Path:               # from the root to a leaf; all of it may be changed in place
    int depth                   # nodes; the leaf is the last
    uint64_t block[MAX_DEPTH]
    uint32_t idx[MAX_DEPTH]     # the entry of block[k] that leads to block[k + 1]
    uint64_t low                # keys from low to high, both included, belong into this leaf
    uint64_t high

# Find a key: its value in the arena, or NULL; then m.fault tells an error from a key that is not there (FAULT_NONE)
cdef const uint8_t* tree_find(Meta* m, uint64_t root, uint32_t size, uint64_t key) noexcept nogil

# The first key from ``key`` on, in ``found``: 1, 0 where there is none, -1
cdef int tree_next(Meta* m, uint64_t root, uint32_t size, uint64_t key, uint64_t* found) noexcept nogil

# The last key of a tree, as tree_next
cdef int tree_last(Meta* m, uint64_t root, uint32_t size, uint64_t* found) noexcept nogil

# Count the nodes of a tree; reads inner ones only; -1
cdef int64_t tree_nodes(Meta* m, uint64_t root, uint32_t size) noexcept nogil

# Make an empty tree; -1
cdef int tree_begin(Txn* t, Tree* tree, uint32_t size) noexcept nogil

# Shadow the way to the leaf of ``key``. With ``room`` the leaf has place for one key more.
cdef int tree_path(Txn* t, Tree* tree, uint32_t size, Leaf leaf, uint64_t key, bint room, Path* path) noexcept nogil

# Map ``key`` to a value, new or not; the old value's owners are the caller's business: 1 where the key is new, 0, -1
cdef int tree_put(Txn* t, Tree* tree, uint32_t size, Leaf leaf, uint64_t key, const uint8_t* value) noexcept nogil

# Remove keys of [begin, end) out of one leaf, at most ``most``: how many, 0 where none is left, -1. The blocks that
# removed mappings point at lose an owner; roots of trees do not.
cdef int64_t tree_cut(Txn* t, Tree* tree, uint32_t size, Leaf leaf, uint64_t begin, uint64_t end, int64_t most) noexcept nogil

# Take an owner from a tree; what it alone pointed at loses one in turn, trees of mappings in LEAF_TREES among it
cdef int tree_drop(Txn* t, uint64_t root, uint32_t size, Leaf leaf) noexcept nogil
