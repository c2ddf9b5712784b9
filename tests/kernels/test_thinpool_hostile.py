"""The kernels that write thin metadata, on bytes that lie and in buffers that end at a page nobody may touch.

Whatever the bytes say: an error of the documented kinds, or an answer; never a crash or an endless loop.
"""

from __future__ import annotations

import contextlib
import random
import struct

import numpy as np
import pytest

from lamella._kernels import thinmeta, thinpool, thinspace, thintree
from lamella.block import space as space_module
from lamella.block.memory import SLACK
from lamella.block.space import BOOKS, Space
from lamella.errors import MetadataError, PoolFullError
from tests.block import pools
from tests.kernels.guarded import guarded, guarded_bytes

NODE, BITMAP, INDEX = 121107, 240779, 160478
FIELDS = [0, 1, 2, 3, 84, 126, 168, 251, 252, 253, 336, 339, 340, 1 << 15, (1 << 32) - 1]


class GuardedMemory:
    """A Memory whose buffers end flush."""

    def __init__(self, nblocks: int, *, huge: bool = False) -> None:
        self.nblocks = nblocks
        self.arena = guarded_bytes((nblocks + SLACK) * 4096)
        self.state = guarded(np.zeros(nblocks, np.uint8))


@pytest.fixture
def tight(monkeypatch):
    """Let pools work in buffers that end flush."""
    columns = Space._columns

    def tighter(self, given):
        columns(self, given)
        self.counts = guarded(self.counts)
        self.columns, self.changed, self.books = [guarded(column) for column in self.columns], guarded(self.changed), guarded(self.books)
        self.places = guarded(self.places)
        self.parts = (self.memory.arena, self.memory.state, self.fd, self.counts, self.books, *self.columns, self.changed)

    monkeypatch.setattr(space_module, "Memory", GuardedMemory)
    monkeypatch.setattr(Space, "_columns", tighter)


def made(folder) -> bytes:
    """Make metadata with two levels of trees, shared nodes, counts above two and a snapshot; return them."""
    with pools.make(folder, metadata=120, data=20_000) as pool:
        pool.create_thin(0)
        with pool.device(0, nblocks=1 << 20) as device:
            pools.provision(device, np.arange(0, 1_800, 3))
            for number in (1, 2, 3):
                pool.create_snapshot(number, 0)
                with pool.device(number, nblocks=1 << 20) as other:
                    pools.provision(other, [0, 900])
            pool.reserve_metadata_snap()
            pools.provision(device, [6, 5_000])
    return (folder / "metadata").read_bytes()


def use(folder) -> None:
    """Do everything with the pool in a folder; what it refuses, it refuses with a documented error."""
    with contextlib.suppress(MetadataError, OSError):
        pool = pools.reopen(folder)
        try:
            for number in range(4):
                with contextlib.suppress(MetadataError, OSError), pool.device(number, nblocks=1 << 20) as device:
                    device.lookup(np.arange(0, 6_000, 7))
                    pools.provision(device, np.arange(0, 700, 2))
                    device.discard(100 * pools.BLOCK, 900 * pools.BLOCK)
            for call in (lambda: pool.create_snapshot(9, 0), lambda: pool.delete(1), pool.release_metadata_snap, pool.commit):
                with contextlib.suppress(MetadataError, OSError):
                    call()
        finally:
            with contextlib.suppress(MetadataError, OSError):
                pool.close()


def damaged(image: bytes, rng: random.Random) -> bytes:
    """Change a few fields of a few blocks and give them checksums that are right again."""
    changed = bytearray(image)
    used = [n for n in range(1, len(image) // 4096) if any(image[n * 4096 : n * 4096 + 4096])]
    for number in rng.sample(used, rng.choice([1, 1, 2, 5])):
        block = bytearray(changed[number * 4096 : (number + 1) * 4096])
        salt = next((s for s in (NODE, BITMAP, INDEX) if sealed(block, number, s) == block), thinmeta.SALT_SUPERBLOCK)
        for _ in range(rng.choice([1, 1, 3, 40])):
            if rng.random() < 0.5:
                struct.pack_into("<I", block, rng.choice([4, 16, 20, 24]), rng.choice(FIELDS))
            else:
                at = rng.choice([32, 40, 2048, 2056, 2064, rng.randrange(16, 4088)])
                struct.pack_into("<Q", block, at, rng.choice([0, 1, number, rng.randrange(120), 1 << 24, 1 << 40, (1 << 64) - 1]))
        changed[number * 4096 : (number + 1) * 4096] = sealed(block, number, salt)
    return bytes(changed)


def sealed(block: bytes, number: int, salt: int) -> bytearray:
    copy = bytearray(block)
    thinmeta.seal(copy, number, salt)
    return copy


@pytest.mark.parametrize("seed", range(8))
def test_lies_in_any_block(scratch, tight, seed):
    image, rng = made(scratch), random.Random(seed)
    for _ in range(40):
        (scratch / "metadata").write_bytes(damaged(image, rng))
        use(scratch)


def test_whole_metadata_are_used_to_the_end(scratch, tight):
    """The road above does its work where nothing is damaged, in the same tight buffers."""
    made(scratch)
    use(scratch)
    with pools.reopen(scratch) as pool:
        assert pool.devices() == [0, 2, 3, 9]
        assert pool.check() == []


def test_an_internal_node_that_is_its_own_child(scratch, tight):
    image = bytearray(made(scratch))
    for number in range(1, 120):
        block = image[number * 4096 : (number + 1) * 4096]
        if struct.unpack_from("<I", block, 4)[0] == 1 and sealed(block, number, NODE) == block:
            struct.pack_into("<252Q", block, 32 + 8 * 252, *[number] * 252)
            image[number * 4096 : (number + 1) * 4096] = sealed(block, number, NODE)
    (scratch / "metadata").write_bytes(image)
    with pytest.raises(MetadataError, match="circle"), pools.reopen(scratch) as pool:
        pool.device(0)


def parts(nblocks=32, bitmaps=1):
    columns = [np.full(bitmaps, -1, np.int64) for _ in range(4)]
    memory = GuardedMemory(nblocks)
    return [memory.arena, memory.state, -1, np.zeros(nblocks, np.uint32), np.zeros(len(BOOKS), np.int64), *columns, np.zeros(bitmaps, np.uint8)]


@pytest.mark.parametrize("place", [0, 1, 3, 4, 5, 6, 9])
def test_parts_that_do_not_fit_each_other(place):
    given = parts()
    given[place] = np.zeros(7, given[place].dtype) if place else np.zeros(4096, np.uint8)
    with pytest.raises(ValueError, match="."):
        thintree.find(tuple(given), thintree.MAPPING, 0)
    with pytest.raises(ValueError, match="parts"):
        thintree.find(tuple(given[:-1]), thintree.MAPPING, 0)
    with pytest.raises(ValueError, match="items of"):
        thintree.find((*parts()[:3], np.zeros(32, np.int64), *parts()[4:]), thintree.MAPPING, 0)


def test_the_books_are_as_long_as_their_names():
    assert len(BOOKS) == thintree.N_BOOKS


def test_a_device_too_small_for_its_space_maps():
    for nblocks in range(1, 8):
        given = tuple(parts(nblocks))
        with pytest.raises(PoolFullError):
            format_whole(given)


def format_whole(given) -> None:
    """Do what ThinPool.create does to memory."""
    places = np.full(1, -1, np.int64)
    thinspace.begin(given, places)
    thinspace.extend(given, places)
    for which in (thintree.MAPPING, thintree.DETAILS):
        thintree.begin(given, which)
    thinspace.save(given, places)


def test_empty_batches():
    given, none = tuple(parts()), np.empty(0, np.int64)
    assert thinpool.lookup(given, 5, none, none, none) is None
    assert thinpool.plan(given, 5, 0, none, none, none) == (thinpool.FITS, 0)
    assert thinpool.remap(given, np.zeros(2, np.int64), none, none) is None
    assert thinpool.cut(given, np.zeros(2, np.int64), 5, 5, np.empty(1, np.int64)) == (0, 0, thinpool.FITS)
    thinpool.forget(given, none)
    thinpool.punch(-1, none, 1 << 16)


@pytest.mark.parametrize(
    "call",
    [
        lambda p, two: thinpool.lookup(p, 5, np.zeros(1, np.int64), two, two),
        lambda p, two: thinpool.remap(p, np.zeros(1, np.int64), two, two),
        lambda p, two: thinpool.cut(p, two, 0, 1, np.empty(0, np.int64)),
        lambda p, two: thinpool.drop(p, 5, 3),
        lambda p, two: thinpool.copy_superblock(p, bytes(5)),
        lambda p, two: thinpool.punch(-len(p), two, 0),
        lambda p, two: thinpool.punch(-len(p), two - 1, 1 << 16),
        thinspace.load,
        lambda p, two: thinspace.seal(p, 0, two, np.empty(1, np.int64)),
        lambda p, two: thintree.find(p, 2, 0),
        lambda p, two: thintree.put(p, thintree.MAPPING, 0, b"short"),
    ],
    ids=["lookup", "remap", "cut", "drop", "copy", "punch-size", "punch-place", "load", "seal", "tree", "value"],
)
def test_wrong_arguments(call):
    with pytest.raises(ValueError, match="."):
        call(tuple(parts()), np.zeros(2, np.int64))


@pytest.mark.parametrize("data", [5, 1 << 39, 1 << 40, 1 << 62])
def test_a_data_block_that_is_not_there(scratch, data):
    with pools.make(scratch, data=5) as pool:
        pool.create_thin(0)
        mapping = pool._mapping(0)
        mapping.own()
        blocks = np.zeros(2, np.int64)  # the second finds what the first was mapped to, which has no count
        with pytest.raises(MetadataError, match="cannot be"):
            thinpool.remap(pool._transaction.space.parts, mapping.tree, blocks, np.full(2, data))
        pool._give_up()
