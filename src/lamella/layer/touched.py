"""A tree that began as a snapshot of another, and what was touched in it since -> what differs. O(touched).

An inode number is one file in both trees, and whoever keeps them knows which inodes were touched. All that can differ
follows from these:

- a name was made, or is another file now: the file was touched, in that very act;
- a name is gone: its directory was touched; what the lower one lists and the upper one does not;
- a path leads elsewhere since a directory on the way is another one: all below it, on either side;
- a file has the same name and other ones beside: all its names on either side.

Every such path is looked up in both trees, and the rows are compared as two whole trees are (diff.py): what turns out to
be the same is no change. What was not touched is neither listed nor looked up.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

from lamella.columns import AT
from lamella.layer.changeset import Changeset
from lamella.layer.comparing import Content, decided, merged, options_of, with_links
from lamella.layer.kept import kept_in
from lamella.layer.lowers import Plain, Shown
from lamella.layer.pathtable import path_table
from lamella.layer.search import below
from lamella.tree.root import join, lstat, split
from lamella.tree.scan import Xattrs, scan_fd

__all__ = ["changes_of_touched"]

Path = str | os.PathLike[str]
Names = Callable[[int], Iterable[bytes]]  # inode -> all paths of it

_DIR = ord("5")


def changes_of_touched(
    lower: Path, upper: Path, touched: Iterable[bytes], names_below: Names, names_above: Names, *,
    content: Content = "auto", xattrs: Xattrs = "all", dir_mtime: bool = False,
) -> Changeset:  # fmt: skip
    """Return what the directory ``upper``, which began as a snapshot of ``lower``, changes of it.

    ``touched``: all paths in ``upper`` of every inode that was touched since. ``names_below``, ``names_above``: all paths
    of an inode of several names in either. The others, and the result, are those of :func:`lamella.changes`; but that
    its tables hold only rows that may differ, with the directories on the way, and sockets are warned of only there.
    """
    options = options_of(content, dir_mtime)
    places = os.path.abspath(lower), os.path.abspath(upper)  # the process may go elsewhere before write()
    with Plain(places[0], xattrs) as low, Plain(places[1], xattrs) as up:
        look = _Look(low, up, touched)
        shown_below, shown_above = look.all((names_below, names_above))
        a, b = shown_below.table()[0], shown_above.table()[0]
        rows, match = merged(a, b, options)
        rows = decided(rows, a, b, low.roots[0].fd, up.roots[0].fd)
        rows = with_links(rows, a, b, match)
        notes = tuple(f"socket left out: {os.fsdecode(path)!r}" for path in look.sockets(shown_above))
    # an upper bound of what its files have as holes: write() looks at those that are written
    return Changeset(
        a, b, rows, match, root=places[1], holes=int(b.size.sum()), warnings=notes,
        keeps=partial(kept_in, partial(Plain, places[0]), a), road="search",
    )  # fmt: skip


class _Look:
    """The paths to look at, which grow with what is found there."""

    def __init__(self, lower: Plain, upper: Plain, touched: Iterable[bytes]) -> None:
        self.sides = lower, upper
        self.touched = set(touched)
        self.paths = set(self.touched)
        self._done: set[bytes] = set()  # directories whose names are known to be in ``paths`` where they matter
        self._sockets: set[bytes] = set()
        self._linked: tuple[set[int], set[int]] = set(), set()  # inodes whose names are

    def all(self, names: tuple[Names, Names]) -> tuple[Shown, Shown]:
        """Look up, until nothing more is to be looked at."""
        while True:
            table = path_table(self.paths)
            shown = self.sides[0].find(table), self.sides[1].find(table)
            n = len(table)
            self.paths.update(table.paths)
            self._directories(*shown)
            for side in (0, 1):
                self._links(side, shown[side], names[side])
            if len(self.paths) == n:
                return shown

    def sockets(self, shown: Shown) -> list[bytes]:
        """Return the upper paths that were found to be sockets: those have no row."""
        root = self.sides[1].roots[0]
        for row in np.flatnonzero(shown.branch < 0).tolist():
            if (path := shown.paths.path(row)) in self.touched:
                parent, name = split(path)
                with root.dir(parent) as fd:
                    status = lstat(fd, name)
                if status is not None and stat.S_ISSOCK(status.st_mode):
                    self._sockets.add(path)
        return sorted(self._sockets)

    # -- directories ----------------------------------------------------------------------------------------------

    def _directories(self, lower: Shown, upper: Shown) -> None:
        """Add the names that matter of every directory that the upper tree has."""
        dirs = [(shown.branch >= 0) & (shown.columns[AT["type"]] == _DIR) for shown in (lower, upper)]
        one = dirs[0] & dirs[1] & (lower.columns[AT["ino"]] == upper.columns[AT["ino"]])
        for row in np.flatnonzero(dirs[1]).tolist():
            path = upper.paths.path(row)
            if path in self._done:
                continue
            if not one[row]:
                for side in (0, 1):
                    if dirs[side][row]:
                        self._whole(side, path)
            elif path in self.touched:
                self._gone(path)
            self._done.add(path)

    def _gone(self, path: bytes) -> None:
        """Add the names that only the lower directory has."""
        lower, upper = (self._listed(side, path) for side in (0, 1))
        self.paths.update(join(path, os.fsencode(name)) for name in lower - upper)

    def _listed(self, side: int, path: bytes) -> set[str]:
        with below(self.sides[side].directories[0], path), self.sides[side].roots[0].dir(path) as fd:
            return set(os.listdir(fd))

    def _whole(self, side: int, path: bytes) -> None:
        """Add everything below the directory."""
        with below(self.sides[side].directories[0], path), self.sides[side].roots[0].dir(path) as fd:
            scan = scan_fd(fd, xattrs="none")
        for name, kind in zip(scan.table.paths, scan.table.type.tolist(), strict=True):
            self.paths.add(join(path, name) if name else path)
            if kind == _DIR:
                self._done.add(join(path, name) if name else path)
        sockets = {join(path, name) for name in scan.sockets}
        self.paths |= sockets
        if side == 1:
            self._sockets |= sockets

    # -- links ----------------------------------------------------------------------------------------------------

    def _links(self, side: int, shown: Shown, names: Names) -> None:
        """Add all names of files that have several."""
        several = (shown.branch >= 0) & (shown.nlink > 1) & (shown.columns[AT["type"]] != _DIR)
        for inode in set(shown.columns[AT["ino"]][several].tolist()) - self._linked[side]:
            self._linked[side].add(inode)
            self.paths.update(names(inode))
