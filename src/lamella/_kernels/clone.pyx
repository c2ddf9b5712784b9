"""Copy the inodes of a walked tree below another directory: see clone.pxd for the steps and what they cost."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy, memset, strerror
from lamella._kernels._below cimport ENXIO, TEXT_CAP, COMPONENT_CAP, below_close, open_row, row_dir
from lamella._kernels._jobs cimport lam_load64, lam_store64, lam_swap64
from lamella._kernels._rows cimport EXT_XATTR, ExtItem, Rows, ext_next, row_ext, row_link, row_path, rows_acquire, rows_release
from lamella._kernels._sys cimport *
from lamella._kernels._syscall cimport lam_close

cdef extern from *:
    """
    #include <sys/ioctl.h>
    #include <time.h>
    #ifndef FICLONE
    #define FICLONE _IOW(0x94, 9, int)
    #endif
    LAM_INLINE int lam_make_file(int fd, const char *name, unsigned mode) {
        long r, how = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
        LAM_CALL(r, SYS_openat, fd, LAM_PTR(name), how, (long)mode, 0, 0);
        return (int)r;
    }
    LAM_INLINE int lam_status(int fd, struct stat *st) {
    #ifdef LAM_IN_PLACE    /* where the kernel's structures are the library's */
        return (int)lam_call(SYS_fstat, fd, LAM_PTR(st), 0, 0, 0, 0);
    #else
        return fstat(fd, st) < 0 ? -errno : 0;
    #endif
    }
    LAM_INLINE int lam_is_as(const struct stat *st, uint64_t ino, int64_t size, int64_t mtime, uint32_t nsec) {
        return S_ISREG(st->st_mode) && st->st_ino == ino && st->st_size == size && st->st_mtim.tv_sec == mtime
               && (uint32_t)st->st_mtim.tv_nsec == nsec;
    }
    LAM_INLINE int lam_has_holes(const struct stat *st) { return st->st_blocks < st->st_size >> 9; }
    LAM_INLINE int lam_share(int to, int from) {
        long r;
        LAM_CALL(r, SYS_ioctl, to, (long)FICLONE, from, 0, 0, 0);
        return (int)r;
    }
    LAM_INLINE int64_t lam_copy_range(int from, int to, int64_t off, int64_t n) {
        int64_t in = off, out = off;
        long r;
        LAM_CALL(r, SYS_copy_file_range, from, LAM_PTR(&in), to, LAM_PTR(&out), (long)n, 0);
        return r;
    }
    LAM_INLINE int64_t lam_read_at(int fd, void *p, int64_t n, int64_t off) {
        int64_t r;
    #ifdef LAM_IN_PLACE
        LAM_CALL(r, SYS_pread64, fd, LAM_PTR(p), n, off, 0, 0);
    #else
        do r = pread(fd, p, (size_t)n, off); while (r < 0 && errno == EINTR);
        if (r < 0) r = -errno;
    #endif
        return r;
    }
    LAM_INLINE int64_t lam_write_at(int fd, const void *p, int64_t n, int64_t off) {
        int64_t r;
    #ifdef LAM_IN_PLACE
        LAM_CALL(r, SYS_pwrite64, fd, LAM_PTR(p), n, off, 0, 0);
    #else
        do r = pwrite(fd, p, (size_t)n, off); while (r < 0 && errno == EINTR);
        if (r < 0) r = -errno;
    #endif
        return r;
    }
    LAM_INLINE int lam_set_times(int fd, const char *name, int64_t s, uint32_t ns) {
        struct timespec t[2] = { { s, ns }, { s, ns } };
    #ifdef LAM_IN_PLACE
        return (int)lam_call(SYS_utimensat, fd, LAM_PTR(name), LAM_PTR(t), name ? AT_SYMLINK_NOFOLLOW : 0, 0, 0);
    #else
        return (name ? utimensat(fd, name, t, AT_SYMLINK_NOFOLLOW) : futimens(fd, t)) < 0 ? -errno : 0;
    #endif
    }
    """
    enum:
        SEEK_DATA, SEEK_HOLE, ESTALE, EOVERFLOW, EOPNOTSUPP, ENOTTY, ETXTBSY
    int lam_make_file(int fd, const char* name, unsigned int mode) noexcept nogil
    int lam_status(int fd, stat_t* st) noexcept nogil
    bint lam_is_as(const stat_t* st, uint64_t ino, int64_t size, int64_t mtime, uint32_t nsec) noexcept nogil
    bint lam_has_holes(const stat_t* st) noexcept nogil
    int lam_share(int to, int from_) noexcept nogil
    int64_t lam_copy_range(int from_, int to, int64_t off, int64_t n) noexcept nogil
    int64_t lam_read_at(int fd, void* p, int64_t n, int64_t off) noexcept nogil
    int64_t lam_write_at(int fd, const void* p, int64_t n, int64_t off) noexcept nogil
    int lam_set_times(int fd, const char* name, int64_t s, uint32_t ns) noexcept nogil
    int64_t lseek(int fd, int64_t off, int whence) noexcept nogil

cdef enum:
    PIECE = 1 << 30          # bytes of one copy_file_range

RUN = RUN_ROWS


# -- content -----------------------------------------------------------------------------------------------------

cdef inline int _through_buf(Clone* c, int from_, int to, int64_t at, int64_t end) noexcept nogil:
    """Copy bytes [at, end): 0, or -errno; ESTALE where the file ends early."""
    cdef int64_t got, done, n
    while at < end:
        got = lam_read_at(from_, c.buf, end - at if end - at < c.buf_cap else c.buf_cap, at)
        if got <= 0:
            return <int>got if got else -ESTALE
        done = 0
        while done < got:
            n = lam_write_at(to, c.buf + done, got - done, at + done)
            if n <= 0:
                return <int>n if n else -EIO
            done += n
        at += got
        c.nbytes += got
    return 0


cdef inline int _copy_range(Clone* c, int from_, int to, int64_t at, int64_t end) noexcept nogil:
    """As _through_buf(), by copy_file_range where that works."""
    cdef int64_t got
    while c.ranges and at < end:
        got = lam_copy_range(from_, to, at, end - at if end - at < PIECE else PIECE)
        if got > 0:
            at += got
            c.nbytes += got
            continue
        if got == -EXDEV or got == -ENOSYS or got == -EOPNOTSUPP or got == -EPERM:
            c.ranges = False                    # from here to there, and where a filter of system calls forbids it
        elif got != 0 and got != -EINVAL:       # 0: the file has ended, which a read will tell
            return <int>got
        break
    return _through_buf(c, from_, to, at, end)


cdef int _copy_data(Clone* c, int from_, int to, int64_t size) noexcept nogil:
    """Copy what there is between the holes of a file that has some."""
    cdef int64_t begin, end = 0
    cdef int got
    if ftruncate(to, size) < 0:
        return -errno
    while end < size:
        begin = lseek(from_, end, SEEK_DATA)
        if begin < 0:
            return 0 if errno == ENXIO else -errno
        if begin >= size:
            return 0
        end = lseek(from_, begin, SEEK_HOLE)
        if end <= begin:
            return -errno if end < 0 else -EIO
        end = end if end < size else size
        got = _copy_range(c, from_, to, begin, end)
        if got < 0:
            return got
    return 0


cdef inline bint _cannot_share(int err) noexcept nogil:
    # none of the file system's; EINVAL and ETXTBSY: not this file (an inode without checksums, a swap file)
    return (err == EOPNOTSUPP or err == EXDEV or err == ENOTTY or err == ENOSYS or err == EINVAL or err == ETXTBSY
            or err == EPERM)


cdef inline int _content(Clone* c, Py_ssize_t row, int from_, int to) noexcept nogil:
    cdef stat_t st
    cdef int64_t size = c.rows.size[row]
    cdef int got = lam_status(from_, &st)
    if got < 0:
        return got
    if not lam_is_as(&st, c.rows.ino[row], size, c.rows.mtime[row], c.rows.mtime_nsec[row]):
        return -ESTALE
    if size == 0:
        return 0
    if c.share and not (c.refused and c.refused_dev == c.rows.dev[row]):
        got = lam_share(to, from_)
        if got == 0:
            c.n_shared += 1
            return 0
        if not _cannot_share(-got):
            return got
        if got != -EINVAL and got != -ETXTBSY:
            c.refused, c.refused_dev = True, c.rows.dev[row]
    if lam_has_holes(&st):
        return _copy_data(c, from_, to, size)
    return _copy_range(c, from_, to, 0, size)


# -- metadata ----------------------------------------------------------------------------------------------------

cdef inline int _set_xattrs(const Clone* c, Py_ssize_t row, int fd, const char* name) noexcept nogil:
    cdef const uint8_t* run
    cdef Py_ssize_t n, at = 0
    cdef ExtItem item
    cdef char key[COMPONENT_CAP]
    cdef int got
    if c.rows.ext_len[row] == 0:
        return 0
    if row_ext(c.rows, row, &run, &n) < 0:
        return -EINVAL
    while True:
        at = ext_next(run, n, at, &item)
        if at <= 0 or item.tag != EXT_XATTR:
            return 0 if at >= 0 else -EINVAL
        if item.name_len == 0 or item.name_len >= COMPONENT_CAP or memchr(item.name, 0, item.name_len) != NULL:
            return -EINVAL
        memcpy(key, item.name, item.name_len)
        key[item.name_len] = 0
        if name == NULL:
            got = fsetxattr(fd, key, item.value, item.value_len, 0)
        else:
            got = lam_setxattrat(fd, name, key, item.value, item.value_len)
        if got < 0:
            return -errno


cdef inline int _set_times(const Clone* c, Py_ssize_t row, int fd, const char* name) noexcept nogil:
    cdef int64_t seconds = c.rows.mtime[row]
    cdef stat_t st
    cdef int got = lam_set_times(fd, name, seconds, c.rows.mtime_nsec[row])
    if got == 0 and not -2147483648LL <= seconds <= 2147483647LL:     # the kernel cuts off what does not fit
        if (fstat(fd, &st) if name == NULL else lam_lstat(fd, name, &st)) < 0:
            return -errno
        return 0 if lam_stat_mtime(&st) == seconds else -EOVERFLOW
    return got


cdef inline int _dress(const Clone* c, Py_ssize_t row, int fd, const char* name, unsigned int made) noexcept nogil:
    """Give an inode that was made with the mode ``made`` all its metadata: 0 or -errno. ``name`` NULL: fd is the inode.

    Owner first, which takes set-id bits and capabilities away (62); the mode behind attributes, for which the owner
    has to have the right to write.
    """
    cdef uint32_t uid = c.rows.uid[row], gid = c.rows.gid[row]
    cdef unsigned int mode = c.rows.mode[row] & 0o7777
    cdef int got
    if uid != c.euid or gid != c.egid:
        got = fchown(fd, uid, gid) if name == NULL else fchownat(fd, name, uid, gid, AT_SYMLINK_NOFOLLOW)
        if got < 0:
            return -errno
    got = _set_xattrs(c, row, fd, name)
    if got < 0:
        return got
    if c.rows.type[row] != 50 and (mode != made or mode & 0o7000):
        got = fchmod(fd, mode) if name == NULL else lam_fchmodat(fd, name, mode)
        if got < 0:
            return -errno
    return _set_times(c, row, fd, name)


# -- inodes ------------------------------------------------------------------------------------------------------

cdef inline unsigned int _first_mode(const Clone* c, Py_ssize_t row) noexcept nogil:
    """Return the mode to make an inode with: its own, and what its owner needs until it is complete."""
    cdef unsigned int mode = c.rows.mode[row] & 0o777
    if c.rows.type[row] == 53:
        return mode | 0o700
    return mode | 0o600 if c.euid and c.rows.ext_len[row] else mode


cdef inline int _make_file(Clone* c, Py_ssize_t row, int dfd, const char* name) noexcept nogil:
    cdef unsigned int mode = _first_mode(c, row)
    cdef int to, got, from_ = open_row(c.source, &c.source_dir, c.rows, row)
    if from_ < 0:
        return from_ if from_ != -ENXIO else -ESTALE
    got = to = lam_make_file(dfd, name, mode)
    if to >= 0:
        got = _content(c, row, from_, to)
        if got == 0:
            got = _dress(c, row, to, NULL, mode)
        if got == 0:
            got = lam_close(to)
            c.n_files += 1
        else:
            lam_close(to)
    lam_close(from_)
    return got


cdef int _make_node(Clone* c, Py_ssize_t row, int dfd, const char* name) noexcept nogil:
    cdef char text[TEXT_CAP]
    cdef const uint8_t* target
    cdef Py_ssize_t n
    cdef uint8_t kind = c.rows.type[row]
    cdef unsigned int mode = c.rows.mode[row] & 0o777
    cdef int got
    if kind == 50:
        if row_link(c.rows, row, &target, &n) < 0 or n == 0 or n >= TEXT_CAP:
            return -EINVAL
        memcpy(text, target, n)
        text[n] = 0
        got = symlinkat(text, dfd, name)
    elif kind == 54:
        got = mknodat(dfd, name, S_IFIFO | mode, 0)
    elif kind == 51 or kind == 52:
        got = mknodat(dfd, name, (S_IFCHR if kind == 51 else S_IFBLK) | mode,
                      makedev(c.rows.rdev_major[row], c.rows.rdev_minor[row]))
    else:
        return -EINVAL
    return -errno if got < 0 else _dress(c, row, dfd, name, mode)


cdef inline int _make(Clone* c, Py_ssize_t row) noexcept nogil:
    cdef char name[COMPONENT_CAP]
    cdef int dfd
    if c.rows.type[row] == 53 or 0 <= c.rows.link_group[row] < row:
        return 0
    dfd = row_dir(c.target, &c.target_dir, c.rows, row, name)
    if dfd < 0:
        return dfd
    if c.rows.type[row] == 48:
        return _make_file(c, row, dfd, name)
    return _make_node(c, row, dfd, name)


# -- steps -------------------------------------------------------------------------------------------------------

cdef inline bint _is_root(const Rows* r, Py_ssize_t row) noexcept nogil:
    return r.path_len[row] == 0


cdef int clone_dirs(Clone* c) noexcept nogil:
    cdef char name[COMPONENT_CAP]
    cdef int dfd
    for c.row in range(c.n):
        if c.rows.type[c.row] != 53 or _is_root(c.rows, c.row):
            continue
        dfd = row_dir(c.target, &c.target_dir, c.rows, c.row, name)
        if dfd < 0:
            return dfd
        if mkdirat(dfd, name, _first_mode(c, c.row)) < 0:
            return -errno
    return 0


cdef inline int64_t _take(uint64_t* turns, bint last) noexcept nogil:
    """Take a run: its number, or -1 where none is left."""
    cdef uint64_t span = lam_load64(turns)
    while <uint32_t>(span >> 32) < <uint32_t>span:
        if last:
            if lam_swap64(turns, span, span - 1):
                return <int64_t>(<uint32_t>span - 1)
        elif lam_swap64(turns, span, span + (<uint64_t>1 << 32)):
            return <int64_t>(span >> 32)
        span = lam_load64(turns)
    return -1


cdef int clone_files(Clone* c, uint64_t* turns) noexcept nogil:
    cdef int64_t run, first = -1
    cdef Py_ssize_t end
    cdef bint last = False
    cdef int got
    while True:
        run = _take(turns, last)
        if run < 0:
            return 0
        if first < 0:
            first = run
            last = run > 0                      # another thread has begun at the front
        if run > (c.n - 1) // RUN_ROWS:
            return 0                            # more turns than rows
        c.row = <Py_ssize_t>run * RUN_ROWS
        end = c.row + RUN_ROWS if c.row < c.n - RUN_ROWS else c.n
        while c.row < end:
            got = _make(c, c.row)
            if got < 0:
                lam_store64(turns, 0)
                return got
            c.row += 1


cdef int clone_links(Clone* c) noexcept nogil:
    cdef char name[COMPONENT_CAP]
    cdef char first[COMPONENT_CAP]
    cdef int dfd, old
    cdef Py_ssize_t at
    for c.row in range(c.n):
        at = c.rows.link_group[c.row]
        if c.rows.type[c.row] == 53 or not 0 <= at < c.row:
            continue
        dfd = row_dir(c.target, &c.target_dir, c.rows, c.row, name)
        old = row_dir(c.target, &c.link_dir, c.rows, at, first)
        if dfd < 0 or old < 0:
            return dfd if dfd < 0 else old
        if linkat(old, first, dfd, name, 0) < 0:
            return -errno
    return 0


cdef int clone_finish(Clone* c) noexcept nogil:
    cdef char name[COMPONENT_CAP]
    cdef int dfd, got
    cdef Py_ssize_t left = c.n
    while left > 0:
        left -= 1
        c.row = left
        if c.rows.type[left] != 53:
            continue
        if _is_root(c.rows, left):
            got = _dress(c, left, c.target, NULL, 0o10000)
        else:
            dfd = row_dir(c.target, &c.target_dir, c.rows, left, name)
            got = _dress(c, left, dfd, name, _first_mode(c, left)) if dfd >= 0 else dfd
        if got < 0:
            return got
    return 0


# -- the Python side ---------------------------------------------------------------------------------------------

cdef int _begin(Clone* c, Rows* rows, tuple columns, int source, int target) except -1:
    memset(c, 0, sizeof(Clone))
    rows_acquire(rows, columns, False)
    if rows.dev == NULL or rows.ino == NULL:
        rows_release(rows)
        raise ValueError("the rows are not those of a walk: dev and ino are wanted")
    c.source, c.target, c.rows, c.n = source, target, rows, rows.cap
    c.euid, c.egid = geteuid(), getegid()
    return 0


cdef int _end(Clone* c, Rows* rows, int got) except -1:
    """Close what is open and release the rows; raise the error, if it is one."""
    cdef const uint8_t* p = <const uint8_t*>b""
    cdef Py_ssize_t n = 0
    below_close(&c.source_dir)
    below_close(&c.target_dir)
    below_close(&c.link_dir)
    try:
        if got < 0:
            if row_path(rows, c.row, &p, &n) < 0:
                n = 0
            raise OSError(-got, (<bytes>strerror(-got)).decode("utf-8", "replace"), p[:n])
    finally:
        rows_release(rows)
    return 0


def dirs(int target, tuple columns not None):
    """Make the directories of the table below the descriptor ``target``. OSError, here and below, has the row's path."""
    cdef Clone c
    cdef Rows rows
    cdef int got
    _begin(&c, &rows, columns, -1, target)
    with nogil:
        got = clone_dirs(&c)
    _end(&c, &rows, got)


def files(int source, int target, tuple columns not None, uint64_t[::1] turns not None, uint8_t[::1] scratch not None,
          bint share=True, bint ranges=True):
    """Copy all but directories and further names, a run of RUN rows at a time; return (files, of them shared, bytes).

    ``turns`` is one item, the number of runs, that all threads share; each has a ``scratch`` of its own (128 KiB is a
    good size). Without ``share`` FICLONE is not tried, without ``ranges`` copy_file_range is not. OSError ESTALE for a
    file that is not what its row says.
    """
    cdef Clone c
    cdef Rows rows
    cdef int got
    if turns.shape[0] != 1 or scratch.shape[0] < 1:
        raise ValueError("turns has one item, and scratch a byte at least")
    _begin(&c, &rows, columns, source, target)
    c.buf, c.buf_cap = &scratch[0], scratch.shape[0]
    c.share, c.ranges = share, ranges
    with nogil:
        got = clone_files(&c, &turns[0])
    _end(&c, &rows, got)
    return c.n_files, c.n_shared, c.nbytes


def links(int target, tuple columns not None):
    """Give the inodes that files() made their further names."""
    cdef Clone c
    cdef Rows rows
    cdef int got
    _begin(&c, &rows, columns, -1, target)
    with nogil:
        got = clone_links(&c)
    _end(&c, &rows, got)


def finish(int target, tuple columns not None):
    """Give the directories, and ``target`` itself, their metadata."""
    cdef Clone c
    cdef Rows rows
    cdef int got
    _begin(&c, &rows, columns, -1, target)
    with nogil:
        got = clone_finish(&c)
    _end(&c, &rows, got)
