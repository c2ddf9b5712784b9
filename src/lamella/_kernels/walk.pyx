"""Walk one directory tree into rows: see walk.pxd for what it does, _statx.pxd for the calls it makes."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, memset, strerror
from lamella._kernels._frames cimport READING, READY, UNSORTED, Frame, frame_load, frame_store
from lamella._kernels._index cimport lamella_mix
from lamella._kernels._names cimport NameItem, list_names, name_cmp, pack_dirents, sort_names
from lamella._kernels._rows cimport Rows, rows_acquire, rows_release
from lamella._kernels._statx cimport (
    CLONE_FS, DT_DIR, DT_SOCK, DT_UNKNOWN, EINVAL, ELOOP, EMFILE, ENAMETOOLONG, ENFILE, ENOENT, ENOTDIR, EOVERFLOW,
    EPERM, ESTALE, S_IFDIR, S_IFLNK, S_IFMT, S_IFSOCK, close, errno, fchdir, lam_getdents, lam_has_xattrat,
    lam_open_dir, lam_readlink, lam_statx, makedev, put_stat, statx_t, unshare)
from lamella._kernels._status cimport AT_END, BAD_FORMAT, OK, OS_ERROR, OUTPUT_FULL, SPECIAL
from lamella._kernels._xattrs cimport XattrRun, read_xattrs

cdef enum:
    NAME_ROOM = 4096         # a name and its NUL; no file system's names are longer
    LINK_ROOM = 4096         # a link's text; the kernel has no longer ones
    DIR_ROOM = 4096          # scratch that a directory wants at least
    DENTS = 65536            # bytes read by one getdents64 at most
    MAX_TRIES = 8            # looks at a name that changes its type between two calls

cdef struct Walk:
    Rows* r
    uint8_t* scratch
    int64_t cap
    int options
    WalkState s              # the caller's, copied in and checked, copied out

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
    close(f.fd)
    f.fd = -1
    frame_store(w.scratch, low, &f)
    w.s.low = f.above
    w.s.n_open -= 1
    return 1


cdef int _open_dir(Walk* w, int fd, const char* name) noexcept nogil:
    cdef int got
    if w.s.n_open + 2 > w.s.max_fds:                  # the root's, those, and the new one
        _close_outer(w)
    while True:
        got = lam_open_dir(fd, name, not w.s.bits & WB_ATIME)
        if got >= 0:
            return got
        if errno == EPERM and not w.s.bits & WB_ATIME:
            w.s.bits |= WB_ATIME                      # somebody else's directory, and no privilege
        elif not ((errno == EMFILE or errno == ENFILE) and _close_outer(w)):
            return -1


cdef int _look(Walk* w, int dirfd, const char* name, int dtype, Found* x) noexcept nogil:
    # learn what stands under a name. A directory is opened first and asked by descriptor, so that its row and its
    # names are of one inode whatever is renamed meanwhile.
    cdef int64_t n
    cdef int _tries, got, kind
    for _tries in range(MAX_TRIES):
        if dtype == DT_DIR:
            if w.cap - _aligned(w.s.top) < <int64_t>sizeof(Frame) + DIR_ROOM:
                w.s.need_scratch = _aligned(w.s.top) + <int64_t>sizeof(Frame) + DENTS
                return OUTPUT_FULL
            x.fd = _open_dir(w, dirfd, name)
            got = x.fd if x.fd < 0 else lam_statx(x.fd, b"", &x.st)
        else:
            got = lam_statx(dirfd, name, &x.st)
        if got < 0 and dtype == DT_DIR and (errno == ENOTDIR or errno == ELOOP):
            dtype = DT_UNKNOWN
            continue
        if got < 0:
            return _special(w, x, GHOST) if errno == ENOENT else _fail(w, errno, x.path_off, x.path_len)
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
        if n >= 0 or errno != EINVAL:
            return _special(w, x, GHOST) if n < 0 and errno == ENOENT else _fail(w, errno, x.path_off, x.path_len)
    return _fail(w, errno, x.path_off, x.path_len)


cdef int _xattrs(Walk* w, int dirfd, const char* name, Found* x) noexcept nogil:
    cdef XattrRun run
    cdef int status
    cdef int64_t last = w.s.ext_off
    run.fd = dirfd if x.fd < 0 else x.fd
    run.name = name if x.fd < 0 else NULL
    run.by_cwd = w.options & XATTR_CWD
    run.keep_selinux = w.options & KEEP_SELINUX
    run.scratch, run.scratch_cap = w.scratch + _aligned(w.s.top), w.cap - _aligned(w.s.top)
    run.out, run.out_cap = w.r.arena + x.arena_end, w.r.arena_cap - x.arena_end
    if run.by_cwd and x.fd < 0 and not w.s.bits & WB_HERE:
        if fchdir(dirfd) < 0:
            return _fail(w, errno, x.path_off, x.path_len)
        w.s.bits |= WB_HERE
    run.need_scratch = run.need_out = 0
    status = read_xattrs(&run)
    if status == OUTPUT_FULL:
        w.s.need_scratch = _aligned(w.s.top) + run.need_scratch if run.need_scratch else 0
        w.s.need_arena = x.arena_end - w.s.arena + run.need_out if run.need_out else 0
    elif status == OS_ERROR:
        return _special(w, x, GHOST) if errno == ENOENT else _fail(w, errno, x.path_off, x.path_len)
    if status != OK or run.nbytes == 0:
        return status
    x.ext_off, x.ext_len = x.arena_end, run.nbytes
    if (x.ext_len == w.s.ext_len and last >= 0 and last <= w.s.arena - x.ext_len
            and memcmp(w.r.arena + last, w.r.arena + x.ext_off, x.ext_len) == 0):
        x.ext_off = last                              # as the one before: a tree has few different runs
    else:
        x.arena_end += x.ext_len
    return OK


cdef void _write(Walk* w, const Found* x) noexcept nogil:
    cdef Rows* r = w.r
    cdef Py_ssize_t i = w.s.rows
    put_stat(r, i, &x.st)
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
    if x.st.stx_blocks < <uint64_t>r.size[i] >> 9 and w.s.holes <= (<int64_t>1 << 62):
        w.s.holes += (r.size[i] >> 9) - <int64_t>x.st.stx_blocks << 9
    w.s.arena = x.arena_end
    w.s.rows = i + 1


cdef int _enter(Walk* w, const Found* x) noexcept nogil:
    cdef Frame f, parent
    cdef int64_t at = _aligned(w.s.top)               # _look() saw that there is room
    memset(&f, 0, sizeof(Frame))
    f.below = w.s.frame - 1
    f.names_off = f.list_off = at + <int64_t>sizeof(Frame)
    f.path_off, f.path_len = x.path_off, <uint32_t>x.path_len
    f.dev, f.ino, f.fd = w.r.dev[w.s.rows - 1], x.st.stx_ino, x.fd
    if f.below >= 0:
        if _load(w, f.below, &parent) != OK:
            return BAD_FORMAT
        parent.above = at
        frame_store(w.scratch, f.below, &parent)
        w.s.n_open += 1
        if w.s.low == 0:
            w.s.low = at
    frame_store(w.scratch, at, &f)
    w.s.frame = at + 1
    w.s.top = f.names_off
    w.s.bits &= ~<int64_t>WB_HERE
    return OK


cdef int _visit(Walk* w, int dirfd, const char* name, int dtype, int64_t path_len) noexcept nogil:
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
            status = _enter(w, &x)
            if status == OK:
                return OK
    if x.fd >= 0:
        close(x.fd)
    return status


cdef int _room(Walk* w, int64_t path_len) noexcept nogil:
    if w.s.rows >= w.r.cap:
        w.s.need_rows = 1
        return OUTPUT_FULL
    if w.r.arena_cap - w.s.arena < path_len + LINK_ROOM:
        w.s.need_arena = path_len + LINK_ROOM
        return OUTPUT_FULL
    return OK


cdef int _entry(Walk* w, int64_t at, Frame* f) noexcept nogil:
    # the innermost directory's next name
    cdef char name[NAME_ROOM]
    cdef uint32_t off
    cdef int status
    cdef int64_t begin, n, path_len
    cdef uint8_t* path
    cdef const uint8_t* nul
    memcpy(&off, w.scratch + f.list_off + 4 * <int64_t>f.next, 4)
    begin = f.names_off + off + 1
    if begin >= f.list_off:
        return BAD_FORMAT
    nul = <const uint8_t*>memchr(w.scratch + begin, 0, f.list_off - begin)
    n = nul - (w.scratch + begin)
    if nul == NULL or n == 0 or n >= NAME_ROOM:
        return BAD_FORMAT
    memcpy(name, w.scratch + begin, n)
    name[n] = 0
    path_len = f.path_len + (f.path_len > 0) + n
    if path_len > 0xFFFF:
        return _fail(w, ENAMETOOLONG, f.path_off, f.path_len)
    status = _room(w, path_len)
    if status != OK:
        return status
    path = w.r.arena + w.s.arena
    if f.path_len:
        memcpy(path, w.r.arena + f.path_off, f.path_len)
        path[f.path_len] = 47
    memcpy(path + path_len - n, name, n)
    f.next += 1
    frame_store(w.scratch, at, f)
    status = _visit(w, f.fd, name, w.scratch[begin - 1], path_len)
    if status == OUTPUT_FULL or status == OS_ERROR:
        f.next -= 1                                   # the name's turn comes again
        frame_store(w.scratch, at, f)
    return status


cdef int _read(Walk* w, int64_t at, Frame* f) noexcept nogil:
    cdef int64_t room = w.cap - w.s.top, n
    if room < DIR_ROOM:
        w.s.need_scratch = w.s.top + DENTS
        return OUTPUT_FULL
    n = lam_getdents(f.fd, w.scratch + w.s.top, room if room < DENTS else DENTS)
    if n < 0 and errno == EINVAL and room < DENTS:
        w.s.need_scratch = w.s.top + DENTS
        return OUTPUT_FULL
    if n < 0 and errno != ENOENT:                     # ENOENT: it was removed meanwhile
        return _fail(w, errno, f.path_off, f.path_len)
    if n > 0:
        n = pack_dirents(w.scratch + w.s.top, n)
        if n < 0 or w.s.top + n - f.names_off > <int64_t>0xFFFFFFFF:
            return _fail(w, EOVERFLOW, f.path_off, f.path_len)
        w.s.top += n
    else:
        f.phase = UNSORTED
    f.list_off = w.s.top
    frame_store(w.scratch, at, f)
    return OK


cdef int _sort(Walk* w, int64_t at, Frame* f) noexcept nogil:
    # names_off to list_off: the names; then their sorted list
    cdef uint8_t* text = w.scratch + f.names_off
    cdef int64_t end = f.list_off - f.names_off, list_off = _aligned(f.list_off), k
    cdef NameItem* items = <NameItem*>(w.scratch + list_off)
    cdef uint32_t off, last = 0
    cdef int64_t room = (w.cap - list_off) // <int64_t>sizeof(NameItem)
    cdef int64_t n = list_names(text, end, items, room)
    if n < 0:
        return BAD_FORMAT
    if 2 * n > room or list_off > w.cap:
        w.s.need_scratch = list_off + 2 * n * <int64_t>sizeof(NameItem)
        return OUTPUT_FULL
    items = sort_names(text, <uint64_t>end, items, items + n, n)
    f.list_off, f.n_names = list_off, 0
    for k in range(n):                                # a list entry is shorter than an item: never ahead of k
        off = <uint32_t>(items[k].off - 1)
        if f.n_names and name_cmp(text, last + 1, off + 1, <uint64_t>end) == 0:
            continue                                  # a directory that changes may list a name twice
        memcpy(w.scratch + list_off + 4 * <int64_t>f.n_names, &off, 4)
        f.n_names += 1
        last = off
    f.phase = READY
    w.s.top = list_off + 4 * <int64_t>f.n_names
    frame_store(w.scratch, at, f)
    return OK


cdef int _leave(Walk* w, int64_t at, Frame* f) noexcept nogil:
    cdef Frame p
    cdef statx_t st
    cdef int fd
    if f.below < 0:
        close(f.fd)
        w.s.frame = -1
        return AT_END
    if _load(w, f.below, &p) != OK:
        return BAD_FORMAT
    if w.s.low == at:
        w.s.low = 0
    if p.fd < 0:
        fd = _open_dir(w, f.fd, b"..")
        if fd < 0 or lam_statx(fd, b"", &st) < 0:
            _fail(w, errno, p.path_off, p.path_len)
            if fd >= 0:
                close(fd)
            return OS_ERROR
        if st.stx_ino != p.ino or makedev(st.stx_dev_major, st.stx_dev_minor) != p.dev:
            close(fd)                                 # moved while it was read: nothing beside the tree is touched
            return _fail(w, ESTALE, f.path_off, f.path_len)
        p.fd = fd
        frame_store(w.scratch, f.below, &p)
        w.s.low = f.below
        w.s.n_open += 1
    close(f.fd)
    w.s.n_open -= 1
    w.s.frame = f.below + 1
    w.s.top = at
    w.s.bits &= ~<int64_t>WB_HERE
    return OK


cdef int _begin(Walk* w, int root_fd) noexcept nogil:
    cdef int status = _room(w, 0) if w.s.max_fds >= 3 else BAD_FORMAT
    if status == OK:                                  # opened anew: the caller's descriptor has a position of its own
        status = _visit(w, root_fd, b".", DT_DIR, 0)
    return _fail(w, ENOENT, 0, 0) if status == SPECIAL else status


cdef int _step(Walk* w) noexcept nogil:
    cdef Frame f
    cdef int64_t at = w.s.frame - 1
    if _load(w, at, &f) != OK:
        return BAD_FORMAT
    if f.phase == READING:
        return _read(w, at, &f)
    if f.phase != READY:
        return _sort(w, at, &f)
    return _leave(w, at, &f) if f.next == f.n_names else _entry(w, at, &f)


cdef int walk_rows(int root_fd, Rows* r, WalkState* state, uint8_t* scratch, Py_ssize_t scratch_cap,
                   int options) noexcept nogil:
    cdef Walk w
    cdef int status = OK
    w.s = state[0]
    w.r, w.scratch, w.cap, w.options = r, scratch, scratch_cap, options
    if (w.s.rows < 0 or w.s.rows > r.cap or w.s.arena < 0 or w.s.arena > r.arena_cap or w.s.top < 0
            or w.s.top > w.cap or r.dev == NULL or r.ino == NULL):
        return BAD_FORMAT
    w.s.need_rows = w.s.need_arena = w.s.need_scratch = w.s.special = w.s.error = 0
    w.s.bits &= ~<int64_t>WB_HERE                     # another thread may go on
    if w.s.frame == 0:
        status = _begin(&w, root_fd)
    while status == OK:
        status = _step(&w) if w.s.frame > 0 else AT_END
    state[0] = w.s
    return status


cdef void walk_release(WalkState* state, const uint8_t* scratch, Py_ssize_t scratch_cap) noexcept nogil:
    cdef Frame f
    cdef int64_t at = state.frame - 1, below = scratch_cap - <int64_t>sizeof(Frame)
    while 0 <= at <= below:
        memcpy(&f, scratch + at, sizeof(Frame))
        if f.fd >= 0:
            close(f.fd)
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
