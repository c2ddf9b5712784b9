"""A branch (overlay upper directory, AUFS branch) says of every path what the layer says of it: cases that are easy to lose.

Each is what a random search once found; the law itself is tests/laws/test_l4_dialects.py.
"""

from __future__ import annotations

import os

import pytest

from lamella.testing.listing import compare
from lamella.testing.tars import directory, file, hardlink, opaque, symlink, whiteout
from lamella.testing.trees import Dir, File, Symlink
from tests.laws.ground import Script, apply, laid
from tests.laws.test_l4_dialects import decoded
from tests.reference import apply as reference

pytestmark = pytest.mark.requires("root", "user_xattr", "devices")
TREE = Script((
    Dir("a", mode=0o700), Dir("a/d", mode=0o711, mtime_ns=5), File("a/d/f", content=b"f"), Symlink("a/l", "../e"),
    Dir("e"), File("e/x", content=b"x"), Symlink("s", "a"), File("g", content=b"g"), Symlink("up", "../../.."),
))  # fmt: skip
CASES = {
    "file, then directory": [[file("a", b"1"), file("a/d/n", b"2")]],
    "implied, file, then implied": [[file("a/d/n"), file("a"), file("a/l/n")]],
    "directory that was a file, by two entries": [[file("a"), directory("a"), file("a/d/n")]],
    "marker first": [[whiteout("a"), file("a/d/n")]],
    "marker last": [[file("a/d/n"), whiteout("a")]],
    "marker of a file copied up": [[hardlink("h", "g"), whiteout("g")]],
    "marker above a file copied up": [[hardlink("h", "a/d/f"), whiteout("a")]],
    "opaque root over a symlink to itself": [[symlink("b", "b")], [opaque()]],
    "two symlinks on the way": [[file("s/l/n", b"n")]],
    "a symlink that the layer makes leads nowhere lower": [[symlink("a", "e"), whiteout("a/x")]],
    "a lower symlink to one that the layer makes": [[symlink("a", "e"), whiteout("s/x")]],
    "a marker through a symlink that another hides": [[whiteout("s"), whiteout("s/d")]],
    "redundant below an opaque directory": [[file("a/n"), opaque("a"), whiteout("a/d/f"), whiteout("a/d")]],
    "opaque two levels up in a parent": [[opaque("a"), directory("a/d")], [whiteout("a/d/f"), file("a/d/n")]],
    "a name that leads elsewhere later": [
        [symlink("up/c", "../a"), directory("c/d", mtime_ns=7), file("c"), directory("c"), directory("c/d", mtime_ns=9)],
    ],
    "a symlink replaced by what lies behind it": [[directory("s/d", mode=0o750), file("s/s"), directory("s"), file("s/d")]],
    "a symlink replaced through itself": [
        [symlink("a/k", "."), file("a/k/n"), file("a/k/k"), file("a/k/o"), directory("a/k"), file("a/k/p")],
    ],
}  # fmt: skip


@pytest.mark.parametrize("dialect", ["overlay:trusted", "overlay:user", "aufs"])
@pytest.mark.parametrize("name", CASES)
def test_a_branch_says_what_the_layer_says(scratch, name, dialect):
    stack, model = [laid(scratch / "lower", TREE)], reference.read_tree(laid(scratch / "plain", TREE))
    plain = laid(scratch / "applied", TREE)
    for i, layer in enumerate(CASES[name]):
        reference.apply(model, layer)
        apply(layer, plain)
        apply(layer, laid(scratch / f"upper{i}"), dialect=dialect, parents=stack)
        stack.insert(0, scratch / f"upper{i}")
    again = reference.read_tree(stack[-1])
    for upper in stack[-2::-1]:
        reference.apply(again, decoded(upper, dialect))
    assert compare(model.listing(), again.listing(), {"root", "links"}) == []
    assert compare(model.listing(), plain, {"root", "links"}) == []


def test_what_was_in_the_branch_before_gives_way_to_a_whiteout(scratch):
    lower, upper = laid(scratch / "lower", TREE), laid(scratch / "upper")
    apply([file("g", b"first"), file("a/d/n")], upper, dialect="overlay", parents=[lower])
    apply([whiteout("g"), whiteout("a")], upper, dialect="overlay", parents=[lower])
    for name in ("g", "a"):
        assert os.stat(upper / name).st_rdev == 0
        assert not (upper / name).is_dir()
