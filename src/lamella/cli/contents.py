"""What the layers of a stack do to the names below them, as `inspect` shows it: by name, no link is followed."""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lamella.cli.text import path_fields, shown
from lamella.layer.whiteout import OPAQUE, PREFIX, is_metadata
from lamella.model import EntryType
from lamella.table import Entry, EntryTable

__all__ = ["Contents", "Line", "Stack"]

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
        path = shown(self.path) or "."
        if self.mark in "DO":
            return f"{self.mark} {path}"
        entry = self.entry
        mode = stat.filemode(_FILE_TYPES[entry.type] | entry.mode)
        size = f"{entry.rdev_major},{entry.rdev_minor}" if entry.type in _DEVICES else str(entry.size)
        arrow = {EntryType.SYMLINK: " -> ", EntryType.HARDLINK: " == "}.get(entry.type, "")
        target = shown(entry.link_target) if arrow else ""
        return f"{self.mark} {mode} {entry.uid}:{entry.gid} {size:>9} {path}{arrow}{target}"

    def document(self) -> dict[str, Any]:
        """Return the line for programs."""
        entry = self.entry
        base = {"mark": self.mark, **path_fields(self.path)}
        if self.mark in "DO":
            return base
        base |= {"type": entry.type.name.lower(), "mode": entry.mode, "uid": entry.uid, "gid": entry.gid}
        base |= {"size": entry.size, "mtime": entry.mtime, "mtime_nsec": entry.mtime_nsec}
        base |= path_fields(entry.link_target, "target") if entry.link_target else {}
        if entry.type in _DEVICES:
            base |= {"rdev_major": entry.rdev_major, "rdev_minor": entry.rdev_minor}
        return base


@dataclass
class Contents:
    """A layer's entries in the order of the tar, and how many there are of each mark and type.

    ``n_hidden`` counts the names of lower layers that the layer makes vanish, a whole subtree by all its names.
    """

    lines: list[Line] = field(default_factory=list)
    n_hidden: int = 0
    nbytes: int = 0

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
            "types": {kind.name.lower(): types[kind.name.lower()] for kind in EntryType},
        }


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
                contents.n_hidden += self._hide(path, keep=mark == "O")
        for entry, mark, path in entries:
            contents.lines.append(Line(mark or self._put(path, entry, contents), path, entry))
            contents.nbytes += entry.size if entry.type is EntryType.FILE else 0
        return contents

    def _hide(self, path: bytes, *, keep: bool) -> int:
        above, node, name = self._root, self._root, b""
        for name in path.split(b"/") if path else ():
            child = node.get(name)
            if child is None:
                return 0
            above, node = node, child
        if not keep:
            return _count(above.pop(name)) if name else 0
        n_hidden = _count(node) - 1
        for name in [name for name in node if name]:
            del node[name]
        return n_hidden

    def _put(self, path: bytes, entry: Entry, contents: Contents) -> str:
        node = self._root
        for name in path.split(b"/") if path else ():
            node = node.setdefault(name, {})
        mark: str
        level, mark, before = node.get(_META, (0, "A", None))
        is_dir = entry.type is EntryType.DIR
        now = (entry.mode, entry.uid, entry.gid, entry.mtime_ns) if is_dir else None
        if level and level != self._level:
            mark = "=" if is_dir and before == now else "M"
        if not is_dir and len(node) > 1:  # what was below a directory is gone with it
            contents.n_hidden += _count(node) - 1
            node.clear()
        node[_META] = (self._level, mark, now)
        return mark


def _count(node: Node) -> int:
    total, todo = 0, [node]
    while todo:
        node = todo.pop()
        total += 1
        todo += [child for name, child in node.items() if name]
    return total


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
