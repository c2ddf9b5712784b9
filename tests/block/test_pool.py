"""A pool as its user sees it: what it refuses and how, partial writes, sizes, images that the kernel made."""

from __future__ import annotations

import errno
import os
import threading

import numpy as np
import pytest

import lamella
from lamella.block.extents import DeltaKind
from lamella.errors import LimitExceededError, MetadataError
from tests.block import images, pools
from tests.reference import thin
from tests.vm import dump

TOOLS = pytest.mark.requires("thin_check", "thin_delta", "thin_dump", "thin_ls")


def refusal(call, *arguments, **keywords) -> int:
    """Return the errno of a refusal."""
    with pytest.raises(OSError, match=".") as refused:
        call(*arguments, **keywords)
    return refused.value.errno


@pytest.fixture
def pool(scratch):
    with pools.make(scratch) as made:
        yield made


def test_messages_refuse_as_device_mapper_does(pool):
    pool.create_thin(1)
    assert refusal(pool.create_thin, 1) == errno.EEXIST
    assert refusal(pool.create_thin, 1 << 24) == errno.EINVAL
    assert refusal(pool.create_thin, -1) == errno.EINVAL
    assert refusal(pool.create_snapshot, 1, 1) == errno.EEXIST
    assert refusal(pool.create_snapshot, 2, 3) == errno.ENODATA
    assert refusal(pool.delete, 2) == errno.ENODATA
    assert refusal(pool.device, 2) == errno.ENODATA
    with pool.device(1), pool.device(1):
        assert refusal(pool.delete, 1) == errno.EBUSY
    assert refusal(pool.set_transaction_id, 1, 2) == errno.EINVAL
    assert refusal(pool.release_metadata_snap) == errno.EINVAL
    assert pool.reserve_metadata_snap() == pool.usage().metadata_snap > 0
    assert refusal(pool.reserve_metadata_snap) == errno.EBUSY
    pool.release_metadata_snap()
    pool.delete(1)
    assert pool.devices() == []


@pytest.mark.parametrize("size", [0, 1, 1 << 15, (1 << 16) + 512, (1 << 30) + (1 << 16)])
def test_block_sizes_that_cannot_be(scratch, size):
    paths = pools.sized(scratch / "m", 1 << 20), pools.sized(scratch / "d", 1 << 20)
    assert refusal(lamella.ThinPool.create, *paths, block_size=size) == errno.EINVAL


def test_a_block_size_of_three_steps(scratch):
    paths = pools.sized(scratch / "m", 1 << 20), pools.sized(scratch / "d", 30 << 16)
    with lamella.ThinPool.create(*paths, block_size=3 << 16) as pool:
        pool.create_thin(7)
        with pool.device(7, nblocks=4) as device:
            device.pwrite(b"x" * (4 << 16), 1 << 16)
            assert (device.mapped_blocks, device.nbytes) == (2, 12 << 16)
    assert refusal(lamella.ThinPool.open, *paths, block_size=1 << 16) == errno.EINVAL
    with lamella.ThinPool.open(*paths, block_size=3 << 16) as pool, pool.device(7) as device:
        assert device.pread(1 << 20, 0) == bytes(1 << 16) + b"x" * (4 << 16) + bytes(1 << 16)


def test_what_is_there_is_not_written_over(scratch):
    pools.make(scratch).close()
    assert refusal(lamella.ThinPool.create, scratch / "metadata", scratch / "data") == errno.EEXIST


def test_a_pool_has_its_devices_alone(scratch, pool):
    assert refusal(pools.reopen, scratch) == errno.EBUSY
    assert refusal(lamella.ThinPool.open, scratch, scratch / "data") == errno.EINVAL


def test_no_pool(scratch):
    paths = pools.sized(scratch / "m", 1 << 20), pools.sized(scratch / "d", 1 << 20)
    with pytest.raises(MetadataError, match="no pool is here"):
        lamella.ThinPool.open(*paths)
    (scratch / "m").write_bytes(os.urandom(1 << 16))
    with pytest.raises(MetadataError, match="checksum"):
        lamella.ThinPool.open(*paths)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        lamella.ThinPool.open(scratch / "m", scratch / "none")
    assert len(os.listdir("/proc/self/fd")) == before


def test_reading_and_writing_at_edges(pool):
    pool.create_thin(0)
    with pool.device(0, nblocks=2) as device:
        assert device.pread(10, device.nbytes - 4) == bytes(4)
        assert device.pread(10, device.nbytes + 4) == b""
        assert device.pwrite(b"", 5) == 0
        assert device.pwrite(np.arange(3, dtype=np.uint16), pools.BLOCK - 2) == 6
        assert device.pread(8, pools.BLOCK - 3) == b"\0\0\0\1\0\2\0\0"
        assert refusal(device.pwrite, b"12345", device.nbytes - 4) == errno.ENOSPC
        assert refusal(device.pwrite, b"1", -1) == refusal(device.pread, 1, -1) == refusal(device.discard, 1, -1) == errno.EINVAL
        assert device.discard(1, 2 * pools.BLOCK - 1) == 1  # the second; the first is not whole
        assert device.pread(2, pools.BLOCK - 2) == b"\0\0"
    assert device.closed
    assert refusal(device.pread, 1, 0) == errno.EBADF


def test_a_device_is_as_long_as_what_is_mapped(pool):
    pool.create_thin(0)
    with pool.device(0) as empty:
        assert empty.nblocks == 0
    with pool.device(0, nblocks=100) as device:
        device.pwrite(b"x", 40 * pools.BLOCK)
    with pool.device(0) as device:
        assert device.nblocks == 41


def test_only_what_is_not_written_is_copied(pool, monkeypatch):
    from lamella.block.datafile import DataFile

    copied, zeroed = [], []
    monkeypatch.setattr(DataFile, "copy", lambda self, source, target, n, copy=DataFile.copy: (copied.append(n), copy(self, source, target, n)))
    monkeypatch.setattr(DataFile, "zero", lambda self, offset, n, zero=DataFile.zero: (zeroed.append(n), zero(self, offset, n)))
    pool.create_thin(0)
    with pool.device(0, nblocks=8) as device:
        device.pwrite(b"a" * 3 * pools.BLOCK, 0)
        assert copied == zeroed == []
        device.pwrite(b"b" * 100, 3 * pools.BLOCK + 7)
        assert (copied, zeroed) == ([], [7, pools.BLOCK - 107])
        pool.create_snapshot(1, 0)
        device.pwrite(b"c" * (2 * pools.BLOCK), 10)
        assert copied == [10, pools.BLOCK - 10]
        device.pwrite(b"d" * pools.BLOCK, 20)  # its own already
        assert copied == [10, pools.BLOCK - 10]


@TOOLS
@pytest.mark.parametrize("discard", [False, True])
def test_what_follows_a_metadata_snapshot_changes_nothing_of_it(scratch, discard):
    """The first change of a device is not by a message, so nothing else has made the way to it the pool's own."""
    both = pools.Both(scratch)
    both.message("create_thin", 1)
    both.write(1, 0, b"a" * 4 * pools.BLOCK)
    both.pool.commit()
    both.message("reserve_metadata_snap")
    if discard:
        both.discard(1, 0, 2 * pools.BLOCK)
    else:
        both.write(1, 9 * pools.BLOCK, b"b")
    both.agree()
    both.message("release_metadata_snap")
    both.agree()
    both.pool.close()


@pytest.mark.parametrize("n", [1, 400])
def test_a_metadata_snapshot_shares_nodes_with_the_pool(scratch, pool, n):
    """What lies below a node that both have is counted once: all of it, or some leaves of the tree of devices."""
    pool.create_thin(0)
    for number in range(1, n):
        pool._snapshot(number, 0)
    pool.reserve_metadata_snap()
    assert pool.check() == []
    pool.create_thin(1 << 20)
    assert pool.check() == []
    pools.recount(scratch / "metadata")


def test_data_that_nobody_has_are_given_back(scratch, pool):
    pool.create_thin(0)
    with pool.device(0, nblocks=8) as device:
        device.pwrite(b"a" * 8 * pools.BLOCK, 0)
        pool.create_snapshot(1, 0)
        device.pwrite(b"b" * 4 * pools.BLOCK, 0)
        full = os.stat(scratch / "data").st_blocks
        assert full * 512 == 12 * pools.BLOCK
        assert device.discard(0, 8 * pools.BLOCK) == 8
        assert os.stat(scratch / "data").st_blocks * 512 == 8 * pools.BLOCK
    with pool.device(1) as snapshot:
        assert snapshot.pread(9 * pools.BLOCK, 0) == b"a" * 8 * pools.BLOCK


def test_data_that_cannot_be_written_leave_the_map_as_it_was(pool, monkeypatch):
    from lamella.block.datafile import DataFile

    pool.create_thin(0)
    with pool.device(0, nblocks=8) as device:
        device.pwrite(b"a" * pools.BLOCK, 0)
        pool.create_snapshot(1, 0)
        used = pool.usage()

        def refuse(*_):
            raise OSError(errno.EIO, "refused")

        with monkeypatch.context() as patch:
            patch.setattr(DataFile, "write", refuse)
            assert refusal(device.pwrite, b"b" * 3 * pools.BLOCK, 5) == errno.EIO
        assert pool.usage() == used
        assert device.mapped_blocks == 1
        assert device.pread(2 * pools.BLOCK, 0) == b"a" * pools.BLOCK + bytes(pools.BLOCK)
        assert pool.check() == []


def test_the_clock_of_snapshots_ends(pool):
    pool.create_thin(0)
    pool._transaction.space["time"] = (1 << 24) - 2
    pool.create_snapshot(1, 0)
    with pytest.raises(LimitExceededError):
        pool.create_snapshot(2, 0)
    assert pool.devices() == [0, 1]


def test_a_delta_is_what_was_written(pool):
    pool.create_thin(0)
    with pool.device(0, nblocks=4000) as device:
        pools.provision(device, np.arange(100))
        pool.create_snapshot(1, 0)
        pools.provision(device, [3, 4, 9, 120])
        device.discard(50 * pools.BLOCK, pools.BLOCK)
        rows = [(row.kind, row.begin, row.length) for row in pool.delta(1, 0)]
        different = DeltaKind.DIFFERENT
        assert rows == [(different, 3, 2), (different, 9, 1), (DeltaKind.LEFT_ONLY, 50, 1), (DeltaKind.RIGHT_ONLY, 120, 1)]
        assert list(pool.delta(0, 0)) == []
        assert pool.extents(0).nblocks == device.mapped_blocks == 100


def test_threads_take_turns(scratch):
    pool = pools.make(scratch, data=2000)
    for number in range(4):
        pool.create_thin(number)

    def work(number):
        with pool.device(number, nblocks=100) as device:
            for block in range(100):
                device.pwrite(bytes([number + 1]) * 10, block * pools.BLOCK)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        with pool.device(number) as device:
            assert device.pread(5, 99 * pools.BLOCK) == bytes([number + 1]) * 5
    assert pool.check() == []
    pool.close()
    assert refusal(pool.usage) == errno.EBADF


@TOOLS
@pytest.mark.parametrize("name", ["devices", "shared", "held", "deep"])
def test_what_the_kernel_made_is_gone_on_with(scratch, name):
    image = images.golden_image(name, scratch)
    state = dump.read(image)
    from lamella.block.metadata import Metadata

    with Metadata.open(image) as metadata:
        found = metadata.superblock
    data = pools.sized(scratch / "d", found.data_sm.nblocks * found.data_block_size * 512)
    free = next(number for number in range(1, 1 << 24) if number not in state.devices)
    with lamella.ThinPool.open(image, data) as pool:
        assert pool.check() == []
        blocks = {number: dict(device.blocks) for number, device in state.devices.items()}
        origin = max(state.devices, key=lambda number: state.devices[number].mapped)
        pool.create_snapshot(free, origin)
        room = min(pool.usage().data_blocks - pool.usage().data_used, 900)
        with pool.device(free, nblocks=1 << 20) as device:
            wanted = np.unique(np.concatenate([np.arange(0, 4 * room, 7), sorted(blocks[origin])[: room // 4]]))[:room]
            pools.provision(device, wanted)
            device.discard(0, 40 * pool.block_size)
        for number in sorted(state.devices):
            if number != origin:
                pool.delete(number)
                break
        assert pool.check() == []
    pools.accept(image)
    pools.recount(image)
    after = dump.read(image)
    assert after.devices[origin].blocks == blocks[origin]
    kept = {block for block in wanted.tolist() if block * found.data_block_size >= 40 * found.data_block_size}
    assert kept <= set(after.devices[free].blocks)


@TOOLS
def test_an_image_that_wants_a_check_is_read_only(scratch):
    image = images.golden_image("needs-check", scratch)
    data = pools.sized(scratch / "d", 1 << 30)
    with lamella.ThinPool.open(image, data) as pool:
        assert pool.needs_check
        assert refusal(pool.create_thin, 99) == errno.EOPNOTSUPP
    assert thin.differences(dump.read(image), dump.read(images.golden_image("needs-check", scratch)), {}) == []
