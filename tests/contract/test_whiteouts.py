"""Whiteouts and opaque markers on a plain tree, and in a diff: items 1 to 23."""

from __future__ import annotations

import itertools
import os

import pytest

from lamella.errors import WhiteoutError
from lamella.testing.tars import Member, directory, file, hardlink, opaque, whiteout
from lamella.testing.trees import Chmod, Dir, File, Hardlink, Remove, Symlink, Utime
from tests.contract.workbench import DIR, apply, attempt, diff, diffed, entries, found, redone, shape, tree

BELOW = (Dir("d"), File("d/x", b"x"), Dir("d/sub"), File("d/sub/y", b"y"), File("e", b"e"))


def test_001_a_whiteout_hides_and_is_never_seen(scratch):
    root = tree(scratch / "r", *BELOW)
    result = apply(root, whiteout("d/x"), whiteout("d/sub"), whiteout("e"))
    assert shape(root) == {"d": DIR}
    assert (result.whiteouts, result.opaques) == (3, 0)


def test_001_only_the_named_path_is_hidden(scratch):
    root = tree(scratch / "r", *BELOW, File("d/xx"), File("d/.x"), File("x"))
    apply(root, whiteout("d/x"))
    assert set(shape(root)) == {"d", "d/sub", "d/sub/y", "d/xx", "d/.x", "e", "x"}


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=lambda o: "".join(map(str, o)))
def test_002_a_whiteout_never_hides_its_own_layer(scratch, order):
    members = [file("d/x", b"new"), whiteout("d/x"), directory("d", mode=0o700)]
    root = tree(scratch / "r", *BELOW)
    apply(root, *(members[i] for i in order))
    assert shape(root) == {"d": DIR, "d/x": b"new", "d/sub": DIR, "d/sub/y": b"y", "e": b"e"}
    assert found(root, "d").mode == 0o700


@pytest.mark.parametrize("members", list(itertools.permutations([file("d/sub/new", b"n"), whiteout("d")])))
def test_002_the_ancestors_of_an_entry_survive_too(scratch, members):
    root = tree(scratch / "r", *BELOW, Chmod("d", 0o700))
    apply(root, *members)
    assert shape(root) == {"d": DIR, "d/sub": DIR, "d/sub/new": b"n", "e": b"e"}
    assert (found(root, "d").mode, found(root, "d").mtime_ns) == (0o755, 0), "an implied parent, in any order"


@pytest.mark.parametrize("policy", ["moby", "containerd", "podman"])
def test_002_other_engines_lose_an_entry_before_its_whiteout(scratch, policy):
    root = tree(scratch / "r", *BELOW)
    apply(root, file("d/x", b"new"), whiteout("d/x"), policy=policy)
    assert "d/x" not in shape(root)


def test_002_umoci_keeps_it(scratch):
    root = tree(scratch / "r", *BELOW)
    apply(root, file("d/x", b"new"), whiteout("d/x"), policy="umoci")
    assert shape(root)["d/x"] == b"new"


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_003_an_opaque_marker_acts_wherever_it_stands(scratch, at):
    members = [directory("d"), file("d/new", b"n"), hardlink("d/also", "d/new")]
    members.insert(at, opaque("d"))
    root = tree(scratch / "r", *BELOW)
    result = apply(root, *members)
    assert shape(root) == {"d": DIR, "d/new": b"n", "d/also": b"n", "e": b"e"}
    assert (result.whiteouts, result.opaques) == (0, 1)


@pytest.mark.parametrize("members", list(itertools.permutations([file("a/b/c/f", b"new"), opaque("a/b")])))
def test_004_an_entry_below_implied_folders_survives_the_marker(scratch, members):
    root = tree(scratch / "r", Dir("a"), Dir("a/b"), Dir("a/b/c"), File("a/b/c/old"), File("a/b/old"))
    apply(root, *members)
    assert shape(root) == {"a": DIR, "a/b": DIR, "a/b/c": DIR, "a/b/c/f": b"new"}


@pytest.mark.parametrize("members", list(itertools.permutations([directory("d", mode=0o711), opaque("d")])))
def test_005_opaque_keeps_the_directory_with_its_new_metadata(scratch, members):
    root = tree(scratch / "r", *BELOW)
    apply(root, *members)
    assert shape(root) == {"d": DIR, "e": b"e"}
    assert found(root, "d").mode == 0o711


def test_005_opaque_without_an_entry_keeps_the_old_metadata(scratch):
    root = tree(scratch / "r", *BELOW, Chmod("d", 0o711), Utime("d", 5))
    apply(root, opaque("d"))
    assert shape(root) == {"d": DIR, "e": b"e"}
    assert (found(root, "d").mode, found(root, "d").mtime_ns) == (0o711, 5)


@pytest.mark.parametrize("name", [".wh.", "d/.wh."])
@pytest.mark.parametrize("dialect", ["plain", "overlay:user", "aufs"])
def test_006_a_marker_that_names_nothing_is_an_error(box, name, dialect):
    outcome = attempt(box, BELOW, file("before"), Member(name, "0"), dialect=dialect)
    assert WhiteoutError.__name__ in outcome.kind
    assert {"d/x", "d/sub/y", "e"} <= set(shape(outcome.tree))


@pytest.mark.parametrize("name", [".wh..", ".wh...", "d/.wh..", "d/.wh...", "d/sub/.wh..."])
@pytest.mark.parametrize("dialect", ["plain", "overlay:user", "aufs"])
def test_007_a_marker_that_names_a_dot_is_an_error(box, name, dialect):
    outcome = attempt(box, BELOW, Member(name, "0"), dialect=dialect)
    assert WhiteoutError.__name__ in outcome.kind
    assert {"d/x", "d/sub/y", "e"} <= set(shape(outcome.tree))


@pytest.mark.parametrize("name", [".wh.x", "d/.wh.x", "d/.wh..wh..opq", ".wh."])
def test_008_a_diff_that_meets_a_markers_name_fails_and_names_it(scratch, name):
    lower = tree(scratch / "lower", *BELOW)
    upper = tree(scratch / "upper", *BELOW, File(name, b"1"))
    with pytest.raises(WhiteoutError) as caught:
        diff(lower, upper)
    assert caught.value.entry == name.encode()


def test_008_an_unchanged_one_is_no_matter(scratch):
    lower, upper = (tree(scratch / name, *BELOW, File("d/.wh.x", b"1")) for name in ("lower", "upper"))
    assert diffed(lower, upper) == {}


@pytest.mark.parametrize(
    "marker",
    [
        Member("d/.wh.x", "2", link="e"),
        Member("d/.wh.x/", "5"),
        Member("d/.wh.x", "6"),
        Member("d/.wh.x", "1", link="e"),
        Member("d/.wh.x", "0", b"payload" * 200),
    ],
    ids=["symlink", "directory", "fifo", "hardlink", "payload"],
)
def test_009_the_name_decides_whatever_the_type(scratch, marker):
    root = tree(scratch / "r", *BELOW)
    apply(root, marker, file("next", b"n"))
    assert shape(root) == {"d": DIR, "d/sub": DIR, "d/sub/y": b"y", "e": b"e", "next": b"n"}


@pytest.mark.parametrize("dialect", ["plain", "overlay"])
def test_010_a_whiteout_of_nothing_makes_nothing(scratch, dialect):
    options = {} if dialect == "plain" else {"dialect": "overlay:user", "parents": [tree(scratch / "lower", *BELOW)]}
    root = tree(scratch / "r", *(BELOW if dialect == "plain" else ()))
    before = shape(root)
    apply(
        root, whiteout("nodir/x"), whiteout("nodir/deep/y"), opaque("nodir"), whiteout("e/below-a-file"), opaque("e"), **options
    )
    assert shape(root) == before


@pytest.mark.parametrize("members", list(itertools.permutations([whiteout("d"), whiteout("d/x"), opaque("d/sub")])))
def test_011_a_whiteout_below_a_whiteout_is_nothing_more(scratch, members):
    root = tree(scratch / "r", *BELOW)
    apply(root, *members)
    assert shape(root) == {"e": b"e"}


@pytest.mark.parametrize("first", [0, 1])
def test_012_whiteout_and_a_file_of_the_same_name(scratch, first):
    members = [whiteout("d"), file("d", b"now a file")]
    root = tree(scratch / "r", *BELOW)
    apply(root, members[first], members[1 - first])
    assert shape(root) == {"d": b"now a file", "e": b"e"}


@pytest.mark.parametrize("first", [0, 1])
def test_012_whiteout_and_a_directory_of_the_same_name(scratch, first):
    members = [whiteout("d"), directory("d", mode=0o700)]
    root = tree(scratch / "r", *BELOW)
    apply(root, members[first], members[1 - first])
    assert shape(root) == {"d": DIR, "e": b"e"}
    assert found(root, "d").mode == 0o700


@pytest.mark.parametrize("first", [0, 1])
def test_013_a_child_of_a_whited_out_directory_is_alone_in_it(scratch, first):
    members = [whiteout("d"), file("d/new", b"n")]
    root = tree(scratch / "r", *BELOW)
    apply(root, members[first], members[1 - first])
    assert shape(root) == {"d": DIR, "d/new": b"n", "e": b"e"}


def test_015_the_parent_of_a_whiteout_may_be_a_symlink(scratch):
    links = (Symlink("ln", "d"), Symlink("abs", "/d/sub"), Symlink("up", "d/sub/../../e"), Symlink("d/back", ".."))
    root = tree(scratch / "r", *BELOW, *links)
    apply(root, whiteout("ln/x"), whiteout("abs/y"), whiteout("d/back/up"))
    assert shape(root) == {
        "d": DIR, "d/back": "-> ..", "d/sub": DIR, "e": b"e", "ln": "-> d", "abs": "-> /d/sub",
    }  # fmt: skip


def test_015_a_last_symlink_is_hidden_itself(scratch):
    root = tree(scratch / "r", *BELOW, Symlink("ln", "d"), Symlink("dead", "nowhere"))
    apply(root, whiteout("ln"), whiteout("dead"))
    assert set(shape(root)) == {"d", "d/x", "d/sub", "d/sub/y", "e"}


def test_015_below_a_dead_symlink_there_is_nothing_to_hide(scratch):
    root = tree(scratch / "r", *BELOW, Symlink("dead", "nowhere/at/all"), Symlink("loop", "loop"))
    before = shape(root)
    apply(root, whiteout("dead/x"), whiteout("loop/x"), opaque("dead"))
    assert shape(root) == before


@pytest.mark.parametrize("at", [0, 1])
def test_016_an_opaque_root_hides_the_whole_lower_tree(scratch, at):
    members = [file("new/f", b"n"), Member(".wh..wh.aufs", "0")]
    members.insert(at, opaque())
    root = tree(scratch / "r", *BELOW, Chmod("", 0o711))
    result = apply(root, *members)
    assert shape(root) == {"new": DIR, "new/f": b"n"}
    assert found(root, "").mode == 0o711
    assert result.opaques == 1


AUFS = [
    Member(".wh..wh.aufs", "0", mode=0o444),
    directory(".wh..wh.orph", mode=0o700),
    directory(".wh..wh.plnk", mode=0o700),
    Member(".wh..wh.plnk/12.34", "0", b"pseudo link"),
]


@pytest.mark.parametrize("dialect", ["plain", "overlay:user"])
def test_017_aufs_metadata_creates_no_path(scratch, dialect):
    root = tree(scratch / "r", File("e", b"e"))
    options = {} if dialect == "plain" else {"dialect": dialect}
    apply(root, *AUFS, file("f", b"f"), **options)
    assert shape(root) == {"e": b"e", "f": b"f"}


@pytest.mark.parametrize("dialect", ["plain", "overlay:user"])
def test_017_files_in_plnk_are_sources_of_links(scratch, dialect):
    root = tree(scratch / "r")
    links = [hardlink("a", ".wh..wh.plnk/12.34"), hardlink("d/b", "/.wh..wh.plnk/12.34")]
    options = {} if dialect == "plain" else {"dialect": dialect}
    apply(root, *AUFS, *links, **options)
    assert shape(root) == {"a": b"pseudo link", "d": DIR, "d/b": b"pseudo link"}
    assert found(root, "a").links == (b"a", b"d/b")


def test_018_a_diff_puts_whiteouts_before_their_siblings(scratch):
    lower = tree(scratch / "lower", *BELOW, File("zz"), File("d/zz"))
    edits = (
        Remove("zz"),
        Remove("d/zz"),
        File("a", b"1"),
        File("d/a", b"1"),
        Remove("d/sub"),
        Dir("d/b"),
        File("d/b/c"),
    )
    upper = tree(scratch / "upper", *BELOW, *edits)
    names = list(diffed(lower, upper))
    assert {n for n in names if ".wh." in n} == {".wh.zz", "d/.wh.zz", "d/.wh.sub"}
    for folder in ("", "d"):
        siblings = [n for n in names if os.path.dirname(n) == folder and n]
        marks = [".wh." in n for n in siblings]
        assert marks == sorted(marks, reverse=True), siblings


def test_019_a_diff_lists_explicit_whiteouts(scratch):
    lower = tree(scratch / "lower", *BELOW)
    upper = tree(scratch / "upper", *BELOW, Remove("d/x"), Remove("d/sub"), File("d/new", b"n"))
    _, data = diff(lower, upper)
    assert {n for n in entries(data) if ".wh." in n} == {"d/.wh.x", "d/.wh.sub"}
    assert shape(redone(scratch, BELOW, data)) == shape(upper)


def test_019_opaque_markers_on_request(scratch):
    lower = tree(scratch / "lower", *BELOW)
    upper = tree(scratch / "upper", *BELOW, Remove("d/x"), Remove("d/sub"), File("d/new", b"n"))
    _, data = diff(lower, upper, whiteouts="opaque")
    assert {n for n in entries(data) if ".wh." in n} == {"d/.wh..wh..opq"}
    assert shape(redone(scratch, BELOW, data)) == shape(upper)


@pytest.mark.parametrize("whiteouts", ["explicit", "opaque"])
def test_021_a_new_directory_gets_no_opaque_marker(scratch, whiteouts):
    lower = tree(scratch / "lower", *BELOW, Symlink("s", "d"))
    upper = tree(scratch / "upper", *BELOW, Dir("new"), File("new/f"), Dir("e"), File("e/f"), Dir("s"), File("s/f"))
    assert not [n for n in diffed(lower, upper, whiteouts=whiteouts) if ".wh..wh..opq" in n]


@pytest.mark.parametrize("whiteouts", ["explicit", "opaque"])
def test_022_a_marker_has_no_metadata(scratch, whiteouts):
    lower = tree(scratch / "lower", *BELOW)
    upper = tree(scratch / "upper", *BELOW, Remove("d"), Dir("d"), Remove("e"))
    marks = [m for n, m in diffed(lower, upper, whiteouts=whiteouts).items() if ".wh." in n]
    assert marks
    for m in marks:
        assert (m.size, m.mode, m.uid, m.gid, m.mtime, m.type) == (0, 0, 0, 0, 0, b"0")
        assert (m.uname, m.gname, m.pax_headers) == ("", "", {})


@pytest.mark.requires("root")
def test_023_closed_directories_are_removed_without_privilege(nobody_box):
    lower = (*BELOW, Chmod("d/sub", 0), Chmod("d", 0), Dir("o"), File("o/f"), Chmod("o", 0o500))
    outcome = attempt(nobody_box, lower, whiteout("d"), opaque("o"), rootless=True)
    assert outcome.kind == (), outcome.trace
    assert shape(outcome.tree) == {"e": "file", "o": "dir"}
    assert outcome.tree[b"o"].mode == 0o500


def test_023_links_below_a_removed_directory_live_on(scratch):
    root = tree(scratch / "r", *BELOW, Hardlink("d/sub/link", "e"))
    apply(root, whiteout("d"))
    assert shape(root) == {"e": b"e"}
