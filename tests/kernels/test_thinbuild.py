"""thinbuild: blocks that the slow reader reads back, the same whatever room there is for them; none too empty."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella._kernels import thinbuild
from lamella.errors import FormatError
from tests.kernels.guarded import guarded
from tests.reference import thinread

I64, U64 = np.int64, np.uint64
N_DATA = 2_000
Run = tuple[int, int, int, int]


@st.composite
def runs(draw: st.DrawFn) -> list[Run]:
    found, at = [], 0
    for _ in range(draw(st.integers(0, 6))):
        at += draw(st.integers(0, 3) | st.integers(0, 2**40))
        length = draw(st.integers(1, 5) | st.integers(80, 90) | st.integers(250, 340) | st.integers(1, 900))
        found.append((at, draw(st.integers(0, N_DATA - length)), length, draw(st.integers(0, 2**24 - 1))))
        at += length
    return found


class Leaves:
    """Leaves of runs, made with room for ``room`` blocks a call, as one image; block n is place n."""

    def __init__(self, given_runs: list[Run], room: int = 2, cuts: tuple[int, ...] = ()) -> None:
        self.blocks, self.keys, self.numbers = bytes(4096 * 5), [], []
        self.counts = guarded(np.zeros(N_DATA, np.uint32))
        self.out = guarded(np.zeros(room * 4096, np.uint8)), guarded(np.zeros(room, U64)), guarded(np.zeros(room, U64))
        state = guarded(np.zeros(thinbuild.PACKER_NBYTES, np.uint8))
        thinbuild.open_packer(state, 5)
        ends = sorted({*(cut for cut in cuts if cut < len(given_runs)), len(given_runs)})
        for begin, end in zip([0, *ends], ends, strict=False):
            columns = [guarded(column) for column in np.array(given_runs[begin:end], I64).reshape(-1, 4).T]
            done = False
            while not done:
                n, done = thinbuild.leaves(state, *columns, self.counts, *self.out)
                self.take(n)
        n, self.n_mapped, self.next = thinbuild.last_leaves(state, *self.out)
        self.take(n)

    def take(self, n: int) -> None:
        self.blocks += self.out[0][: n * 4096].tobytes()
        self.keys += self.out[1][:n].tolist()
        self.numbers += self.out[2][:n].tolist()


def reader(blocks: bytes) -> thinread.Image:
    """Give the slow reader blocks without a superblock."""
    image = thinread.Image.__new__(thinread.Image)
    image.data, image.check = blocks, True
    return image


@given(runs(), st.integers(2, 5), st.lists(st.integers(0, 6), max_size=3))
def test_leaves(given_runs, room, cuts):
    made = Leaves(given_runs, room, tuple(cuts))
    image = reader(made.blocks)
    nodes = [image.node(number) for number in made.numbers]
    assert made.numbers == list(range(5, made.next))
    assert made.keys == [entries[0][0] if entries else 0 for _, entries in nodes]
    assert all(leaf for leaf, _ in nodes)
    sizes = [len(entries) for _, entries in nodes]
    assert max(sizes) <= 252
    assert len(sizes) == 1 or min(sizes) >= 84
    assert all(size == 252 for size in sizes[:-2])
    found = {key: int.from_bytes(value, "little") for _, entries in nodes for key, value in entries}
    expected = {thin + i: (data + i) << 24 | time for thin, data, length, time in given_runs for i in range(length)}
    assert found == expected
    assert made.n_mapped == len(expected)
    counts = np.bincount([value >> 24 for value in expected.values()], minlength=N_DATA)
    assert (made.counts == counts).all()
    assert made.blocks == Leaves(given_runs, 64).blocks


@pytest.mark.parametrize("n", [0, 1, 83, 84, 251, 252, 253, 335, 336, 337, 504, 587, 588, 589, 1000])
def test_no_leaf_but_the_only_one_is_too_empty(n):
    made = Leaves([(0, 0, n, 0)] if n else [])
    sizes = [struct.unpack_from("<I", made.blocks, 4096 * number + 16)[0] for number in made.numbers]
    assert sum(sizes) == n
    assert len(sizes) == max(1, -(-n // 252))
    assert len(sizes) == 1 or min(sizes) >= 84


BAD = {
    "descends": ([(5, 0, 1, 0), (4, 0, 1, 0)], "block 4 after block 5"),
    "overlaps": ([(5, 0, 3, 0), (7, 0, 1, 0)], "block 7 after block 7"),
    "no length": ([(5, 0, 0, 0)], "do not ascend"),
    "negative": ([(-1, 0, 1, 0)], "do not ascend"),
    "beyond": ([(0, N_DATA, 1, 0)], f"{N_DATA} >= {N_DATA}"),
    "ends beyond": ([(0, N_DATA - 1, 2, 0)], f"{N_DATA} >= {N_DATA}"),
    "far beyond": ([(0, 2**62, 2**62, 0)], "beyond end of data device"),
    "before": ([(0, -1, 1, 0)], "beyond end of data device"),
}


@pytest.mark.parametrize("case", BAD)
def test_runs_that_cannot_be(case):
    given_runs, words = BAD[case]
    with pytest.raises(FormatError, match=words):
        Leaves(given_runs)


@given(st.integers(0, 700), st.sampled_from([4, 8, 16, 24]), st.booleans(), st.integers(2, 4))
def test_nodes(n, size, leaf, room):
    keys = guarded(np.arange(n, dtype=U64) * 3)
    values = guarded(np.random.default_rng(n).integers(0, 256, n * size).astype(np.uint8))
    out = guarded(np.zeros(room * 4096, np.uint8)), guarded(np.zeros(room, U64)), guarded(np.zeros(room, U64))
    blocks, first_keys, done = bytes(4096 * 9), [], 0
    while done < thinbuild.n_nodes(n, size):
        made = thinbuild.nodes(keys, values, size, leaf, done, 9 + done, *out)
        assert out[2][:made].tolist() == list(range(9 + done, 9 + done + made))
        blocks += out[0][: made * 4096].tobytes()
        first_keys += out[1][:made].tolist()
        done += made
    nodes = [reader(blocks).node(9 + i) for i in range(done)]
    assert {is_leaf for is_leaf, _ in nodes} == {leaf}
    assert [key for _, entries in nodes for key, _ in entries] == keys.tolist()
    assert b"".join(value for _, entries in nodes for _, value in entries) == values.tobytes()
    assert first_keys == [entries[0][0] if entries else 0 for _, entries in nodes]
    most = (4096 - 32) // (8 + size) // 3 * 3
    assert done == max(1, -(-n // most))
    assert done == 1 or min(len(entries) for _, entries in nodes) >= most // 3


@given(st.lists(st.sampled_from([0, 1, 2, 3, 2**32 - 1]), max_size=50), st.integers(0, 2 * 16320 + 3))
def test_bitmaps(some, n_more):
    counts = np.concatenate([np.array(some, np.uint32), np.ones(n_more, np.uint32), np.array(some, np.uint32)])
    n = -(-len(counts) // thinbuild.BITMAP_COUNTS)
    blocks, entries = guarded(np.full(n * 4096, 9, np.uint8)), guarded(np.zeros(n * 16, np.uint8))
    thinbuild.bitmaps(guarded(counts), 3, blocks, entries)
    image = reader(bytes(3 * 4096) + blocks.tobytes())
    for i in range(n):
        part = counts[i * 16320 : (i + 1) * 16320]
        block = image.block(3 + i, thinread.BITMAP)
        pairs = [block[16 + k // 4] >> k % 4 * 2 & 3 for k in range(16320)]
        assert [(0, 2, 1, 3)[pair] for pair in pairs[: len(part)]] == np.minimum(part, 3).tolist()
        assert not any(pairs[len(part) :])
        number, n_free, first = struct.unpack_from("<QII", entries.tobytes(), 16 * i)
        assert (number, n_free) == (3 + i, int((part == 0).sum()) + 16320 - len(part))
        assert first == next((k for k, count in enumerate(part) if count == 0), len(part))


def test_an_index_block():
    entries, block = guarded(np.arange(32, dtype=np.uint8)), guarded(np.full(4096, 9, np.uint8))
    thinbuild.index(entries, 2, block)
    read = reader(bytes(8192) + block.tobytes()).block(2, thinread.INDEX)
    assert read[16:48] == entries.tobytes()
    assert not any(read[48:])


def test_wrong_shapes_are_refused():
    state, one, two = np.zeros(thinbuild.PACKER_NBYTES, np.uint8), np.zeros(1, I64), np.zeros(2, I64)
    counts = np.zeros(1, np.uint32)
    out = np.zeros(8192, np.uint8), np.zeros(2, U64), np.zeros(2, U64)
    with pytest.raises(ValueError, match="bytes"):
        thinbuild.open_packer(state[1:], 1)
    with pytest.raises(ValueError, match="bytes"):
        thinbuild.last_leaves(state[1:], *out)
    with pytest.raises(ValueError, match="of one length"):
        thinbuild.leaves(state, one, one, one, two, counts, *out)
    with pytest.raises(ValueError, match="two blocks"):
        thinbuild.leaves(state, one, one, one, one, counts, out[0][1:], *out[1:])
    with pytest.raises(ValueError, match="not a state"):
        thinbuild.last_leaves(np.full(thinbuild.PACKER_NBYTES, 255, np.uint8), *out)
    with pytest.raises(ValueError, match="values of 8 bytes"):
        thinbuild.nodes(np.zeros(1, U64), np.zeros(7, np.uint8), 8, True, 0, 1, *out)
    with pytest.raises(ValueError, match="no room for 1 bitmaps"):
        thinbuild.bitmaps(counts, 1, np.zeros(4095, np.uint8), np.zeros(16, np.uint8))
    with pytest.raises(ValueError, match="255 entries"):
        thinbuild.index(np.zeros(256 * 16, np.uint8), 1, np.zeros(4096, np.uint8))
