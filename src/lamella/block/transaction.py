"""Transactions on a thin pool's metadata device: begun from what is committed, committed by one write, or given up.

Everything but the superblock is written to blocks that the committed state does not use, and is on the device before the
superblock is written, which is less than a sector. So whatever is interrupted, one of the two states is there.
"""

from __future__ import annotations

import dataclasses
import os
from errno import EINVAL

import numpy as np

from lamella._kernels import thintree
from lamella.block.devices import write_all
from lamella.block.memory import BLOCK_NBYTES, Memory
from lamella.block.metadata import load_superblock, metadata_nblocks, sealed
from lamella.block.space import Space
from lamella.block.superblock import NEEDS_CHECK, SpaceMapRoot, Superblock
from lamella.errors import MetadataError

__all__ = ["MetadataDevice", "Transaction"]

_NOTHING = SpaceMapRoot(0, 0, 0, 0)


class MetadataDevice:
    """The device that metadata is written to: every write of a pool's metadata passes here."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @property
    def nblocks(self) -> int:
        """Blocks that can be used."""
        return metadata_nblocks(self.fd)

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of ``data`` at a byte offset."""
        write_all(self.fd, data, offset)

    def sync(self) -> None:
        """Return when everything written so far would survive a loss of power."""
        os.fdatasync(self.fd)


class Transaction:
    """The state of a pool between two commits. ``superblock`` is the committed one, ``space`` what has become of it.

    ``transaction_id`` is the caller's number, which a commit writes.
    """

    def __init__(self, device: MetadataDevice, superblock: Superblock, space: Space) -> None:
        self.device = device
        self.superblock = superblock
        self.space = space
        self.transaction_id = superblock.transaction_id

    @classmethod
    def format(cls, device: MetadataDevice, sectors: int, data_blocks: int) -> Transaction:
        """Write an empty pool's metadata. ``sectors`` is the size of a data block."""
        superblock = Superblock(0, bytes(16), 2, 0, 0, 0, _NOTHING, _NOTHING, 0, 0, sectors, 8, device.nblocks, 0, 0, 0)
        space = Space(device.fd, device.nblocks, data_blocks)
        space.begin()
        thintree.begin(space.parts, thintree.MAPPING)
        thintree.begin(space.parts, thintree.DETAILS)
        self = cls(device, superblock, space)
        self.commit()
        return self

    @classmethod
    def open(cls, device: MetadataDevice) -> Transaction:
        """Begin from what is committed; ``MetadataError`` where that is damaged, ``OSError`` where it may not be changed."""
        superblock = _committed(device)
        return cls(device, superblock, _space(device, superblock))

    def commit(self) -> None:
        """Make what was done since the last commit the committed state; after an error one of the two is: ``give_up``."""
        self.space.save()
        for first, data in self.space.runs():
            self.device.write(first * BLOCK_NBYTES, data)
        self.device.sync()
        superblock = self._superblock()
        self._write(superblock)
        self.superblock = superblock
        self.space.settle()

    def _superblock(self) -> Superblock:
        space = self.space
        used = int(np.count_nonzero(space.counts))
        return dataclasses.replace(
            self.superblock,
            time=space["time"],
            transaction_id=self.transaction_id,
            held_root=space["held_root"],
            data_sm=SpaceMapRoot(space["data_blocks"], space["data_used"], space["data_index"], space["data_counts"]),
            metadata_sm=SpaceMapRoot(space.nblocks, used, space["index"], space["counts"]),
            data_root=space["mapping"],
            details_root=space["details"],
            metadata_nblocks=space.nblocks,
        )

    def _write(self, superblock: Superblock) -> None:
        self.device.write(0, sealed(superblock))
        self.device.sync()

    def give_up(self) -> None:
        """Drop everything since the last commit, and begin from what the device has."""
        self.superblock = _committed(self.device)
        self.space = _space(self.device, self.superblock)
        self.transaction_id = self.superblock.transaction_id

    def mark(self) -> None:
        """Note on the device that it needs a check; the committed state is the same otherwise."""
        superblock = dataclasses.replace(self.superblock, flags=self.superblock.flags | NEEDS_CHECK)
        self._write(superblock)
        self.superblock = superblock

    def copy_for_snapshot(self) -> bytes:
        """Return the committed superblock as a metadata snapshot keeps it: without the space maps."""
        return dataclasses.replace(self.superblock, data_sm=_NOTHING, metadata_sm=_NOTHING).pack()


def _committed(device: MetadataDevice) -> Superblock:
    found = load_superblock(Memory(1), device.fd)
    if found.compat_ro_flags or found.version != 2:
        features = f"version {found.version}, features {found.compat_ro_flags:#x}"
        raise OSError(EINVAL, f"metadata not to be changed here: {features}")
    if not 0 < found.metadata_sm.nblocks <= device.nblocks:
        raise MetadataError("metadata block 0: the device is not as large as its metadata", block=0)
    return found


def _space(device: MetadataDevice, superblock: Superblock) -> Space:
    data, metadata = superblock.data_sm, superblock.metadata_sm
    space = Space(device.fd, metadata.nblocks, data.nblocks)
    for name, value in (
        ("time", superblock.time), ("held_root", superblock.held_root), ("mapping", superblock.data_root),
        ("details", superblock.details_root), ("index", metadata.bitmap_root), ("counts", metadata.count_root),
        ("data_used", data.nallocated), ("data_index", data.bitmap_root), ("data_counts", data.count_root),
    ):  # fmt: skip
        space[name] = value
    space.load()
    return space
