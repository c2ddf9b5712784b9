"""System calls of the walking kernel, by number where the C library has no name for them yet.

Nothing here follows a symlink in the last component; a call that a signal interrupted is made again.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from lamella._kernels._rows cimport Rows

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <dirent.h>
    #include <errno.h>
    #include <fcntl.h>
    #include <sched.h>
    #include <stdint.h>
    #include <sys/stat.h>
    #include <sys/syscall.h>
    #include <sys/sysmacros.h>
    #include <sys/xattr.h>
    #include <unistd.h>
    #define LAM_AGAIN(r, call) do r = (call); while (r < 0 && errno == EINTR)
    struct lam_get_xattr_args { uint64_t value; uint32_t size, flags; };

    static inline int lam_open_dir(int fd, const char *name, int noatime) {
        int r;
        LAM_AGAIN(r, openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | (noatime ? O_NOATIME : 0)));
        return r;
    }
    static inline int64_t lam_getdents(int fd, void *p, size_t n) {
        long r;
        LAM_AGAIN(r, syscall(SYS_getdents64, fd, p, n));
        return r;
    }
    static inline int lam_statx(int fd, const char *name, struct statx *st) {
        int r, at = name[0] ? AT_SYMLINK_NOFOLLOW : AT_EMPTY_PATH;
        LAM_AGAIN(r, statx(fd, name, at | AT_STATX_DONT_SYNC, STATX_BASIC_STATS, st));
        return r;
    }
    static inline int64_t lam_readlink(int fd, const char *name, char *p, size_t n) {
        long r;
        LAM_AGAIN(r, readlinkat(fd, name, p, n));
        return r;
    }
    /* name NULL: the inode open as fd. by_cwd: fd's directory is the thread's working directory */
    static inline int64_t lam_listxattr(int fd, const char *name, int by_cwd, char *p, size_t n) {
        long r;
        if (!name) LAM_AGAIN(r, flistxattr(fd, p, n));
        else if (by_cwd) LAM_AGAIN(r, llistxattr(name, p, n));
        else LAM_AGAIN(r, syscall(465, fd, name, AT_SYMLINK_NOFOLLOW, p, n));   /* listxattrat, Linux 6.13 */
        return r;
    }
    static inline int64_t lam_getxattr(int fd, const char *name, int by_cwd, const char *key, void *p, size_t n) {
        struct lam_get_xattr_args a = { (uint64_t)(uintptr_t)p, (uint32_t)n, 0 };
        long r;
        if (!name) LAM_AGAIN(r, fgetxattr(fd, key, p, n));
        else if (by_cwd) LAM_AGAIN(r, lgetxattr(name, key, p, n));
        else LAM_AGAIN(r, syscall(464, fd, name, AT_SYMLINK_NOFOLLOW, key, &a, sizeof a));
        return r;
    }
    static inline int lam_has_xattrat(void) {
        /* a filter of system calls that does not know the number may say EPERM */
        return syscall(465, -1, "", 0, NULL, 0) >= 0 || (errno != ENOSYS && errno != EPERM);
    }
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
    int close(int fd) noexcept nogil
    int fchdir(int fd) noexcept nogil
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

cdef inline void put_stat(Rows* r, Py_ssize_t i, const statx_t* st) noexcept nogil:
    """Write the columns of row ``i`` that an inode's attributes say; dev and ino are there."""
    cdef int kind = st.stx_mode & S_IFMT
    cdef bint device = kind == S_IFCHR or kind == S_IFBLK
    r.type[i] = stat_type(kind)
    r.mode[i] = st.stx_mode & 0o7777
    r.uid[i] = st.stx_uid
    r.gid[i] = st.stx_gid
    r.size[i] = <int64_t>st.stx_size if kind == S_IFREG and st.stx_size < <uint64_t>1 << 63 else 0
    r.mtime[i] = st.stx_mtime.tv_sec
    r.mtime_nsec[i] = st.stx_mtime.tv_nsec
    r.rdev_major[i] = st.stx_rdev_major if device else 0
    r.rdev_minor[i] = st.stx_rdev_minor if device else 0
    r.dev[i] = makedev(st.stx_dev_major, st.stx_dev_minor)
    r.ino[i] = st.stx_ino
