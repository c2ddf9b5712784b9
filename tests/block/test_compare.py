"""The blocks that differ, of buffers and of files: against plain Python."""

from __future__ import annotations

import itertools
import os
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella.block import compare
from lamella.errors import TruncatedError

WINDOW = 1 << 20
CONTENTS = st.lists(st.sampled_from([b"\0" * 5, b"aaaaa", b"b"]), max_size=12).map(b"".join)


def pairs(runs: compare.Runs) -> list[tuple[int, int]]:
    return list(zip(runs.begin.tolist(), runs.length.tolist(), strict=True))


def blocks_of(runs: compare.Runs) -> set[int]:
    found = pairs(runs)
    assert all(sum(left) < right[0] for left, right in itertools.pairwise(found)), "runs touch"
    assert sum(length for _, length in found) == runs.nblocks
    return {block for begin, length in found for block in range(begin, begin + length)}


def expected(a: bytes, b: bytes, size: int) -> set[int]:
    n = -(-max(len(a), len(b)) // size)
    return {i for i in range(n) if a[i * size : (i + 1) * size] != b[i * size : (i + 1) * size]}


@given(CONTENTS, CONTENTS, st.integers(1, 9))
def test_buffers(a, b, size):
    assert blocks_of(compare.differing(a, b, size)) == expected(a, b, size)


@given(CONTENTS, st.integers(1, 9))
def test_zeros(a, size):
    n = -(-len(a) // size)
    assert blocks_of(compare.zero(a, size)) == {i for i in range(n) if not any(a[i * size : (i + 1) * size])}


def test_more_runs_than_a_call_tells():
    a = np.zeros(30_000, np.uint8)
    b = a.copy()
    b[::2] = 1
    assert pairs(compare.differing(a, b, 1)) == [(i, 1) for i in range(0, 30_000, 2)]


@pytest.fixture
def files(scratch):
    """Give a function that writes contents to files and opens them."""
    opened = []

    def write(*contents: bytes) -> list[int]:
        for content in contents:
            path = scratch / str(len(opened))
            path.write_bytes(content)
            opened.append(os.open(path, os.O_RDWR))
        return opened[-len(contents) :]

    yield write
    for fd in opened:
        os.close(fd)


@pytest.mark.parametrize("size", [512, 4096, 65_536, 100_001, 3 * WINDOW])
def test_files(files, size):
    draw = Random(size)
    a = bytearray(draw.randbytes(3 * WINDOW + 12_345))
    b = bytearray(a)
    for at in [0, WINDOW - 1, WINDOW, len(a) - 1, *(draw.randrange(len(a)) for _ in range(20))]:
        b[at] ^= 1
    b[2 * WINDOW - 9000 : 2 * WINDOW + 9000] = bytes(18_000)
    for longer in (b"", b"x", b"y" * 70_000):
        one, two = files(a, b + longer)
        assert blocks_of(compare.differing_files(one, two, size)) == expected(a, b + longer, size)
        assert blocks_of(compare.differing_files(two, one, size)) == expected(a, b + longer, size)
        assert pairs(compare.differing_files(one, one, size)) == []


def test_holes_of_both_are_not_read(files, monkeypatch):
    one, two = files(b"", b"")
    for fd in (one, two):
        os.ftruncate(fd, 1 << 40)
        os.pwrite(fd, b"same", 1 << 30)
    os.pwrite(two, b"here", (1 << 39) + 5)
    os.pwrite(one, bytes(9), 1 << 38)  # data that say what a hole says
    reads = []
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda *of: reads.append(of) or whole(*of))
    assert pairs(compare.differing_files(one, two, 4096)) == [((1 << 39) // 4096, 1)]
    assert len(reads) == 2 * 3


def test_empty_files(files):
    one, two, three = files(b"", b"", b"abc")
    assert pairs(compare.differing_files(one, two, 4096)) == []
    assert pairs(compare.differing_files(one, three, 2)) == [(0, 2)]
    assert pairs(compare.differing(b"", b"", 1)) == []


def test_a_file_that_is_cut_meanwhile(files, monkeypatch):
    one, two = files(b"x" * 100, b"x" * 100)
    monkeypatch.setattr(compare, "device_nbytes", lambda fd: 200)
    monkeypatch.setattr(compare, "_next_data", lambda fd, at, end: min(at, end))
    with pytest.raises(TruncatedError, match="byte 100"):
        compare.differing_files(one, two, 10)


@pytest.mark.parametrize("size", [0, -5])
def test_a_block_has_bytes(files, size):
    with pytest.raises(ValueError, match="at least one byte"):
        compare.differing(b"a", b"b", size)
    with pytest.raises(ValueError, match="at least one byte"):
        compare.differing_files(*files(b"a", b"b"), size)
    with pytest.raises(ValueError, match="at least one byte"):
        compare.zero(b"a", size)


@pytest.mark.requires("loop", "losetup", "blockdev")
def test_block_devices(loops):
    a = bytearray(Random(1).randbytes(2 << 20))
    b = bytearray(a)
    b[5] ^= 1
    b[-1] ^= 1
    assert pairs(compare.differing_files(*loops(a, b), 4096)) == [(0, 1), (511, 1)]
    assert pairs(compare.differing_files(*loops(a, b + bytes(4096)), 65_536)) == [(0, 1), (31, 2)]
