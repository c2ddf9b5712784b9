"""Layers moved from one base to another: a three-way merge of old base, new base and what the layers make of the old one.

What a layer has as the old base had it is no change, and the new base's is taken. What both changed, differently, is a
:class:`Conflict`; the layer's is kept. A layer that lists its whiteouts lets through what the new base added; one that
makes a directory opaque hides it, and that is a conflict (20).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from lamella.layer.composed import AnyLayer
from lamella.layer.folding import Fold
from lamella.layer.names import GONE, Folder, Inode, Leaf, Name
from lamella.layer.redundant import origin_of
from lamella.layer.sameness import Content, Origin, same_rows
from lamella.layer.undoing import is_same, shown
from lamella.tree.root import join

__all__ = ["Conflict", "Merge"]

Kind = Literal["both-added", "both-changed", "changed-and-deleted", "deleted-and-changed", "opaque", "parent", "link"]
Shown = Folder | Leaf | None
_REASONS: dict[Kind, str] = {
    "both-added": "the layer and the new base both added it, differently",
    "both-changed": "the layer and the new base both changed it, differently",
    "changed-and-deleted": "the layer changed it, the new base has it no more",
    "deleted-and-changed": "the layer deletes it, the new base changed it",
    "opaque": "the layer's opaque marker hides it, and the old base had it not, or otherwise",
    "parent": "the layer has entries in it, and the new base has no such directory",
    "link": "the layer links to it, and the new base changed it: the old base's content is kept",
}


@dataclass(frozen=True, slots=True)
class Conflict:
    """A path that the new base and a layer (its number among those rebased) both changed: ``kind`` and ``reason``."""

    path: bytes
    kind: Kind
    layer: int

    @property
    def reason(self) -> str:
        """Say it in words."""
        return _REASONS[self.kind]


class Merge:
    """One layer, folded upon the old base, on its way to the new one; it changes the fold's tree of names.

    ``layers`` are those that the rows of both bases and of the layer are of, ``same`` the names that need no row.
    """

    def __init__(
        self, folded: Fold, bases: tuple[Folder, Folder], layers: Sequence[AnyLayer], number: int, content: Content
    ) -> None:
        self._folded, self._old, self._new = folded, *bases
        self._layers, self._number, self._content = layers, number, content
        self.conflicts: list[Conflict] = []
        self.same: set[Folder | Leaf] = set()
        self._known: dict[tuple[Origin, Origin], bool] = {}
        self._todo: list[tuple[Folder, Shown, Shown, bytes, bool]] = []

    def run(self) -> None:
        """Find conflicts, and what of the layer the new base says better."""
        self._compare_all()
        self._todo.append((self._folded.names.root, self._old, self._new, b"", False))
        while self._todo:
            self._folder(*self._todo.pop())
        self._sources()

    def _conflict(self, path: bytes, kind: Kind) -> None:
        self.conflicts.append(Conflict(path, kind, self._number))

    # -- comparing ------------------------------------------------------------------------------------------------

    def _compare_all(self) -> None:
        """Compare at once what stands at the layer's places; the rest, below what it hides, when it is asked for."""
        pairs: dict[tuple[Origin, Origin], None] = {}
        todo: list[tuple[Folder, Shown, Shown]] = [(self._folded.names.root, self._old, self._new)]
        while todo:
            node, old, new = todo.pop()
            sides = [side for side in (node if node.born >= 0 else None, old, new) if isinstance(side, Folder)]
            pairs.update(dict.fromkeys((origin_of(a), origin_of(b)) for a, b in combinations(sides, 2)))
            for part, child in node.names.items():
                was = shown(old, part) if isinstance(old, Folder) else None
                now = shown(new, part) if isinstance(new, Folder) else None
                if isinstance(child, Folder):
                    todo.append((child, was, now))
                    continue
                leaves = [side for side in (child, was, now) if isinstance(side, Leaf) and origin_of(side)[0] >= 0]
                pairs.update(dict.fromkeys((origin_of(a), origin_of(b)) for a, b in combinations(leaves, 2)))
        wanted = [pair for pair in pairs if pair[0] != pair[1]]
        same = same_rows(self._layers, wanted, content=self._content, dir_mtime=False)
        self._known = dict(zip(wanted, same.tolist(), strict=True))

    def _rows(self, one: Folder | Leaf, other: Folder | Leaf) -> bool:
        pair = origin_of(one), origin_of(other)
        if pair[0] == pair[1]:
            return True
        if pair not in self._known:
            self._known[pair] = bool(same_rows(self._layers, [pair], content=self._content, dir_mtime=False)[0])
        return self._known[pair]

    def _equal(self, one: Shown, other: Shown) -> bool:
        """Tell whether two names are the same: both nothing, or of one type and with the same metadata and content."""
        if one is None or other is None or isinstance(one, Folder) != isinstance(other, Folder):
            return one is other
        return one is other or self._rows(one, other)

    def _tree_equal(self, one: Shown, other: Shown) -> bool:
        """Tell whether two names are the same with all that is below them."""
        todo = [(one, other)]
        while todo:
            one, other = todo.pop()
            if not self._equal(one, other):
                return False
            if isinstance(one, Folder) and isinstance(other, Folder) and one is not other:
                todo += [(shown(one, part), shown(other, part)) for part in {**one.names, **other.names}]
        return True

    # -- merging --------------------------------------------------------------------------------------------------

    def _folder(self, node: Folder, old: Shown, new: Shown, path: bytes, hidden: bool) -> None:
        hidden = hidden or node.shut
        if node.born >= 0 and node.row >= 0:
            self._metadata(node, old, new, path)
        elif path and isinstance(old, Folder) and not isinstance(new, Folder):
            self._conflict(path, "parent")
        if hidden and isinstance(new, Folder):
            before = old if isinstance(old, Folder) else Folder()
            for part in new.names:
                if part not in node.names and not self._tree_equal(shown(before, part), shown(new, part)):
                    self._conflict(join(path, part), "opaque")
        for part, child in list(node.names.items()):
            was = shown(old, part) if isinstance(old, Folder) else None
            now = shown(new, part) if isinstance(new, Folder) else None
            if isinstance(child, Folder):
                self._todo.append((child, was, now, join(path, part), hidden))
            else:
                self._name(node, part, child, was, now, join(path, part))

    def _metadata(self, node: Folder, old: Shown, new: Shown, path: bytes) -> None:
        if self._equal(old, new) or self._equal(node, new):
            return
        if isinstance(old, Folder) and isinstance(new, Folder) and self._equal(node, old):
            node.layer, node.row = new.layer, new.row  # not changed by the layer: as the new base has it
            self.same.add(node)
        elif new is None:
            self._conflict(path, "changed-and-deleted")
        else:
            self._conflict(path, "both-changed" if old is not None else "both-added")

    def _name(self, node: Folder, part: bytes, child: Name, old: Shown, new: Shown, path: bytes) -> None:  # noqa: PLR0917
        if isinstance(child, Leaf):
            linked = isinstance(old, Leaf) and is_same(child, old)
            if isinstance(old, Leaf) and (linked or (child.link is None and old.link is None and self._equal(child, old))):
                if not self._tree_equal(old, new):
                    del node.names[part]  # not changed by the layer: as the new base has it
            elif not self._tree_equal(old, new) and not self._equal(child, new):
                kind: Kind = "both-added" if old is None else "changed-and-deleted" if new is None else "both-changed"
                self._conflict(path, kind)
        elif child is GONE and new is not None and not self._tree_equal(old, new):
            self._conflict(path, "deleted-and-changed")

    def _sources(self) -> None:
        """Let hard links whose source the new base has not, or otherwise, carry the old base's content (45)."""
        todo: list[tuple[Folder, bytes]] = [(self._folded.names.root, b"")]
        seen: dict[Inode, bytes] = {}
        while todo:
            node, path = todo.pop()
            for part, child in node.names.items():
                if isinstance(child, Folder):
                    todo.append((child, join(path, part)))
                elif isinstance(child, Leaf) and child.link is not None and child.link.at is not None:
                    seen[child.link] = child.link.at
        for inode, at in seen.items():
            if not self._equal(found(self._old, at), found(self._new, at)):
                self._conflict(at, "link")
                inode.at = None


def found(root: Folder, path: bytes) -> Shown:
    """Return what a tree with nothing below it has at a real path."""
    name: Shown = root
    for part in path.split(b"/"):
        name = shown(name, part) if isinstance(name, Folder) else None
    return name
