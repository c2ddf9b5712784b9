"""Walk trees of dm-thin metadata: see thinmeta.pxd for the contract."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from lamella._kernels._thinblocks cimport CHECKED, HELD, Meta, meta_acquire, meta_block, meta_fail, meta_raise
from lamella._kernels._thindisk cimport (
    DETAILS_SIZE, FAULT_NONE, FAULT_VALUE, MAPPING_SIZE, META_BLOCK, SALT_INDEX as _INDEX, SALT_SUPERBLOCK as _SUPERBLOCK, TIME_BITS,
    block_seal, get64, node_key, node_n, node_value)
from lamella._kernels._thinwalk cimport KEY_MOST, Level, Walk, walk_acquire, walk_leaf, walk_open, walk_release, walk_up

CURSOR = sizeof(Walk) // 8
SALT_SUPERBLOCK, SALT_INDEX = _SUPERBLOCK, _INDEX


# -- mappings ------------------------------------------------------------------------------------------------------

cdef inline void _put(const Extents* out, int64_t at, const Walk* w) noexcept nogil:
    out.begin[at], out.data[at], out.length[at], out.time[at] = w.begin, w.data, w.length, w.time


cdef int64_t _leaf_extents(Walk* w, const uint8_t* leaf, const Extents* out, int64_t n, int64_t n_data) noexcept nogil:
    """Take mappings of ``leaf`` until it ends or no row is left; rows filled so far, -1 where a value lies outside the pool."""
    cdef Level* top = &w.path[w.depth - 1]
    cdef int64_t i = top.index, count = node_n(leaf), key, data, time
    cdef const uint8_t* values = node_value(leaf, 0)
    cdef uint64_t value
    while i < count:
        key = <int64_t>node_key(leaf, <uint32_t>i)
        value = get64(values + i * MAPPING_SIZE)
        data, time = <int64_t>(value >> TIME_BITS), <int64_t>(value & ((1 << TIME_BITS) - 1))
        if data >= n_data:
            return -1
        if key - w.begin == w.length and data - w.data == w.length and time == w.time and w.length > 0:
            w.length += 1
        else:
            if w.length > 0:
                if n >= out.cap:
                    break
                _put(out, n, w)
                n += 1
            w.begin, w.data, w.length, w.time = key, data, 1, time
        i += 1
    top.index = i
    return n


cdef int64_t fill_extents(Meta* m, Walk* w, const Extents* out, int64_t n_data) noexcept nogil:
    cdef int64_t n = 0, got
    cdef const uint8_t* leaf = walk_leaf(m, w, MAPPING_SIZE)
    while leaf != NULL:
        got = _leaf_extents(w, leaf, out, n, n_data)
        if got < 0:
            return meta_fail(m, <uint64_t>w.path[w.depth - 1].block, FAULT_VALUE)
        n = got
        if w.path[w.depth - 1].index < node_n(leaf):
            return n
        walk_up(w)
        leaf = walk_leaf(m, w, MAPPING_SIZE)
    if m.fault != FAULT_NONE:
        return -1
    if w.length > 0 and n < out.cap:
        _put(out, n, w)
        w.length = 0
        n += 1
    return n


# -- entries of any tree -------------------------------------------------------------------------------------------

cdef int64_t fill_entries(Meta* m, Walk* w, uint32_t size, int64_t* keys, uint8_t* values, int64_t cap) noexcept nogil:
    cdef int64_t n = 0, i
    cdef Level* top
    cdef const uint8_t* leaf = walk_leaf(m, w, size)
    while leaf != NULL:
        top = &w.path[w.depth - 1]
        i = top.index
        while i < node_n(leaf) and n < cap:
            keys[n] = <int64_t>node_key(leaf, <uint32_t>i)
            memcpy(values + n * size, node_value(leaf, <uint32_t>i), size)
            n += 1
            i += 1
        top.index = i
        if i < node_n(leaf):
            return n
        walk_up(w)
        leaf = walk_leaf(m, w, size)
    return -1 if m.fault != FAULT_NONE else n


# -- the Python side -----------------------------------------------------------------------------------------------

def load(uint8_t[::1] arena not None, uint8_t[::1] state not None, int fd, uint64_t number, uint32_t salt):
    """Have block ``number`` of the kind that ``salt`` says in its place, read if need be and checked; raise what is wrong."""
    cdef Meta m
    cdef const uint8_t* block
    meta_acquire(&m, arena, state, None, fd)
    with nogil:
        block = meta_block(&m, number, salt)
    if block == NULL:
        meta_raise(&m)


def seal(uint8_t[::1] block not None, uint64_t number, uint32_t salt):
    """Write a block's own number and the checksum of its kind into it."""
    if block.shape[0] != META_BLOCK:
        raise ValueError(f"a block has {META_BLOCK} bytes")
    block_seal(&block[0], number, salt)


def open_walk(int64_t[::1] cursor not None, uint64_t root):
    """Begin a walk at block ``root``."""
    if cursor.shape[0] < CURSOR:
        raise ValueError(f"a cursor has {CURSOR} numbers")
    walk_open(<Walk*>&cursor[0], root)


def extents(uint8_t[::1] arena not None, uint8_t[::1] state not None, uint8_t[::1] window, int fd,
            int64_t[::1] cursor not None, int64_t[::1] begin not None, int64_t[::1] data not None,
            int64_t[::1] length not None, int64_t[::1] time not None, int64_t n_data):
    """Fill columns with runs of mappings (blocks and data blocks that follow each other, of one time); return how many.

    A data block at or behind ``n_data`` is an error. A run is not cut where the columns end.
    """
    cdef Meta m
    cdef Walk* w = NULL
    cdef Extents out
    cdef int64_t n
    meta_acquire(&m, arena, state, window, fd)
    walk_acquire(&w, cursor, &m)
    out.cap = begin.shape[0]
    if out.cap < 1 or data.shape[0] != out.cap or length.shape[0] != out.cap or time.shape[0] != out.cap:
        raise ValueError("columns are of one length, at least 1")
    if not 0 <= w.length <= <int64_t>KEY_MOST or w.begin < 0 or w.data < 0:
        raise ValueError("not a cursor of a walk")
    out.begin, out.data, out.length, out.time = &begin[0], &data[0], &length[0], &time[0]
    with nogil:
        n = fill_extents(&m, w, &out, n_data)
    walk_release(w, &m)
    if n < 0:
        meta_raise(&m)
    return n


def entries(uint8_t[::1] arena not None, uint8_t[::1] state not None, uint8_t[::1] window, int fd,
            int64_t[::1] cursor not None, int64_t[::1] keys not None, uint8_t[:, ::1] values not None):
    """Fill ``keys``, and ``values`` with a row of bytes for each, from a tree with values of that size; return how many."""
    cdef Meta m
    cdef Walk* w = NULL
    cdef int64_t n, cap = keys.shape[0]
    cdef Py_ssize_t size = values.shape[1]
    meta_acquire(&m, arena, state, window, fd)
    walk_acquire(&w, cursor, &m)
    if cap < 1 or values.shape[0] != cap or not 1 <= size <= DETAILS_SIZE:
        raise ValueError(f"columns are of one length, at least 1, and values of 1 to {DETAILS_SIZE} bytes")
    with nogil:
        n = fill_entries(&m, w, <uint32_t>size, &keys[0], &values[0, 0], cap)
    walk_release(w, &m)
    if n < 0:
        meta_raise(&m)
    return n
