"""pax extended headers: records, the keywords that columns hold, and the others as sorted items.

A body is a run of ``length keyword=value\\n`` (pax(1), "pax Extended Header"). It stands in the caller's scratch buffer.
Later records win over earlier ones, local over global; an empty value takes the keyword back (but an empty
LIBARCHIVE.xattr is an empty attribute: tests/contract 110). Functions return 0 or a Fault; FAULT_SCRATCH asks for room.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.string cimport memchr, memcmp, memcpy, memmove
from lamella._kernels._cursor cimport Cursor, Slice, slice_is, slice_of, slice_starts
from lamella._kernels._number cimport number_decimal, number_time
from lamella._kernels._rows cimport EXT_PAX, EXT_XATTR
from lamella._kernels._ustar cimport (FAULT_ATIME, FAULT_DEVICE, FAULT_GID, FAULT_GLOBAL, FAULT_MTIME, FAULT_NONE,
                                      FAULT_NUL, FAULT_RECORD, FAULT_SCRATCH, FAULT_SIZE, FAULT_SPARSE,
                                      FAULT_SPARSE_KIND, FAULT_UID, FAULT_XATTR, FAULT_XATTRS, SPARSE_NONE,
                                      SPARSE_PAYLOAD, SPARSE_RECORDS, Member)

cdef enum:                # keywords
    KW_PATH
    KW_LINKPATH
    KW_UNAME
    KW_GNAME
    KW_UID
    KW_GID
    KW_SIZE
    KW_MTIME
    KW_ATIME
    KW_MAJOR
    KW_MINOR
    KW_SP_NAME
    KW_SP_MAP
    KW_SP_SIZE
    KW_SP_REALSIZE
    KW_SP_MAJOR
    KW_SP_MINOR
    KW_SP_BLOCKS
    KW_SP_OFFSET          # the last of these two only says that there are some
    KW_SP_NUMBYTES
    N_KEYWORDS
    KW_DROPPED            # ctime: nothing can set it
    KW_XATTR
    KW_LIBARCHIVE
    KW_OTHER

cdef struct Item:
    # an xattr or other keyword; offsets into the scratch buffer
    int64_t name_off
    int64_t name_len
    int64_t value_off
    int64_t value_len
    int32_t tag           # EXT_XATTR or EXT_PAX
    int32_t spelling      # 0 SCHILY.xattr or plain, 1 LIBARCHIVE.xattr

cdef struct Extras:
    # Items of one member, sorted by (tag, name, spelling), in the free part of the scratch buffer: decoded bytes grow up
    # from ``low``, items down from ``top``.
    uint8_t* scratch
    Py_ssize_t cap
    Py_ssize_t low
    uint8_t* top
    Py_ssize_t n_items
    Py_ssize_t n_kind[3]  # items of SCHILY, of LIBARCHIVE, others
    int64_t limit         # of each; of the others at least 256

cdef inline int record_next(Cursor* c, Slice* key, Slice* value) noexcept nogil:
    """Take one record: 1, 0 at the end (NULs may follow the last record), -1 on a malformed one."""
    cdef const uint8_t* p = c.p
    cdef const uint8_t* equals
    cdef Py_ssize_t n = 0
    while p < c.end and p[0] == 0:
        p += 1
    if p == c.end:
        return 0
    if p != c.p:
        return -1
    while p < c.end and p[0] >= 48 and p[0] <= 57:
        n = n * 10 + (p[0] - 48)
        if n > c.end - c.p:
            return -1
        p += 1
    if p == c.p or p >= c.end or p[0] != 32 or n < p - c.p + 3 or c.p[n - 1] != 10:
        return -1
    p += 1
    equals = <const uint8_t*>memchr(p, 61, c.p + n - 1 - p)
    if equals == NULL or equals == p or memchr(p, 0, equals - p) != NULL:
        return -1
    key[0] = slice_of(p, equals - p)
    value[0] = slice_of(equals + 1, c.p + n - 2 - equals)
    c.p += n
    return 1

cdef inline int _sparse_keyword(const Slice* k) noexcept nogil:
    if slice_is(k, b"GNU.sparse.offset", 17):
        return KW_SP_OFFSET
    if slice_is(k, b"GNU.sparse.numbytes", 19):
        return KW_SP_NUMBYTES
    if slice_is(k, b"GNU.sparse.name", 15):
        return KW_SP_NAME
    if slice_is(k, b"GNU.sparse.map", 14):
        return KW_SP_MAP
    if slice_is(k, b"GNU.sparse.size", 15):
        return KW_SP_SIZE
    if slice_is(k, b"GNU.sparse.realsize", 19):
        return KW_SP_REALSIZE
    if slice_is(k, b"GNU.sparse.major", 16):
        return KW_SP_MAJOR
    if slice_is(k, b"GNU.sparse.minor", 16):
        return KW_SP_MINOR
    return KW_SP_BLOCKS if slice_is(k, b"GNU.sparse.numblocks", 20) else KW_OTHER

cdef inline int keyword_of(const Slice* k) noexcept nogil:
    """Return the KW_ number."""
    if k.n == 3:
        return KW_UID if slice_is(k, b"uid", 3) else KW_GID if slice_is(k, b"gid", 3) else KW_OTHER
    if k.n == 4:
        return KW_PATH if slice_is(k, b"path", 4) else KW_SIZE if slice_is(k, b"size", 4) else KW_OTHER
    if k.n == 5:
        if slice_is(k, b"mtime", 5):
            return KW_MTIME
        if slice_is(k, b"atime", 5):
            return KW_ATIME
        if slice_is(k, b"ctime", 5):
            return KW_DROPPED
        return KW_UNAME if slice_is(k, b"uname", 5) else KW_GNAME if slice_is(k, b"gname", 5) else KW_OTHER
    if slice_starts(k, b"SCHILY.xattr.", 13):
        return KW_XATTR
    if slice_starts(k, b"LIBARCHIVE.xattr.", 17):
        return KW_LIBARCHIVE
    if slice_starts(k, b"GNU.sparse.", 11):
        return _sparse_keyword(k)
    if slice_is(k, b"linkpath", 8):
        return KW_LINKPATH
    if slice_is(k, b"SCHILY.devmajor", 15):
        return KW_MAJOR
    return KW_MINOR if slice_is(k, b"SCHILY.devminor", 15) else KW_OTHER

cdef inline int pax_check(Slice body, bint is_global, Py_ssize_t* at) noexcept nogil:
    """Check every record of a body that has just become complete; ``at`` is the offset of the one at fault, or the end."""
    cdef Cursor c
    cdef Slice key, value
    cdef int got = 1, kw
    c.p = body.p
    c.end = body.p + body.n
    while got > 0:
        at[0] = c.p - body.p
        got = record_next(&c, &key, &value)
        if got < 0 or (got > 0 and key.n > 0xFFFF):
            return FAULT_RECORD
        if got > 0:
            kw = keyword_of(&key)
            if kw <= KW_GNAME or kw == KW_SP_NAME:
                if value.n and memchr(value.p, 0, value.n) != NULL:
                    return FAULT_NUL
            # two readers that skip a payload by a global size, or not, would see two archives
            if is_global and (kw == KW_SIZE or (kw >= KW_SP_NAME and kw <= KW_SP_NUMBYTES)):
                return FAULT_GLOBAL
    return FAULT_NONE

cdef inline Slice item_part(const Extras* x, int64_t off, int64_t n) noexcept nogil:
    """Return scratch[off:off + n], empty where that is outside the buffer: another thread may write to it."""
    if off < 0 or n < 0 or off > x.cap - n:
        return slice_of(x.scratch, 0)
    return slice_of(x.scratch + off, n)

cdef inline Item* item_at(const Extras* x, Py_ssize_t i) noexcept nogil:
    """Return item ``i`` of ``n_items``."""
    return <Item*>x.top - x.n_items + i

cdef inline int _item_cmp(const Extras* x, const Item* a, int tag, int spelling, const Slice* name) noexcept nogil:
    cdef Slice s = item_part(x, a.name_off, a.name_len)
    cdef int order
    if a.tag != tag:
        return -1 if a.tag < tag else 1
    order = memcmp(s.p, name.p, s.n if s.n < name.n else name.n)
    if order != 0:
        return order
    if s.n != name.n:
        return -1 if s.n < name.n else 1
    return a.spelling - spelling

cdef inline bint item_same(const Extras* x, const Item* a, const Item* b) noexcept nogil:
    """Tell whether both are the same attribute, spelled either way."""
    cdef Slice s = item_part(x, b.name_off, b.name_len)
    return _item_cmp(x, a, b.tag, a.spelling, &s) == 0

cdef inline int extras_put(Extras* x, int tag, int spelling, Slice name, Slice value) noexcept nogil:
    """Insert an item, or replace the value of an equal one; an empty value of spelling 0 removes it."""
    cdef Py_ssize_t lo = 0, hi = x.n_items, mid
    cdef int kind = spelling if tag == EXT_XATTR else 2
    cdef int order = 1
    cdef Item* item
    while lo < hi and order != 0:
        mid = (lo + hi) >> 1
        order = _item_cmp(x, item_at(x, mid), tag, spelling, &name)
        if order < 0:
            lo = mid + 1
        else:
            hi = mid
    if order == 0:
        lo = hi
    if value.n == 0 and spelling == 0:
        if order == 0:
            item = item_at(x, 0)
            memmove(item + 1, item, lo * sizeof(Item))
            x.n_items -= 1
            x.n_kind[kind] -= 1
        return FAULT_NONE
    if order != 0:
        if x.n_kind[kind] >= x.limit and (kind < 2 or x.n_kind[kind] >= 256):
            return FAULT_XATTRS
        if <uint8_t*>item_at(x, 0) - (x.scratch + x.low) < <Py_ssize_t>sizeof(Item):
            return FAULT_SCRATCH
        item = item_at(x, -1)
        memmove(item, item + 1, lo * sizeof(Item))
        x.n_items += 1
        x.n_kind[kind] += 1
    item = item_at(x, lo)
    item.name_off, item.name_len = name.p - x.scratch, name.n
    item.value_off, item.value_len = value.p - x.scratch, value.n
    item.tag, item.spelling = tag, spelling
    return FAULT_NONE

cdef inline int _hex(uint8_t c) noexcept nogil:
    if c >= 48 and c <= 57:
        return c - 48
    c |= 32
    return c - 87 if c >= 97 and c <= 102 else -1

cdef inline int _base64(uint8_t c) noexcept nogil:
    if c >= 65 and c <= 90:
        return c - 65
    if c >= 97 and c <= 122:
        return c - 71
    if c >= 48 and c <= 57:
        return c + 4
    return 62 if c == 43 else 63 if c == 47 else -1

cdef inline int _put_libarchive(Extras* x, Slice name, Slice value) noexcept nogil:
    # name: url-encoded; value: base64, with or without its padding (libarchive, archive_write_set_format_pax)
    cdef uint8_t* p = x.scratch + x.low
    cdef uint32_t bits = 0
    cdef Py_ssize_t i = 0, n = 0
    cdef int digit
    cdef Slice plain
    if <uint8_t*>item_at(x, 0) - p < name.n + value.n:
        return FAULT_SCRATCH
    while i < name.n:
        p[n] = name.p[i]
        if p[n] == 37:
            if name.n - i < 3 or _hex(name.p[i + 1]) < 0 or _hex(name.p[i + 2]) < 0:
                return FAULT_XATTR
            p[n] = <uint8_t>(_hex(name.p[i + 1]) << 4 | _hex(name.p[i + 2]))
            if p[n] == 0:
                return FAULT_XATTR
            i += 2
        i += 1
        n += 1
    plain = slice_of(p, n)
    p += n
    n = 0
    while value.n and value.p[value.n - 1] == 61:
        value.n -= 1
    if value.n % 4 == 1:
        return FAULT_XATTR
    for i in range(value.n):
        digit = _base64(value.p[i])
        if digit < 0:
            return FAULT_XATTR
        bits = bits << 6 | <uint32_t>digit
        if i % 4:
            p[n] = <uint8_t>(bits >> (6 - 2 * (i % 4)))
            n += 1
    x.low = p + n - x.scratch
    return extras_put(x, EXT_XATTR, 1, plain, slice_of(p, n))

cdef inline int pax_collect(Slice body, Slice* kw, Extras* x, Py_ssize_t* at) noexcept nogil:
    """Enter the records of ``body`` into ``kw`` (N_KEYWORDS slices, ``p`` NULL for unset) and ``x``."""
    cdef Cursor c
    cdef Slice key, value
    cdef int got, k, fault = FAULT_NONE
    c.p = body.p
    c.end = body.p + body.n
    while fault == FAULT_NONE:
        at[0] = c.p - body.p
        got = record_next(&c, &key, &value)
        if got <= 0:
            return FAULT_NONE if got == 0 else FAULT_RECORD
        k = keyword_of(&key)
        if k < N_KEYWORDS:
            kw[k] = value
            if value.n == 0:
                kw[k].p = NULL
        elif k == KW_OTHER:
            fault = extras_put(x, EXT_PAX, 0, key, value)
        elif k == KW_XATTR:
            key = slice_of(key.p + 13, key.n - 13)
            fault = FAULT_XATTR if key.n == 0 else extras_put(x, EXT_XATTR, 0, key, value)
        elif k == KW_LIBARCHIVE:
            key = slice_of(key.p + 17, key.n - 17)
            fault = FAULT_XATTR if key.n == 0 else _put_libarchive(x, key, value)
    return fault

cdef inline int _pax_sparse(const Slice* kw, Member* m) noexcept nogil:
    # GNU tar manual, "Storing Sparse Files": 1.0 keeps its map in the payload, 0.1 and 0.0 in the records
    cdef bint records = kw[KW_SP_MAP].p != NULL or kw[KW_SP_OFFSET].p != NULL or kw[KW_SP_SIZE].p != NULL
    cdef const Slice* real
    if slice_is(&kw[KW_SP_MAJOR], b"1", 1) and slice_is(&kw[KW_SP_MINOR], b"0", 1):
        m.sparse = SPARSE_PAYLOAD
        real = &kw[KW_SP_REALSIZE]
    elif kw[KW_SP_MAJOR].p != NULL and not slice_is(&kw[KW_SP_MAJOR], b"0", 1):
        return FAULT_SPARSE_KIND
    elif records:
        m.sparse = SPARSE_RECORDS
        real = &kw[KW_SP_SIZE]
    else:
        return FAULT_NONE
    return FAULT_NONE if real.p != NULL and number_decimal(real, &m.real_size) == 0 else FAULT_SPARSE

cdef inline int pax_apply(const Slice* kw, Member* m) noexcept nogil:
    """Let the keywords that are set override what the header said."""
    if kw[KW_PATH].p != NULL or kw[KW_SP_NAME].p != NULL:
        m.prefix.n = 0
        m.name = kw[KW_SP_NAME if kw[KW_SP_NAME].p != NULL else KW_PATH]
    if kw[KW_LINKPATH].p != NULL:
        m.link = kw[KW_LINKPATH]
    if kw[KW_UNAME].p != NULL:
        m.uname = kw[KW_UNAME]
    if kw[KW_GNAME].p != NULL:
        m.gname = kw[KW_GNAME]
    if kw[KW_UID].p != NULL and number_decimal(&kw[KW_UID], &m.uid) < 0:
        return FAULT_UID
    if kw[KW_GID].p != NULL and number_decimal(&kw[KW_GID], &m.gid) < 0:
        return FAULT_GID
    if kw[KW_SIZE].p != NULL and number_decimal(&kw[KW_SIZE], &m.size) < 0:
        return FAULT_SIZE
    if kw[KW_MTIME].p != NULL and number_time(&kw[KW_MTIME], &m.mtime, &m.mtime_nsec) < 0:
        return FAULT_MTIME
    if kw[KW_ATIME].p != NULL:
        m.has_atime = True
        if number_time(&kw[KW_ATIME], &m.atime, &m.atime_nsec) < 0:
            return FAULT_ATIME
    if kw[KW_MAJOR].p != NULL and number_decimal(&kw[KW_MAJOR], &m.major) < 0:
        return FAULT_DEVICE
    if kw[KW_MINOR].p != NULL and number_decimal(&kw[KW_MINOR], &m.minor) < 0:
        return FAULT_DEVICE
    return _pax_sparse(kw, m) if m.sparse == SPARSE_NONE else FAULT_NONE
