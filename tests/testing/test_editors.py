"""A script does by the calls of a file system what it does by itself; links break as they are said to."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import given

from lamella.testing.calls import Directory
from lamella.testing.copying import Parting
from lamella.testing.editors import play, tree_of
from lamella.testing.edits import LATER_NS, times_of
from lamella.testing.histories import histories
from lamella.testing.listing import compare, listing
from lamella.testing.trees import (
    MTIME_NS,
    Append,
    Chmod,
    Device,
    Dir,
    Edit,
    File,
    Hardlink,
    Hole,
    Move,
    Remove,
    Rename,
    Script,
    Symlink,
    Truncate,
    Utime,
    Write,
    build,
)

AS_ROOT = os.geteuid() == 0
LINKED = (Dir("d"), File("d/a", b"1"), Hardlink("d/b", "d/a"), Hardlink("c", "d/a"), File("alone", b"2"), Symlink("ln", "c"))


@given(histories(privileged=AS_ROOT))
def test_a_script_is_played_as_it_applies_itself(home, history):
    with tempfile.TemporaryDirectory(dir=home / "tmp") as folder:
        applied, played = build(Path(folder, "a")), build(Path(folder, "b"))
        for script in history:
            script.apply(applied)
            with Directory(played) as calls:
                assert [answer for answer in play(calls, script) if not answer.endswith(": done")] == []
                assert compare(applied, tree_of(calls)) == []
                assert compare(tree_of(calls), played) == []


@pytest.mark.requires("root", "devices")
def test_a_device_is_not_opened(scratch):
    root = build(scratch / "t", Device("null", 1, 3), Device("disk", 1, 3, "block"))
    with Directory(root) as calls:
        for name in (b"null", b"disk"):
            for flags in (os.O_RDONLY, os.O_WRONLY):
                with pytest.raises(OSError, match="No such device"):
                    calls.open(name, flags)


def test_content_is_appended_cut_and_punched(scratch):
    root = build(scratch / "t", File("f", b"12345"), File("g", b"12345"), File("h", b"x" * 9))
    Append("f", b"678").apply(root)
    Truncate("g", 3, mtime_ns=None).apply(root)
    Hole("h", 4, 1 << 20, mtime_ns=7).apply(root)
    assert (root / "f").read_bytes() == b"12345678"
    assert (root / "g").read_bytes() == b"123"
    assert (root / "h").read_bytes() == b"xxxx" + bytes(1 << 20)
    assert (root / "h").stat().st_blocks * 512 < 1 << 20
    assert [(root / name).stat().st_mtime_ns for name in "fgh"] == [LATER_NS, MTIME_NS, 7]


@pytest.mark.parametrize("copying", [(), (1,)])
def test_a_move_copies_where_it_is_told_to(scratch, copying):
    script = Script((Utime("d/a", 5), Move("d", "z"), Move("nowhere", "new")))
    root, other = build(scratch / "a", *LINKED), build(scratch / "b", *LINKED)
    with Directory(root) as calls:
        answers = [answer.rpartition(" ")[2] for answer in play(calls, script, copying)]
    assert answers == ["done", "copied" if copying else "done", "ENOENT"]
    Script(script.edits[:2]).apply(other)
    tree = listing(root)
    assert compare(tree, other, {"links"}) == []
    assert tree[b"z/a"].links == ((b"z/a", b"z/b") if copying else (b"c", b"z/a", b"z/b"))


def test_a_move_across_file_systems_is_a_copy(scratch, ext4_scratch):
    root = build(scratch / "t", Dir("d", mode=0o700), File("d/f", b"1", mtime_ns=7), File("to", b"old"))
    os.symlink(ext4_scratch, root / "there")
    Move("d", "there/d").apply(root)
    assert compare(ext4_scratch / "d", build(scratch / "u", File("f", b"1", mtime_ns=7), Dir("", mode=0o700))) == []
    assert not (root / "d").exists()


@pytest.mark.parametrize(
    ("edit", "parted"),
    [
        (Chmod("d/a", 0o600), b"d/a"),
        (Write("c", b"new"), b"c"),
        (Append("d/b", b"", mtime_ns=None), b"d/b"),
        (Truncate("d/b", 0), b"d/b"),
        (Utime("d/b", MTIME_NS), b"d/b"),
        (Rename("c", "new"), b"c"),
        (Hardlink("new", "c"), b"c"),
        (Remove("c"), None),
        (Move("d", "z"), None),
        (Write("alone", b"new"), None),
        (Chmod("d", 0o700), None),
    ],
    ids=repr,
)
def test_a_file_parts_from_the_names_by_which_it_was_not_touched(scratch, edit: Edit, parted):
    root, other = build(scratch / "a", *LINKED), build(scratch / "b", *LINKED)
    with Parting(root) as calls:
        play(calls, Script((edit,)))
        assert calls.parted == ([] if parted is None else [parted])
    Script((edit,)).apply(other)
    found = listing(root)
    if parted is None:
        assert compare(other, found) == []
    else:
        rest = {b"d/a", b"d/b", b"c"} - {parted}
        assert {path for path, row in found.items() if row.links == tuple(sorted(rest))} == rest
        assert {found[path].sha256 for path in rest} == {listing(build(scratch / "c", *LINKED))[b"c"].sha256}


def test_the_names_that_a_parted_file_gets_are_one(scratch):
    root = build(scratch / "a", *LINKED)
    with Parting(root) as calls:
        play(calls, Script((Chmod("c", 0o600), Hardlink("e", "c"), Write("e", b"both"), Remove("d/a"), Hardlink("g", "d/b"), Chmod("g", 0))))
        assert calls.parted == [b"c"]
    tree = listing(root)
    assert tree[b"c"].links == (b"c", b"e")
    assert tree[b"d/b"].links == (b"d/b", b"g")
    assert tree[b"g"].mode == 0
    assert stat.S_ISREG((root / "c").stat().st_mode)


def test_the_time_of_a_directory_goes_with_it(scratch):
    edits = (Dir("a", mtime_ns=5), File("a/f"), Move("a", "b"), Dir("c"), File("c/f"), Rename("b", "c/b"), Utime("c/b", 9))
    assert times_of(edits, 1) == {b"": 1, b"c": MTIME_NS, b"c/b": 9}
    assert times_of(edits, 1, {2, 5}) == {b"": 1, b"a": 5, b"c": MTIME_NS, b"c/b": 9}
    root = build(scratch / "t", *edits)
    assert [(root / path).stat().st_mtime_ns for path in ("c", "c/b")] == [MTIME_NS, 9]
