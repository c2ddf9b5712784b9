"""Walks through trees of metadata, right ones and hostile ones, in buffers that end where memory ends."""

from __future__ import annotations

import contextlib
import errno
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella._kernels import thincount, thindelta, thinmeta
from lamella.errors import MetadataError
from tests.block import images
from tests.kernels import thinnodes
from tests.kernels.guarded import guarded
from tests.kernels.thinnodes import INTERNAL, LEAF, device, inner, leaf, node
from tests.reference import thinread

SMALL = {
    1: inner(1, [(0, 2), (10, 3), (500, 4)]),
    2: leaf(2, [(0, 7), (1, 8), (2, 9), (5, 1)]),
    3: leaf(3, [(10, 2), (11, 3), (499, 5)]),
    4: leaf(4, [(500, 6), (501, 7), (900, 0)]),
}
SMALL_RUNS = [(0, 7, 3, 0), (5, 1, 1, 0), (10, 2, 2, 0), (499, 5, 3, 0), (900, 0, 1, 0)]


@pytest.mark.parametrize("window", [True, False])
@pytest.mark.parametrize("cap", range(1, 8))
def test_columns_of_any_length_give_the_same_runs(cap, window):
    with device(SMALL, window=window) as buffers:
        assert buffers.extents(1, cap) == SMALL_RUNS


@pytest.mark.parametrize("name", ["devices", "shared"])
@pytest.mark.parametrize("cap", [1, 2, 7, 1000])
def test_images_of_the_kernel(name, cap):
    image = thinread.Image(images.golden(f"{name}.img"))
    with device(image.data) as buffers:
        for root in image.roots().values():
            mappings = image.mappings(root)
            assert buffers.extents(root, cap) == thinread.runs(mappings)
            wanted = thinread.compare(mappings, image.mappings(image.roots()[1]))
            rows = buffers.delta(root, image.roots()[1], cap)
            assert [(kind, begin + i) for kind, begin, length, _, _ in rows for i in range(length)] == [row[:2] for row in wanted]


def test_leaves_pass_and_inner_nodes_stay():
    with device(SMALL) as buffers:
        buffers.extents(1)
        assert buffers.state.tolist() == [0, 3, 0, 0, 0]


def test_leaves_that_follow_each_other_are_read_with_one_call():
    cursor = np.zeros(thinmeta.CURSOR, np.int64)
    thinmeta.open_walk(cursor, 1)
    with device(SMALL) as buffers:
        columns = [np.zeros(9, np.int64) for _ in range(4)]
        assert thinmeta.extents(*buffers.head, cursor, *columns, 100) == len(SMALL_RUNS)
        assert cursor[1] == 2


def test_an_empty_tree():
    with device({1: leaf(1, [])}) as buffers:
        assert buffers.extents(1) == []
        assert buffers.delta(1, 1) == []


HOSTILE = {
    "outside the device": {1: inner(1, [(0, 2), (5, 1 << 63)]), 2: leaf(2, [(0, 1)])},
    "checksum": {1: inner(1, [(0, 2)]), 2: bytes(4096)},
    "another block's number": {1: inner(1, [(0, 2)]), 2: leaf(3, [(0, 1)])},
    "header": {1: node(1, 3, [(0, 1)])},
    "header ": {1: node(1, LEAF, [(0, 1)], n=253)},
    "header  ": {1: node(1, LEAF, [(0, 1)], most=255)},
    "header   ": {1: node(1, LEAF, [(0, 1)], most=251)},
    "header    ": {1: node(1, LEAF, [(0, 1)], size=4)},
    "header     ": {1: node(1, INTERNAL, [])},
    "keys": {1: leaf(1, [(1, 1), (1, 2)])},
    "keys ": {1: leaf(1, [(2, 1), (1, 2)])},
    "keys  ": {1: leaf(1, [((1 << 63) - 1, 1)])},
    "keys   ": {1: leaf(1, [(0, 0), (1 << 63, 1)])},
    "keys of a child below its parent's": {1: inner(1, [(0, 2), (10, 3)]), 2: leaf(2, [(0, 1)]), 3: leaf(3, [(9, 1)])},
    "keys of a child above its parent's": {1: inner(1, [(0, 2), (10, 3)]), 2: leaf(2, [(10, 1)]), 3: leaf(3, [(11, 1)])},
    "keys: an empty child": {1: inner(1, [(0, 2)]), 2: leaf(2, [])},
    "keys: one child twice": {1: inner(1, [(0, 2), (10, 2)]), 2: leaf(2, [(0, 1), (1, 1)])},
    "circle": {1: inner(1, [(0, 1)])},
    "circle of two": {1: inner(1, [(0, 2)]), 2: inner(2, [(0, 1)])},
    "circle: too deep": {i: inner(i, [(0, i + 1)]) for i in range(1, 40)} | {40: leaf(40, [(0, 1)])},
    "value": {1: leaf(1, [(0, 1 << 30)])},
}


@pytest.mark.parametrize("window", [True, False])
@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_trees_are_refused(what, window):
    blocks = {60: leaf(60, [(3, 3)]), **HOSTILE[what]}
    wanted = what.partition(" of")[0].partition(":")[0].strip()
    for run in (lambda b: b.extents(1), lambda b: b.delta(1, 60), lambda b: b.delta(60, 1), lambda b: b.delta(1, 1)):
        with device(blocks, window=window) as buffers, pytest.raises(MetadataError, match=wanted):
            run(buffers)


def test_a_tree_whose_nodes_are_everywhere_ends_soon():
    """Levels of nodes whose 252 children are all one node: 252 ** 7 paths, refused at the second."""
    blocks = {i: inner(i, [(k, i + 1) for k in range(252)]) for i in range(1, 8)} | {8: leaf(8, [(0, 1)])}
    with device(blocks) as buffers, pytest.raises(MetadataError, match="keys are out of order"):
        buffers.extents(1)


def test_a_device_that_refuses_or_ends():
    with device(SMALL) as buffers:
        reading = os.open(os.devnull, os.O_WRONLY)
        try:
            buffers_fd, buffers.fd = buffers.fd, reading
            with pytest.raises(OSError, match="metadata block 1: Bad file descriptor") as caught:
                buffers.extents(1)
        finally:
            buffers.fd = buffers_fd
            os.close(reading)
        assert caught.value.errno == errno.EBADF
        os.ftruncate(buffers.fd, 3 * 4096)
        with pytest.raises(MetadataError, match="metadata block 3: the device ends before it") as short:
            buffers.extents(1)
        assert short.value.block == 3


def test_entries_of_every_size():
    for size in (4, 8, 16, 24):
        most = (4096 - 32) // (8 + size) // 3 * 3
        rows = [(3 * i, 7 * i + 1) for i in range(most)]
        with device({1: node(1, LEAF, rows, most=most, size=size)}) as buffers:
            for cap in (1, 50, 1000):
                cursor = guarded(np.zeros(thinmeta.CURSOR, np.int64))
                thinmeta.open_walk(cursor, 1)
                found, n = [], cap
                while n == cap:
                    keys = guarded(np.zeros(cap, np.int64))
                    values = guarded(np.zeros(cap * size, np.uint8)).reshape(cap, size)
                    n = thinmeta.entries(*buffers.head, cursor, keys, values)
                    found += [(key, int.from_bytes(value.tobytes(), "little")) for key, value in zip(keys[:n].tolist(), values[:n], strict=True)]
                assert found == rows


@given(
    numbers=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-1, 300), min_size=thindelta.CURSOR, max_size=thindelta.CURSOR),
    depth=st.integers(0, 17),
)
def test_any_cursor_is_survived(numbers, depth):
    """A cursor is the caller's: whatever stands in it, nothing outside the buffers is touched."""
    cursor = guarded(np.array(numbers, np.int64))
    cursor[0] = cursor[thindelta.RIGHT] = depth
    columns = tuple(guarded(np.zeros(50, np.int64)) for _ in range(5))
    uses, kinds, keys = (guarded(np.zeros(n, kind)) for n, kind in ((5, np.uint32), (5, np.uint8), (10, np.int64)))
    values = guarded(np.zeros(400, np.uint8)).reshape(50, 8)
    for window in (True, False):
        with device(SMALL, window=window) as buffers:
            calls = (
                lambda b, c: thinmeta.extents(*b.head, c, *columns[:4], 100),
                lambda b, c: thinmeta.entries(*b.head, c, columns[0], values),
                lambda b, c: thindelta.delta(b.arena, b.state, b.window, b.other, b.fd, c, columns, 100, True, False),
                lambda b, c: thincount.tree(*b.head, c, uses, kinds, keys.reshape(5, 2), 1, 8, None, 100),
            )
            for call in calls:
                with contextlib.suppress(MetadataError, ValueError):
                    call(buffers, guarded(cursor))


@given(data=st.data())
def test_sealed_nonsense_is_survived(data):
    """Fields of nodes are overwritten and the checksum made right again."""
    image = thinread.Image(images.golden("shared.img"), check=False)
    roots = list(image.roots().values())[:3]
    blocks = bytearray(image.data)
    for number in [*roots, *(int.from_bytes(value, "little") for root in roots for _, value in image.node(root)[1])]:
        for _ in range(data.draw(st.integers(0, 2))):
            at = data.draw(st.integers(4, 48) | st.integers(32 + 8 * 252 - 8, 32 + 8 * 252 + 40) | st.integers(4, 4095))
            blocks[4096 * number + at] = data.draw(st.sampled_from([0, 1, 2, 3, 127, 252, 255]))
        thinmeta.seal(memoryview(blocks)[4096 * number : 4096 * number + 4096], number, thinnodes.NODE)
    with device(bytes(blocks)) as buffers:
        for run in (lambda: buffers.extents(roots[0], 50), lambda: buffers.delta(roots[0], roots[1], 50), lambda: buffers.delta(roots[2], roots[1])):
            try:
                run()
            except MetadataError as error:
                assert error.block < 2**63


def test_buffers_of_a_wrong_size_are_refused():
    cursor = np.zeros(thinmeta.CURSOR, np.int64)
    column, short = np.zeros(5, np.int64), np.zeros(4, np.int64)
    with device(SMALL) as buffers:
        head = buffers.head
        with pytest.raises(ValueError, match="too small"):
            thinmeta.extents(buffers.arena[4096:], *head[1:], cursor, column, column, column, column, 9)
        with pytest.raises(ValueError, match="window"):
            thinmeta.extents(*head[:2], buffers.window[1:], head[3], cursor, column, column, column, column, 9)
        with pytest.raises(ValueError, match="of one length"):
            thinmeta.extents(*head, cursor, column, column, column, short, 9)
        with pytest.raises(ValueError, match="a cursor has"):
            thinmeta.extents(*head, cursor[1:], column, column, column, column, 9)
        with pytest.raises(ValueError, match="a cursor has"):
            thinmeta.open_walk(cursor[1:], 1)
        with pytest.raises(ValueError, match="values of 1 to 24"):
            thinmeta.entries(*head, cursor, column, np.zeros((5, 25), np.uint8))
        with pytest.raises(ValueError, match="of one length"):
            thindelta.delta(buffers.arena, buffers.state, None, None, buffers.fd, cursor, (column, column, short, column, column), 9, True, False)
        with pytest.raises(ValueError, match="a cursor has"):
            thindelta.open_delta(buffers.arena, buffers.state, buffers.fd, cursor, 1, 2, True)
        with pytest.raises(ValueError, match="4096 bytes"):
            thinmeta.seal(bytearray(4095), 1, 1)
