"""One thing in the place of another, directories that merge, parents, roots, names and order: items 28 to 40."""

from __future__ import annotations

import hashlib
import itertools
import os

import pytest

import lamella
from lamella.errors import LamellaError
from lamella.testing.listing import listing
from lamella.testing.tars import (
    Member,
    directory,
    fifo,
    file,
    hardlink,
    layer_tar,
    opaque,
    pax_header,
    symlink,
    whiteout,
)
from lamella.testing.trees import MTIME_NS, Chmod, Device, Dir, Fifo, File, Symlink, Utime
from tests.contract.workbench import AS_ROOT, DIR, FIFO, apply, attempt, diff, found, redone, shape, tree
from tests.parts import requires

DAY = 86_400 * 1_000_000_000


@pytest.mark.requires("user_xattr")
def test_028_directory_over_directory_replaces_all_attributes(scratch):
    root = tree(scratch / "r", Dir("d", mode=0o2755, xattrs={"user.stale": b"1", "user.kept": b"1"}), File("d/f", b"1"))
    apply(root, directory("d", mode=0o711, mtime_ns=MTIME_NS + DAY, xattrs={"user.kept": b"2"}))
    assert shape(root) == {"d": DIR, "d/f": b"1"}
    now = found(root, "d")
    assert (now.mode, now.mtime_ns, now.xattrs) == (0o711, MTIME_NS + DAY, ((b"user.kept", b"2"),))


@pytest.mark.requires("root")
def test_028_the_owner_too(scratch):
    root = tree(scratch / "r", Dir("d", uid=1, gid=2), File("d/f"))
    apply(root, directory("d", uid=3, gid=4))
    assert (found(root, "d").uid, found(root, "d").gid) == (3, 4)


LOWER_KINDS = {
    "file": (File("x", b"old"),),
    "dir": (Dir("x"), File("x/child", b"c"), Dir("x/deep"), File("x/deep/er")),
    "symlink": (Symlink("x", "e"),),
    "symlink to dir": (Symlink("x", "t"),),
    "dead symlink": (Symlink("x", "nowhere"),),
    "fifo": (Fifo("x"),),
    "device": (Device("x", 1, 3),),
}
UPPER_KINDS = {
    "file": (file("x", b"new"), b"new"),
    "dir": (directory("x"), DIR),
    "symlink": (symlink("x", "e"), "-> e"),
    "fifo": (fifo("x"), FIFO),
    "hardlink": (hardlink("x", "e"), b"e"),
}


@pytest.mark.parametrize(("before", "after"), list(itertools.product(LOWER_KINDS, UPPER_KINDS)))
def test_029_any_other_pair_is_removed_and_made(scratch, before, after):
    if before == "device":
        requires("root", "devices")
    rest = (File("e", b"e"), Dir("t"), File("t/f", b"t"))
    root = tree(scratch / "r", *rest, *LOWER_KINDS[before])
    member, expected = UPPER_KINDS[after]
    apply(root, member)
    children = {"x/child": b"c", "x/deep": DIR, "x/deep/er": b""} if (before, after) == ("dir", "dir") else {}
    assert shape(root) == {"e": b"e", "t": DIR, "t/f": b"t", "x": expected, **children}


def test_029_a_file_written_anew_leaves_the_other_names_alone(scratch):
    root = tree(scratch / "r", File("a", b"old"))
    os.link(root / "a", root / "b")
    apply(root, file("a", b"new"))
    assert shape(root) == {"a": b"new", "b": b"old"}


def test_030_a_directory_replaces_a_symlink_to_one(scratch):
    root = tree(scratch / "r", Dir("usr"), Dir("usr/lib"), File("usr/lib/old", b"o"), Symlink("lib", "usr/lib"))
    apply(root, directory("lib"), file("lib/new", b"n"))
    assert shape(root) == {"usr": DIR, "usr/lib": DIR, "usr/lib/old": b"o", "lib": DIR, "lib/new": b"n"}


@pytest.mark.parametrize("target", ["usr/lib", "/usr/lib", "../../usr/lib", "usr/../usr/lib/."])
def test_030_keep_dirlinks_follows_it_inside_the_root(scratch, target):
    root = tree(scratch / "r", Dir("usr"), Dir("usr/lib"), File("usr/lib/old", b"o"), Symlink("lib", target))
    apply(root, directory("lib"), file("lib/new", b"n"), keep_dirlinks=True)
    assert shape(root) == {
        "usr": DIR, "usr/lib": DIR, "usr/lib/old": b"o", "usr/lib/new": b"n", "lib": f"-> {target}",
    }  # fmt: skip


def test_030_keep_dirlinks_still_replaces_other_links(scratch):
    root = tree(scratch / "r", File("f", b"f"), Symlink("a", "f"), Symlink("b", "nowhere"), Symlink("c", "c"))
    apply(root, *(directory(n) for n in "abc"), *(file(f"{n}/x") for n in "abc"), keep_dirlinks=True)
    assert shape(root) == {"f": b"f", **dict.fromkeys("abc", DIR), **{f"{n}/x": b"" for n in "abc"}}


def test_030_keep_dirlinks_does_not_leave_the_root(box):
    lower = (Symlink("a", "MOAT/treasure"), Symlink("b", "../treasure"), Dir("treasure"))
    members = [directory("a", mode=0o700), file("a/x"), directory("b", mode=0o700), file("b/x")]
    outcome = attempt(box, lower, *members, keep_dirlinks=True)
    assert outcome.kind == (), outcome.trace
    assert outcome.tree[b"b"].type == "symlink", "'..' of the root is the root"
    assert outcome.tree[b"treasure/x"].type == outcome.tree[b"a/x"].type == "file"


@pytest.mark.parametrize("way", ["lower", "same layer"])
@pytest.mark.parametrize("ancestor", ["file", "fifo", "dead link", "link to a file"])
def test_031_an_ancestor_that_is_no_directory_is_replaced(scratch, way, ancestor):
    edit = {
        "file": File("anc", b"1"), "fifo": Fifo("anc"), "dead link": Symlink("anc", "nowhere"),
        "link to a file": Symlink("anc", "e"),
    }[ancestor]  # fmt: skip
    member = {
        "file": file("anc", b"1"), "fifo": fifo("anc"), "dead link": symlink("anc", "nowhere"),
        "link to a file": symlink("anc", "e"),
    }[ancestor]  # fmt: skip
    root = tree(scratch / "r", File("e", b"e"), *([edit] if way == "lower" else []))
    result = apply(root, *([member] if way != "lower" else []), file("anc/b/c", b"c"))
    assert shape(root) == {"e": b"e", "anc": DIR, "anc/b": DIR, "anc/b/c": b"c"}
    assert len(result.warnings) == 1
    assert "anc" in str(result.warnings[0])


def test_032_missing_parents_are_plain_directories(scratch):
    root = tree(scratch / "r")
    apply(root, file("a/b/c", b"c", mode=0o600))
    for path in ("a", "a/b"):
        now = found(root, path)
        assert (now.mode, now.mtime_ns, now.xattrs) == (0o755, 0, ())


@pytest.mark.requires("root")
def test_032_an_implied_parent_inherits_nothing_of_its_folder(scratch):
    root = tree(scratch / "r", Dir("team", mode=0o2775, uid=1, gid=50))
    apply(root, file("team/implied/f"), directory("team/own", mode=0o755))
    assert [(found(root, p).gid, found(root, p).mode) for p in ("team/implied", "team/own")] == [(0, 0o755)] * 2


@pytest.mark.requires("user_xattr")
@pytest.mark.parametrize("nearest", [0, 1])
def test_032_missing_parents_are_those_of_the_lower_directories(scratch, nearest):
    mine = {"uid": 1, "gid": 2} if AS_ROOT else {}
    dressed = (
        Dir("a", mode=0o2711, mtime_ns=5, xattrs={"user.x": b"1"}, **mine),
        Dir("a/b", mode=0o700, mtime_ns=6),
        File("a/x"),
    )
    parents = [tree(scratch / "other", File("unrelated")), tree(scratch / "with", *dressed, Utime("a", 5))]
    parents = parents[::-1] if nearest else parents
    upper = tree(scratch / "upper")
    apply(upper, file("a/b/new/f", b"f"), dialect="overlay:user", parents=parents)
    below, above = listing(scratch / "with"), listing(upper)
    assert shape(upper) == {"a": DIR, "a/b": DIR, "a/b/new": DIR, "a/b/new/f": b"f"}
    for path in (b"a", b"a/b"):
        assert above[path] == below[path]
    assert (above[b"a/b/new"].mode, above[b"a/b/new"].mtime_ns) == (0o755, 0)


def test_032_a_later_entry_dresses_an_implied_parent(scratch):
    root = tree(scratch / "r")
    apply(root, file("a/f", b"f"), directory("a", mode=0o700, mtime_ns=7))
    assert (found(root, "a").mode, found(root, "a").mtime_ns) == (0o700, 7)


@pytest.mark.parametrize("name", ["pax_global_header", "deep/er/pax_global_header"])
def test_033_a_global_header_makes_no_path(scratch, name):
    records = pax_header({"comment": "made by git"})[512:1024]
    header = Member(name, "g", records[: records.index(b"\n") + 1])
    root = tree(scratch / "r", File("pax_global_header", b"a file of the image"))
    apply(root, header, file("f", b"f"))
    assert shape(root) == {"pax_global_header": b"a file of the image", "f": b"f"}


@pytest.mark.parametrize("name", [".", "./", "/", "//", "./."])
def test_034_the_entry_of_the_root_is_applied(scratch, name):
    root = tree(scratch / "r", File("f", b"f"))
    apply(root, Member(name, "5", mode=0o711, mtime_ns=7))
    assert shape(root) == {"f": b"f"}
    assert (found(root, "").mode, found(root, "").mtime_ns) == (0o711, 7)


@pytest.mark.parametrize("policy", ["containerd"])
def test_034_some_engines_skip_it(scratch, policy):
    root = tree(scratch / "r", Chmod("", 0o750))
    apply(root, directory("./", mode=0o711), policy=policy)
    assert found(root, "").mode == 0o750


@pytest.mark.parametrize("name", [".", "./", "/", ""])
@pytest.mark.parametrize("kind", "012346")
def test_034_the_root_stays_a_directory(box, name, kind):
    outcome = attempt(box, (File("f", b"f"),), Member(name, kind, link="MOAT/treasure" if kind == "2" else "f"))
    assert LamellaError.__name__ in outcome.kind
    assert shape(outcome.tree) == {"f": "file"}


def test_035_without_an_entry_the_root_keeps_its_metadata(scratch):
    root = tree(scratch / "r", Dir("", mode=0o711, mtime_ns=7), Utime("", 7))
    apply(root, file("f"))
    assert (found(root, "").mode, found(root, "").mtime_ns) == (0o711, 7)


def test_035_a_root_that_was_absent_is_a_plain_directory(scratch):
    apply(scratch / "new", file("f", b"f"))
    assert shape(scratch / "new") == {"f": b"f"}
    assert found(scratch / "new", "").mode == 0o755


def test_036_a_slash_does_not_make_a_directory_of_a_file(scratch):
    root = tree(scratch / "r")
    apply(root, Member("f/", "0", b"content"))
    assert shape(root) == {"f": b"content"}


def test_036_but_in_version_7_it_does(scratch):
    root = tree(scratch / "r")
    lamella.apply(layer_tar([Member("d/", "\0", mode=0o700), Member("f", "\0", b"1")], style="v7"), root, rootless=not AS_ROOT)
    assert shape(root) == {"d": DIR, "f": b"1"}


def test_037_the_last_of_duplicates_wins(scratch):
    root = tree(scratch / "r", File("f", b"0"))
    members = [file("f", b"1"), file("g", b"other"), file("f", b"22", mode=0o600), directory("d", mode=0o700)]
    apply(root, *members, directory("d", mode=0o711), symlink("s", "1"), symlink("s", "2"))
    assert shape(root) == {"f": b"22", "g": b"other", "d": DIR, "s": "-> 2"}
    assert (found(root, "f").mode, found(root, "d").mode) == (0o600, 0o711)


def test_037_a_duplicate_is_removed_first_and_not_written_into(scratch):
    root = tree(scratch / "r")
    apply(root, file("f", b"1"), hardlink("g", "f"), file("f", b"2"), directory("x"), file("x/y"), file("x", b"3"))
    assert shape(root) == {"f": b"2", "g": b"1", "x": b"3"}


def test_038_a_link_to_what_is_replaced_later_keeps_the_old_inode(scratch):
    root = tree(scratch / "r", File("low", b"low"))
    members = [file("a", b"first"), hardlink("b", "a"), symlink("a", "b"), hardlink("c", "low"), file("low", b"new")]
    apply(root, *members, hardlink("d", "a"))
    assert shape(root) == {"a": "-> b", "b": b"first", "c": b"low", "low": b"new", "d": "-> b"}


def test_039_any_order_is_legal(scratch):
    members = [
        file("z/y/x", b"x"), directory("z/y", mtime_ns=3), file("a", b"a"), directory("z", mode=0o700, mtime_ns=4),
        whiteout("old"), file("z/a", b"za"), opaque("lower"), symlink("m", "z"), file("b", b"b"),
    ]  # fmt: skip
    trees = []
    for i, order in enumerate([members, members[::-1], sorted(members, key=lambda m: os.fsencode(m.path))]):
        root = tree(scratch / f"r{i}", File("old"), Dir("lower"), File("lower/gone"))
        apply(root, *order)
        trees.append(listing(root))
    assert trees[0] == trees[1] == trees[2]
    assert (trees[0][b"z"].mtime_ns, trees[0][b"z/y"].mtime_ns) == (4, 3)


EMPTY_DIFF_ID = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"


@pytest.mark.parametrize("data", [b"", bytes(1024), bytes(10240)])
def test_040_an_empty_layer_changes_nothing(scratch, data):
    root = tree(scratch / "r", File("f", b"f"))
    before = listing(root)
    result = lamella.apply(data, root)
    assert listing(root) == before
    assert result.entries == 0
    assert result.diff_id == "sha256:" + hashlib.sha256(data).hexdigest()


def test_040_the_canonical_empty_tar_is_what_an_empty_diff_gives(scratch):
    root = tree(scratch / "r", File("f", b"f"))
    info, data = diff(root, root)
    assert data == bytes(1024)
    assert info.diff_id == EMPTY_DIFF_ID
    assert shape(redone(scratch, (File("g", b"g"),), data)) == {"g": b"g"}
