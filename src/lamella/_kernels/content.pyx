"""Content of regular files below a directory descriptor. See content.pxd for confinement and the calls it makes."""
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.string cimport memcmp, memcpy, memset, strerror
from lamella._kernels._below cimport BELOW_BY_PARTS, ENXIO, Below, below_close, is_gone, open_row
from lamella._kernels._rows cimport Rows, row_path, rows_acquire, rows_release
from lamella._kernels._status cimport AT_END, BAD_FORMAT, OK, OS_ERROR, OUTPUT_FULL, SPECIAL, Status
from lamella._kernels._sys cimport EACCES, EINVAL, ENOENT, EPERM, errno
from lamella._kernels._syscall cimport lam_close
from lamella._kernels.tarform cimport FAULT_ARENA, Fault, Form, form_core, form_raise, link_first, link_note

cdef extern from *:
    """
    #include <errno.h>
    #include <sys/stat.h>
    #include <unistd.h>
    LAM_INLINE int lam_fstat_file(int fd, int64_t *size) {
        /* 1: a regular file of this size; 0: something else; -errno */
        struct stat st;
    #ifdef LAM_IN_PLACE    /* where the kernel's structure is the library's */
        long r = lam_call(SYS_fstat, fd, LAM_PTR(&st), 0, 0, 0, 0);
        if (r < 0) return (int)r;
    #else
        if (fstat(fd, &st) < 0) return -errno;
    #endif
        *size = st.st_size;
        return S_ISREG(st.st_mode);
    }
    LAM_INLINE Py_ssize_t lam_pread(int fd, void *p, size_t n, int64_t off) {
        Py_ssize_t r;   /* -errno for an error */
    #ifdef LAM_IN_PLACE
        LAM_CALL(r, SYS_pread64, fd, LAM_PTR(p), (long)n, (long)off, 0, 0);
    #else
        do r = pread(fd, p, n, off); while (r < 0 && errno == EINTR);
        if (r < 0) r = -errno;
    #endif
        return r;
    }
    """
    enum:
        SEEK_DATA, SEEK_HOLE
    int lam_fstat_file(int fd, int64_t* size) noexcept nogil
    Py_ssize_t lam_pread(int fd, void* p, size_t n, int64_t off) noexcept nogil
    int64_t lseek(int fd, int64_t off, int whence) noexcept nogil

cdef enum:
    BLOCK = 512
    END_NBYTES = 1024            # two blocks of zeros
    CHANGED = -0x10000           # no errno: the file is of another size by now

FULL, DONE, VANISHED, SHRANK, GREW = EV_FULL, EV_DONE, EV_VANISHED, EV_SHRANK, EV_GREW
HEAD, REGIONS = EV_HEAD, EV_REGIONS
STATE_NBYTES = sizeof(Pack)


cdef inline void _close_file(Pack* s) noexcept nogil:
    if s.file > 0:
        lam_close(s.file - 1)
    s.file = 0


cdef inline Status _event(Pack* s, int event) noexcept nogil:
    s.event = event
    return SPECIAL


cdef inline Status _os_error(Pack* s, int err) noexcept nogil:
    s.err = err
    return OS_ERROR


cdef Status _find_regions(Pack* s, int fd, int64_t size, const Work* w, Form* f) noexcept nogil:
    """Give ``f`` the data regions of a file that has holes; a file without any stays dense."""
    cdef int64_t off = lseek(fd, 0, SEEK_HOLE), end = 0
    cdef Py_ssize_t n = 0
    if off < 0 or off >= size:       # an error: this file system cannot say
        return OK
    while end < size:
        off = lseek(fd, end, SEEK_DATA)
        if off < 0 and errno != ENXIO:
            return _os_error(s, errno)
        if off < 0 or off >= size:
            break
        end = lseek(fd, off, SEEK_HOLE)
        if end <= off:
            return _os_error(s, errno if end < 0 else EINVAL)
        end = end if end < size else size
        if n == w.regions_cap:
            return _event(s, EV_REGIONS)
        w.regions[2 * n] = off
        w.regions[2 * n + 1] = end - off
        n += 1
    f.regions, f.n_regions = <const uint8_t*>w.regions, n
    return OK


cdef Status _open_file(int root, const Rows* r, Pack* s, Form* f, const Work* w, bint* grew) noexcept nogil:
    """Open the file of s.row and see what it is."""
    cdef int fd = open_row(root, &s.dir, r, s.row), kind
    cdef int64_t size = r.size[s.row], now = 0
    if fd < 0:
        return _event(s, EV_VANISHED) if is_gone(-fd) else _os_error(s, -fd)
    s.file = fd + 1
    kind = lam_fstat_file(fd, &now)
    if kind < 0:
        return _os_error(s, -kind)
    if kind == 0:
        return _event(s, EV_VANISHED)
    grew[0] = now > size
    return OK if w.regions == NULL else _find_regions(s, fd, size, w, f)


cdef Status _begin_row(int root, const Rows* r, const int64_t* rows, Pack* s, Form* f, const Work* w) noexcept nogil:
    """Open the next row's file, if it has content, and form its headers."""
    cdef Py_ssize_t row = <Py_ssize_t>rows[s.next_idx], n
    cdef bint grew = False
    cdef Status status = OK
    s.row = row
    s.fault = FAULT_ARENA
    if row < 0 or row >= r.cap:
        return BAD_FORMAT
    f.link_row = link_first(r, row, w.links, w.n_links)
    f.regions, f.n_regions = NULL, 0
    if f.link_row < 0 and r.type[row] == 48 and r.size[row] > 0:
        status = _open_file(root, r, s, f, w, &grew)
    if status == OK:
        n = form_core(r, row, f, w.head, w.head_cap)
        s.fault = f.fault
        status = _event(s, EV_HEAD) if n == OUTPUT_FULL else BAD_FORMAT if n == BAD_FORMAT else OK
    if status != OK:
        _close_file(s)
        s.next_idx += status == SPECIAL and s.event == EV_VANISHED
        return status
    link_note(r, row, w.links, w.n_links)
    s.head_off, s.head_end = 0, n
    s.left, s.pad = f.payload, -f.payload & (BLOCK - 1)
    s.file_off = s.region_left = s.region_idx = 0
    s.n_regions = f.n_regions
    s.next_idx += 1
    s.n_entries += 1
    if s.left == 0:
        _close_file(s)
    return _event(s, EV_GREW) if grew else OK


cdef inline int64_t _region(Pack* s, const Work* w) noexcept nogil:
    """Return how many bytes from s.file_off on are content, moving on to the next region where one has ended."""
    if s.n_regions == 0:
        return s.left
    while s.region_left <= 0 and s.region_idx < s.n_regions:
        s.file_off = w.regions[2 * s.region_idx]
        s.region_left = w.regions[2 * s.region_idx + 1]
        s.region_idx += 1
    return s.region_left


cdef Status _content(Pack* s, const Work* w, uint8_t* p, Py_ssize_t room, Py_ssize_t* used) noexcept nogil:
    """Read the current file's next bytes to ``p``; zeros where there is none any more."""
    cdef int64_t n = s.left if s.left < room else room
    cdef int64_t here
    cdef Py_ssize_t got
    if s.file == 0:
        memset(p, 0, n)
        got = n
    else:
        here = _region(s, w)
        n = here if here < n else n
        got = lam_pread(s.file - 1, p, n, s.file_off) if n > 0 else 0
        if got < 0:
            return _os_error(s, <int>-got)
        if got == 0:
            _close_file(s)
            return _event(s, EV_SHRANK)
        s.file_off += got
        s.region_left -= got
    s.left -= got
    used[0] += got
    if s.left == 0:
        _close_file(s)
    return OK


cdef Status pack_core(int root, const Rows* r, const int64_t* rows, Py_ssize_t n_rows, Pack* s, Form* f, const Work* w,
                      uint8_t* out, Py_ssize_t cap, Py_ssize_t* used) noexcept nogil:
    cdef Status status = OK
    cdef int64_t n
    cdef Py_ssize_t room
    while status == OK:
        room = cap - used[0]
        if s.ended and s.pad == 0:
            return AT_END
        if room == 0:
            return OUTPUT_FULL
        if s.head_off < s.head_end:
            n = s.head_end - s.head_off if s.head_end - s.head_off < room else room
            memcpy(out + used[0], w.head + s.head_off, n)
            s.head_off += n
            used[0] += n
        elif s.left:
            status = _content(s, w, out + used[0], room, used)
        elif s.pad:
            n = s.pad if s.pad < room else room
            memset(out + used[0], 0, n)
            s.pad -= n
            used[0] += n
        elif s.next_idx < n_rows:
            status = _begin_row(root, r, rows, s, f, w)
        else:
            s.ended = 1
            s.pad = END_NBYTES
    return status


cdef int _load(Pack* s, const uint8_t[::1] state, Py_ssize_t n_rows, const Work* w) except -1:
    if state.shape[0] != sizeof(Pack):
        raise ValueError(f"a state has {sizeof(Pack)} bytes, not {state.shape[0]}")
    memcpy(s, &state[0], sizeof(Pack))
    if (s.next_idx < 0 or s.next_idx > n_rows or s.head_off < 0 or s.head_end < s.head_off or s.head_end > w.head_cap
            or s.left < 0 or s.pad < 0 or s.region_idx < 0 or s.n_regions < 0 or s.n_regions > w.regions_cap):
        raise ValueError("not the state of this stream")
    return 0


cdef int _raise(const Rows* r, Py_ssize_t row, int err) except -1:
    cdef const uint8_t* p = <const uint8_t*>b""
    cdef Py_ssize_t n = 0
    row_path(r, row, &p, &n)
    raise OSError(err, (<bytes>strerror(err)).decode("utf-8", "replace"), p[:n])


def pack(int dirfd, tuple columns not None, const int64_t[::1] rows not None, uint8_t[::1] state not None,
         uint8_t[::1] out not None, uint8_t[::1] head not None, int64_t[::1] regions=None, int32_t[::1] links=None,
         clamp_mtime=None, bint libarchive_xattr=False, bint by_parts=False):
    """Fill ``out`` with the next bytes of the tar of ``rows`` (row numbers, in order), content from below ``dirfd``.

    ``state`` is STATE_NBYTES of zeros at first; with ``head`` (the headers of one row), ``regions`` (None: files are
    written dense) and ``links`` (tarform.form) it makes the stream resumable at any byte, and release() ends it. Return
    (nbytes, event, row): FULL; DONE; VANISHED, SHRANK or GREW, to be reported before going on; HEAD or REGIONS, to go
    on with a larger buffer. ValueError and FormatError as tarform.form; OSError, with the row's path, for all else.
    """
    cdef Rows r
    cdef Form f
    cdef Pack s
    cdef Work w
    cdef Py_ssize_t used = 0
    cdef Status status
    cdef const int64_t* p_rows = &rows[0] if rows.shape[0] else NULL
    cdef uint8_t* p_out = &out[0] if out.shape[0] else NULL
    memset(&f, 0, sizeof(Form))
    f.has_clamp = clamp_mtime is not None
    f.clamp_mtime = clamp_mtime if f.has_clamp else 0
    f.libarchive_xattr = libarchive_xattr
    _lend(&w, head, regions, links)
    _load(&s, state, rows.shape[0], &w)
    s.dir.flags |= BELOW_BY_PARTS if by_parts else 0
    f.n_uncarried = s.n_uncarried
    rows_acquire(&r, columns, False)
    try:
        with nogil:
            status = pack_core(dirfd, &r, p_rows, rows.shape[0], &s, &f, &w, p_out, out.shape[0], &used)
        s.n_uncarried = f.n_uncarried
        memcpy(&state[0], &s, sizeof(Pack))
        if status == OS_ERROR:
            _raise(&r, s.row, s.err)
        if status == BAD_FORMAT:
            form_raise(&r, s.row, <Fault>s.fault)
    finally:
        rows_release(&r)
    return used, EV_DONE if status == AT_END else EV_FULL if status == OUTPUT_FULL else s.event, s.row


cdef int _lend(Work* w, uint8_t[::1] head, int64_t[::1] regions, int32_t[::1] links) except -1:
    memset(w, 0, sizeof(Work))
    if head.shape[0] < BLOCK or (regions is not None and regions.shape[0] < 2):
        raise ValueError("head wants 512 bytes, regions a pair of items, at least")
    w.head, w.head_cap = &head[0], head.shape[0]
    if regions is not None:
        w.regions, w.regions_cap = &regions[0], regions.shape[0] // 2
    if links is not None and links.shape[0]:
        w.links, w.n_links = &links[0], links.shape[0]
    return 0


def counts(const uint8_t[::1] state not None):
    """Return (n_entries, n_uncarried): entries written so far, and extended attributes left out of them."""
    cdef Pack s
    if state.shape[0] != sizeof(Pack):
        raise ValueError(f"a state has {sizeof(Pack)} bytes, not {state.shape[0]}")
    memcpy(&s, &state[0], sizeof(Pack))
    return s.n_entries, s.n_uncarried


def release(uint8_t[::1] state not None):
    """Close what a stream holds open, finished or not; ``state`` is then fresh."""
    cdef Pack s
    if state.shape[0] != sizeof(Pack):
        raise ValueError(f"a state has {sizeof(Pack)} bytes, not {state.shape[0]}")
    memcpy(&s, &state[0], sizeof(Pack))
    memset(&state[0], 0, sizeof(Pack))
    _close_file(&s)
    below_close(&s.dir)


# A pair is judged in one loop of functions with one caller each, for the compiler to make one of: see _syscall.pxd.
cdef struct Side:
    int root
    Below* dir
    const Rows* r
    uint8_t* buf
    int fd                   # the row's file, open; else -errno, or CHANGED


cdef inline int _open_side(const Side* side, int64_t row) noexcept nogil:
    # a descriptor of a regular file of the row's size; else -errno, or CHANGED
    cdef int64_t size = -1
    cdef int fd = open_row(side.root, side.dir, side.r, row), kind
    if fd < 0:
        return fd
    kind = lam_fstat_file(fd, &size)
    if kind == 1 and size == side.r.size[row]:
        return fd
    lam_close(fd)
    return kind if kind < 0 else CHANGED if kind else -ENOENT


cdef inline Py_ssize_t _fill(const Side* side, Py_ssize_t n, int64_t off) noexcept nogil:
    """Read n bytes, fewer only at the file's end; or -errno."""
    cdef Py_ssize_t done = 0, got
    while done < n:
        got = lam_pread(side.fd, side.buf + done, n - done, off + done)
        if got < 0:
            return got
        if got == 0:
            break
        done += got
    return done


cdef inline int _compare(const Side* sides, int64_t size, Py_ssize_t n, bint* second) noexcept nogil:
    cdef int64_t off = 0
    cdef Py_ssize_t want, got
    cdef int k
    while off < size:
        want = <Py_ssize_t>(size - off) if size - off < n else n
        for k in range(2):
            got = _fill(&sides[k], want, off)
            if got != want:
                second[0] = k
                return <int>got if got < 0 else DIFFERENT
        if memcmp(sides[0].buf, sides[1].buf, want) != 0:
            return DIFFERENT
        off += want
    return SAME


cdef inline bint _is_one(const Rows* a, int64_t i, const Rows* b, int64_t j) noexcept nogil:
    return (a.dev != NULL and a.ino != NULL and b.dev != NULL and b.ino != NULL
            and a.ino[i] != 0 and a.ino[i] == b.ino[j] and a.dev[i] == b.dev[j])


cdef inline int _judge(Side* sides, int64_t i, int64_t j, Py_ssize_t n, bint* second) noexcept nogil:
    cdef int64_t size = sides[0].r.size[i]
    cdef int verdict = SAME, k
    second[0] = False
    if size != sides[1].r.size[j]:
        return DIFFERENT
    if size <= 0 or _is_one(sides[0].r, i, sides[1].r, j):
        return SAME
    sides[1].fd = -1
    for k in range(2):
        sides[k].fd = _open_side(&sides[k], j if k else i)
        if sides[k].fd < 0:
            second[0] = k
            verdict = _verdict(sides[k].fd)
            break
    if sides[0].fd >= 0 and sides[1].fd >= 0:
        verdict = _compare(sides, size, n, second)
    for k in range(2):
        if sides[k].fd >= 0:
            lam_close(sides[k].fd)
    return verdict


cdef inline int _verdict(int err) noexcept nogil:
    # of a file that could not be opened: changed, gone, closed to us; or the error
    if err == CHANGED:
        return DIFFERENT
    return UNREADABLE if is_gone(-err) or err == -EACCES or err == -EPERM else err


cdef inline int _side_ok(const Rows* r, int64_t row) noexcept nogil:
    return 0 <= row < r.cap and r.type[row] == 48


cdef int _same_run(Side* sides, const int64_t* rows_a, const int64_t* rows_b, Py_ssize_t n_pairs, uint8_t* out,
                   Py_ssize_t n, Py_ssize_t* done, bint* second) noexcept nogil:
    """Judge pairs from ``done`` on: 0, 1 at a pair that is none, or -errno; ``done`` is where."""
    cdef int64_t row_a, row_b
    cdef int verdict
    while done[0] < n_pairs:
        row_a, row_b = rows_a[done[0]], rows_b[done[0]]
        if not (_side_ok(sides[0].r, row_a) and _side_ok(sides[1].r, row_b)):
            return 1
        verdict = _judge(sides, row_a, row_b, n, second)
        if verdict < 0:
            return verdict
        out[done[0]] = <uint8_t>verdict
        done[0] += 1
    return 0


cdef inline void _set_side(Side* side, int root, Below* dir, const Rows* r, uint8_t* buf) noexcept nogil:
    side.root, side.dir, side.r, side.buf, side.fd = root, dir, r, buf, -1


cdef int same_core(int root_a, Below* dir_a, const Rows* a, Py_ssize_t row_a, int root_b, Below* dir_b, const Rows* b,
                   Py_ssize_t row_b, uint8_t* buf_a, uint8_t* buf_b, Py_ssize_t n, bint* second) noexcept nogil:
    cdef Side sides[2]
    cdef int64_t i = row_a, j = row_b
    cdef uint8_t verdict = DIFFERENT
    cdef Py_ssize_t done = 0
    cdef int err
    _set_side(&sides[0], root_a, dir_a, a, buf_a)
    _set_side(&sides[1], root_b, dir_b, b, buf_b)
    second[0] = False
    err = _same_run(sides, &i, &j, 1, &verdict, n, &done, second)
    return err if err < 0 else -EINVAL if err else verdict


def same(int dirfd_a, tuple columns_a not None, int dirfd_b, tuple columns_b not None,
         const int64_t[::1] rows_a not None, const int64_t[::1] rows_b not None, uint8_t[::1] out not None,
         uint8_t[::1] scratch not None, bint by_parts=False):
    """Compare the content of regular files: ``rows_a[i]`` below ``dirfd_a`` and ``rows_b[i]`` below ``dirfd_b``.

    ``out[i]`` becomes 1 for the same, 0 for different, 2 where one of them is gone or may not be read. Pairs in path
    order are cheapest. ``scratch`` (256 KiB is a good size) is for this call alone; calls on disjoint ranges may run in
    threads. Return the number of pairs. ValueError for a row that is no regular file, OSError with the path.
    """
    cdef Rows a, b
    cdef Below dirs[2]
    cdef Side sides[2]
    cdef Py_ssize_t n = rows_a.shape[0], half = scratch.shape[0] // 2, done = 0
    cdef bint second = False
    cdef int err
    if rows_b.shape[0] != n or out.shape[0] < n or half < BLOCK:
        raise ValueError("rows_a, rows_b and out differ in length, or scratch is under 1,024 bytes")
    if n == 0:
        return 0
    memset(dirs, 0, sizeof(dirs))
    dirs[0].flags = dirs[1].flags = BELOW_BY_PARTS if by_parts else 0
    memset(&b, 0, sizeof(Rows))
    rows_acquire(&a, columns_a, False)
    try:
        rows_acquire(&b, columns_b, False)
        _set_side(&sides[0], dirfd_a, &dirs[0], &a, &scratch[0])
        _set_side(&sides[1], dirfd_b, &dirs[1], &b, &scratch[half])
        with nogil:
            err = _same_run(sides, &rows_a[0], &rows_b[0], n, &out[0], half, &done, &second)
            below_close(&dirs[0])
            below_close(&dirs[1])
        if err == 1:
            raise ValueError(f"pair {done} ({rows_a[done]}, {rows_b[done]}) is not of two regular files")
        if err < 0 and second:
            _raise(&b, <Py_ssize_t>rows_b[done], -err)
        if err < 0:
            _raise(&a, <Py_ssize_t>rows_a[done], -err)
    finally:
        rows_release(&b)
        rows_release(&a)
    return done
