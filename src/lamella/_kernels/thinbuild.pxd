"""New blocks of dm-thin metadata, made in their final order: leaves of mappings, other tree nodes, bitmaps.

Nodes of a tree are built from the bottom: ``pack_runs`` makes leaves as mappings come and tells first key and number of
each; ``pack_entries`` makes nodes of entries that are all there, of such a list also, until one node is left, the root.
Nodes are packed full. No node but a root may have less than a third of what fits, and how many entries are to come is not
known in time: so a leaf is made when what is left would fill a third of another, and the last two share evenly.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    LEAF_FULL = 252              # mappings in a leaf
    LEAF_WAITING = 336           # ... and a third: one leaf is made then

cdef struct Packer:              # of one tree; zeros at the beginning, but for ``next_block``
    int64_t row                  # in the runs: where to go on
    int64_t used                 # blocks of that row that are done
    int64_t n_waiting
    uint64_t next_key            # keys below have been
    int64_t n_mapped
    int64_t next_block           # number of the next node
    uint64_t keys[LEAF_WAITING]
    uint64_t values[LEAF_WAITING]

cdef struct Nodes:               # the output: places of META_BLOCK bytes, and first keys and numbers of the nodes there
    uint8_t* blocks
    uint64_t* keys
    uint64_t* numbers
    Py_ssize_t n
    Py_ssize_t cap

# Take runs from ``at.row`` on, count their data blocks, and make the leaves that are full. OK, OUTPUT_FULL; BAD_FORMAT
# where row ``at.row`` does not ascend or is of no length; OVER_LIMIT where its data lies beyond ``n_data`` blocks.
cdef int pack_runs(Packer* at, const int64_t* thin, const int64_t* data, const int64_t* length, const int64_t* time,
                   Py_ssize_t n, uint32_t* counts, int64_t n_data, Nodes* out) noexcept nogil

# Make the leaves of what waits: one, or two; one without entries where there was nothing at all. OK, OUTPUT_FULL.
cdef int pack_rest(Packer* at, Nodes* out) noexcept nogil

# Make nodes of ``n`` entries with values of ``size`` bytes, from node ``first`` on, numbered from ``number``; all share
# the entries evenly. OK, OUTPUT_FULL.
cdef int pack_entries(const uint64_t* keys, const uint8_t* values, int64_t n, uint32_t size, uint32_t flags, int64_t first,
                      uint64_t number, Nodes* out) noexcept nogil

# Make the bitmap block of ``n`` counts, at most BITMAP_COUNTS, and its index entry of ENTRY_SIZE bytes. What is behind the
# last count is free, as the kernel counts.
cdef void pack_bitmap(const uint32_t* counts, Py_ssize_t n, uint64_t number, uint8_t* block, uint8_t* entry) noexcept nogil
