"""What the contract's tests share: apply members to a tree, diff two trees, and say in few words what came out.

Every plain apply is also compared, metadata complete, with the slow model of tests/reference/apply.py.
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path
from typing import Any

import lamella
from lamella.errors import LamellaError
from lamella.testing.listing import Found, compare, listing
from lamella.testing.tars import Member, layer_tar
from lamella.testing.trees import Edit, build
from tests.reference import apply as reference
from tests.sandbox import Outcome, Sandbox, apply_members, in_moat

DIR = "dir"
FIFO = "fifo"
MODELLED = {"keep_dirlinks"}
AS_ROOT = os.geteuid() == 0


def tree(where: Path, *edits: Edit, **options: Any) -> Path:
    """Build a tree."""
    return build(where, *edits, **options)


def apply(root: Path, *members: Member | bytes, style: str = "pax", **options: Any) -> Any:
    """Apply a layer of ``members``; compare with the model where that knows all that the layer uses."""
    known = set(options) <= MODELLED and AS_ROOT and all(isinstance(m, Member) and plain(m) for m in members)
    there = root.exists()
    model = None if not known else reference.read_tree(root) if there else reference.Tree(reference.Inode("dir"))
    options.setdefault("rootless", not AS_ROOT)
    result = lamella.apply(layer_tar(members, style=style), root, **options)
    if model is not None:
        options.pop("rootless")
        reference.apply(model, members, **options)
        assert compare(model.listing(), root, () if there else {"root"}) == []
    return result


def plain(member: Member) -> bool:
    """Tell whether the model understands every field of a member."""
    return not member.pax and not member.header and member.size is None and member.type not in "gxLK"


def attempt(box: Sandbox, lower: tuple[Edit, ...], *members: Member | bytes, **options: Any) -> Outcome:
    """Apply a hostile layer in the sandbox; nothing around the root was changed or read, whatever came out."""
    options.setdefault("rootless", not AS_ROOT)
    outcome = box.call(in_moat, lower, apply_members, list(members), **options)
    assert outcome.escaped == []
    assert outcome.leaked == []
    assert not outcome.kind or LamellaError.__name__ in outcome.kind or "OSError" in outcome.kind, outcome.trace
    return outcome


def shape(root: Path | dict[bytes, Found], folder: str = "") -> dict[str, Any]:
    """Return what is below ``root``, in short: a file's content, ``"-> TARGET"``, DIR, FIFO, a device's three words."""
    if isinstance(root, dict):
        return {os.fsdecode(p): f.type for p, f in root.items() if p}
    out: dict[str, Any] = {}
    for path in sorted((root / folder).rglob("*")):
        out[os.fspath(path.relative_to(root))] = what(path)
    return out


def what(path: Path) -> Any:
    """Return what is at ``path``, in short."""
    st = path.lstat()
    kind = stat.S_IFMT(st.st_mode)
    if kind == stat.S_IFREG:
        return path.read_bytes()
    if kind == stat.S_IFLNK:
        return f"-> {os.readlink(path)}"
    if kind in {stat.S_IFCHR, stat.S_IFBLK}:
        return ("char" if kind == stat.S_IFCHR else "block", os.major(st.st_rdev), os.minor(st.st_rdev))
    return {stat.S_IFDIR: DIR, stat.S_IFIFO: FIFO, stat.S_IFSOCK: "socket"}[kind]


WHITEOUT = ("char", 0, 0)


def diff(lower: Path | None, upper: Path | None, **options: Any) -> tuple[Any, bytes]:
    """Diff two trees into an uncompressed layer; return its LayerInfo and bytes."""
    out = io.BytesIO()
    info = lamella.diff(lower, upper, out, **{"compression": "none", **options})
    return info, out.getvalue()


def entries(data: bytes) -> dict[str, tarfile.TarInfo]:
    """Read a tar with the standard library: its members by name, in order; a name that comes twice is an error."""
    with tarfile.open(fileobj=io.BytesIO(data), errorlevel=2) as tar:
        members = tar.getmembers()
    found = {member.name: member for member in members}
    assert len(found) == len(members)
    return found


def diffed(lower: Path | None, upper: Path | None, **options: Any) -> dict[str, tarfile.TarInfo]:
    """Diff two trees; return the layer's members by name. The layer must make ``upper`` of ``lower``."""
    return entries(diff(lower, upper, **options)[1])


def redone(scratch: Path, edits: tuple[Edit, ...], data: bytes) -> Path:
    """Build a tree of ``edits`` anew, apply the layer ``data``, and return it."""
    root = build(scratch / f"redone-{len(os.listdir(scratch))}", *edits)
    lamella.apply(data, root, rootless=not AS_ROOT)
    return root


def changed(lower: Path | None, upper: Path | None, **options: Any) -> dict[bytes, Any]:
    """Return the changes between two trees by path."""
    changes = list(lamella.changes(lower, upper, **options))
    found = {change.path: change for change in changes}
    assert len(found) == len(changes)
    return found


def found(root: Path, path: str | bytes) -> Found:
    """Return all that is known of one path."""
    return listing(root)[os.fsencode(path)]
