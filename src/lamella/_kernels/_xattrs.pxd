"""Read the extended attributes of one inode into a run of extras, in memory that the caller owns.

Names are sorted, so that equal sets give equal runs. ``security.selinux`` is left out unless asked for,
``system.nfs4_acl`` always (tests/contract 65).
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy
from lamella._kernels._names cimport NameItem, sort_names
from lamella._kernels._rows cimport EXT_HEADER, EXT_XATTR
from lamella._kernels._statx cimport ENODATA, ENOTSUP, ERANGE, lam_getxattr, lam_listxattr
from lamella._kernels._status cimport OK, OS_ERROR, OUTPUT_FULL

cdef enum:
    MAX_XATTR = 65536        # bytes of a list of names, or of a value, at most
    KEY_ROOM = 256           # a name and its NUL
    SMALL = 512              # asked for first: the kernel allocates, and clears, as much as it is offered

cdef struct XattrRun:
    int fd                   # the inode itself, or with ``name`` its directory
    const char* name         # NULL, or the name below fd
    int by_cwd               # fd is the thread's working directory, and the name is looked up there
    bint keep_selinux
    bint drop_kept           # not what overlayfs keeps for itself: see _kept_by_overlay
    uint8_t* scratch         # 8-byte aligned
    int64_t scratch_cap
    uint8_t* out             # the run is written here
    int64_t out_cap
    int64_t nbytes           # result: bytes of the run
    int64_t need_scratch     # with OUTPUT_FULL: what scratch_cap, or
    int64_t need_out         # ... out_cap, should be at least
    int error                # with OS_ERROR: errno

cdef inline int64_t _list_into(const XattrRun* x) noexcept nogil:
    cdef int64_t room = x.scratch_cap if x.scratch_cap < MAX_XATTR else MAX_XATTR
    cdef int64_t n = lam_listxattr(x.fd, x.name, x.by_cwd, <char*>x.scratch, room if room < SMALL else SMALL)
    if n == -ERANGE and room > SMALL:
        n = lam_listxattr(x.fd, x.name, x.by_cwd, <char*>x.scratch, room)
    return n

cdef inline int64_t _get_into(const XattrRun* x, const char* key, uint8_t* p, int64_t room) noexcept nogil:
    cdef int64_t n = lam_getxattr(x.fd, x.name, x.by_cwd, key, p, room if room < SMALL else SMALL)
    if n == -ERANGE and room > SMALL:
        n = lam_getxattr(x.fd, x.name, x.by_cwd, key, p, room if room < MAX_XATTR else MAX_XATTR)
    return n

cdef inline bint _key_is(const uint8_t* key, int64_t n, const char* name, int64_t m) noexcept nogil:
    return n == m and memcmp(key, name, n) == 0

cdef inline bint _kept_by_overlay(const uint8_t* key, int64_t n) noexcept nogil:
    # notes of overlayfs to itself that say nothing of what a tree shows; every inode that it copied has one
    cdef int64_t skip = 16
    if n < 18 or memcmp(key, b"trusted.overlay.", 16) != 0:
        skip = 13
        if n < 15 or memcmp(key, b"user.overlay.", 13) != 0:
            return False
    return (_key_is(key + skip, n - skip, b"origin", 6) or _key_is(key + skip, n - skip, b"impure", 6)
            or _key_is(key + skip, n - skip, b"nlink", 5) or _key_is(key + skip, n - skip, b"uuid", 4))

cdef inline int _list(XattrRun* x, int64_t n, NameItem** items, int64_t* n_items) noexcept nogil:
    # the names that are kept of the ``n`` bytes in scratch, sorted; ``off`` counts from scratch
    cdef int64_t at = 0, m, begin
    cdef const uint8_t* nul
    cdef bint kept
    n_items[0] = 0
    begin = (n + 7) & ~<int64_t>7
    m = n // 2 + 1                                    # a name and its NUL are two bytes at least
    if n and x.scratch_cap - begin < 2 * m * <int64_t>sizeof(NameItem):
        x.need_scratch = begin + 2 * m * <int64_t>sizeof(NameItem)
        return OUTPUT_FULL
    items[0] = <NameItem*>(x.scratch + begin)
    while at < n and n_items[0] < m:
        nul = <const uint8_t*>memchr(x.scratch + at, 0, n - at)
        if nul == NULL:
            break
        kept = nul > x.scratch + at and not _key_is(x.scratch + at, nul - (x.scratch + at), b"system.nfs4_acl", 15)
        if kept and x.drop_kept:
            kept = not _kept_by_overlay(x.scratch + at, nul - (x.scratch + at))
        if kept and (x.keep_selinux
                     or not _key_is(x.scratch + at, nul - (x.scratch + at), b"security.selinux", 16)):
            items[0][n_items[0]].off = <uint64_t>at
            n_items[0] += 1
        at = nul + 1 - x.scratch
    items[0] = sort_names(x.scratch, <uint64_t>n, items[0], items[0] + m, n_items[0])
    return OK

cdef inline int _put(XattrRun* x, int64_t key_off) noexcept nogil:
    # append the attribute whose name is at ``key_off`` of the scratch
    cdef char key[KEY_ROOM]
    cdef int64_t n = 0, room, got
    cdef uint16_t n16
    cdef uint32_t got32
    while n < KEY_ROOM - 1 and key_off + n < x.scratch_cap and x.scratch[key_off + n]:
        key[n] = <char>x.scratch[key_off + n]
        n += 1
    key[n] = 0
    room = x.out_cap - x.nbytes - EXT_HEADER - n
    if room < 1:
        x.need_out = x.nbytes + EXT_HEADER + n + 4096
        return OUTPUT_FULL
    got = _get_into(x, key, x.out + x.nbytes + EXT_HEADER + n, room)
    if got == -ERANGE and room < MAX_XATTR:
        x.need_out = x.nbytes + EXT_HEADER + n + MAX_XATTR
        return OUTPUT_FULL
    if got < 0:
        x.error = <int>-got
        return OK if got == -ENODATA or got == -ENOTSUP else OS_ERROR         # ENODATA: it was just removed
    n16, got32 = <uint16_t>n, <uint32_t>got
    x.out[x.nbytes] = EXT_XATTR
    memcpy(x.out + x.nbytes + 1, &n16, 2)
    memcpy(x.out + x.nbytes + 3, &got32, 4)
    memcpy(x.out + x.nbytes + EXT_HEADER, key, n)
    x.nbytes += EXT_HEADER + n + got
    return OK

cdef inline int _read_named(XattrRun* x, int64_t n) noexcept nogil:
    cdef NameItem* items = NULL
    cdef int64_t i
    cdef int status = _list(x, n, &items, &n)
    for i in range(n):
        if status != OK:
            break
        status = _put(x, <int64_t>items[i].off)
    return status

cdef inline int read_xattrs(XattrRun* x) noexcept nogil:
    """Write the run; OK (``nbytes`` 0 for none), OUTPUT_FULL, or OS_ERROR with ``error``."""
    cdef int64_t n = -ERANGE
    x.nbytes = x.need_scratch = x.need_out = 0
    if x.scratch_cap >= KEY_ROOM:
        n = _list_into(x)
    if n == 0 or n == -ENOTSUP:
        return OK
    if n > 0:
        return _read_named(x, n)
    if n == -ERANGE and x.scratch_cap < MAX_XATTR:
        x.need_scratch = 4096 if x.scratch_cap < KEY_ROOM else MAX_XATTR
        return OUTPUT_FULL
    x.error = <int>-n
    return OS_ERROR
