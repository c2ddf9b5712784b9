"""Many paths at a time looked up in a stack of branches: what their merged view shows, and which branch it comes from.

The rules are overlayfs's own (kernel document overlayfs.rst; AUFS has its names for whiteouts and no redirects): a
non-directory or a whiteout ends the search, directories merge until one is opaque, a redirect makes the search go on
under another name, from the root of what is lower or beside it, and the content of a metacopy file is that of the next
file below. The cost is that of the paths, times the branches until they are found; no directory is listed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lamella._kernels import lookup as kernel
from lamella._kernels import walk
from lamella.columns import AT
from lamella.layer.own import BranchDialect, read_own
from lamella.layer.pathtable import path_table
from lamella.layer.search import Place, Search, Shown, below, rename
from lamella.layer.whiteout import PREFIX
from lamella.stream.worker import on_own_thread
from lamella.table import EntryTable
from lamella.tree.root import join, open_roots, split
from lamella.tree.scan import Scan, Xattrs, scan_fd

__all__ = ["Branches", "Plain", "Shown"]

_XATTR_AT, _XATTR_CWD, _KEEP_SELINUX, _DROP_KEPT = 1, 2, 4, 8
_CHAR = ord("3")
_DIALECTS = ("overlay", "overlay:trusted", "overlay:user", "aufs")


class Branches:
    """Directories that show as one, nearest first; a context manager. OSError for one that cannot be opened."""

    def __init__(
        self, directories: Sequence[str | os.PathLike[str]], dialect: BranchDialect = "overlay", xattrs: Xattrs = "all"
    ) -> None:
        if dialect not in _DIALECTS:
            raise ValueError(f"dialect {dialect!r}; one of {', '.join(_DIALECTS)}")
        if xattrs not in ("all", "all+selinux", "none"):
            raise ValueError(f"xattrs is 'all', 'all+selinux' or 'none', not {xattrs!r}")
        self.directories, self.dialect, self.xattrs = [os.fspath(d) for d in directories], dialect, xattrs
        self._own_cwd = not walk.has_xattrat()
        self.options = (_XATTR_CWD if self._own_cwd else _XATTR_AT) | (_KEEP_SELINUX if xattrs == "all+selinux" else 0)
        self.options |= kernel.OPTION_AUFS if dialect == "aufs" else _DROP_KEPT
        self.roots, self._stack = open_roots(directories)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()

    def __len__(self) -> int:
        return len(self.roots)

    def find(self, paths: EntryTable, *, first: int = 0, stacks: bool = False, data: bool = False) -> Shown:
        """Look up all ``paths`` (path order; with every directory on the way, as path_table() has them).

        ``first``: the nearest branch that takes part. ``stacks``: note of every directory which branches make it.
        ``data``: note of metacopy files where their content is. OSError with the path;
        UnsafePathError for a redirect that leads nowhere.
        """
        roots = list(zip(self.directories, self.roots, strict=True))
        search = Search(roots, self.options, self.dialect, paths, stacks=stacks, data=data)

        def run() -> Shown:
            if self._own_cwd:
                walk.own_cwd()
            shown = search.run(first)
            if self.xattrs == "none":
                shown.columns[AT["ext_len"]].fill(0)
            return shown

        return on_own_thread("lookup", run) if self._own_cwd else run()

    def scan(self, branch: int, path: bytes = b"") -> Scan:
        """Read what branch number ``branch`` itself has below directory ``path``."""
        with below(self.directories[branch], path), self.roots[branch].dir(path) as fd:
            return scan_fd(fd, xattrs="all" if self.xattrs == "none" else self.xattrs, drop_kept=self.dialect != "aufs")

    def tree(self, path: bytes, *, first: int = 0) -> tuple[EntryTable, NDArray[np.uint32]]:
        """Return what the merged view shows below directory ``path``, and how many names each inode has, 0 for one."""
        top = self.find(path_table([path]), first=first, stacks=True)
        stack = top.stacks.get(top.paths.find(path), [])
        if len(stack) == 1 and (table := self._plain(path, *stack[0])) is not None:
            return table, np.zeros(len(table), np.uint32)
        shown = self._whole(path, first)
        table, numbers = shown.table()
        within = join(path, b"")
        inside = np.array([at.startswith(within) and at != path for at in table.paths], bool)
        return table[inside], shown.nlink[numbers[inside]]

    def _plain(self, path: bytes, branch: int, place: bytes) -> EntryTable | None:
        """Return what is below a directory that one branch alone makes up, where the branch says it all."""
        scan = self.scan(branch, place)
        own = read_own(scan.table.columns, self.dialect)
        white = (scan.table.type == _CHAR) & (scan.table.rdev_major == 0) & (scan.table.rdev_minor == 0)
        if self.dialect == "aufs" or scan.linked or own.facts.any() or white.any():
            return None
        columns = list(EntryTable(own.columns, "path")[1:].columns)
        rename(columns, [(row, join(path, name)) for row, name in enumerate(scan.table.paths[1:])])
        return EntryTable(tuple(columns), "path")

    def _whole(self, path: bytes, first: int) -> Shown:
        names, scanned = {path}, set[tuple[bytes, Place]]()
        while True:  # what is in sight is looked up, and what that brings into sight
            shown = self.find(path_table(names), first=first, stacks=True)
            more: set[bytes] = set()
            for row, stack in shown.stacks.items():
                top = shown.paths.path(row)
                if top != path and not top.startswith(join(path, b"")):
                    continue
                for place in stack:
                    if not _is_covered(top, place, scanned):
                        scanned.add((top, place))
                        more.update(join(top, name) for name in self._listed(self.scan(*place).table.paths) if name)
            if more <= names:
                return shown
            names |= more

    def names(self, shown: Shown, row: int) -> set[bytes]:
        """Return the names that the branches of a directory list, hidden ones too; ``shown`` was found with stacks."""
        found: set[bytes] = set()
        for branch, place in shown.stacks.get(row, ()):
            with self.roots[branch].dir(place) as fd:
                found.update(os.fsencode(name) for name in os.listdir(fd))
        return set(self._listed(found))

    def _listed(self, paths: Iterable[bytes]) -> Iterable[bytes]:
        """Leave AUFS's markers, and what is below its metadata, out of ``paths``."""
        if self.dialect != "aufs":
            return paths
        return [path for path in paths if not any(part.startswith(PREFIX) for part in path.split(b"/"))]

    def open_file(self, branch: int, place: bytes) -> int:
        """Open a regular file of one branch for reading."""
        parent, _, name = place.rpartition(b"/")
        with self.roots[branch].dir(parent) as fd:
            return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)


class Plain(Branches):
    """One directory in which nothing means anything but itself: no name, device or attribute hides what is lower."""

    def __init__(self, directory: str | os.PathLike[str], xattrs: Xattrs = "all") -> None:
        super().__init__([directory], "aufs", xattrs)  # which has no attributes of its own,
        self.options ^= kernel.OPTION_AUFS | kernel.OPTION_PLAIN  # and is not asked for its names

    def _listed(self, paths: Iterable[bytes]) -> Iterable[bytes]:
        """Leave nothing out."""
        return paths


def _is_covered(top: bytes, place: Place, scanned: set[tuple[bytes, Place]]) -> bool:
    """Tell whether what the branch has at ``place`` came into sight under ``top`` with a directory above both."""
    branch, at = place
    while (top, (branch, at)) not in scanned:
        (top, name), (at, other) = split(top), split(at)
        if name != other or not name:
            return False
    return True
