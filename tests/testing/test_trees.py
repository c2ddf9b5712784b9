"""Edits do what they say, a listing shows all of it, and a comparison sees each difference."""

from __future__ import annotations

import os
import shutil
import stat

import pytest

from lamella.testing import trees
from lamella.testing.listing import compare, listing, subtree
from lamella.testing.trees import (
    MTIME_NS,
    Chmod,
    Chown,
    Device,
    Dir,
    Fifo,
    File,
    Hardlink,
    Remove,
    Rename,
    Script,
    Socket,
    Symlink,
    Utime,
    Write,
    Xattr,
    build,
)

BASE = (
    Dir("d", mode=0o2750),
    File("d/f", b"content", mode=0o755, mtime_ns=5),
    Hardlink("d/g", "d/f"),
    Symlink("s", b"\xff"),
    Hardlink("t", "s"),
    Fifo("p"),
    Socket("d/sock"),
    File(b"\xff\n", b""),
)


def test_a_listing_shows_all_of_it(scratch):
    found = listing(build(scratch / "a", *BASE))
    assert list(found) == [b"", b"d", b"d/f", b"d/g", b"d/sock", b"p", b"s", b"t", b"\xff\n"]
    assert found[b"d"][:2] == ("dir", 0o2750)
    assert found[b"d"].mtime_ns == MTIME_NS
    assert found[b"d/f"].links == found[b"d/g"].links == (b"d/f", b"d/g")
    assert (found[b"d/f"].mode, found[b"d/f"].mtime_ns, found[b"d/f"].size) == (0o755, 5, 7)
    assert found[b"s"].target == b"\xff"
    assert found[b"s"].links == (b"s", b"t")
    assert [found[p].type for p in (b"p", b"d/sock")] == ["fifo", "socket"]
    assert found[b"d/f"].sha256.startswith("ed7002b4")
    assert set(subtree(found, b"d")) == {b"d", b"d/f", b"d/g", b"d/sock"}


def test_equal_trees_are_equal(scratch):
    a = build(scratch / "a", *BASE)
    assert compare(a, build(scratch / "b", *BASE)) == []
    os.utime(a / "d" / "f", ns=(1, 5))
    assert compare(a, scratch / "b") == []


EDITS = {
    "content": (Write("d/f", b"CONTENT", mtime_ns=None), ["sha256"] * 2),
    "append": (Write("d/f", b"!", offset=7, mtime_ns=None), ["sha256", "size"] * 2),
    "mode": (Chmod("p", 0o600), ["mode"]),
    "time": (Utime("s", 6), ["mtime_ns"] * 2),
    "removal": (Remove("d/f"), ["d/f", "links"]),
    "rename": (Rename("p", "q"), ["p", "q"]),
    "type": (Dir("s"), ["type", "mode", "size", "target", "links", "links"]),
    "unlinked": (File("d/g", b"content", mode=0o755, mtime_ns=5), ["links"] * 2),
    "target": (Symlink("new", "a"), ["new"]),
    "root": (Chmod("", 0o700), ["mode"]),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_comparison_sees_each_edit(scratch, name):
    edit, words = EDITS[name]
    a, b = build(scratch / "a", *BASE), build(scratch / "b", *BASE)
    Script((edit,)).apply(b)
    lines = compare(a, b)
    assert len(lines) == len(words)
    assert all(any(word in line for line in lines) for word in words)


@pytest.mark.requires("user_xattr")
def test_attributes_are_seen_and_cleared(scratch):
    a = build(scratch / "a", Dir("d", xattrs={"user.a": b"1", b"user.\xff": b"\0"}))
    assert listing(a)[b"d"].xattrs == ((b"user.a", b"1"), (b"user.\xff", b"\0"))
    Script((Xattr("d", "user.a", None), Xattr("d", "user.b", b"2"))).apply(a)
    assert dict(listing(a)[b"d"].xattrs) == {b"user.\xff": b"\0", b"user.b": b"2"}
    Script((Dir("d"),)).apply(a)
    assert listing(a)[b"d"].xattrs == ()


@pytest.mark.requires("root", "devices")
def test_owners_and_devices_are_seen(scratch):
    edits = (Device("c", 1, 3, mode=0o666), Device("b", 7, 9, kind="block"), File("f", uid=5), Chown("f", -1, 6))
    found = listing(build(scratch / "a", *edits, Symlink("s"), Chown("s", 7, 8)))
    assert (found[b"c"].type, found[b"c"].rdev, found[b"b"].type, found[b"b"].rdev) == ("char", (1, 3), "block", (7, 9))
    assert (found[b"f"].uid, found[b"f"].gid, found[b"s"].uid, found[b"s"].gid) == (5, 6, 7, 8)


def test_touched_directories_get_a_known_time(scratch):
    a = build(scratch / "a", Dir("d", mtime_ns=3), File("d/f"), Dir("e"), File("e/f"), dir_mtime_ns=9)
    assert [listing(a)[p].mtime_ns for p in (b"", b"d", b"e")] == [MTIME_NS, 3, MTIME_NS]
    Script((Write("d/f", b"x"), Remove("e/f"), Rename("d/f", "g"), Utime("e", 4)), dir_mtime_ns=11).apply(a)
    assert [listing(a)[p].mtime_ns for p in (b"", b"d", b"e")] == [11, 11, 4]


def test_what_is_ignored_is_named(scratch):
    a = build(scratch / "a", *BASE)
    b = build(scratch / "b", *BASE, Utime("d", 1), Chmod("", 0o700), Utime("d/f", 1))
    assert len(compare(a, b)) == 4
    assert compare(a, b, {"dir_mtime", "root", "mtime_ns"}) == []
    with pytest.raises(ValueError, match="no such field"):
        compare(a, b, {"mtimes"})


def test_a_listing_reads_paths_longer_than_the_kernel_takes(scratch):
    fd = os.open(scratch, os.O_RDONLY)
    for _ in range(40):
        os.mkdir("n" * 200, dir_fd=fd)
        deeper = os.open("n" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.symlink("x", "last", dir_fd=fd)
    os.close(fd)
    assert max(map(len, listing(scratch))) == 40 * 201 + 4


def test_a_link_replaced_by_a_directory_is_not_followed(scratch):
    a = build(scratch / "a", Dir("d"), File("d/f"), Symlink("s", "d"), Remove("s"), File("d/g"))
    assert set(os.listdir(a / "d")) == {"f", "g"}
    Dir("d").apply(a)
    assert stat.S_ISREG(os.lstat(a / "d" / "f").st_mode)
    shutil.rmtree(a / "d")
    assert trees.place(a, "d") == os.fsencode(a / "d")
