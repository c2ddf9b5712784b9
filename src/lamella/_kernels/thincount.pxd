"""Count references: to metadata blocks from trees, to data blocks from leaves, and what space maps say of both.

A block counts a reference each time a node, a root or an index points at it; what lies below a node is counted when it is
first met, as dm-thin counts. So a data block's count is the number of leaves' entries that point at it, and each node is
read once. A node that cannot be used is a fault; the walk is then past it and can be called again.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from lamella._kernels._thinblocks cimport Meta
from lamella._kernels._thinwalk cimport Walk

# a count that a bitmap leaves to the tree of counts is the greatest there is
cdef inline uint32_t in_tree() noexcept nogil:
    return 0xFFFFFFFFu

cdef struct Count:
    uint32_t* uses               # per metadata block: references
    uint8_t* kinds               # ... what it was first met as, 0: not met
    int64_t* keys                # ... first and last key of a node
    uint32_t* data               # per data block: references; NULL: they are not counted
    int64_t n_data               # data blocks; less than 0: values are not mappings
    uint32_t size                # bytes of a value
    uint8_t kind

# 0 at the end; -1 with a fault in ``m``: the walk is past it, the keys that are lost are in its ``begin`` and ``data``
cdef int count_tree(Meta* m, Walk* w, Count* c) noexcept nogil
