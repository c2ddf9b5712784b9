"""What an apply owes its caller beside the tree: errors that say how far it came, presets that do what they name."""

from __future__ import annotations

import os
import subprocess

import pytest

import lamella
from lamella.errors import ConflictError, UnsafePathError
from lamella.testing.listing import listing
from lamella.testing.tars import directory, file, layer_tar, opaque, symlink, whiteout
from lamella.testing.trees import Dir, File, build

LIVING = (Dir("kept"), File("kept/f", b"f"))


@pytest.mark.parametrize(
    ("last", "error"),
    [(file("../x"), UnsafePathError), (file("n" * 300), OSError), (file(".wh."), lamella.errors.WhiteoutError)],
    ids=["unsafe", "os", "whiteout"],
)
def test_every_exception_into_a_living_tree_says_how_far_it_came(scratch, last, error):
    root = build(scratch / "r", *LIVING)
    with pytest.raises(error) as caught:
        lamella.apply(layer_tar([file("one", b"12"), last]), root, rootless=True)
    assert (caught.value.partial.files, caught.value.partial.bytes_written) == (1, 2)
    assert (root / "one").read_bytes() == b"12"


def test_an_exception_into_a_staged_root_leaves_nothing(scratch):
    with pytest.raises(UnsafePathError):
        lamella.apply(layer_tar([file("one"), file("../x")]), scratch / "r", rootless=True)
    assert list(scratch.iterdir()) == []


def test_a_wrong_digest_is_found_before_the_first_change(scratch):
    root = build(scratch / "r", *LIVING)
    before = listing(root)
    with pytest.raises(lamella.errors.DigestMismatchError):
        lamella.apply(layer_tar([file("one")]), root, rootless=True, expected_diff_id="sha256:" + "0" * 64)
    assert listing(root) == before


@pytest.mark.parametrize("policy", ["moby", "podman"])
def test_a_directory_that_was_only_implied_is_no_duplicate(scratch, policy):
    lamella.apply(layer_tar([file("a/f"), directory("a", mode=0o700)]), scratch / "r", policy=policy, rootless=True)
    assert listing(scratch / "r")[b"a"].mode == 0o700


@pytest.mark.parametrize("policy", ["moby", "podman"])
def test_a_path_that_is_there_twice_is_one(scratch, policy):
    with pytest.raises(ConflictError):
        lamella.apply(layer_tar([file("a", b"1"), symlink("a", "b")]), scratch / "r", policy=policy, rootless=True)


@pytest.mark.requires("root", "overlay")
@pytest.mark.parametrize("marker", [[opaque()], [opaque(), whiteout("f")]], ids=["alone", "with-a-whiteout"])
def test_an_opaque_root_hides_all_on_a_real_overlay(scratch, marker):
    lower = build(scratch / "lower", File("f"), Dir("d"), File("d/old"), Dir("gone"), File("gone/x"))
    upper, work, merged = (build(scratch / n) for n in ("upper", "work", "merged"))
    lamella.apply(layer_tar([*marker, file("d/new", b"n")]), upper, dialect="overlay", parents=[lower])
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, merged], check=True)
    try:
        assert {p for p in listing(merged) if p} == {b"d", b"d/new"}
    finally:
        subprocess.run(["umount", merged], check=True)


@pytest.mark.parametrize(
    "layer",
    [
        [opaque("a"), whiteout("a"), file("a/new")],
        [whiteout("a"), opaque("a"), file("a/new")],
        [whiteout("a/x"), whiteout("a"), file("a/new")],
        [whiteout("a/x"), file("a"), file("a/new")],
        [whiteout("a/d/y"), opaque("a"), file("a/d/new")],
    ],
)
def test_054_a_directory_made_anew_has_not_the_time_of_the_old_one(scratch, layer):
    """The old one's was noted when a marker touched it, and then it went."""
    root = scratch / "root"
    build(root, Dir("a"), File("a/x", b"1"), Dir("a/d"), File("a/d/y", b"2"), Dir("a/d", mtime_ns=7), Dir("a", mtime_ns=5))
    lamella.apply(layer_tar(layer), root, rootless=os.geteuid() != 0)
    made = listing(root)
    anew = b"a/d" if b"a/d/new" in made else b"a"
    assert made[anew].mtime_ns == 0
    assert made[b"a"].mtime_ns == (5 if anew == b"a/d" else 0)
