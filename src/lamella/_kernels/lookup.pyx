"""Look given paths up in one branch of a union: see lookup.pxd."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy, memset, strerror
from lamella._kernels._below cimport BELOW_BY_PARTS, Below, _below, _is_plain, below_close, is_gone
from lamella._kernels._rows cimport (
    EXT_XATTR, ExtItem, Rows, ext_next, ext_put, row_ext, row_path, rows_acquire, rows_release)
from lamella._kernels._statx cimport (
    EINVAL, ENAMETOOLONG, ENOENT, S_IFCHR, S_IFLNK, S_IFMT, S_IFSOCK, lam_fchdir, lam_readlink, lam_statx, put_stat,
    statx_t)
from lamella._kernels._status cimport AT_END, OK, OS_ERROR, OUTPUT_FULL, Status
from lamella._kernels._xattrs cimport XattrRun, read_xattrs

cdef enum:
    DIR = 53
    NAME_CAP = 256           # of a name and its NUL
    LINK_ROOM = 4096         # a link's text; the kernel has no longer ones

FOUND_ROW, WHITEOUT_ROW, SOCKET_ROW = FOUND, WHITEOUT, SOCKET
OPTION_AUFS, OPTION_BY_PARTS, OPTION_PLAIN = AUFS, BY_PARTS, PLAIN
FACT_HIDING, FACT_OPAQUE, FACT_XWHITEOUTS, FACT_METACOPY, FACT_REDIRECT = HIDING, OPAQUE, XWHITEOUTS, METACOPY, REDIRECT
N_STATE = sizeof(FollowState) // 8

cdef struct Here:            # the directory that rows are looked up in
    Below dir
    int fd                   # -1: there is none here
    int64_t parent           # its row; -2 before the first


cdef inline Status _fail(FollowState* s, int64_t row, int error) noexcept nogil:
    s.error, s.row = error, row
    return OS_ERROR


cdef inline Py_ssize_t _last(const uint8_t* path, Py_ssize_t n) noexcept nogil:
    # where the last component begins
    while n > 0 and path[n - 1] != 47:
        n -= 1
    return n


cdef Status _step_into(Follow* w, FollowState* s, Here* h, int64_t i, const uint8_t* path, Py_ssize_t n) noexcept nogil:
    """Open the directory of row ``i``, path[:n], unless it is open."""
    cdef int64_t parent = w.parents[i]
    cdef int got
    cdef statx_t st
    if parent == h.parent:
        return OK
    h.parent = parent
    h.fd = -1
    if parent >= 0 and (parent >= w.out.cap or w.verdict[parent] != FOUND or w.out.type[parent] != DIR):
        return OK
    got = _below(w.root_fd, &h.dir, w.names, i, path, n)
    if got < 0:
        return OK if is_gone(-got) else _fail(s, i, -got)
    h.fd = got
    if w.options & XATTR_CWD:
        got = lam_fchdir(h.fd)
        if got < 0:
            return _fail(s, i, -got)
    if w.options & AUFS and parent >= 0:
        got = lam_statx(h.fd, b".wh..wh..opq", &st)
        if got == 0:
            w.facts[parent] |= OPAQUE
        elif not is_gone(-got):
            return _fail(s, parent, -got)
    return OK


cdef inline int _whited_out(const Follow* w, const Here* h, const char* name, Py_ssize_t n) noexcept nogil:
    """1 for an AUFS whiteout of the name, 0 for none, -errno."""
    cdef char marker[NAME_CAP]
    cdef statx_t st
    cdef int got
    if not w.options & AUFS or n == 0 or n + 5 > NAME_CAP:
        return 0
    memcpy(marker, b".wh.", 4)
    memcpy(marker + 4, name, n + 1)
    got = lam_statx(h.fd, marker, &st)
    return 1 if got == 0 else 0 if is_gone(-got) else got


cdef inline Status _attributes(Follow* w, FollowState* s, const Here* h, int64_t i, const char* name,
                               int64_t end) noexcept nogil:
    """Read the attributes of a row whose path and link text end at ``end`` of the arena, and keep all of them."""
    cdef XattrRun run
    cdef Status status = OK
    run.nbytes = 0
    if w.options & (XATTR_AT | XATTR_CWD):
        run.fd = h.fd
        run.name = name if name[0] else NULL
        run.by_cwd = w.options & XATTR_CWD
        run.keep_selinux = w.options & KEEP_SELINUX
        run.drop_kept = w.options & DROP_KEPT != 0
        run.scratch, run.scratch_cap = w.scratch, w.scratch_cap
        run.out, run.out_cap = w.out.arena + end, w.out.arena_cap - end
        status = <Status>read_xattrs(&run)
    if status == OUTPUT_FULL:
        s.need_scratch = run.need_scratch
        s.need_arena = end - s.arena + run.need_out if run.need_out else 0
    elif status == OS_ERROR:
        status = _fail(s, i, run.error)
    if status == OK:
        w.out.ext_off[i] = end if run.nbytes else 0
        w.out.ext_len[i] = <uint32_t>run.nbytes
        s.arena = end + run.nbytes
    return status


cdef Status _look(Follow* w, FollowState* s, const Here* h, int64_t i, const uint8_t* path, Py_ssize_t n,
                  const char* name) noexcept nogil:
    """Write row ``i``, ``name`` of the directory h.fd; "" is that directory itself."""
    cdef statx_t st
    cdef Rows* r = w.out
    cdef int got = lam_statx(h.fd, name, &st)
    cdef int64_t link = 0
    cdef Status status
    if got < 0:
        return OK if is_gone(-got) or got == -ENAMETOOLONG else _fail(s, i, -got)
    if (st.stx_mode & S_IFMT) == S_IFSOCK:
        w.verdict[i] = SOCKET
        return OK
    if ((st.stx_mode & S_IFMT) == S_IFCHR and st.stx_rdev_major == 0 and st.stx_rdev_minor == 0
            and not w.options & (AUFS | PLAIN)):
        w.verdict[i] = WHITEOUT
        return OK
    if r.arena_cap - s.arena < n + LINK_ROOM:
        s.need_arena = n + LINK_ROOM
        return OUTPUT_FULL
    memcpy(r.arena + s.arena, path, n)
    if (st.stx_mode & S_IFMT) == S_IFLNK:
        link = lam_readlink(h.fd, name, <char*>r.arena + s.arena + n, LINK_ROOM)
        if link < 0 or link >= LINK_ROOM:
            return OK if link == -ENOENT or link == -EINVAL else _fail(s, i, ENAMETOOLONG if link > 0 else <int>-link)
    put_stat(r, i, &st)
    r.flags[i], r.link_group[i] = 0, -1
    r.name_off[i], r.path_len[i], r.link_len[i] = s.arena, <uint16_t>n, <uint16_t>link
    status = _attributes(w, s, h, i, name, s.arena + n + link)
    if status == OS_ERROR and s.error == ENOENT:
        return OK
    if status == OK:
        w.verdict[i] = FOUND
        w.nlink[i] = st.stx_nlink
    return status


cdef Status _visit(Follow* w, FollowState* s, Here* h, int64_t i) noexcept nogil:
    cdef char name[NAME_CAP]
    cdef const uint8_t* path
    cdef Py_ssize_t n, at
    cdef Status status
    cdef int got
    if row_path(w.names, i, &path, &n) < 0:
        return _fail(s, i, EINVAL)
    w.verdict[i] = ABSENT
    at = _last(path, n)
    if n - at >= NAME_CAP:
        return OK
    memcpy(name, path + at, n - at)
    name[n - at] = 0
    if n > 0 and not _is_plain(name, n - at):
        return _fail(s, i, EINVAL)                    # ".." would leave the root
    if n == 0:
        h.parent, h.fd = -1, w.root_fd                # the root itself; what is in it comes next, or later
        if w.options & XATTR_CWD and lam_fchdir(w.root_fd) < 0:
            return _fail(s, i, EINVAL)
        status = _look(w, s, h, i, path, n, name)
        h.parent = -2
        return status
    status = _step_into(w, s, h, i, path, at - 1 if at else 0)
    if status != OK or h.fd < 0:
        return status
    got = _whited_out(w, h, name, n - at)
    if got < 0:
        return _fail(s, i, -got)
    status = _look(w, s, h, i, path, n, name)
    if got and status == OK:                          # what stands beside its whiteout is shown, and nothing below it
        w.facts[i] |= OPAQUE
        w.verdict[i] = WHITEOUT if w.verdict[i] == ABSENT else w.verdict[i]
    return status


cdef Status follow_rows(Follow* w, FollowState* s) noexcept nogil:
    cdef Here h
    cdef Status status = OK
    cdef int64_t i
    memset(&h, 0, sizeof(Here))
    h.dir.flags = BELOW_BY_PARTS if w.options & BY_PARTS else 0
    h.fd, h.parent = -1, -2
    s.need_arena = s.need_scratch = s.error = 0
    if s.next < 0 or s.next > w.n_order or s.arena < 0 or s.arena > w.out.arena_cap:
        return _fail(s, 0, EINVAL)
    while status == OK and s.next < w.n_order:
        i = w.order[s.next]
        if i < 0 or i >= w.names.cap or w.parents[i] >= w.names.cap:
            status = _fail(s, 0, EINVAL)
            break
        if w.want[i]:
            status = _visit(w, s, &h, i)
        else:
            w.verdict[i] = SKIPPED
        if status == OK:
            s.next += 1
    below_close(&h.dir)
    return AT_END if status == OK else status


# -- own attributes ---------------------------------------------------------------------------------------------------

cdef inline Py_ssize_t _own(const ExtItem* x, int namespaces) noexcept nogil:
    """The length of the prefix that makes an attribute overlay's own, 0 for another."""
    if x.tag != EXT_XATTR:
        return 0
    if namespaces & TRUSTED and x.name_len >= 16 and memcmp(x.name, b"trusted.overlay.", 16) == 0:
        return 16
    if namespaces & USER and x.name_len >= 13 and memcmp(x.name, b"user.overlay.", 13) == 0:
        return 13
    return 0


cdef inline bint _is(const uint8_t* p, Py_ssize_t n, const char* text, Py_ssize_t m) noexcept nogil:
    return n == m and memcmp(p, text, n) == 0


cdef inline uint8_t _fact(const uint8_t* name, Py_ssize_t n, const ExtItem* x) noexcept nogil:
    if _is(name, n, b"opaque", 6) and x.value_len == 1:
        return OPAQUE if x.value[0] == 121 else XWHITEOUTS if x.value[0] == 120 else 0
    if _is(name, n, b"whiteout", 8):
        return HIDING
    if _is(name, n, b"metacopy", 8):
        return METACOPY
    return REDIRECT if _is(name, n, b"redirect", 8) and 0 < x.value_len <= 0xFFFF else 0


cdef struct Kept:            # one run: what it says, and what is left of it
    uint8_t facts
    const uint8_t* text
    uint16_t text_len
    int64_t end              # of the copy in ``more``
    bint same                # nothing was overlay's


cdef inline int _read_run(const uint8_t* p, Py_ssize_t n, int namespaces, uint8_t* more, int64_t cap, int64_t begin,
                          Kept* k) noexcept nogil:
    cdef ExtItem x
    cdef Py_ssize_t at = 0, skip, rest
    cdef uint8_t name[512]
    k.facts, k.text, k.text_len, k.end, k.same = 0, NULL, 0, begin, True
    while True:
        at = ext_next(p, n, at, &x)
        if at <= 0:
            return <int>at
        skip = _own(&x, namespaces)
        rest = x.name_len - skip
        if skip and not (rest > 8 and memcmp(x.name + skip, b"overlay.", 8) == 0):
            k.same = False
            k.facts |= _fact(x.name + skip, rest, &x)
            if k.facts & REDIRECT and k.text == NULL and _is(x.name + skip, rest, b"redirect", 8):
                k.text, k.text_len = x.value, <uint16_t>x.value_len
            continue
        if skip:
            if x.name_len > 512:
                return -1
            k.same = False
            memcpy(name, x.name, skip)
            memcpy(name + skip, x.name + skip + 8, rest - 8)
            x.name, x.name_len = name, x.name_len - 8
        k.end = ext_put(more, cap, k.end, x.tag, x.name, x.name_len, x.value, x.value_len)
        if k.end < 0:
            return -1


cdef int64_t own_rows(const Rows* r, int namespaces, uint8_t* facts, int64_t* text_off, uint16_t* text_len,
                      int64_t* ext_off, uint32_t* ext_len, uint8_t* more, int64_t more_cap) noexcept nogil:
    cdef const uint8_t* p
    cdef Py_ssize_t n, i, last = -1
    cdef int64_t used = 0
    cdef Kept k
    for i in range(r.cap):
        facts[i] = 0
        text_off[i] = text_len[i] = 0
        ext_off[i], ext_len[i] = r.ext_off[i], r.ext_len[i]
        if row_ext(r, i, &p, &n) < 0:
            return -1
        if n == 0:
            continue
        if last >= 0 and r.ext_off[last] == r.ext_off[i] and r.ext_len[last] == n:
            facts[i], text_off[i], text_len[i] = facts[last], text_off[last], text_len[last]
            ext_off[i], ext_len[i] = ext_off[last], ext_len[last]
            continue
        if _read_run(p, n, namespaces, more, more_cap, used, &k) < 0:
            return -1
        last = i
        facts[i] = k.facts
        if k.text != NULL:
            text_off[i], text_len[i] = k.text - r.arena, k.text_len
        if not k.same:
            ext_off[i] = r.arena_cap + used if k.end > used else 0
            ext_len[i] = <uint32_t>(k.end - used)
            used = k.end
    return used


def follow(int root_fd, tuple names not None, const int64_t[::1] order not None, const int32_t[::1] parents not None,
           const uint8_t[::1] want not None, tuple columns not None, uint8_t[::1] verdict not None,
           uint8_t[::1] facts not None, uint32_t[::1] nlink not None, int64_t[::1] state not None,
           uint8_t[::1] scratch not None, int options):
    """Look up the wanted rows of ``names`` below ``root_fd``, writing the same rows of ``columns``; see lookup.pxd.

    Returns AT_END, or OUTPUT_FULL: grow the arena, or the scratch, and call again. OSError with the row's path, bytes;
    ValueError for arrays that are not as long as the tables.
    """
    cdef Rows a, b
    cdef Follow w
    cdef FollowState s
    cdef Status status = OS_ERROR
    cdef const uint8_t* p = NULL
    cdef Py_ssize_t n = parents.shape[0], m = 0
    if state.shape[0] * 8 != sizeof(FollowState) or scratch.shape[0] < 8 or <size_t>&scratch[0] & 7:
        raise ValueError(f"state has {sizeof(FollowState) // 8} items; scratch begins at a multiple of 8 bytes")
    s = (<FollowState*>&state[0])[0]
    rows_acquire(&a, names, False)
    try:
        rows_acquire(&b, columns, True)
        try:
            if (a.cap != n or b.cap != n or want.shape[0] != n or verdict.shape[0] != n or facts.shape[0] != n
                    or nlink.shape[0] != n or b.dev == NULL or b.ino == NULL):
                raise ValueError("tables and arrays differ in length, or there is no dev and ino")
            if n == 0 or order.shape[0] == 0:
                return AT_END
            w.root_fd, w.options, w.names, w.out = root_fd, options, &a, &b
            w.order, w.n_order, w.parents, w.want = &order[0], order.shape[0], &parents[0], &want[0]
            w.verdict, w.facts, w.nlink = &verdict[0], &facts[0], &nlink[0]
            w.scratch, w.scratch_cap = &scratch[0], scratch.shape[0]
            with nogil:
                status = follow_rows(&w, &s)
            (<FollowState*>&state[0])[0] = s
            if status == OS_ERROR:
                if 0 <= s.row < a.cap and row_path(&a, <Py_ssize_t>s.row, &p, &m) < 0:
                    p = NULL
                raise OSError(s.error, strerror(<int>s.error).decode(), <bytes>p[:m] if p != NULL else b"")
        finally:
            rows_release(&b)
    finally:
        rows_release(&a)
    return status


def own(tuple columns not None, int namespaces, uint8_t[::1] facts not None, int64_t[::1] text_off not None,
        uint16_t[::1] text_len not None, int64_t[::1] ext_off not None, uint32_t[::1] ext_len not None,
        uint8_t[::1] more not None):
    """Read overlay's own attributes out of all rows; return the bytes of ``more`` in use. See own_rows in lookup.pxd.

    ValueError where the lengths differ, ``more`` is short, or a row points outside its arena.
    """
    cdef Rows r
    cdef int64_t used = -1
    cdef Py_ssize_t n = facts.shape[0]
    cdef uint8_t* to = &more[0] if more.shape[0] else NULL
    rows_acquire(&r, columns, False)
    try:
        if (r.cap == n and text_off.shape[0] == n and text_len.shape[0] == n and ext_off.shape[0] == n
                and ext_len.shape[0] == n):
            if n == 0:
                return 0
            with nogil:
                used = own_rows(&r, namespaces, &facts[0], &text_off[0], &text_len[0], &ext_off[0], &ext_len[0],
                                to, more.shape[0])
    finally:
        rows_release(&r)
    if used < 0:
        raise ValueError("lengths differ, more is short, or a row points outside its arena or is malformed")
    return used
