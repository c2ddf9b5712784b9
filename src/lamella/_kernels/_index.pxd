"""An open-addressing index of rows by path, over memory that the caller owns.

``slots`` has a power of two of items, each 0 (free) or a row number + 1; ``mask`` is their count - 1. Paths are
compared in the arena, so an entry costs its slot and nothing else. ``seed`` is secret to the process: hostile names
cannot be chosen to collide. The caller keeps the index at most 3/4 full; a full one would not end a search.
"""
cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy
from lamella._kernels._rows cimport Rows, row_path

cdef extern from *:
    """
    static inline unsigned long long lamella_mix(unsigned long long a, unsigned long long b) {
        __uint128_t r = (__uint128_t)a * b; return (unsigned long long)r ^ (unsigned long long)(r >> 64);
    }
    """
    uint64_t lamella_mix(uint64_t a, uint64_t b) noexcept nogil


@cython.overflowcheck(False)    # a hash is meant to wrap
cdef inline uint64_t path_hash(const uint8_t* p, Py_ssize_t n, uint64_t seed) noexcept nogil:
    """Hash ``n`` bytes; multiply-and-fold over 8-byte words, keyed by ``seed``."""
    cdef uint64_t h = seed ^ (<uint64_t>n * 0x9E3779B97F4A7C15ULL)
    cdef uint64_t w
    while n >= 8:
        memcpy(&w, p, 8)
        h = lamella_mix(h ^ w, 0xA0761D6478BD642FULL ^ seed)
        p += 8
        n -= 8
    w = 0
    if n:
        memcpy(&w, p, n)
    return lamella_mix(h ^ w ^ 0xE7037ED1A0B428DBULL, 0x8EBC6AF09C88C6E3ULL ^ seed)

cdef inline int64_t index_find(const uint32_t* slots, uint64_t mask, uint64_t seed, const Rows* r,
                               const uint8_t* p, Py_ssize_t n) noexcept nogil:
    """Return the row whose path is ``p[:n]``, or -1."""
    cdef uint64_t at = path_hash(p, n, seed) & mask
    cdef uint64_t probes = 0
    cdef const uint8_t* q
    cdef Py_ssize_t m, row
    while slots[at] != 0 and probes <= mask:
        row = <Py_ssize_t>slots[at] - 1
        if row < r.cap and row_path(r, row, &q, &m) == 0 and m == n and memcmp(p, q, n) == 0:
            return row
        at = (at + 1) & mask
        probes += 1
    return -1

cdef inline int64_t index_put(uint32_t* slots, uint64_t mask, uint64_t seed, const Rows* r,
                              Py_ssize_t row) noexcept nogil:
    """Make ``row`` (< 2**32 - 1) the one found for its path: the row it takes over from, -1 if new, -2 if it cannot."""
    cdef const uint8_t* p
    cdef const uint8_t* q
    cdef Py_ssize_t n, m, other
    cdef uint64_t at, probes = 0
    if row_path(r, row, &p, &n) < 0:
        return -2
    at = path_hash(p, n, seed) & mask
    while slots[at] != 0:
        other = <Py_ssize_t>slots[at] - 1
        if other < r.cap and row_path(r, other, &q, &m) == 0 and m == n and memcmp(p, q, n) == 0:
            slots[at] = <uint32_t>(row + 1)
            return other
        at = (at + 1) & mask
        probes += 1
        if probes > mask:
            return -2
    slots[at] = <uint32_t>(row + 1)
    return -1
