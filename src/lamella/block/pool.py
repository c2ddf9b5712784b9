"""A thin pool: devices that share the blocks of one data device, by the rules and in the format of device mapper.

Rules: the kernel's documentation of thin provisioning, and what its target answers. Metadata written here may be given to
the kernel, and the other way round.
"""

from __future__ import annotations

import os
from errno import EBUSY, EEXIST, EINVAL
from typing import Self

import numpy as np

from lamella._kernels import thinpool, thintree
from lamella.block.checking import Problem, check
from lamella.block.datafile import DataFile
from lamella.block.delta import compare_roots
from lamella.block.device import ThinDevice
from lamella.block.extents import DeltaTable, ExtentTable
from lamella.block.live import LivePool
from lamella.block.mapping import record
from lamella.block.metadata import DETAILS, Metadata, load_superblock
from lamella.block.modes import PoolUsage, check_block_size, exclusively
from lamella.block.superblock import is_unformatted
from lamella.block.transaction import MetadataDevice, Transaction
from lamella.errors import LimitExceededError

__all__ = ["ThinPool"]

Path = str | os.PathLike[str]
SECTOR = 512
MOST_DEVICES = MOST_TIME = 1 << 24


class ThinPool(LivePool):
    """A thin pool on a metadata and a data device, each a regular file or a block device that nobody else uses.

    Made by :meth:`create` and :meth:`open`; a context manager. Messages (``create_thin`` and so on) are committed before
    they return, what is written to devices by :meth:`commit` and :meth:`close`. Until then a crash loses it and nothing
    else. Errors are ``OSError`` with the errno that device mapper answers; ``PoolFullError`` where blocks are wanting, and
    then nothing has been changed; ``MetadataError`` where metadata are damaged. When metadata cannot be written, what was
    not committed is lost, and the pool is read-only and wants a check, as in the kernel.
    """

    @classmethod
    def create(cls, metadata: Path, data: Path, *, block_size: int = 1 << 16) -> Self:
        """Make an empty pool on two devices that are there.

        ``block_size``: 64 KiB to 1 GiB in steps of 64 KiB. The first 4 KiB of ``metadata`` must be zero (EEXIST).
        """
        check_block_size(block_size)
        with exclusively(metadata, data) as (metadata_fd, data_fd):
            if not is_unformatted(os.pread(metadata_fd, 4096, 0)):
                raise OSError(EEXIST, "something is on the metadata device", os.fspath(metadata))
            data_file = DataFile(data_fd, block_size)
            transaction = Transaction.format(MetadataDevice(metadata_fd), block_size // SECTOR, data_file.nblocks)
            return cls(transaction, data_file)

    @classmethod
    def open(cls, metadata: Path, data: Path, *, block_size: int | None = None) -> Self:
        """Open a pool. A data device that has grown is used at once, one that has shrunk is refused (EINVAL).

        ``block_size`` only says what is expected: EINVAL where it is another.
        """
        with exclusively(metadata, data) as (metadata_fd, data_fd):
            transaction = Transaction.open(MetadataDevice(metadata_fd))
            nbytes = transaction.superblock.data_block_size * SECTOR
            check_block_size(nbytes)
            if block_size not in {None, nbytes}:
                raise OSError(EINVAL, f"changing the data block size (from {nbytes} to {block_size}) is not supported")
            pool = cls(transaction, DataFile(data_fd, nbytes))
            pool.resize()
            return pool

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Commit, and close the devices; thin devices that are open are closed with them."""
        with self._lock:
            if self.closed:
                return
            try:
                if self.may_write:
                    self._commit()
            finally:
                self.closed = True
                os.close(self._transaction.device.fd)
                os.close(self._data.fd)

    def create_thin(self, dev_id: int) -> None:
        """Make an empty device. EEXIST; EINVAL for an id of 2**24 or more."""
        with self._message():
            self._check_new(dev_id)
            self._room(1)
            time = self._transaction.space["time"]
            with self._changing():
                root = thinpool.make(self._transaction.space.parts)
                record(self._transaction, dev_id, root, DETAILS.pack(0, self._transaction.transaction_id, time, time))
            self._commit()

    def create_snapshot(self, dev_id: int, origin: int) -> None:
        """Make a device that has all that ``origin`` has, at the cost of two entries. EEXIST; ENODATA without ``origin``.

        ``LimitExceededError`` for the 2**24th snapshot: the format's clock ends there.
        """
        with self._message():
            self._snapshot(dev_id, origin)
            self._commit()

    def _snapshot(self, dev_id: int, origin: int) -> None:
        self._check_new(dev_id)
        source = self._mapping(origin)
        space = self._transaction.space
        time = space["time"] + 1
        if time >= MOST_TIME:
            raise LimitExceededError("snapshot clock", time)
        self._room(2)
        with self._changing():
            space["time"] = time
            source.snapshotted_time, source.changed = time, True
            source.save()
            root = int(source.tree[0])
            thinpool.share(space.parts, root)
            details = DETAILS.pack(source.mapped_blocks, self._transaction.transaction_id, time, time)
            record(self._transaction, dev_id, root, details)

    def delete(self, dev_id: int) -> None:
        """Remove a device; its data are not discarded. ENODATA; EBUSY while it is open."""
        with self._message():
            mapping = self._mapping(dev_id)
            if mapping.n_open:
                raise OSError(EBUSY, f"thin device {dev_id} is open")
            self._room(1, drop=True)
            with self._changing():
                parts = self._transaction.space.parts
                thintree.remove(parts, thintree.DETAILS, dev_id)
                thintree.remove(parts, thintree.MAPPING, dev_id)
                thinpool.drop(parts, int(mapping.tree[0]), thinpool.DEVICE)
                del self._mappings[dev_id]
            self._commit()

    def set_transaction_id(self, old: int, new: int) -> None:
        """Replace the pool's transaction id, a number for its user. EINVAL where ``old`` is not what it is."""
        with self._message():
            if old != self._transaction.transaction_id or not 0 <= new < 1 << 64:
                raise OSError(EINVAL, f"the transaction id is {self._transaction.transaction_id}, not {old}")
            self._transaction.transaction_id = new
            self._dirty = True
            self._commit()

    def reserve_metadata_snap(self) -> int:
        """Hold the metadata as they are, for programs that read them while the pool is in use; return their block. EBUSY."""
        with self._message():
            if self._transaction.space["held_root"]:
                raise OSError(EBUSY, "a metadata snapshot is held already")
            self._commit()
            self._room(1)
            space = self._transaction.space
            with self._changing():
                space["held_root"] = thinpool.copy_superblock(space.parts, self._transaction.copy_for_snapshot())
                thinpool.share(space.parts, space["mapping"])
                thinpool.share(space.parts, space["details"])
            self._commit()
            return self._transaction.space["held_root"]

    def release_metadata_snap(self) -> None:
        """Let go of the metadata snapshot. EINVAL where none is held."""
        with self._message():
            space = self._transaction.space
            held = space["held_root"]
            if not held:
                raise OSError(EINVAL, "no metadata snapshot is held")
            self._room(1, drop=True)
            with self._changing():
                copy = load_superblock(space.memory, space.fd, held)
                thinpool.release(space.parts, held)
                thinpool.drop(space.parts, copy.data_root, thinpool.DEVICES)
                thinpool.drop(space.parts, copy.details_root, thinpool.DETAILS)
                space["held_root"] = 0
            self._commit()

    def device(self, dev_id: int, *, nblocks: int | None = None) -> ThinDevice:
        """Open a device, ``nblocks`` of the pool's blocks long (as far as anything is mapped). ENODATA."""
        with self.working():
            mapping = self._mapping(dev_id)
            return ThinDevice(self, mapping, mapping.highest + 1 if nblocks is None else nblocks)

    def devices(self) -> list[int]:
        """Return the ids of all devices, ascending."""
        with self.working():
            return sorted(self._metadata().roots())

    def extents(self, dev_id: int) -> ExtentTable:
        """Return the mappings of a device as runs, committed or not."""
        with self.working():
            root = int(self._mapping(dev_id).tree[0])
            tables = list(self._metadata().extents(root=root))
            none = np.empty(0, np.int64)
            return ExtentTable(*(np.concatenate([none, *(table.columns[k] for table in tables)]) for k in range(4)))

    def delta(self, left: int, right: int) -> DeltaTable:
        """Return where two devices differ, as runs: by data block, so what was copied and not changed is different.

        It costs what differs where one is a snapshot of the other: what they share is not read.
        """
        with self.working() as data_file:
            roots = (int(self._mapping(dev_id).tree[0]) for dev_id in (left, right))
            space = self._transaction.space
            tables = list(compare_roots(space.memory, space.fd, *roots, nr_data_blocks=data_file.nblocks))
            none = np.empty(0, np.int64)
            return DeltaTable(*(np.concatenate([none, *(table.columns[k] for table in tables)]) for k in range(5)))

    def check(self) -> list[Problem]:
        """Commit, read all metadata from the device, and return what is wrong with them: nothing, normally."""
        with self.working():
            if self.may_write:
                self._commit()
            with Metadata.open(self._transaction.device.fd) as metadata:
                return check(metadata)

    def _check_new(self, dev_id: int) -> None:
        if not 0 <= dev_id < MOST_DEVICES:
            raise OSError(EINVAL, f"no id of a thin device: {dev_id}")
        if thintree.find(self._transaction.space.parts, thintree.DETAILS, dev_id) is not None:
            raise OSError(EEXIST, f"thin device {dev_id} exists")

    def usage(self) -> PoolUsage:
        """Return what is used of what there is."""
        with self.working():
            space = self._transaction.space
            return PoolUsage(
                space["data_used"], space["data_blocks"], self.block_size, space.nblocks - space["n_free"] - space["n_held"],
                space.nblocks, self._transaction.transaction_id, space["held_root"],
            )  # fmt: skip
