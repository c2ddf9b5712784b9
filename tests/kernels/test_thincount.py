"""References are counted as they are met; damage is named, passed over, and what is lost by it said."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella._kernels import thincount, thinmeta
from lamella.errors import MetadataError
from tests.kernels.guarded import guarded
from tests.kernels.thinnodes import Buffers, device, inner, leaf

BITMAP = 240779


def full(number: int, first: int, data: int = 0) -> bytes:
    """Spell a leaf that is a third full: fewer entries are refused."""
    return leaf(number, [(first + i, data + i) for i in range(84)])


class Tally:
    """The arrays of one count, and what was wrong."""

    def __init__(self, buffers: Buffers, n_data: int = 400) -> None:
        self.buffers = buffers
        self.uses = guarded(np.zeros(buffers.nblocks, np.uint32))
        self.kinds = guarded(np.zeros(buffers.nblocks, np.uint8))
        self.keys = guarded(np.zeros(2 * buffers.nblocks, np.int64)).reshape(-1, 2)
        self.data = guarded(np.zeros(n_data, np.uint32))
        self.wrong: list[tuple[int, str, int, int]] = []

    def tree(self, root: int, kind: int = 1) -> Tally:
        cursor = guarded(np.zeros(thinmeta.CURSOR, np.int64))
        thinmeta.open_walk(cursor, root)
        self.uses[root] += 1
        self.kinds[root] = kind
        while cursor[0] > 0:
            try:
                thincount.tree(
                    *self.buffers.head, cursor, self.uses, self.kinds, self.keys, kind, 8, self.data, len(self.data)
                )
            except MetadataError as error:
                self.wrong.append((error.block, str(error).partition(": ")[2].rpartition(" at byte")[0], int(cursor[4]), int(cursor[5])))
        return self


TREE = {1: inner(1, [(0, 2), (100, 3), (200, 4)]), 2: full(2, 0), 3: full(3, 100, 50), 4: full(4, 200, 300)}


@pytest.mark.parametrize("window", [True, False])
def test_a_tree(window):
    with device(TREE, window=window) as buffers:
        tally = Tally(buffers).tree(1)
    assert tally.wrong == []
    assert tally.uses.tolist() == [0, 1, 1, 1, 1]
    wanted = np.zeros(400, np.uint32)
    for first in (0, 50, 300):
        wanted[first : first + 84] += 1
    assert tally.data.tolist() == wanted.tolist()


def test_what_is_shared_is_counted_each_time_and_entered_once():
    with device({**TREE, 5: inner(5, [(0, 2), (100, 3), (200, 6)]), 6: full(6, 200)}) as buffers:
        tally = Tally(buffers).tree(1).tree(5)
    assert tally.wrong == []
    assert tally.uses.tolist() == [0, 1, 2, 2, 1, 1, 1]
    assert tally.data[:3].tolist() == [2, 2, 2]


WRONG = {
    "checksum is wrong, or it is of another kind": ({3: bytes(4096)}, (3, 100, 199)),
    "has another block's number": ({4: full(9, 200)}, (4, 200, 2**63 - 2)),
    "a tree node has too few entries": ({3: leaf(3, [(100 + i, i) for i in range(83)])}, (3, 100, 199)),
    "keys are out of order": ({3: full(3, 99)}, (3, 100, 199)),
    "a value that cannot be": ({3: full(3, 100, 350)}, (3, 100, 199)),
    "outside the device of 5 blocks": ({1: inner(1, [(0, 2), (100, 77), (200, 4)])}, (77, 100, 199)),
    "nodes form a circle": ({1: inner(1, [(0, 2), (100, 1), (200, 4)])}, (1, 100, 199)),
}


@pytest.mark.parametrize("what", WRONG)
def test_damage_is_named_and_passed_over(what):
    changed, (block, low, high) = WRONG[what]
    with device({**TREE, **changed}) as buffers:
        tally = Tally(buffers).tree(1)
    assert tally.wrong == [(block, what, low, high)]
    assert tally.data[0] == 1
    assert tally.uses[4] == 1


def test_a_shared_node_must_fit_where_it_is_shared():
    with device({**TREE, 5: inner(5, [(0, 2), (101, 3), (200, 4)]), 6: inner(6, [(0, 2), (100, 3), (150, 4)])}) as buffers:
        assert Tally(buffers).tree(1).tree(5).wrong == [(3, "keys are out of order", 101, 199)]
        assert Tally(buffers).tree(1).tree(6).wrong == [(3, "keys are out of order", 100, 149)]


def test_a_block_is_part_of_one_thing():
    with device({**TREE, 5: inner(5, [(0, 2)])}) as buffers:
        assert Tally(buffers).tree(1, 1).tree(5, 2).wrong == [(2, "is part of something else, too", 0, 2**63 - 2)]


def bitmap(number: int, counts: list[int]) -> bytes:
    block = bytearray(4096)
    for i, count in enumerate(counts):
        block[16 + i // 4] |= ((count & 1) << 1 | count >> 1) << i % 4 * 2
    thinmeta.seal(block, number, BITMAP)
    return bytes(block)


@given(counts=st.lists(st.integers(0, 3), min_size=1, max_size=50), more=st.integers(0, 3))
def test_counts_of_bitmaps(counts, more):
    first = (counts * thincount.PER_BITMAP)[: thincount.PER_BITMAP]
    with device({1: bitmap(1, first), 2: bitmap(2, counts + [1] * more)}) as buffers:
        tally = Tally(buffers)
        has = guarded(np.zeros(thincount.PER_BITMAP + len(counts), np.uint32))
        blocks = np.array([1, 2])
        args = (buffers.arena, buffers.state, buffers.fd, blocks, 0, tally.uses, tally.kinds, 3, has)
        assert thincount.bitmaps(*args) == (2, 2)
        above = thincount.NOT_IN_TREE
        assert has.tolist() == [above if count == 3 else count for count in first + counts]
        assert tally.uses.tolist() == [0, 1, 1]
        with pytest.raises(MetadataError, match="block 1: is part of something else"):
            thincount.bitmaps(*args)


def test_damaged_bitmaps():
    with device({1: bitmap(1, [1]), 2: bytes(4096), 3: bitmap(3, [2])}) as buffers:
        tally = Tally(buffers)
        has = np.zeros(3 * thincount.PER_BITMAP, np.uint32)
        head = (buffers.arena, buffers.state, buffers.fd, np.array([1, 2, 3]))
        rest = (tally.uses, tally.kinds, 3, has)
        assert thincount.bitmaps(*head, 0, *rest)[0] == 1
        with pytest.raises(MetadataError, match="block 2"):
            thincount.bitmaps(*head, 1, *rest)
        assert thincount.bitmaps(*head, 2, *rest)[0] == 3
        with pytest.raises(MetadataError, match="outside"):
            thincount.bitmaps(*head[:3], np.array([-1]), 0, *rest[:3], has[:5])
        with pytest.raises(ValueError, match="as many bitmaps"):
            thincount.bitmaps(*head, 0, *rest[:3], has[:5])


@given(has=st.lists(st.integers(0, 2), max_size=60), wants=st.lists(st.integers(0, 2), max_size=60), cap=st.integers(1, 5))
def test_mismatches_are_runs(has, wants, cap):
    n = min(len(has), len(wants))
    has, wants = [5] * 3000 + has[:n], [5] * 3000 + wants[:n]
    a, b = guarded(np.array(has, np.uint32)), guarded(np.array(wants, np.uint32))
    found, at = [], 0
    while at < len(a):
        rows = guarded(np.zeros(4 * cap, np.int64)).reshape(cap, 4)
        k, at = thincount.mismatches(a, b, at, rows)
        found += rows[:k].tolist()
    spelt = {first + i: (x, y) for first, length, x, y in found for i in range(length)}
    assert spelt == {i: (x, y) for i, (x, y) in enumerate(zip(has, wants, strict=True)) if x != y}
    assert all(a[0] + a[1] < b[0] or a[2:] != b[2:] for a, b in pairwise(found))


def test_arrays_of_a_wrong_size_are_refused():
    with device(TREE) as buffers:
        tally = Tally(buffers)
        cursor = np.zeros(thinmeta.CURSOR, np.int64)
        thinmeta.open_walk(cursor, 1)
        head = (*buffers.head, cursor)
        with pytest.raises(ValueError, match="for each metadata block"):
            thincount.tree(*head, tally.uses[1:], tally.kinds, tally.keys, 1, 8, None, 1)
        with pytest.raises(ValueError, match="two keys"):
            thincount.tree(*head, tally.uses, tally.kinds, tally.keys[1:], 1, 8, None, 1)
        with pytest.raises(ValueError, match="each data block a count"):
            thincount.tree(*head, tally.uses, tally.kinds, tally.keys, 1, 8, tally.data, 1)
        with pytest.raises(ValueError, match="kind 0"):
            thincount.tree(*head, tally.uses, tally.kinds, tally.keys, 0, 8, None, 1)
        with pytest.raises(ValueError, match="counts of the same blocks"):
            thincount.mismatches(tally.uses, tally.uses[1:], 0, np.zeros((1, 4), np.int64))
