"""System calls of the placing kernel: those that Cython's libc does not declare, by number where glibc 2.36 has no name.

Nothing here follows a symlink in the last component unless its name says so.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <errno.h>
    #include <fcntl.h>
    #include <sched.h>
    #include <stdint.h>
    #include <string.h>
    #include <sys/stat.h>
    #include <sys/syscall.h>
    #include <sys/sysmacros.h>
    #include <sys/xattr.h>
    #include <unistd.h>
    #ifndef RESOLVE_BENEATH
    struct open_how { uint64_t flags, mode, resolve; };
    #define RESOLVE_NO_MAGICLINKS 0x02
    #define RESOLVE_NO_SYMLINKS 0x04
    #define RESOLVE_BENEATH 0x08
    #define RESOLVE_IN_ROOT 0x10
    #endif
    static inline int lam_openat2(int fd, const char *path, uint64_t flags, uint64_t resolve) {
        struct open_how how = { flags | O_CLOEXEC, 0, resolve };
        long r;
        do r = syscall(437, fd, path, &how, sizeof how); while (r < 0 && errno == EAGAIN);
        return (int)r;
    }
    static inline int lam_fchmodat(int fd, const char *name, unsigned mode) {
        /* fchmodat2 (452) is the one that can refuse to follow; a kernel without it gets the following call, on what
           this engine made a moment ago or, without privilege, saw to be its own directory */
        long r = syscall(452, fd, name, mode, AT_SYMLINK_NOFOLLOW);
        if (r < 0 && errno == ENOSYS) r = fchmodat(fd, name, mode, 0);
        return (int)r;
    }
    static inline int lam_renameat2(int ofd, const char *old, int nfd, const char *name, unsigned flags) {
        return (int)syscall(SYS_renameat2, ofd, old, nfd, name, flags);
    }
    static inline int lam_open_by_parts(int fd, const char *path, uint64_t flags) {
        /* what lam_open_beneath does where the kernel has no openat2: one openat a component */
        char part[256];
        int at = fd, next;
        for (;;) {
            size_t n = strcspn(path, "/");
            int last = path[n] == 0, got;
            if (n > 255) { errno = ENAMETOOLONG; next = -1; }
            else if (n == 2 && path[0] == '.' && path[1] == '.') { errno = EXDEV; next = -1; }
            else {
                memcpy(part, path, n); part[n] = 0;
                next = openat(at, part, last ? (int)flags | O_NOFOLLOW | O_CLOEXEC
                                             : O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            }
            got = errno;
            if (at != fd) close(at);
            errno = got;
            if (next < 0 || last) return next;
            at = next;
            path += n + 1;
        }
    }
    static inline int lam_open_beneath(int fd, const char *path, uint64_t flags) {
        int got = lam_openat2(fd, path, flags, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
        return got < 0 && errno == ENOSYS ? lam_open_by_parts(fd, path, flags) : got;
    }
    struct lam_xattr_args { uint64_t value; uint32_t size, flags; };
    static inline int lam_setxattrat(int fd, const char *name, const char *key, const void *value, size_t n) {
        /* setxattrat (463), Linux 6.13; before it the calling thread, which has a working directory of its own
           (place_thread), steps into the directory */
        struct lam_xattr_args a = { (uint64_t)(uintptr_t)value, (uint32_t)n, 0 };
        long r = syscall(463, fd, name, AT_SYMLINK_NOFOLLOW, key, &a, sizeof a);
        if (r < 0 && errno == ENOSYS) {
            if (fchdir(fd) < 0) return -1;
            r = lsetxattr(name, key, value, n, 0);
        }
        return (int)r;
    }
    static inline int lam_utimens(int fd, const char *name, int64_t as, uint32_t an, int64_t ms, uint32_t mn) {
        struct timespec t[2] = { { as, an }, { ms, mn } };
        return name ? utimensat(fd, name, t, AT_SYMLINK_NOFOLLOW) : futimens(fd, t);
    }
    static inline int lam_fail(int e) { errno = e; return -1; }
    static inline int64_t lam_stat_mtime(const struct stat *st) { return st->st_mtim.tv_sec; }
    static inline int lam_lstat(int fd, const char *name, struct stat *st) {
        return fstatat(fd, name, st, AT_SYMLINK_NOFOLLOW);
    }
    """
    ctypedef struct stat_t "struct stat":
        uint32_t st_mode
        uint64_t st_dev, st_ino
        uint32_t st_uid, st_gid
    enum:
        O_RDONLY, O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW, O_DIRECTORY, O_CLOEXEC, O_PATH, AT_SYMLINK_NOFOLLOW
        S_IFMT, S_IFDIR, S_IFLNK, S_IFCHR, S_IFBLK, S_IFIFO
        RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH, RESOLVE_IN_ROOT
        CLONE_FS
        EEXIST, ENOENT, ENOTDIR, ELOOP, EXDEV, ENOSYS, EPERM, EINVAL, ENODATA, ENOTSUP, EINTR, ENAMETOOLONG, EACCES
        EIO, EISDIR, EMFILE
    int errno
    int lam_openat2(int fd, const char* path, uint64_t flags, uint64_t resolve) noexcept nogil
    # Open ``path`` below ``fd`` following no symlink at all: ELOOP or ENOTDIR where one stands. ``path`` is relative,
    # without empty or ``..`` components.
    int lam_open_beneath(int fd, const char* path, uint64_t flags) noexcept nogil
    int lam_open_by_parts(int fd, const char* path, uint64_t flags) noexcept nogil
    int lam_renameat2(int ofd, const char* old, int nfd, const char* name, unsigned int flags) noexcept nogil
    int lam_fchmodat(int fd, const char* name, unsigned int mode) noexcept nogil
    int lam_setxattrat(int fd, const char* name, const char* key, const void* value, size_t n) noexcept nogil
    int lam_utimens(int fd, const char* name, int64_t a_s, uint32_t a_ns, int64_t m_s, uint32_t m_ns) noexcept nogil
    int64_t lam_stat_mtime(const stat_t* st) noexcept nogil
    int lam_fail(int e) noexcept nogil      # set errno, return -1
    int lam_lstat(int fd, const char* name, stat_t* st) noexcept nogil
    int openat(int fd, const char* path, int flags, ...) noexcept nogil
    int close(int fd) noexcept nogil
    int mkdirat(int fd, const char* path, unsigned int mode) noexcept nogil
    int unlinkat(int fd, const char* path, int flags) noexcept nogil
    int symlinkat(const char* target, int fd, const char* path) noexcept nogil
    int linkat(int ofd, const char* old, int nfd, const char* path, int flags) noexcept nogil
    int mknodat(int fd, const char* path, unsigned int mode, uint64_t dev) noexcept nogil
    int fchownat(int fd, const char* path, uint32_t uid, uint32_t gid, int flags) noexcept nogil
    int fchown(int fd, uint32_t uid, uint32_t gid) noexcept nogil
    int fchmod(int fd, unsigned int mode) noexcept nogil
    int fstat(int fd, stat_t* st) noexcept nogil
    int fsetxattr(int fd, const char* name, const void* value, size_t n, int flags) noexcept nogil
    int fremovexattr(int fd, const char* name) noexcept nogil
    Py_ssize_t fgetxattr(int fd, const char* name, void* value, size_t n) noexcept nogil
    Py_ssize_t flistxattr(int fd, char* names, size_t n) noexcept nogil
    Py_ssize_t pwrite(int fd, const void* p, size_t n, int64_t off) noexcept nogil
    Py_ssize_t write(int fd, const void* p, size_t n) noexcept nogil
    int ftruncate(int fd, int64_t n) noexcept nogil
    int fdatasync(int fd) noexcept nogil
    int syncfs(int fd) noexcept nogil
    int unshare(int flags) noexcept nogil
    unsigned int umask(unsigned int mask) noexcept nogil
    unsigned int geteuid() noexcept nogil
    unsigned int getegid() noexcept nogil
    uint64_t makedev(unsigned int major, unsigned int minor) noexcept nogil
