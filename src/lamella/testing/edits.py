"""Edits of a tree that is there, as values: each is one step of a script, and ``apply(root)`` does it by the system's calls.

What comes to be in a tree is in trees.py. Paths lie below the root, without a leading slash, as ``bytes`` or ``str``.
"""

from __future__ import annotations

import errno
import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from lamella.testing.values import Value

__all__ = [
    "LATER_NS", "MTIME_NS", "Append", "Change", "Chmod", "Chown", "Edit", "Hardlink", "Hole", "Move", "Name", "Remove",
    "Rename", "Truncate", "Utime", "Write", "Xattr", "folders", "place", "times_of",
]  # fmt: skip

Name = str | bytes
Root = str | os.PathLike[str]
MTIME_NS = 1_600_000_000_000_000_000
LATER_NS = MTIME_NS + 1_000_000_007


def place(root: Root, path: Name) -> bytes:
    """Return ``path`` below ``root``."""
    return os.path.join(os.fsencode(root), os.fsencode(path)) if path else os.fsencode(root)


@dataclass(frozen=True, repr=False)
class Edit(Value, ABC):
    """One step of a script; ``path`` is where it happens."""

    path: Name

    @property
    def directory_ns(self) -> int | None:
        """The time that a directory at ``path`` should have when the script is over; None: nothing is said of it."""
        return None

    @abstractmethod
    def apply(self, root: Root) -> None:
        """Do it below ``root``; OSError as the kernel says."""


# -- names ------------------------------------------------------------------------------------------------------------


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
class Move(Rename):
    """Rename as mv(1) does: where the kernel says EXDEV, by a copy, after which the original goes."""

    def apply(self, root: Root) -> None:
        """Move it."""
        try:
            super().apply(root)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            ends = [place(root, self.path), place(root, self.to)]
            subprocess.run(["cp", "-a", "-T", "--", *ends], check=True)  # noqa: S603, S607 - coreutils, nothing of a shell
            Remove(self.path).apply(root)


# -- inodes -----------------------------------------------------------------------------------------------------------


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

    @property
    def directory_ns(self) -> int:
        """Its own."""
        return self.mtime_ns

    def apply(self, root: Root) -> None:
        """Set it."""
        os.utime(place(root, self.path), ns=(self.mtime_ns, self.mtime_ns), follow_symlinks=False)


# -- content ----------------------------------------------------------------------------------------------------------


@contextmanager
def _timed(where: bytes, mtime_ns: int | None) -> Iterator[None]:
    """Set the time of the file afterwards, None for that from before."""
    after = os.stat(where).st_mtime_ns if mtime_ns is None else mtime_ns
    yield
    os.utime(where, ns=(after, after))


@dataclass(frozen=True, repr=False)
class Write(Change):
    """Write ``content`` into the file that is there: over all of it, or at ``offset``; the file keeps its inode.

    The time becomes ``mtime_ns``; None puts back the time before (an edit that metadata does not show).
    """

    content: bytes
    offset: int | None = None
    mtime_ns: int | None = LATER_NS

    def apply(self, root: Root) -> None:
        """Write it."""
        where = place(root, self.path)
        with _timed(where, self.mtime_ns), open(where, "wb" if self.offset is None else "r+b") as file:
            file.seek(self.offset or 0)
            file.write(self.content)


@dataclass(frozen=True, repr=False)
class Append(Change):
    """Write ``content`` at the end of the file that is there; the time as for Write."""

    content: bytes
    mtime_ns: int | None = field(default=LATER_NS, kw_only=True)

    def apply(self, root: Root) -> None:
        """Write it."""
        where = place(root, self.path)
        with _timed(where, self.mtime_ns), open(where, "ab") as file:
            file.write(self.content)


@dataclass(frozen=True, repr=False)
class Truncate(Change):
    """Let the file end after ``size`` bytes, zeros where there were none; the time as for Write."""

    size: int
    mtime_ns: int | None = field(default=LATER_NS, kw_only=True)

    def apply(self, root: Root) -> None:
        """Cut or extend it."""
        where = place(root, self.path)
        with _timed(where, self.mtime_ns):
            os.truncate(where, self.size)


@dataclass(frozen=True, repr=False)
class Hole(Change):
    """Cut the file at ``offset`` and let it end ``nbytes`` later: a hole lies between. The time as for Write."""

    offset: int
    nbytes: int
    mtime_ns: int | None = field(default=LATER_NS, kw_only=True)

    def apply(self, root: Root) -> None:
        """Cut and extend it."""
        where = place(root, self.path)
        with _timed(where, self.mtime_ns):
            for size in (self.offset, self.offset + self.nbytes):
                os.truncate(where, size)


# -- times of directories ---------------------------------------------------------------------------------------------


def folders(edit: Edit) -> list[bytes]:
    """Return the directories whose list of names ``edit`` changes."""
    paths: list[Name] = [] if isinstance(edit, Change) else [edit.path]
    paths += [edit.to] if isinstance(edit, Rename) else []
    return [os.path.dirname(os.fsencode(path)) for path in paths]


def times_of(edits: Sequence[Edit], default_ns: int, failed: Collection[int] = ()) -> dict[bytes, int]:
    """Return the time that each path which ``edits`` touched as a directory should have afterwards, in nanoseconds.

    It is that of its last Dir or Utime, else ``default_ns``, and goes with it when it is renamed. ``failed`` are the
    numbers of edits that were refused, which may have touched what they would have changed.
    """
    times: dict[bytes, int] = {}
    for number, edit in enumerate(edits):
        path = os.fsencode(edit.path)
        if isinstance(edit, Rename) and number not in failed:
            to = os.fsencode(edit.to)
            for old in [old for old in times if old == path or old.startswith(path + b"/")]:
                times[to + old[len(path) :]] = times.pop(old)
        for folder in folders(edit):
            times.setdefault(folder, default_ns)
        if edit.directory_ns is not None and number not in failed:
            times[path] = edit.directory_ns
    return times
