"""Bounded output of text: decimal numbers, pax times, pax records, lines of a sparse map.

An Out that cannot take a piece becomes ``full`` and takes nothing more, so a core writes on and asks once, at the end.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, strlen
from lamella._kernels._rows cimport ExtItem

cdef enum:
    NSEC_PER_SEC = 1_000_000_000

cdef struct Out:
    uint8_t* p
    Py_ssize_t cap
    Py_ssize_t n
    bint full                    # something did not fit: nothing more is written

cdef inline uint8_t* room(Out* o, Py_ssize_t n) noexcept nogil:
    """Take ``n`` bytes, for the caller to write; NULL where they do not fit."""
    if o.full or o.cap - o.n < n:
        o.full = True
        return NULL
    o.n += n
    return o.p + o.n - n

cdef inline int n_digits(uint64_t v) noexcept nogil:
    cdef int n = 1
    while v >= 10:
        v //= 10
        n += 1
    return n

cdef inline int put_decimal(uint8_t* p, uint64_t v) noexcept nogil:
    """Write at most 20 bytes; return their number."""
    cdef int n = n_digits(v), i = n
    while i:
        i -= 1
        p[i] = <uint8_t>(48 + v % 10)
        v //= 10
    return n

cdef inline int put_time_text(uint8_t* p, int64_t seconds, uint32_t nsec) noexcept nogil:
    """Write seconds + nsec / 1e9 (nsec < 1e9) exactly: -2 and 250,000,000 are -1.75. At most 30 bytes, their number."""
    cdef uint64_t whole = <uint64_t>seconds
    cdef int n = 0, i
    if seconds < 0:
        p[0] = 45
        n = 1
        whole = <uint64_t>(-(seconds + 1)) + 1    # for INT64_MIN too
        if nsec:
            whole -= 1
            nsec = NSEC_PER_SEC - nsec
    n += put_decimal(p + n, whole)
    if nsec:
        p[n] = 46
        n += 10
        for i in range(9):
            p[n - 1 - i] = <uint8_t>(48 + nsec % 10)
            nsec //= 10
        while p[n - 1] == 48:
            n -= 1
    return n

cdef inline int record(Out* o, const char* key, Py_ssize_t name_len, Py_ssize_t value_len, uint8_t** name,
                       uint8_t** value) noexcept nogil:
    """Write ``length key NAME=VALUE newline`` with room for name and value, for the caller to fill; -1 when full."""
    cdef Py_ssize_t key_len = strlen(key)
    cdef Py_ssize_t body = key_len + name_len + value_len + 3
    cdef int digits = 1
    cdef uint8_t* p
    while n_digits(<uint64_t>(body + digits)) > digits:
        digits += 1
    p = room(o, body + digits)
    if p == NULL:
        return -1
    p += put_decimal(p, <uint64_t>(body + digits))
    p[0] = 32
    memcpy(p + 1, key, key_len)
    name[0] = p + 1 + key_len
    name[0][name_len] = 61
    value[0] = name[0] + name_len + 1
    value[0][value_len] = 10
    return 0

cdef inline void record_put(Out* o, const char* key, const uint8_t* name, Py_ssize_t name_len, const uint8_t* value,
                            Py_ssize_t value_len) noexcept nogil:
    """Write ``length key NAME=VALUE newline``."""
    cdef uint8_t* to_name
    cdef uint8_t* to_value
    if record(o, key, name_len, value_len, &to_name, &to_value) == 0:
        if name_len:
            memcpy(to_name, name, name_len)
        if value_len:
            memcpy(to_value, value, value_len)

cdef inline void record_number(Out* o, const char* key, uint64_t v) noexcept nogil:
    cdef uint8_t text[20]
    record_put(o, key, NULL, 0, text, put_decimal(text, v))

cdef inline void record_time(Out* o, const char* key, int64_t seconds, uint32_t nsec) noexcept nogil:
    cdef uint8_t text[40]
    record_put(o, key, NULL, 0, text, put_time_text(text, seconds, nsec))

cdef inline uint8_t _hex(uint32_t v) noexcept nogil:
    return <uint8_t>(48 + v if v < 10 else 55 + v)

cdef inline uint8_t _base64(uint32_t v) noexcept nogil:
    if v < 52:
        return <uint8_t>(65 + v if v < 26 else 71 + v)
    return <uint8_t>(v - 4 if v < 62 else (43 if v == 62 else 47))

cdef inline bint _is_plain(uint8_t c) noexcept nogil:
    # what libarchive's url_encode leaves as it is
    return 33 <= c <= 126 and c != 37 and c != 61

cdef inline void record_libarchive(Out* o, const ExtItem* x) noexcept nogil:
    """Write an xattr as libarchive does: the name url-encoded, the value in base64 without padding."""
    cdef Py_ssize_t i, n_name = 0, n = 0
    cdef Py_ssize_t n_value = x.value_len // 3 * 4 + (x.value_len % 3 + 1 if x.value_len % 3 else 0)
    cdef uint8_t* name
    cdef uint8_t* value
    cdef uint8_t c
    cdef uint32_t bits
    for i in range(x.name_len):
        n_name += 1 if _is_plain(x.name[i]) else 3
    if record(o, b"LIBARCHIVE.xattr.", n_name, n_value, &name, &value) < 0:
        return
    for i in range(x.name_len):
        c = x.name[i]
        if _is_plain(c) and n < n_name:
            name[n] = c
            n += 1
        elif n + 3 <= n_name:     # bounded by itself: the arena may change under us
            name[n] = 37
            name[n + 1] = _hex(c >> 4)
            name[n + 2] = _hex(c & 15)
            n += 3
    for i in range(n_value):
        n = i // 4 * 3
        bits = <uint32_t>x.value[n] << 16
        if n + 1 < x.value_len:
            bits |= <uint32_t>x.value[n + 1] << 8
        if n + 2 < x.value_len:
            bits |= x.value[n + 2]
        value[i] = _base64((bits >> (18 - 6 * (i & 3))) & 63)

cdef inline void line_number(Out* o, int64_t v) noexcept nogil:
    """Write a line of a sparse map (v >= 0)."""
    cdef uint8_t text[20]
    cdef int n = put_decimal(text, <uint64_t>v)
    cdef uint8_t* p = room(o, n + 1)
    if p != NULL:
        memcpy(p, text, n)
        p[n] = 10
