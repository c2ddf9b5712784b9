"""The names of inodes that have several in their branch."""

from __future__ import annotations

import os
import stat

import numpy as np

from lamella.layer.lowers import Branches
from lamella.layer.search import Place
from lamella.tree.root import Root, split
from lamella.tree.scan import scan_fd

__all__ = ["LinkedNames"]


class LinkedNames:
    """The names of inodes with several in ``branches``; a branch is read when it is first asked for."""

    def __init__(self, branches: Branches) -> None:
        self._branches = branches
        self._known: dict[int, dict[bytes, list[bytes]]] = {}

    def at(self, place: Place) -> list[bytes]:
        """Return all the names that the inode at ``place`` has in its branch, in path order; none for one with one."""
        branch, path = place
        if branch not in self._known:
            self._known[branch] = _names(self._branches.roots[branch])
        return self._known[branch].get(path, [])

    def of(self, branch: int, number: int, kind: int) -> list[bytes]:
        """Return all the names of the inode ``number`` of a branch; none for one that is not of the ``kind`` (S_IFMT)."""
        self.at((branch, b""))
        root = self._branches.roots[branch]
        for names in self._known[branch].values():
            if _facts(root, names[0]) == (number, kind):
                return names
        return []


def _names(root: Root) -> dict[bytes, list[bytes]]:
    scan = scan_fd(root.fd, xattrs="none")
    groups: dict[tuple[str, int], list[bytes]] = {}
    for row in np.flatnonzero(scan.table.link_group >= 0).tolist():
        groups.setdefault(("row", int(scan.table.link_group[row])), []).append(scan.table.path(row))
    for path in scan.sockets:
        groups.setdefault(("socket", _facts(root, path)[0]), []).append(path)
    return {path: names for names in groups.values() if len(names) > 1 for path in names}


def _facts(root: Root, path: bytes) -> tuple[int, int]:
    parent, name = split(path)
    with root.dir(parent) as fd:
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
    return status.st_ino, stat.S_IFMT(status.st_mode)
