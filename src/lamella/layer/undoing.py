"""The layer that undoes another one: what the lower tree has where the layer changed something."""

from __future__ import annotations

from lamella.errors import ConflictError
from lamella.layer.folding import Fold
from lamella.layer.names import GONE, Folder, Inode, Leaf, Name
from lamella.layer.spelling import Spelled
from lamella.layer.whiteout import PREFIX
from lamella.tree.root import join

__all__ = ["undo"]


def undo(folded: Fold, lower: Folder) -> Spelled:
    """Return the rows that make ``lower`` again of what ``folded`` makes of it.

    Every directory on the way to a change gets its entry (117). ConflictError where the layer gave the root metadata and
    the lower tree has no entry that says what they were.
    """
    root = folded.names.root
    if root.born >= 0 and lower.row < 0:
        raise ConflictError(b"", "the lower tree has no entry for its root")
    return _Undo(folded, lower).run()


class _Undo:
    def __init__(self, folded: Fold, lower: Folder) -> None:
        self._root, self._lower = folded.names.root, lower
        self.out = Spelled()
        self._touched: set[Leaf] = set()  # names of the lower tree that the layer replaced or hid
        self._links: list[tuple[int, Leaf, bytes]] = []
        self._todo: list[tuple[Folder, Folder, bytes, int, bool]] = []

    def run(self) -> Spelled:
        top = self.out.folder(self._lower if self._root.born >= 0 else None, b"", -1)
        self._todo.append((self._root, self._lower, b"", top, False))
        while self._todo:
            self._compare(*self._todo.pop())
        self._relink()
        return self.out

    def _compare(self, node: Folder, was: Folder, path: bytes, number: int, hidden: bool) -> None:
        hidden = hidden or node.shut  # here, or by what it is in
        for part, child in node.names.items():
            there, old = join(path, part), shown(was, part)
            if isinstance(child, Folder) and isinstance(old, Folder):
                row = old if old.born >= 0 else None
                self._todo.append((child, old, there, self.out.folder(row, there, number, idle=child.born < 0), hidden))
            elif old is None:
                if child is not GONE:
                    self.out.marker(join(path, PREFIX + part), number)
            elif not (isinstance(child, Leaf) and isinstance(old, Leaf) and is_same(child, old)):
                self._restore(old, there, number)
        if hidden:
            for part in was.names.keys() - node.names.keys():
                old = shown(was, part)
                if old is not None:
                    self._restore(old, join(path, part), number)

    def _restore(self, name: Folder | Leaf, path: bytes, number: int) -> None:
        todo: list[tuple[Folder | Leaf, bytes, int]] = [(name, path, number)]
        while todo:
            name, path, number = todo.pop()
            if isinstance(name, Leaf):
                self._touched.add(name)
                self._links.append((number, name, path))
                continue
            inside = self.out.folder(name, path, number)
            for part in name.names:
                child = shown(name, part)
                if child is not None:
                    todo.append((child, join(path, part), inside))

    def _relink(self) -> None:
        """Write the names: one whose inode has kept another name becomes a link to that."""
        wanted = {name.link for _, name, _ in self._links if name.link is not None}
        kept: dict[Inode, bytes] = {}
        todo: list[tuple[Folder, bytes]] = [(self._lower, b"")] if wanted else []
        while todo:
            folder, path = todo.pop()
            for part, child in folder.names.items():
                if isinstance(child, Folder):
                    todo.append((child, join(path, part)))
                elif isinstance(child, Leaf) and child.link in wanted and child not in self._touched:
                    kept.setdefault(child.link, join(path, part))
        for number, name, path in self._links:
            new = name
            if name.link in kept:
                new = Leaf(name.flag, name.layer, name.row)
                new.link = Inode(name.flag, name.link.layer, name.link.row, kept[name.link])
            self.out.leaves([(new, path)], number)


def shown(folder: Folder, part: bytes) -> Folder | Leaf | None:
    """Return a name of a tree with nothing below it."""
    name: Name | None = folder.names.get(part)
    return None if name is None or name is GONE or not isinstance(name, Folder | Leaf) else name


def is_same(new: Leaf, old: Leaf) -> bool:
    """Tell whether ``new``, a link to what is lower, is the same inode as ``old`` of the lower tree."""
    link = new.link
    if link is None or link.at is None:
        return False
    known = old.link or old
    return (link.layer, link.row) == (known.layer, known.row)
