"""A union in AUFS's form: whiteouts are names of one inode, and a file keeps its names when it is copied up."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Any

import pytest

import lamella
from lamella._kernels import confine
from lamella.layer.union import Union
from lamella.model import Why
from lamella.testing.listing import compare, listing
from lamella.testing.trees import Dir, Edit, Fifo, File, Hardlink, Symlink, build
from tests.layer.test_union_crash import STEPS, Fuse, Killed, seen
from tests.layer.test_union_made import names, raised
from tests.unions import play, tree_of

LOWER: tuple[Edit, ...] = (
    Dir("d", mode=0o750, mtime_ns=5), File("a", b"1" * 99), Hardlink("d/b", "a"), Dir("e"), Dir("e/deep", mode=0o700), Hardlink("e/deep/c", "a"),
    Symlink("s", "t"), Hardlink("d/s", "s"), Fifo("p"), Hardlink("d/p", "p"), File("x", b"x"), File("y", b"y"),
)  # fmt: skip
THREE = (b"a", b"d/b", b"e/deep/c")


@pytest.fixture
def stack(scratch: Path) -> list[Path]:
    """Give an empty branch, and one below."""
    return [build(scratch / "upper"), build(scratch / "lower", *LOWER)]


def union(stack: list[Path], **how: Any) -> Union:
    return Union(stack, dialect="aufs", **how)


def facts(stack: list[Path]) -> list[tuple[str, bytes, Why]]:
    found = lamella.changes_from_upper(stack[0], stack[1:], dialect="aufs")
    return [(change.kind.value, change.path, change.why) for change in found]


# -- whiteouts --------------------------------------------------------------------------------------------------------


def hidden(stack: list[Path]) -> tuple[set[int], list[int]]:
    """Hide two files, and remake a directory; return the markers' inodes, and how many names each has."""
    with union(stack) as fs:
        before = os.stat(stack[0]).st_mtime_ns
        for call in (("unlink", b"e/deep/c"), ("rmdir", b"e/deep"), ("mkdir", b"e/deep"), ("unlink", b"d/p"), ("unlink", b"d/s")):
            assert play(fs, [call])[0].endswith("done")
        assert os.stat(stack[0]).st_mtime_ns == before  # that of the base's directory, in which nothing that is shown changed
        assert set(fs.readdir(b"d")) == {b"b"}
    markers = [os.stat(stack[0] / name) for name in ("e/deep/.wh..wh..opq", "d/.wh.p", "d/.wh.s")]
    return {status.st_ino for status in markers}, [status.st_nlink for status in markers]


def test_whiteouts_are_names_of_one_inode(stack):
    inodes, n_names = hidden(stack)
    assert inodes == {os.stat(stack[0] / ".wh..wh.aufs").st_ino}
    assert n_names == [4, 4, 4]
    assert os.stat(stack[0] / ".wh..wh.aufs").st_mode & 0o7777 == 0o444


def test_an_inode_with_no_more_names_gives_way_to_another(stack, monkeypatch):
    link, full = os.link, {0}

    def few(source: bytes, *args: Any, **how: Any) -> None:
        if source == b".wh..wh.aufs" and os.stat(stack[0] / ".wh..wh.aufs").st_nlink in full:
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))
        link(source, *args, **how)

    monkeypatch.setattr(os, "link", few)
    full.add(2)
    inodes, n_names = hidden(stack)
    assert len(inodes) == 3
    assert n_names == [1, 1, 2]


def test_whiteouts_are_files_of_their_own_where_there_are_no_links(stack, monkeypatch):
    def link(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    inodes, n_names = hidden(stack)
    assert len(inodes) == 3
    assert n_names == [1, 1, 1]


# -- names that stay together -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call", [("chmod", b"d/b", 0o600), ("truncate", b"d/b", 5), ("write", b"d/b", b"new", None), ("link", b"d/b", b"n"), ("utimens", b"d/b", (1, 2))],
    ids=lambda call: call[0],
)  # fmt: skip
def test_what_is_done_to_one_name_is_seen_under_all(stack, call):
    with union(stack) as fs:
        assert play(fs, [call])[0].endswith("done")
        one, *others = (fs.stat(path) for path in THREE)
        for other in others:
            assert other == one
        tree = tree_of(fs)
    assert tree[b"a"].links == tuple(sorted([*THREE, b"n"] if call[0] == "link" else THREE))
    made = listing(stack[0])
    assert set(made) == {b"", b"d", b"e", b"e/deep", *tree[b"a"].links}  # and no note of it
    assert (made[b"d"].mode, made[b"d"].mtime_ns, made[b"e/deep"].mode) == (0o750, 5, 0o700)
    with union(stack, writable=False) as fs:
        assert compare(tree, tree_of(fs)) == []


@pytest.mark.parametrize(("path", "other"), [(b"s", b"d/s"), (b"p", b"d/p"), (b"sock", b"d/sock")])
def test_what_is_no_file_has_names_too(stack, path, other):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(stack[1] / "sock"))
    os.link(stack[1] / "sock", stack[1] / "d" / "sock")
    with union(stack) as fs:
        fs.utimens(path, (7, 8))
        assert fs.stat(other).st_mtime_ns == 8
        assert fs.stat(other).st_ino == fs.stat(path).st_ino
    assert set(names(stack[0])) == {path, b"d", other}


def test_names_that_are_hidden_stay_hidden(stack):
    with union(stack) as fs:
        fs.unlink(b"d/b")
        fs.unlink(b"e/deep/c")
        fs.rmdir(b"e/deep")
        os.close(fs.create(b"e/deep"))  # below a file there are no names
        fs.chmod(b"a", 0o600)
        assert raised(fs.stat, b"d/b") == "ENOENT"
    assert set(names(stack[0])) == {b"a", b"d", b"d/.wh.b", b"e", b"e/deep", b".wh..wh.aufs"}


def test_a_name_that_is_another_file_now_stays_that(stack):
    with union(stack) as fs:
        fs.unlink(b"a")
        os.close(fs.create(b"a"))
        fs.chmod(b"d/b", 0o600)
        assert (fs.stat(b"a").st_size, fs.stat(b"e/deep/c").st_mode & 0o777) == (0, 0o600)


def test_two_lower_names_of_one_file_are_not_renamed(stack):
    with union(stack) as fs:
        fs.rename(b"a", b"d/b")
        assert {b"a", b"d/b"} <= set(tree_of(fs))
    assert names(stack[0]) == {}


def test_without_pseudo_links_a_name_parts_from_the_others(stack):
    with union(stack, plink=False) as fs:
        fs.chmod(b"a", 0o600)
        assert fs.stat(b"d/b").st_mode & 0o777 == 0o644
    assert names(stack[0]) == {b"a": "file"}
    assert facts(stack) == [("modify", b"a", Why.MODE | Why.LINKS)]


def test_links_are_told_of_where_a_name_is_still_to_be_seen(stack, scratch):
    with union(stack) as fs:
        fs.unlink(b"d/b")
    two = [build(scratch / "two"), *stack]
    with union(two) as fs:
        fs.chmod(b"a", 0o600)
    assert facts(two) == [("modify", b"a", Why.MODE), ("modify", b"e/deep/c", Why.MODE)]  # d/b is no name any more
    os.unlink(two[0] / "e" / "deep" / "c")
    assert facts(two) == [("modify", b"a", Why.MODE | Why.LINKS)]


# -- crashes ----------------------------------------------------------------------------------------------------------


def test_a_copy_up_with_names_is_done_whole_or_not_at_all(scratch):
    def begun(folder: Path) -> list[Path]:
        return [build(folder / "upper"), build(folder / "lower", *LOWER)]

    before, n = seen(begun(scratch / "before"), "aufs"), 0
    while True:
        stack = begun(scratch / str(n))
        fuse = Fuse(n)
        with union(stack) as fs, pytest.MonkeyPatch.context() as patch:
            for name in STEPS:
                patch.setattr(os, name, fuse.around(getattr(os, name)))
            for name in ("chmod", "rename"):
                patch.setattr(confine, name, fuse.around(getattr(confine, name)))
            try:
                fs.copy_up(b"d/b")
                died = False
            except Killed:
                died = True
        with union(stack) as fs:  # what was begun is finished
            assert compare(before, tree_of(fs), {"mtime_ns", "dir_mtime"}) == [], f"after {n} steps"
        made = names(stack[0])
        assert {b".wh..wh.plnk", b".wh..wh.orph"}.isdisjoint(made)
        assert set(THREE).issubset(made) or set(THREE).isdisjoint(made), f"after {n} steps"
        if not died:
            break
        n += 1
    assert n > 10


def test_names_that_an_error_kept_from_being_made_are_made_by_the_next_change(stack, monkeypatch):
    link, full = os.link, [b"c"]

    def fails(source: bytes, name: bytes, **how: Any) -> None:
        if name in full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        link(source, name, **how)

    monkeypatch.setattr(os, "link", fails)
    with union(stack) as fs:
        assert raised(fs.chmod, b"d/b", 0o600) == "ENOSPC"
        full.clear()
        fs.chmod(b"d/b", 0o640)
        fs.setxattr(b"e/deep/c", b"user.k", b"v")
        assert tree_of(fs)[b"e/deep/c"][1:] == tree_of(fs)[b"a"][1:]
        assert (fs.stat(b"e/deep/c").st_mode & 0o777, fs.xattrs(b"a")) == (0o640, {b"user.k": b"v"})
    assert os.stat(stack[0] / "a").st_nlink == 3


@pytest.mark.parametrize("note", ["1.2.3", "x", "70000.1", "7.99", "7.0"])
def test_notes_that_are_not_ours_are_left_alone(stack, note):
    build(stack[0] / ".wh..wh.plnk", File(note, b"n"))
    with union(stack) as fs:
        assert set(fs.readdir(b"")) == {b"a", b"d", b"e", b"s", b"p", b"x", b"y"}
    assert os.listdir(stack[0] / ".wh..wh.plnk") == [note]
    assert facts(stack) == []


def test_a_note_of_another_kind_of_inode_names_nothing(stack):
    number = os.lstat(stack[1] / "s").st_ino
    build(stack[0] / ".wh..wh.plnk", File(f"{number}.1", b"n"))
    with union(stack) as fs:
        assert fs.readlink(b"s") == fs.readlink(b"d/s") == b"t"
    assert os.listdir(stack[0] / ".wh..wh.plnk") == [f"{number}.1"]
