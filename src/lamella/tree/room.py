"""The room that a directory takes."""

from __future__ import annotations

import errno
import os

from lamella.model import Usage
from lamella.tree.scan import directory

__all__ = ["room_of"]

_BLOCK = 512  # st_blocks, whatever the file system's blocks are
_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Inode = tuple[int, int]


def room_of(path: str | os.PathLike[str]) -> Usage:
    """Return what the directory ``path`` and all below it take: allocated bytes, and inodes, each once.

    Bytes that a file shares with another (reflinks) are counted in both. A directory of any depth with two descriptors at
    a time. OSError, ESTALE for a directory that is moved meanwhile.
    """
    room = _Room()
    with directory(path) as top:
        fd = os.dup(top)
        try:
            levels = [room.add(fd)]
            while levels:
                todo = levels[-1][1]
                if todo:
                    deeper = os.open(todo.pop(), _DIR, dir_fd=fd)
                    os.close(fd)
                    fd = deeper
                    levels.append(room.add(fd))
                    continue
                levels.pop()
                if levels:
                    above = os.open("..", _DIR, dir_fd=fd)
                    os.close(fd)
                    fd = above
                    _check(fd, levels[-1][0])
        finally:
            os.close(fd)
    return Usage(room.nbytes, room.n_inodes)


def _check(fd: int, inode: Inode) -> None:
    status = os.fstat(fd)
    if (status.st_dev, status.st_ino) != inode:
        raise OSError(errno.ESTALE, "a directory was moved while it was looked at")


class _Room:
    """What was counted so far."""

    def __init__(self) -> None:
        self.nbytes = self.n_inodes = 0
        self._linked: set[Inode] = set()

    def add(self, fd: int) -> tuple[Inode, list[str]]:
        """Count a directory and all in it but directories, whose names are returned."""
        status, dirs = os.fstat(fd), []
        self._count(status)
        with os.scandir(fd) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    dirs.append(entry.name)
                else:
                    found = entry.stat(follow_symlinks=False)
                    inode = (found.st_dev, found.st_ino)
                    if inode not in self._linked:
                        self._count(found)
                    if found.st_nlink > 1:
                        self._linked.add(inode)
        return (status.st_dev, status.st_ino), dirs

    def _count(self, status: os.stat_result) -> None:
        self.nbytes += _BLOCK * status.st_blocks
        self.n_inodes += 1
