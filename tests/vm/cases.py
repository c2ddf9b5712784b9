"""The scripts of a test session, each from its seed: all of them run in one boot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.reference.thin import MAX_DEVICES, Pool
from tests.vm import dump
from tests.vm.replay import replay
from tests.vm.script import (
    SECTOR,
    Close,
    Commit,
    CreateSnapshot,
    CreateThin,
    Delete,
    Digests,
    Discard,
    Operation,
    ReleaseSnapshot,
    Reopen,
    ReserveSnapshot,
    Script,
    SetTransactionId,
    Write,
)

BLOCK = 128  # sectors
NBLOCKS = 512  # of a device
DATA_NBLOCKS = 4096
SEEDS = range(28)
OFFLINE_SEEDS = range(100, 104)
LENGTH = 32  # operations
DEVICES = 7
ODD_DEVICES = (MAX_DEVICES - 1, MAX_DEVICES)


class Draw:
    """Operations at random, of which most are possible: it knows which devices there may be.

    Now and then, if it may be ``wide``, the first device's map is a tree of several leaves.
    """

    def __init__(self, seed: int, *, wide: bool = True) -> None:
        self.random = Random(seed)
        self.wide = wide and self.random.random() < 0.2
        self.there: list[int] = []
        self.opened: list[int] = []
        self.transaction_id = 0
        self.seed = 0

    def operations(self, count: int) -> list[Operation]:
        """Draw some."""
        first: list[Operation] = [self.create()]
        if self.wide:
            first.append(Write(self.there[0], 0, 300 * BLOCK, 0xFFFF))
        return [*first, *(self.operation() for _ in range(count - len(first)))]

    def operation(self) -> Operation:
        """Draw one."""
        draws: tuple[tuple[Callable[[], Operation], int], ...] = (
            *((self.write, 34), (self.snapshot, 16), (self.discard, 12), (self.create, 9), (self.close, 8), (self.delete, 8)),
            *((self.transaction, 4), (ReserveSnapshot, 3), (ReleaseSnapshot, 2), (Commit, 2), (self.reopen, 2)),
        )
        return self.random.choices([draw for draw, _ in draws], [weight for _, weight in draws])[0]()

    def device(self) -> int:
        """Choose one that is probably there."""
        return self.random.choice(self.there if self.there and self.random.random() < 0.93 else range(DEVICES))

    def new(self) -> int:
        """Choose one that is probably not there."""
        if self.random.random() < 0.1:
            return self.random.choice(ODD_DEVICES)
        absent = [number for number in range(DEVICES) if number not in self.there]
        number = self.random.choice(absent if absent and self.random.random() < 0.9 else range(DEVICES))
        self.there += [number] * (number not in self.there)
        return number

    def create(self) -> Operation:
        return CreateThin(self.new())

    def snapshot(self) -> Operation:
        origin = self.device()
        return CreateSnapshot(self.new(), origin)

    def delete(self) -> Operation:
        number = self.device()
        if number in self.there and number not in self.opened:
            self.there.remove(number)
        return Delete(number)

    def close(self) -> Operation:
        return Close(self.opened.pop(self.random.randrange(len(self.opened))) if self.opened else self.device())

    def reopen(self) -> Operation:
        self.opened.clear()
        return Reopen()

    def transaction(self) -> Operation:
        old = self.transaction_id if self.random.random() < 0.7 else self.random.randrange(9)
        new = self.random.randrange(1 << 40)
        self.transaction_id = new if old == self.transaction_id else self.transaction_id
        return SetTransactionId(old, new)

    def write(self) -> Operation:
        self.seed += 1
        return Write(*self.range(), self.seed)

    def discard(self) -> Operation:
        return Discard(*self.range())

    def range(self) -> tuple[int, int, int]:
        """Choose a device, which is opened, and a few blocks near others; a third of the ranges begin and end anywhere."""
        device = self.device()
        if device in self.there and device not in self.opened:
            self.opened.append(device)
        begin = self.random.choice((0, 10, 120, 250, NBLOCKS - 20)) + self.random.randrange(12)
        begin, end = begin * BLOCK, (begin + self.random.choice((1, 1, 2, 3, 8))) * BLOCK
        if self.random.random() < 0.35:
            begin, end = begin + self.random.randrange(BLOCK), end + self.random.randrange(BLOCK)
        return device, begin, end - begin


def random_script(seed: int) -> Script:
    """Return operations on a fresh pool."""
    return Script(tuple(Draw(seed).operations(LENGTH)), data_nbytes=DATA_NBLOCKS * BLOCK * SECTOR)


def final_state(script: Script) -> Pool:
    """Return the reference's pool after a script on a fresh one."""
    pool = Pool(BLOCK * SECTOR)
    replay(script.operations, pool)
    return pool


def offline_start(seed: int) -> tuple[Pool, Draw]:
    """Return a pool that was never in a machine, and the draw that goes on with it."""
    draw, pool = Draw(seed, wide=False), Pool(BLOCK * SECTOR)
    replay(draw.operations(2 * LENGTH), pool)
    pool.reopen()
    pool.held = None
    draw.opened.clear()
    return pool, draw


def offline_script(seed: int, folder: Path) -> Script:
    """Return operations on a pool that was written here: each device is read, then some are written."""
    pool, draw = offline_start(seed)
    metadata, data = folder / f"{seed}.metadata", folder / f"{seed}.data"
    dump.restore(pool.state, metadata, image_nbytes=2 << 20, block_nsectors=BLOCK, nblocks=DATA_NBLOCKS)
    data.write_bytes(b"".join(pool.contents))
    return Script(
        offline_operations(pool, draw), metadata_image=metadata, data_image=data, data_nbytes=DATA_NBLOCKS * BLOCK * SECTOR
    )


def offline_operations(pool: Pool, draw: Draw) -> tuple[Operation, ...]:
    """Return what the machine does to such a pool."""
    reads = tuple(
        Digests(number, block, 1)
        for number, device in pool.state.devices.items()
        for block in sorted({near for block in device.blocks for near in (block, block + 1)})
    )
    draw.opened = list(pool.state.devices)
    return (*reads, *(draw.operation() for _ in range(LENGTH)))


def scripts(folder: Path) -> dict[str, Script]:
    """Return every script of a session by name; ``folder`` takes the images that some begin with."""
    folder.mkdir()
    return {f"random-{seed}": random_script(seed) for seed in SEEDS} | {
        f"offline-{seed}": offline_script(seed, folder) for seed in OFFLINE_SEEDS
    }
