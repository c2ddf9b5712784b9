"""Walk one directory tree into rows: see walk.pxd for what it does, _statx.pxd for the calls it makes."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset, strerror
from lamella._kernels._frames cimport READING, READY, Frame, frame_load, frame_store
from lamella._kernels._index cimport lamella_mix
from lamella._kernels._listing cimport DENTS, DIR_ROOM, NAME_ROOM, next_name, order_names, read_names
from lamella._kernels._rows cimport Rows, rows_acquire, rows_release
from lamella._kernels._statx cimport (
    CLONE_FS, DT_DIR, DT_SOCK, DT_UNKNOWN, EINVAL, ELOOP, EMFILE, ENAMETOOLONG, ENFILE, ENOENT, ENOTDIR, EPERM,
    ESTALE, S_IFDIR, S_IFLNK, S_IFMT, S_IFSOCK, errno, lam_fchdir, lam_has_xattrat, lam_open_dir, lam_readlink,
    lam_statx, makedev, put_stat, statx_t, unshare)
from lamella._kernels._status cimport AT_END, BAD_FORMAT, OK, OS_ERROR, OUTPUT_FULL, SPECIAL
from lamella._kernels._syscall cimport lam_close
from lamella._kernels._xattrs cimport XattrRun, read_xattrs

cdef enum:
    LINK_ROOM = 4096         # a link's text; the kernel has no longer ones
    MAX_TRIES = 8            # looks at a name that changes its type between two calls

# A walk is one loop of functions with one caller each, for the compiler to make one function of: see _syscall.pxd.
cdef struct Walk:
    Rows* r
    uint8_t* scratch
    int64_t cap
    int options
    int root_fd
    WalkState s              # the caller's, copied in and checked, copied out
    Frame f                  # the innermost; scratch has it while a deeper one is, and between calls

cdef struct Found:           # one name, before its row is written
    statx_t st
    int fd                   # open, if it is a directory
    int64_t path_off
    int64_t path_len
    int64_t link_len
    int64_t ext_off
    int64_t ext_len
    int64_t arena_end


cdef inline int64_t _aligned(int64_t n) noexcept nogil:
    return (n + 7) & ~<int64_t>7


cdef int _fail(Walk* w, int error, int64_t path_off, int64_t path_len) noexcept nogil:
    w.s.error, w.s.path_off, w.s.path_len = error, path_off, path_len
    return OS_ERROR


cdef int _special(Walk* w, const Found* x, int what) noexcept nogil:
    w.s.special, w.s.path_off, w.s.path_len = what, x.path_off, x.path_len
    return SPECIAL


cdef inline int _load(const Walk* w, int64_t at, Frame* f) noexcept nogil:
    return frame_load(w.scratch, w.s.top, w.s.arena, at, f)


cdef int _close_outer(Walk* w) noexcept nogil:
    # give up the descriptor of the outermost open directory; 0 where none can be spared
    cdef Frame f
    cdef int64_t low = w.s.low
    if low <= 0 or low >= w.s.frame - 1 or _load(w, low, &f) != OK or f.fd < 0:
        return 0
    lam_close(f.fd)
    f.fd = -1
    frame_store(w.scratch, low, &f)
    w.s.low = f.above
    w.s.n_open -= 1
    return 1


cdef inline int _open_dir(Walk* w, int fd, const char* name) noexcept nogil:
    cdef int got
    if w.s.n_open + 2 > w.s.max_fds:                  # the root's, those, and the new one
        _close_outer(w)
    while True:
        got = lam_open_dir(fd, name, not w.s.bits & WB_ATIME)
        if got >= 0:
            return got
        if got == -EPERM and not w.s.bits & WB_ATIME:
            w.s.bits |= WB_ATIME                      # somebody else's directory, and no privilege
        elif not ((got == -EMFILE or got == -ENFILE) and _close_outer(w)):
            return got


cdef inline int _look(Walk* w, int dirfd, const char* name, int dtype, Found* x) noexcept nogil:
    # learn what stands under a name. A directory is opened first and asked by descriptor, so that its row and its
    # names are of one inode whatever is renamed meanwhile.
    cdef int64_t n
    cdef int _tries, got, kind
    for _tries in range(MAX_TRIES):
        if dtype == DT_DIR:
            if w.cap - _aligned(w.s.top) < <int64_t>sizeof(Frame) + DIR_ROOM:
                w.s.need_scratch = _aligned(w.s.top) + <int64_t>sizeof(Frame) + DENTS
                return OUTPUT_FULL
            got = x.fd = _open_dir(w, dirfd, name)
            if got >= 0:
                got = lam_statx(x.fd, b"", &x.st)
        else:
            got = lam_statx(dirfd, name, &x.st)
        if dtype == DT_DIR and (got == -ENOTDIR or got == -ELOOP):
            dtype = DT_UNKNOWN
            continue
        if got < 0:
            return _special(w, x, GHOST) if got == -ENOENT else _fail(w, -got, x.path_off, x.path_len)
        kind = x.st.stx_mode & S_IFMT
        if kind == S_IFDIR and x.fd < 0:
            dtype = DT_DIR
            continue
        if kind == S_IFSOCK:
            return _special(w, x, SOCKET)
        if kind != S_IFLNK:
            return OK
        n = lam_readlink(dirfd, name, <char*>w.r.arena + x.path_off + x.path_len, LINK_ROOM)
        if 0 <= n < LINK_ROOM:
            x.link_len = n
            return OK
        if n != -EINVAL:                              # it is no symlink any more
            n = -ENAMETOOLONG if n > 0 else n
            return _special(w, x, GHOST) if n == -ENOENT else _fail(w, <int>-n, x.path_off, x.path_len)
    return _fail(w, ESTALE, x.path_off, x.path_len)


cdef inline int _xattrs(Walk* w, int dirfd, const char* name, Found* x) noexcept nogil:
    cdef XattrRun run
    cdef int status, got
    cdef int64_t last = w.s.ext_off
    run.fd = dirfd if x.fd < 0 else x.fd
    run.name = name if x.fd < 0 else NULL
    run.by_cwd = w.options & XATTR_CWD
    run.keep_selinux = w.options & KEEP_SELINUX
    run.drop_kept = w.options & DROP_KEPT != 0
    run.scratch, run.scratch_cap = w.scratch + _aligned(w.s.top), w.cap - _aligned(w.s.top)
    run.out, run.out_cap = w.r.arena + x.arena_end, w.r.arena_cap - x.arena_end
    if run.by_cwd and x.fd < 0 and not w.s.bits & WB_HERE:
        got = lam_fchdir(dirfd)
        if got < 0:
            return _fail(w, -got, x.path_off, x.path_len)
        w.s.bits |= WB_HERE
    status = read_xattrs(&run)
    if status == OUTPUT_FULL:
        w.s.need_scratch = _aligned(w.s.top) + run.need_scratch if run.need_scratch else 0
        w.s.need_arena = x.arena_end - w.s.arena + run.need_out if run.need_out else 0
    elif status == OS_ERROR:
        return _special(w, x, GHOST) if run.error == ENOENT else _fail(w, run.error, x.path_off, x.path_len)
    if status != OK or run.nbytes == 0:
        return status
    x.ext_off, x.ext_len = x.arena_end, run.nbytes
    if (x.ext_len == w.s.ext_len and last >= 0 and last <= w.s.arena - x.ext_len
            and memcmp(w.r.arena + last, w.r.arena + x.ext_off, x.ext_len) == 0):
        x.ext_off = last                              # as the one before: a tree has few different runs
    else:
        x.arena_end += x.ext_len
    return OK


cdef inline void _write(Walk* w, const Found* x) noexcept nogil:
    cdef Rows* r = w.r
    cdef Py_ssize_t i = w.s.rows
    cdef int64_t size = put_stat(r, i, &x.st)
    r.flags[i] = 0
    r.link_group[i] = -1
    r.name_off[i] = x.path_off
    r.path_len[i] = <uint16_t>x.path_len
    r.link_len[i] = <uint16_t>x.link_len
    r.ext_off[i] = x.ext_off if x.ext_len else 0
    r.ext_len[i] = <uint32_t>x.ext_len
    if x.ext_len:
        w.s.ext_off, w.s.ext_len = x.ext_off, x.ext_len
    if x.fd < 0 and x.st.stx_nlink > 1:
        r.link_group[i] = LINK_PENDING
        w.s.linked += 1
    if x.st.stx_blocks < <uint64_t>size >> 9 and w.s.holes <= (<int64_t>1 << 62):
        w.s.holes += (size >> 9) - <int64_t>x.st.stx_blocks << 9
    w.s.arena = x.arena_end
    w.s.rows = i + 1


cdef inline void _enter(Walk* w, const Found* x) noexcept nogil:
    cdef int64_t at = _aligned(w.s.top), below = w.s.frame - 1       # _look() saw that there is room
    if below >= 0:
        w.f.above = at
        frame_store(w.scratch, below, &w.f)
        w.s.n_open += 1
        if w.s.low == 0:
            w.s.low = at
    memset(&w.f, 0, sizeof(Frame))
    w.f.below = below
    w.f.names_off = w.f.list_off = at + <int64_t>sizeof(Frame)
    w.f.path_off, w.f.path_len = x.path_off, <uint32_t>x.path_len
    w.f.dev, w.f.ino, w.f.fd = makedev(x.st.stx_dev_major, x.st.stx_dev_minor), x.st.stx_ino, x.fd
    w.s.frame = at + 1
    w.s.top = w.f.names_off
    w.s.bits &= ~<int64_t>WB_HERE


cdef inline int _visit(Walk* w, int dirfd, const char* name, int dtype, int64_t path_len) noexcept nogil:
    # one name whose path stands at the end of the arena
    cdef Found x
    cdef int status
    x.fd = -1
    x.path_off, x.path_len = w.s.arena, path_len
    x.link_len = x.ext_off = x.ext_len = 0
    if dtype == DT_SOCK:
        return _special(w, &x, SOCKET)
    status = _look(w, dirfd, name, dtype, &x)
    x.arena_end = x.path_off + x.path_len + x.link_len
    if status == OK and w.options & (XATTR_AT | XATTR_CWD):
        status = _xattrs(w, dirfd, name, &x)
    if status == OK:
        _write(w, &x)
        if x.fd >= 0:
            _enter(w, &x)
    elif x.fd >= 0:
        lam_close(x.fd)
    return status


cdef inline int _room(Walk* w, int64_t path_len) noexcept nogil:
    if w.s.rows >= w.r.cap:
        w.s.need_rows = 1
        return OUTPUT_FULL
    if w.r.arena_cap - w.s.arena < path_len + LINK_ROOM:
        w.s.need_arena = path_len + LINK_ROOM
        return OUTPUT_FULL
    return OK


cdef inline int _entry(Walk* w) noexcept nogil:
    # the next name; before all others the root, opened anew: the caller's descriptor has a position of its own
    cdef char name[NAME_ROOM]
    cdef bint begins = w.s.frame == 0
    cdef int status = OK, dtype = DT_DIR
    cdef int64_t n = 0, path_len = 0
    cdef uint8_t* path
    name[0], name[1] = 46, 0
    if not begins:
        status = next_name(w.scratch, &w.f, name, &n, &dtype)
        path_len = w.f.path_len + (w.f.path_len > 0) + n
        if status == OK and path_len > 0xFFFF:
            return _fail(w, ENAMETOOLONG, w.f.path_off, w.f.path_len)
    if status == OK:
        status = _room(w, path_len)
    if status != OK:
        return status
    path = w.r.arena + w.s.arena
    if w.f.path_len:
        memcpy(path, w.r.arena + w.f.path_off, w.f.path_len)
        path[w.f.path_len] = 47
    memcpy(path + path_len - n, name, n)
    w.f.next += 1
    status = _visit(w, w.root_fd if begins else w.f.fd, name, dtype, path_len)
    if status == OUTPUT_FULL or status == OS_ERROR:
        w.f.next -= 1                                 # the name's turn comes again
    return _fail(w, ENOENT, 0, 0) if status == SPECIAL and begins else status


cdef inline int _list(Walk* w) noexcept nogil:
    cdef int error = 0
    cdef int status
    if w.f.phase == READING:
        status = read_names(w.scratch, w.cap, &w.s.top, &w.f, &w.s.need_scratch, &error)
    else:
        status = order_names(w.scratch, w.cap, &w.s.top, &w.f, &w.s.need_scratch)
    return _fail(w, error, w.f.path_off, w.f.path_len) if status == OS_ERROR else status


cdef int _reopen(Walk* w, Frame* p) noexcept nogil:
    # the directory above, which was closed, as ``..`` of the innermost
    cdef statx_t st
    cdef int got, fd = _open_dir(w, w.f.fd, b"..")
    if fd < 0:
        return _fail(w, -fd, p.path_off, p.path_len)
    got = lam_statx(fd, b"", &st)
    if got == 0 and st.stx_ino == p.ino and makedev(st.stx_dev_major, st.stx_dev_minor) == p.dev:
        p.fd = fd
        w.s.low = w.f.below
        w.s.n_open += 1
        return OK
    lam_close(fd)
    if got < 0:
        return _fail(w, -got, p.path_off, p.path_len)
    return _fail(w, ESTALE, w.f.path_off, w.f.path_len)          # moved while it was read: nothing beside the tree is touched


cdef inline int _leave(Walk* w) noexcept nogil:
    cdef Frame p
    cdef int64_t at = w.s.frame - 1
    cdef int status
    if w.f.below < 0:
        lam_close(w.f.fd)
        w.s.frame = -1
        return AT_END
    if _load(w, w.f.below, &p) != OK:
        return BAD_FORMAT
    if w.s.low == at:
        w.s.low = 0
    if p.fd < 0:
        status = _reopen(w, &p)
        if status != OK:
            return status
    lam_close(w.f.fd)
    w.s.n_open -= 1
    w.s.frame = w.f.below + 1
    w.s.top = at
    w.s.bits &= ~<int64_t>WB_HERE
    w.f = p
    return OK


cdef int walk_rows(int root_fd, Rows* r, WalkState* state, uint8_t* scratch, Py_ssize_t scratch_cap,
                   int options) noexcept nogil:
    cdef Walk w
    cdef int status = OK
    w.s = state[0]
    w.r, w.scratch, w.cap, w.options, w.root_fd = r, scratch, scratch_cap, options, root_fd
    if (w.s.rows < 0 or w.s.rows > r.cap or w.s.arena < 0 or w.s.arena > r.arena_cap or w.s.top < 0
            or w.s.top > w.cap or r.dev == NULL or r.ino == NULL or w.s.max_fds < 3):
        return BAD_FORMAT
    w.s.need_rows = w.s.need_arena = w.s.need_scratch = w.s.special = w.s.error = 0
    w.s.bits &= ~<int64_t>WB_HERE                     # another thread may go on
    memset(&w.f, 0, sizeof(Frame))
    if w.s.frame > 0 and _load(&w, w.s.frame - 1, &w.f) != OK:
        return BAD_FORMAT
    while status == OK:
        if w.s.frame == 0 or (w.f.phase == READY and w.f.next < w.f.n_names):
            status = _entry(&w)
        elif w.s.frame < 0:
            status = AT_END
        else:
            status = _leave(&w) if w.f.phase == READY else _list(&w)
    if w.s.frame > 0:
        frame_store(scratch, w.s.frame - 1, &w.f)
    state[0] = w.s
    return status


cdef void walk_release(WalkState* state, const uint8_t* scratch, Py_ssize_t scratch_cap) noexcept nogil:
    cdef Frame f
    cdef int64_t at = state.frame - 1, below = scratch_cap - <int64_t>sizeof(Frame)
    while 0 <= at <= below:
        memcpy(&f, scratch + at, sizeof(Frame))
        if f.fd >= 0:
            lam_close(f.fd)
        below = at - 1
        at = f.below
    state.frame = -1


cdef int64_t walk_link(Rows* r, Py_ssize_t n, uint32_t* slots, uint64_t mask, uint64_t seed) noexcept nogil:
    cdef Py_ssize_t i, j, n_groups = 0
    cdef uint64_t at, probes
    for i in range(n):
        if r.link_group[i] != LINK_PENDING:
            continue
        at = lamella_mix(r.ino[i] ^ seed, r.dev[i] ^ 0x9E3779B97F4A7C15ULL) & mask
        probes = 0
        while slots[at] != 0 and probes <= mask:
            j = <Py_ssize_t>slots[at] - 1
            if j < i and r.ino[j] == r.ino[i] and r.dev[j] == r.dev[i]:
                n_groups += r.link_group[j] == LINK_PENDING
                r.link_group[i] = r.link_group[j] = <int32_t>j
                break
            at = (at + 1) & mask
            probes += 1
        else:
            if slots[at] == 0:
                slots[at] = <uint32_t>(i + 1)
    for i in range(n):
        if r.link_group[i] == LINK_PENDING:
            r.link_group[i] = -1                      # its other names are elsewhere
    return n_groups


cdef WalkState* _state(int64_t[::1] state, const uint8_t[::1] scratch) except NULL:
    if state.shape[0] * 8 != sizeof(WalkState) or scratch.shape[0] < 8 or <size_t>&scratch[0] & 7:
        raise ValueError(f"state has {sizeof(WalkState) // 8} items; scratch begins at a multiple of 8 bytes")
    return <WalkState*>&state[0]


def has_xattrat():
    """Return whether the kernel has listxattrat and getxattrat (Linux 6.13)."""
    return bool(lam_has_xattrat())


def own_cwd():
    """Give the calling thread, for good, a working directory of its own: what XATTR_CWD wants. OSError."""
    if unshare(CLONE_FS) < 0:
        raise OSError(errno, strerror(errno).decode())


def rows(int root_fd, tuple columns not None, int64_t[::1] state not None, uint8_t[::1] scratch not None,
         int options):
    """Go on with a walk, as walk.pxd says; return the verdict: AT_END, OUTPUT_FULL or SPECIAL.

    OSError with the path below the root, bytes; ValueError for buffers that are none of this walk.
    """
    cdef Rows r
    cdef int status
    cdef int64_t begin, n
    cdef WalkState* st = _state(state, scratch)
    cdef uint8_t* base = &scratch[0]
    rows_acquire(&r, columns, True)
    try:
        with nogil:
            status = walk_rows(root_fd, &r, st, base, scratch.shape[0], options)
        if status == BAD_FORMAT:
            raise ValueError("state, scratch and columns are not those of one walk")
        if status == OS_ERROR:
            begin, n = st.path_off, st.path_len
            n = n if 0 <= begin <= r.arena_cap and 0 <= n <= r.arena_cap - begin else 0
            raise OSError(st.error, strerror(<int>st.error).decode(), <bytes>r.arena[begin:begin + n])
    finally:
        rows_release(&r)
    return status


def release(int64_t[::1] state not None, const uint8_t[::1] scratch not None):
    """Close what an unfinished walk holds open; harmless after one that is finished."""
    walk_release(_state(state, scratch), &scratch[0], scratch.shape[0])


def link(tuple columns not None, Py_ssize_t n, uint32_t[::1] slots not None, uint64_t seed):
    """Turn the pending link groups of rows [0, n) into groups by (dev, ino); return the number of groups.

    ``slots`` is zeroed and has a power of two of items, more than there are rows pending; ValueError otherwise.
    """
    cdef Rows r
    cdef Py_ssize_t cap = slots.shape[0]
    cdef uint32_t* first = &slots[0] if cap else NULL
    cdef int64_t n_groups = 0
    if cap < 2 or cap & (cap - 1):
        raise ValueError(f"a table of links has a power of two of slots, not {cap}")
    rows_acquire(&r, columns, True)
    try:
        if n < 0 or n > r.cap or r.dev == NULL or r.ino == NULL:
            raise ValueError(f"{n} rows of {r.cap}, with dev and ino")
        with nogil:
            n_groups = walk_link(&r, n, first, <uint64_t>(cap - 1), seed)
    finally:
        rows_release(&r)
    return n_groups
