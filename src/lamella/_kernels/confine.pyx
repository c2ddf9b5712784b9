"""Open below a descriptor and never outside it, and what a placing thread needs of the process."""
from libc.stdint cimport uint64_t
from libc.string cimport strerror
from lamella._kernels._sys cimport (CLONE_FS, errno, lam_fchmodat, lam_open_beneath,
                                    lam_open_by_parts, lam_renameat2, syncfs, umask, unshare)


def open_beneath(int fd, bytes path not None, uint64_t flags, bint by_parts=False):
    """Open ``path`` below ``fd`` following no symlink; OSError (ELOOP, ENOTDIR) where one stands."""
    cdef const char* text = path
    cdef int got, e
    with nogil:
        got = lam_open_by_parts(fd, text, flags) if by_parts else lam_open_beneath(fd, text, flags)
        e = errno
    if got < 0:
        raise OSError(e, strerror(e).decode(), path)
    return got


def chmod(int fd, bytes name not None, unsigned int mode):
    """Set the mode of ``name`` in the directory ``fd``, following no symlink where the kernel can refuse to (6.6)."""
    cdef const char* text = name
    cdef int got, e
    with nogil:
        got = lam_fchmodat(fd, text, mode)
        e = errno
    if got < 0:
        raise OSError(e, strerror(e).decode(), name)


def rename(int old_fd, bytes old not None, int new_fd, bytes new not None, unsigned int flags):
    """Rename ``old`` in one directory to ``new`` in another, as renameat2(2) with ``flags``; no symlink is followed."""
    cdef const char* from_name = old
    cdef const char* to_name = new
    cdef int got, e
    with nogil:
        got = lam_renameat2(old_fd, from_name, new_fd, to_name, flags)
        e = errno
    if got < 0:
        raise OSError(e, strerror(e).decode(), old, None, new)


def private_umask():
    """Give the calling thread a working directory and umask of its own, the umask 0. For a thread of the engine only."""
    cdef int got
    with nogil:
        got = unshare(CLONE_FS)
        if got == 0:
            umask(0)
    if got < 0:
        raise OSError(errno, strerror(errno).decode())


def sync_fs(int fd):
    """Write everything of the file system that holds ``fd`` to its device (syncfs(2))."""
    cdef int got
    with nogil:
        got = syncfs(fd)
    if got < 0:
        raise OSError(errno, strerror(errno).decode())
