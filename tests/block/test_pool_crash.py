"""Metadata writes cut off anywhere, or refused: the last committed state is whole, and nothing of it was written over."""

from __future__ import annotations

import errno
import random

import pytest

from lamella.block.transaction import MetadataDevice
from tests.block import pools
from tests.reference import thin, thinread
from tests.vm import dump

pytestmark = pytest.mark.requires("thin_check", "thin_dump")
SYNC = None
Event = tuple[int, bytes] | None


class Recorded:
    """Every write of metadata, a block at a time, and every sync; the device can be told to break."""

    def __init__(self, monkeypatch) -> None:
        self.events: list[Event] = []
        self.breaks_at: str | None = None  # a step of a commit; everything is refused from there on
        self.refusals = 1 << 30
        self.broken = False
        write, sync = MetadataDevice.write, MetadataDevice.sync

        def record(device, offset, data):
            self.step("superblock" if offset == 0 else "blocks")
            self.events += [(offset + at, bytes(data[at : at + 4096])) for at in range(0, len(data), 4096)]
            write(device, offset, data)

        def record_sync(device):
            self.step("last sync" if self.events and self.events[-1] is not SYNC and self.events[-1][0] == 0 else "sync")
            self.events.append(SYNC)
            sync(device)

        monkeypatch.setattr(MetadataDevice, "write", record)
        monkeypatch.setattr(MetadataDevice, "sync", record_sync)

    def step(self, name: str) -> None:
        self.broken |= name == self.breaks_at
        if self.broken and self.refusals:
            self.refusals -= 1
            raise OSError(5, "refused")


@pytest.fixture
def recorded(monkeypatch):
    return Recorded(monkeypatch)


def worn(folder) -> pools.Both:
    """Make a pool with some history: shared blocks, a metadata snapshot, blocks that were freed."""
    both = pools.Both(folder)
    both.message("create_thin", 1)
    both.write(1, 0, b"a" * 9 * pools.BLOCK)
    both.message("create_snapshot", 2, 1)
    both.message("reserve_metadata_snap")
    both.write(1, 100, b"b" * 3 * pools.BLOCK)
    both.message("create_snapshot", 3, 1)
    both.discard(2, 0, 4 * pools.BLOCK)
    both.pool.commit()
    return both


def change(both: pools.Both) -> None:
    """Do one transaction of several changes."""
    both.write(1, 2 * pools.BLOCK, b"c" * 7 * pools.BLOCK)
    both.write(3, 5, b"d")
    both.discard(2, 0, 9 * pools.BLOCK)
    both.pool.commit()


def images_after_a_cut(before: bytes, events: list[Event], rng: random.Random):
    """Yield the device as it may be when power is lost after any write: with all of the current group so far, or part of it.

    Also whether the transaction must be there (its last sync is done), may be, or cannot be.
    """
    device, group = bytearray(before), []
    for place, event in enumerate(events):
        if event is SYNC:
            for offset, data in group:
                device[offset : offset + 4096] = data
            group = []
        else:
            group.append(event)
        for kept in (group, rng.sample(group, len(group) // 2), group[-1:]):
            cut = bytearray(device)
            for offset, data in kept:
                cut[offset : offset + 4096] = data
            yield place, bytes(cut)


def test_power_lost_after_any_write(scratch, recorded):
    both = worn(scratch)
    image, old = scratch / "metadata", both.reference.state.copy()
    before = image.read_bytes()
    recorded.events.clear()
    change(both)
    events = list(recorded.events)
    assert [event for event in events if event is SYNC] == [SYNC, SYNC]
    assert [offset for offset, _ in filter(None, events)].count(0) == 1
    assert [event and event[0] for event in events[-3:]] == [SYNC, 0, SYNC]  # the superblock alone, at the end
    both.pool.close()
    seen = set()
    cuts = list(images_after_a_cut(before, events, random.Random(1)))
    assert len(cuts) > 20
    for place, cut in cuts:
        image.write_bytes(cut)
        new = cut[:4096] != before[:4096]
        assert new or place < len(events) - 1
        seen.add(new)
        pools.accept(image)
        pools.recount(image)
        assert thin.differences(both.reference.state if new else old, dump.read(image), {}) == []
        with pools.reopen(scratch) as pool:
            assert pool.check() == []
    assert seen == {False, True}


def test_the_committed_state_is_never_written_over(scratch, recorded):
    both = worn(scratch)
    image = scratch / "metadata"
    for _ in range(4):
        before = image.read_bytes()
        counts = thinread.Image(before, check=False).counts(metadata=True)
        recorded.events.clear()
        change(both)
        assert [offset for offset, _ in filter(None, recorded.events) if offset and counts[offset // 4096]] == []
    both.pool.close()


@pytest.mark.parametrize("at", ["blocks", "sync", "superblock", "last sync"])
def test_a_write_that_is_refused_ends_the_transaction(scratch, recorded, at):
    """At each call of a commit: the last state stands, the pool is read-only, and reading goes on."""
    both = worn(scratch)
    both.close(2)
    image, old = scratch / "metadata", both.reference.state.copy()
    content = both.device(1).pread(9 * pools.BLOCK, 0)
    both.write(3, 0, b"new" * pools.BLOCK)
    recorded.events.clear()
    recorded.breaks_at = at
    with pytest.raises(OSError, match="refused"):
        both.pool.commit()
    assert recorded.broken
    pool = both.pool
    assert pool.mode.value == "ro"
    with pytest.raises(OSError, match=".") as refused:
        pool.create_thin(9)
    assert refused.value.errno == errno.EOPNOTSUPP
    with pytest.raises(OSError, match=".") as refused:
        both.device(1).pwrite(b"x", 15 * pools.BLOCK)
    assert refused.value.errno == errno.EIO
    assert both.device(1).pread(9 * pools.BLOCK, 0) == content
    assert both.device(1).discard(0, pools.BLOCK) == 0
    pool.close()
    pools.accept(image)
    assert thin.differences(both.reference.state if at == "last sync" else old, dump.read(image), {}) == []


def test_a_pool_that_wants_a_check_is_read_only(scratch, recorded):
    both = worn(scratch)
    both.write(1, 12 * pools.BLOCK, b"yyy")
    both.pool.commit()
    both.write(3, 0, b"new" * pools.BLOCK)
    recorded.breaks_at, recorded.refusals = "sync", 1
    with pytest.raises(OSError, match="refused"):
        both.pool.commit()
    assert both.pool.needs_check  # the device took the mark
    both.pool.close()
    with pools.reopen(scratch) as pool:
        assert (pool.needs_check, pool.mode.value) == (True, "ro")
        with pytest.raises(OSError, match=".") as refused:
            pool.delete(3)
        assert refused.value.errno == errno.EOPNOTSUPP
        with pool.device(1) as device:  # in place, where no snapshot can have it, even now
            assert device.pwrite(b"z", 12 * pools.BLOCK + 1) == 1
            assert device.pread(4, 12 * pools.BLOCK) == b"yzy\0"
            with pytest.raises(OSError, match=".") as refused:
                device.pwrite(b"z", 0)
            assert refused.value.errno == errno.EIO
