"""Data or metadata blocks run out, at every allocation: the operation is refused whole, and the pool goes on."""

from __future__ import annotations

import errno

import pytest

from lamella.errors import PoolFullError
from tests.block import pools
from tests.vm import dump

pytestmark = pytest.mark.requires("thin_check", "thin_delta", "thin_dump", "thin_ls")


@pytest.mark.parametrize("data", range(12))
def test_data_blocks_run_out(scratch, data):
    both = pools.Both(scratch, data=data)
    both.message("create_thin", 1)
    refused = 0
    for step, (block, n) in enumerate([(0, 3), (4, 2), (10, 3), (1, 4), (0, 8)]):
        if step == 2:
            both.message("create_snapshot", 2, 1)
        device = both.device(1)
        plan = device._mapping.lookup(device._blocks(block * pools.BLOCK, n * pools.BLOCK))
        wanted = int(((plan[0] < 0) | (plan[1] < device._mapping.snapshotted_time)).sum())
        if wanted <= data - both.pool.usage().data_used:
            both.write(1, block * pools.BLOCK, bytes([65 + step]) * (n * pools.BLOCK))
            continue
        refused += 1
        with pytest.raises(PoolFullError) as full:
            device.pwrite(b"!" * (n * pools.BLOCK), block * pools.BLOCK)
        assert (full.value.errno, full.value.what) == (errno.ENOSPC, "data")
        assert both.pool.mode.value == "out_of_data_space"
    assert refused
    both.agree()
    pools.sized(scratch / "data", (data + 40) * pools.BLOCK)
    both.pool.resize()
    assert both.pool.mode.value == "rw"
    both.write(1, 0, b"@" * (20 * pools.BLOCK))
    both.agree()
    both.pool.close()


def test_blocks_freed_in_this_transaction_are_had_by_a_commit(scratch):
    both = pools.Both(scratch, data=6)
    both.message("create_thin", 1)
    both.write(1, 0, b"a" * (6 * pools.BLOCK))
    both.pool.commit()
    both.discard(1, 0, 4 * pools.BLOCK)
    both.write(1, 10 * pools.BLOCK, b"b" * (4 * pools.BLOCK))
    both.agree()
    both.pool.close()


def test_a_freed_block_is_not_given_out_before_the_commit(scratch):
    """What the last commit says of it may still be wanted."""
    both = pools.Both(scratch, data=12)
    both.message("create_thin", 1)
    both.write(1, 0, b"a" * (6 * pools.BLOCK))
    both.pool.commit()
    before = dump.read(scratch / "metadata").devices[1].blocks
    both.discard(1, 0, 6 * pools.BLOCK)
    both.write(1, 0, b"b" * (6 * pools.BLOCK))
    now = both.device(1).lookup(range(6))[0].tolist()
    assert not set(now) & {mapping.data for mapping in before.values()}
    both.pool.close()


@pytest.mark.parametrize("metadata", [*range(40, 80, 3), 100, 130])
def test_metadata_blocks_run_out(scratch, metadata):
    """Every message and every write either is done or changes nothing, and what was done can be committed."""
    pool = pools.make(scratch, metadata=metadata, data=4000)
    refused, made = 0, 0
    image = scratch / "metadata"
    opened = {}
    for step in range(60):
        try:
            if step % 6 == 0:
                pool.create_thin(step)
            elif step % 6 == 3:
                pool.create_snapshot(step, step - 3)
            elif step % 6 == 5 and step > 20:
                pool.delete(step - 20 - (step - 20) % 3)
            else:
                number = step - step % 3
                opened[number] = opened.get(number) or pool.device(number, nblocks=4000)
                pools.provision(opened[number], range(step * 7, step * 7 + 300, 3))
            made += 1
        except PoolFullError as error:
            assert error.what == "metadata"
            refused += 1
        except OSError as error:
            assert error.errno in {errno.ENODATA, errno.EBUSY}
        assert pool.mode.value == "rw"
        if step % 7 == 0:
            pool.commit()
            pools.accept(image)
            pools.recount(image)
    pool.commit()
    pools.accept(image)
    assert made > 3
    assert refused or metadata > 70
    for device in opened.values():
        device.close()
    pools.sized(image, 400 * 4096)
    pool.resize()
    for number in pool.devices():
        pool.delete(number)
    assert pool.usage().data_used == 0
    pools.accept(image)
    pools.recount(image)
    pool.close()


def test_metadata_grow_over_a_bitmap(scratch):
    pool = pools.make(scratch, metadata=100, data=40_000)
    pool.create_thin(1)
    pools.sized(scratch / "metadata", 40_000 * 4096)
    pool.resize()
    assert pool.usage().metadata_blocks == 40_000
    device = pool.device(1, nblocks=1 << 20)
    pools.provision(device, range(0, 30_000 * 25, 25))
    pool.commit()
    pools.accept(scratch / "metadata")
    pool.close()
    with pools.reopen(scratch) as pool:
        assert pool.device(1).mapped_blocks == 30_000
        assert pool.check() == []


def test_a_data_device_that_shrank_is_refused(scratch):
    pools.make(scratch, data=40).close()
    pools.sized(scratch / "data", 39 * pools.BLOCK)
    with pytest.raises(OSError, match=".") as refused:
        pools.reopen(scratch)
    assert refused.value.errno == errno.EINVAL
    pools.sized(scratch / "data", 41 * pools.BLOCK)
    with pools.reopen(scratch) as pool:
        assert pool.usage().data_blocks == 41
