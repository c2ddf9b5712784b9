"""The spellings of "this is gone" and what they do to a root: dialects PLAIN, OVERLAY, AUFS.

In a tar they are all ``.wh.NAME`` and ``.wh..wh..opq`` (OCI image-spec, layer.md "Whiteouts"). On disk a plain root
just loses the name; an overlay upper directory gets a 0:0 character device and an opaque xattr (kernel
overlayfs.rst); an AUFS branch keeps the names.
"""

from __future__ import annotations

import errno
import os
import stat
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lamella.columns import F_IMPLIED
from lamella.errors import WhiteoutError
from lamella.layer.implied import ensure_dir
from lamella.layer.placement import Placement
from lamella.tree.root import lstat, split

if TYPE_CHECKING:
    from lamella.layer.parents import Parents

__all__ = ["OPAQUE", "PREFIX", "Dialect", "hidden_name", "is_metadata"]

PREFIX = b".wh."
OPAQUE = b".wh..wh..opq"


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
        self.mtimes: dict[bytes, int] = {}  # of directories that were only passed, or lost a child (54)

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
        root, made = self.placement.root, self.placement.find
        for parent, name in self.deferred:
            if any(made(p) >= 0 and self.placement.column("type")[made(p)] != ord("5") for p in _ancestors(parent)):
                continue  # this layer made a non-directory of it: nothing lower is below (103)
            real = root.real_path(parent)
            if real is not None:
                self._hide(root.open_dir(real), real, name)

    def hides(self, path: bytes) -> bool:  # noqa: ARG002 - a dialect's to say
        """Tell whether a marker so far hides what lower directories have at ``path``; a plain root shows it itself."""
        return False

    def _hide(self, fd: int, parent: bytes, name: bytes | None) -> None:
        placement = self.placement
        placement.reset()
        keep = self._keep if self.keep_same_layer else None
        if name is None:
            before = os.fstat(fd).st_mtime_ns
            placement.root.empty(fd, parent, keep)
            self._touched(parent, before)
            return
        try:
            before, path = os.fstat(fd).st_mtime_ns, parent + b"/" + name if parent else name
            if lstat(fd, name) is None:
                return
            placement.root.remove(fd, name, path, keep)
        finally:
            os.close(fd)
        self._touched(parent, before)

    def _touched(self, parent: bytes, mtime_ns: int) -> None:
        if self.placement.find(parent) < 0:
            self.mtimes.setdefault(parent, mtime_ns)

    def _keep(self, path: bytes) -> bool:
        row = self.placement.find(path)
        if row >= 0 and self.placement.column("flags")[row] & F_IMPLIED:
            self.placement.renew(row)
        return row >= 0


@dataclass
class _Deferring(Dialect, ABC):
    """A branch that shows nothing of the lower layers: whiteouts are written when all the layer's names are known."""

    parents: Parents | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._marked: set[tuple[bytes, bytes | None]] = set()

    def whiteout(self, parent: bytes, name: bytes | None) -> None:
        self._marked.add((parent, name))

    def hides(self, path: bytes) -> bool:
        places = [split(p) for p in _ancestors(path)]
        return any((parent, name) in self._marked or (parent, None) in self._marked for parent, name in places)

    def finish(self) -> None:
        self.deferred = self._spelled(sorted(self._marked, key=lambda item: (item[0], item[1] or b"")))
        tops: set[bytes] = set()
        below: set[bytes] = set()
        opaque = {self._real(parent) for parent, name in self.deferred if name is None}
        hidden: set[bytes] = set()
        for parent, name in self.deferred:
            where = self._real(parent)
            above = {b"", *_ancestors(where)}
            if self._made_nondir(where) or above & hidden or (above & opaque if name is not None else False):
                continue  # 103; 11; 14: redundant inside an opaque directory
            if name is None:
                if self.placement.made(where) or self.parents is None or self._is_lower_dir(where):
                    self.opaques += 1
                    below.add(where)
                    self._mark_opaque(where)
                continue
            path = where + b"/" + name if where else name
            row = self.placement.find(path)
            if row >= 0:
                if self.placement.column("type")[row] == ord("5"):
                    tops.add(path)
                    self._mark_opaque(path)  # 12: made anew, shows no lower content
                self.whiteouts += 1
            elif self.parents is None or self.parents.lookup(path) is not None:
                self.whiteouts += 1
                hidden.add(path)
                self._write(where, name)
        self.placement.renew_implied(tops, below)
        for path in self.placement.remade():
            if self.parents is None or self.parents.lookup(path) is not None:
                self._mark_opaque(path)  # 12: what was lower went when the layer made something else of it

    def _spelled(self, markers: list[tuple[bytes, bytes | None]]) -> list[tuple[bytes, bytes | None]]:
        """Return the markers as this branch can say them."""
        return markers

    def _real(self, parent: bytes) -> bytes:
        if self.parents is None or self._made_nondir(parent):
            return parent
        return self.placement.root.real_path(parent, self.parents.peek) or parent

    def _made_nondir(self, path: bytes) -> bool:
        rows = [self.placement.find(p) for p in _ancestors(path)]
        return any(row >= 0 and self.placement.column("type")[row] != ord("5") for row in rows)

    def _is_lower_dir(self, path: bytes) -> bool:
        found = None if self.parents is None else self.parents.lookup(path)
        return found is not None and stat.S_ISDIR(found.status.st_mode)

    def _dir(self, path: bytes) -> int:
        return ensure_dir(self.placement, path, self.parents)

    @abstractmethod
    def _write(self, parent: bytes, name: bytes) -> None:
        """Write the whiteout of ``name`` in ``parent``."""

    @abstractmethod
    def _mark_opaque(self, path: bytes) -> None:
        """Make directory ``path`` opaque."""


@dataclass
class OverlayDialect(_Deferring):
    """An overlay upper directory; ``namespace`` is ``trusted`` or ``user`` (kernel overlayfs.rst)."""

    namespace: str = "trusted"

    def _spelled(self, markers: list[tuple[bytes, bytes | None]]) -> list[tuple[bytes, bytes | None]]:
        # overlayfs merges the roots of its layers whatever xattr they have: an opaque root is a whiteout a name (16)
        if (b"", None) not in markers or self.parents is None:
            return markers
        named = {m for m in markers if m != (b"", None)} | {(b"", name) for name in self.parents.top_names()}
        self._mark_opaque(b"")  # for those who read the upper directory
        return sorted(named, key=lambda item: (item[0], item[1] or b""))

    def _write(self, parent: bytes, name: bytes) -> None:
        fd = self._dir(parent)
        try:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=fd)
            os.utime(name, ns=(0, 0), dir_fd=fd, follow_symlinks=False)
        finally:
            os.close(fd)

    def _mark_opaque(self, path: bytes) -> None:
        fd = self._dir(path)
        try:
            os.setxattr(fd, f"{self.namespace}.overlay.opaque", b"y")
        finally:
            os.close(fd)


@dataclass
class AufsDialect(_Deferring):
    """An AUFS branch: the names stay (aufs design notes)."""

    def _write(self, parent: bytes, name: bytes) -> None:
        self._marker(parent, PREFIX + name)

    def _mark_opaque(self, path: bytes) -> None:
        self._marker(path, OPAQUE)

    def _marker(self, parent: bytes, name: bytes) -> None:
        fd = self._dir(parent)
        try:
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o444, dir_fd=fd))
            os.utime(name, ns=(0, 0), dir_fd=fd, follow_symlinks=False)
        finally:
            os.close(fd)


def _ancestors(path: bytes) -> list[bytes]:
    parts = path.split(b"/")
    return [b"/".join(parts[: n + 1]) for n in range(len(parts))]
