"""Metadata of a thin pool, read: its superblock, its devices, and where their blocks lie."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from errno import ENODATA
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from lamella._kernels import thincount, thinmeta
from lamella.block.devices import device_nbytes, open_device
from lamella.block.extents import ExtentTable
from lamella.block.memory import BLOCK_NBYTES, Memory, new_window
from lamella.block.superblock import Superblock, is_unformatted
from lamella.errors import MetadataError

__all__ = ["DETAILS", "MOST_BLOCKS", "DeviceDetails", "Metadata", "load_superblock", "metadata_nblocks", "sealed"]

MOST_BLOCKS = 255 * thincount.PER_BITMAP  # what the one index block of the metadata's space map can count
BATCH = 16384
DETAILS = struct.Struct("<QQII")  # a value of the tree of details: the fields of DeviceDetails but the id
_DETAILS = np.dtype([("mapped", "<u8"), ("transaction", "<u8"), ("creation", "<u4"), ("snapshotted", "<u4")])
_ROOT = np.dtype([("root", "<u8")])


class DeviceDetails(NamedTuple):
    """What a pool knows of a thin device; times are the pool's snapshot clock. A device's size is nowhere in it."""

    dev_id: int
    mapped_blocks: int
    transaction_id: int
    creation_time: int
    snapshotted_time: int


class Metadata:
    """Metadata in a file, on a block device, or in a pool's memory; a context manager.

    ``superblock`` is what is read, the metadata snapshot's with ``snapshot``; ``live`` is the pool's own in both cases.
    Blocks are read when they are asked for; leaves are not kept. ``n_reads`` counts calls for blocks.
    """

    def __init__(self, memory: Memory, fd: int, superblock: Superblock, *, live: Superblock | None = None) -> None:
        self.memory = memory
        self.superblock = superblock
        self.live = superblock if live is None else live
        self.n_reads = 0
        self.fd = fd
        self._owned: int | None = None

    @classmethod
    def open(cls, source: str | os.PathLike[str] | int, *, snapshot: int | bool | None = None) -> Metadata:
        """Open a path or a descriptor. ``snapshot``: True for the metadata snapshot, or the block that its superblock is in.

        A device that the kernel uses is opened for its snapshot only.
        """
        live = snapshot is None or snapshot is False
        fd = source if isinstance(source, int) else open_device(source, write=False, exclusive=live)
        try:
            opened = cls._load(fd, None if live else snapshot)
        except BaseException:
            if fd is not source:
                os.close(fd)
            raise
        opened._owned = None if fd is source else fd
        return opened

    @classmethod
    def _load(cls, fd: int, snapshot: int | bool | None) -> Metadata:
        memory = Memory(metadata_nblocks(fd))
        found = load_superblock(memory, fd)
        if snapshot is None:
            return cls(memory, fd, found)
        number = found.held_root if snapshot is True else snapshot
        if number == 0:
            raise MetadataError("no metadata snapshot is held", block=0)
        return cls(memory, fd, load_superblock(memory, fd, number), live=found)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what was opened; a descriptor that was given stays open."""
        if self._owned is not None:
            os.close(self._owned)
            self._owned = None
        self.fd = -1

    @property
    def nr_data_blocks(self) -> int:
        """How many data blocks the pool has; a mapping has no room for a greater number."""
        return min(self.live.data_sm.nblocks, 1 << 40)

    def devices(self) -> list[DeviceDetails]:
        """Return what the pool knows of its devices, by id."""
        return [
            DeviceDetails(key, *values)
            for keys, rows in self.entries(self.superblock.details_root, _DETAILS)
            for key, values in zip(keys.tolist(), rows.tolist(), strict=True)
        ]

    def roots(self) -> dict[int, int]:
        """Map the ids of devices to the roots of their trees of mappings."""
        found: dict[int, int] = {}
        for keys, rows in self.entries(self.superblock.data_root, _ROOT):
            found |= zip(keys.tolist(), rows["root"].tolist(), strict=True)
        return found

    def root_of(self, dev_id: int) -> int:
        """Return the root of a device's tree; ``OSError`` (ENODATA) where there is no such device."""
        found = self.roots().get(dev_id)
        if found is None:
            raise OSError(ENODATA, f"no thin device {dev_id}")
        return found

    def extents(self, dev_id: int | None = None, *, root: int | None = None) -> Iterator[ExtentTable]:
        """Yield the mappings of a device, or of the tree at ``root``, as tables in order; no run is cut between two."""
        where = root if root is not None else self.root_of(-1 if dev_id is None else dev_id)
        window, cursor, n_data = new_window(), self.walk(where), self.nr_data_blocks
        n = BATCH
        while n == BATCH:
            begin, data, length, time = (np.empty(BATCH, np.int64) for _ in range(4))
            n = thinmeta.extents(
                self.memory.arena, self.memory.state, window, self.fd, cursor, begin, data, length, time, n_data
            )
            if n:
                yield ExtentTable(begin[:n], data[:n], length[:n], time[:n])
        self.n_reads += int(cursor[1])

    def entries(self, root: int, kind: np.dtype[np.void]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.void]]]:
        """Yield keys and values of a small tree, whose blocks stay in memory."""
        cursor = self.walk(root)
        n = BATCH
        while n == BATCH:
            keys, values = np.empty(BATCH, np.int64), np.empty((BATCH, kind.itemsize), np.uint8)
            n = thinmeta.entries(self.memory.arena, self.memory.state, None, self.fd, cursor, keys, values)
            yield keys[:n], values[:n].reshape(-1).view(kind)
        self.n_reads += int(cursor[1])

    @staticmethod
    def walk(root: int) -> NDArray[np.int64]:
        """Return a cursor at the beginning of a tree."""
        cursor = np.zeros(thinmeta.CURSOR, np.int64)
        thinmeta.open_walk(cursor, root)
        return cursor


def metadata_nblocks(fd: int) -> int:
    """Return how many blocks of a device metadata can use."""
    return min(device_nbytes(fd) // BLOCK_NBYTES, MOST_BLOCKS)


def load_superblock(memory: Memory, fd: int, number: int = 0) -> Superblock:
    """Read and check the superblock, or the copy of it that a metadata snapshot is."""
    try:
        thinmeta.load(memory.arena, memory.state, fd, number, thinmeta.SALT_SUPERBLOCK)
    except MetadataError:
        if number < memory.nblocks and is_unformatted(_block(memory, number)):
            raise MetadataError(f"metadata block {number} is all zero: no pool is here", block=number) from None
        raise
    return Superblock.unpack(_block(memory, number), number)


def _block(memory: Memory, number: int) -> bytes:
    return memory.arena[number * BLOCK_NBYTES : (number + 1) * BLOCK_NBYTES]


def sealed(superblock: Superblock) -> memoryview:
    """Return block 0 as it is written, with its checksum."""
    block = bytearray(superblock.pack())
    thinmeta.seal(block, 0, thinmeta.SALT_SUPERBLOCK)
    return memoryview(block)
