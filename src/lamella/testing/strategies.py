"""Hypothesis strategies: trees, edit scripts and layers, over few names so that they meet.

``privileged`` adds owners, devices and ``trusted.`` attributes, which only root can make. ``hostile`` layers hold what
a layer should not: apply them in a sandbox only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from lamella.testing import tars
from lamella.testing.tars import Member
from lamella.testing.trees import (
    MTIME_NS,
    Append,
    Chmod,
    Chown,
    Device,
    Dir,
    Edit,
    Fifo,
    File,
    Hardlink,
    Hole,
    Remove,
    Rename,
    Script,
    Symlink,
    Truncate,
    Utime,
    Write,
    Xattr,
)

__all__ = [
    "NAMES", "contents", "edit_of", "edit_scripts", "edits_of", "layers", "made_of", "member_of", "mtimes", "paths", "trees",
    "xattrs",
]  # fmt: skip

SECOND = 1_000_000_000
# "a-b" sorts between "a" and "a/b" as bytes, but after the subtree of "a" as paths
NAMES = [b"a", b"b", b"c", b"a-b", b"d.x", "\u00fc".encode(), b"\xff", b" \n", b"n" * 120]
TIMES = [
    0,
    1,
    -1,
    -1_500_000_000,
    MTIME_NS,
    MTIME_NS + 1,
    MTIME_NS + SECOND,
    2**33 * SECOND,
    4_000_000_000 * SECOND + 7,
]
TARGETS = [b"a", b"b", b"a/b", b"../a", b"..", b".", b"/a", b"/b/c", b"../../../..", b"missing", b"a/../b", b"\xff"]
MODES = [0o644, 0o600, 0o755, 0o4755, 0o2711, 0o1777, 0o0]
OWNERS = [0, 1, 1000, 2_097_152, 4_294_967_294]
HOSTILE_PATHS = [
    b"../passwd", b"a/../../passwd", b"/../passwd", b"..", b"a/..", b"../../land/secret", b"MOAT/passwd", b"/MOAT/new",
    b".wh.", b".wh..", b".wh...", b"a/.wh.", b"../.wh.passwd", b"a/../../.wh.passwd", b".wh..wh.plnk/1.2",
    b"../.wh..wh..opq", b".wh..wh.aufs", b"/", b"./", b"", b"//a", b"./a/./b", b"a//b/", b"d/" * 60 + b"f",
    b"n" * 300, (b"p" * 250 + b"/") * 16 + b"f", b"a\0b", b".wh.a/b", b"a/b/.wh.c/d",
]  # fmt: skip
HOSTILE_TARGETS = [
    b"MOAT", b"MOAT/treasure", b"../..", b"../treasure", b"../../moat", b"MOAT/passwd", b"../passwd", b"/..", b"/../..",
    b"/proc/self/root", b"/proc/self/cwd/..", b"", b"MOAT/treasure/trap", b"a", b"b/a", b"t" * 5000,
]  # fmt: skip
HOSTILE_TYPES = ["V", "M", "D", "X", "\0", "7", "S", "Z", "A"]


def contents() -> st.SearchStrategy[bytes]:
    """File contents: mostly a few bytes, often equal, sometimes over a block, a buffer or a page of zeros."""
    few = [b"", b"1", b"2", b"\0", b"x" * 512, b"x" * 513, bytes(4096), bytes(70_000), b"y" * 70_001]
    return st.sampled_from(few) | st.binary(max_size=40)


def mtimes() -> st.SearchStrategy[int]:
    """Times in nanoseconds: few, so that they collide, before 1970 and after 2038 too."""
    return st.sampled_from(TIMES)


def paths(max_depth: int = 3) -> st.SearchStrategy[bytes]:
    """Relative paths over few names."""
    name = st.sampled_from(NAMES[:3]) | st.sampled_from(NAMES)
    return st.lists(name, min_size=1, max_size=max_depth).map(b"/".join)


def xattrs(*, privileged: bool = False) -> st.SearchStrategy[dict[Any, bytes]]:
    """Extended attributes of a file or directory; no empty value, which pax cannot carry."""
    names = [b"user.a", b"user.b", b"user.\xff"] + ([b"trusted.a"] if privileged else [])
    values = st.sampled_from([b"1", b"2", b"\0=\n"])
    return st.just({}) | st.dictionaries(st.sampled_from(names), values, max_size=2)


def _metadata(*, privileged: bool) -> st.SearchStrategy[dict[str, Any]]:
    owners = st.sampled_from(OWNERS) if privileged else st.none()
    modes = st.sampled_from([*MODES[:3], 0o700]) if not privileged else st.sampled_from(MODES)
    return st.fixed_dictionaries({"mode": modes, "uid": owners, "gid": owners, "mtime_ns": mtimes()})


@st.composite
def _node(draw: st.DrawFn, path: bytes, known: Mapping[bytes, str], privileged: bool) -> tuple[Edit, str]:
    kinds = ["file", "file", "dir", "dir", "symlink", "hardlink", "fifo"] + (["char"] if privileged else [])
    kind = draw(st.sampled_from(kinds))
    meta = draw(_metadata(privileged=privileged))
    if kind == "hardlink":
        files = [p for p, k in known.items() if k != "dir" and p != path and not path.startswith(p + b"/")]
        if not files:
            kind = "file"
        else:
            target = draw(st.sampled_from(files))
            return Hardlink(path, target), known[target]
    if kind in {"file", "dir"}:
        meta["xattrs"] = draw(xattrs(privileged=privileged))
    if kind == "file":
        return File(path, draw(contents()), **meta), kind
    if kind == "dir":
        # an owner must be able to go in, or nothing more can be done below it
        return Dir(path, **{**meta, "mode": meta["mode"] | 0o700}), kind
    if kind == "symlink":
        return Symlink(path, draw(st.sampled_from(TARGETS)), **{**meta, "mode": None}), kind
    if kind == "char":
        return Device(path, draw(st.sampled_from([1, 5])), 3, draw(st.sampled_from(["char", "block"])), **meta), kind
    return Fifo(path, **meta), kind


def _below(path: bytes, known: Mapping[bytes, str]) -> list[bytes]:
    return [p for p in known if p == path or p.startswith(path + b"/")]


def _place(draw: st.DrawFn, known: dict[bytes, str]) -> bytes:
    # a path whose folder is there
    folders = [b"", *(p for p, k in known.items() if k == "dir" and p.count(b"/") < 3)]
    name = draw(st.sampled_from(NAMES[:3]) | st.sampled_from(NAMES))
    return os.path.join(draw(st.sampled_from(folders)), name)


def made_of(draw: st.DrawFn, known: dict[bytes, str], *, privileged: bool) -> Edit:
    """Draw something new for a tree of which the paths and their kinds are ``known``, and note it there."""
    path = _place(draw, known)
    if known.get(path) == "dir":
        lost = _below(path, known)
        edit, kind = draw(_node(path, {p: k for p, k in known.items() if p not in lost}, privileged))
        if kind != "dir":
            for p in lost:
                del known[p]
    else:
        edit, kind = draw(_node(path, {p: k for p, k in known.items() if p != path}, privileged))
    known[path] = kind
    return edit


@st.composite
def trees(draw: st.DrawFn, *, max_size: int = 14, privileged: bool = False) -> Script:
    """A script that builds a tree in an empty directory."""
    known: dict[bytes, str] = {}
    n = draw(st.integers(0, max_size))
    return Script(tuple(made_of(draw, known, privileged=privileged) for _ in range(n)))


def known_paths(script: Script) -> dict[bytes, str]:
    """Return the paths that ``script``, run in an empty directory, leaves there, with their kinds."""
    known: dict[bytes, str] = {}
    for edit in script.edits:
        path = os.fsencode(edit.path)
        kind = known.get(os.fsencode(edit.target), "file") if isinstance(edit, Hardlink) else _kind(edit)
        if kind != "dir":
            for p in _below(path, known):
                del known[p]
        known[path] = kind
    return known


def _kind(edit: Edit) -> str:
    return {"Device": "char"}.get(type(edit).__name__, type(edit).__name__.lower())


def edit_of(draw: st.DrawFn, known: dict[bytes, str], *, privileged: bool) -> Edit:
    """Draw an edit of a tree of which the paths and their kinds are ``known``, and note there what it leaves."""
    if not known or draw(st.integers(0, 9)) < 3:
        return made_of(draw, known, privileged=privileged)
    path = draw(st.sampled_from(sorted(known)))
    verbs = ["remove", "rename", "utime", "chmod", "write", "fill", "xattr"] + (["chown"] if privileged else [])
    verb, kind = draw(st.sampled_from(verbs)), known[path]
    if verb == "rename":
        to = _place(draw, {p: k for p, k in known.items() if p not in _below(path, known)})
        if not path.startswith(to + b"/") and to != path:
            moved = {to + p[len(path) :]: known.pop(p) for p in _below(path, known)}
            for p in _below(to, known):
                del known[p]
            known.update(moved)
            return Rename(path, to)
    if verb == "chmod" and kind != "symlink":
        return Chmod(path, draw(st.sampled_from(MODES)) | (0o700 if kind == "dir" else 0o600))
    if verb in {"write", "fill"} and kind == "file":
        return _filled(draw, path, verb)
    if verb == "xattr" and kind in {"file", "dir"}:
        return Xattr(path, b"user.z", draw(st.sampled_from([b"1", b"2"])))
    if verb == "chown":
        return Chown(path, draw(st.sampled_from(OWNERS)), draw(st.sampled_from(OWNERS)))
    if verb == "utime":
        return Utime(path, draw(mtimes()))
    for p in _below(path, known):
        del known[p]
    return Remove(path)


def _filled(draw: st.DrawFn, path: bytes, verb: str) -> Edit:
    ns = draw(st.sampled_from([None, MTIME_NS + SECOND, MTIME_NS]))
    if verb == "write":
        return Write(path, draw(contents()), draw(st.none() | st.just(0)), ns)
    size = st.sampled_from([0, 1, 3, 5_000, 70_000])
    return draw(
        st.one_of(
            st.builds(Append, st.just(path), contents(), mtime_ns=st.just(ns)),
            st.builds(Truncate, st.just(path), size, mtime_ns=st.just(ns)),
            st.builds(Hole, st.just(path), size, size, mtime_ns=st.just(ns)),
        )
    )


@st.composite
def edits_of(draw: st.DrawFn, kinds: Mapping[bytes, str], *, max_size: int = 8, privileged: bool = False) -> Script:
    """A script that changes a tree of which the paths and their kinds are known (``lamella.testing.listing`` types).

    The directories that it touches get a time of their own.
    """
    known = dict(kinds)
    n = draw(st.integers(0, max_size))
    edits = tuple(edit_of(draw, known, privileged=privileged) for _ in range(n))
    return Script(edits, dir_mtime_ns=MTIME_NS + 3 * SECOND + 3)


def edit_scripts(tree: Script, *, max_size: int = 8, privileged: bool = False) -> st.SearchStrategy[Script]:
    """A script that changes the tree that ``tree`` builds in an empty directory."""
    return edits_of(known_paths(tree), max_size=max_size, privileged=privileged)


def _link(draw: st.DrawFn, path: bytes, earlier: list[Member], *, hostile: bool) -> bytes:
    # mostly a target that is there, or nearly every layer would be a conflict
    files = [m.path for m in earlier if m.type in "0236" and b".wh." not in os.fsencode(m.path)]
    if hostile and draw(st.integers(0, 5)) == 5:
        return draw(st.sampled_from(HOSTILE_TARGETS))
    if files and draw(st.integers(0, 9)) > 0:
        return os.fsencode(draw(st.sampled_from(files)))
    return draw(paths()) if draw(st.booleans()) else path


def member_of(draw: st.DrawFn, earlier: list[Member], *, hostile: bool, privileged: bool) -> Member:
    """Draw one member of a layer that has the ``earlier`` ones."""
    # most members are harmless in themselves: an engine that refuses the first one is not tried by the others
    path = draw(st.sampled_from(HOSTILE_PATHS)) if hostile and draw(st.integers(0, 9)) == 9 else draw(paths())
    kinds = ["file", "file", "dir", "dir", "symlink", "hardlink", "whiteout", "whiteout", "opaque", "fifo"]
    kinds += ["char"] if privileged else []
    kind = "type" if hostile and draw(st.integers(0, 29)) == 29 else draw(st.sampled_from(kinds))
    if kind == "whiteout":
        return tars.whiteout(path)
    if kind == "opaque":
        return tars.opaque(draw(st.just(b"") | st.just(path)))
    meta = {name: value for name, value in draw(_metadata(privileged=privileged)).items() if value is not None}
    targets = st.sampled_from(HOSTILE_TARGETS) if hostile and draw(st.booleans()) else st.sampled_from(TARGETS)
    if kind in {"file", "dir"}:
        meta["xattrs"] = draw(xattrs(privileged=privileged))
    if kind == "file":
        return tars.file(path, draw(contents()), **meta)
    if kind == "dir":
        return tars.directory(path, **{**meta, "mode": meta["mode"] | 0o700})
    if kind == "symlink":
        return tars.symlink(path, draw(targets), **meta)
    if kind == "hardlink":
        return tars.hardlink(path, _link(draw, path, earlier, hostile=hostile), **meta)
    if kind == "char":
        return tars.char(path, 1, draw(st.sampled_from([3, 5])), **meta)
    if kind == "type":
        return Member(path, draw(st.sampled_from(HOSTILE_TYPES)), draw(contents()), link=draw(targets))
    return tars.fifo(path, **meta)


@st.composite
def layers(draw: st.DrawFn, *, max_size: int = 12, hostile: bool = False, privileged: bool = False) -> list[Member]:
    """The members of a layer in no order: markers, links, type swaps, duplicates; any tree may be its lower."""
    members: list[Member] = []
    for _ in range(draw(st.integers(0, max_size))):
        members.append(member_of(draw, members, hostile=hostile, privileged=privileged))
    return members
