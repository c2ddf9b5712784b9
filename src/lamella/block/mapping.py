"""The block map of one thin device: looked up, planned, changed, in batches; what a commit writes of it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from errno import ENODATA
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lamella._kernels import thinpool, thintree
from lamella.block.metadata import DETAILS
from lamella.block.transaction import Transaction
from lamella.errors import MetadataError

__all__ = ["Mapping", "Plan"]

Column = NDArray[np.int64]
ROOT = struct.Struct("<Q")
_FREED = 1 << 16
_FEW = 1024  # blocks that are not worth sorting


class Plan(NamedTuple):
    """What writing to blocks takes: ``old`` data blocks (-1: none) and ``new`` ones (-1: writing in place is right).

    ``blocks`` ascend, whatever order they were given in.
    ``verdict`` is ``thinpool.FITS``, or what is full: then ``n_new`` blocks are wanted and none was taken.
    """

    blocks: Column
    old: Column
    new: Column
    n_new: int
    verdict: int

    @property
    def target(self) -> Column:
        """The data block that each block is to be written to."""
        return np.where(self.new < 0, self.old, self.new)


class Mapping:
    """A device of a pool. ``OSError`` (ENODATA) where there is none of that id."""

    def __init__(self, transaction: Transaction, dev_id: int) -> None:
        self.transaction = transaction
        self.dev_id = dev_id
        self.n_open = 0
        self.tree = np.zeros(2, np.int64)  # root and mapped blocks, as kernels take a device
        self.load()

    def load(self) -> None:
        """Read what the transaction's trees have."""
        parts = self.transaction.space.parts
        root = thintree.find(parts, thintree.MAPPING, self.dev_id)
        details = thintree.find(parts, thintree.DETAILS, self.dev_id)
        if root is None or details is None:
            raise OSError(ENODATA, f"no thin device {self.dev_id}")
        mapped, self.transaction_id, self.creation_time, self.snapshotted_time = DETAILS.unpack(details)
        where = ROOT.unpack(root)[0]
        if where >= self.transaction.space.nblocks or mapped >= 1 << 40:
            raise MetadataError(f"thin device {self.dev_id}: root {where}, {mapped} blocks mapped", block=where)
        self.tree[:] = where, mapped
        self.changed = self.owned = False

    def save(self) -> None:
        """Write root and details to the transaction's trees, where they changed."""
        if self.changed:
            record(self.transaction, self.dev_id, int(self.tree[0]), self.details())
            self.changed = False

    def details(self) -> bytes:
        """Return the value of the tree of details."""
        return DETAILS.pack(int(self.tree[1]), self.transaction_id, self.creation_time, self.snapshotted_time)

    def own(self) -> None:
        """Make the way to this device the transaction's own, before its tree is changed: a metadata snapshot may share it."""
        if not self.owned:
            thintree.put(self.transaction.space.parts, thintree.MAPPING, self.dev_id, None)
        self.owned = self.changed = True

    @property
    def mapped_blocks(self) -> int:
        """Blocks that are mapped."""
        return int(self.tree[1])

    @property
    def highest(self) -> int:
        """The highest mapped block, -1 where none is."""
        return thinpool.last(self.transaction.space.parts, int(self.tree[0]))

    def lookup(self, blocks: Column) -> tuple[Column, Column]:
        """Return data block and time of each block, -1 both where it is not mapped."""
        data, time = np.empty_like(blocks), np.empty_like(blocks)
        wanted, order = _ascending(blocks)
        thinpool.lookup(self.transaction.space.parts, int(self.tree[0]), wanted, data, time)
        if order is None:
            return data, time
        found, at = np.empty_like(data), np.empty_like(time)
        found[order], at[order] = data, time
        return found, at

    def plan(self, blocks: Column) -> Plan:
        """Find what has to be provisioned, or copied since a snapshot may share it, and take data blocks for it."""
        blocks, _ = _ascending(blocks)
        old, new = np.empty_like(blocks), np.empty_like(blocks)
        verdict, n = thinpool.plan(self.transaction.space.parts, int(self.tree[0]), self.snapshotted_time, blocks, old, new)
        return Plan(blocks, old, new, n, verdict)

    def remap(self, plan: Plan) -> None:
        """Map what was planned."""
        if plan.n_new:
            self.own()
            thinpool.remap(self.transaction.space.parts, self.tree, plan.blocks, plan.new)

    def forget(self, plan: Plan) -> None:
        """Give back what was planned."""
        thinpool.forget(self.transaction.space.parts, plan.new)

    def cut(self, begin: int, end: int) -> Iterator[tuple[Column, int]]:
        """Remove the mappings of [begin, end); yield data blocks that nobody has now, and a verdict, which ends it."""
        self.own()
        freed = np.empty(min(_FREED, end - begin, max(self.mapped_blocks, 1)), np.int64)
        n, verdict = len(freed), thinpool.FITS
        while n == len(freed) and verdict == thinpool.FITS:
            _, n, verdict = thinpool.cut(self.transaction.space.parts, self.tree, begin, end, freed)
            yield freed[:n], verdict


def record(transaction: Transaction, dev_id: int, root: int, details: bytes) -> None:
    """Put a device, new or not, into both trees."""
    thintree.put(transaction.space.parts, thintree.MAPPING, dev_id, ROOT.pack(root))
    thintree.put(transaction.space.parts, thintree.DETAILS, dev_id, details)


def _ascending(blocks: Column) -> tuple[Column, NDArray[np.int64] | None]:
    """Return blocks sorted, and the place that each had; None where they ascend, or are few.

    Neighbours lie in one leaf, and to sort costs less than to look for leaves all over memory.
    """
    if len(blocks) < _FEW or (blocks[1:] > blocks[:-1]).all():
        return blocks, None
    if int(blocks.max()) >> 31 or int(blocks.min()) < 0 or len(blocks) >> 32:
        order = np.argsort(blocks, kind="stable")
        return blocks[order], order
    packed = blocks << 32 | np.arange(len(blocks))  # one sort of plain numbers is several times as fast
    packed.sort()
    return packed >> 32, packed & ((1 << 32) - 1)
