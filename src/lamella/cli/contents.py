"""What the layers of a stack do to the names below them, as `inspect` shows it: by name, no link is followed."""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lamella.cli.text import human, path_fields, shown
from lamella.layer.whiteout import OPAQUE, PREFIX, is_metadata
from lamella.model import EntryType
from lamella.table import Entry, EntryTable

__all__ = ["Contents", "Line", "Stack", "lines_of", "tree_document", "tree_lines"]

_FILE_TYPES = {
    EntryType.FILE: stat.S_IFREG,
    EntryType.HARDLINK: stat.S_IFREG,
    EntryType.SYMLINK: stat.S_IFLNK,
    EntryType.CHAR: stat.S_IFCHR,
    EntryType.BLOCK: stat.S_IFBLK,
    EntryType.DIR: stat.S_IFDIR,
    EntryType.FIFO: stat.S_IFIFO,
}
_DEVICES = (EntryType.CHAR, EntryType.BLOCK)
_META = b""  # a node's own value among its children: no name is empty

Node = dict[bytes, Any]


@dataclass(frozen=True, slots=True)
class Line:
    """One entry and its effect: ``A`` adds, ``M`` changes, ``=`` repeats a directory, ``D`` deletes, ``O`` empties."""

    mark: str
    path: bytes
    entry: Entry

    def text(self) -> str:
        """Return the line for people."""
        if self.mark in "DO":
            return f"{self.mark} {shown(self.path) or '.'}"
        return f"{self.mark} {entry_text(self.path, self.entry)}"

    def document(self) -> dict[str, Any]:
        """Return the line for programs."""
        base = {"mark": self.mark, **path_fields(self.path)}
        return base if self.mark in "DO" else base | entry_fields(self.entry)


def entry_text(path: bytes, entry: Entry) -> str:
    """Return an entry for people."""
    mode = stat.filemode(_FILE_TYPES[entry.type] | entry.mode)
    size = f"{entry.rdev_major},{entry.rdev_minor}" if entry.type in _DEVICES else str(entry.size)
    arrow = {EntryType.SYMLINK: " -> ", EntryType.HARDLINK: " == "}.get(entry.type, "")
    target = shown(entry.link_target) if arrow else ""
    return f"{mode} {entry.uid}:{entry.gid} {size:>9} {shown(path) or '.'}{arrow}{target}"


def entry_fields(entry: Entry) -> dict[str, Any]:
    """Return an entry but for its path for programs."""
    base: dict[str, Any] = {"type": entry.type.name.lower(), "mode": entry.mode, "uid": entry.uid, "gid": entry.gid}
    base |= {"size": entry.size, "mtime": entry.mtime, "mtime_nsec": entry.mtime_nsec}
    base |= path_fields(entry.link_target, "target") if entry.link_target else {}
    if entry.type in _DEVICES:
        base |= {"rdev_major": entry.rdev_major, "rdev_minor": entry.rdev_minor}
    return base


@dataclass
class Contents:
    """A layer's entries in the order of the tar, and how many there are of each mark and type.

    ``n_hidden`` counts the names of lower layers that the layer makes vanish, a whole subtree by all its names;
    ``hidden_nbytes`` is what lower files held that vanish or are replaced.
    """

    lines: list[Line] = field(default_factory=list)
    n_hidden: int = 0
    nbytes: int = 0
    added_nbytes: int = 0
    changed_nbytes: int = 0
    hidden_nbytes: int = 0

    def document(self) -> dict[str, Any]:
        """Return the counts for programs."""
        marks = Counter(line.mark for line in self.lines)
        types = Counter(line.entry.type.name.lower() for line in self.lines if line.mark not in "DO")
        return {
            "entries": len(self.lines),
            "added": marks["A"],
            "changed": marks["M"],
            "repeated": marks["="],
            "whiteouts": marks["D"],
            "opaques": marks["O"],
            "hidden": self.n_hidden,
            "bytes": self.nbytes,
            "added_bytes": self.added_nbytes,
            "changed_bytes": self.changed_nbytes,
            "hidden_bytes": self.hidden_nbytes,
            "types": {kind.name.lower(): types[kind.name.lower()] for kind in EntryType},
        }

    def text(self) -> str:
        """Return the counts for people."""
        counts = self.document()
        names = {"added": "added", "changed": "changed", "repeated": "repeated", "whiteouts": "whiteouts", "opaques": "opaque"}
        words = []
        for key, name in names.items():
            nbytes = counts.get(f"{key}_bytes", 0)
            words += [f"{counts[key]:,} {name}" + (f" ({human(nbytes)})" if nbytes else "")] if counts[key] else []
        gone = f", {counts['hidden']:,} lower names gone" if counts["hidden"] else ""
        gone += f", {human(counts['hidden_bytes'])} of lower files hidden" if counts["hidden_bytes"] else ""
        return f"{counts['entries']:,} entries, {human(counts['bytes'])} in files: {', '.join(words) or 'nothing'}{gone}"

    def hide(self, node: Node) -> None:
        """Count a name, and all below it, that vanish."""
        n_names, nbytes = _count(node)
        self.n_hidden += n_names
        self.hidden_nbytes += nbytes

    def hide_below(self, node: Node) -> None:
        """Make all names below a directory vanish, and count them."""
        for name in [name for name in node if name]:
            self.hide(node.pop(name))

    def put(self, mark: str, path: bytes, entry: Entry) -> None:
        """Add one entry."""
        self.lines.append(Line(mark, path, entry))
        size = entry.size if entry.type is EntryType.FILE else 0
        self.nbytes += size
        self.added_nbytes += size if mark == "A" else 0
        self.changed_nbytes += size if mark == "M" else 0


@dataclass(slots=True)
class _Shown:
    """What a name shows: the layer it comes from (the lowest is 1), what that layer did, and its entry."""

    level: int
    mark: str
    entry: Entry

    @property
    def nbytes(self) -> int:
        return self.entry.size if self.entry.type is EntryType.FILE else 0

    def same_directory(self, entry: Entry) -> bool:
        """Tell whether both are directories of the same metadata."""
        return entry.type is self.entry.type is EntryType.DIR and _facts(entry) == _facts(self.entry)


def _facts(entry: Entry) -> tuple[int, int, int, int]:
    return entry.mode, entry.uid, entry.gid, entry.mtime_ns


class Stack:
    """The names that the layers so far show; layers are pushed from the lowest up."""

    def __init__(self) -> None:
        self._root: Node = {}
        self._level = 0

    def push(self, table: EntryTable) -> Contents:
        """Put a layer on top; return what it does. Its whiteouts hide lower names only (tests/contract 2)."""
        self._level += 1
        contents = Contents()
        entries = [(entry, *_read_name(entry.path)) for entry in table]
        for _, mark, path in entries:
            if mark in ("D", "O"):
                self._hide(path, contents, keep=mark == "O")
        for entry, mark, path in entries:
            if mark:
                contents.lines.append(Line(mark, path, entry))
            else:
                contents.put(self._put(path, entry, contents), path, entry)
        return contents

    def merged(self) -> Iterator[tuple[bytes, int | None, Entry | None]]:
        """Iterate over path, layer (the lowest is 0) and entry of every name there is, in path order.

        A directory that no layer has an entry for has neither layer nor entry.
        """
        todo: list[tuple[bytes, Node]] = [(b"", self._root)]
        while todo:
            path, node = todo.pop()
            shown_: _Shown | None = node.get(_META)
            if (path or shown_ is not None) and not is_metadata(path):
                yield path, None if shown_ is None else shown_.level - 1, None if shown_ is None else shown_.entry
            below = sorted((name for name in node if name), reverse=True)
            todo += [(path + b"/" + name if path else name, node[name]) for name in below]

    def _hide(self, path: bytes, contents: Contents, *, keep: bool) -> None:
        above, node, name = self._root, self._root, b""
        for name in path.split(b"/") if path else ():
            child = node.get(name)
            if child is None:
                return
            above, node = node, child
        if not keep:
            if name:
                contents.hide(above.pop(name))
            return
        contents.hide_below(node)

    def _put(self, path: bytes, entry: Entry, contents: Contents) -> str:
        node = self._root
        for name in path.split(b"/") if path else ():
            node = node.setdefault(name, {})
        mark = "A"
        before: _Shown | None = node.get(_META)
        if before is not None:
            lower = before.level != self._level
            mark = before.mark if not lower else "=" if before.same_directory(entry) else "M"
            contents.hidden_nbytes += before.nbytes if lower else 0
        if entry.type is not EntryType.DIR and len(node) > (before is not None):  # what was below is gone with it
            contents.hide_below(node)
        node[_META] = _Shown(self._level, mark, entry)
        return mark


def _count(node: Node) -> tuple[int, int]:
    """Return how many names there are from ``node`` down, itself included, and the bytes of their files."""
    n_names, nbytes, todo = 0, 0, [node]
    while todo:
        node = todo.pop()
        n_names += 1
        nbytes += node[_META].nbytes if _META in node else 0
        todo += [child for name, child in node.items() if name]
    return n_names, nbytes


def _read_name(path: bytes) -> tuple[str, bytes]:
    parent, slash, name = path.rpartition(b"/")
    if name == OPAQUE:
        return "O", parent
    if name.startswith(PREFIX) and not is_metadata(path):
        return "D", parent + slash + name[len(PREFIX) :]
    return "", path


def lines_of(contents: Contents, indent: str = "") -> Iterator[str]:
    """Return every entry for people."""
    return (indent + line.text() for line in contents.lines)


def tree_lines(stack: Stack) -> Iterator[str]:
    """Return every name that the stack shows, and the number of the layer that it comes from, for people."""
    for path, layer, entry in stack.merged():
        if layer is None or entry is None:
            yield f"  -  {shown(path)}  (no entry of its own)"
        else:
            yield f"{layer:>3}  {entry_text(path, entry)}"


def tree_document(stack: Stack) -> list[dict[str, Any]]:
    """Return every name that the stack shows for programs; ``layer`` is None for a directory that no layer names."""
    return [
        {"layer": layer, **path_fields(path), **({"type": "dir"} if entry is None else entry_fields(entry))}
        for path, layer, entry in stack.merged()
    ]
