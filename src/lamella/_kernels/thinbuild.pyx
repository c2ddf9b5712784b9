"""New metadata blocks: see thinbuild.pxd for the contract."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove, memset
from lamella._kernels._status cimport BAD_FORMAT, OK, OUTPUT_FULL, OVER_LIMIT
from lamella._kernels._thindisk cimport (
    BITMAP_COUNTS as _BITMAP_COUNTS, ENTRY_SIZE, INDEX_ENTRIES as _INDEX_ENTRIES, INDEX_HEADER, MAPPING_SIZE, META_BLOCK,
    NODE_INTERNAL, NODE_LEAF, SALT_BITMAP, SALT_INDEX, SALT_NODE, TIME_BITS, bitmap_put, block_seal, node_fits, put32, put64)
from lamella._kernels._thinnode cimport node_at, node_begin, node_count, node_key_at

PACKER_NBYTES, BLOCK_NBYTES, ENTRY_NBYTES = sizeof(Packer), META_BLOCK, ENTRY_SIZE
BITMAP_COUNTS, INDEX_ENTRIES = _BITMAP_COUNTS, _INDEX_ENTRIES


# -- tree nodes ----------------------------------------------------------------------------------------------------

cdef void _node(const uint64_t* keys, const uint8_t* values, uint32_t n, uint32_t size, uint32_t flags, uint64_t number,
                uint8_t* node) noexcept nogil:
    """Write a node; values are as they stand on disk."""
    cdef uint32_t i
    node_begin(node, number, flags, size)
    node_count(node, n)
    for i in range(n):
        put64(node_key_at(node, i), keys[i])
    memcpy(node_at(node, 0), values, n * <size_t>size)
    block_seal(node, number, SALT_NODE)


cdef bint _add(Nodes* out, const uint64_t* keys, const uint8_t* values, uint32_t n, uint32_t size, uint32_t flags,
               uint64_t number) noexcept nogil:
    """Add a node to the output; False where it is full."""
    if out.n >= out.cap:
        return False
    _node(keys, values, n, size, flags, number, out.blocks + out.n * META_BLOCK)
    out.keys[out.n] = keys[0] if n else 0
    out.numbers[out.n] = number
    out.n += 1
    return True


cdef bint _leaf(Packer* at, uint32_t n, Nodes* out) noexcept nogil:
    """Make a leaf of the first ``n`` mappings that wait; False where the output is full."""
    if not _add(out, at.keys, <const uint8_t*>at.values, n, MAPPING_SIZE, NODE_LEAF, <uint64_t>at.next_block):
        return False
    at.next_block += 1
    at.n_waiting -= n
    memmove(at.keys, at.keys + n, at.n_waiting * 8)
    memmove(at.values, at.values + n, at.n_waiting * 8)
    return True


cdef int pack_runs(Packer* at, const int64_t* thin, const int64_t* data, const int64_t* length, const int64_t* time,
                   Py_ssize_t n, uint32_t* counts, int64_t n_data, Nodes* out) noexcept nogil:
    cdef int64_t k, more, run, place
    cdef uint64_t key, value
    while at.row < n:
        run, place, key = length[at.row], data[at.row], <uint64_t>thin[at.row]
        if at.used == 0 and (run < 1 or thin[at.row] < 0 or key < at.next_key):
            return BAD_FORMAT
        if place < 0 or run > n_data or place > n_data - run or not 0 <= at.used <= run:
            return OVER_LIMIT
        while at.used < run:
            if at.n_waiting == LEAF_WAITING and not _leaf(at, LEAF_FULL, out):
                return OUTPUT_FULL
            more = min(run - at.used, LEAF_WAITING - at.n_waiting)
            value = <uint64_t>(place + at.used) << TIME_BITS | <uint64_t>(time[at.row] & 0xFFFFFF)
            for k in range(more):
                at.keys[at.n_waiting + k] = key + <uint64_t>(at.used + k)
                put64(<uint8_t*>&at.values[at.n_waiting + k], value + (<uint64_t>k << TIME_BITS))
            for k in range(more):
                counts[place + at.used + k] += 1
            at.n_waiting += more
            at.used += more
        at.n_mapped += run
        at.next_key = key + <uint64_t>run
        at.row += 1
        at.used = 0
    at.row = 0
    return OK


cdef int pack_rest(Packer* at, Nodes* out) noexcept nogil:
    cdef int64_t first = at.n_waiting if at.n_waiting <= LEAF_FULL else at.n_waiting - at.n_waiting // 2
    if out.cap - out.n < 2:
        return OUTPUT_FULL
    _leaf(at, <uint32_t>first, out)
    if at.n_waiting:
        _leaf(at, <uint32_t>at.n_waiting, out)
    return OK


cdef int64_t _share(int64_t i, int64_t n, int64_t parts) noexcept nogil:
    """Return where part ``i`` of ``n`` things begins."""
    return i * (n // parts) + min(i, n % parts)


cdef inline int64_t _n_nodes(int64_t n, uint32_t size) noexcept nogil:
    return max(1, (n + node_fits(size) - 1) // node_fits(size))


cdef int pack_entries(const uint64_t* keys, const uint8_t* values, int64_t n, uint32_t size, uint32_t flags, int64_t first,
                      uint64_t number, Nodes* out) noexcept nogil:
    cdef int64_t parts = _n_nodes(n, size), i, begin, end
    for i in range(first, parts):
        begin, end = _share(i, n, parts), _share(i + 1, n, parts)
        if not _add(out, keys + begin, values + begin * size, <uint32_t>(end - begin), size, flags, number):
            return OUTPUT_FULL
        number += 1
    return OK


# -- space maps ----------------------------------------------------------------------------------------------------

cdef void pack_bitmap(const uint32_t* counts, Py_ssize_t n, uint64_t number, uint8_t* block, uint8_t* entry) noexcept nogil:
    cdef Py_ssize_t i, first_free = -1
    cdef uint32_t count, n_free = 0
    memset(block, 0, META_BLOCK)
    for i in range(n):
        count = min(counts[i], <uint32_t>3)
        if count == 0:
            n_free += 1
            if first_free < 0:
                first_free = i
        bitmap_put(block, <uint32_t>i, count)
    put64(entry, number)
    put32(entry + 8, n_free + <uint32_t>(_BITMAP_COUNTS - n))
    put32(entry + 12, <uint32_t>(first_free if first_free >= 0 else n))
    block_seal(block, number, SALT_BITMAP)


# -- the Python side -----------------------------------------------------------------------------------------------

cdef Packer* _packer(uint8_t[::1] state) except NULL:
    cdef Packer* at
    if state.shape[0] < <Py_ssize_t>sizeof(Packer):
        raise ValueError(f"a state has {sizeof(Packer)} bytes")
    at = <Packer*>&state[0]
    if not 0 <= at.n_waiting <= LEAF_WAITING or at.row < 0:
        raise ValueError("not a state of open_packer()")
    return at


cdef int _nodes(Nodes* out, uint8_t[::1] blocks, uint64_t[::1] keys, uint64_t[::1] numbers) except -1:
    out.n = 0
    out.cap = min(blocks.shape[0] // META_BLOCK, keys.shape[0], numbers.shape[0])
    if out.cap < 2:
        raise ValueError("no room for two blocks")
    out.blocks, out.keys, out.numbers = &blocks[0], &keys[0], &numbers[0]
    return 0


def open_packer(uint8_t[::1] state not None, int64_t next_block):
    """Begin a tree whose first node is block ``next_block``."""
    if state.shape[0] < <Py_ssize_t>sizeof(Packer):
        raise ValueError(f"a state has {sizeof(Packer)} bytes")
    state[:] = 0
    (<Packer*>&state[0]).next_block = next_block


def leaves(uint8_t[::1] state not None, const int64_t[::1] thin not None, const int64_t[::1] data not None,
           const int64_t[::1] length not None, const int64_t[::1] time not None, uint32_t[::1] counts not None,
           uint8_t[::1] blocks not None, uint64_t[::1] keys not None, uint64_t[::1] numbers not None):
    """Take runs; return (leaves made, all taken?). FormatError: a run that does not ascend, or lies beyond ``counts``."""
    from lamella.errors import FormatError
    cdef Packer* at = _packer(state)
    cdef Nodes out
    cdef Py_ssize_t n = thin.shape[0]
    cdef int64_t n_data = counts.shape[0]
    cdef int got
    cdef uint32_t none = 0
    if data.shape[0] != n or length.shape[0] != n or time.shape[0] != n:
        raise ValueError("columns of one map are of one length")
    _nodes(&out, blocks, keys, numbers)
    if n == 0:
        return 0, True
    with nogil:
        got = pack_runs(at, &thin[0], &data[0], &length[0], &time[0], n, &counts[0] if n_data else &none, n_data, &out)
    if got == OVER_LIMIT:
        last = data[at.row] + max(length[at.row], 1) - 1
        raise FormatError(f"mapping beyond end of data device ({last} >= {n_data})")
    if got == BAD_FORMAT:
        raise FormatError(f"mappings do not ascend: block {thin[at.row]} after block {<int64_t>at.next_key - 1}")
    return out.n, got == OK


def last_leaves(uint8_t[::1] state not None, uint8_t[::1] blocks not None, uint64_t[::1] keys not None,
                uint64_t[::1] numbers not None):
    """End the tree's leaves; return (leaves made, blocks mapped in all, number of the next node)."""
    cdef Packer* at = _packer(state)
    cdef Nodes out
    _nodes(&out, blocks, keys, numbers)
    with nogil:
        pack_rest(at, &out)
    return out.n, at.n_mapped, at.next_block


def n_nodes(int64_t n, uint32_t size):
    """Return how many nodes ``n`` entries take."""
    return _n_nodes(n, size)


def nodes(const uint64_t[::1] entry_keys not None, const uint8_t[::1] values not None, uint32_t size, bint leaf,
          int64_t first, uint64_t number, uint8_t[::1] blocks not None, uint64_t[::1] keys not None,
          uint64_t[::1] numbers not None):
    """Make nodes of entries, from node ``first`` on, as many as there is room for; return how many."""
    cdef Nodes out
    cdef Py_ssize_t n = entry_keys.shape[0]
    cdef uint64_t no_key = 0
    cdef uint8_t no_value = 0
    if not 1 <= size <= 24 or values.shape[0] != n * <Py_ssize_t>size or first < 0:
        raise ValueError(f"{n} keys want values of {size} bytes")
    _nodes(&out, blocks, keys, numbers)
    with nogil:
        pack_entries(&entry_keys[0] if n else &no_key, &values[0] if n else &no_value, n, size,
                     NODE_LEAF if leaf else NODE_INTERNAL, first, number, &out)
    return out.n


def bitmaps(const uint32_t[::1] counts not None, uint64_t number, uint8_t[::1] blocks not None,
            uint8_t[::1] entries not None):
    """Make the bitmap blocks of counts, numbered from ``number``, and their index entries."""
    cdef Py_ssize_t n = counts.shape[0], parts = (n + _BITMAP_COUNTS - 1) // _BITMAP_COUNTS, i
    if blocks.shape[0] < parts * META_BLOCK or entries.shape[0] < parts * ENTRY_SIZE:
        raise ValueError(f"no room for {parts} bitmaps")
    with nogil:
        for i in range(parts):
            pack_bitmap(&counts[i * _BITMAP_COUNTS], min(n - i * _BITMAP_COUNTS, <Py_ssize_t>_BITMAP_COUNTS),
                        number + <uint64_t>i, &blocks[i * META_BLOCK], &entries[i * ENTRY_SIZE])


def index(const uint8_t[::1] entries not None, uint64_t number, uint8_t[::1] block not None):
    """Make the one index block of a metadata space map."""
    cdef Py_ssize_t n = entries.shape[0]
    if block.shape[0] < META_BLOCK or n > _INDEX_ENTRIES * ENTRY_SIZE:
        raise ValueError(f"an index block has {INDEX_ENTRIES} entries")
    block[:META_BLOCK] = 0
    if n:
        memcpy(&block[INDEX_HEADER], &entries[0], n)
    block_seal(&block[0], number, SALT_INDEX)
