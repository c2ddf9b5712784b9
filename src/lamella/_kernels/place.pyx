"""Make the inodes of rows below one directory: see place.pxd for the contract."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset, strerror
from lamella._kernels._index cimport index_find, index_put
from lamella._kernels._jobs cimport (
    jobs_clear, jobs_finish, jobs_join, jobs_pending, jobs_put, jobs_stop, jobs_take_first, jobs_take_last, jobs_wait,
    lam_load,
)
from lamella._kernels._meta cimport clear_xattrs, map_id, set_owner, set_times, set_xattrs
from lamella._kernels._nodes cimport make_dir, make_link, make_node, make_way
from lamella._kernels._payload cimport continue_file, packed_size
from lamella._kernels._rows cimport F_DOTDOT, F_EXISTED, F_HOST, F_IMPLIED, F_SKIP, Rows, row_path, rows_acquire, rows_release
from lamella._kernels._status cimport BAD_FORMAT, OK, OS_ERROR, SPECIAL
from lamella._kernels._sys cimport *

STATE_NBYTES = sizeof(PlaceState)
FRESH, CHOWN, TOLERANT, NO_XATTRS, SELINUX = OPT_FRESH, OPT_CHOWN, OPT_TOLERANT, OPT_NO_XATTRS, OPT_SELINUX
ESCAPE_OVERLAY, NO_TRUSTED, HOLES, SYNC = OPT_ESCAPE_OVERLAY, OPT_NO_TRUSTED, OPT_HOLES, OPT_SYNC
KEEP_DIRLINKS, ASK_DUPLICATES = OPT_KEEP_DIRLINKS, OPT_ASK_DUPLICATES
ASK_LINKS, WRITABLE_DIRS, CLAMP_TIMES, ZERO_DEVICE = OPT_ASK_LINKS, OPT_WRITABLE_DIRS, OPT_CLAMP_TIMES, OPT_ZERO_DEVICE
WHITEOUT, DOTDOT, ROOT, PARENT, REPLACE_DIR = SP_WHITEOUT, SP_DOTDOT, SP_ROOT, SP_PARENT, SP_REPLACE_DIR
DIRLINK, LINK, DEVICE, OWNER, DUPLICATE = SP_DIRLINK, SP_LINK, SP_DEVICE, SP_OWNER, SP_DUPLICATE


# -- the stack of directories ------------------------------------------------------------------------------------

cdef void place_reset(PlaceState* st) noexcept nogil:
    while st.n_levels > 0:
        st.n_levels -= 1
        close(st.levels[st.n_levels].fd)
    if st.file.fd >= 0:
        close(st.file.fd)
        st.file.fd = -1


cdef void _push(PlaceState* st, int fd, Py_ssize_t path_end) noexcept nogil:
    cdef Level* level
    cdef stat_t info
    if st.n_levels >= MAX_LEVELS:
        st.n_levels -= 1
        close(st.levels[st.n_levels].fd)
    level = &st.levels[st.n_levels]
    level.fd = fd
    level.path_end = <int32_t>path_end
    level.acl = 0
    level.setgid = 0
    if not st.options & OPT_FRESH:
        level.setgid = fstat(fd, &info) == 0 and info.st_mode & 0o2000 != 0
        level.acl = fgetxattr(fd, b"system.posix_acl_default", NULL, 0) > 0
    st.n_levels += 1


cdef int _enter(Place* c, const uint8_t* p, Py_ssize_t n) noexcept nogil:
    """Make the directory ``p[:n]`` the top of the stack; a Status (SPECIAL: SP_PARENT)."""
    cdef PlaceState* st = c.st
    cdef Py_ssize_t end = 0, start
    cdef int fd = st.root_fd
    if n >= PATH_CAP:
        lam_fail(ENAMETOOLONG)
        return OS_ERROR
    while st.n_levels > 0:
        end = st.levels[st.n_levels - 1].path_end
        if 0 <= end <= n and memcmp(st.path, p, end) == 0 and (end == n or p[end] == 47 or end == 0):
            fd = st.levels[st.n_levels - 1].fd
            break
        st.n_levels -= 1
        close(st.levels[st.n_levels].fd)
    if st.n_levels > 0 and end == n:
        return OK
    if index_find(c.slots, c.mask, c.seed, c.rows, p, n) < 0:
        st.special = SP_PARENT                  # an entry's parent without entry: policy says what it is like
        return SPECIAL
    start = end + 1 if st.n_levels > 0 and end > 0 else 0
    memcpy(st.path, p, n)
    st.path[n] = 0
    if n == 0:
        fd = openat(fd, b".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    else:
        fd = lam_open_beneath(fd, st.path + start, O_DIRECTORY | O_NOFOLLOW
                              | (O_PATH if st.options & OPT_FRESH else O_RDONLY))
    if fd < 0:
        if errno == ENOENT or errno == ELOOP or errno == ENOTDIR or errno == EXDEV:
            st.special = SP_PARENT
            return SPECIAL
        return OS_ERROR
    _push(st, fd, n)
    return OK


# -- regular files -----------------------------------------------------------------------------------------------

cdef int _make_file(Place* c, Py_ssize_t row, const Level* top, const char* name) noexcept nogil:
    """Open the file. Its data and metadata come from continue_file(), here or in another thread."""
    cdef OpenFile* f = &c.st.file
    cdef int got
    f.row, f.acl, f.inherits = row, top.acl, top.setgid
    f.done = f.region = f.region_done = 0
    while True:
        f.fd = openat(top.fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, c.rows.mode[row] & 0o777)
        if f.fd >= 0:
            break
        if errno == EMFILE and jobs_pending(c.jobs) > 0:
            got = _drain(c)
            if got != OK:
                return got
            continue
        if errno != EEXIST:
            return OS_ERROR
        got = make_way(c, top.fd, name, False)
        if got != OK:
            return got
    if c.jobs is not NULL and _is_whole(c, row):
        got = _drain(c) if jobs_pending(c.jobs) >= JOBS_CAP else OK
        if got != OK:
            return got
        jobs_put(c.jobs, f)
        f.fd = -1
    return OK


cdef bint _is_whole(Place* c, Py_ssize_t row) noexcept nogil:
    """Tell whether a file's bytes are all in the chunk."""
    cdef int64_t packed = packed_size(c.rows, row), at = c.rows.data_off[row]
    if packed == 0:
        return True
    return 0 <= c.chunk_off <= at and 0 < packed <= c.chunk_len and at - c.chunk_off <= c.chunk_len - packed


cdef void _do(Jobs* q, int32_t at) noexcept nogil:
    """Finish file ``at`` of the batch; its errno stays with it."""
    cdef Job* job = &q.items[at]
    cdef int got = continue_file(q.place, &job.file)
    if got != OK or job.file.fd >= 0:           # not whole although it was: rows or map changed under our hands
        job.error = errno if got == OS_ERROR else -1
    jobs_finish(q)


cdef void _undo(Place* c, Job* job) noexcept nogil:
    """Remove a file that could not be finished, if its name still leads to it."""
    cdef char path[PATH_CAP]
    cdef stat_t open_, named
    cdef const uint8_t* p
    cdef Py_ssize_t n, slash
    cdef int dfd
    if job.file.fd < 0 or fstat(job.file.fd, &open_) < 0 or row_path(c.rows, job.file.row, &p, &n) < 0 or n >= PATH_CAP:
        return
    memcpy(path, p, n)
    path[n] = 0
    slash = n
    while slash > 0 and path[slash - 1] != 47:
        slash -= 1
    if slash > 0:
        path[slash - 1] = 0
    dfd = c.st.root_fd if slash == 0 else lam_open_beneath(c.st.root_fd, path, O_PATH | O_DIRECTORY)
    if dfd < 0:
        return
    if lam_lstat(dfd, path + slash, &named) == 0 and named.st_ino == open_.st_ino and named.st_dev == open_.st_dev:
        unlinkat(dfd, path + slash, 0)
    if slash > 0:
        close(dfd)


cdef int _drain(Place* c) noexcept nogil:
    """End the batch: all its files are whole, or a Status for the first row that is not."""
    cdef Jobs* q = c.jobs
    cdef uint32_t n = jobs_pending(q), i
    cdef int32_t at
    cdef int error = 0
    if n == 0:
        return OK
    while True:
        at = jobs_take_last(q)
        if at < 0:
            break
        _do(q, at)
    jobs_join(q)
    for i in range(n):
        if q.items[i].error != 0:
            if error == 0:
                c.st.failed_row, error = q.items[i].file.row, q.items[i].error
            _undo(c, &q.items[i])
            if q.items[i].file.fd >= 0:
                close(q.items[i].file.fd)
    jobs_clear(q)
    if error > 0:
        lam_fail(error)
        return OS_ERROR
    return OK if error == 0 else BAD_FORMAT


cdef void place_serve(Jobs* q) noexcept nogil:
    cdef uint32_t news
    cdef int32_t at
    while True:
        news = lam_load(&q.news)
        at = jobs_take_first(q)
        while at >= 0:
            _do(q, at)
            at = jobs_take_first(q)
        if not jobs_wait(q, news):
            return


# -- rows --------------------------------------------------------------------------------------------------------

cdef int _question(Place* c, Py_ssize_t row, const uint8_t* p, Py_ssize_t n, Py_ssize_t slash) noexcept nogil:
    """Return why the row cannot be made without a decision, by looking at the row alone; SP_NONE for most."""
    cdef int64_t was
    if c.rows.flags[row] & F_DOTDOT or (n - slash == 3 and p[slash + 1] == 46 and p[slash + 2] == 46):
        return SP_DOTDOT
    if n == 0:
        return SP_ROOT
    if n - slash > 4 and memcmp(p + slash + 1, b".wh.", 4) == 0:
        return SP_WHITEOUT
    if c.st.options & OPT_CHOWN and (map_id(&c.uids, c.rows.uid[row]) < 0 or map_id(&c.gids, c.rows.gid[row]) < 0):
        return SP_OWNER
    was = index_find(c.slots, c.mask, c.seed, c.rows, p, n) if c.st.options & OPT_ASK_DUPLICATES else -1
    # an implied or inherited directory has no entry of its own
    return SP_DUPLICATE if was >= 0 and not c.rows.flags[was] & (F_IMPLIED | F_HOST) else SP_NONE


cdef int _note(Place* c, Py_ssize_t row) noexcept nogil:
    """Note in the index that a row is there."""
    cdef int64_t was = index_put(c.slots, c.mask, c.seed, c.rows, row)
    c.st.n_duplicates += was >= 0 and not c.rows.flags[was] & F_IMPLIED
    return OK if was != -2 else BAD_FORMAT


cdef int _place_row(Place* c, Py_ssize_t row) noexcept nogil:
    cdef const uint8_t* p
    cdef Py_ssize_t n, slash
    cdef char name[256]
    cdef uint8_t kind = c.rows.type[row]
    cdef int got
    cdef Level* top
    if row_path(c.rows, row, &p, &n) < 0 or kind < 48 or kind > 54:
        return BAD_FORMAT
    if c.rows.flags[row] & F_IMPLIED:
        return OK
    if c.rows.flags[row] & F_SKIP:
        if kind != 53 or not c.rows.flags[row] & F_EXISTED:
            return OK
        return _note(c, row)
    slash = n - 1
    while slash >= 0 and p[slash] != 47:
        slash -= 1
    c.st.special = _question(c, row, p, n, slash)
    if c.st.special != SP_NONE:
        return SPECIAL
    if n - slash - 1 > 255:
        lam_fail(ENAMETOOLONG)
        return OS_ERROR
    got = _enter(c, p, slash if slash > 0 else 0)
    if got != OK:
        return got
    memcpy(name, p + slash + 1, n - slash - 1)
    name[n - slash - 1] = 0
    top = &c.st.levels[c.st.n_levels - 1]
    if kind == 48:
        got = _make_file(c, row, top, name)
    elif kind == 49:
        got = make_link(c, row, top, name)
    elif kind == 53:
        got = make_dir(c, row, top, name)
    else:
        got = make_node(c, row, top, name)
    return _note(c, row) if got == OK else got


cdef int _rows(Place* c, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    """place_rows() but for the end of the batch."""
    cdef int got = OK
    c.st.row = begin
    while True:
        if c.st.file.fd >= 0:
            if c.st.file.row < 0 or c.st.file.row >= c.rows.cap:
                return BAD_FORMAT
            c.st.failed_row = c.st.file.row
            got = continue_file(c, &c.st.file)
            if got != OK or c.st.file.fd >= 0:
                return got                      # or the chunk is used up
        if c.st.row >= end:
            return OK
        c.st.failed_row = c.st.row
        got = _place_row(c, c.st.row)
        if got != OK:
            return got
        c.st.row += 1


cdef int place_rows(Place* c, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef int got, done
    if c.jobs is not NULL:
        c.jobs.place = c
    got = _rows(c, begin, end)
    c.st.os_errno = errno
    done = _drain(c)
    if done != OK:
        got, c.st.os_errno = done, errno
    return got


cdef int place_dir_meta(Place* c, Py_ssize_t row, int fd) noexcept nogil:
    cdef unsigned int mode = c.rows.mode[row] & 0o7777
    cdef bint existed = c.rows.flags[row] & F_EXISTED != 0
    cdef int got
    if not c.rows.flags[row] & F_IMPLIED:
        got = set_owner(c, row, fd, NULL, existed)
        if got < 0:
            return OS_ERROR
        if existed:
            clear_xattrs(c, row, fd)
        if (existed or mode & 0o7000 or c.st.options & OPT_WRITABLE_DIRS) and fchmod(fd, mode) < 0:
            return OS_ERROR
        if set_xattrs(c, row, fd, NULL) < 0:
            return OS_ERROR
    return OK if set_times(c, row, fd, NULL) == 0 else OS_ERROR


# -- the Python side ---------------------------------------------------------------------------------------------

cdef PlaceState* _state(uint8_t[::1] state) except NULL:
    cdef PlaceState* st
    if state.shape[0] < <Py_ssize_t>sizeof(PlaceState):
        raise ValueError(f"a state has {sizeof(PlaceState)} bytes")
    st = <PlaceState*>&state[0]
    if st.n_levels < 0 or st.n_levels > MAX_LEVELS:
        raise ValueError("not a state of open_state()")
    return st


cdef int _ranges(IdRanges* ranges, const int64_t[::1] items) except -1:
    ranges.items = NULL
    ranges.n = 0
    if items is not None and items.shape[0]:
        ranges.items = &items[0]
        ranges.n = items.shape[0] // 3
    return 0


cdef int _fail(PlaceState* st, Rows* rows, int got, Py_ssize_t row) except -1:
    cdef const uint8_t* p
    cdef Py_ssize_t n
    if got == OS_ERROR:
        path = p[:n] if row_path(rows, row, &p, &n) == 0 else b""
        raise OSError(st.os_errno, strerror(st.os_errno).decode(), path)
    raise ValueError(f"row {row} does not fit its table or chunk")


cdef class Batch:
    """Where the files of a place() call lie for other threads to take. No buffer: it holds addresses while a call runs."""

    def __cinit__(self):
        memset(&self.jobs, 0, sizeof(Jobs))

    def serve(self):
        """Make files until stop(). For a thread with a umask and working directory of its own."""
        with nogil:
            place_serve(&self.jobs)

    def stop(self):
        """Make every serve() return, those still to be called too."""
        jobs_stop(&self.jobs)


def open_state(uint8_t[::1] state not None, int root_fd, uint32_t options):
    """Begin with an empty stack of directories below ``root_fd``; ``state`` has STATE_NBYTES bytes."""
    cdef PlaceState* st
    state[:] = 0
    st = _state(state)
    st.root_fd = root_fd
    st.options = options
    st.euid = geteuid()
    st.egid = getegid()
    st.file.fd = -1


def counters(uint8_t[::1] state not None):
    """Return (files, bytes, duplicates, warnings, row of the file in progress or -1)."""
    cdef PlaceState* st = _state(state)
    return st.n_files, st.n_bytes, st.n_duplicates, st.n_warnings, st.file.row if st.file.fd >= 0 else -1


def reset(uint8_t[::1] state not None):
    """Close every descriptor that the state holds: at the end, and after the caller removed or replaced a directory."""
    place_reset(_state(state))


def push(uint8_t[::1] state not None, const uint8_t[::1] path not None, int fd):
    """Make ``fd`` (owned by the state from now on) the directory that ``path`` stands for, and forget the others."""
    cdef PlaceState* st = _state(state)
    cdef Py_ssize_t n = path.shape[0], i
    if n >= PATH_CAP:
        raise ValueError("path too long")
    place_reset(st)
    for i in range(n):
        st.path[i] = <char>path[i]
    st.path[n] = 0
    _push(st, fd, n)


def place(uint8_t[::1] state not None, tuple columns not None, Py_ssize_t begin, Py_ssize_t end,
          const uint8_t[::1] chunk not None, int64_t chunk_off, uint32_t[::1] slots not None, uint64_t seed,
          const int64_t[::1] uids, const int64_t[::1] gids, int64_t[::1] warnings not None, Batch batch=None):
    """Make rows [begin, end) from ``chunk``, the stream's bytes from ``chunk_off`` on; return (next row, Special or 0).

    Special 0 and next row == end: all done but perhaps a file in progress, which the next chunk continues. ``slots``
    is an index of the rows made so far with room for the rest. Threads that serve ``batch`` help; a
    call has it for itself. OSError carries the row's path.
    """
    cdef Place c
    cdef Rows rows
    cdef int got
    c.st = _state(state)
    c.jobs = &batch.jobs if batch is not None else NULL
    if slots.shape[0] < 2 or slots.shape[0] & (slots.shape[0] - 1):
        raise ValueError("an index has a power of two of slots")
    _ranges(&c.uids, uids)
    _ranges(&c.gids, gids)
    if batch is not None and batch.busy:
        raise ValueError("another call has the batch")
    rows_acquire(&rows, columns, True)
    if batch is not None:
        batch.busy = True
    try:
        if begin < 0 or end < begin or end > rows.cap or rows.data_off is NULL:
            raise ValueError(f"rows [{begin}, {end}) of {rows.cap}")
        c.rows = &rows
        c.chunk = &chunk[0] if chunk.shape[0] else NULL
        c.chunk_len, c.chunk_off = chunk.shape[0], chunk_off
        c.slots, c.mask, c.seed = &slots[0], <uint64_t>(slots.shape[0] - 1), seed
        c.warnings = &warnings[0] if warnings.shape[0] else NULL
        c.warnings_cap = warnings.shape[0] // 2
        with nogil:
            got = place_rows(&c, begin, end)
        if got < 0:
            _fail(c.st, &rows, got, c.st.failed_row)
        return c.st.row, c.st.special if got == SPECIAL else 0
    finally:
        if batch is not None:
            batch.busy = False
        rows_release(&rows)


cdef int _open_row(Place* c, Py_ssize_t row) noexcept nogil:
    """Open the directory of a row through directories alone, -1 where that does not lead to one."""
    cdef const uint8_t* p
    cdef Py_ssize_t n
    cdef char path[PATH_CAP]
    if row < 0 or row >= c.rows.cap or row_path(c.rows, row, &p, &n) < 0 or n >= PATH_CAP:
        return -1
    memcpy(path, p, n)
    path[n] = 46
    path[n + (n == 0)] = 0
    return lam_open_beneath(c.st.root_fd, path, O_RDONLY | O_DIRECTORY)


def finish(uint8_t[::1] state not None, tuple columns not None, const int64_t[::1] order not None, Py_ssize_t begin,
           const int64_t[::1] uids, const int64_t[::1] gids, int64_t[::1] warnings not None):
    """Give directory rows ``order[begin:]`` (children first) their metadata; return how far it came.

    It stops at a row whose path is not a plain directory chain below the root.
    """
    cdef Place c
    cdef Rows rows
    cdef int got = OK, at
    cdef Py_ssize_t i = begin, n
    c.st = _state(state)
    c.jobs = NULL
    _ranges(&c.uids, uids)
    _ranges(&c.gids, gids)
    rows_acquire(&rows, columns, True)
    try:
        for n in range(order.shape[0]):
            if order[n] < 0 or order[n] >= rows.cap:
                raise ValueError(f"row {order[n]} of {rows.cap}")
        c.rows = &rows
        c.warnings = &warnings[0] if warnings.shape[0] else NULL
        c.warnings_cap = warnings.shape[0] // 2
        with nogil:
            while i < order.shape[0] and got == OK:
                n = order[i]                    # once: another thread may write there
                at = _open_row(&c, n)
                if at < 0:
                    break
                got = place_dir_meta(&c, n, at)
                c.st.os_errno = errno
                close(at)
                i += got == OK
        if got != OK:
            _fail(c.st, &rows, got, n)
        return i
    finally:
        rows_release(&rows)
