"""An upper directory as a changeset, the kernel's own overlay mounts as the judge; hand-made ones for what it never makes."""

from __future__ import annotations

from typing import Any

import pytest

from lamella.testing.trees import Chmod, Dir, Edit, File, Hardlink, Remove, Rename, Script, Symlink, Utime, Write, Xattr
from tests.overlays import OPTIONS, Step, grow

pytestmark = pytest.mark.requires("overlay")

TREE = Script((
    Dir("a", mode=0o750), File("a/one", b"1" * 700), File("a/two", b"2" * 9, xattrs={"user.k": b"v"}),
    Dir("a/deep"), File("a/deep/f", b"deep"), Dir("a/deep/er"), File("a/deep/er/g", b"er"),
    Dir("b"), File("b/x", b"x"), Symlink("b/ln", "x"), Hardlink("b/y", "b/x"), File("top", b"top"), Dir("empty"),
))  # fmt: skip

CASES: dict[str, list[list[Edit]]] = {
    "nothing": [[]],
    "add": [[File("a/new", b"new"), Dir("c"), File("c/f", b"f"), Symlink("c/l", "f")]],
    "write": [[Write("a/one", b"changed"), Write("top", b"++", 3)]],
    "same time, other bytes": [[Write("a/one", b"3" * 700, mtime_ns=None)]],
    "copied up, not changed": [[Chmod("a/one", 0o600), Chmod("a/one", 0o644), Utime("b", 5)]],
    "chmod": [[Chmod("a/one", 0o600), Chmod("a", 0o700), Chmod("", 0o711)]],
    "xattr": [[Xattr("a/two", "user.k", None), Xattr("a/deep", "user.d", b"1")]],
    "unlink": [[Remove("a/one"), Remove("b")]],
    "again": [[Remove("a"), Dir("a"), File("a/two", b"2")]],
    "again, the same": [[Remove("a/deep"), Dir("a/deep"), File("a/deep/f", b"deep"), Dir("a/deep/er")]],
    "a directory for a file": [[Remove("top"), Dir("top"), File("top/f", b"f")]],
    "a file for a directory": [[Remove("a"), File("a", b"f")]],
    "rename a file": [[Rename("a/one", "a/uno"), Rename("top", "b/top"), Rename("b/ln", "ln")]],
    "rename a directory": [[Rename("a", "z")]],
    "rename into": [[Rename("a/deep", "b/deep"), File("b/deep/new", b"new"), Remove("b/deep/f")]],
    "rename in renamed": [[Rename("a", "z"), Rename("z/deep", "z/down"), Rename("z/down/er", "er")]],
    "rename over": [[Remove("b"), Rename("a", "b")]],
    "rename and make again": [[Rename("a", "z"), Dir("a"), File("a/one", b"other")]],
    "rename there and back": [[Rename("a", "z"), Rename("z", "a"), Chmod("a/one", 0o600)]],
    "link": [[Hardlink("b/new", "a/one"), Hardlink("top2", "top")]],
    "links parted": [[Write("b/x", b"other")]],
    "exchange": [[Rename("a", "t"), Rename("b", "a"), Rename("t", "b")]],
    "stack": [
        [Rename("a", "z"), Chmod("top", 0o600)],
        [File("z/deep/new", b"1"), Remove("z/one"), Chmod("z/two", 0o600)],
        [Rename("z", "y"), Rename("top", "y/top")],
        [Rename("y/deep", "deep"), Remove("y/two"), Chmod("y/top", 0o400), Chmod("deep/er/g", 0o400)],
    ],
    "stack of opaque": [
        [Remove("a"), Dir("a"), File("a/n", b"n")],
        [File("a/one", b"1"), Dir("a/deep")],
        [Remove("a/n"), Remove("a"), Dir("a")],
        [Dir("a/deep"), File("a/deep/f", b"f")],
    ],
}


def check(steps: list[Step]) -> None:
    for step in steps:
        assert step.wrong == [], step.upper
        assert step.ours == step.theirs, step.upper
        assert step.applied == [], step.upper
        assert step.layers_equal, step.upper


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("case", CASES)
def test_it_is_what_the_two_views_differ_in(box: Any, case: str, options: str) -> None:
    check(box.call(grow, TREE, [Script(tuple(edits)) for edits in CASES[case]], options))


@pytest.mark.parametrize("case", CASES)
def test_so_it_is_in_a_user_namespace(user_box: Any, case: str) -> None:
    check(user_box.call(grow, TREE, [Script(tuple(edits)) for edits in CASES[case]], "userxattr"))
