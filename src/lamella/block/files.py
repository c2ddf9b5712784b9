"""What two states of a file system differ in, from the blocks that differ: block delta -> file delta. O(changed).

The road, which docs/formats.md draws: changed ranges lie in inode tables; of those inodes that differ, directories tell
which names went and came; names lead to paths on either side; and what may differ is made into two small tables, rows of
inodes as a walk of the mounted file systems would give them, which are compared as two whole trees are (layer/diff.py).

A name of one inode on both sides shows the same thing unless the inode differs; a path shows the same name unless a
directory on the way differs, or is another one: then all that is below it is looked at, on both sides.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lamella.block.contents import ImageContent, ImageFile, same_files
from lamella.block.ext4 import ROOT, Ext4Image
from lamella.block.inodes import Changed, Decoded, changed_inodes, decoded
from lamella.block.names import Name, Names, Paths, entries
from lamella.layer.changeset import Changeset, Rows
from lamella.layer.comparing import Content, inodes, merged, open_rows, options_of, settled, with_links
from lamella.table import EntryTable
from lamella.tree.root import join, split
from lamella.tree.scan import Xattrs

__all__ = ["FileDelta", "file_delta"]



@dataclass(frozen=True, slots=True)
class FileDelta:
    """What changed, and the names of the upper state: for the delta of the next one."""

    changeset: Changeset
    names: Names


def file_delta(
    lower: Ext4Image, upper: Ext4Image, ranges: NDArray[np.int64], *, lower_names: Names | None = None,
    content: Content = "auto", xattrs: Xattrs = "all", dir_mtime: bool = False, root: str | os.PathLike[str] | None = None,
) -> FileDelta:  # fmt: skip
    """Return what ``upper`` changes of ``lower``: what :func:`lamella.changes` says of the two, mounted.

    ``ranges``: half-open byte ranges, an (n, 2) array; all bytes that differ lie in them. ``lower_names``: those of
    ``lower``, else all its directories are read. ``root``: where ``upper`` is mounted, if content is to come from there
    and not from the image, which must stay open until the changeset is written. Sockets are warned of only where something
    changed. ValueError for names of another state; UnsupportedFilesystem; FilesystemError; OSError.
    """
    options = options_of(content, dir_mtime)
    if lower_names is not None and lower_names.identity != lower.identity:
        raise ValueError("these are names of another state of the file system")
    changed = changed_inodes(lower, upper, ranges)
    gone, new = _names_changed(lower, upper, changed)
    below = Names.scan(lower) if lower_names is None else lower_names
    above = below.updated(gone, new, upper.identity)
    look = _Look((lower, upper), (below, above), xattrs)
    low, up = look.all({*changed.numbers.tolist(), *(inode for _, inode, _ in (*gone, *new))})
    a, b = low.table, up.table
    rows, match = merged(a, b, options)
    rows = _decided(rows, a, b, lower, upper)
    rows = with_links(rows, a, b, match)
    notes = tuple(f"socket left out: {os.fsdecode(path)!r}" for path in up.sockets)
    found = Changeset(
        a, b, rows, match, root=root, holes=int(b.size.sum()), warnings=notes,
        source=None if root is not None else partial(_content, upper, b), keeps=partial(_kept, lower, a), road="search",
    )  # fmt: skip
    return FileDelta(found, above)


def _names_changed(lower: Ext4Image, upper: Ext4Image, changed: Changed) -> tuple[set[Name], set[Name]]:
    """Return the names that directories have lost, and those that they have won."""
    below = set(entries(lower, changed.directories(changed.lower)))
    above = set(entries(upper, changed.directories(changed.upper)))
    return below - above, above - below


class _Look:
    """The paths to look at, each with its inode, on two sides; they grow with what is found there."""

    def __init__(self, images: tuple[Ext4Image, Ext4Image], names: tuple[Names, Names], xattrs: Xattrs) -> None:
        self.images, self.names, self.xattrs = images, names, xattrs
        self.inodes: tuple[dict[bytes, int], dict[bytes, int]] = {b"": ROOT}, {b"": ROOT}
        self._paths = Paths(), Paths()
        self._added: set[int] = {ROOT}
        self._done: set[bytes] = set()  # upper directories of which all is in sight that matters

    def all(self, changed: Collection[int]) -> tuple[Decoded, Decoded]:
        """Look, until nothing more is to be looked at."""
        self._add(changed)
        while True:
            sides = (self._decoded(0), self._decoded(1))
            n = len(self.inodes[0]), len(self.inodes[1])
            self._directories(*sides)
            for side in sides:
                self._add(side.inodes[(side.nlink > 1) & ~side.is_dir].tolist())
            if n == (len(self.inodes[0]), len(self.inodes[1])):
                return sides

    def _decoded(self, side: int) -> Decoded:
        return decoded(self.images[side], self.inodes[side], self.xattrs, side)

    def _add(self, numbers: Collection[int]) -> None:
        """Add all paths of inodes, and the directories on the way, on both sides."""
        found: tuple[list[Name], list[Name]] = [], []
        fresh = set(numbers) - self._added
        while fresh:
            self._added |= fresh
            above: set[int] = set()
            for side in (0, 1):
                names = self.names[side].of(fresh)
                self._paths[side].add(names)
                found[side].extend(names)
                above.update(parent for parent, _, _ in names)
            fresh = above - self._added
        for side in (0, 1):
            for parent, inode, name in found[side]:
                path = self._paths[side].of(parent)
                if path is not None:
                    self.inodes[side][join(path, name)] = inode

    def _directories(self, lower: Decoded, upper: Decoded) -> None:
        """Add all that is below directories of the upper side that are others than the lower side has there."""
        for row in np.flatnonzero(upper.is_dir).tolist():
            path = upper.paths.path(row)
            if path in self._done:
                continue
            self._done.add(path)
            before, after = self.inodes[0].get(path), self.inodes[1][path]
            if before == after:
                continue
            self._whole(1, path, after)
            if before is not None and lower.is_dir[lower.paths.find(path)]:
                self._whole(0, path, before)

    def _whole(self, side: int, path: bytes, inode: int) -> None:
        """Add everything below a directory."""
        paths = {inode: path}
        for parent, number, name in entries(self.images[side], [inode], deep=True):
            at = paths[number] = join(paths[parent], name)
            self.inodes[side][at] = number
        if side == 1:
            self._done.update(paths.values())


def _decided(rows: Rows, a: EntryTable, b: EntryTable, lower: Ext4Image, upper: Ext4Image) -> Rows:
    """Compare the contents of what metadata left open."""
    open_ = open_rows(rows)
    if not len(open_):
        return rows
    low, up = inodes(a, rows.lower[open_]), inodes(b, rows.upper[open_])
    verdicts: dict[tuple[int, int], bool] = {}
    for pair in zip(low.tolist(), up.tolist(), strict=True):
        if pair not in verdicts:
            one = ImageFile(lower, int(a.ino[pair[0]]), int(a.size[pair[0]]))
            verdicts[pair] = same_files(one, ImageFile(upper, int(b.ino[pair[1]]), int(b.size[pair[1]])))
    same = [verdicts[pair] for pair in zip(low.tolist(), up.tolist(), strict=True)]
    return settled(rows, open_, np.array(same, bool))


@contextlib.contextmanager
def _content(image: Ext4Image, table: EntryTable) -> Iterator[ImageContent]:
    yield ImageContent(image, table)


def _kept(lower: Ext4Image, known: EntryTable, dirs: Collection[bytes]) -> set[bytes]:
    """Return which of ``dirs`` have something below that is no row of ``known``, as layer/kept.py does it for mounts."""
    numbers = {int(known.ino[row]): path for path in dirs if (row := known.find(path)) >= 0}
    found = {join(numbers[parent], name): inode for parent, inode, name in entries(lower, numbers)}
    others = decoded(lower, {path: inode for path, inode in found.items() if known.find(path) < 0}, "none", 0)
    return {split(path)[0] for path in set(others.paths.paths).difference(others.sockets)}
