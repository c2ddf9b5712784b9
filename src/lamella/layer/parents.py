"""The lower directories of a branch, nearest first: what an apply looks up that its own root does not show."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from lamella.tree.root import Root, join, lstat, open_roots, split

__all__ = ["Found", "Parents"]

_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")


class Found:
    """An inode of a parent: its ``root``, ``path``, ``status`` and ``xattrs``."""

    def __init__(self, root: Root, path: bytes, status: os.stat_result) -> None:
        self.root, self.path, self.status = root, path, status

    def xattrs(self) -> dict[bytes, bytes]:
        """Return its xattrs but overlay's own. For a thread with a working directory of its own, which moves."""
        parent, name = split(self.path)
        with self.root.dir(parent) as fd:
            os.fchdir(fd)
            return {
                os.fsencode(key): os.getxattr(name or b".", key, follow_symlinks=False)
                for key in os.listxattr(name or b".", follow_symlinks=False)
                if not key.startswith(("trusted.overlay.", "user.overlay."))
            }

    def open(self, flags: int) -> int:
        """Open it (a file or directory)."""
        parent, name = split(self.path)
        with self.root.dir(parent) as fd:
            return os.open(name or b".", flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)

    def readlink(self) -> bytes:
        """Return a symlink's text."""
        parent, name = split(self.path)
        with self.root.dir(parent) as fd:
            return os.readlink(name, dir_fd=fd)


class Parents:
    """A merged look at ``directories``; whiteouts in overlay and AUFS spelling hide what is below them."""

    def __init__(self, directories: Sequence[str | os.PathLike[str]]) -> None:
        self.hides: Callable[[bytes], bool] = _nothing  # what the layer says of a path so far
        self.roots, self._stack = open_roots(directories)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()

    def lookup(self, path: bytes) -> Found | None:
        """Return what the nearest parent that knows ``path`` has there; None where it is hidden or nowhere."""
        if not path:
            return next((Found(r, b"", os.fstat(r.fd)) for r in self.roots), None)
        for root in self.roots:
            found, stop = _lookup_one(root, path)
            if found is not None or stop:
                return found
        return None

    def shown(self, path: bytes) -> Found | None:
        """Return what lookup() finds unless the layer hides it."""
        return None if self.hides(path) else self.lookup(path)

    def top_names(self) -> list[bytes]:
        """Return the names that the root of the merged view shows."""
        names = {os.fsencode(name) for root in self.roots for name in os.listdir(root.fd)}
        return sorted(name for name in names if self.lookup(name) is not None)

    def peek(self, path: bytes) -> tuple[int, bytes] | None:
        """Return the mode of what shown() finds and, of a symlink, its text."""
        found = self.shown(path)
        if found is None:
            return None
        return found.status.st_mode, found.readlink() if stat.S_ISLNK(found.status.st_mode) else b""


def _nothing(path: bytes) -> bool:  # noqa: ARG001 - a layer that hides nothing
    return False


def _lookup_one(root: Root, path: bytes) -> tuple[Found | None, bool]:
    """One parent's word on ``path``, and whether it is the last one."""
    fd = os.dup(root.fd)
    at, opaque = b"", False
    try:
        parts = path.split(b"/")
        for n, part in enumerate(parts):
            at = join(at, part)
            if len(part) < 252 and lstat(fd, b".wh." + part) is not None:  # of a longer name there can be none
                return None, True
            status = lstat(fd, part)
            opaque = opaque or _is_opaque(fd)
            if status is None:
                return None, opaque
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                return None, True
            if n + 1 == len(parts):
                return Found(root, at, status), True
            if not stat.S_ISDIR(status.st_mode):
                return None, True
            child = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            os.close(fd)
            fd = child
    finally:
        os.close(fd)
    return None, opaque


def _is_opaque(fd: int) -> bool:
    if lstat(fd, b".wh..wh..opq") is not None:
        return True
    for name in _OPAQUE:
        try:
            if os.getxattr(fd, name) == b"y":
                return True
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.ENOTSUP, errno.EPERM):
                raise
    return False
