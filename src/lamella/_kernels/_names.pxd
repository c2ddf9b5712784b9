"""The names of a directory, or of an inode's attributes: pack them, list them, sort them bytewise, without allocating.

Names are NUL-terminated strings at offsets of ``text``; nothing at or beyond ``end`` is read, whatever the bytes say.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memchr, memcpy, memmove

cdef struct NameItem:
    uint64_t key             # the 8 bytes after the prefix that all names share, the first in the highest byte
    uint64_t off

cdef inline uint64_t name_key(const uint8_t* text, uint64_t at, uint64_t end) noexcept nogil:
    """Return up to 8 bytes of the name at ``at`` as a number that compares as they do; zeros follow its end."""
    cdef uint64_t key = 0
    cdef int i
    for i in range(8):
        if at >= end or text[at] == 0:
            return key << (8 * (8 - i))
        key = key << 8 | text[at]
        at += 1
    return key

cdef inline int name_cmp(const uint8_t* text, uint64_t p, uint64_t q, uint64_t end) noexcept nogil:
    """Compare the names at ``p`` and ``q``: negative, 0 or positive."""
    while p < end and q < end and text[p] == text[q] and text[p] != 0:
        p += 1
        q += 1
    return (<int>text[p] if p < end else 0) - (<int>text[q] if q < end else 0)

cdef inline int item_cmp(const uint8_t* text, uint64_t skip, uint64_t end, const NameItem* a,
                         const NameItem* b) noexcept nogil:
    """Compare two items whose names share their first ``skip`` bytes."""
    if a.key != b.key:
        return -1 if a.key < b.key else 1
    if a.key & 0xFF == 0:
        return 0
    return name_cmp(text, a.off + skip + 8, b.off + skip + 8, end)

cdef inline uint64_t shared_prefix(const uint8_t* text, uint64_t end, const NameItem* items,
                                   Py_ssize_t n) noexcept nogil:
    """Return how many bytes all ``n`` names begin with."""
    cdef uint64_t skip = end, i, p, q
    cdef Py_ssize_t k
    for k in range(1, n):
        i, p, q = 0, items[0].off, items[k].off
        while i < skip and p + i < end and q + i < end and text[p + i] == text[q + i] and text[p + i] != 0:
            i += 1
        skip = i
    return skip if n > 1 else 0

cdef inline NameItem* sort_names(const uint8_t* text, uint64_t end, NameItem* items, NameItem* spare,
                                 Py_ssize_t n) noexcept nogil:
    """Sort the items by name (their ``off`` is given, ``key`` is set here); returns ``items`` or ``spare``, where they are."""
    cdef uint64_t skip = shared_prefix(text, end, items, n)
    cdef Py_ssize_t width = 1, lo, mid, hi, i, j, k
    for k in range(n):
        items[k].key = name_key(text, items[k].off + skip, end)
    while width < n:
        lo = 0
        while lo < n:
            mid = lo + width if lo + width < n else n
            hi = mid + width if mid + width < n else n
            i, j = lo, mid
            for k in range(lo, hi):
                if i < mid and (j >= hi or item_cmp(text, skip, end, &items[j], &items[i]) >= 0):
                    spare[k] = items[i]
                    i += 1
                else:
                    spare[k] = items[j]
                    j += 1
            lo = hi
        items, spare = spare, items
        width *= 2
    return items

cdef inline int64_t pack_dirents(uint8_t* p, int64_t n) noexcept nogil:
    """Turn ``n`` bytes of getdents64 into records ``d_type name NUL``, in place, without ``.`` and ``..``.

    Returns the bytes left, -1 where they are no dirents.
    """
    cdef int64_t at = 0, out = 0, m
    cdef uint16_t reclen
    cdef const uint8_t* nul
    cdef uint8_t dtype
    while at < n:
        if n - at < 20:
            return -1
        memcpy(&reclen, p + at + 16, 2)
        if reclen < 20 or reclen > n - at:
            return -1
        nul = <const uint8_t*>memchr(p + at + 19, 0, reclen - 19)
        if nul == NULL:
            return -1
        m = nul - (p + at + 19)
        if m > 0 and not (p[at + 19] == 46 and (m == 1 or (m == 2 and p[at + 20] == 46))):
            dtype = p[at + 18]
            memmove(p + out + 1, p + at + 19, m + 1)  # a record is shorter than its dirent: never ahead of it
            p[out] = dtype
            out += m + 2
        at += reclen
    return out

cdef inline int64_t list_names(const uint8_t* text, int64_t end, NameItem* items, int64_t room) noexcept nogil:
    """Point ``items`` at the names of the records ``text[:end]``, as many as there is room for.

    Returns how many names there are, -1 where they are no such records.
    """
    cdef int64_t at = 0, n = 0
    cdef const uint8_t* nul
    while at < end:
        nul = <const uint8_t*>memchr(text + at + 1, 0, end - at - 1) if at + 1 < end else NULL
        if nul == NULL:
            return -1
        if n < room:
            items[n].off = <uint64_t>at + 1
        n += 1
        at = nul + 1 - text
    return n
