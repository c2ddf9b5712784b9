"""From the bytes of a chunk to the data of a file: the middle of the placing kernel."""
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memcpy
from lamella._kernels._jobs cimport lam_count
from lamella._kernels._meta cimport set_owner, set_times, set_xattrs
from lamella._kernels._rows cimport EXT_SPARSE, F_SPARSE, ExtItem, Rows, ext_next, row_ext
from lamella._kernels._status cimport BAD_FORMAT, OK, OS_ERROR
from lamella._kernels._sys cimport EINTR, close, errno, fchmod, fdatasync, fremovexattr, ftruncate, pwrite
from lamella._kernels.place cimport OPT_HOLES, OPT_SYNC, OpenFile, Place

cdef inline int put(Place* c, OpenFile* f, const uint8_t* p, Py_ssize_t n, int64_t off) noexcept nogil:
    cdef Py_ssize_t got
    while n > 0:
        got = pwrite(f.fd, p, n, off)
        if got < 0:
            if errno == EINTR:
                continue
            return -1
        p += got
        off += got
        n -= got
        lam_count(&c.st.n_bytes, got)
    return 0

cdef inline bint zero(const uint8_t* p, Py_ssize_t n) noexcept nogil:
    return p[0] == 0 and memcmp(p, p + 1, n - 1) == 0

cdef inline int put_data(Place* c, OpenFile* f, const uint8_t* p, Py_ssize_t n, int64_t off) noexcept nogil:
    """Write ``n`` bytes at ``off``; with OPT_HOLES leave out aligned 4 KiB runs of zeros."""
    cdef Py_ssize_t begin = 0, at = 0, step
    if not c.st.options & OPT_HOLES:
        return put(c, f, p, n, off)
    while at < n:
        step = 4096 - <Py_ssize_t>((off + at) & 4095)
        step = step if step < n - at else n - at
        if zero(p + at, step):
            if at > begin and put(c, f, p + begin, at - begin, off + begin) < 0:
                return -1
            lam_count(&c.st.n_bytes, step)        # counted too: where a page is cut depends on the chunks, the count must not
            begin = at + step
        at += step
    return put(c, f, p + begin, n - begin, off + begin) if n > begin else 0

cdef inline const uint8_t* sparse_map(const Rows* r, Py_ssize_t row, Py_ssize_t* n_regions) noexcept nogil:
    cdef const uint8_t* run
    cdef Py_ssize_t n, at = 0
    cdef ExtItem item
    if row_ext(r, row, &run, &n) == 0:
        while True:
            at = ext_next(run, n, at, &item)
            if at <= 0:
                break
            if item.tag == EXT_SPARSE:
                n_regions[0] = item.value_len // 16
                return item.value
    n_regions[0] = 0
    return NULL

cdef inline int scatter(Place* c, OpenFile* f, const uint8_t* p, Py_ssize_t n) noexcept nogil:
    """Write ``n`` packed bytes of a sparse file to where its map says."""
    cdef Py_ssize_t n_regions, take
    cdef const uint8_t* regions = sparse_map(c.rows, f.row, &n_regions)
    cdef int64_t at[2]
    while n > 0 and 0 <= f.region < n_regions:
        memcpy(at, regions + 16 * f.region, 16)
        take = n if n < at[1] - f.region_done else <Py_ssize_t>(at[1] - f.region_done)
        if take > 0:
            if put_data(c, f, p, take, at[0] + f.region_done) < 0:
                return -1
            p += take
            n -= take
            f.region_done += take
        if f.region_done >= at[1]:
            f.region += 1
            f.region_done = 0
    return 0

cdef inline int64_t packed_size(const Rows* r, Py_ssize_t row) noexcept nogil:
    """Bytes of payload that the tar holds for ``row``."""
    cdef Py_ssize_t n, i
    cdef const uint8_t* regions
    cdef int64_t at[2]
    cdef uint64_t total = 0
    if not r.flags[row] & F_SPARSE:
        return r.size[row]
    regions = sparse_map(r, row, &n)
    for i in range(n):
        memcpy(at, regions + 16 * i, 16)
        if at[0] < 0 or at[1] < 0:
            return -1
        total += <uint64_t>at[1]
        if total > <uint64_t>r.size[row]:
            return -1                           # regions of a file cannot hold more than the file
    return <int64_t>total

cdef inline int close_file(Place* c, OpenFile* f) noexcept nogil:
    """Owner, mode, xattrs, times, in the order that keeps set-id bits and capabilities (62)."""
    cdef int fd = f.fd, got
    cdef Py_ssize_t row = f.row
    cdef unsigned int mode = c.rows.mode[row] & 0o7777
    if (c.rows.flags[row] & F_SPARSE or c.st.options & OPT_HOLES) and ftruncate(fd, c.rows.size[row]) < 0:
        return OS_ERROR
    got = set_owner(c, row, fd, NULL, f.inherits)
    if got < 0:
        return OS_ERROR
    if f.acl:
        fremovexattr(fd, b"system.posix_acl_access")    # inherited from the directory's default (109)
    if (mode & 0o7000 or f.acl) and fchmod(fd, mode) < 0:
        return OS_ERROR
    if set_xattrs(c, row, fd, NULL) < 0 or set_times(c, row, fd, NULL) < 0:
        return OS_ERROR
    if c.st.options & OPT_SYNC and fdatasync(fd) < 0:
        return OS_ERROR
    f.fd = -1
    lam_count(&c.st.n_files, 1)
    return OK if close(fd) == 0 else OS_ERROR

cdef inline int continue_file(Place* c, OpenFile* f) noexcept nogil:
    """Feed the file in progress from the chunk; when it is whole, finish it (fd is then -1)."""
    cdef Py_ssize_t row = f.row, n
    cdef int64_t packed = packed_size(c.rows, row), at, left
    if packed < 0 or f.done < 0 or f.done > packed or f.region < 0 or f.region_done < 0:
        return BAD_FORMAT
    left = packed - f.done
    if left > 0:
        at = c.rows.data_off[row]
        if at < 0 or c.chunk_off < 0 or at > INT64_MAX - f.done:
            return BAD_FORMAT
        at += f.done - c.chunk_off
        if at < 0:
            return BAD_FORMAT                   # the bytes went by: rows and chunk do not belong together
        if at < c.chunk_len:
            n = c.chunk_len - <Py_ssize_t>at
            n = n if n < left else <Py_ssize_t>left
            if c.rows.flags[row] & F_SPARSE:
                if scatter(c, f, c.chunk + at, n) < 0:
                    return OS_ERROR
            elif put_data(c, f, c.chunk + at, n, f.done) < 0:
                return OS_ERROR
            f.done += n
            left -= n
    return close_file(c, f) if left == 0 else OK
