"""Trees of three levels: a hundred thousand mappings in random order, ranges taken out, copies, devices deleted."""

from __future__ import annotations

import numpy as np
import pytest

from tests.block import pools

pytestmark = pytest.mark.requires("thin_check")
N = 100_000
SPAN = 8 * N


@pytest.fixture
def pool(scratch):
    with pools.make(scratch, metadata=16_384, data=4 * N) as made:
        made.create_thin(0)
        yield made


def accept(pool, scratch) -> None:
    pool.commit()
    pools.accept(scratch / "metadata")
    assert pool.check() == []


def agree(device, model: dict[int, int]) -> None:
    """Compare a device's map with a dictionary, also where nothing is mapped."""
    blocks = np.fromiter(model, np.int64, len(model))
    data, _ = device.lookup(blocks)
    assert np.array_equal(data, np.fromiter(model.values(), np.int64, len(model)))
    assert device.mapped_blocks == len(model)
    assert np.all(device.lookup(np.setdiff1d(np.arange(0, SPAN, 11), blocks))[0] == -1)


def write(device, blocks, model: dict[int, int]) -> None:
    blocks, target = pools.provision(device, blocks)
    model.update(zip(blocks.tolist(), target.tolist(), strict=True))


def test_random_order_and_ranges(pool, scratch):
    rng = np.random.default_rng(7)
    keys = rng.choice(SPAN, N, replace=False).astype(np.int64)
    model: dict[int, int] = {}
    device = pool.device(0, nblocks=SPAN)
    for part in np.array_split(keys, 20):
        write(device, part, model)
    accept(pool, scratch)
    agree(device, model)
    assert len(set(model.values())) == N
    pool.create_snapshot(1, 0)
    snapshot, kept = pool.device(1, nblocks=SPAN), dict(model)
    for step in range(150):
        begin = int(rng.integers(0, SPAN))
        end = begin + int(rng.choice([1, 10, 1_000, 30_000]))
        gone = [block for block in (range(begin, end) if end - begin < 2_000 else list(model)) if begin <= block < end and block in model]
        assert device.discard(begin * pools.BLOCK, (end - begin) * pools.BLOCK) == len(gone)
        for block in gone:
            del model[block]
        if step % 50 == 0:
            accept(pool, scratch)
    write(device, rng.choice(keys, 10_000, replace=False), model)
    agree(device, model)
    agree(snapshot, kept)
    for number in (2, 3, 4):
        pool.create_snapshot(number, 1)
        with pool.device(number, nblocks=SPAN) as other:
            pools.provision(other, rng.choice(keys, 3_000, replace=False))
    accept(pool, scratch)
    pool.delete(3)
    accept(pool, scratch)
    device.discard(0, SPAN * pools.BLOCK)
    assert (device.mapped_blocks, device.lookup([0])[0].tolist()) == (0, [-1])
    agree(snapshot, kept)
    snapshot.close()
    device.close()
    for number in (1, 4, 2, 0):
        pool.delete(number)
    accept(pool, scratch)
    assert pool.usage().data_used == 0


@pytest.mark.parametrize("step", [1, 37, 5_000])
def test_in_order_leaves_fill(pool, scratch, step):
    device = pool.device(0, nblocks=SPAN)
    for begin in range(0, 20_000, step):
        pools.provision(device, np.arange(begin, begin + step))
    accept(pool, scratch)
    leaves = pool.usage().metadata_used - 40
    assert leaves < 20_000 / 240
    agree(device, {block: block for block in range(device.mapped_blocks)})


def test_backwards(pool, scratch):
    device = pool.device(0, nblocks=SPAN)
    model: dict[int, int] = {}
    for begin in range(20_000, 0, -1_000):
        write(device, np.arange(begin, begin - 1_000, -1), model)
    agree(device, model)
    accept(pool, scratch)


def test_counts_above_two(pool, scratch):
    """Blocks that many leaves point at are counted in a tree; counts go up and down again."""
    device = pool.device(0, nblocks=SPAN)
    pools.provision(device, np.arange(2_000))
    for number in range(1, 6):
        pool.create_snapshot(number, 0)
        with pool.device(number, nblocks=SPAN) as other:
            pools.provision(other, np.arange(0, 2_000, 100))  # copies every leaf, and so counts all it has
    accept(pool, scratch)
    pools.recount(scratch / "metadata")
    for number in (2, 5, 1, 3, 4):
        pool.delete(number)
        pools.recount(scratch / "metadata")
    accept(pool, scratch)
    assert pool.usage().data_used == 2_000


def test_many_devices(pool, scratch):
    for number in range(1, 400):
        pool._snapshot(number * 41_000 % (1 << 24), 0)
    accept(pool, scratch)
    ids = pool.devices()
    assert len(ids) == 400
    for number in ids[1::2]:
        pool.delete(number)
    accept(pool, scratch)
    assert pool.devices() == ids[::2]
