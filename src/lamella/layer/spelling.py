"""A tree of names (layer/names.py) spelled as the rows of one layer, in an order that a tar can hold.

Directories come before what is in them, markers before what stands beside them, and rows with content in the order of
the layers and rows that the content comes from, so that it streams. The first name of an inode in that order carries it,
the others are hard links to it (45); a link to what only the lower tree has comes before all that could hide it (43, 44).
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from lamella.errors import ConflictError
from lamella.layer.folding import SHIFT, Fold
from lamella.layer.names import UNKNOWN, Folder, Inode, Leaf, Name, lower_of
from lamella.layer.whiteout import OPAQUE, PREFIX
from lamella.tree.root import ancestors, join

__all__ = ["MADE", "MARKER", "Spelled", "spell"]

MARKER, MADE = -1, -2  # instead of a row's layer: a marker; a directory without a row, as an apply would make it
_FRONT, _BACK = -(1 << 62), 1 << 62
_EARLY = 1 << 61  # taken off the place in time of links that come before all other rows
_LEAF_RANK = 1 << 20  # behind all directories


class Spelled:
    """Rows to write: source layer and row, the path of each, for hard links that of their target; and their order.

    Directories are entered by :meth:`folder`, each after the one it is in, and things in them by its number.
    ``ordered`` False: rows stand where they stood in their layers, for any other order would be a guess.
    """

    def __init__(self, *, ordered: bool = True) -> None:
        self.ordered = ordered
        self.layer: list[int] = []
        self.row: list[int] = []
        self.path: list[bytes] = []
        self.links: dict[int, bytes] = {}
        self._key: list[int] = []
        self._rank: list[int] = []
        self._folder: list[int] = []
        self._above: list[int] = []  # of each directory: the one it is in, its own row or -1, its depth
        self._own: list[int] = []
        self._depth: list[int] = []
        self._idle: set[int] = set()  # directories whose row is wanted only if something in them is
        self._linked: dict[Inode | Leaf, list[int]] = {}

    def folder(self, node: Folder | None, path: bytes, above: int, *, idle: bool = False) -> int:
        """Enter a directory, with a row if ``node`` has metadata of its own; return its number."""
        number = len(self._above)
        self._above.append(above)
        self._depth.append(self._depth[above] + 1 if above >= 0 else 0)
        own = -1
        if node is not None and node.born >= 0:
            own = self._put(node.layer if node.row >= 0 else MADE, node.row, path, (node.born, 2 * self._depth[-1]), above)
        self._own.append(own)
        if idle and own >= 0:
            self._idle.add(number)
        return number

    def marker(self, path: bytes, folder: int) -> None:
        """Append a marker."""
        self._put(MARKER, 0, path, (_FRONT, 2 * self._depth[folder] + 1), folder)

    def leaves(self, leaves: list[tuple[Leaf, bytes]], folder: int) -> None:
        """Append names in one directory."""
        begin, n = len(self._key), len(leaves)
        self.layer += [leaf.layer for leaf, _ in leaves]
        self.row += [leaf.row for leaf, _ in leaves]
        self.path += [path for _, path in leaves]
        self._key += [leaf.layer << SHIFT | leaf.row for leaf, _ in leaves]
        self._rank += [_LEAF_RANK] * n
        self._folder += [folder] * n
        for at, (leaf, _) in enumerate(leaves, begin):
            if leaf.link is not None:
                self._linked.setdefault(leaf.link, []).append(at)

    def _put(self, layer: int, row: int, path: bytes, when: tuple[int, int], folder: int) -> int:
        self.layer.append(layer)
        self.row.append(row)
        self.path.append(path)
        self._key.append(when[0])
        self._rank.append(when[1])
        self._folder.append(folder)
        return len(self._key) - 1

    def finish(self) -> NDArray[np.int64]:
        """Settle hard links and places; return the numbers of the rows in the order of writing."""
        self._spell_links()
        keep = self._kept()
        if self.ordered:
            self._raise_folders(keep)
        order = np.lexsort((np.array(self._rank, np.int64), np.array(self._key, np.int64)))
        return order[keep[order]]

    # -- hard links -----------------------------------------------------------------------------------------------

    def _spell_links(self) -> None:
        sources = []
        for inode, names in self._linked.items():
            names.sort(key=self._key.__getitem__)
            if isinstance(inode, Inode) and inode.at is not None:
                sources.append(inode.at)
                self._link_lower(inode.at, names)
                continue
            first, *others = names
            born = inode.layer << SHIFT | inode.row
            if not self.ordered and self._key[first] != born:
                raise ConflictError(self.path[first], "the first name of a file is gone, and another must carry it")
            self.layer[first], self.row[first], self._key[first] = inode.layer, inode.row, born
            for at in others:
                self.layer[at], self.row[at] = inode.layer, inode.row
                self.links[at] = self.path[first]
        self._postpone(sources)

    def _link_lower(self, source: bytes, names: list[int]) -> None:
        free = [at for at in names if not (self.path[at] + b"/").startswith(source + b"/")]
        if not free and [self.path[at] for at in names] != [source]:
            raise ConflictError(self.path[names[0]], f"the last name of {source!r}, which a directory has replaced")
        for at in free:
            self.links[at] = source
            self._key[at] -= _EARLY if self.ordered else 0
        for at in names:
            self.links.setdefault(at, self.path[free[0]] if free else source)

    def _postpone(self, sources: list[bytes]) -> None:
        """Let markers that hide the source of a link come last: the link finds it before (44)."""
        hiding = {above for path in sources for above in (b"", *ancestors(path))}
        for at, layer in enumerate(self.layer if hiding else ()):
            if layer == MARKER:
                folder, _, name = self.path[at].rpartition(b"/")
                if (folder if name == OPAQUE else join(folder, name.removeprefix(PREFIX))) in hiding:
                    self._key[at] = _BACK

    # -- order ----------------------------------------------------------------------------------------------------

    def _kept(self) -> NDArray[np.bool_]:
        """Tell which rows are wanted: all but those of idle directories in which nothing is."""
        keep = np.ones(len(self._key), bool)
        if self._idle:
            keep[[self._own[number] for number in self._idle]] = False
            busy = np.zeros(len(self._above) + 1, bool)  # the last item takes what is in no directory
            busy[np.array(self._folder, np.int64)[keep]] = True
            for number in range(len(self._above) - 1, -1, -1):
                if busy[number]:
                    busy[self._above[number]] = True
                    if self._own[number] >= 0:
                        keep[self._own[number]] = True
        return keep

    def _raise_folders(self, keep: NDArray[np.bool_]) -> None:
        """Let each directory come before the first thing in it, and its markers behind it."""
        key, folder, layer = (np.array(c, np.int64) for c in (self._key, self._folder, self.layer))
        first = np.full(len(self._above), _BACK, np.int64)
        rows = np.flatnonzero((layer != MARKER) & (folder >= 0) & keep)
        np.minimum.at(first, folder[rows], key[rows])
        keys, own, above = first.tolist(), self._own, self._above
        for number in range(len(keys) - 1, -1, -1):
            at = own[number]
            if at >= 0:
                keys[number] = self._key[at] = min(keys[number], self._key[at])
            if above[number] >= 0:
                keys[above[number]] = min(keys[above[number]], keys[number])
        for at in np.flatnonzero((layer == MARKER) & (np.array(self._key, np.int64) == _FRONT)).tolist():
            number = self._folder[at]
            while number >= 0 and own[number] < 0:
                number = above[number]
            if number >= 0:
                self._key[at] = self._key[own[number]]


def spell(folded: Fold, lower: Folder | None, *, same: Collection[Folder | Leaf] = ()) -> Spelled:
    """Return the rows that do to ``lower`` what the folded layers do; ConflictError where no layer can.

    ``same``: names that the lower tree has already. Of them, directories have a row only if something in them has.
    """
    out = Spelled(ordered=folded.entries_open is None)
    todo: list[tuple[Folder, Name | None, bytes, int]] = []

    def enter(node: Folder, low: Name | None, path: bytes, above: int) -> None:
        number = out.folder(node, path, above, idle=node in same)
        if node.shut and isinstance(low, Folder) and (low is UNKNOWN or low.names):
            out.marker(join(path, OPAQUE), number)
        if node.names:
            todo.append((node, low, path, number))

    enter(folded.names.root, lower, b"", -1)
    while todo:
        node, low, path, number = todo.pop()
        prefix, leaves = path + b"/" if path else b"", []
        for part, child in node.names.items():
            if isinstance(child, Leaf):
                leaves.append((child, prefix + part))
                continue
            below = lower_of(node, low, part)
            if isinstance(child, Folder):
                enter(child, below, prefix + part, number)
            elif below is not None:
                out.marker(prefix + PREFIX + part, number)
        if same:
            leaves = [leaf for leaf in leaves if leaf[0] not in same]
        out.leaves(leaves, number)
    return out
