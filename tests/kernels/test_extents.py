"""extents: what dicts say of maps, whatever the rows, the room for output, and the bytes behind the buffers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella._kernels import extents
from lamella.block.extents import Delta, DeltaKind, Extent, ExtentTable
from tests.kernels.guarded import guarded
from tests.reference.extents import blocks_of, delta_of, extents_of

I64 = np.int64


@st.composite
def tables(draw: st.DrawFn) -> ExtentTable:
    """A map in any cut of its rows: holes, runs that go on, data of few blocks so that maps agree by chance."""
    rows, at = [], 0
    for _ in range(draw(st.integers(0, 12))):
        at += draw(st.sampled_from([0, 0, 0, 1, 2, 5]))
        length = draw(st.sampled_from([1, 1, 1, 2, 3, 7]))
        goes_on = rows and draw(st.booleans())
        data = rows[-1][1] + rows[-1][2] if goes_on else draw(st.integers(0, 6))
        rows.append((at, data, length, draw(st.integers(0, 1))))
        at += length
    return ExtentTable(*np.array(rows, I64).reshape(-1, 4).T)


def sweep(call: Callable[..., tuple[int, bool]], n_columns: int, cap: int) -> list[tuple[int, ...]]:
    """Run a resumable kernel with room for ``cap`` rows a call, and never a byte more."""
    state = guarded(np.zeros(extents.SWEEP_WORDS, I64))
    rows: list[tuple[int, ...]] = []
    done = False
    while not done:
        out = [guarded(np.full(cap, -77, I64)) for _ in range(n_columns)]
        n, done = call(out, state)
        assert n == cap or done
        assert all((column[n:] == -77).all() for column in out)
        rows += zip(*(column[:n].tolist() for column in out), strict=True)
    return rows


def walled(table: ExtentTable) -> list[Any]:
    return [guarded(column) for column in table.columns]


@given(tables(), tables(), st.integers(1, 5))
def test_over(below, above, cap):
    sides = [*walled(below), *walled(above)]
    rows = sweep(lambda out, state: extents.splice(*sides, state, *out), 4, cap)
    assert rows == extents_of(blocks_of(below) | blocks_of(above))


@given(tables(), tables(), st.integers(1, 5))
def test_without(table, holes, cap):
    thin, _, length, _ = walled(holes)
    rows = sweep(lambda out, state: extents.splice(*walled(table), thin, None, length, None, state, *out), 4, cap)
    gone = blocks_of(holes)
    assert rows == extents_of({block: at for block, at in blocks_of(table).items() if block not in gone})


@given(tables(), tables(), st.booleans(), st.booleans(), st.integers(1, 5))
def test_classify(left, right, joined, same, cap):
    sides = [*walled(left)[:3], *walled(right)[:3]]
    rows = sweep(lambda out, state: extents.classify(*sides, joined, same, state, *out), 5, cap)
    assert rows == delta_of(blocks_of(left), blocks_of(right), joined=joined, same=same)


@given(tables(), st.lists(st.integers(-3, 60), max_size=80), st.booleans(), st.booleans())
def test_lookup(table, blocks, ascending, with_time):
    wanted = guarded(np.array(sorted(blocks) if ascending else blocks, I64))
    data, time = guarded(np.full(len(wanted), 77)), guarded(np.full(len(wanted), 77))
    extents.lookup(*walled(table), wanted, data, time if with_time else None)
    known = blocks_of(table)
    expected = [known.get(int(block), (-1, -1)) for block in wanted]
    assert data.tolist() == [place for place, _ in expected]
    assert time.tolist() == ([since for _, since in expected] if with_time else [77] * len(wanted))


@pytest.mark.parametrize("n", [1, 2, 3, 100, 1000])
def test_lookup_far_and_near(n):
    table = ExtentTable(np.arange(n) * 10, np.arange(n) * 3, np.full(n, 4), np.arange(n) % 5)
    known = blocks_of(table)
    everything = np.arange(-2, n * 10 + 3)
    for wanted in (everything, everything[::-1], everything[::37], np.random.default_rng(n).permutation(everything)):
        data, time = table.lookup(wanted)
        assert [*zip(data.tolist(), time.tolist(), strict=True)] == [known.get(int(block), (-1, -1)) for block in wanted]


@given(tables(), tables())
def test_the_tables_have_it_as_methods(left, right):
    """More rows than one call has room for are in test_more_rows_than_a_call_holds."""
    here, there = blocks_of(left), blocks_of(right)
    assert list(left.over(right)) == extents_of(there | here)
    assert list(left.coalesced()) == extents_of(here)
    gone = left.without(right.thin_begin, right.length)
    assert list(gone) == extents_of({block: at for block, at in here.items() if block not in there})
    assert list(left.delta(right)) == delta_of(here, there, joined=False, same=False)
    assert list(left.delta(right, joined=True, same=True)) == delta_of(here, there, joined=True, same=True)
    assert left.nblocks == len(here)


def test_more_rows_than_a_call_holds():
    n = 300_000
    table = ExtentTable(np.arange(n) * 2, np.arange(n), np.ones(n), np.zeros(n))
    assert [column.tolist() for column in table.coalesced().columns] == [column.tolist() for column in table.columns]
    delta = table.delta(ExtentTable((), (), (), ()))
    assert (len(delta), delta.nblocks) == (n, n)
    assert delta.kind.max() == DeltaKind.LEFT_ONLY


def test_equal_rows_are_left_behind_by_strides():
    n = 1000
    left = ExtentTable(np.arange(n) * 2, np.arange(n), np.ones(n), np.zeros(n))
    for at in (0, 7, 8, 9, 500, 999):
        data = np.arange(n)
        data[at] = n
        right = ExtentTable(np.arange(n) * 2, data, np.ones(n), np.ones(n))
        assert list(left.delta(right)) == [Delta(DeltaKind.DIFFERENT, 2 * at, 1, at, n)]
        assert left.delta(left).nblocks == 0


@given(st.lists(st.tuples(*[st.sampled_from([-(2**63), -1, 0, 1, 2, 5, 2**62, 2**63 - 1])] * 4), max_size=8),
       st.lists(st.tuples(*[st.sampled_from([-(2**63), -1, 0, 1, 2, 5, 2**62, 2**63 - 1])] * 4), max_size=8), st.booleans())  # fmt: skip
def test_rows_without_meaning_end_inside_the_buffers(left, right, flag):
    """Nothing is promised of the answer."""
    a, b = (ExtentTable(*np.array(rows, I64).reshape(-1, 4).T) for rows in (left, right))
    sweep(lambda out, state: extents.splice(*walled(a), *walled(b), state, *out), 4, 3)
    sweep(lambda out, state: extents.classify(*walled(a)[:3], *walled(b)[:3], flag, flag, state, *out), 5, 3)
    wanted = guarded(b.thin_begin)
    extents.lookup(*walled(a), wanted, guarded(np.zeros(len(b), I64)), None)


def test_no_columns_no_rows():
    empty = ExtentTable((), (), (), ())
    assert list(empty.over(empty)) == list(empty.delta(empty, same=True)) == []
    assert [column.tolist() for column in empty.lookup([0, 5])] == [[-1, -1], [-1, -1]]
    assert [column.tolist() for column in empty.lookup([])] == [[], []]


def test_wrong_shapes_are_refused():
    one, two, state = np.zeros(1, I64), np.zeros(2, I64), np.zeros(extents.SWEEP_WORDS, I64)
    table = [one] * 4
    with pytest.raises(ValueError, match="of one length"):
        extents.lookup(one, two, one, one, one, one, None)
    with pytest.raises(ValueError, match="as many places"):
        extents.lookup(*table, two, one, None)
    with pytest.raises(ValueError, match="as many places"):
        extents.lookup(one, one, one, None, one, one, one)
    with pytest.raises(ValueError, match="at least 1"):
        extents.splice(*table, *table, state, *[np.zeros(0, I64)] * 4)
    with pytest.raises(ValueError, match="at least 1"):
        extents.classify(*table[:3], *table[:3], False, False, state, two, one, one, one, one)
    with pytest.raises(ValueError, match="words"):
        extents.splice(*table, *table, one, *table)
    with pytest.raises(ValueError, match="not a state"):
        extents.splice(*table, *table, np.full(extents.SWEEP_WORDS, -1, I64), *table)
    with pytest.raises(ValueError, match="neither data nor time"):
        extents.splice(*table, one, None, one, one, state, *table)


def test_tables_are_frozen_and_say_what_they_are():
    table = ExtentTable([0, 8], [4, 5], [2, 1], [0, 1])
    with pytest.raises(ValueError, match="read-only"):
        table.length[0] = 5
    with pytest.raises(ValueError, match="one length"):
        ExtentTable([0], [1, 2], [1], [0])
    assert list(table) == [Extent(0, 4, 2, 0), Extent(8, 5, 1, 1)]
    assert repr(table) == "<ExtentTable of 2 extents, 3 blocks>"
    delta = table.delta(ExtentTable([0], [4], [1], [0]))
    assert repr(delta) == "<DeltaTable of 2 runs, 2 blocks>"
    assert list(delta) == [Delta(DeltaKind.LEFT_ONLY, 1, 1, 5, -1), Delta(DeltaKind.LEFT_ONLY, 8, 1, 5, -1)]
