"""blocks tells where buffers differ and where one is zero: against plain Python, from guarded memory, in every small column."""

from __future__ import annotations

import mmap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella._kernels import blocks
from tests.kernels.guarded import guarded, guarded_bytes, guarded_front

OK, FULL = 0, 2
SIZES = st.sampled_from([1, 2, 3, 7, 8, 64, 129, 4095, 4096, 4097])
FITS = st.sampled_from([guarded, guarded_front])


@st.composite
def buffers(draw):
    """Two buffers that are alike except in some bytes, each mostly zero."""
    n = draw(st.integers(0, 400) | st.integers(4000, 13_000))
    a = np.zeros(n, np.uint8)
    for at in draw(st.lists(st.integers(0, max(n - 1, 0)), max_size=8)):
        a[at : at + 1] = 1
    b = a.copy()
    for at in draw(st.lists(st.integers(0, max(n - 1, 0)), max_size=8)):
        b[at : at + 1] ^= 0x80
    return a, b


def cut(content, size: int) -> list[bytes]:
    return [bytes(content[at : at + size]) for at in range(0, len(content), size)]


def runs_of(flags) -> list[tuple[int, int]]:
    """The reference: (begin, length) of the runs of true."""
    found: list[tuple[int, int]] = []
    for number, flag in enumerate(flags):
        if flag and found and sum(found[-1]) == number:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        elif flag:
            found.append((number, 1))
    return found


def told(kernel, *inputs, capacity: int, fit=guarded) -> list[tuple[int, int]]:
    """Ask again for as long as the columns are full."""
    found: list[tuple[int, int]] = []
    first, status = 0, FULL
    while status == FULL:
        begins, lengths = (fit(np.full(capacity, -1, np.int64)) for _ in range(2))
        status, first, n = kernel(*inputs, first, begins, lengths)
        assert n == capacity or status == OK
        assert (begins[n:] == -1).all()
        found += zip(begins[:n].tolist(), lengths[:n].tolist(), strict=True)
    return found


@given(buffers(), SIZES, st.integers(1, 5), FITS)
def test_what_differs(pair, size, capacity, fit):
    a, b = pair
    expected = runs_of(x != y for x, y in zip(cut(a, size), cut(b, size), strict=True))
    assert told(blocks.compare, fit(a), fit(b), size, capacity=capacity, fit=fit) == expected


@given(buffers(), SIZES, st.booleans(), st.integers(1, 5), FITS)
def test_what_is_zero(pair, size, zero, capacity, fit):
    expected = runs_of((not any(block)) == zero for block in cut(pair[0], size))
    assert told(blocks.zeros, fit(pair[0]), size, zero, capacity=capacity, fit=fit) == expected


@pytest.mark.parametrize("n", [1, 4095, 4096, 4097, 8192, 8193])
def test_each_byte_counts(n):
    a, b = guarded_bytes(n), guarded_bytes(n)
    for at in {0, 1, n // 2, n - 2, n - 1} & set(range(n)):
        b[at] = 1
        assert told(blocks.compare, a, b, n, capacity=1) == [(0, 1)]
        assert told(blocks.zeros, b, n, True, capacity=1) == []
        b[at] = 0
    assert told(blocks.compare, a, b, n, capacity=1) == []
    assert told(blocks.zeros, b, n, True, capacity=1) == [(0, 1)]


def test_what_lies_behind_a_difference_is_not_read():
    # the second page of each may not be touched, and the first byte of each already tells
    a = np.frombuffer(mmap.mmap(-1, 2 * mmap.PAGESIZE), np.uint8)
    b = np.frombuffer(mmap.mmap(-1, 2 * mmap.PAGESIZE, prot=mmap.PROT_READ), np.uint8)
    a[0] = 1
    begins, lengths = np.zeros(1, np.int64), np.zeros(1, np.int64)
    assert blocks.compare(a, b, len(a), 0, begins, lengths) == (OK, 1, 1)
    assert resident(b)[1] == 0


def resident(buffer) -> bytes:
    """Tell which pages of a buffer are in memory."""
    import ctypes

    known = ctypes.create_string_buffer(len(buffer) // mmap.PAGESIZE)
    assert ctypes.CDLL(None).mincore(ctypes.c_void_p(buffer.ctypes.data), ctypes.c_size_t(len(buffer)), known) == 0
    return known.raw


def test_nothing_has_no_blocks():
    none = np.zeros(0, np.uint8)
    room = np.zeros(0, np.int64)
    assert blocks.compare(none, none, 1, 0, room, room) == (OK, 0, 0)
    assert blocks.zeros(none, 1, True, 0, room, room) == (OK, 0, 0)
    assert blocks.compare(b"ab", b"ab", 1 << 62, 0, room, room) == (OK, 1, 0)


def test_columns_without_room_name_the_first_run():
    room = np.zeros(0, np.int64)
    assert blocks.compare(b"aaab", b"aaaa", 1, 0, room, room) == (FULL, 3, 0)
    assert blocks.compare(b"aaab", b"aaaa", 1, 4, room, room) == (OK, 4, 0)


def test_what_cannot_be_meant_is_refused():
    room, more = np.zeros(1, np.int64), np.zeros(2, np.int64)
    with pytest.raises(ValueError, match="2 and 1 bytes"):
        blocks.compare(b"aa", b"a", 1, 0, room, room)
    for size in (0, -1):
        with pytest.raises(ValueError, match="at least one byte"):
            blocks.compare(b"a", b"a", size, 0, room, room)
        with pytest.raises(ValueError, match="at least one byte"):
            blocks.zeros(b"a", size, True, 0, room, room)
    for first in (-1, 3):
        with pytest.raises(ValueError, match="no block"):
            blocks.zeros(b"abc", 2, True, first, room, room)
    with pytest.raises(ValueError, match="1 and 2 rows"):
        blocks.compare(b"a", b"a", 1, 0, room, more)
