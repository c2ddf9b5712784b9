"""A policy is one value, and each preset does at each point what its engine was seen to do (November 2026).

What the installed programs do themselves is in test_peers.py. Here stand, as facts, also those of engines that cannot be
installed for a test: Docker 20.10 with its vfs and btrfs drivers ("moby"), containerd 1.6 with its native snapshotter
("containerd"), containers-storage 1.43 with vfs and btrfs ("podman"), umoci. The drivers that write overlay upper
directories refuse several of these layers; a preset does what the engine does to a directory.
"""

from __future__ import annotations

import dataclasses
import os
import stat
import time
from typing import Any

import pytest

import lamella
from lamella.errors import ConflictError, UnsafePathError
from lamella.layer.policy import POLICIES, Policy, policy_of
from lamella.testing.listing import Found, listing
from lamella.testing.tars import Member, char, directory, file, hardlink, layer_tar, opaque, whiteout
from lamella.testing.trees import Dir, File, Symlink, build

AS_ROOT = os.geteuid() == 0
NS = 10**9
ENGINES = ("moby", "containerd", "podman")
EVERY = ("spec", "umoci", *ENGINES)
LOWER = (
    Dir("dir", mtime_ns=7 * NS), File("dir/a", b"a"), File("dir/b", b"b"), File("f", b"f"), Dir("real", mtime_ns=5 * NS), File("real/x", b"x"),
    Symlink("ln", "real"),
)  # fmt: skip


def done(where, policy: str | Policy, *members: Member, **options: Any) -> dict[bytes, Found]:
    """Apply to the lower tree and return what is there then."""
    root = build(where / "r", *LOWER)
    os.utime(root / "dir", ns=(7 * NS, 7 * NS))
    os.utime(root / "real", ns=(5 * NS, 5 * NS))
    os.utime(root, ns=(3 * NS, 3 * NS))
    lamella.apply(layer_tar(members), root, policy=policy, **{"rootless": not AS_ROOT, **options})
    return listing(root)


def seen(value: object, *names: str) -> list[Any]:
    return [pytest.param(name, value, id=f"{name}") for name in names]


# -- the value ------------------------------------------------------------------------------------------------------


def test_a_policy_is_frozen_compared_by_value_and_made_by_field():
    assert Policy() == Policy()
    assert hash(Policy()) == hash(Policy())
    assert dataclasses.replace(Policy(), parent_mode=0o700) != Policy()
    with pytest.raises(dataclasses.FrozenInstanceError):
        Policy().parent_mode = 0o700
    with pytest.raises(TypeError):
        Policy(nonsense=1)


def test_names_of_presets():
    assert set(POLICIES) == set(EVERY)
    assert policy_of("spec") == policy_of(Policy()) == Policy()
    assert {name: policy_of(name) for name in EVERY} == POLICIES
    for bad in ("docker", "", "Spec"):
        with pytest.raises(ValueError, match="spec"):
            policy_of(bad)


def test_an_unknown_policy_is_refused_before_anything_is_made(scratch):
    with pytest.raises(ValueError, match="nonsense"):
        lamella.apply(layer_tar([file("f")]), scratch / "r", policy="nonsense")
    assert os.listdir(scratch) == []


def test_a_preset_by_name_and_by_value_is_the_same(scratch):
    layer = [file("p/q"), file("n", mtime_ns=-1)]
    for how in ("moby", POLICIES["moby"]):
        made = done(scratch / str(isinstance(how, str)), how, *layer)
        assert (made[b"p"].mode, made[b"n"].mtime_ns) == (0o600 if AS_ROOT else 0o700, 0)


# -- what each engine does ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "kept"), [*seen(True, "spec", "umoci"), *seen(False, *ENGINES)])
def test_002_a_whiteout_after_the_entry_of_its_name(scratch, policy, kept):
    made = done(scratch, policy, file("f", b"new"), file("g", b"g"), whiteout("f"), whiteout("g"))
    assert ((b"f" in made), (b"g" in made)) == (kept, kept)


@pytest.mark.parametrize("policy", EVERY)
def test_012_a_whiteout_before_it(scratch, policy):
    made = done(scratch, policy, whiteout("f"), file("f", b"new"))
    assert made[b"f"].size == 3


@pytest.mark.parametrize("policy", EVERY)
def test_003_an_opaque_marker_is_as_if_first(scratch, policy):
    made = done(scratch, policy, directory("dir"), file("dir/n"), opaque("dir"))
    assert {p for p in made if p.startswith(b"dir")} == {b"dir", b"dir/n"}


@pytest.mark.requires("root")
@pytest.mark.parametrize(("policy", "mode"), [*seen(0o600, "moby"), *seen(0o755, "spec", "umoci", "containerd", "podman")])
def test_032_parents_without_an_entry(scratch, policy, mode):
    made = done(scratch, policy, file("p/q/f"))
    assert (made[b"p"].mode, made[b"p/q"].mode) == (mode, mode)


@pytest.mark.parametrize(("policy", "refused"), [*seen(False, "spec", "umoci", "containerd"), *seen(True, "moby", "podman")])
def test_037_a_path_twice(scratch, policy, refused):
    members = [file("n", b"1"), file("n", b"22")]
    if refused:
        with pytest.raises(ConflictError) as caught:
            done(scratch, policy, *members)
        assert caught.value.path == b"n"
    else:
        assert done(scratch, policy, *members)[b"n"].size == 2


@pytest.mark.requires("root")
@pytest.mark.parametrize(("policy", "kept"), [*seen((1, 0o600, 11 * NS), "spec", "umoci"), *seen((2, 0o640, 9 * NS), *ENGINES)])
def test_046_metadata_of_a_hard_links_entry(scratch, policy, kept):
    first = file("n", b"1", uid=1, mode=0o600, mtime_ns=11 * NS)
    made = done(scratch, policy, first, hardlink("m", "n", uid=2, mode=0o640, mtime_ns=9 * NS))
    assert (made[b"n"].uid, made[b"n"].mode, made[b"n"].mtime_ns) == kept
    assert made[b"n"].links == (b"m", b"n")


@pytest.mark.parametrize("policy", EVERY)
@pytest.mark.parametrize("member", [pytest.param(whiteout("dir/a"), id="deleted"), pytest.param(file("dir/n"), id="added")])
def test_054_the_time_of_a_parent_without_an_entry(scratch, policy, member):
    before = time.time_ns() - NS
    made = done(scratch, policy, member)[b"dir"]
    assert (made.mtime_ns == 7 * NS) == (policy not in ENGINES)
    assert (made.mtime_ns > before) == (policy in ENGINES)


@pytest.mark.parametrize(("policy", "kept"), [*seen(True, "spec", "umoci"), *seen(False, *ENGINES)])
def test_059_times_that_engines_clamp(scratch, policy, kept):
    times = {"before": -5 * NS, "beyond": 9_300_000_000 * NS, "first": 0, "late": 9_000_000_000 * NS + 1}
    made = done(scratch, policy, *(file(n, mtime_ns=t) for n, t in times.items()))
    found = {n: made[n.encode()].mtime_ns for n in times}
    assert found == (times if kept else {**times, "before": 0, "beyond": 0})


@pytest.mark.requires("root")
@pytest.mark.parametrize(("policy", "kept"), [*seen(True, "spec", "umoci", "moby", "podman"), *seen(False, "containerd")])
def test_064_trusted_attributes(scratch, policy, kept):
    made = done(scratch, policy, file("n", xattrs={"trusted.x": b"1", "user.y": b"2"}))
    assert [n for n, _ in made[b"n"].xattrs] == ([b"trusted.x"] if kept else []) + [b"user.y"]


@pytest.mark.parametrize(("policy", "applied"), [*seen(True, "spec", "umoci", "moby", "podman"), *seen(False, "containerd")])
def test_034_the_roots_own_entry(scratch, policy, applied):
    made = done(scratch, policy, Member("./", "5", mode=0o711, mtime_ns=9 * NS))
    assert made[b""].mode == (0o711 if applied else 0o755)


@pytest.mark.parametrize(("policy", "refused"), [*seen(False, "spec", "umoci"), *seen(True, *ENGINES)])
def test_031_an_entry_below_a_file(scratch, policy, refused):
    if refused:
        with pytest.raises(ConflictError) as caught:
            done(scratch, policy, file("f/x/y"))
        assert caught.value.path == b"f"
    else:
        made = done(scratch, policy, file("f/x/y"))
        assert [made[p].type for p in (b"f", b"f/x", b"f/x/y")] == ["dir", "dir", "file"]


@pytest.mark.parametrize("policy", EVERY)
def test_105_an_entry_through_a_lower_symlink_follows_it(scratch, policy):
    made = done(scratch, policy, file("ln/n", b"n"), whiteout("ln/x"))
    assert made[b"ln"].type == "symlink"
    assert {p for p in made if p.startswith(b"real")} == {b"real", b"real/n"}


def test_105_or_takes_its_place_where_that_is_asked_for(scratch):
    made = done(scratch, Policy(through_symlink="replace"), file("ln/n", b"n"))
    assert {p: made[p].type for p in (b"ln", b"ln/n", b"real", b"real/x")} == {
        b"ln": "dir", b"ln/n": "file", b"real": "dir", b"real/x": "file"
    }  # fmt: skip


@pytest.mark.requires("devices")
@pytest.mark.parametrize("policy", EVERY)
def test_024_a_0_0_device_is_one_in_a_plain_tree(scratch, policy):
    made = done(scratch, policy, char("z", 0, 0))
    assert (made[b"z"].type, made[b"z"].rdev) == ("char", (0, 0))


@pytest.mark.requires("devices")
@pytest.mark.parametrize("policy", EVERY)
def test_024_and_refused_where_it_would_be_a_whiteout(scratch, policy):
    with pytest.raises(UnsafePathError):
        lamella.apply(layer_tar([char("z", 0, 0)]), scratch / "r", dialect="overlay:user", policy=policy)
    made = dataclasses.replace(policy_of(policy), zero_device="make")
    lamella.apply(layer_tar([char("z", 0, 0)]), scratch / "r", dialect="overlay:user", policy=made)
    assert stat.S_ISCHR((scratch / "r/z").lstat().st_mode)


# -- fields one by one ----------------------------------------------------------------------------------------------

FIELDS = {
    "same_layer": "delete", "zero_device": "make", "nondir_ancestor": "error", "parent_mode": 0o700, "root_entry": "skip",
    "duplicates": "error", "link_metadata": "apply", "parent_mtime": "touch", "times": "zero", "trusted": "drop", "through_symlink": "replace",
}  # fmt: skip


def test_every_field_is_tried_here():
    assert FIELDS.keys() == {field.name for field in dataclasses.fields(Policy)}
    assert all(getattr(Policy(), name) != value for name, value in FIELDS.items())


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_leaves_an_ordinary_layer_alone(scratch, field):
    """The choices are about odd layers; what a builder writes is one tree under all of them."""
    members = [
        directory("dir", mtime_ns=9 * NS), file("dir/a", b"new"), directory("new", mode=0o711), file("new/f", b"1", mode=0o600), hardlink("new/g", "new/f", mode=0o600),
        whiteout("dir/b"), directory("real"), whiteout("real/x"), file("f", b"2"),
    ]  # fmt: skip
    plain = done(scratch / "plain", "spec", *members)
    other = done(scratch / "other", Policy(**{field: FIELDS[field]}), *members)
    assert {p: f._replace(mtime_ns=0) if not p else f for p, f in plain.items()} == {
        p: f._replace(mtime_ns=0) if not p else f for p, f in other.items()
    }
