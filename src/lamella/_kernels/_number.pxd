"""Numbers as archives spell them: octal and base-256 header fields, decimal pax values, pax times.

Every function returns 0, or -1 where the bytes are no such number or it does not fit; ``out`` is then unchanged.
"""
from libc.stdint cimport INT64_MAX, INT64_MIN, int64_t, uint8_t, uint32_t, uint64_t
from lamella._kernels._cursor cimport Slice, slice_is

cdef inline int number_field(const uint8_t* p, int n, int64_t* out) noexcept nogil:
    """Read a numeric header field of ``n`` <= 12 bytes (pax(1) "ustar Interchange Format"; GNU tar manual, base-256).

    Octal digits behind spaces or NULs, ended by spaces, a NUL or the field's end; blank is 0. A first byte of 0x80 or
    more starts a two's-complement number, big endian, whose sign is the bit below.
    """
    cdef int i = 0
    cdef uint64_t x = 0
    cdef uint8_t inverse
    if p[0] & 0x80:
        inverse = 0xFF if p[0] & 0x40 else 0
        x = (p[0] ^ inverse) & 0x7F
        for i in range(1, n):
            if x >> 55:
                return -1
            x = (x << 8) | (p[i] ^ inverse)
        out[0] = -<int64_t>x - 1 if inverse else <int64_t>x
        return 0
    while i < n and (p[i] == 32 or p[i] == 0):
        i += 1
    while i < n and p[i] & 0xF8 == 48:
        x = (x << 3) | (p[i] & 7)
        i += 1
    while i < n and p[i] == 32:
        i += 1
    if i < n and p[i] != 0:
        return -1
    out[0] = <int64_t>x
    return 0

cdef inline int number_decimal(const Slice* s, int64_t* out) noexcept nogil:
    """Read ASCII digits, one at least and nothing else, up to 2**63 - 1."""
    cdef Py_ssize_t i
    cdef int64_t x = 0
    cdef int digit
    if s.n == 0:
        return -1
    for i in range(s.n):
        digit = <int>s.p[i] - 48
        if digit < 0 or digit > 9 or x > (INT64_MAX - digit) // 10:
            return -1
        x = x * 10 + digit
    out[0] = x
    return 0

cdef inline int _fraction(const uint8_t* p, Py_ssize_t n, uint32_t* nsec, bint* more) noexcept nogil:
    # nine digits of a fraction; ``more``: a digit other than 0 follows them
    cdef Py_ssize_t i
    cdef uint32_t x = 0
    more[0] = False
    for i in range(n if n > 9 else 9):
        if i >= n:
            x *= 10
        elif p[i] < 48 or p[i] > 57:
            return -1
        elif i < 9:
            x = x * 10 + (p[i] - 48)
        else:
            more[0] |= p[i] != 48
    nsec[0] = x
    return 0

cdef inline int number_time(const Slice* s, int64_t* seconds, uint32_t* nsec) noexcept nogil:
    """Read a pax time ``[-]digits[.digits]`` (pax(1) "mtime"), rounded down to a nanosecond; nsec is 0 to 999,999,999."""
    cdef Slice whole = s[0]
    cdef Py_ssize_t dot = 0
    cdef int64_t x = 0
    cdef uint32_t ns = 0
    cdef bint negative = s.n > 0 and s.p[0] == 45, more = False
    if negative:
        whole.p += 1
        whole.n -= 1
    while dot < whole.n and whole.p[dot] != 46:
        dot += 1
    if dot < whole.n and _fraction(whole.p + dot + 1, whole.n - dot - 1, &ns, &more) < 0:
        return -1
    whole.n = dot
    if number_decimal(&whole, &x) < 0:
        if not (negative and slice_is(&whole, b"9223372036854775808", 19) and ns == 0 and not more):
            return -1
        seconds[0] = INT64_MIN
        nsec[0] = 0
        return 0
    if negative:
        x = -x
        ns += more
        if ns:
            x -= 1       # x >= -(2**63 - 1): it cannot overflow
            ns = 1_000_000_000 - ns
    seconds[0] = x
    nsec[0] = ns
    return 0
