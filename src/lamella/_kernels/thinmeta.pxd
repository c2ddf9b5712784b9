"""Read dm-thin metadata: the mappings of a device as runs, and the entries of any tree.

Buffers: ``arena``, ``state`` and ``window`` as in _thinblocks.pxd, with the descriptor that blocks come from; ``cursor``,
``CURSOR`` int64 that open_walk() fills and that belong to one walk and one window; columns of one length, which are filled
from the start. An answer shorter than the columns is the last one.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from lamella._kernels._thinblocks cimport Meta
from lamella._kernels._thinwalk cimport Walk

cdef struct Extents:             # columns of runs
    int64_t* begin
    int64_t* data
    int64_t* length
    int64_t* time
    int64_t cap

# rows filled, fewer than ``cap`` only at the end; -1 and a fault in ``m``
cdef int64_t fill_extents(Meta* m, Walk* w, const Extents* out, int64_t n_data) noexcept nogil
cdef int64_t fill_entries(Meta* m, Walk* w, uint32_t size, int64_t* keys, uint8_t* values, int64_t cap) noexcept nogil
