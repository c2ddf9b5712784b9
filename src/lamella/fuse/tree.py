"""What a server needs of a tree: the calls of layer/union.py, each with a path, and no more.

A tree of another kind is served by a class with these methods. Paths are a table's: bytes without a leading slash, the root is
empty; no symlink is followed. Everything raises OSError with the number that the caller of the system call gets.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lamella.layer.listing import Listing

__all__ = ["Changeable", "Content", "Owner", "Seen", "Tree"]

Owner = tuple[int, int]  # user and group
Content = tuple[int, bytes]  # a branch and the path there; branch 0 is the one that is changed


@dataclass(frozen=True, slots=True)
class Seen:
    """An inode as it is shown: its ``status``, and what is shown instead of the number and the count of links in it.

    ``shared``: what is written under one of its names is read under the others; its ``status`` tells that they are one.
    """

    status: os.stat_result
    number: int
    nlink: int
    shared: bool = False


class Tree(Protocol):
    """A tree that is looked at. Nobody changes it but through its own calls."""

    @property
    def flips(self) -> NDArray[np.uint64]:
        """For each branch the bits in which the numbers that its directories list differ from those that are shown."""

    @property
    def kept(self) -> Mapping[int, int]:
        """What is shown instead of a number so made."""

    def look(self, path: bytes) -> Seen | None:
        """Return the inode at ``path``, None for nothing in a directory that is there."""

    def look_in(self, path: bytes, names: Iterable[bytes]) -> dict[bytes, Seen]:
        """Return the inodes at ``names`` of directory ``path``; one that takes long may be left out."""

    def look_at(self, fd: int) -> Seen:
        """Return the inode of a handle that came from here."""

    def listing(self, path: bytes) -> Listing:
        """Return the names in a directory."""

    def readlink(self, path: bytes) -> bytes:
        """Return a symlink's text."""

    def content(self, path: bytes) -> Content:
        """Return where the content of a file is."""

    def open(self, path: bytes, flags: int = os.O_RDONLY) -> int:
        """Open a regular file and return a handle: of a tree that is changed, a descriptor."""

    def read(self, fd: int, nbytes: int, offset: int) -> bytes:
        """Return content of a handle."""

    def seek(self, fd: int, offset: int, whence: int) -> int:
        """Return where a handle has data, or a hole."""

    def flush(self, fd: int, *, data: bool) -> None:
        """Have a handle's content on disk; ``data``: nothing else of it."""

    def release(self, fd: int) -> None:
        """Close a handle."""

    def listxattr(self, path: bytes) -> list[bytes]:
        """Return the names of extended attributes."""

    def getxattr(self, path: bytes, key: bytes) -> bytes:
        """Return the value of an extended attribute."""

    def sync(self, path: bytes) -> None:
        """Have a directory on disk."""

    def room(self) -> os.statvfs_result:
        """Return the status of the file system."""

    def close(self) -> None:
        """Close it; nothing more is asked."""


class Changeable(Tree, Protocol):
    """A tree that is changed, too."""

    def create(self, path: bytes, mode: int, *, owner: Owner) -> int:
        """Make a file and return its descriptor."""

    def mkdir(self, path: bytes, mode: int, *, owner: Owner) -> None:
        """Make a directory."""

    def mknod(self, path: bytes, mode: int, device: int, *, owner: Owner) -> None:
        """Make what is neither a directory nor a symlink."""

    def symlink(self, target: bytes, path: bytes, *, owner: Owner) -> None:
        """Make a symlink."""

    def link(self, old: bytes, new: bytes) -> None:
        """Give an inode a further name."""

    def unlink(self, path: bytes) -> None:
        """Remove a name of what is no directory."""

    def rmdir(self, path: bytes) -> None:
        """Remove an empty directory."""

    def rename(self, old: bytes, new: bytes) -> None:
        """Move a name, in the place of what is there."""

    def exchange(self, old: bytes, new: bytes) -> None:
        """Let two names change places."""

    def truncate(self, path: bytes, size: int) -> None:
        """Set a file's size."""

    def chmod(self, path: bytes, mode: int) -> None:
        """Set the mode."""

    def chown(self, path: bytes, uid: int, gid: int) -> None:
        """Set the owner; -1 keeps it."""

    def utimens(self, path: bytes, ns: tuple[int, int] | None = None) -> None:
        """Set both times, to now by default."""

    def setxattr(self, path: bytes, key: bytes, value: bytes, flags: int = 0) -> None:
        """Set an extended attribute."""

    def removexattr(self, path: bytes, key: bytes) -> None:
        """Remove an extended attribute."""

    def escaped(self, key: bytes) -> bytes:
        """Return under which name the attribute that is shown as ``key`` is kept, for calls with a descriptor."""
