"""Whiteouts in a tar, and what they do to a plain root (OCI image-spec, layer.md "Whiteouts").

They are spelled ``.wh.NAME`` and ``.wh..wh..opq`` there. A plain root just loses the name; what a branch of a union
does instead is in layer/branch.py.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass

from lamella.columns import F_IMPLIED
from lamella.errors import WhiteoutError
from lamella.layer.placement import Placement
from lamella.tree.root import Below, ancestors, join, lstat, split

__all__ = ["BASE", "OPAQUE", "ORPHANS", "PLINKS", "PREFIX", "Dialect", "hidden_name", "is_metadata"]

PREFIX = b".wh."
OPAQUE = b".wh..wh..opq"
# AUFS's own at the root of a branch that is written: the inode of whiteouts, pseudo-links, what is not there any more or yet
BASE, PLINKS, ORPHANS = b".wh..wh.aufs", b".wh..wh.plnk", b".wh..wh.orph"


def hidden_name(path: bytes) -> bytes:
    """Return the name that the whiteout ``path`` hides. WhiteoutError for one that hides nothing that can be (6, 7)."""
    name = split(path)[1][len(PREFIX) :]
    if name in (b"", b".", b".."):
        raise WhiteoutError("whiteout of nothing", entry=path)
    return name


def is_metadata(path: bytes) -> bool:
    """Tell whether ``path`` is AUFS's own: ``.wh..wh.*`` but the opaque marker, or something below such a name (17)."""
    return any(part.startswith(b".wh..wh.") and part != OPAQUE for part in path.split(b"/"))


@dataclass
class Dialect:
    """The plain dialect: what a whiteout names is removed, except what this layer made itself (2-5)."""

    placement: Placement
    keep_same_layer: bool = True
    whiteouts: int = 0
    opaques: int = 0

    def __post_init__(self) -> None:
        self.deferred: list[tuple[bytes, bytes | None]] = []
        self._touches: list[int] = []  # lower times of directories, in the order of their first touch
        self._mtimes: dict[bytes, int] = {}  # directory -> its last item of those
        self._gone: dict[bytes, int] = {}  # what was removed -> how many touches there were by then
        self._emptied: dict[bytes, int] = {}  # the same of directories that stayed

    def whiteout(self, parent: bytes, name: bytes | None) -> None:
        """Hide ``name`` in directory ``parent``, or with None everything that is there."""
        if name is None:
            self.opaques += 1
        else:
            self.whiteouts += 1
        try:
            fd = self.placement.root.open_dir(parent)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                self.deferred.append((parent, name))  # through a symlink: which one, only the whole layer tells (103)
            elif error.errno != errno.ENOENT:
                raise
            return
        self._hide(fd, parent, name)

    def finish(self) -> None:
        """Do what had to wait for the end of the layer."""
        for parent, name in self.deferred:
            real = self._real(parent)
            if real is not None:
                self._hide(self.placement.root.open_dir(real), real, name)

    def _real(self, parent: bytes, below: Below | None = None) -> bytes | None:
        """Resolve a marker's directory. Below what this layer itself made a non-directory there is nothing lower (103)."""
        return self.placement.root.real_path(parent, below, self.placement.made)

    def _hide(self, fd: int, parent: bytes, name: bytes | None) -> None:
        placement = self.placement
        placement.reset()
        keep = self._keep if self.keep_same_layer or name is None else None  # every engine keeps them below a marker (3)
        if name is None:
            before = os.fstat(fd).st_mtime_ns
            placement.root.empty(fd, parent, keep)
            self.forget(parent, itself=False)
            self._touched(parent, before)
            return
        try:
            before, path = os.fstat(fd).st_mtime_ns, join(parent, name)
            if lstat(fd, name) is None:
                return
            placement.root.remove(fd, name, path, keep)
            self.forget(path)
        finally:
            os.close(fd)
        self._touched(parent, before)

    def forget(self, path: bytes, *, itself: bool = True) -> None:
        """Note that what was below ``path`` is gone, and it ``itself``: a directory made there later is another one."""
        (self._gone if itself else self._emptied)[path] = len(self._touches)

    def _touched(self, parent: bytes, mtime_ns: int) -> None:
        if self.placement.find(parent) < 0 and self._time(parent) is None:
            self._mtimes[parent] = len(self._touches)
            self._touches.append(mtime_ns)

    def _time(self, path: bytes) -> int | None:
        """Return the lower time of a directory that was touched and is still the same one."""
        at = self._mtimes.get(path, -1)
        above = [b"", *ancestors(path)]
        gone = max((self._gone.get(p, 0) for p in above), default=0)
        emptied = max((self._emptied.get(p, 0) for p in above if p != path), default=0)
        return self._touches[at] if at >= max(gone, emptied) else None

    def times(self) -> Iterator[tuple[bytes, int]]:
        """Give the directories that were only passed, or lost a child, and their lower times (54)."""
        for path in self._mtimes:
            time = self._time(path)
            if time is not None:
                yield path, time

    def _keep(self, path: bytes) -> bool:
        row = self.placement.find(path)
        if row >= 0 and self.placement.column("flags")[row] & F_IMPLIED:
            self.placement.renew(row)
        return row >= 0
