"""The tree of a union of branches: layer/union.py, with inode numbers that stay when a file is copied up."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence

import numpy as np

from lamella.fuse.tree import Content, Seen
from lamella.layer.finding import Node
from lamella.layer.own import BranchDialect
from lamella.layer.union import Union

__all__ = ["UnionTree"]

_BRANCH_SHIFT = 56
_NOT_FOR_US = os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_DIRECT | os.O_NOCTTY | os.O_NONBLOCK


class UnionTree(Union):
    """As :class:`~lamella.layer.union.Union`. Branches are told apart in the numbers where they are on several devices.

    A file that is copied up keeps its number as long as the tree is open, unless it has further names that stay lower.
    """

    def __init__(
        self, branches: Sequence[str], *, dialect: BranchDialect = "overlay", writable: bool = True,
        redirect_dir: bool = False, work: str | None = None,
    ) -> None:  # fmt: skip
        self.kept: dict[int, int] = {}  # by what _plain_number() says
        self._devices: dict[int, int] = {}
        super().__init__(branches, dialect=dialect, writable=writable, redirect_dir=redirect_dir, work=work)
        self.kept.clear()  # what opening finished had no numbers
        devices = [os.fstat(root.fd).st_dev for root in self.branches.roots]
        self._devices = {device: index for index, device in enumerate(dict.fromkeys(devices))}
        self.flips = np.array([self._plain_number(device, 0) for device in devices], np.uint64)

    def look(self, path: bytes) -> Seen | None:
        """Return the inode at ``path``; a directory of several branches has one link, since nobody counts them."""
        node = self.find_inode(path)
        return None if node is None else self._seen(node)

    def look_in(self, path: bytes, names: Iterable[bytes]) -> dict[bytes, Seen]:
        """Return the inodes at ``names`` of a directory."""
        return {name: self._seen(node) for name, node in self.find_inodes(path, names).items()}

    def _seen(self, node: Node) -> Seen:
        status = node.status
        nlink = 1 if len(node.stack) > 1 else status.st_nlink
        shared = (node.branch == 0 or self.joins_names) and status.st_nlink > 1 and not node.is_dir
        return Seen(status, self._number(status.st_dev, status.st_ino), nlink, shared)

    def look_at(self, fd: int) -> Seen:
        """Return the inode of a descriptor."""
        status = os.fstat(fd)
        return Seen(status, self._number(status.st_dev, status.st_ino), status.st_nlink)

    def content(self, path: bytes) -> Content:
        """Return where the content of a file is; OSError as regular()."""
        content = self.regular(path).content
        return content if content is not None else (len(self.branches), path)

    def open(self, path: bytes, flags: int = os.O_RDONLY, mode: int = 0o666) -> int:
        """Open a regular file, without what the kernel has done before it asks."""
        return super().open(path, flags & ~_NOT_FOR_US, mode)

    read = staticmethod(os.pread)
    seek = staticmethod(os.lseek)
    release = staticmethod(os.close)

    def flush(self, fd: int, *, data: bool) -> None:
        """Have a file on disk."""
        (os.fdatasync if data else os.fsync)(fd)

    def sync(self, path: bytes) -> None:
        """Have directory ``path`` of the nearest branch that has it on disk."""
        node = self.node(path)
        with self.branches.roots[node.branch].dir(node.place) as fd:
            os.fsync(fd)

    def room(self) -> os.statvfs_result:
        """Return the status of the nearest branch's file system."""
        return os.fstatvfs(self.branches.roots[0].fd)

    # -- numbers --------------------------------------------------------------------------------------------------

    def copied_up(self, node: Node) -> None:
        """Keep the number of what was copied up."""
        super().copied_up(node)
        there = self._inode(node.path).status
        status = node.status
        if stat.S_ISDIR(status.st_mode) or status.st_nlink == 1 or self.joins_names:
            self.kept[self._plain_number(there.st_dev, there.st_ino)] = self._number(status.st_dev, status.st_ino)
        else:
            self.kept.pop(self._plain_number(there.st_dev, there.st_ino), None)

    def added(self, path: bytes) -> None:
        """Know that the inode at ``path`` is new: its number may have been another's."""
        super().added(path)
        node = self.find_inode(path) if self.kept else None
        if node is not None and (node.is_dir or node.status.st_nlink == 1):  # not a further name
            self.kept.pop(self._plain_number(node.status.st_dev, node.status.st_ino), None)

    def _number(self, device: int, ino: int) -> int:
        number = self._plain_number(device, ino)
        return self.kept.get(number, number)

    def _plain_number(self, device: int, ino: int) -> int:
        index = self._devices.setdefault(device, len(self._devices))
        return (ino ^ index << _BRANCH_SHIFT) & 0xFFFFFFFFFFFFFFFF
