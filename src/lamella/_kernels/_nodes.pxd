"""Inodes that are made by name: directories, symlinks, devices, FIFOs, hard links; and what stands in their way.

Each function makes ``name`` in the directory ``top`` for a row of the placing kernel and returns a Status.
"""
from libc.stdint cimport uint8_t
from libc.string cimport memcmp, memcpy
from lamella._kernels._meta cimport set_owner, set_times, set_xattrs
from lamella._kernels._rows cimport F_EXISTED, row_link
from lamella._kernels._status cimport OK, OS_ERROR, SPECIAL
from lamella._kernels._sys cimport *
from lamella._kernels.place cimport *

cdef inline int make_way(Place* c, int dfd, const char* name, bint for_dir) noexcept nogil:
    """After EEXIST: make way for a row. OK: gone, try again; AT 1: a directory that the row merges into."""
    cdef stat_t info
    if lam_lstat(dfd, name, &info) < 0:
        return OK if errno == ENOENT else OS_ERROR
    if info.st_mode & S_IFMT == S_IFDIR:
        if for_dir:
            return 1
        c.st.special = SP_REPLACE_DIR
        return SPECIAL
    if for_dir and c.st.options & OPT_KEEP_DIRLINKS and info.st_mode & S_IFMT == S_IFLNK:
        c.st.special = SP_DIRLINK
        return SPECIAL
    return OK if unlinkat(dfd, name, 0) == 0 or errno == ENOENT else OS_ERROR

cdef inline int make_dir(Place* c, Py_ssize_t row, const Level* top, const char* name) noexcept nogil:
    cdef unsigned int mode = c.rows.mode[row] & 0o777
    cdef inline int got = 0
    if c.st.options & OPT_WRITABLE_DIRS:
        mode |= 0o700
    while mkdirat(top.fd, name, mode) < 0:
        if errno != EEXIST:
            return OS_ERROR
        got = make_way(c, top.fd, name, True)
        if got == 1:
            c.rows.flags[row] |= F_EXISTED
            return OK
        if got != OK:
            return got
    if top.acl or top.setgid:
        c.rows.flags[row] |= F_EXISTED
    return OK

cdef inline int dress_node(Place* c, Py_ssize_t row, const Level* top, const char* name) noexcept nogil:
    cdef unsigned int mode = c.rows.mode[row] & 0o7777
    cdef uint8_t kind = c.rows.type[row]
    cdef inline int got
    got = set_owner(c, row, top.fd, name, top.setgid)
    if got < 0:
        return OS_ERROR
    if top.acl and kind != 50:                  # inherited from the directory's default (109): no entries, no ACL
        lam_setxattrat(top.fd, name, b"system.posix_acl_access", b"\x02\0\0\0", 4)
    if kind != 50 and ((got and mode & 0o6000) or top.acl) and lam_fchmodat(top.fd, name, mode) < 0:
        return OS_ERROR
    if set_xattrs(c, row, top.fd, name) < 0 or set_times(c, row, top.fd, name) < 0:
        return OS_ERROR
    return OK

cdef inline int make_node(Place* c, Py_ssize_t row, const Level* top, const char* name) noexcept nogil:
    """Symlinks, devices and FIFOs: made by name, and given their metadata by name."""
    cdef const uint8_t* target
    cdef Py_ssize_t n
    cdef char text[PATH_CAP]
    cdef uint8_t kind = c.rows.type[row]
    cdef unsigned int mode = c.rows.mode[row] & 0o7777
    cdef inline int got
    if kind == 50:
        if row_link(c.rows, row, &target, &n) < 0 or n >= PATH_CAP:
            lam_fail(ENAMETOOLONG)
            return OS_ERROR
        memcpy(text, target, n)
        text[n] = 0
    elif kind == 51 and c.rows.rdev_major[row] == 0 and c.rows.rdev_minor[row] == 0:
        if not c.st.options & OPT_ZERO_DEVICE:
            c.st.special = SP_DEVICE            # 24: on an overlay it would be a whiteout
            return SPECIAL
    while True:
        if kind == 50:
            got = symlinkat(text, top.fd, name)
        elif kind == 54:
            got = mknodat(top.fd, name, S_IFIFO | mode, 0)
        else:
            got = mknodat(top.fd, name, (S_IFCHR if kind == 51 else S_IFBLK) | mode,
                          makedev(c.rows.rdev_major[row], c.rows.rdev_minor[row]))
        if got == 0:
            break
        if errno == EPERM and (kind == 51 or kind == 52):
            c.st.special = SP_DEVICE
            return SPECIAL
        if errno != EEXIST:
            return OS_ERROR
        got = make_way(c, top.fd, name, False)
        if got != OK:
            return got
    return dress_node(c, row, top, name)

cdef inline int link_dir(Place* c, const Level* top, char* text, Py_ssize_t slash) noexcept nogil:
    """Return the directory of a link's target ``text``: the current one, the root, or one to close; -1 for none."""
    if 0 <= slash == top.path_end and memcmp(text, c.st.path, slash) == 0:
        return top.fd
    if slash <= 0:
        return top.fd if top.path_end == 0 else c.st.root_fd
    text[slash] = 0
    return lam_open_beneath(c.st.root_fd, text, O_PATH | O_DIRECTORY)

cdef inline int make_link(Place* c, Py_ssize_t row, const Level* top, const char* name) noexcept nogil:
    cdef const uint8_t* target
    cdef Py_ssize_t n, slash
    cdef char text[PATH_CAP]
    cdef stat_t old, new
    cdef inline int dfd, got
    if c.st.options & OPT_ASK_LINKS or row_link(c.rows, row, &target, &n) < 0 or n == 0 or n >= PATH_CAP:
        c.st.special = SP_LINK
        return SPECIAL
    memcpy(text, target, n)
    text[n] = 0
    slash = n - 1
    while slash >= 0 and text[slash] != 47:
        slash -= 1
    dfd = link_dir(c, top, text, slash)
    if dfd < 0:
        c.st.special = SP_LINK
        return SPECIAL
    while True:
        got = linkat(dfd, text + slash + 1, top.fd, name, 0)
        if got == 0 or errno != EEXIST:
            break
        # a link onto another name of the same inode changes nothing, onto itself it must not unlink the only one
        if lam_lstat(dfd, text + slash + 1, &old) < 0 or old.st_mode & S_IFMT == S_IFDIR:
            break
        if lam_lstat(top.fd, name, &new) == 0 and old.st_ino == new.st_ino and old.st_dev == new.st_dev:
            got = 0
            break
        got = make_way(c, top.fd, name, False)
        if got != OK:
            if dfd != top.fd and dfd != c.st.root_fd:
                close(dfd)
            return got
    if got < 0:
        c.st.special = SP_LINK
    if dfd != top.fd and dfd != c.st.root_fd:
        close(dfd)
    return SPECIAL if got < 0 else OK
