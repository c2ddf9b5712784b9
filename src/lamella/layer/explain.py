"""Where a path comes from: which layer gives it, what hides what and why, layer by layer; from tables alone."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from lamella.layer.folding import Fold
from lamella.layer.names import Folder, Leaf, Names, Stack, Step, parts_of, place, visible
from lamella.layer.whiteout import OPAQUE, PREFIX
from lamella.table import Entry, EntryTable
from lamella.tree.root import join, split

__all__ = ["Explanation", "Link", "What", "explain"]

Action = Literal["added", "replaced", "metadata", "removed", "moved", "opaque", "no effect"]
_SYMLINK = ord("2")
_WORDS = {
    "added": "adds it",
    "replaced": "replaces it",
    "metadata": "gives the directory other metadata",
    "removed": "removes it",
    "moved": "makes the path lead elsewhere",
    "opaque": "hides what lower layers have in it",
    "no effect": "has a whiteout for it that hides nothing",
}


@dataclass(frozen=True, slots=True)
class Link:
    """A symlink on the way: its own path and its text."""

    path: bytes
    target: bytes


@dataclass(frozen=True, slots=True)
class What:
    """What one layer does to a path.

    ``label`` is the layer's, ``number`` its place (0: the lowest). ``path`` is the real path it concerned, ``entry`` the
    row that is there afterwards (None: nothing, or a directory that only entries in it made). ``by`` is the entry that did
    it where that is another one: a whiteout, an opaque marker, what took the place of a directory above, a symlink that
    was changed. ``link_of``: the path that a hard link names; ``implied``: a directory without an entry.
    """

    label: Any
    number: int
    action: Action
    path: bytes
    entry: Entry | None = None
    by: bytes | None = None
    link_of: bytes | None = None
    implied: bool = False

    def __str__(self) -> str:
        by = "" if self.by is None else f", by {os.fsdecode(self.by)!r}"
        link = "" if self.link_of is None else f", a hard link to {os.fsdecode(self.link_of)!r}"
        return f"{self.label} {_WORDS[self.action]}{by}{link}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why ``path`` is what it is in a stack of layers.

    ``real_path`` is where it leads once the symlinks of its directories (``through``) are followed; None where they lead
    nowhere. ``exists`` tells whether there is anything; ``source`` and ``entry`` are the label of the layer and the row
    that give it: of a hard link the row that its content comes with (None for a directory without an entry).
    ``names`` are all paths of the same inode, where it has several. ``layers`` has what layers did, the lowest first.
    """

    path: bytes
    real_path: bytes | None
    exists: bool
    source: Any = None
    entry: Entry | None = None
    through: tuple[Link, ...] = ()
    names: tuple[bytes, ...] = ()
    layers: tuple[What, ...] = field(default=())


def explain(layers: Iterable[tuple[Any, EntryTable]], path: str | bytes | os.PathLike[str]) -> Explanation:
    """Explain ``path`` (from the root; a leading slash may be there) in ``layers``: labels and tables, lowest first.

    ConflictError, WhiteoutError and UnsafePathError for a stack that cannot be applied, and for ``..`` in the path.
    """
    wanted = b"/".join(part for part in os.fsencode(path).split(b"/") if part not in (b"", b"."))
    parts_of(wanted)
    labels: list[Any] = []
    tables: list[EntryTable] = []
    story = _Story(Fold(tables, None), wanted)
    for label, table in layers:
        labels.append(label)
        tables.append(table)
        story.add(label, len(tables) - 1)
    return story.end(labels)


@dataclass(frozen=True)
class _View:
    """What a path is at one moment."""

    real: bytes | None
    seen: Folder | Leaf | None
    through: tuple[Link, ...]
    row: tuple[int, int]  # that gave it, by then


class _Story:
    def __init__(self, folded: Fold, path: bytes) -> None:
        self._folded, self._path = folded, path
        self._events: list[What] = []

    def add(self, label: Any, number: int) -> None:
        """Fold one more layer and note what it did."""
        before = self._look()
        hiding, inside = self._markers(number, before)
        self._folded.add(number)
        after = self._look()
        event: dict[str, Any] = {"label": label, "number": number}
        if before.real is not None and after.real not in (None, before.real):
            changed = [link.path for link in after.through if link not in before.through]
            changed += [link.path for link in before.through if link not in after.through]
            self._note(event, "moved", after, changed[0] if changed else self._cause(number, before))
        elif after.seen is before.seen and after.row == before.row:
            if inside and after.seen is not None:
                self._note(event, "opaque", after, inside[0])
            elif hiding and after.seen is None:
                self._note(event, "no effect", after, hiding[0])
        elif after.seen is None:
            by = hiding[0] if hiding else self._cause(number, before)
            self._events.append(What(**event, action="removed", path=before.real or self._path, by=by))
        elif before.seen is None:
            self._note(event, "added", after, None)
        elif isinstance(before.seen, Folder) and after.seen is before.seen and not hiding:
            self._note(event, "metadata", after, inside[0] if inside else None)
        else:
            self._note(event, "replaced", after, hiding[0] if hiding else None)

    def _note(self, event: dict[str, Any], action: Action, view: _View, by: bytes | None) -> None:
        seen, entry, link = view.seen, None, None
        if seen is not None and seen.row >= 0:
            entry = self._folded.tables[seen.layer][seen.row]
            link = entry.link_target if entry.type.value == "1" else None
        implied = isinstance(seen, Folder) and seen.row < 0
        path = self._path if view.real is None else view.real
        self._events.append(What(**event, action=action, path=path, entry=entry, by=by, link_of=link, implied=implied))

    # -- looking --------------------------------------------------------------------------------------------------

    def _look(self) -> _View:
        names = self._folded.names
        through: list[Link] = []
        stack = names.top()
        if not self._path:
            return _View(b"", names.root, (), (names.root.layer, names.root.row))
        *parents, last = parts_of(self._path)
        for part in parents:
            deeper = self._enter(names, stack, part, through)
            if deeper is None:
                return _View(None, None, tuple(through), (-1, -1))
            stack = deeper
        seen = visible(*names.look(stack, last))
        row = (-1, -1) if seen is None else (seen.layer, seen.row)
        return _View(place(stack, last), seen, tuple(through), row)

    def _enter(self, names: Names, stack: Stack, part: bytes, through: list[Link]) -> Stack | None:
        """Step on, noting the symlinks that are followed."""
        seen = visible(*names.look(stack, part))
        if isinstance(seen, Leaf) and seen.flag == _SYMLINK:
            origin = seen.link or seen
            through.append(Link(place(stack, part), self._folded.tables[origin.layer].link_target(origin.row)))
        return names.enter(stack, part)

    def _markers(self, number: int, before: _View) -> tuple[list[bytes], list[bytes]]:
        """Return the markers of a layer that hide the path as it is before, the most particular first; and those in it."""
        real = self._path if before.real is None else before.real
        parts = set(real.split(b"/"))
        found: list[tuple[int, bytes]] = []
        for path in self._folded.tables[number].paths:
            if PREFIX not in path:
                continue
            parent, name = split(path)
            hidden = None if name == OPAQUE else name[len(PREFIX) :]
            if not name.startswith(PREFIX) or (hidden is not None and hidden not in parts):
                continue
            where = self._real(parent)
            at = where if hidden is None or where is None else join(where, hidden)
            if at is not None and (not at or (real + b"/").startswith(at + b"/")):
                found.append((-len(at), path))
        inside = [path for depth, path in found if -depth == len(real) and split(path)[1] == OPAQUE]
        return [path for _, path in sorted(found) if path not in inside], inside

    def _real(self, folder: bytes) -> bytes | None:
        names = self._folded.names
        stack: Stack | None = names.top()
        for part in parts_of(folder):
            stack = names.enter(stack, part) if stack else None
        return None if stack is None else place(stack)

    def _cause(self, number: int, before: _View) -> bytes | None:
        """Return what of the layer took the place of a directory above."""
        names, stack = self._folded.names, self._folded.names.top()
        for part in split(before.real or self._path)[0].split(b"/"):
            node, low = names.look(stack, part)
            if isinstance(node, Leaf) and node.layer == number:
                return self._folded.paths[number][node.row]
            if not isinstance(node, Folder):
                return None
            stack = [*stack, Step(part, node, low)]
        return None

    # -- the end --------------------------------------------------------------------------------------------------

    def end(self, labels: list[Any]) -> Explanation:
        """Say what is there in the end."""
        view = self._look()
        seen, source, entry = view.seen, None, None
        names: tuple[bytes, ...] = ()
        if isinstance(seen, Leaf):
            origin = seen.link or seen
            source, entry = labels[origin.layer], self._folded.tables[origin.layer][origin.row]
            names = self._names(seen)
        elif isinstance(seen, Folder) and seen.row >= 0:
            source, entry = labels[seen.layer], self._folded.tables[seen.layer][seen.row]
        return Explanation(
            self._path, view.real, seen is not None, source, entry, view.through, names, tuple(self._events)
        )

    def _names(self, leaf: Leaf) -> tuple[bytes, ...]:
        if leaf.link is None:
            return ()
        todo: list[tuple[Folder, bytes]] = [(self._folded.names.root, b"")]
        found = []
        while todo:
            folder, path = todo.pop()
            for part, child in folder.names.items():
                if isinstance(child, Folder):
                    todo.append((child, join(path, part)))
                elif isinstance(child, Leaf) and child.link is leaf.link:
                    found.append(join(path, part))
        return tuple(sorted(found)) if len(found) > 1 else ()
