"""Opaque markers in the layer of an upper directory, which says nothing of what it keeps: only what is gone may go (19)."""

from __future__ import annotations

import io
import os
import socket
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import lamella
from lamella.layer.lowers import Branches
from lamella.testing.listing import compare, listing
from lamella.testing.trees import Chmod, Dir, Edit, File, Remove, Script, Symlink, build

pytestmark = pytest.mark.requires("user_xattr", "devices")

LOWER: tuple[Edit, ...] = (
    Dir("a"), File("a/x", b"x"), File("a/y", b"y"), Dir("a/d"), File("a/d/1", b"1"), File("a/d/2", b"2"), File("b", b"b"),
)  # fmt: skip
DIALECTS = ["overlay", "aufs"]


def whiteout(upper: Path, path: str, dialect: str) -> None:
    """Say in an upper directory, or a branch, that ``path`` is gone."""
    at = upper / path
    at.parent.mkdir(parents=True, exist_ok=True)
    if dialect == "aufs":
        (at.parent / f".wh.{at.name}").touch()
    else:
        os.mknod(at, stat.S_IFCHR, 0)


def opaque(path: Path, dialect: str) -> None:
    if dialect == "aufs":
        (path / ".wh..wh..opq").touch()
    else:
        os.setxattr(path, "user.overlay.opaque", b"y")


def layer(upper: Path, *parents: Path, **options: Any) -> bytes:
    out = io.BytesIO()
    lamella.diff_from_upper(upper, out, parents, compression="none", whiteouts="opaque", **options)
    return out.getvalue()


def marks(data: bytes) -> list[bytes]:
    return [entry.path for entry in lamella.read_layer(data) if b".wh." in entry.path]


def walked(before: Path, after: Path) -> bytes:
    out = io.BytesIO()
    lamella.diff(before, after, out, compression="none", whiteouts="opaque")
    return out.getvalue()


def settled(root: Path, like: Path) -> Path:
    """Give the directories of an upper directory the times that those of the merged view have."""
    for where, _, _ in os.walk(root, topdown=False):
        found = os.stat(like / Path(where).relative_to(root))
        os.utime(where, ns=(found.st_atime_ns, found.st_mtime_ns))
        os.chmod(where, found.st_mode & 0o7777)
    return root


@pytest.fixture
def lower(scratch: Path) -> Path:
    return build(scratch / "lower", *LOWER)


CASES: dict[str, tuple[Sequence[str], list[bytes]]] = {
    "one of several": (["a/x"], [b"a/.wh.x"]),
    "all but a directory": (["a/x", "a/y"], [b"a/.wh.x", b"a/.wh.y"]),
    "all": (["a/x", "a/y", "a/d"], [b"a/.wh..wh..opq"]),
    "one in a directory below": (["a/d/1"], [b"a/d/.wh.1"]),
    "all in a directory below": (["a/d/1", "a/d/2"], [b"a/d/.wh..wh..opq"]),
    "in both": (["a/x", "a/d/1"], [b"a/.wh.x", b"a/d/.wh.1"]),
    "one in the root": (["b"], [b".wh.b"]),
    "all in the root": (["a", "b"], [b".wh..wh..opq"]),
}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("case", CASES)
def test_019_a_marker_stands_where_nothing_is_kept(lower, scratch, dialect, case):
    removed, wanted = CASES[case]
    view = Script(tuple(Remove(path) for path in removed))
    after = build(scratch / "after", *LOWER)
    view.apply(after)
    upper = build(scratch / "upper")
    for path in removed:
        whiteout(upper, path, dialect)
    data = layer(settled(upper, after), lower, dialect=dialect)
    assert marks(data) == wanted
    assert data == walked(lower, after)
    lamella.apply(data, lower, rootless=os.geteuid() != 0)
    assert compare(listing(after), listing(lower), {"dir_mtime", "root"}) == []


@pytest.mark.parametrize("dialect", DIALECTS)
def test_019_what_a_parent_hides_is_not_kept(lower, scratch, dialect):
    middle, upper = build(scratch / "middle"), build(scratch / "upper")
    for path in ("a/y", "a/d"):
        whiteout(middle, path, dialect)
    whiteout(upper, "a/x", dialect)
    assert marks(layer(upper, middle, lower, dialect=dialect)) == [b"a/.wh..wh..opq"]
    (middle / "a" / "z").touch()
    assert marks(layer(upper, middle, lower, dialect=dialect)) == [b"a/.wh.x"]
    opaque(middle / "a", dialect)
    assert marks(layer(upper, middle, lower, dialect=dialect)) == []
    build(middle, File("a/x"))
    if dialect == "aufs":
        (middle / "a" / ".wh.x").unlink(missing_ok=True)
    assert marks(layer(upper, middle, lower, dialect=dialect)) == [b"a/.wh.x"]
    (middle / "a" / "z").unlink()
    assert marks(layer(upper, middle, lower, dialect=dialect)) == [b"a/.wh..wh..opq"]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_019_an_opaque_directory_keeps_nothing(lower, scratch, dialect):
    upper = build(scratch / "upper", Dir("a"), Dir("a/d"), File("a/d/1", b"1"))
    opaque(upper / "a", dialect)
    assert marks(layer(upper, lower, dialect=dialect)) == [b"a/.wh.x", b"a/.wh.y", b"a/d/.wh.2"]
    (upper / "a" / "d" / "1").unlink()
    assert marks(layer(upper, lower, dialect=dialect)) == [b"a/.wh.x", b"a/.wh.y", b"a/d/.wh..wh..opq"]


def test_019_a_renamed_directory_keeps_nothing_where_it_is_now(lower, scratch):
    """It comes in the place of another, and a directory that came with it has a whiteout."""
    build(lower, Dir("c"), File("c/z", b"z"), Dir("c/d"), File("c/d/1", b"c1"), File("c/d/3", b"3"))
    after = build(scratch / "after", *LOWER, Remove("a"), Dir("a"), File("a/z", b"z"), Dir("a/d"), File("a/d/3", b"3"))
    upper = build(scratch / "upper", Dir("a"), Dir("a/d"))
    os.setxattr(upper / "a", "user.overlay.redirect", b"/c")
    whiteout(upper, "c", "overlay")
    whiteout(upper, "a/d/1", "overlay")
    data = layer(settled(upper, after), lower)
    assert data == walked(lower, after)
    assert marks(data) == [b".wh.c", b"a/.wh.x", b"a/.wh.y", b"a/d/.wh..wh..opq"]
    lamella.apply(data, lower, rootless=os.geteuid() != 0)
    assert compare(listing(after), listing(lower), {"dir_mtime", "root"}) == []


def test_019_beside_a_redirect_in_a_parent(lower, scratch):
    """What is kept is below another name in a lower directory."""
    middle, upper = build(scratch / "middle", Dir("n")), build(scratch / "upper")
    os.setxattr(middle / "n", "user.overlay.redirect", b"/a")
    whiteout(middle, "a", "overlay")
    whiteout(upper, "n/x", "overlay")
    assert marks(layer(upper, middle, lower)) == [b"n/.wh.x"]
    for path in ("n/y", "n/d"):
        whiteout(middle, path, "overlay")
    assert marks(layer(upper, middle, lower)) == [b"n/.wh..wh..opq"]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_019_a_socket_is_nothing_that_a_layer_keeps(lower, scratch, dialect):
    build(lower, Remove("a/y"), Remove("a/d"))
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(lower / "a" / "s"))
    upper = build(scratch / "upper")
    whiteout(upper, "a/x", dialect)
    assert marks(layer(upper, lower, dialect=dialect)) == [b"a/.wh..wh..opq"]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_019_without_parents_nobody_knows_what_is_kept(scratch, dialect):
    upper = build(scratch / "upper", Dir("o"), Dir("a"), Symlink("l", "a"))
    opaque(upper / "o", dialect)
    for path in ("a/x", "b"):
        whiteout(upper, path, dialect)
    assert marks(layer(upper, dialect=dialect)) == [b".wh.b", b"a/.wh.x", b"o/.wh..wh..opq"]


def test_019_explicit_whiteouts_look_at_nothing_more(lower, scratch, monkeypatch):
    asked: list[int] = []
    names = Branches.names
    monkeypatch.setattr(Branches, "names", lambda self, shown, row: asked.append(row) or names(self, shown, row))
    upper = build(scratch / "upper", Chmod("", 0o700), Dir("new"), File("new/f"))
    whiteout(upper, "a/x", "overlay")
    changes = lamella.changes_from_upper(upper, [lower])
    changes.write(io.BytesIO())
    assert len(asked) == 0
    changes.write(io.BytesIO(), whiteouts="opaque")
    assert len(asked) == 1  # the one directory that lost a name
