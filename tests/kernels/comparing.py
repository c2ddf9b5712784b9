"""What the tests of the comparing kernel share: trees as values, their tables, and the kernel's loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from lamella._kernels import changes as kernel
from lamella.model import ChangeKind, Why
from lamella.table import EntryTable
from tests.reference.changes import SECOND, Difference, Node, Tree
from tests.reference.rows import table_of

OUTPUT_FULL = 2
UNDECIDED = 32768
OPTIONS = {"auto": 0, "always": 1, "never": 2}
DIR_MTIME = 4
KINDS = {1: ChangeKind.ADD, 2: ChangeKind.MODIFY, 3: ChangeKind.DELETE}
CAP = b"\1\0\0\2" + bytes(16)

names = st.sampled_from([b"a", b"b", b"a.", b"a!", b"a\xff", b"b" * 9 + b"x", b"b" * 9 + b"y"])
paths = st.lists(names, min_size=1, max_size=3).map(b"/".join)
files = st.builds(
    Node,
    type=st.sampled_from("000000236"),
    mode=st.sampled_from([0o644, 0o600]),
    uid=st.sampled_from([0, 0, 0, 2**32 - 2]),
    mtime_ns=st.sampled_from([0, 0, SECOND, 1, 2, SECOND + 1, -1]),
    content=st.sampled_from([b"", b"1", b"1", b"2", b"22"]),
    target=st.sampled_from([b"x", b"y"]),
    rdev=st.sampled_from([(1, 3), (1, 5)]),
    xattrs=st.sampled_from([
        {}, {}, {b"user.a": b"1"}, {b"user.a": b"2"}, {b"user.a": b"1", b"trusted.overlay.x": b"1"},
        {b"security.capability": CAP}, {b"security.capability": b"\1\0\0\3" + CAP[4:] + b"root"}, {b"user.overlay.": b""},
    ]),
)  # fmt: skip
dirs = st.builds(Node, type=st.just("5"), mode=st.sampled_from([0o755, 0o700]), mtime_ns=st.sampled_from([0, 1, SECOND]))


@st.composite
def trees(draw: st.DrawFn, inodes: list[Node], *, dev: int) -> dict[bytes, Node]:
    """Draw a tree of some of the inodes, each under any number of names."""
    tree = {b"": draw(dirs)}
    for path in sorted(draw(st.sets(paths, max_size=12))):
        above = path.rpartition(b"/")[0]
        parents = [above[:i] for i in range(len(above) + 1) if i == len(above) or above[i : i + 1] == b"/"]
        if any(p in tree and tree[p].type != "5" for p in parents):
            continue
        for parent in parents:
            tree.setdefault(parent, draw(dirs))
        number = draw(st.integers(-1, len(inodes) - 1))
        if number >= 0:
            node = inodes[number]
            tree[path] = Node(**{**vars(node), "inode": number + 1, "dev": dev})
        else:
            tree[path] = draw(dirs)
    return tree


@st.composite
def pairs(draw: st.DrawFn) -> tuple[dict[bytes, Node], dict[bytes, Node]]:
    """Draw two trees that have inodes in common, or such that look alike."""
    inodes = draw(st.lists(files, min_size=1, max_size=5))
    inodes += draw(st.lists(st.sampled_from(inodes), max_size=3))
    lower = draw(trees(inodes, dev=1))
    upper = draw(trees(inodes, dev=draw(st.sampled_from([1, 2]))))
    if draw(st.booleans()):
        upper = {**{p: Node(**{**vars(n), "dev": 2}) for p, n in lower.items()}, **{p: upper[p] for p in upper if p in lower}}
        upper = consistent(upper)
    return lower, upper


def consistent(tree: Tree) -> dict[bytes, Node]:
    """Drop what lies below something that is no directory."""
    kept: dict[bytes, Node] = {}
    for path in sorted(tree, key=lambda p: p.replace(b"/", b"\0")):
        above = path.rpartition(b"/")[0]
        if not path or (above in kept and kept[above].type == "5"):
            kept[path] = tree[path]
    return kept


def table(tree: Tree) -> EntryTable:
    """Return a tree's table, as a walk would make it."""
    ordered = sorted(tree, key=lambda p: p.replace(b"/", b"\0"))
    first: dict[tuple[int, int], int] = {}
    rows = []
    counts: dict[tuple[int, int], int] = {}
    for node in tree.values():
        counts[node.dev, node.inode] = counts.get((node.dev, node.inode), 0) + (node.type != "5")
    for row, path in enumerate(ordered):
        node = tree[path]
        group = -1
        if node.type != "5" and counts[node.dev, node.inode] > 1:
            group = first.setdefault((node.dev, node.inode), row)
        rows.append({
            "path": path, "type": node.type, "mode": node.mode, "uid": node.uid, "gid": node.gid,
            "mtime_ns": node.mtime_ns, "size": len(node.content) if node.type == "0" else 0, "xattrs": node.xattrs,
            "link_target": node.target if node.type == "2" else b"", "link_group": group, "dev": node.dev,
            "ino": node.inode if node.type != "5" else 1000 + row,
            **(dict(zip(("rdev_major", "rdev_minor"), node.rdev, strict=True)) if node.type in "34" else {}),
        })  # fmt: skip
    return table_of(rows, origin="tree", order="path")


class Merge:
    """A merge with output arrays of any length; ``fit`` makes each array."""

    def __init__(self, a: Any, b: Any, options: int = 0, *, cap: int = 64, fit: Callable[[Any], Any] = np.array) -> None:
        self.a, self.b, self.options = a, b, options
        n = len(b[0])
        self.match = fit(np.zeros(n, np.int32))
        self.state = np.array([0, 0, 0, -1], np.int64)
        self.out = [fit(np.zeros(cap, kind)) for kind in (np.uint8, np.int32, np.int32, np.uint16)]
        self.rows: list[tuple[int, ...]] = []

    def run(self) -> list[tuple[int, ...]]:
        """Return (kind, lower row, upper row, why) of each output row."""
        full = OUTPUT_FULL
        while full == OUTPUT_FULL:
            self.state[2] = 0
            full = kernel.merge(self.a, self.b, self.state, self.options, *self.out, self.match)
            n = int(self.state[2])
            self.rows += list(zip(*(column[:n].tolist() for column in self.out), strict=True))
        return self.rows


def differences(lower: Tree, upper: Tree, content: str, *, dir_mtime: bool = False, **options: Any) -> list[Difference]:
    """Do what lamella.changes does, contents taken from the nodes, in words of the oracle."""
    a, b = table(lower), table(upper)
    merge = Merge(a.columns, b.columns, OPTIONS[content] | DIR_MTIME * dir_mtime, **options)
    found: dict[bytes, Difference] = {}
    dirty = np.zeros(len(b), np.uint8)
    for kind, low, up, bits in merge.run():
        path = b.path(up) if up >= 0 else a.path(low)
        why = bits & ~UNDECIDED
        if bits & UNDECIDED:
            why |= Why.CONTENT.value * (lower[path].content != upper[path].content)
            if not why:
                continue
        if up >= 0:
            dirty[up] = 1
        found[path] = Difference(KINDS[kind], path, Why(why))
    flags = np.zeros(len(b), np.uint8)
    kernel.links(a.columns, b.columns, merge.match, dirty, np.empty(len(b), np.int32), np.empty(len(a), np.int32), flags)
    for row in np.flatnonzero(flags & 4).tolist():
        path = b.path(row)
        why = found[path].why if path in found else Why(0)
        found[path] = Difference(ChangeKind.MODIFY, path, why | Why.LINKS)
    return [found[path] for path in sorted(found, key=lambda p: p.replace(b"/", b"\0"))]
