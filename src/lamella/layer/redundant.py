"""What of a layer changes nothing: names that the lower tree has already, markers that hide nothing."""

from __future__ import annotations

from collections.abc import Sequence

from lamella.layer.composed import AnyLayer
from lamella.layer.folding import Fold
from lamella.layer.names import Folder, Inode, Leaf, Name, lower_of
from lamella.layer.sameness import Content, Origin, same_rows
from lamella.layer.spelling import MADE
from lamella.layer.undoing import is_same, shown
from lamella.tree.root import join

__all__ = ["open_up", "origin_of", "unchanged"]


def open_up(folded: Fold, lower: Folder | None) -> None:
    """Take opaque markers away that hide nothing but what the layer has again; what they hid deeper is marked there."""
    todo: list[tuple[Folder, Name | None]] = [(folded.names.root, lower)]
    while todo:
        node, low = todo.pop()
        if node.shut and isinstance(low, Folder):
            hidden = [part for part in low.names if shown(low, part) is not None]
            if all(shown(node, part) is not None for part in hidden):
                node.shut = False
                for part in hidden:
                    child = node.names[part]
                    if isinstance(child, Folder):
                        child.shut = True
        todo += [(child, lower_of(node, low, part)) for part, child in node.names.items() if isinstance(child, Folder)]


def unchanged(folded: Fold, lower: Folder | None, layers: Sequence[AnyLayer], content: Content) -> set[Folder | Leaf]:
    """Return the names of the layer for which the lower tree has the same inode, with the same names, and directories."""
    found = _Candidates()
    todo: list[tuple[Folder, Name | None, bytes]] = [(folded.names.root, lower, b"")]
    while todo:
        node, low, path = todo.pop()
        found.folder(node, low)
        for part, child in node.names.items():
            below, there = lower_of(node, low, part), join(path, part)
            if isinstance(child, Folder):
                todo.append((child, below, there))
            elif isinstance(child, Leaf) and isinstance(below, Leaf):
                found.leaf(child, below, there)
            elif isinstance(child, Leaf) and child.link is not None:
                found.classes.setdefault(child.link, []).append((child, None))
    names_of = _names(lower) if found.linked else {}
    pairs = [pair for pair in found.pairs if names_of.get(pair[1], 1) == 1] + found.whole_classes(names_of)
    verdicts = same_rows(layers, [(origin_of(new[0]), origin_of(old)) for new, old in pairs], content=content)
    return found.same.union(*(new for (new, _), equal in zip(pairs, verdicts.tolist(), strict=True) if equal))


Pair = tuple[list[Folder | Leaf], Folder | Leaf]  # names of the layer that are one inode, and a name of the lower tree


class _Candidates:
    def __init__(self) -> None:
        self.same: set[Folder | Leaf] = set()
        self.pairs: list[Pair] = []
        self.linked = False
        self.classes: dict[Inode, list[tuple[Leaf, Leaf | None]]] = {}

    def folder(self, node: Folder, low: Name | None) -> None:
        """Take a directory that has metadata above and below, and hides nothing."""
        if node.born >= 0 and isinstance(low, Folder) and low.born >= 0 and not (node.shut and low.names):
            self.pairs.append(([node], low))

    def leaf(self, child: Leaf, low: Leaf, path: bytes) -> None:
        """Take another name that is above and below."""
        self.linked = self.linked or low.link is not None
        if child.link is None:
            self.pairs.append(([child], low))
        elif child.link.at is None:
            self.classes.setdefault(child.link, []).append((child, low))
        elif is_same(child, low) or child.link.at == path:
            self.same.add(child)

    def whole_classes(self, names_of: dict[Folder | Leaf, int]) -> list[Pair]:
        """Return the hard-link sets that are a set of the same names below."""
        pairs: list[Pair] = []
        for names in self.classes.values():
            lows = {None if low is None else low.link or low for _, low in names}
            first = names[0][1]
            if len(lows) == 1 and first is not None and names_of.get(first, 1) == len(names):
                pairs.append(([child for child, _ in names], first))
        return pairs


def _names(lower: Folder | None) -> dict[Folder | Leaf, int]:
    """Return how many names the inode of each linked name of a tree has."""
    found: dict[Inode, list[Leaf]] = {}
    todo = [] if lower is None else [lower]
    while todo:
        for child in todo.pop().names.values():
            if isinstance(child, Folder):
                todo.append(child)
            elif isinstance(child, Leaf) and child.link is not None:
                found.setdefault(child.link, []).append(child)
    return {leaf: len(names) for names in found.values() for leaf in names}


def origin_of(name: Folder | Leaf) -> Origin:
    """Return the row that says what a name's inode is."""
    if isinstance(name, Leaf):
        return (name.layer, name.row) if name.link is None else (name.link.layer, name.link.row)
    return (name.layer, name.row) if name.row >= 0 else (MADE, 0)
