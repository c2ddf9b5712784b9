"""Owner, mode, xattrs and times of an inode just made: the half of the placing kernel that follows the data.

Every function takes a directory descriptor with a name (symlinks, nodes), or name NULL and the inode's own descriptor.
They return 0, or -1 with errno.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memchr, memcmp, memcpy
from lamella._kernels._jobs cimport lam_count
from lamella._kernels._rows cimport (EXT_ATIME, EXT_XATTR, F_ATIME, F_HOST, ExtItem, ext_next, row_ext)
from lamella._kernels._sys cimport (AT_SYMLINK_NOFOLLOW, EACCES, EINVAL, ENOTSUP, EPERM, errno, fchmod, fchown,
                                    fchownat, fgetxattr, flistxattr, fremovexattr, fsetxattr, fstat, lam_fail, lam_fchmodat,
                                    lam_lstat, lam_setxattrat, lam_stat_mtime, lam_utimens, stat_t)
from lamella._kernels.place cimport (OPT_CHOWN, OPT_CLAMP_TIMES, OPT_ESCAPE_OVERLAY, OPT_NO_TRUSTED, OPT_NO_XATTRS,
                                     OPT_SELINUX, OPT_TOLERANT, WARN_TIME_CLAMPED, WARN_XATTR_NAME, WARN_XATTR_OVERLAY,
                                     WARN_XATTR_REFUSED, WARN_XATTR_TRUSTED, WARN_XATTR_UNSUPPORTED, IdRanges, Place)

cdef inline void warn(Place* c, Py_ssize_t row, int code) noexcept nogil:
    cdef int64_t at = lam_count(&c.st.n_warnings, 1)
    if 0 <= at < c.warnings_cap:
        c.warnings[2 * at] = row
        c.warnings[2 * at + 1] = code

cdef inline int64_t map_id(const IdRanges* m, int64_t id) noexcept nogil:
    """Return the host's id for a container's, -1 where no range holds it."""
    cdef Py_ssize_t i
    if m.items is NULL:
        return id
    for i in range(m.n):
        if m.items[3 * i] == -1:               # the rest
            return m.items[3 * i + 1]
        if 0 <= m.items[3 * i] <= id and id - m.items[3 * i] < m.items[3 * i + 2] and 0 <= m.items[3 * i + 1] <= 0xFFFFFFFFLL:
            return m.items[3 * i + 1] + (id - m.items[3 * i])
    return -1

cdef inline bint starts(const uint8_t* p, Py_ssize_t n, const char* prefix, Py_ssize_t m) noexcept nogil:
    return n >= m and memcmp(p, prefix, m) == 0

cdef inline int xattr_key(Place* c, Py_ssize_t row, const ExtItem* item, char* key) noexcept nogil:
    """Write the name to store ``item`` under into ``key`` (300 bytes): 1 to set it, 0 to leave it out."""
    cdef const uint8_t* p = item.name
    cdef Py_ssize_t n = item.name_len, split = 0
    if n == 0 or n > 255 or memchr(p, 0, n) is not NULL:
        warn(c, row, WARN_XATTR_NAME)
        return 0
    if not c.st.options & OPT_SELINUX and ((n == 16 and memcmp(p, b"security.selinux", 16) == 0)
                                           or (n == 15 and memcmp(p, b"system.nfs4_acl", 15) == 0)):
        return 0
    if starts(p, n, b"trusted.overlay.", 16) or starts(p, n, b"user.overlay.", 13):
        if not c.st.options & OPT_ESCAPE_OVERLAY:
            warn(c, row, WARN_XATTR_OVERLAY)
            return 0
        split = 16 if p[0] == 116 else 13
    if c.st.options & OPT_NO_TRUSTED and starts(p, n, b"trusted.", 8):
        warn(c, row, WARN_XATTR_TRUSTED)
        return 0
    memcpy(key, p, split)
    if split:
        memcpy(key + split, b"overlay.", 8)     # trusted.overlay.X is stored as trusted.overlay.overlay.X
        memcpy(key + split + 8, p + split, n - split)
        key[n + 8] = 0
    else:
        memcpy(key, p, n)
        key[n] = 0
    return 1

cdef inline int set_xattrs(Place* c, Py_ssize_t row, int fd, const char* name) noexcept nogil:
    cdef const uint8_t* run
    cdef Py_ssize_t n, at = 0
    cdef ExtItem item
    cdef char key[300]
    cdef int got
    if c.rows.ext_len[row] == 0 or c.st.options & OPT_NO_XATTRS or row_ext(c.rows, row, &run, &n) < 0:
        return 0
    while True:
        at = ext_next(run, n, at, &item)
        if at <= 0 or item.tag != EXT_XATTR:    # xattrs come first
            return 0
        if not xattr_key(c, row, &item, key):
            continue
        if name is NULL:
            got = fsetxattr(fd, key, item.value, item.value_len, 0)
        else:
            got = lam_setxattrat(fd, name, key, item.value, item.value_len)
        if got == 0:
            continue
        if errno == ENOTSUP:
            warn(c, row, WARN_XATTR_UNSUPPORTED)
        elif errno == EPERM and (c.st.options & OPT_TOLERANT
                                 or (name is not NULL and starts(item.name, item.name_len, b"user.", 5))):
            warn(c, row, WARN_XATTR_REFUSED)    # user.* is refused on everything but files and directories
        else:
            return -1

cdef inline void clear_xattrs(Place* c, Py_ssize_t row, int fd) noexcept nogil:
    """Remove the xattrs that the row's directory has and the row has not: stale, or inherited (28, 109)."""
    cdef char names[65536]
    cdef Py_ssize_t total = flistxattr(fd, names, 65536), at = 0, n, next_, run_len
    cdef const uint8_t* run
    cdef const uint8_t* key
    cdef ExtItem item
    cdef bint kept
    if c.st.options & OPT_NO_XATTRS or row_ext(c.rows, row, &run, &run_len) < 0:
        return
    while at < total:
        n = 0
        while at + n < total and names[at + n] != 0:
            n += 1
        kept = (not c.st.options & OPT_SELINUX and n == 16 and memcmp(names + at, b"security.selinux", 16) == 0)
        key = <const uint8_t*>names + at
        if starts(key, n, b"trusted.overlay.", 16) or starts(key, n, b"user.overlay.", 13):
            kept = True                         # the driver's, not the layer's
        next_ = 0
        while not kept:
            next_ = ext_next(run, run_len, next_, &item)
            if next_ <= 0 or item.tag != EXT_XATTR:
                break
            kept = item.name_len == n and memcmp(item.name, names + at, n) == 0
        if not kept and at + n < total:
            fremovexattr(fd, names + at)        # overlay's and the kernel's own may refuse: they stay
        at += n + 1

cdef inline int set_owner(Place* c, Py_ssize_t row, int fd, const char* name, bint inherits) noexcept nogil:
    """Apply the owner where it is not the one a new inode has: 1 when it was called for, 0 when not, -1 on error."""
    cdef int64_t uid, gid
    cdef int got
    if not c.st.options & OPT_CHOWN:
        return 0
    uid, gid = c.rows.uid[row], c.rows.gid[row]
    if not c.rows.flags[row] & F_HOST:
        uid, gid = map_id(&c.uids, uid), map_id(&c.gids, gid)
    if uid < 0 or gid < 0 or uid >= 0xFFFFFFFFLL or gid >= 0xFFFFFFFFLL:
        return lam_fail(EINVAL)  # place_rows() asked before: only a table changed underneath comes here
    if uid == c.st.euid and gid == c.st.egid and not inherits:
        return 0
    if name is NULL:
        got = fchown(fd, <uint32_t>uid, <uint32_t>gid)
    else:
        got = fchownat(fd, name, <uint32_t>uid, <uint32_t>gid, AT_SYMLINK_NOFOLLOW)
    return -1 if got < 0 else 1

cdef inline int set_times(Place* c, Py_ssize_t row, int fd, const char* name) noexcept nogil:
    """Apply mtime, and atime where the entry has one, else the mtime (60); warn where the file system clamped it."""
    cdef int64_t seconds = c.rows.mtime[row], a_seconds
    cdef uint32_t nsec = c.rows.mtime_nsec[row], a_nsec
    cdef const uint8_t* run
    cdef Py_ssize_t n, at = 0
    cdef ExtItem item
    cdef stat_t st
    if nsec > 999999999:
        nsec = 0
    if c.st.options & OPT_CLAMP_TIMES and (seconds < 0 or seconds >= 9223372036LL):
        seconds, nsec = 0, 0
    a_seconds, a_nsec = seconds, nsec
    if c.rows.flags[row] & F_ATIME and row_ext(c.rows, row, &run, &n) == 0:
        while True:
            at = ext_next(run, n, at, &item)
            if at <= 0:
                break
            if item.tag == EXT_ATIME and item.value_len == 12:
                memcpy(&a_seconds, item.value, 8)
                memcpy(&a_nsec, item.value + 8, 4)
                a_nsec = a_nsec if a_nsec <= 999999999 else 0
    if lam_utimens(fd, name, a_seconds, a_nsec, seconds, nsec) < 0:
        return -1
    if seconds < -2147483648LL or seconds > 2147483647LL:
        if (fstat(fd, &st) if name is NULL else lam_lstat(fd, name, &st)) == 0 and lam_stat_mtime(&st) != seconds:
            warn(c, row, WARN_TIME_CLAMPED)
    return 0
