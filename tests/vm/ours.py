"""Our pool as a target of scripts: devices are opened when they are used, as a script does, and it is opened again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lamella
from tests.vm import cases
from tests.vm.replay import replay
from tests.vm.script import SECTOR, Operation

METADATA_NBYTES = 2 << 20
BLOCK_NBYTES = cases.BLOCK * SECTOR


class OurPool:
    """A pool on two files; ``close_pool`` when it is done with."""

    def __init__(self, metadata: Path, data: Path) -> None:
        self.paths = metadata, data
        self.block_nbytes = BLOCK_NBYTES
        self.pool = lamella.ThinPool.open(*self.paths)
        self.opened: dict[int, Any] = {}

    def close_pool(self) -> None:
        """Close every device and the pool."""
        for device in self.opened.values():
            device.close()
        self.opened.clear()
        self.pool.close()

    def reopen(self) -> None:
        self.close_pool()
        self.pool = lamella.ThinPool.open(*self.paths)

    def create_thin(self, number: int) -> None:
        self.pool.create_thin(number)

    def create_snapshot(self, number: int, origin: int) -> None:
        self.pool.create_snapshot(number, origin)

    def delete(self, number: int) -> None:
        self.pool.delete(number)

    def close(self, number: int) -> None:
        if number in self.opened:
            self.opened.pop(number).close()

    def commit(self) -> None:
        self.pool.commit()

    def set_transaction_id(self, old: int, new: int) -> None:
        self.pool.set_transaction_id(old, new)

    def reserve_snapshot(self) -> None:
        self.pool.reserve_metadata_snap()

    def release_snapshot(self) -> None:
        self.pool.release_metadata_snap()

    def write(self, number: int, offset: int, content: bytes) -> None:
        self._device(number).pwrite(content, offset)

    def read(self, number: int, offset: int, nbytes: int) -> bytes:
        return self._device(number).pread(nbytes, offset)

    def discard(self, number: int, offset: int, nbytes: int) -> None:
        self._device(number).discard(offset, nbytes)

    def _device(self, number: int) -> Any:
        if number not in self.opened:
            self.opened[number] = self.pool.device(number, nblocks=cases.NBLOCKS)
        return self.opened[number]


def fresh(metadata: Path, data: Path) -> OurPool:
    """Make an empty pool, and open it."""
    for path, nbytes in ((metadata, METADATA_NBYTES), (data, cases.DATA_NBLOCKS * BLOCK_NBYTES)):
        with path.open("wb") as file:
            file.truncate(nbytes)
    lamella.ThinPool.create(metadata, data, block_size=BLOCK_NBYTES).close()
    return OurPool(metadata, data)


def written(operations: Iterable[Operation], metadata: Path, data: Path) -> None:
    """Let our pool do operations on two fresh images."""
    pool = fresh(metadata, data)
    try:
        replay(operations, pool)
    finally:
        pool.close_pool()
