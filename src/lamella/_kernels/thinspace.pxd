"""Space maps of thin metadata: how many owners each block has, for data blocks and for metadata's own. Reads metadata only.

Two bits a block in bitmaps, and a tree for counts above two. Data: bitmaps are changed as blocks are, and a tree finds
them, which is written when the transaction ends. Metadata: counts are a column while a pool is open; to write them takes
blocks, which changes counts, so it goes round until nothing has changed.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from lamella._kernels._thintxn cimport Txn

# Count a data block up or down by one; -1 and a fault (FAULT_VALUE: there is no such block)
cdef int data_change(Txn* t, uint64_t block, int change) noexcept nogil

# The same for entries [i, j) of a leaf of mappings: the hook ``owners`` of a transaction
cdef int data_owners(Txn* t, const uint8_t* leaf, uint32_t i, uint32_t j, int change) noexcept nogil

# Take a data block that is free in this transaction and in the committed one, with one owner; -1 and a fault
cdef int64_t data_new(Txn* t) noexcept nogil
