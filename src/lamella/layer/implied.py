"""What a layer relies on without having an entry for it: missing parents, and lower files that a branch must own."""

from __future__ import annotations

import os
import stat

from lamella.errors import UnsafePathError
from lamella.layer.parents import Found, Parents
from lamella.layer.placement import Placement
from lamella.tree.root import clear_acls, join

__all__ = ["OPEN_DIR", "child_dir", "copy_up", "ensure_dir", "make_dir"]

OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def ensure_dir(placement: Placement, path: bytes, parents: Parents | None, mode: int = 0o755) -> int:
    """Open directory ``path`` of the root, making and noting what of it has no entry (32). OSError at a non-directory."""
    fd, at = os.open(b".", OPEN_DIR, dir_fd=placement.root.fd), b""
    try:
        for part in path.split(b"/") if path else []:
            if part == b"..":
                raise UnsafePathError(path, "a '..' component")
            at = join(at, part)
            child = child_dir(placement, fd, part, at, parents, mode)
            os.close(fd)
            fd = child
        return os.dup(fd)
    finally:
        os.close(fd)


def child_dir(  # noqa: PLR0917 - a step of ensure_dir()
    placement: Placement, fd: int, name: bytes, path: bytes, parents: Parents | None, mode: int
) -> int:
    """Open directory ``name`` of ``fd``, noting it if it has no entry, making it if it is not there."""
    try:
        child = os.open(name, OPEN_DIR, dir_fd=fd)
    except FileNotFoundError:
        return make_dir(placement, fd, name, path, parents, mode)
    if placement.find(path) < 0:
        placement.imply(path, os.fstat(child).st_mtime_ns)
    return child


def make_dir(  # noqa: PLR0917 - a step of ensure_dir()
    placement: Placement, fd: int, name: bytes, path: bytes, parents: Parents | None, mode: int
) -> int:
    """Make and open ``name`` of ``fd``, like the nearest parent's directory where one has it."""
    lower = None if parents is None else parents.shown(path)
    os.mkdir(name, mode | 0o700, dir_fd=fd)
    child = os.open(name, OPEN_DIR, dir_fd=fd)
    clear_acls(child)
    if os.fstat(child).st_gid != os.getegid():
        os.fchown(child, -1, os.getegid())  # inherited from a set-group-id directory
    os.fchmod(child, mode | 0o700 if os.geteuid() else mode)
    if lower is not None and stat.S_ISDIR(lower.status.st_mode):
        placement.imply(path, lower.status.st_mtime_ns, lower.status, lower.xattrs())
    else:
        placement.imply(path, 0)
    return child


def copy_up(found: Found, fd: int, name: bytes) -> None:
    """Copy a parent's inode, no directory, with all its metadata to ``name`` of ``fd``.

    For the placing thread only: xattrs of what cannot be opened are reached through the working directory, its own.
    """
    status = found.status
    if stat.S_ISLNK(status.st_mode):
        os.symlink(found.readlink(), name, dir_fd=fd)
    elif stat.S_ISREG(status.st_mode):
        _copy_file(found, fd, name)
    else:
        os.mknod(name, status.st_mode, status.st_rdev, dir_fd=fd)
    own = (os.geteuid(), os.getegid())
    if (status.st_uid, status.st_gid) != own:
        os.chown(name, status.st_uid, status.st_gid, dir_fd=fd, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=fd)
    xattrs = found.xattrs()
    os.fchdir(fd)
    for key, value in xattrs.items():
        os.setxattr(name, key, value, follow_symlinks=False)
    os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=fd, follow_symlinks=False)


def _copy_file(found: Found, fd: int, name: bytes) -> None:
    source = found.open(os.O_RDONLY)
    try:
        copy = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=fd)
        try:
            while os.sendfile(copy, source, None, 1 << 24):
                pass
        finally:
            os.close(copy)
    finally:
        os.close(source)
