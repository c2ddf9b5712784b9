"""index finds and sorts rows by path: against a dict and sorted(), from guarded memory, and from rows that lie."""

from __future__ import annotations

import contextlib
import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella._kernels import index
from lamella.columns import ARENA, AT
from tests.kernels.guarded import guarded, guarded_bytes, guarded_columns, guarded_front
from tests.reference.rows import table_of

PATHS = st.lists(st.sampled_from([b"", b"a", b"b", b"a/b", b"a-b", b"a/b/c", b"\xff", b"n" * 300]) | st.binary(max_size=20), max_size=40)
SEEDS = st.integers(0, 2**64 - 1)


def table(paths):
    return table_of([{"path": p} for p in paths])


def key(path: bytes) -> bytes:
    return path.replace(b"\0", b"\0\2").replace(b"/", b"\0\1")  # ``/`` below all, NUL next


def slots_for(n: int, *, fit=guarded) -> np.ndarray:
    return fit(np.zeros(max(2, 1 << (n * 4 // 3).bit_length()), np.uint32))


@given(PATHS, SEEDS, st.booleans())
def test_the_last_row_of_a_path_is_found(paths, seed, front):
    fit = guarded_front if front else guarded
    columns = tuple(None if c is None else fit(c) for c in table(paths).columns)
    slots = slots_for(len(paths), fit=fit)
    taken = index.insert(slots, seed, columns, 0, len(paths))
    last = {path: row for row, path in enumerate(paths)}
    assert taken == len(paths) - len(last)
    for path, row in last.items():
        assert index.find(slots, seed, columns, fit(np.frombuffer(path, np.uint8))) == row
    for path in (b"missing", b"a/", b"n" * 299):
        if path not in last:
            assert index.find(slots, seed, columns, path) == -1


@given(PATHS, SEEDS, st.lists(st.integers(0, 40)))
def test_however_rows_come_in_the_index_is_the_same(paths, seed, cuts):
    columns = table(paths).columns
    whole, pieces = slots_for(len(paths)), slots_for(len(paths))
    index.insert(whole, seed, columns, 0, len(paths))
    at = [0, *sorted(min(c, len(paths)) for c in cuts), len(paths)]
    for begin, end in itertools.pairwise(at):
        index.insert(pieces, seed, columns, begin, end)
    assert whole.tolist() == pieces.tolist()


@given(PATHS, st.randoms(use_true_random=False))
def test_rows_are_sorted_with_slash_lowest_and_the_last_of_equals_kept(paths, rng):
    columns = guarded_columns(table(paths).columns)
    rows = np.arange(len(paths), dtype=np.int64)
    kept = index.sort(columns, sorted_rows := guarded(rows), guarded(rows))
    last = {path: row for row, path in enumerate(paths)}
    assert sorted_rows[:kept].tolist() == [last[path] for path in sorted(last, key=key)]
    some = rng.sample(range(len(paths)), len(paths) // 2)
    kept = index.sort(columns, part := guarded(np.array(some, np.int64)), guarded(np.array(some, np.int64)))
    assert [paths[i] for i in part[:kept]] == sorted({paths[i] for i in some}, key=key)


def test_nothing_at_all():
    columns, empty = table([]).columns, np.zeros(0, np.int64)
    assert index.sort(columns, empty, empty.copy()) == 0
    slots = np.zeros(2, np.uint32)
    assert index.insert(slots, 0, columns, 0, 0) == 0
    assert index.find(slots, 0, columns, b"") == -1
    assert index.find(slots, 0, columns, b"a") == -1


def test_a_full_index_is_an_error_and_a_search_in_it_ends():
    columns = table([b"%d" % i for i in range(9)]).columns
    slots = guarded(np.zeros(8, np.uint32))
    index.insert(slots, 1, columns, 0, 8)
    assert index.find(slots, 1, columns, b"missing") == -1
    with pytest.raises(ValueError, match="full"):
        index.insert(slots, 1, columns, 8, 9)
    assert index.insert(slots, 1, columns, 3, 4) == 1  # a path that is there needs no room


def test_equal_hashes_are_told_apart():
    """With one bit of mask nearly everything collides."""
    columns = table([b"a", b"b"]).columns
    slots = guarded(np.zeros(2, np.uint32))
    index.insert(slots, 3, columns, 0, 2)
    assert [index.find(slots, 3, columns, p) for p in (b"a", b"b", b"c")] == [0, 1, -1]


def test_wrong_buffers_are_refused():
    columns, slots, rows = table([b"a", b"b"]).columns, np.zeros(4, np.uint32), np.arange(2)
    for bad in (np.zeros(3, np.uint32), np.zeros(1, np.uint32), np.zeros(0, np.uint32), np.zeros(4, np.uint64), None):
        with pytest.raises((ValueError, TypeError)):
            index.find(bad, 0, columns, b"a")
        with pytest.raises((ValueError, TypeError)):
            index.insert(bad, 0, columns, 0, 1)
    for begin, end in ((-1, 1), (0, 3), (2, 1), (1 << 60, 1 << 61)):
        with pytest.raises((ValueError, OverflowError)):
            index.insert(slots, 0, columns, begin, end)
    for bad in ([0, 2], [-1, 0], [0, 1 << 60]):
        with pytest.raises(ValueError, match="row"):
            index.sort(columns, np.array(bad), rows.copy())
    with pytest.raises(ValueError, match="length"):
        index.sort(columns, rows, np.zeros(1, np.int64))
    for bad in ((), columns[:-1], (None, *columns[1:]), (columns[2], *columns[1:])):
        with pytest.raises((ValueError, TypeError)):
            index.sort(bad, rows, rows.copy())
    assert not slots.any()


ODD = (-1, 0, 1, 1 << 20, 1 << 40, 2**63 - 1, -(2**63))


@pytest.mark.parametrize("seed", range(60))
def test_rows_and_slots_that_lie_do_no_harm(seed):
    """Offsets, lengths and row numbers point anywhere; nothing beyond the arena and the columns is looked at."""
    rng = random.Random(seed)
    fit = rng.choice((guarded, guarded_front))
    paths = [rng.randbytes(rng.randrange(9)) for _ in range(30)]
    columns = tuple(None if c is None else fit(c) for c in table(paths).columns)
    for _ in range(20):
        columns[AT["name_off"]][rng.randrange(30)] = rng.choice((*ODD, rng.randrange(len(columns[ARENA]) + 2)))
        columns[AT["path_len"]][rng.randrange(30)] = rng.choice((0, 1, 0xFFFF, rng.randrange(9)))
    slots = fit(np.array([rng.choice((0, 1, 31, 1 << 20, 2**32 - 1, rng.randrange(33))) for _ in range(64)], np.uint32))
    for i in range(30):
        with contextlib.suppress(ValueError):
            index.insert(slots, seed, columns, i, i + 1)
        assert -1 <= index.find(slots, seed, columns, fit(np.frombuffer(paths[i], np.uint8))) < 30
    rows = fit(np.arange(30, dtype=np.int64))
    kept = index.sort(columns, rows, fit(np.zeros(30, np.int64)))
    assert sorted(set(rows[:kept].tolist())) == sorted(rows[:kept].tolist())


def test_a_path_may_be_no_bytes_in_front_of_the_guard():
    columns = guarded_columns(table([b"", b"a"]).columns)
    slots = slots_for(2)
    index.insert(slots, 5, columns, 0, 2)
    assert index.find(slots, 5, columns, guarded_bytes(0)) == 0


@given(PATHS, SEEDS)
def test_a_larger_index_finds_the_same(paths, seed):
    columns = tuple(None if c is None else guarded(c) for c in table(paths).columns)
    old = slots_for(len(paths))
    index.insert(old, seed, columns, 0, len(paths))
    larger = guarded(np.zeros(4 * len(old), np.uint32))
    index.refill(larger, seed, columns, old)
    for path in paths:
        assert index.find(larger, seed, columns, path) == index.find(old, seed, columns, path)


def test_an_index_of_another_table_is_refused():
    columns = table([b"a", b"b"]).columns
    for old in ([3, 0], [2**32 - 1, 0]):
        with pytest.raises(ValueError, match="outside the table"):
            index.refill(np.zeros(4, np.uint32), 1, columns, np.array(old, np.uint32))
    with pytest.raises(ValueError, match="full"):
        index.refill(np.array([1, 1], np.uint32), 1, columns, np.array([2, 0], np.uint32))
