"""A bounded cursor and a bounded slice: how cores walk bytes they do not trust.

``p <= end`` always; a read first asks how much is left. A Slice with ``p`` NULL is "absent", one with ``n`` 0 is "empty".
"""
from libc.stdint cimport uint8_t
from libc.string cimport memchr, memcmp

cdef struct Cursor:
    const uint8_t* p
    const uint8_t* end

cdef struct Slice:
    const uint8_t* p
    Py_ssize_t n

cdef inline Slice slice_of(const uint8_t* p, Py_ssize_t n) noexcept nogil:
    """Return ``p[:n]``."""
    cdef Slice s
    s.p = p
    s.n = n
    return s

cdef inline Slice slice_text(const uint8_t* p, Py_ssize_t n) noexcept nogil:
    """Return ``p[:n]`` up to its first NUL, as header fields hold text."""
    cdef const uint8_t* end = <const uint8_t*>memchr(p, 0, n) if n else NULL
    return slice_of(p, n if end == NULL else end - p)

cdef inline bint slice_is(const Slice* s, const char* text, Py_ssize_t n) noexcept nogil:
    """Tell whether the slice is exactly ``text[:n]``; an absent one is nothing."""
    return s.p != NULL and s.n == n and memcmp(s.p, text, n) == 0

cdef inline bint slice_starts(const Slice* s, const char* text, Py_ssize_t n) noexcept nogil:
    """Tell whether the slice begins with ``text[:n]``."""
    return s.n >= n and memcmp(s.p, text, n) == 0
