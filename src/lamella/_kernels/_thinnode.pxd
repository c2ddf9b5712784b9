"""Edits of tree nodes in place: entries in, out, and from one node to another.

The caller says that a node may be changed and that there is room; places are bounded all the same (``node_n`` and
``node_max``), so that a wrong one stays in the node's block or the SLACK behind the buffer.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove, memset
from lamella._kernels._thindisk cimport (
    META_BLOCK, NODE_HEADER, node_find, node_fits, node_key, node_max, node_n, node_size, put32, put64)

cdef inline void node_begin(uint8_t* node, uint64_t number, uint32_t flags, uint32_t size) noexcept nogil:
    """Make an empty node."""
    memset(node, 0, META_BLOCK)
    put32(node + 4, flags)
    put64(node + 8, number)
    put32(node + 20, node_fits(size))
    put32(node + 24, size)

cdef inline void node_count(uint8_t* node, uint32_t n) noexcept nogil:
    """Say how many entries are in use."""
    put32(node + 16, n)

cdef inline uint8_t* node_key_at(uint8_t* node, uint32_t i) noexcept nogil:
    return node + NODE_HEADER + 8 * <size_t>i

cdef inline uint8_t* node_at(uint8_t* node, uint32_t i) noexcept nogil:
    """Return the place of value ``i``."""
    return node + NODE_HEADER + 8 * <size_t>node_max(node) + node_size(node) * <size_t>i

cdef inline bint node_full(const uint8_t* node) noexcept nogil:
    return node_n(node) >= node_max(node)

cdef inline void node_insert(uint8_t* node, uint32_t i, uint64_t key, const uint8_t* value) noexcept nogil:
    """Put an entry in at ``i``, at most the number of entries; the node is not full."""
    cdef uint32_t n = node_n(node), size = node_size(node)
    cdef size_t rest = n - min(i, n)
    i = min(i, n)
    memmove(node_key_at(node, i + 1), node_key_at(node, i), 8 * rest)
    memmove(node_at(node, i + 1), node_at(node, i), size * rest)
    put64(node_key_at(node, i), key)
    memcpy(node_at(node, i), value, size)
    node_count(node, n + 1)

cdef inline void node_erase(uint8_t* node, uint32_t i, uint32_t j) noexcept nogil:
    """Take entries [i, j) out."""
    cdef uint32_t n = node_n(node), size = node_size(node)
    cdef size_t rest
    j = min(j, n)
    i = min(i, j)
    rest = n - j
    memmove(node_key_at(node, i), node_key_at(node, j), 8 * rest)
    memmove(node_at(node, i), node_at(node, j), size * rest)
    node_count(node, n - (j - i))

cdef inline void node_append(uint8_t* to, const uint8_t* node, uint32_t i, uint32_t j) noexcept nogil:
    """Copy entries [i, j) of another node of that size behind those of ``to``."""
    cdef uint32_t n = node_n(to), size = node_size(to), k
    j = min(j, node_n(node))
    i = min(i, j)
    k = min(j - i, node_max(to) - min(n, node_max(to)))
    memcpy(node_key_at(to, n), node_key_at(<uint8_t*>node, i), 8 * <size_t>k)
    memcpy(node_at(to, n), node_at(<uint8_t*>node, i), size * <size_t>k)
    node_count(to, n + k)

cdef inline void node_prepend(uint8_t* to, const uint8_t* node, uint32_t i) noexcept nogil:
    """Copy the entries of another node from ``i`` on before those of ``to``."""
    cdef uint32_t n = node_n(to), size = node_size(to), k = node_n(node) - min(i, node_n(node))
    k = min(k, node_max(to) - min(n, node_max(to)))
    memmove(node_key_at(to, k), node_key_at(to, 0), 8 * <size_t>n)
    memmove(node_at(to, k), node_at(to, 0), size * <size_t>n)
    memcpy(node_key_at(to, 0), node_key_at(<uint8_t*>node, i), 8 * <size_t>k)
    memcpy(node_at(to, 0), node_at(<uint8_t*>node, i), size * <size_t>k)
    node_count(to, n + k)

cdef inline int64_t node_seek(const uint8_t* node, uint64_t key) noexcept nogil:
    """``node_find``, quick where keys follow each other without gaps."""
    cdef uint64_t first = node_key(node, 0)
    if key >= first and key - first < node_n(node) and node_key(node, <uint32_t>(key - first)) == key:
        return <int64_t>(key - first)
    return node_find(node, key)
