"""Names of directories: read as the system lists them, merged as an obvious union merges them, spelled as FUSE has them."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella._kernels import dirents
from lamella.testing.trees import Dir, File, Symlink, build
from tests.kernels.guarded import guarded, guarded_bytes
from tests.kernels.walking import opened

OUTPUT_FULL, AT_END = 2, 3
HEAD, FUSE = struct.Struct("=QQHHBB2x"), struct.Struct("=QQII")
ENTRY = 128
Name = tuple[bytes, int, int, int]  # name, number of its inode, DT_*, branch


def record(name: bytes, ino: int = 1, kind: int = 8, branch: int = 0, *, number: int = 0, gone: int = 0) -> bytes:
    return HEAD.pack(ino, number, branch, len(name), kind, gone) + name + bytes(-len(name) % 8)


def records_of(data: Any) -> list[tuple[Name, int]]:
    """Spell records as values, with their numbers."""
    data, at, out = bytes(data), 0, []
    while at < len(data):
        ino, number, branch, n, kind, gone = HEAD.unpack_from(data, at)
        begin = at + HEAD.size
        assert not gone
        assert data[begin + n : begin + n + -n % 8] == bytes(-n % 8)
        out.append(((data[begin : begin + n], ino, kind, branch), number))
        at = begin + n + -n % 8
    return out


def as_array(data: bytes) -> np.ndarray[Any, Any]:
    return guarded(np.frombuffer(data, np.uint8))


# -- reading ----------------------------------------------------------------------------------------------------------


def read(fd: int, *, scratch: int = 512, room: int = 1024) -> tuple[bytes, list[int], int]:
    """Read all of a directory into memory that grows; return the records, the state, and how often it was full."""
    state, records, n_full = np.zeros(dirents.N_STATE, np.int64), guarded_bytes(room), 0
    while dirents.read(fd, 7, guarded_bytes(scratch), records, state) == OUTPUT_FULL:
        n_full += 1
        records = guarded(np.concatenate([records[: state[0]], np.zeros(len(records) + 2 * scratch - state[0], np.uint8)]))
    return bytes(records[: state[0]]), state.tolist(), n_full


@pytest.mark.parametrize(("listed", "room"), [(512, 1), (512, 1024), (4096, 9000), (1 << 15, 1 << 17)])
def test_a_directory_is_read_in_any_memory(scratch_dir: Path, listed: int, room: int) -> None:
    with opened(scratch_dir) as fd:
        data, state, n_full = read(fd, scratch=listed, room=room)
    found = {name: (ino, kind, branch) for (name, ino, kind, branch), _ in records_of(data)}
    with os.scandir(os.fsencode(scratch_dir)) as entries:
        there = {e.name: (e.inode(), stat.S_IFMT(e.stat(follow_symlinks=False).st_mode) >> 12, 7) for e in entries}
    assert found == there
    assert state == [len(data), 64, 1, 0, 2, 0]
    assert (n_full > 0) == (room < 1 << 17)


@pytest.fixture
def scratch_dir(scratch: Path) -> Path:
    root = build(
        scratch / "t", Dir("d"), Symlink("l", "x"), File(".wh.gone"), File(".wh."), *(File("f" * n) for n in range(1, 60))
    )
    os.mknod(root / "device", stat.S_IFCHR, 0)
    return root


def test_what_is_no_directory_is_an_error(scratch: Path) -> None:
    build(scratch / "t", File("f"))
    with open(scratch / "t" / "f", "rb") as file, pytest.raises(NotADirectoryError):
        read(file.fileno())
    state = np.zeros(dirents.N_STATE, np.int64)
    for small in ((np.zeros(8, np.uint8), np.zeros(9, np.uint8)), (np.zeros(512, np.uint8), np.zeros(0, np.uint8))):
        with pytest.raises(ValueError, match="state"):
            dirents.read(0, 0, *small, state)
    with pytest.raises(ValueError, match="state"):
        dirents.read(0, 0, np.zeros(512, np.uint8), np.zeros(512, np.uint8), state[1:])


# -- merging ----------------------------------------------------------------------------------------------------------

NAMES = st.sampled_from([b"a", b"b", b"cc", b".wh.a", b".wh.b", b".wh.cc", b".wh.", b".wh..wh..opq", b"x" * 255])
BRANCHES = st.lists(st.lists(NAMES, unique=True, max_size=6), max_size=5)


def union(branches: list[list[bytes]], gone: set[tuple[int, bytes]], *, aufs: bool) -> list[Name]:
    """Merge names the slow way; what is in ``gone`` hides its like and is not shown."""
    out: list[Name] = []
    hidden: set[bytes] = set()
    for number, names in enumerate(branches):
        marks = {name for name in names if aufs and name.startswith(b".wh.")}
        shown = [name for name in names if name not in hidden | marks and (number, name) not in gone]
        out += [(name, len(name), 8, number) for name in shown]
        hidden |= {*names, *(name[4:] for name in marks)} - marks
    return out


@given(branches=BRANCHES, data=st.data(), aufs=st.booleans())
def test_branches_are_merged_as_a_union_is(branches: list[list[bytes]], data: st.DataObject, aufs: bool) -> None:
    every = [(number, name) for number, names in enumerate(branches) for name in names]
    gone = data.draw(st.sets(st.sampled_from(every), max_size=2)) if every and not aufs else set()
    parts = [
        b"".join(record(name, len(name), 8, number, gone=(number, name) in gone) for name in names)
        for number, names in enumerate(branches)
    ]
    joined = as_array(b"".join(parts))
    slots = guarded(np.zeros(1 << max(1, len(every).bit_length()), np.uint32))
    used, n = dirents.merge(joined, np.cumsum([len(part) for part in parts], dtype=np.int64), slots, 5, aufs)
    found = records_of(joined[:used])
    assert [name for name, _ in found] == union(branches, gone, aufs=aufs)
    assert [number for _, number in found] == list(range(1, n + 1))


def test_records_that_are_none_and_too_few_slots_are_refused() -> None:
    good = record(b"a") + record(b"b", branch=1)
    ends, slots = np.array([32, 64], np.int64), np.zeros(8, np.uint32)
    assert dirents.merge(as_array(good), ends, slots.copy(), 1, False) == (64, 2)
    for cut in {*range(1, 64)} - {32}:
        with pytest.raises(ValueError, match="malformed"):
            dirents.merge(as_array(good[:cut]), np.array([min(32, cut), cut], np.int64), slots.copy(), 1, False)
    for wrong in ([32], [48, 64], [64, 32], [-8, 64], [32, 72]):
        with pytest.raises(ValueError, match="malformed"):
            dirents.merge(as_array(good), np.array(wrong, np.int64), slots.copy(), 1, False)
    for n in (0, 1, 3):
        with pytest.raises(ValueError, match="slots"):
            dirents.merge(as_array(good), ends, np.zeros(n, np.uint32), 1, False)
    three = b"".join(record(name, branch=n) for n, name in enumerate((b"a", b"b", b"c")))
    with pytest.raises(ValueError, match="slots"):
        dirents.merge(as_array(three), np.array([32, 64, 96], np.int64), np.full(2, 1 << 31, np.uint32), 1, False)
    assert dirents.merge(np.zeros(0, np.uint8), ends, slots, 1, False) == (0, 0)


# -- spelling ---------------------------------------------------------------------------------------------------------


def spelled(out: Any, *, plus: bool) -> list[tuple[int, int, int, bytes, int]]:
    out, at, found = bytes(out), 0, []
    while at < len(out):
        begin = at + (ENTRY if plus else 0)
        assert not any(out[at:begin])
        ino, off, n, kind = FUSE.unpack_from(out, begin)
        begin += FUSE.size
        assert not any(out[begin + n : begin + n + -n % 8])
        found.append((ino, off, kind, out[begin : begin + n], at))
        at = begin + n + -n % 8
    return found


@pytest.mark.parametrize("plus", [False, True])
def test_names_are_spelled_as_fuse_takes_them_whatever_room_there_is(plus: bool) -> None:
    names = [(b"n" * n, 100 + n, 4 if n % 3 == 0 else 8, n % 2) for n in range(1, 20)]
    data = as_array(b"".join(record(*name, number=3 * at, gone=at % 5 == 0) for at, name in enumerate(names, 1)))
    flips = guarded(np.array([0, 1 << 56], np.uint64))
    expected = [
        (ino ^ (branch << 56), 3 * at + 2, kind, name) for at, (name, ino, kind, branch) in enumerate(names, 1) if at % 5
    ]
    for room in (0, 24, 47, 160, 500, 4000):
        got, at = [], 0
        while True:
            out, found = guarded_bytes(room + 8), guarded(np.zeros(32, np.int64))
            out[:8] = 1
            used, n_found, at, number = dirents.spell(data, at, flips, 2, out, 8, found, plus, 4)
            new = spelled(out[8:used], plus=plus)
            assert [8 + one[4] for one in new if one[2] == 4] == found[:n_found].tolist()
            got += [one[:4] for one in new]
            if not new:
                break
            assert number == new[-1][1] - 2
        assert got == expected[: len(got)]
        assert (got == expected) == (room >= ENTRY * plus + 48)


def test_no_more_is_found_than_there_is_room_for() -> None:
    data = as_array(b"".join(record(b"%d" % n, number=n) for n in range(1, 10)))
    out, flips = np.zeros(4000, np.uint8), np.zeros(1, np.uint64)
    used, n_found, at, number = dirents.spell(data, 0, flips, 0, out, 0, np.zeros(4, np.int64), False, -1)
    assert (n_found, at, number, len(spelled(out[:used], plus=False))) == (4, 4 * 32, 4, 4)


def test_places_and_records_that_are_none_are_refused() -> None:
    data, flips = as_array(record(b"a", number=1) + record(b"b", number=2, branch=1)), np.zeros(2, np.uint64)
    out, found = np.zeros(400, np.uint8), np.zeros(4, np.int64)
    for begin, used in ((-1, 0), (65, 0), (0, -1), (0, 401)):
        with pytest.raises(ValueError, match="within"):
            dirents.spell(data, begin, flips, 0, out, used, found, False, 0)
    with pytest.raises(ValueError, match="another branch"):
        dirents.spell(data, 0, flips[:1], 0, out, 0, found, False, 0)
    with pytest.raises(ValueError, match="malformed"):
        dirents.spell(data[:40], 0, flips, 0, out, 0, found, False, 0)
    assert dirents.spell(data, 64, flips, 0, out, 9, found, False, 0) == (9, 0, 64, 0)
    assert [dirents.seek(data, 0, number) for number in (0, 1, 2, 9)] == [0, 32, 64, 64]
    assert dirents.seek(data, 64, 0) == 64
    with pytest.raises(ValueError, match="within"):
        dirents.seek(data, 65, 0)
