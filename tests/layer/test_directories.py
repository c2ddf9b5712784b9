"""What a merged view remembers of directories: names keep their numbers, and there is an end to how many."""

from __future__ import annotations

import errno
import os
import re
import stat
import struct

import numpy as np
import pytest

from lamella._kernels import dirents
from lamella.layer.directories import Directories, Directory
from lamella.layer.finding import Finder
from lamella.layer.listing import Listing
from lamella.layer.union import Union
from lamella.testing.trees import Dir, File, Symlink, build


def listing_of(*names: bytes) -> Listing:
    return Listing.of((number, name, stat.S_IFREG, 1, 0) for number, name in enumerate(names, 1))


def test_a_name_keeps_its_number_whatever_comes_and_goes():
    listing = listing_of(b"a", b"b", b"c", b"d")
    assert [entry[:2] for entry in listing.after(0)] == [(1, b"a"), (2, b"b"), (3, b"c"), (4, b"d")]
    listing.remove(b"a")
    listing.remove(b"c")
    listing.put(b"e", stat.S_IFDIR, 2, 1)
    listing.put(b"b", stat.S_IFREG, 7, 0)
    listing.put(b"a", stat.S_IFREG, 8, 0)
    listing.remove(b"never")
    assert [entry[:2] for entry in listing.after(0)] == [(2, b"b"), (4, b"d"), (5, b"e"), (6, b"a")]
    assert [entry[1] for entry in listing.after(3)] == [entry[1] for entry in listing.after(2)] == [b"d", b"e", b"a"]
    assert list(listing.after(6)) == []
    assert listing.get(b"b") == (2, b"b", stat.S_IFREG, 7, 0)
    assert listing.get(b"c") is None
    assert len(listing) == 4
    empty = listing_of()
    empty.put(b"first", stat.S_IFREG, 1, 0)
    assert list(empty.after(0)) == [(1, b"first", stat.S_IFREG, 1, 0)]


def test_what_comes_and_goes_for_ever_takes_no_more_memory():
    listing = listing_of(b"stays", b"goes")
    flips, out = np.zeros(2, np.uint64), bytearray(1 << 16)
    numbers = []
    for n in range(5000):
        name = b"temporary-%d" % n
        listing.put(name, stat.S_IFDIR, n, 1)
        numbers.append(listing.get(name)[0])
        listing.remove(name)
        if n == 700:
            listing.remove(b"goes")
    assert len(listing._records) < 1 << 15
    assert numbers == list(range(3, 5003))
    assert [entry[1] for entry in listing.after(0)] == [b"stays"]
    listing.put(b"last", stat.S_IFDIR, 7, 0)
    used, found = listing.spell(1, out, 0, skipped=2, flips=flips, kind=stat.S_IFDIR, plus=False)
    assert (found, struct.unpack_from("=QQII4s", out)) == ([0], (7, 5005, 4, stat.S_IFDIR >> 12, b"last"))
    assert listing.spell(5003, out, used, skipped=2, flips=flips, kind=None, plus=False) == (used, [])


def test_what_was_not_asked_for_longest_is_forgotten():
    known = Directories(limit=10)
    for path in (b"a", b"b", b"c"):
        known.put(path, Directory([], listing_of(b"0", b"1")))
    assert known.get(b"a") is not None
    known.put(b"d", Directory([], listing_of(b"0", b"1", b"2")))
    assert [path in known for path in (b"a", b"b", b"c", b"d")] == [True, False, True, True]
    known.forget(b"a")
    known.put(b"a/x", Directory([]))
    known.put(b"ab", Directory([]))
    known.forget(b"a")
    assert [path in known for path in (b"a/x", b"ab")] == [False, True]
    known.put(b"large", Directory([], listing_of(*(b"%d" % n for n in range(100)))))
    assert b"large" in known  # as long as it is the last
    assert b"c" not in known


def test_what_is_found_out_while_something_changes_is_not_remembered(scratch):
    branches = [build(scratch / "upper"), build(scratch / "lower", Dir("d"), File("d/x"))]
    with Union(branches) as union:
        names = union.resolver.names

        def meanwhile(stack):
            found = names(stack)
            union.resolver.names = names
            union.mkdir(b"d/new")
            return found

        union.resolver.names = meanwhile
        assert len(union.listing(b"d")) == 1  # as it was
        assert sorted(union.readdir(b"d")) == [b"new", b"x"]


def test_a_union_lists_a_directory_once(scratch, monkeypatch):
    branches = [build(scratch / "upper"), build(scratch / "lower", Dir("d"), *(File(f"d/{n}") for n in range(50)))]
    calls: list[object] = []
    read = dirents.read
    monkeypatch.setattr(dirents, "read", lambda fd, branch, *rest: calls.append(branch) or read(fd, branch, *rest))
    with Union(branches) as union:
        for n in range(50):
            union.readdir(b"d")
            union.unlink(b"d/%d" % n)
            union.create(b"d/new%d" % n) if n % 2 else union.mkdir(b"d/new%d" % n)
        assert len(union.readdir(b"d")) == 50
    assert sorted(calls) == [1]  # the upper directory has no such directory at first


def test_what_is_known_of_a_name_costs_few_calls(scratch, monkeypatch):
    branches = [build(scratch / f"b{n}", Dir("d"), Dir("d/e"), *([File("d/e/x")] if n == 29 else [])) for n in range(30)]
    calls: list[object] = []
    stat_ = os.stat
    with Finder(branches) as finder:
        finder.listing(b"d/e")
        monkeypatch.setattr(os, "stat", lambda *args, **kwargs: calls.append(args) or stat_(*args, **kwargs))
        assert finder.stat(b"d/e/x").st_size == 0
        assert finder.find(b"d/e/none") is None
    assert len(calls) == 1


# -- exchange ---------------------------------------------------------------------------------------------------------


def test_exchange_of_what_is_lower(scratch):
    edits = (File("a", b"a"), File("b", b"bb"), Dir("d"), File("d/x", b"x"), Dir("e"), Symlink("l", "t"))
    branches = [build(scratch / "upper"), build(scratch / "lower", *edits)]
    with Union(branches, redirect_dir=True) as union:
        union.exchange(b"a", b"l")
        union.exchange(b"d", b"b")
        union.exchange(b"e", b"b")
        assert union.readlink(b"a") == b"t"
        assert [stat.S_ISDIR(union.stat(name).st_mode) for name in (b"b", b"d", b"e")] == [True, False, True]
        assert (union.readdir(b"b"), list(union.readdir(b"e"))) == ({}, [b"x"])
        shown = {name: union.stat(name).st_ino for name in union.readdir(b"")}
        with pytest.raises(OSError, match=re.escape(os.strerror(errno.ENOENT))):
            union.exchange(b"a", b"gone")
        with pytest.raises(OSError, match=re.escape(os.strerror(errno.EINVAL))):
            union.exchange(b"e", b"e/x")
        union.exchange(b"a", b"a")
    with Union(branches, writable=False) as union:
        assert {name: union.stat(name).st_ino for name in union.readdir(b"")} == shown
        assert list(union.readdir(b"e")) == [b"x"]
    with Union(branches) as union, pytest.raises(OSError, match=re.escape(os.strerror(errno.EXDEV))):
        union.exchange(b"e", b"d")
