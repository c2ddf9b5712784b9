"""Trees and edits of trees as values: build one, change it, and say what it holds.

Every edit is a frozen value with ``apply(root)``; a :class:`Script` is a row of them. Paths lie below the root, without
a leading slash, as ``bytes`` or ``str``; times are integer nanoseconds; an owner is set only where it is given, so that
an unprivileged user can build all but devices. ``lamella.testing.listing`` reads a tree back, ``lamella.testing.editors``
plays a script through the calls of a file system.
"""

from __future__ import annotations

import os
import stat
from abc import abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from lamella.testing.edits import (
    MTIME_NS,
    Append,
    Chmod,
    Chown,
    Edit,
    Hardlink,
    Hole,
    Move,
    Name,
    Remove,
    Rename,
    Root,
    Truncate,
    Utime,
    Write,
    Xattr,
    folders,
    place,
    times_of,
)
from lamella.testing.values import Value

__all__ = [
    "MTIME_NS", "Append", "Chmod", "Chown", "Device", "Dir", "Edit", "Fifo", "File", "Hardlink", "Hole", "Move", "Name",
    "Node", "Remove", "Rename", "Script", "Socket", "Symlink", "Truncate", "Utime", "Write", "Xattr", "build", "folders",
    "place",
]  # fmt: skip


@dataclass(frozen=True, repr=False)
class Node(Edit):
    """Something that comes to be at ``path``, in the place of what was there; ``mode`` None keeps the system's."""

    mode: int | None = field(default=None, kw_only=True)
    uid: int | None = field(default=None, kw_only=True)
    gid: int | None = field(default=None, kw_only=True)
    mtime_ns: int = field(default=MTIME_NS, kw_only=True)
    xattrs: Mapping[Name, bytes] = field(default_factory=dict, kw_only=True, hash=False)
    default_mode: ClassVar[int] = 0o644

    @abstractmethod
    def _make(self, where: bytes) -> None: ...

    def apply(self, root: Root) -> None:
        """Replace what is at the path, then set owner, mode, attributes and time, in this order."""
        where = place(root, self.path)
        Remove(self.path).apply(root)
        self._make(where)
        self._dress(where)

    def _dress(self, where: bytes) -> None:
        if self.uid is not None or self.gid is not None:
            uid = -1 if self.uid is None else self.uid
            os.chown(where, uid, -1 if self.gid is None else self.gid, follow_symlinks=False)
        if not os.path.islink(where):
            os.chmod(where, self.default_mode if self.mode is None else self.mode)
        for name, value in self.xattrs.items():
            os.setxattr(where, name, value, follow_symlinks=False)
        os.utime(where, ns=(self.mtime_ns, self.mtime_ns), follow_symlinks=False)


@dataclass(frozen=True, repr=False)
class File(Node):
    """A regular file of ``content``."""

    content: bytes = b""

    def _make(self, where: bytes) -> None:
        with open(where, "xb") as file:
            file.write(self.content)


@dataclass(frozen=True, repr=False)
class Dir(Node):
    """A directory; one that is there keeps its children and takes the metadata (what it does not name, it clears)."""

    default_mode: ClassVar[int] = 0o755

    @property
    def directory_ns(self) -> int:
        """Its own."""
        return self.mtime_ns

    def apply(self, root: Root) -> None:
        """Make the directory, or give the one that is there other metadata."""
        where = place(root, self.path)
        if os.path.isdir(where) and not os.path.islink(where):
            for name in os.listxattr(where):
                os.removexattr(where, name)
            self._dress(where)
        else:
            super().apply(root)

    def _make(self, where: bytes) -> None:
        os.mkdir(where)


@dataclass(frozen=True, repr=False)
class Symlink(Node):
    """A symbolic link with the text ``target``."""

    target: Name = b"target"

    def _make(self, where: bytes) -> None:
        os.symlink(os.fsencode(self.target), where)


@dataclass(frozen=True, repr=False)
class Fifo(Node):
    """A named pipe."""

    def _make(self, where: bytes) -> None:
        os.mkfifo(where)


@dataclass(frozen=True, repr=False)
class Socket(Node):
    """A socket that nobody listens at."""

    def _make(self, where: bytes) -> None:
        os.mknod(where, stat.S_IFSOCK | 0o600)


@dataclass(frozen=True, repr=False)
class Device(Node):
    """A device, ``kind`` ``"char"`` or ``"block"``; needs privilege."""

    major: int = 1
    minor: int = 3
    kind: str = "char"

    def _make(self, where: bytes) -> None:
        kind = stat.S_IFCHR if self.kind == "char" else stat.S_IFBLK
        os.mknod(where, kind | 0o600, os.makedev(self.major, self.minor))


@dataclass(frozen=True, repr=False)
class Script(Value):
    """Edits one after another; at the end every directory they touched gets a known time (architecture.md, L8).

    A directory's time is that of its last Dir or Utime, else ``dir_mtime_ns``; it goes with it when it is renamed.
    """

    edits: tuple[Edit, ...]
    dir_mtime_ns: int = MTIME_NS

    def apply(self, root: Root) -> None:
        """Run all of it below ``root``, which exists."""
        for edit in self.edits:
            edit.apply(root)
        self.settle(root)

    def settle(self, root: Root, failed: Collection[int] = ()) -> None:
        """Set the times of directories; ``failed`` are the numbers of edits that were refused."""
        for path, ns in times_of(self.edits, self.dir_mtime_ns, failed).items():
            where = place(root, path)
            if os.path.isdir(where) and not os.path.islink(where):
                os.utime(where, ns=(ns, ns))


def build(root: Root, *edits: Edit, dir_mtime_ns: int = MTIME_NS) -> Path:
    """Make the directory ``root`` where it is absent, run ``edits`` in it as a Script, and return it."""
    os.makedirs(root, exist_ok=True)
    Script((Dir(b"", mode=0o755), *edits), dir_mtime_ns).apply(root)
    return Path(root)
