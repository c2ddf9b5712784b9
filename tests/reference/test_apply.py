"""The slow model agrees with umoci, an engine of other authors, where that engine takes no choice of its own."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from lamella.errors import LamellaError
from lamella.testing import strategies
from lamella.testing.listing import compare, listing
from lamella.testing.tars import Member, directory, file, hardlink, layer_tar, opaque, symlink, whiteout
from tests.image.layouts import HandMade
from tests.laws.ground import fresh
from tests.reference import apply as reference

pytestmark = pytest.mark.requires("umoci", "root")
BASE = [
    directory("d", mode=0o700), file("d/x", b"x"), file("d/s/y", b"y"), symlink("ln", "d"), symlink("abs", "/d/s"),
    file("e", b"e"),
]  # fmt: skip
LAYERS = {
    "whiteouts": [whiteout("d/x"), whiteout("e"), whiteout("no/such")],
    "entry first": [file("d/x", b"n"), whiteout("d/x"), file("d/s/n"), whiteout("d/s")],
    "opaque last": [file("d/n"), opaque("d")],
    "opaque implied": [file("d/s/t/n"), opaque("d")],
    "through links": [file("ln/n"), whiteout("abs/y"), opaque("ln/s")],
    "made anew": [directory("ln"), opaque("ln"), whiteout("ln/x")],
    "link made": [symlink("d", "e"), whiteout("d/x")],
    "duplicates": [file("f", b"1"), hardlink("g", "f"), file("f", b"2")],
    "hard links": [hardlink("h", "ln/x"), hardlink("i", "ln"), whiteout("d/x")],
    "swaps": [directory("e"), file("e/in"), file("d", b"now a file")],
    "root": [Member("./", "5", mode=0o711, uid=1, mtime_ns=5), opaque()],
}


def umoci(where, *layers: list[Member]) -> dict | None:
    """Return the tree that umoci makes of layers, None where it refuses them."""
    made = HandMade(where / "image", tars=[layer_tar(layer) for layer in layers]).write()
    argv = ["umoci", "raw", "unpack", "--image", f"{made.path}:latest", where / "tree"]
    done = subprocess.run(argv, capture_output=True, check=False)
    return listing(where / "tree") if done.returncode == 0 else None


def same(model: reference.Tree, tree: dict) -> list[str]:
    """Compare; an implied directory's time is umoci's own (the clock's), and once lost it stays lost."""
    return compare(model.listing(), tree, {"root", "dir_mtime"})


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_upon_a_base(scratch, name):
    model = reference.Tree(reference.Inode("dir"))
    for layer in (BASE, LAYERS[name]):
        reference.apply(model, layer)
    assert same(model, umoci(scratch, BASE, LAYERS[name])) == []


def no_symlinks(layer: list[Member]) -> bool:
    """Leave out what umoci sees in another way: it makes the directory that a dead link names (item 31)."""
    return all(member.type != "2" for member in layer)


# a child process an example: shrinking one would take minutes
@settings(
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much], max_examples=30, phases=[Phase.generate]
)
@given(st.lists(strategies.layers(max_size=6).filter(no_symlinks), min_size=2, max_size=3))
def test_random_layers_without_symlinks(home, layers):
    model = reference.Tree(reference.Inode("dir"))
    try:
        for layer in layers:
            reference.apply(model, layer)
    except (LamellaError, reference.Unspecified):
        assume(False)
    assume(not model.n_renewed)  # umoci keeps their lower metadata, we make them anew (13)
    with fresh(home) as folder:
        theirs = umoci(folder, *layers)
        assume(theirs is not None)
        assert same(model, theirs) == []


def test_what_is_open_is_said():
    tree = reference.Tree(reference.Inode("dir"))
    reference.apply(tree, BASE)
    with pytest.raises(reference.Unspecified):
        reference.apply(tree, [hardlink("d", "d/x")])
