"""What differs between two trees, slow and obvious: the oracle of the ``changes`` kernel and of ``lamella.changes``.

A tree is a dictionary of paths to :class:`Node`. Rules are those of the layer semantics page, items 48-58.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from lamella.model import ChangeKind, Why

OVERLAY = (b"trusted.overlay.", b"user.overlay.")
CAPABILITY = b"security.capability"
SECOND = 10**9


@dataclass(frozen=True)
class Node:
    """One path; ``inode`` tells which paths are one file, across trees too where both have a device."""

    type: str = "0"
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    content: bytes = b""
    target: bytes = b""
    rdev: tuple[int, int] = (0, 0)
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict, hash=False)
    inode: int = 0
    dev: int = 0


class Difference(NamedTuple):
    """One change."""

    kind: ChangeKind
    path: bytes
    why: Why = Why(0)


Tree = Mapping[bytes, Node]


def changes(lower: Tree, upper: Tree, content: str = "auto", *, dir_mtime: bool = False) -> list[Difference]:
    """Return the changes in path order, ``/`` lowest."""
    found = {path: Difference(ChangeKind.DELETE, path) for path in lower if deleted(path, lower, upper)}
    for path, node in upper.items():
        if path not in lower:
            found[path] = Difference(ChangeKind.ADD, path)
        elif why := differences(lower[path], node, content, dir_mtime=dir_mtime):
            found[path] = Difference(ChangeKind.MODIFY, path, why)
    for path in relinked(lower, upper, set(found)):
        why = found[path].why if path in found else Why(0)
        found[path] = Difference(ChangeKind.MODIFY, path, why | Why.LINKS)
    return [found[path] for path in sorted(found, key=lambda p: p.replace(b"/", b"\0"))]


def deleted(path: bytes, lower: Tree, upper: Tree) -> bool:
    """Tell whether ``path`` is gone, and not just with its directory."""
    above = [path[:i] for i in range(len(path)) if path[i : i + 1] == b"/"]
    stay = all(p in upper and upper[p].type == "5" for p in above if p in lower)
    return bool(path) and path not in upper and stay


def differences(a: Node, b: Node, content: str, *, dir_mtime: bool) -> Why:
    """Say why one path's two nodes differ."""
    if a.type != b.type:
        return Why.TYPE
    why = Why(0)
    if b.type != "2" and a.mode != b.mode:
        why |= Why.MODE
    if (a.uid, a.gid) != (b.uid, b.gid):
        why |= Why.OWNER
    if b.type == "2" and a.target != b.target:
        why |= Why.TARGET
    if b.type in "34" and a.rdev != b.rdev:
        why |= Why.RDEV
    if carried(a.xattrs) != carried(b.xattrs):
        why |= Why.XATTR
    if (b.type != "5" or dir_mtime) and not same_time(a, b):
        why |= Why.MTIME
    return why | of_content(a, b, content, why) if b.type == "0" else why


def of_content(a: Node, b: Node, content: str, why: Why) -> Why:
    """Say what is known of two files' contents."""
    if len(a.content) != len(b.content):
        return Why.SIZE | Why.CONTENT
    decided = why or (a.mtime_ns == b.mtime_ns and a.mtime_ns % SECOND)
    one = (a.dev, a.inode) == (b.dev, b.inode) and a.dev
    if content == "never" or one or (content == "auto" and decided):
        return Why(0)
    return Why.CONTENT if a.content != b.content else Why(0)


def same_time(a: Node, b: Node) -> bool:
    """Tell whether two times are the same, or one is the other cut to seconds."""
    cut = 0 in {a.mtime_ns % SECOND, b.mtime_ns % SECOND}
    return a.mtime_ns == b.mtime_ns or (cut and a.mtime_ns // SECOND == b.mtime_ns // SECOND)


def carried(xattrs: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Leave out what is never in a layer; a capability of revision 3 leaves as revision 2."""
    kept = {name: value for name, value in xattrs.items() if not name.startswith(OVERLAY)}
    value = kept.get(CAPABILITY, b"")
    if len(value) == 24:
        kept[CAPABILITY] = (int.from_bytes(value[:4], "little") & 1).to_bytes(4, "little") + value[4:20]
    elif len(value) == 20:
        kept[CAPABILITY] = (int.from_bytes(value[:4], "little") & 1).to_bytes(4, "little") + value[4:]
    return kept


def sets(tree: Tree) -> dict[bytes, frozenset[bytes]]:
    """Return for each path that is no directory all paths of its inode."""
    inodes: dict[tuple[int, int], set[bytes]] = {}
    for path, node in tree.items():
        if node.type != "5":
            inodes.setdefault((node.dev, node.inode), set()).add(path)
    return {path: frozenset(paths) for paths in inodes.values() for path in paths}


def relinked(lower: Tree, upper: Tree, changed: set[bytes]) -> list[bytes]:
    """Return the paths that must be in the layer, or were anyway, because they are names of another inode now.

    An upper set may stay outside the layer only if it is part of one lower set; of several such sets, one can: the
    first of those that have no change, or else the first.
    """
    below = sets(lower)
    kept: dict[frozenset[bytes], frozenset[bytes]] = {}
    origin: dict[frozenset[bytes], set[frozenset[bytes] | None]] = {}
    for names in sorted(set(sets(upper).values()), key=lambda s: min(p.replace(b"/", b"\0") for p in s)):
        origin[names] = {below[p] if p in below and p in lower and lower[p].type == upper[p].type else None for p in names}
    for dirty in (False, True):
        for names, lows in origin.items():
            (first, *more) = lows
            if first is not None and not more and bool(names & changed) == dirty:
                kept.setdefault(first, names)
    out = []
    for names, lows in origin.items():
        stays = len(lows) == 1 and None not in lows and kept[next(iter(lows))] == names  # type: ignore[index]
        mine = [p for p in names if p in lower and lower[p].type == upper[p].type]
        out += mine if not stays else [p for p in mine if names & changed and p not in changed]
    return out


def moved(tree: Tree, dev: int) -> dict[bytes, Node]:
    """Return a copy of a tree on another device."""
    return {path: replace(node, dev=dev) for path, node in tree.items()}
