"""System calls of the walking kernel: made in place (see _syscall.pxd), by number where they are newer than the headers.

Nothing here follows a symlink in the last component; a call that a signal interrupted is made again. They return what
the kernel does, -errno for an error.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from lamella._kernels._rows cimport Rows
from lamella._kernels._syscall cimport lam_call

cdef extern from *:
    """
    #include <dirent.h>
    #include <fcntl.h>
    #include <sched.h>
    #include <stdint.h>
    #include <sys/stat.h>
    #include <sys/sysmacros.h>
    struct lam_get_xattr_args { uint64_t value; uint32_t size, flags; };

    LAM_INLINE int lam_open_dir(int fd, const char *name, int noatime) {
        long r, how = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | (noatime ? O_NOATIME : 0);
        LAM_CALL(r, SYS_openat, fd, LAM_PTR(name), how, 0, 0, 0);
        return (int)r;
    }
    LAM_INLINE int64_t lam_getdents(int fd, void *p, size_t n) {
        long r;
        LAM_CALL(r, SYS_getdents64, fd, LAM_PTR(p), (long)n, 0, 0, 0);
        return r;
    }
    LAM_INLINE int lam_statx(int fd, const char *name, struct statx *st) {
        long r, at = (name[0] ? AT_SYMLINK_NOFOLLOW : AT_EMPTY_PATH) | AT_STATX_DONT_SYNC;
        LAM_CALL(r, SYS_statx, fd, LAM_PTR(name), at, STATX_BASIC_STATS, LAM_PTR(st), 0);
        if (r == -ENOSYS)   /* Linux before 4.11: the library makes it of others */
            r = statx(fd, name, (int)at, STATX_BASIC_STATS, st) < 0 ? -errno : 0;
        return (int)r;
    }
    LAM_INLINE int64_t lam_readlink(int fd, const char *name, char *p, size_t n) {
        long r;
        LAM_CALL(r, SYS_readlinkat, fd, LAM_PTR(name), LAM_PTR(p), (long)n, 0, 0);
        return r;
    }
    /* name NULL: the inode open as fd. by_cwd: fd's directory is the thread's working directory */
    LAM_INLINE int64_t lam_listxattr(int fd, const char *name, int by_cwd, char *p, size_t n) {
        long r;
        if (!name) LAM_CALL(r, SYS_flistxattr, fd, LAM_PTR(p), (long)n, 0, 0, 0);
        else if (by_cwd) LAM_CALL(r, SYS_llistxattr, LAM_PTR(name), LAM_PTR(p), (long)n, 0, 0, 0);
        else LAM_CALL(r, 465, fd, LAM_PTR(name), AT_SYMLINK_NOFOLLOW, LAM_PTR(p), (long)n, 0);   /* listxattrat */
        return r;
    }
    LAM_INLINE int64_t lam_getxattr(int fd, const char *name, int by_cwd, const char *key, void *p, size_t n) {
        struct lam_get_xattr_args a = { (uint64_t)(uintptr_t)p, (uint32_t)n, 0 };
        long r;
        if (!name) LAM_CALL(r, SYS_fgetxattr, fd, LAM_PTR(key), LAM_PTR(p), (long)n, 0, 0);
        else if (by_cwd) LAM_CALL(r, SYS_lgetxattr, LAM_PTR(name), LAM_PTR(key), LAM_PTR(p), (long)n, 0, 0);
        else LAM_CALL(r, 464, fd, LAM_PTR(name), AT_SYMLINK_NOFOLLOW, LAM_PTR(key), LAM_PTR(&a), sizeof a);
        return r;
    }
    LAM_INLINE int lam_has_xattrat(void) {
        /* a filter of system calls that does not know the number may say EPERM */
        long r = lam_call(465, -1, LAM_PTR(""), 0, 0, 0, 0);
        return r != -ENOSYS && r != -EPERM;
    }
    LAM_INLINE int lam_fchdir(int fd) { return (int)lam_call(SYS_fchdir, fd, 0, 0, 0, 0, 0); }
    """
    ctypedef struct statx_time "struct statx_timestamp":
        int64_t tv_sec
        uint32_t tv_nsec
    ctypedef struct statx_t "struct statx":
        uint32_t stx_nlink, stx_uid, stx_gid
        unsigned short stx_mode
        uint64_t stx_ino, stx_size, stx_blocks
        statx_time stx_mtime
        uint32_t stx_rdev_major, stx_rdev_minor, stx_dev_major, stx_dev_minor
    enum:
        DT_UNKNOWN, DT_DIR, DT_SOCK
        S_IFMT, S_IFREG, S_IFDIR, S_IFLNK, S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK
        CLONE_FS
        ENOENT, ENOTDIR, ELOOP, ENOSYS, EPERM, EINVAL, ENODATA, ENOTSUP, ENAMETOOLONG, EMFILE, ENFILE, ERANGE
        ESTALE, EOVERFLOW
    int errno
    int lam_open_dir(int fd, const char* name, int noatime) noexcept nogil
    int64_t lam_getdents(int fd, void* p, size_t n) noexcept nogil
    int lam_statx(int fd, const char* name, statx_t* st) noexcept nogil    # name "": the inode open as fd
    int64_t lam_readlink(int fd, const char* name, char* p, size_t n) noexcept nogil
    int64_t lam_listxattr(int fd, const char* name, int by_cwd, char* p, size_t n) noexcept nogil
    int64_t lam_getxattr(int fd, const char* name, int by_cwd, const char* key, void* p, size_t n) noexcept nogil
    int lam_has_xattrat() noexcept nogil
    int lam_fchdir(int fd) noexcept nogil
    int unshare(int flags) noexcept nogil
    uint64_t makedev(unsigned int major, unsigned int minor) noexcept nogil

cdef inline uint8_t stat_type(int kind) noexcept nogil:
    """Return tar's type flag for a kind of inode (the S_IFMT bits of a mode) that is no socket."""
    if kind == S_IFREG:
        return 48
    if kind == S_IFLNK:
        return 50
    if kind == S_IFCHR:
        return 51
    if kind == S_IFBLK:
        return 52
    return 53 if kind == S_IFDIR else 54

cdef inline int64_t put_stat(Rows* r, Py_ssize_t i, const statx_t* st) noexcept nogil:
    """Write the columns of row ``i`` that an inode's attributes say; dev and ino are there. Returns the size."""
    cdef int kind = st.stx_mode & S_IFMT
    cdef bint device = kind == S_IFCHR or kind == S_IFBLK
    cdef int64_t size = <int64_t>st.stx_size if kind == S_IFREG and st.stx_size < <uint64_t>1 << 63 else 0
    r.type[i] = stat_type(kind)
    r.mode[i] = st.stx_mode & 0o7777
    r.uid[i] = st.stx_uid
    r.gid[i] = st.stx_gid
    r.size[i] = size
    r.mtime[i] = st.stx_mtime.tv_sec
    r.mtime_nsec[i] = st.stx_mtime.tv_nsec
    r.rdev_major[i] = st.stx_rdev_major if device else 0
    r.rdev_minor[i] = st.stx_rdev_minor if device else 0
    r.dev[i] = makedev(st.stx_dev_major, st.stx_dev_minor)
    r.ino[i] = st.stx_ino
    return size
