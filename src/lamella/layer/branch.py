"""Whiteouts in a branch of a union: dialects OVERLAY and AUFS.

A branch shows nothing of what is lower, so what a layer hides has to be written down in it: an overlay upper directory
gets a 0:0 character device or an opaque xattr (kernel overlayfs.rst), an AUFS branch keeps the names of the tar.
"""

from __future__ import annotations

import errno
import os
import stat
from abc import ABC, abstractmethod
from dataclasses import dataclass

from lamella.columns import F_HOST, F_IMPLIED
from lamella.layer.implied import ensure_dir
from lamella.layer.parents import Parents
from lamella.layer.whiteout import OPAQUE, PREFIX, Dialect
from lamella.tree.root import ancestors, join, lstat, split

__all__ = ["AufsDialect", "OverlayDialect"]

Marker = tuple[bytes, bytes | None]  # directory, name in it or None for all of them


@dataclass
class _Branch(Dialect, ABC):
    """Whiteouts are written at the end, when all the layer's names are known."""

    parents: Parents | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._marked: set[Marker] = set()
        if self.parents is not None:
            self.parents.hides = self._hides

    def whiteout(self, parent: bytes, name: bytes | None) -> None:
        self._marked.add((parent, name))

    def _hides(self, path: bytes) -> bool:
        """Tell whether the layer so far hides what is lower at ``path``."""
        above = ancestors(path)
        if any((split(p)[0], name) in self._marked for p in above for name in (split(p)[1], None)):
            return True
        return not self.placement.nondirs().isdisjoint(above[:-1])  # gone when the layer made something else of it (12)

    def finish(self) -> None:
        names: list[bytes] = []
        opaque: set[bytes] = set()  # directories that stay and show nothing lower
        tops: set[bytes] = set()  # of them, those that are hidden themselves
        for parent, name in self._spelled():
            where = self._real(parent, None if self.parents is None else self.parents.peek)
            if where is None:
                continue  # 10, 11, 103
            if name is None:
                if self._in_branch(where) or self._is_lower(where, directory=True):
                    opaque.add(where)
                continue
            path = join(where, name)
            if self._clear(where, name):
                self.whiteouts += 1
                tops.add(path)  # 12: made anew
            else:
                names.append(path)
        self.opaques += len(opaque)
        self.placement.renew_implied(tops, opaque)
        remade = {p for p in self.placement.nondirs() if self._in_branch(p) and self._is_lower(p)}
        self._write_all(names, opaque | tops | remade)

    def _write_all(self, names: list[bytes], opaque: set[bytes]) -> None:
        """Mark the directories ``opaque``, write the whiteouts ``names``; neither below what is hidden already."""
        hidden = set(opaque)
        for path in sorted(opaque):
            if self._in_branch(path) or hidden.isdisjoint({b"", *ancestors(path)} - {path}):
                self._mark_opaque(path)
        for path in sorted(names):
            where, name = split(path)
            if not hidden.isdisjoint({b"", *ancestors(where)}):
                continue  # 11; 14: redundant inside an opaque directory
            made = self._status(path)
            if made is not None:
                self.whiteouts += 1  # a non-directory of the layer hides it
            elif self._is_lower(path):
                self.whiteouts += 1
                hidden.add(path)
                self._write(where, name)

    def _clear(self, where: bytes, name: bytes) -> bool:
        """Remove what the layer did not make at ``name``: a file it copied up, say; True if a directory is left."""
        path = join(where, name)
        found = self._status(path)
        if found is None:
            return False
        self.placement.reset()
        with self.placement.root.dir(where) as fd:
            gone = self.placement.root.remove(fd, name, path, self._keep)
        if gone and stat.S_ISDIR(found.st_mode):
            self.placement.forget(path)
        return not gone and stat.S_ISDIR(found.st_mode)

    def _keep(self, path: bytes) -> bool:
        row = self.placement.find(path)
        return row >= 0 and not self.placement.column("flags")[row] & (F_IMPLIED | F_HOST)

    def _spelled(self) -> list[Marker]:
        """Return the markers as this branch can say them, parents before children."""
        return sorted(self._marked, key=lambda marker: (marker[0], marker[1] or b""))

    def _status(self, path: bytes) -> os.stat_result | None:
        """Return what the branch itself has at ``path``."""
        parent, name = split(path)
        try:
            with self.placement.root.dir(parent) as fd:
                return lstat(fd, name or b".")
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            return None

    def _in_branch(self, path: bytes) -> bool:
        found = self._status(path)
        return found is not None and stat.S_ISDIR(found.st_mode)

    def _is_lower(self, path: bytes, *, directory: bool = False) -> bool:
        """Tell whether something is lower at ``path``, or may be: a branch need not know its parents."""
        if self.parents is None:
            return True
        found = self.parents.lookup(path)
        return found is not None and (not directory or stat.S_ISDIR(found.status.st_mode))

    def _dir(self, path: bytes) -> int:
        return ensure_dir(self.placement, path, self.parents)

    @abstractmethod
    def _write(self, parent: bytes, name: bytes) -> None:
        """Write the whiteout of ``name`` in ``parent``."""

    @abstractmethod
    def _mark_opaque(self, path: bytes) -> None:
        """Make directory ``path`` opaque."""


@dataclass
class OverlayDialect(_Branch):
    """An overlay upper directory; ``namespace`` is ``trusted`` or ``user`` (kernel overlayfs.rst)."""

    namespace: str = "trusted"

    def _spelled(self) -> list[Marker]:
        # overlayfs merges the roots of its layers whatever xattr they have: an opaque root is a whiteout a name (16)
        if (b"", None) in self._marked and self.parents is not None:
            self._mark_opaque(b"")  # for those who read the upper directory
            self._marked.remove((b"", None))
            self._marked.update((b"", name) for name in self.parents.top_names())
        return super()._spelled()

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
class AufsDialect(_Branch):
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
