"""The calls of a file system, by paths below its root that no symlink is followed in: of a directory, or of a union."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import Self

from lamella._kernels import confine
from lamella.layer.merged import through
from lamella.layer.union import Union
from lamella.tree.root import Root, split

__all__ = ["Calls", "Directory"]


class Directory:
    """The calls on a directory that is there, as a mount is. A context manager; each call is the kernel's own."""

    def __init__(self, where: str | os.PathLike[str]) -> None:
        self.root = Root(os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self.root.fd)

    @contextlib.contextmanager
    def at(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """Lend the directory that ``path`` is in, and its name there."""
        parent, name = split(path)
        with self.root.dir(parent) as fd:
            yield fd, name or b"."

    # -- looking ------------------------------------------------------------------------------------------------------

    def stat(self, path: bytes) -> os.stat_result:
        """Return the status, a symlink's own."""
        with self.at(path) as (fd, name):
            return os.stat(name, dir_fd=fd, follow_symlinks=False)

    def readdir(self, path: bytes) -> dict[bytes, int]:
        """Return the names in a directory, and the S_IFMT of each."""
        with self.at(path) as (fd, name):
            opened = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
        try:
            with os.scandir(opened) as found:
                return {os.fsencode(e.name): stat.S_IFMT(e.stat(follow_symlinks=False).st_mode) for e in found}
        finally:
            os.close(opened)

    def readlink(self, path: bytes) -> bytes:
        """Return a symlink's text."""
        with self.at(path) as (fd, name):
            return os.readlink(name, dir_fd=fd)

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        """Return the extended attributes."""
        with self.at(path) as (fd, name):
            where = through(fd, name)
            names = map(os.fsencode, os.listxattr(where, follow_symlinks=False))
            return {key: os.getxattr(where, key, follow_symlinks=False) for key in names}

    # -- names --------------------------------------------------------------------------------------------------------

    def open(self, path: bytes, flags: int = os.O_RDONLY) -> int:
        """Open a file: the descriptor is the caller's. OSError ENXIO for a device, which would be the machine's own."""
        with self.at(path) as (fd, name):
            kind = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
            if stat.S_ISCHR(kind) or stat.S_ISBLK(kind):
                raise OSError(errno.ENXIO, os.strerror(errno.ENXIO), path)
            return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=fd)

    def create(self, path: bytes, mode: int = 0o666) -> int:
        """Make an empty file and open it, for reading and writing."""
        with self.at(path) as (fd, name):
            return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode, dir_fd=fd)

    def mkdir(self, path: bytes, mode: int = 0o777) -> None:
        """Make a directory."""
        with self.at(path) as (fd, name):
            os.mkdir(name, mode, dir_fd=fd)

    def mknod(self, path: bytes, mode: int, device: int = 0) -> None:
        """Make a device, pipe, socket or file."""
        with self.at(path) as (fd, name):
            os.mknod(name, mode, device, dir_fd=fd)

    def symlink(self, target: bytes, path: bytes) -> None:
        """Make a symlink with the text ``target``."""
        with self.at(path) as (fd, name):
            os.symlink(target, name, dir_fd=fd)

    def link(self, old: bytes, new: bytes) -> None:
        """Give an inode a further name."""
        self.stat(old)  # link(2) looks there first
        with self.at(old) as (fd, name), self.at(new) as (new_fd, new_name):
            os.link(name, new_name, src_dir_fd=fd, dst_dir_fd=new_fd, follow_symlinks=False)

    def unlink(self, path: bytes) -> None:
        """Remove what is no directory."""
        with self.at(path) as (fd, name):
            os.unlink(name, dir_fd=fd)

    def rmdir(self, path: bytes) -> None:
        """Remove an empty directory."""
        with self.at(path) as (fd, name):
            os.rmdir(name, dir_fd=fd)

    def rename(self, old: bytes, new: bytes) -> None:
        """Rename, in the place of a file or an empty directory."""
        with self.at(old) as (fd, name), self.at(new) as (new_fd, new_name):
            os.rename(name, new_name, src_dir_fd=fd, dst_dir_fd=new_fd)

    # -- inodes -------------------------------------------------------------------------------------------------------

    def truncate(self, path: bytes, size: int) -> None:
        """Set a file's size in bytes."""
        with self.at(path) as (fd, name):
            if stat.S_ISLNK(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                raise OSError(errno.EINVAL, "a symlink")
            os.truncate(through(fd, name), size)

    def chmod(self, path: bytes, mode: int) -> None:
        """Set the mode."""
        with self.at(path) as (fd, name):
            confine.chmod(fd, name, mode)

    def chown(self, path: bytes, uid: int, gid: int) -> None:
        """Set the owner, a symlink's own; -1 keeps it."""
        with self.at(path) as (fd, name):
            os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)

    def utimens(self, path: bytes, ns: tuple[int, int] | None = None) -> None:
        """Set access and modification time in nanoseconds, to now by default; a symlink's own."""
        with self.at(path) as (fd, name):
            if ns is None:
                os.utime(name, dir_fd=fd, follow_symlinks=False)
            else:
                os.utime(name, ns=ns, dir_fd=fd, follow_symlinks=False)

    def setxattr(self, path: bytes, key: bytes, value: bytes, flags: int = 0) -> None:
        """Set an extended attribute."""
        with self.at(path) as (fd, name):
            os.setxattr(through(fd, name), key, value, flags, follow_symlinks=False)

    def removexattr(self, path: bytes, key: bytes) -> None:
        """Remove an extended attribute."""
        with self.at(path) as (fd, name):
            os.removexattr(through(fd, name), key, follow_symlinks=False)


Calls = Directory | Union
