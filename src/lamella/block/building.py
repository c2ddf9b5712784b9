"""Whole metadata made in one pass from devices and their extents: every block once, in order, the superblock last.

Trees are packed full: half the blocks that insertion one by one leaves, and so half of what every reader has to read.
Writing to blocks that are mapped already changes leaves, and makes none; only what is newly mapped splits one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from lamella._kernels import thinbuild
from lamella.block.devices import address_space, open_device, write_all
from lamella.block.extents import ExtentTable
from lamella.block.memory import BLOCK_NBYTES
from lamella.block.metadata import DETAILS, DeviceDetails, metadata_nblocks, sealed
from lamella.block.superblock import SpaceMapRoot, Superblock
from lamella.errors import PoolFullError

__all__ = ["Builder", "output_device"]

_ROOM = 256  # blocks that are written at once
_LEAST_BLOCKS = 10  # thin_restore takes no less
_BITMAPS = 64  # bitmaps that are made at once
_NO_POOL = b"\xff" * BLOCK_NBYTES  # not zeros: the kernel would take the device for a new one

Words = NDArray[np.uint64]


@contextlib.contextmanager
def output_device(path: str | os.PathLike[str]) -> Iterator[int]:
    """Open a file or block device that is there for new metadata; ``OSError`` (EBUSY) where a device is in use."""
    fd = open_device(path, write=True)
    try:
        yield fd
    finally:
        os.close(fd)


class Builder:
    """Metadata that takes the place of what is on ``fd``, a file or a block device that is large enough.

    Until ``finish`` there is no pool on the device. Devices come one by one, in any order, each with its extents in theirs.
    """

    def __init__(self, fd: int, *, nr_data_blocks: int) -> None:
        self.fd = fd
        self.nblocks = metadata_nblocks(fd)
        self.next = 1
        if self.nblocks < _LEAST_BLOCKS or nr_data_blocks > self.nblocks * thinbuild.BITMAP_COUNTS:
            self._refuse()
        self._room = np.empty(_ROOM * BLOCK_NBYTES, np.uint8)
        self._keys, self._numbers = np.empty(_ROOM, np.uint64), np.empty(_ROOM, np.uint64)
        self._packer = np.zeros(thinbuild.PACKER_NBYTES, np.uint8)
        self._counts = _zeros(nr_data_blocks)
        self._devices: dict[int, tuple[int, bytes]] = {}
        write_all(fd, memoryview(_NO_POOL), 0)
        os.fsync(fd)

    def add(self, device: DeviceDetails, tables: Iterator[ExtentTable]) -> None:
        """Write a device's mappings; how many they are is counted, not believed.

        ``FormatError`` where extents do not ascend or lie beyond the data device's end, or the device came before;
        ``PoolFullError`` where the metadata device is too small.
        """
        thinbuild.open_packer(self._packer, self.next)
        level: list[tuple[Words, Words]] = []
        for table in tables:
            done = False
            while not done:
                n, done = thinbuild.leaves(self._packer, *table.columns, self._counts, self._room, self._keys, self._numbers)
                level.append(self._take(n))
        n, mapped, _ = thinbuild.last_leaves(self._packer, self._room, self._keys, self._numbers)
        level.append(self._take(n))
        root = self._above(*(np.concatenate(parts) for parts in zip(*level, strict=True)))
        details = DETAILS.pack(mapped, device.transaction_id, device.creation_time, device.snapshotted_time)
        self._devices[device.dev_id] = root, details

    def __contains__(self, dev_id: int) -> bool:
        return dev_id in self._devices

    def finish(self, superblock: Superblock) -> Superblock:
        """Write what else belongs to a pool and then, all of it on disk, the superblock, filled in."""
        ids = sorted(self._devices)
        keys = np.array(ids, np.uint64)
        roots = b"".join(self._devices[dev_id][0].to_bytes(8, "little") for dev_id in ids)
        data_root = self._tree(keys, np.frombuffer(roots, np.uint8), 8)
        details = b"".join(self._devices[dev_id][1] for dev_id in ids)
        details_root = self._tree(keys, np.frombuffer(details, np.uint8), DETAILS.size)
        data_sm = self._data_map()
        metadata_sm = self._metadata_map()
        os.fsync(self.fd)
        done = _filled(superblock, data_root, details_root, data_sm, metadata_sm)
        write_all(self.fd, sealed(done), 0)
        os.fsync(self.fd)
        return done

    # -- trees

    def _tree(self, keys: Words, values: NDArray[np.uint8], size: int) -> int:
        """Write a tree of entries that are all there; return its root."""
        return self._above(*self._level(keys, values, size, leaf=True))

    def _above(self, keys: Words, numbers: Words) -> int:
        """Write the nodes above nodes; return the root."""
        while len(numbers) > 1:
            keys, numbers = self._level(keys, numbers.astype("<u8").view(np.uint8), 8, leaf=False)
        return int(numbers[0])

    def _level(self, keys: Words, values: NDArray[np.uint8], size: int, *, leaf: bool) -> tuple[Words, Words]:
        made: list[tuple[Words, Words]] = []
        n_nodes, first = thinbuild.n_nodes(len(keys), size), 0
        while first < n_nodes:
            n = thinbuild.nodes(keys, values, size, leaf, first, self.next, self._room, self._keys, self._numbers)
            made.append(self._take(n))
            first += n
        return tuple(np.concatenate(parts) for parts in zip(*made, strict=True))  # type: ignore[return-value]

    def _take(self, n: int) -> tuple[Words, Words]:
        """Write the ``n`` nodes that were made; return their first keys and numbers."""
        self._append(n)
        return self._keys[:n].copy(), self._numbers[:n].copy()

    # -- space maps

    def _data_map(self) -> SpaceMapRoot:
        """Write the data device's space map: bitmaps, the tree of their index entries, the tree of counts above two."""
        entries, many, allocated = self._bitmaps(self._counts)
        keys = np.arange(len(entries) // thinbuild.ENTRY_NBYTES, dtype=np.uint64)
        bitmap_root = self._tree(keys, entries, thinbuild.ENTRY_NBYTES)
        values = np.ascontiguousarray(self._counts[many], "<u4").view(np.uint8)
        return SpaceMapRoot(len(self._counts), allocated, bitmap_root, self._tree(many.astype(np.uint64), values, 4))

    def _metadata_map(self) -> SpaceMapRoot:
        """Write the metadata's own: every block so far is in use once, and so are those that say it."""
        count_root = self._tree(np.empty(0, np.uint64), np.empty(0, np.uint8), 4)
        n_bitmaps = -(-self.nblocks // thinbuild.BITMAP_COUNTS)
        used = self.next + n_bitmaps + 1
        self._ensure(n_bitmaps + 1)
        counts = np.zeros(self.nblocks, np.uint32)
        counts[:used] = 1
        entries, _, allocated = self._bitmaps(counts)
        bitmap_root = self.next
        thinbuild.index(entries, bitmap_root, self._room)
        self._append(1)
        return SpaceMapRoot(self.nblocks, allocated, bitmap_root, count_root)

    def _bitmaps(self, counts: NDArray[np.uint32]) -> tuple[NDArray[np.uint8], NDArray[np.int64], int]:
        """Write bitmaps; return their index entries, the blocks that are counted above two, and how many are in use."""
        step = _BITMAPS * thinbuild.BITMAP_COUNTS
        entries, many, allocated = [np.empty(0, np.uint8)], [np.empty(0, np.int64)], 0
        for begin in range(0, len(counts), step):
            part = counts[begin : begin + step]
            n = -(-len(part) // thinbuild.BITMAP_COUNTS)
            made = np.empty(n * thinbuild.ENTRY_NBYTES, np.uint8)
            thinbuild.bitmaps(part, self.next, self._room, made)
            self._append(n)
            entries.append(made)
            many.append(begin + np.flatnonzero(part > 2))
            allocated += int(np.count_nonzero(part))
        return np.concatenate(entries), np.concatenate(many), allocated

    # -- blocks

    def _ensure(self, n: int) -> None:
        if self.next + n > self.nblocks:
            self._refuse()

    def _refuse(self) -> NoReturn:
        raise PoolFullError(f"the metadata device of {self.nblocks} blocks is too small", what="metadata")

    def _append(self, n: int) -> None:
        """Write ``n`` blocks of the room behind those written so far."""
        self._ensure(n)
        write_all(self.fd, memoryview(self._room)[: n * BLOCK_NBYTES], self.next * BLOCK_NBYTES)
        self.next += n


def _zeros(n: int) -> NDArray[np.uint32]:
    """Return counts that take memory where they are not zero only."""
    return np.frombuffer(address_space(n * 4), np.uint32) if n else np.zeros(0, np.uint32)


def _filled(
    given: Superblock, data_root: int, details_root: int, data_sm: SpaceMapRoot, metadata_sm: SpaceMapRoot
) -> Superblock:
    return Superblock(
        given.flags, bytes(16), given.version, given.time, given.transaction_id, 0, data_sm, metadata_sm, data_root,
        details_root, given.data_block_size, BLOCK_NBYTES // 512, metadata_sm.nblocks, 0, 0, 0,
    )  # fmt: skip
