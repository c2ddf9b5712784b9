"""The names of a directory, or of an inode's attributes: pack them, list them, sort them bytewise, without allocating.

Names are NUL-terminated strings at offsets of ``text``; nothing at or beyond ``end`` is read, whatever the bytes say.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, memmove

cdef extern from *:
    """
    #include <endian.h>
    #include <stdint.h>
    #include <string.h>
    static inline uint64_t lam_name_key(const uint8_t *p) {
        /* 8 bytes as a number whose highest byte is the first, those from a NUL on as zeros */
        const uint64_t low = 0x7f7f7f7f7f7f7f7fULL;
        uint64_t x, nul;
        memcpy(&x, p, 8);
        x = be64toh(x);
        nul = ~(((x & low) + low) | x | low);
        return nul ? x & ~(~(uint64_t)0 >> (__builtin_clzll(nul) & ~7)) : x;
    }
    """
    uint64_t lam_name_key(const uint8_t* p) noexcept nogil

cdef enum:
    RUN = 8                  # so many items are sorted by insertion, before runs are merged

cdef struct NameItem:
    uint64_t key             # the 8 bytes after the prefix that all names share, the first in the highest byte
    uint64_t off

cdef inline uint64_t name_key(const uint8_t* text, uint64_t at, uint64_t end) noexcept nogil:
    """Return up to 8 bytes of the name at ``at`` as a number that compares as they do; zeros follow its end."""
    cdef uint8_t last[8]
    cdef int i
    if at < end and end - at >= 8:
        return lam_name_key(text + at)
    for i in range(8):
        last[i] = text[at + i] if at < end and end - at > <uint64_t>i else 0
    return lam_name_key(last)

cdef inline int name_cmp(const uint8_t* text, uint64_t p, uint64_t q, uint64_t end) noexcept nogil:
    """Compare the names at ``p`` and ``q``: negative, 0 or positive."""
    cdef uint64_t x, y
    while True:
        x, y = name_key(text, p, end), name_key(text, q, end)
        if x != y:
            return -1 if x < y else 1
        if x & 0xFF == 0:
            return 0
        p += 8
        q += 8

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
    cdef uint64_t skip = end, i, p = items[0].off if n else 0, q
    cdef Py_ssize_t k
    for k in range(1, n):
        q = items[k].off
        if k > 1 and skip <= end - q and memcmp(text + p, text + q, skip) == 0:
            continue                                  # text[p:p + skip] has no NUL
        i = 0
        while i < skip and p + i < end and q + i < end and text[p + i] == text[q + i] and text[p + i] != 0:
            i += 1
        skip = i
        if skip == 0:
            break
    return skip if n > 1 else 0

cdef inline void _sort_run(const uint8_t* text, uint64_t skip, uint64_t end, NameItem* items,
                           Py_ssize_t n) noexcept nogil:
    cdef NameItem item
    cdef Py_ssize_t i, k
    for k in range(1, n):
        item = items[k]
        i = k
        while i > 0 and item_cmp(text, skip, end, &item, &items[i - 1]) < 0:
            items[i] = items[i - 1]
            i -= 1
        items[i] = item

cdef inline void _merge_runs(const uint8_t* text, uint64_t skip, uint64_t end, const NameItem* items, NameItem* out,
                             Py_ssize_t mid, Py_ssize_t hi) noexcept nogil:
    # items[:mid] and items[mid:hi] are sorted. Which of two keys is less is anybody's guess: arithmetic, no branch
    cdef Py_ssize_t i = 0, j = mid, k = 0, right
    while i < mid and j < hi:
        if items[i].key != items[j].key:
            right = items[j].key < items[i].key
        else:
            right = item_cmp(text, skip, end, &items[j], &items[i]) < 0
        out[k] = items[i + right * (j - i)]
        j += right
        i += 1 - right
        k += 1
    memcpy(out + k, items + i, (mid - i) * sizeof(NameItem))
    memcpy(out + k + mid - i, items + j, (hi - j) * sizeof(NameItem))

cdef inline NameItem* sort_names(const uint8_t* text, uint64_t end, NameItem* items, NameItem* spare,
                                 Py_ssize_t n) noexcept nogil:
    """Sort the items by name (their ``off`` < ``end`` is given, ``key`` is set here).

    Returns ``items`` or ``spare``, where they are.
    """
    cdef uint64_t skip = shared_prefix(text, end, items, n)
    cdef Py_ssize_t width = RUN, lo, mid, hi
    for lo in range(n):
        items[lo].key = name_key(text, items[lo].off + skip, end)
    lo = 0
    while lo < n:
        _sort_run(text, skip, end, items + lo, n - lo if n - lo < RUN else RUN)
        lo += RUN
    while width < n:
        lo = 0
        while lo < n:
            mid = width if width < n - lo else n - lo
            hi = 2 * width if 2 * width < n - lo else n - lo
            _merge_runs(text, skip, end, items + lo, spare + lo, mid, hi)
            lo += hi
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
