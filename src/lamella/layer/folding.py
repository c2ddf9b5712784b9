"""Layers folded into a tree of names (layer/names.py), row by row as an apply with policy "spec" takes them.

Markers hide what earlier layers and the lower tree have, never what their own layer makes (2-5); one that goes through a
symlink waits for the end of its layer (15, 103). Hard links are resolved when their row comes (45).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lamella.columns import ARENA, F_GHOST, F_IMPLIED
from lamella.errors import ConflictError, UnsafePathError
from lamella.layer.names import (
    GONE,
    UNKNOWN,
    Folder,
    Inode,
    Leaf,
    Name,
    Names,
    Stack,
    lower_of,
    names_in,
    own,
    parts_of,
    place,
    visible,
)
from lamella.layer.whiteout import OPAQUE, PREFIX, hidden_name, is_metadata
from lamella.table import EntryTable
from lamella.tree.root import split

__all__ = ["SHIFT", "Fold", "fold"]

SHIFT = 40  # born of a row: its layer's number, and below that its own
_FILE, _HARDLINK, _SYMLINK, _DIR = (ord(flag) for flag in "0125")
_PLNK = b".wh..wh.plnk/"
_MAYBE = "where the lower tree may have a symlink (say what is lower)"


class Fold:
    """Tables folded one upon another; ``paths`` has the names of each, by row.

    ``lower`` is the tree below the first: UNKNOWN, None for nothing, or the root of another fold. Numbers of layers are
    places in ``tables``, which has those of the lower tree too; it may grow.
    """

    def __init__(self, tables: Sequence[EntryTable], lower: Folder | None, *, strict: bool = False) -> None:
        self.tables = tables
        self.paths: dict[int, list[bytes]] = {}
        self.names = Names(lower, lambda layer, row: tables[layer].link_target(row), strict=strict)
        self.entries_open: bytes | None = None  # a row went through a place that the lower tree may have as a symlink
        self._open_before: bytes | None = None  # ... in an earlier layer
        self._markers_open: bytes | None = None
        self._n_before = self._n_entries = 0

    def add(self, layer: int) -> None:
        """Fold table number ``layer`` upon what is there.

        ConflictError where it does not fit, or where one layer cannot say what it does after the earlier ones;
        WhiteoutError, UnsafePathError.
        """
        table, names = self.tables[layer], self.names
        self._begin(layer, len(table))
        paths = self.paths[layer] = list(table.paths)
        kinds = table.type
        ordinary = table.flags & (F_GHOST | F_IMPLIED) == 0
        plain = ordinary & (kinds != _DIR) & (kinds != _HARDLINK) & (table.link_group < 0)
        marked = re.search(re.escape(PREFIX), memoryview(table.columns[ARENA])) is not None
        rows = _Rows(self, table)
        last: bytes | None = None  # the directory of the row before
        stack, here = names.top(), names.root.names
        for row, (path, flag, simple) in enumerate(zip(paths, kinds.tolist(), plain.tolist(), strict=True)):
            if simple and not (marked and PREFIX in path):
                parent, _, name = path.rpartition(b"/")
                if parent != last:
                    names.now = layer << SHIFT | row
                    stack, last = rows.folder(parent), parent
                    here = names_in(stack)
                old = here.get(name)
                if (old is None and name and name != b"..") or (isinstance(old, Leaf) and old.flag == _FILE):
                    here[name] = Leaf(flag, layer, row)
                    if old is not None:
                        names.lost = stack, name
                    continue
            last = None
            if ordinary[row]:
                names.now = layer << SHIFT | row
                rows.place(path, flag, row)
        rows.end()
        self._end(len(table))

    # -- what depends on a lower tree that is not known -------------------------------------------------------------

    def check_marker(self, path: bytes) -> None:
        """Refuse a marker whose effect on earlier layers cannot be known."""
        if self._open_before is not None:
            raise ConflictError(path, f"a marker upon a layer that goes through {self._open_before!r}, {_MAYBE}")
        if self.names.passed is not None:
            if self._n_before:
                raise ConflictError(path, f"a marker through {self.names.passed!r}, {_MAYBE}")
            self._markers_open = self.names.passed

    def _begin(self, layer: int, n_rows: int) -> None:
        self.names.layer, self.names.lost = layer, None
        self.names.folders.clear()
        self.names.stripped.clear()
        self._n_before, self._open_before = self._n_entries, self.entries_open
        if self._markers_open is not None and n_rows:
            raise ConflictError(self._markers_open, f"another layer upon a marker through it, {_MAYBE}")

    def _end(self, n_rows: int) -> None:
        self._n_entries += n_rows
        if self.names.lost is not None and self.entries_open is not None:
            where = place(*self.names.lost)
            raise ConflictError(where, f"made twice, and a row goes through {self.entries_open!r}, {_MAYBE}")


class _Rows:
    """The rows of one table on their way into the tree of names."""

    def __init__(self, fold: Fold, table: EntryTable) -> None:
        self.fold, self.names, self.table = fold, fold.names, table
        self._plnk: dict[bytes, Inode] = {}
        self._groups: dict[int, Inode] = {}
        self._late: list[bytes] = []

    def folder(self, path: bytes) -> Stack:
        """Find or make the directory of a row."""
        stack = self.names.folder(path)
        self.fold.entries_open = self.names.passed or self.fold.entries_open
        return stack

    def place(self, path: bytes, flag: int, row: int) -> None:
        """Take one row."""
        parent, name = split(path)
        if PREFIX in path and is_metadata(path):
            if path.startswith(_PLNK) and flag == _FILE:
                self._plnk[path] = Inode(flag, self.names.layer, row)
        elif name.startswith(PREFIX):
            if name != OPAQUE:
                hidden_name(path)
            if not self._mark(path, late=False):
                self._late.append(path)
        elif not path:
            self._root(flag, row)
        else:
            parts_of(path)
            if flag == _HARDLINK:
                self._link(path, row)
            elif flag == _DIR:
                stack = self.folder(parent)
                self.names.directory(stack, name, row, loose=self.names.passed is not None)
            else:
                leaf = self.names.leaf(self.folder(parent), name, flag, row)
                group = int(self.table.link_group[row])
                if group >= 0:  # a table of a tree has its hard links as groups of equal rows
                    leaf.link = self._groups.setdefault(group, Inode(flag, leaf.layer, row))

    def end(self) -> None:
        """Carry out the markers that had to wait."""
        for path in self._late:
            self._mark(path, late=True)

    def _root(self, flag: int, row: int) -> None:
        root = self.names.root
        if flag != _DIR:
            raise UnsafePathError(b"", "the root's own entry is not a directory")
        root.born = max(root.born, 0)
        root.layer, root.row = self.names.layer, row

    def _link(self, path: bytes, row: int) -> None:
        names, target = self.names, self.table.link_target(row)
        inode = self._plnk.get(target)
        if inode is None:
            inode = names.source(path, target)
            self.fold.entries_open = names.passed or self.fold.entries_open
        parent, name = split(path)
        names.link(path, self.folder(parent), name, inode, row)
        if target not in self._plnk:
            found = names.lookup(target)
            now = None if found is None else found[1]
            if now is None or (isinstance(now, Folder) and now is not UNKNOWN):
                raise ConflictError(path, "a hard link whose parents take the place of its target")

    def _mark(self, path: bytes, *, late: bool) -> bool:
        """Carry out a marker; False where it has to wait, for it goes through a symlink."""
        names = self.names
        parent, name = split(path)
        names.passed = None
        stack: Stack | None = names.top()
        for part in parts_of(parent):
            seen = visible(*names.look(stack, part)) if stack else None
            if not late and isinstance(seen, Leaf) and seen.flag == _SYMLINK:
                return False
            before = names.passed
            stack = names.enter(stack, part, lower_only=True) if stack else None
            if stack is None:
                return True  # 10, 11, 103
            if seen is UNKNOWN and names.strict and self.table.find(place(stack)) >= 0:
                names.passed = before  # of what the layer itself makes there, the lower tree cannot make a symlink
        if stack is not None:
            self.fold.check_marker(path)
            own(stack)
            names.folders.clear()
            if name == OPAQUE:
                strip(names, stack)
            else:
                hide(names, stack, name[len(PREFIX) :])
        return True


def fold(
    tables: Sequence[EntryTable], lower: Folder | None = None, *, first: int = 0, strict: bool = False
) -> Fold:
    """Fold all of ``tables`` from number ``first`` on."""
    folded = Fold(tables, lower, strict=strict)
    for layer in range(first, len(tables)):
        folded.add(layer)
    return folded


def has_new(node: Name, layer: int) -> bool:
    """Tell whether ``layer`` made ``node`` or something below it."""
    todo = [node]
    while todo:
        node = todo.pop()
        if node.layer == layer:
            return True
        if isinstance(node, Folder):
            todo.extend(node.names.values())
    return False


def hide(names: Names, stack: Stack, part: bytes) -> None:
    """Remove what is lower at ``part`` of a directory; what the current layer made stays, and what it stands in."""
    here, folder = names_in(stack), stack[-1].node
    node = here.get(part)
    if node is None or not has_new(node, names.layer):
        here.pop(part, None)
        if lower_of(folder, stack[-1].low, part) is not None:
            here[part] = GONE
    elif isinstance(node, Folder):
        _renew(names, node)
        _strip(names, node)


def strip(names: Names, stack: Stack) -> None:
    """Remove all that is lower in a directory, but what the current layer made."""
    if stack[-1].node is not None:
        _strip(names, stack[-1].node)


def _strip(names: Names, folder: Folder) -> None:
    todo = [folder]
    while todo:
        folder = todo.pop()
        folder.shut = True
        if folder in names.stripped:
            continue
        names.stripped.add(folder)
        for part, node in list(folder.names.items()):
            if not has_new(node, names.layer):
                del folder.names[part]
            elif isinstance(node, Folder):
                _renew(names, node)
                todo.append(node)


def _renew(names: Names, node: Folder) -> None:
    # a directory that is hidden and, for the sake of what the layer makes below it, made again
    if node.layer != names.layer:
        node.layer, node.row, node.born = names.layer, -1, names.now
