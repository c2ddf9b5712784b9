"""Trees and edits of trees as values: build one, change it, and say what it holds.

Every edit is a frozen value with ``apply(root)``; a :class:`Script` is a row of them. Paths lie below the root, without
a leading slash, as ``bytes`` or ``str``; times are integer nanoseconds; an owner is set only where it is given, so that
an unprivileged user can build all but devices. ``lamella.testing.listing`` reads a tree back.
"""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from lamella.testing.values import Value

__all__ = [
    "MTIME_NS", "Chmod", "Chown", "Device", "Dir", "Edit", "Fifo", "File", "Hardlink", "Name", "Remove", "Rename",
    "Script", "Socket", "Symlink", "Utime", "Write", "Xattr", "build",
]  # fmt: skip

Name = str | bytes
Root = str | os.PathLike[str]
MTIME_NS = 1_600_000_000_000_000_000


def place(root: Root, path: Name) -> bytes:
    """Return ``path`` below ``root``."""
    return os.path.join(os.fsencode(root), os.fsencode(path)) if path else os.fsencode(root)


@dataclass(frozen=True, repr=False)
class Edit(Value, ABC):
    """One step of a script; ``path`` is where it happens."""

    path: Name

    @abstractmethod
    def apply(self, root: Root) -> None:
        """Do it below ``root``; OSError as the kernel says."""


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
class Hardlink(Edit):
    """A further name of the inode at ``target``, a path below the root; a last symlink is linked, not followed."""

    target: Name

    def apply(self, root: Root) -> None:
        """Link it."""
        Remove(self.path).apply(root)
        os.link(place(root, self.target), place(root, self.path), follow_symlinks=False)


@dataclass(frozen=True, repr=False)
class Remove(Edit):
    """Take away what is at ``path``, a directory with all below it; nothing there is no error."""

    def apply(self, root: Root) -> None:
        """Remove it."""
        where = place(root, self.path)
        if os.path.isdir(where) and not os.path.islink(where):
            for name in os.listdir(where):
                Remove(os.path.join(os.fsencode(self.path), name)).apply(root)
            os.rmdir(where)
        else:
            with suppress(FileNotFoundError):
                os.unlink(where)


@dataclass(frozen=True, repr=False)
class Rename(Edit):
    """Move what is at ``path`` to ``to``, in the place of what was there."""

    to: Name

    def apply(self, root: Root) -> None:
        """Move it."""
        Remove(self.to).apply(root)
        os.rename(place(root, self.path), place(root, self.to))


@dataclass(frozen=True, repr=False)
class Change(Edit):
    """A change of an inode that stays where it is: no directory's names change."""


@dataclass(frozen=True, repr=False)
class Chmod(Change):
    """Set the mode (``0o7777``)."""

    mode: int

    def apply(self, root: Root) -> None:
        """Set it."""
        os.chmod(place(root, self.path), self.mode)


@dataclass(frozen=True, repr=False)
class Chown(Change):
    """Set the owner, -1 keeps it; a symlink's own."""

    uid: int
    gid: int = -1

    def apply(self, root: Root) -> None:
        """Set it."""
        os.chown(place(root, self.path), self.uid, self.gid, follow_symlinks=False)


@dataclass(frozen=True, repr=False)
class Xattr(Change):
    """Set an extended attribute, or remove it (``value`` None)."""

    name: Name
    value: bytes | None = None

    def apply(self, root: Root) -> None:
        """Set or remove it."""
        where = place(root, self.path)
        if self.value is None:
            os.removexattr(where, self.name, follow_symlinks=False)
        else:
            os.setxattr(where, self.name, self.value, follow_symlinks=False)


@dataclass(frozen=True, repr=False)
class Utime(Change):
    """Set the modification time (and the access time); a symlink's own."""

    mtime_ns: int

    def apply(self, root: Root) -> None:
        """Set it."""
        os.utime(place(root, self.path), ns=(self.mtime_ns, self.mtime_ns), follow_symlinks=False)


@dataclass(frozen=True, repr=False)
class Write(Change):
    """Write ``content`` into the file that is there: over all of it, or at ``offset``; the file keeps its inode.

    The time becomes ``mtime_ns``; None puts back the time before (an edit that metadata does not show).
    """

    content: bytes
    offset: int | None = None
    mtime_ns: int | None = MTIME_NS + 1_000_000_007

    def apply(self, root: Root) -> None:
        """Write it."""
        where = place(root, self.path)
        after = os.stat(where).st_mtime_ns if self.mtime_ns is None else self.mtime_ns
        with open(where, "wb" if self.offset is None else "r+b") as file:
            file.seek(self.offset or 0)
            file.write(self.content)
        os.utime(where, ns=(after, after))


def folders(edit: Edit) -> list[bytes]:
    """Return the directories whose list of names ``edit`` changes."""
    paths: list[Name] = [] if isinstance(edit, Change) else [edit.path]
    paths += [edit.to] if isinstance(edit, Rename) else []
    return [os.path.dirname(os.fsencode(path)) for path in paths]


@dataclass(frozen=True, repr=False)
class Script(Value):
    """Edits one after another; at the end every directory they touched gets a known time (architecture.md, L8).

    A directory's time is that of its last Dir or Utime, else ``dir_mtime_ns``.
    """

    edits: tuple[Edit, ...]
    dir_mtime_ns: int = MTIME_NS

    def apply(self, root: Root) -> None:
        """Run all of it below ``root``, which exists."""
        times: dict[bytes, int] = {}
        for edit in self.edits:
            edit.apply(root)
            for folder in folders(edit):
                times.setdefault(folder, self.dir_mtime_ns)
            if isinstance(edit, Dir | Utime):
                times[os.fsencode(edit.path)] = edit.mtime_ns
        for where, time in ((place(root, path), time) for path, time in times.items()):
            if os.path.isdir(where) and not os.path.islink(where):
                os.utime(where, ns=(time, time))


def build(root: Root, *edits: Edit, dir_mtime_ns: int = MTIME_NS) -> Path:
    """Make the directory ``root`` where it is absent, run ``edits`` in it as a Script, and return it."""
    os.makedirs(root, exist_ok=True)
    Script((Dir(b"", mode=0o755), *edits), dir_mtime_ns).apply(root)
    return Path(root)
