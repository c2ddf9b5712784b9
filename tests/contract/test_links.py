"""Hard links and symlinks: items 41 to 53."""

from __future__ import annotations

import os
import tarfile

import pytest

import lamella
from lamella.errors import ConflictError, UnsafePathError
from lamella.model import ChangeKind, Why
from lamella.testing.listing import compare, listing
from lamella.testing.tars import Member, directory, file, hardlink, layer_tar, symlink, whiteout
from lamella.testing.trees import MTIME_NS, Device, Dir, Edit, Fifo, File, Hardlink, Remove, Symlink, Write
from tests.contract.workbench import (
    AS_ROOT,
    DIR,
    apply,
    attempt,
    changed,
    diff,
    diffed,
    entries,
    found,
    redone,
    shape,
    tree,
)

LOWER: tuple[Edit, ...] = (Dir("d"), File("d/f", b"low"), Symlink("s", "d/f"), Symlink("sd", "d"))


def test_041_a_link_to_a_symlink_is_a_second_name_of_the_symlink(scratch):
    root = tree(scratch / "r", *LOWER)
    apply(root, hardlink("h", "s"), symlink("new", "nowhere"), hardlink("i", "new"))
    assert shape(root)["h"] == "-> d/f"
    assert found(root, "h").links == (b"h", b"s")
    assert found(root, "i").links == (b"i", b"new")


@pytest.mark.parametrize("target", ["sd/f", "./d//f", "abs/f", "d/up/d/f"])
def test_041_the_targets_folders_are_resolved_from_the_root(scratch, target):
    root = tree(scratch / "r", *LOWER, Symlink("abs", "/d"), Symlink("d/up", "../.."))
    apply(root, directory("deep/er"), hardlink("deep/er/h", target))
    assert found(root, "d/f").links == (b"d/f", b"deep/er/h")


@pytest.mark.parametrize("target", ["/d/f", "//d/f", "./d/f"])
def test_042_absolute_targets_start_at_the_root(scratch, target):
    root = tree(scratch / "r", *LOWER)
    apply(root, hardlink("h", target))
    assert found(root, "h").links == (b"d/f", b"h")


@pytest.mark.parametrize("target", ["../passwd", "d/../../passwd", "/../passwd", "d/../d/f", ".."])
def test_042_dots_in_a_target_are_refused(box, target):
    outcome = attempt(box, LOWER, file("before"), hardlink("h", target))
    assert UnsafePathError.__name__ in outcome.kind
    assert outcome.attributes["target"] in {target.encode(), target.lstrip("/").encode()}
    assert b"h" not in outcome.tree


def test_043_a_link_to_a_file_of_a_lower_layer(scratch):
    root = tree(scratch / "r", *LOWER)
    apply(root, hardlink("h", "d/f"))
    assert shape(root)["h"] == b"low"
    assert found(root, "h").links == (b"d/f", b"h")


@pytest.mark.requires("user_xattr")
def test_043_on_an_overlay_the_lower_file_is_copied_up_first(scratch):
    own = {"mode": 0o640, "mtime_ns": 77, "xattrs": {"user.x": b"1"}}
    lower = tree(scratch / "lower", Dir("d", mode=0o711, mtime_ns=5), File("d/f", b"low", **own), Symlink("s", "d/f"))
    upper = tree(scratch / "upper")
    apply(upper, hardlink("h", "d/f"), hardlink("t", "s"), dialect="overlay:user", parents=[lower])
    assert shape(upper) == {"d": DIR, "d/f": b"low", "h": b"low", "s": "-> d/f", "t": "-> d/f"}
    above, below = listing(upper), listing(lower)
    assert above[b"h"] == above[b"d/f"] == below[b"d/f"]._replace(links=(b"d/f", b"h"))
    assert above[b"s"].links == (b"s", b"t")
    assert (above[b"d"].mode, above[b"d"].mtime_ns) == (0o711, below[b"d"].mtime_ns)
    assert below[b"d/f"].links == ()


@pytest.mark.requires("root", "devices", "user_xattr")
def test_043_what_is_copied_up_keeps_all_it_has(scratch):
    own = {"mode": 0o6755, "uid": 1000, "gid": 1001, "mtime_ns": 5, "xattrs": {"trusted.a": b"1"}}
    kinds = (File("f", b"f" * 70_000, **own), Fifo("p", **own), Device("c", 1, 3, **own), Symlink("s", "t", uid=7))
    lower, upper = tree(scratch / "lower", *kinds), tree(scratch / "upper")
    apply(upper, *(hardlink(f"of-{n}", n) for n in "fpcs"), dialect="overlay", parents=[lower])
    above, below = listing(upper), listing(lower)
    for n in (b"f", b"p", b"c", b"s"):
        assert above[n] == above[b"of-" + n] == below[n]._replace(links=tuple(sorted((n, b"of-" + n))))


@pytest.mark.requires("user_xattr")
@pytest.mark.parametrize("path", ["d", "h"])
def test_043_a_directory_of_a_parent_is_no_target_either(scratch, path):
    lower, upper = tree(scratch / "lower", *LOWER), tree(scratch / "upper")
    with pytest.raises(ConflictError):
        apply(upper, hardlink(path, "d"), dialect="overlay:user", parents=[lower])


@pytest.mark.parametrize("target", ["missing", "d/missing", "d/f/below", "d", "", "/", "s/below"])
def test_043_a_target_that_is_no_file_is_a_conflict(scratch, target):
    root = tree(scratch / "r", *LOWER)
    with pytest.raises(ConflictError) as caught:
        lamella.apply(layer_tar([hardlink("h", target)]), root, rootless=not AS_ROOT)
    assert caught.value.path in {b"h", target.encode()}
    assert "h" not in shape(root)


@pytest.mark.parametrize("path", ["d", "h", "sd"])
def test_043_a_directory_is_no_target_not_even_of_itself(scratch, path):
    root = tree(scratch / "r", *LOWER)
    with pytest.raises(ConflictError):
        lamella.apply(layer_tar([hardlink(path, "d")]), root, rootless=not AS_ROOT)
    assert shape(root)["d/f"] == b"low"


def test_044_a_link_before_the_whiteout_keeps_the_lower_inode(scratch):
    root = tree(scratch / "r", *LOWER)
    inode = (root / "d/f").stat().st_ino
    apply(root, hardlink("h", "d/f"), whiteout("d/f"), hardlink("g", "h"), whiteout("sd"))
    assert shape(root) == {"d": DIR, "h": b"low", "g": b"low", "s": "-> d/f"}
    assert (root / "h").stat().st_ino == inode


@pytest.mark.parametrize("marker", ["d/f", "d"])
def test_044_a_link_after_the_whiteout_is_a_conflict(scratch, marker):
    root = tree(scratch / "r", *LOWER)
    with pytest.raises(ConflictError):
        lamella.apply(layer_tar([whiteout(marker), hardlink("h", "d/f")]), root, rootless=not AS_ROOT)
    assert "h" not in shape(root)


def test_044_a_link_to_what_the_layer_made_there_is_fine(scratch):
    root = tree(scratch / "r", *LOWER)
    apply(root, whiteout("d/f"), file("d/f", b"new"), hardlink("h", "d/f"), whiteout("d/f"))
    assert shape(root)["h"] == shape(root)["d/f"] == b"new"


@pytest.mark.requires("root")
def test_046_a_link_entry_does_not_dress_the_inode(scratch):
    root = tree(scratch / "r")
    own = {"mode": 0o600, "uid": 1, "gid": 2, "mtime_ns": 3, "xattrs": {"user.x": b"1"}}
    apply(root, file("a", b"a", **own), hardlink("b", "a", mode=0o777, uid=9, gid=9, mtime_ns=9, xattrs={"user.y": b"1"}))
    now = found(root, "b")
    assert (now.mode, now.uid, now.gid, now.mtime_ns, now.xattrs) == (0o600, 1, 2, 3, ((b"user.x", b"1"),))


@pytest.mark.requires("root")
@pytest.mark.parametrize("policy", ["moby", "containerd", "podman"])
def test_046_other_engines_let_the_last_link_win(scratch, policy):
    root = tree(scratch / "r")
    apply(root, file("a", b"a", uid=1, gid=2), hardlink("b", "a", uid=8, gid=9), policy=policy)
    assert (found(root, "a").uid, found(root, "a").gid) == (8, 9)


def test_047_the_body_of_a_link_entry_is_skipped(scratch):
    root = tree(scratch / "r")
    apply(root, file("a", b"data"), Member("b", "1", b"data", link="a"), file("c", b"next"))
    assert shape(root) == {"a": b"data", "b": b"data", "c": b"next"}
    assert found(root, "b").links == (b"a", b"b")


def test_048_the_first_name_of_a_set_carries_the_data(scratch):
    upper = tree(scratch / "u", Dir("z"), File("z/f", b"1"), Hardlink("a-b", "z/f"), Dir("a"), Hardlink("a/c", "z/f"))
    found_ = diffed(None, upper)
    kinds = {n: (m.type, m.linkname) for n, m in found_.items() if not m.isdir()}
    assert kinds == {"a/c": (tarfile.REGTYPE, ""), "a-b": (tarfile.LNKTYPE, "a/c"), "z/f": (tarfile.LNKTYPE, "a/c")}


@pytest.mark.requires("root", "mount")
def test_048_two_file_systems_may_use_the_same_inode_numbers(scratch):
    import subprocess

    upper = tree(scratch / "u", Dir("m"), Dir("n"))
    try:
        for name in ("m", "n"):
            subprocess.run(["mount", "-t", "tmpfs", "none", upper / name], check=True)
            tree(upper / name, File("f", name.encode()), Hardlink("g", "f"))
        assert (upper / "m/f").stat().st_ino == (upper / "n/f").stat().st_ino
        links = {n: m.linkname for n, m in diffed(None, upper).items() if m.islnk()}
        assert links == {"m/g": "m/f", "n/g": "n/f"}
    finally:
        for name in ("m", "n"):
            subprocess.run(["umount", upper / name], check=True)


@pytest.mark.parametrize("name", ["d/a", "d/z", "new"])
def test_049_a_new_link_to_an_unchanged_file_emits_the_file(scratch, name):
    edits = (*LOWER, File("other", b"o"))
    lower, upper = tree(scratch / "l", *edits), tree(scratch / "u", *edits, Hardlink(name, "d/f"))
    _, data = diff(lower, upper)
    members = entries(data)
    assert sorted(m.type for n, m in members.items() if n in {name, "d/f"}) == [tarfile.REGTYPE, tarfile.LNKTYPE]
    assert "other" not in members
    again = redone(scratch, edits, data)
    assert compare(again, upper) == []
    assert found(again, name).links == tuple(sorted([b"d/f", name.encode()]))


def test_049_a_modified_set_keeps_all_its_names(scratch):
    edits = (*LOWER, Hardlink("d/a", "d/f"), Hardlink("z", "d/f"))
    lower, upper = tree(scratch / "l", *edits), tree(scratch / "u", *edits, Write("z", b"changed"))
    again = redone(scratch, edits, diff(lower, upper)[1])
    assert compare(again, upper) == []
    assert found(again, "z").links == (b"d/a", b"d/f", b"z")


@pytest.mark.parametrize("content", ["auto", "always"])
def test_049_two_files_that_become_one_are_a_change(scratch, content):
    edits = (File("a", b"1"), File("b", b"1"))
    lower, upper = tree(scratch / "l", *edits), tree(scratch / "u", *edits, Hardlink("b", "a"))
    changes = changed(lower, upper, content=content)
    assert {path: change.why for path, change in changes.items()} in (
        {b"b": Why.LINKS},
        {b"a": Why.LINKS, b"b": Why.LINKS},
    )
    assert compare(redone(scratch, edits, diff(lower, upper)[1]), upper) == []


def test_049_a_set_that_parts_is_a_change(scratch):
    edits = (File("a", b"1"), Hardlink("b", "a"), Hardlink("c", "a"))
    lower = tree(scratch / "l", *edits)
    upper = tree(scratch / "u", *edits, File("c", b"1"), Hardlink("d", "c"))
    assert compare(redone(scratch, edits, diff(lower, upper)[1]), upper) == []


def test_050_a_link_count_alone_is_no_change(scratch):
    edits = (File("a", b"1"), Hardlink("b", "a"), File("x", b"2"))
    lower, upper = tree(scratch / "l", *edits), tree(scratch / "u", *edits, Remove("b"))
    os.link(upper / "x", scratch / "a name outside of the tree")
    assert {path: change.kind for path, change in changed(lower, upper).items()} == {b"b": ChangeKind.DELETE}


def test_051_a_symlinks_target_is_compared_whatever_its_size_and_time(scratch):
    lower = tree(scratch / "l", Symlink("s", "libc-2.23.so"), Symlink("same", "x"))
    upper = tree(scratch / "u", Symlink("s", "libc-2.24.so"), Symlink("same", "x"))
    changes = changed(lower, upper, content="never")
    assert {path: (c.kind, c.why) for path, c in changes.items()} == {b"s": (ChangeKind.MODIFY, Why.TARGET)}


def test_052_a_symlink_has_a_time_of_its_own_and_its_target_is_left_alone(scratch):
    root = tree(scratch / "r", *LOWER)
    before = found(root, "d/f")
    apply(root, symlink("new", "d/f", mode=0o777, mtime_ns=123), symlink("s", "d/f", mode=0o600, mtime_ns=4))
    assert (found(root, "new").mtime_ns, found(root, "s").mtime_ns) == (123, 4)
    assert found(root, "d/f") == before


@pytest.mark.requires("root")
def test_052_and_an_owner_and_attributes_of_its_own(scratch):
    root = tree(scratch / "r", *LOWER)
    before = found(root, "d/f")
    members = [symlink("new", "d/f", uid=7, gid=8, xattrs={"user.no": b"1", "trusted.yes": b"2"}), file("after", b"1")]
    result = apply(root, *members)
    now = found(root, "new")
    assert (now.uid, now.gid, now.xattrs) == (7, 8, ((b"trusted.yes", b"2"),))
    assert found(root, "d/f") == before
    assert len(result.warnings) == 1, "a symlink cannot have user.* attributes: said, and gone on"


TARGETS = [b"/etc/passwd", b"../../../x", b"a//b/./c/", b"/", b"..", b"\xff\xfe", b" ", b"t" * 4000]


def test_053_targets_are_stored_as_they_are(scratch):
    root = tree(scratch / "r")
    apply(root, *(symlink(f"s{i}", target) for i, target in enumerate(TARGETS)))
    assert [os.readlink(os.fsencode(root / f"s{i}")) for i in range(len(TARGETS))] == TARGETS
    again = redone(scratch, (), diff(None, root)[1])
    assert compare(again, root) == []
    assert found(again, "s0").mtime_ns == MTIME_NS
