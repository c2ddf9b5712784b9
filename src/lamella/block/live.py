"""A pool while it is open: who may do what in which mode, how blocks are provisioned, and what becomes of an error."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from errno import EBADF, EINVAL, EIO, EOPNOTSUPP

import numpy as np

from lamella._kernels import thinpool, thinspace
from lamella.block.datafile import DataFile
from lamella.block.mapping import Column, Mapping, Plan
from lamella.block.metadata import Metadata
from lamella.block.modes import PoolMode
from lamella.block.transaction import Transaction
from lamella.errors import MetadataError, PoolFullError

__all__ = ["LivePool"]

KINDS = {thinpool.DATA_FULL: "data", thinpool.METADATA_FULL: "metadata"}


class LivePool:
    """What a thin pool and its devices stand on. One thread at a time is in it."""

    def __init__(self, transaction: Transaction, data_file: DataFile) -> None:
        self._lock = threading.RLock()
        self._transaction = transaction
        self._data = data_file
        self._mappings: dict[int, Mapping] = {}
        self._dirty = False
        self.closed = False
        self.mode = PoolMode.READ_ONLY if transaction.superblock.needs_check else PoolMode.WRITE

    @property
    def block_size(self) -> int:
        """Bytes of a data block."""
        return self._data.nbytes

    @property
    def needs_check(self) -> bool:
        """Whether the pool is marked as wanting a check."""
        return self._transaction.superblock.needs_check

    @property
    def may_write(self) -> bool:
        """Whether metadata may be changed."""
        return self.mode in {PoolMode.WRITE, PoolMode.OUT_OF_DATA_SPACE}

    @contextlib.contextmanager
    def working(self) -> Iterator[DataFile]:
        """Keep other threads out; EBADF where the pool is closed, EIO where it has failed."""
        with self._lock:
            if self.closed:
                raise OSError(EBADF, "the thin pool is closed")
            if self.mode is PoolMode.FAIL:
                raise OSError(EIO, "the thin pool has failed")
            yield self._data

    @contextlib.contextmanager
    def _message(self) -> Iterator[None]:
        """Do what a message asks; EOPNOTSUPP in a pool that may not write."""
        with self._lock:
            if not self.closed and not self.may_write:
                raise OSError(EOPNOTSUPP, f"the thin pool is in mode {self.mode.value}")
            with self.working():
                yield

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Change metadata: an error in here leaves nothing to go on with, so the transaction is given up."""
        self._dirty = True
        try:
            yield
        except BaseException:
            self._give_up()
            raise

    def _give_up(self) -> None:
        """Go back to the last commit; the pool is read-only then and wants a check, as in the kernel."""
        self._dirty = False
        try:
            self._transaction.give_up()
            for mapping in self._mappings.values():
                mapping.load()
        except (OSError, MetadataError):
            self.mode = PoolMode.FAIL
            return
        self.mode = PoolMode.READ_ONLY
        with contextlib.suppress(OSError):  # the device that refused a write may refuse this one
            self._transaction.mark()

    def commit(self) -> None:
        """Make everything that was written so far last: data first, then metadata. EOPNOTSUPP in a pool that may not write."""
        with self._message():
            self._commit()

    def _commit(self) -> None:
        """Commit; an error of the data device leaves the transaction as it is, one of metadata ends it."""
        self._data.sync()
        if self._dirty:
            with self._changing():
                for mapping in self._mappings.values():
                    mapping.save()
                self._transaction.commit()
            for mapping in self._mappings.values():
                mapping.owned = False
            self._dirty = False
        space = self._transaction.space
        if space["data_used"] < space["data_blocks"]:
            self.mode = PoolMode.WRITE

    def _mapping(self, dev_id: int) -> Mapping:
        mapping = self._mappings.get(dev_id)
        if mapping is None:
            mapping = self._mappings[dev_id] = Mapping(self._transaction, dev_id)
        return mapping

    def _metadata(self) -> Metadata:
        """Return the metadata as they are in memory. A device's root is what its mapping says."""
        space = self._transaction.space
        was = self._transaction.superblock
        data_sm = dataclasses.replace(was.data_sm, nblocks=space["data_blocks"])
        now = dataclasses.replace(was, data_sm=data_sm, data_root=space["mapping"], details_root=space["details"])
        return Metadata(space.memory, space.fd, now)

    def _room(self, keys: int, *, drop: bool = False, more: int = 0) -> None:
        """Make sure of the metadata blocks for so many devices put or removed, with ``drop`` to let go of a tree, and more."""
        for again in (True, False):
            there, key, tree = thinpool.spare(self._transaction.space.parts)
            if there >= keys * key + drop * tree + more:
                return
            if again:
                self._reclaim()
        raise PoolFullError("no metadata blocks are free", what="metadata")

    def _reclaim(self) -> None:
        """Commit, if that frees blocks that only the last commit needs."""
        space = self._transaction.space
        if space["data_held"] or space["n_held"]:
            self._commit()

    def planned(self, mapping: Mapping, blocks: Column) -> Plan:
        """Plan a write, in a pool that may give it new blocks; else EIO where it needs any."""
        if not self.may_write:
            data, time = mapping.lookup(blocks)
            if (data < 0).any() or (time < mapping.snapshotted_time).any():
                raise OSError(EIO, "a block would have to be provisioned, and the thin pool is read-only")
            return Plan(blocks, data, np.full_like(data, -1), 0, thinpool.FITS)
        plan = self._try(mapping, blocks)
        if plan.verdict != thinpool.FITS:
            self._reclaim()
            plan = self._try(mapping, blocks)
        if plan.verdict == thinpool.DATA_FULL:
            self.mode = PoolMode.OUT_OF_DATA_SPACE
        if plan.verdict != thinpool.FITS:
            what = KINDS[plan.verdict]
            raise PoolFullError(f"{plan.n_new} blocks are wanted, and {what} blocks are not free", what=what)
        return plan

    def _try(self, mapping: Mapping, blocks: Column) -> Plan:
        """Plan; damage that is met before anything was taken is an error of this write only."""
        taken = self._transaction.space["data_used"]
        try:
            return mapping.plan(blocks)
        except (OSError, MetadataError):
            if self._transaction.space["data_used"] != taken:
                self._give_up()
            raise

    def remap(self, mapping: Mapping, plan: Plan) -> None:
        """Map what was planned."""
        if plan.n_new:
            with self._changing():
                mapping.remap(plan)

    def forget(self, mapping: Mapping, plan: Plan) -> None:
        """Give back what was planned."""
        if plan.n_new:
            with self._changing():
                mapping.forget(plan)

    def cut(self, mapping: Mapping, begin: int, end: int) -> int:
        """Forget the blocks of [begin, end) and return how many were mapped."""
        before = mapping.mapped_blocks
        if not self.may_write:
            return 0
        self._room(1)
        tries = 2
        while tries:
            with self._changing():
                freed = list(mapping.cut(begin, end))
            for blocks, _ in freed:
                self._data.give_back(blocks)
            if freed[-1][1] == thinpool.FITS:
                return before - mapping.mapped_blocks
            tries = 2 if sum(len(blocks) for blocks, _ in freed) else tries - 1
            self._reclaim()
        raise PoolFullError("no metadata blocks are free", what="metadata")

    def resize(self) -> None:
        """Take up devices that have grown. EINVAL where the data device has shrunk; nothing while the pool is read-only."""
        with self.working():
            space, device = self._transaction.space, self._transaction.device
            nblocks, data_blocks = max(device.nblocks, space.nblocks), self._data.nblocks
            if data_blocks < space["data_blocks"]:
                raise OSError(EINVAL, f"data device ({data_blocks} blocks) too small: expected {space['data_blocks']}")
            if self.may_write and (nblocks, data_blocks) != (space.nblocks, space["data_blocks"]):
                bitmaps = (data_blocks - space["data_blocks"]) // thinspace.COUNTS + 2
                if nblocks == space.nblocks:
                    self._room(1, more=2 * bitmaps)
                with self._changing():
                    space.grow(nblocks, data_blocks)
                self._commit()
