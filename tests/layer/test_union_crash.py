"""A union whose process dies at any step: what it shows afterwards is what it showed before the call, or after it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from lamella._kernels import confine
from lamella.layer.union import Union
from lamella.testing.listing import compare
from lamella.testing.trees import Dir, File, build
from tests.unions import play, tree_of

pytestmark = pytest.mark.requires("user_xattr", "devices")

STEPS = ["rename", "mkdir", "mknod", "unlink", "rmdir", "link", "symlink", "setxattr", "removexattr", "chown", "utime",
         "ftruncate", "copy_file_range"]  # fmt: skip
SETTING = [
    ("unlink", b"gone"), ("unlink", b"d/gone"), ("mkdir", b"u"), ("create", b"u/f"), ("create", b"mine"),
    ("unlink", b"bare/x"), ("mkdir", b"own"), ("unlink", b"over"), ("mkdir", b"over"),
]  # fmt: skip
CALLS: dict[str, tuple[Any, ...]] = {
    "unlink lower": ("unlink", b"d/x"),
    "unlink both": ("unlink", b"over-both"),
    "unlink upper": ("unlink", b"mine"),
    "rmdir lower": ("rmdir", b"empty"),
    "rmdir merged": ("rmdir", b"bare"),
    "rmdir opaque": ("rmdir", b"over"),
    "create over a whiteout": ("create", b"gone"),
    "mkdir over a whiteout": ("mkdir", b"d/gone"),
    "symlink over a whiteout": ("symlink", b"t", b"gone"),
    "link over a whiteout": ("link", b"d/x", b"gone"),
    "rename lower": ("rename", b"d/x", b"d/new"),
    "rename lower over lower": ("rename", b"d/x", b"other"),
    "rename lower over a whiteout": ("rename", b"d/x", b"gone"),
    "rename upper over lower": ("rename", b"mine", b"d/x"),
    "rename a directory": ("rename", b"u", b"own/u"),
    "rename a directory over a whiteout": ("rename", b"u", b"gone"),
    "rename a directory that hides": ("rename", b"over", b"d/gone"),
    "chmod": ("chmod", b"d/deep/f", 0o600),
    "setxattr": ("setxattr", b"d/deep", b"user.a", b"1"),
}


class Killed(BaseException):
    """The process is gone."""


class Fuse:
    """Counts steps; when none is left, every further one ends the process, those of cleaning up too."""

    def __init__(self, left: int) -> None:
        self.left = left

    def around(self, step: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            if self.left <= 0:
                raise Killed
            self.left -= 1
            return step(*args, **kwargs)

        return run


def branches(folder: Path, dialect: str) -> list[Path]:
    lower = build(
        folder / "lower", File("gone"), Dir("d"), File("d/gone"), File("d/x", b"x" * 99), Dir("d/deep"), File("d/deep/f", b"f"),
        Dir("empty"), Dir("bare"), File("bare/x"), File("other", b"o"), Dir("over-dir"), File("over"), File("over-both"),
    )  # fmt: skip
    stack = [build(folder / "upper"), lower]
    with Union(stack, dialect=dialect) as union:
        assert [a for a in play(union, [*SETTING, ("chmod", b"over-both", 0o600)]) if not a.endswith("done")] == []
    return stack


def died(stack: list[Path], dialect: str, call: tuple[Any, ...], n: int) -> bool:
    """Run a call of which only ``n`` steps come to be; False if it was done by then."""
    fuse = Fuse(n)
    with Union(stack, dialect=dialect) as union, pytest.MonkeyPatch.context() as patch:
        for name in STEPS:
            patch.setattr(os, name, fuse.around(getattr(os, name)))
        for name in ("chmod", "rename"):
            patch.setattr(confine, name, fuse.around(getattr(confine, name)))
        try:
            result = getattr(union, call[0])(*call[1:])
        except Killed:
            return True
        if call[0] == "create":
            os.close(result)
        return False


def seen(stack: list[Path], dialect: str) -> Any:
    with Union(stack, dialect=dialect, writable=False) as union:
        return tree_of(union)


@pytest.mark.parametrize("dialect", ["overlay:user", "aufs"])
@pytest.mark.parametrize("name", CALLS)
def test_every_call_is_done_whole_or_not_at_all(scratch: Path, name: str, dialect: str) -> None:
    done = branches(scratch / "done", dialect)
    before = seen(done, dialect)
    assert not died(done, dialect, CALLS[name], 1000)
    after = seen(done, dialect)
    assert compare(before, after, {"mtime_ns"}) != []
    n = 0
    while True:
        stack = branches(scratch / f"{n}", dialect)
        if not died(stack, dialect, CALLS[name], n):
            break
        shown = seen(stack, dialect)
        assert [] in (compare(shown, tree, {"mtime_ns"}) for tree in (before, after)), f"after {n} steps"
        n += 1
        with Union(stack, dialect=dialect):
            pass
        assert {".wh..wh.orph", "upper.work"}.isdisjoint([*os.listdir(stack[0]), *os.listdir(stack[0].parent)])
    assert n > 0
