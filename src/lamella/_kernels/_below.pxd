"""Open a row's regular file below a directory descriptor, whatever stands or moves there. System calls.

The directory part of the path is opened by openat2 (RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_MAGICLINKS;
component by component where the kernel has no openat2), the last component by openat with O_NOFOLLOW, and O_NONBLOCK
for what is a FIFO by now. The directory of the last row stays open, since rows in path order mostly have the same one.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.string cimport memcmp, memcpy
from lamella._kernels._rows cimport Rows, row_path
from lamella._kernels._sys cimport (
    EINVAL, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EPERM, EXDEV, O_CLOEXEC, O_DIRECTORY, O_NOFOLLOW, O_PATH,
    O_RDONLY, close, errno, lam_open_beneath, lam_open_by_parts,
)
from lamella._kernels._syscall cimport lam_call

cdef extern from *:
    """
    LAM_INLINE int lam_open_file(int fd, const char *name, int how) {
        long r;
        LAM_CALL(r, SYS_openat, fd, LAM_PTR(name), how, 0, 0, 0);
        return (int)r;
    }
    """
    enum:
        ENXIO, O_NOATIME, O_NOCTTY, O_NONBLOCK
    int lam_open_file(int fd, const char* name, int how) noexcept nogil      # -errno for an error

cdef enum:
    BELOW_BY_PARTS = 1    # open component by component, as where the kernel has no openat2
    BELOW_ATIME = 2       # O_NOATIME was refused once: not our file
    TEXT_CAP = 4096       # of a path given to the kernel, with its NUL
    COMPONENT_CAP = 256   # of a name

cdef struct Below:
    # the directory opened last
    int32_t fd            # plus one, 0 for none: a zeroed Below is a fresh one
    int32_t n             # its path is the first ``n`` bytes of that of ``row``
    int64_t row
    uint32_t flags

cdef inline bint _is_plain(const char* p, Py_ssize_t n) noexcept nogil:
    """Tell a relative path without empty, ``.`` and ``..`` components and NULs."""
    cdef Py_ssize_t i, begin = 0
    for i in range(n + 1):
        if i == n or p[i] == 47:
            if i == begin or (p[begin] == 46 and (i == begin + 1 or (i == begin + 2 and p[begin + 1] == 46))):
                return False
            begin = i + 1
        elif p[i] == 0:
            return False
    return True

cdef inline int _open_dir(int root, const uint8_t* path, Py_ssize_t n, uint32_t flags) noexcept nogil:
    """Open the directory path[:n], n > 0: a descriptor, or -errno. A path too long for one call goes in pieces."""
    cdef char text[TEXT_CAP]
    cdef int fd = root, deeper, err
    cdef Py_ssize_t at = 0, end
    while at < n:
        end = n
        if n - at >= TEXT_CAP:
            end = at + TEXT_CAP - 1
            while end > at and path[end] != 47:
                end -= 1
        memcpy(text, path + at, end - at)
        text[end - at] = 0
        if not _is_plain(text, end - at):
            deeper, err = -1, EXDEV if end > at else ENAMETOOLONG
        else:
            if flags & BELOW_BY_PARTS:
                deeper = lam_open_by_parts(fd, text, O_PATH | O_DIRECTORY)
            else:
                deeper = lam_open_beneath(fd, text, O_PATH | O_DIRECTORY)
            err = errno
        if fd != root:
            close(fd)
        if deeper < 0:
            return -err
        fd = deeper
        at = end + 1
    return fd

cdef inline void below_close(Below* dir) noexcept nogil:
    """Close what ``dir`` keeps open."""
    if dir.fd > 0:
        close(dir.fd - 1)
    dir.fd = 0

cdef inline int _below(int root, Below* dir, const Rows* r, Py_ssize_t row, const uint8_t* path,
                       Py_ssize_t n) noexcept nogil:
    """Return the descriptor of directory path[:n] (of ``row``), opening it unless it was the last one; or -errno."""
    cdef const uint8_t* p
    cdef Py_ssize_t m
    cdef int fd
    if n == 0:
        return root
    if (dir.fd > 0 and dir.n == n and 0 <= dir.row < r.cap and row_path(r, dir.row, &p, &m) == 0 and m >= n
            and memcmp(p, path, n) == 0):
        return dir.fd - 1
    below_close(dir)
    fd = _open_dir(root, path, n, dir.flags)
    if fd >= 0:
        dir.fd, dir.n, dir.row = fd + 1, <int32_t>n, row
    return fd

cdef inline int row_dir(int root, Below* dir, const Rows* r, Py_ssize_t row, char* name) noexcept nogil:
    """Return the descriptor of the directory that ``row`` (caller: 0 <= row < cap) is in, which ``dir`` or the caller has,
    and write its last component to ``name`` (COMPONENT_CAP bytes); or -errno, EXDEV for the root and ``..``."""
    cdef const uint8_t* path
    cdef Py_ssize_t n, at
    if row_path(r, row, &path, &n) < 0:
        return -EINVAL
    at = n
    while at > 0 and path[at - 1] != 47:
        at -= 1
    if n - at >= COMPONENT_CAP:
        return -ENAMETOOLONG
    memcpy(name, path + at, n - at)
    name[n - at] = 0
    if not _is_plain(name, n - at):
        return -EXDEV
    return _below(root, dir, r, row, path, at - 1 if at else 0)

cdef inline int open_row(int root, Below* dir, const Rows* r, Py_ssize_t row) noexcept nogil:
    """Open the file of ``row`` (caller: 0 <= row < cap) for reading: a descriptor, or -errno; EXDEV for ``..``."""
    cdef char name[COMPONENT_CAP]
    cdef int fd, how = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY
    root = row_dir(root, dir, r, row, name)
    if root < 0:
        return root
    while True:
        fd = lam_open_file(root, name, how if dir.flags & BELOW_ATIME else how | O_NOATIME)
        if fd != -EPERM or dir.flags & BELOW_ATIME:
            return fd
        dir.flags |= BELOW_ATIME

cdef inline bint is_gone(int err) noexcept nogil:
    """Tell an errno of open_row() that says: there is no such file, or something else has its name."""
    # ENXIO: a socket
    return err == ENOENT or err == ENOTDIR or err == ELOOP or err == ENXIO
