"""How often each block of a pool is referred to: what trees say, and what space maps say."""

from __future__ import annotations

import enum
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lamella._kernels import thincount, thinmeta
from lamella.block.memory import BLOCK_NBYTES, new_window
from lamella.block.metadata import Metadata
from lamella.block.superblock import SpaceMapRoot
from lamella.errors import MetadataError

__all__ = ["Counts", "Damage", "Part", "mismatches", "space_map"]

ENTRY = np.dtype([("block", "<u8"), ("free", "<u4"), ("hint", "<u4")])
_COUNT = np.dtype([("count", "<u4")])
_INDEX_HEADER = 16
_NODE_HEADER, _INTERNAL = 32, 1
_ROWS = 1024
U32 = NDArray[np.uint32]


class Part(enum.IntEnum):
    """What a metadata block is part of."""

    SUPERBLOCK = 1
    DETAILS = 2
    DEVICES = 3
    MAPPINGS = 4
    DATA_INDEX = 5
    DATA_BITMAP = 6
    DATA_COUNTS = 7
    METADATA_INDEX = 8
    METADATA_BITMAP = 9
    METADATA_COUNTS = 10


_SIZES = {  # bytes of a value in a tree
    Part.DETAILS: 24, Part.DEVICES: 8, Part.MAPPINGS: 8, Part.DATA_INDEX: 16, Part.DATA_COUNTS: 4, Part.METADATA_COUNTS: 4,
}  # fmt: skip


class Damage(Exception):
    """A block that cannot be used, and which keys of its tree are lost by it: ``low`` to ``high``, None where it is no tree."""

    def __init__(self, error: MetadataError | OSError, low: int = 0, high: int | None = None) -> None:
        super().__init__(str(error))
        self.low, self.high = low, high


class Counts:
    """References to metadata blocks, counted as they are met: ``uses`` has a number for each."""

    def __init__(self, metadata: Metadata) -> None:
        nblocks = metadata.memory.nblocks
        self.metadata = metadata
        self.uses = np.zeros(nblocks, np.uint32)
        self._kinds = np.zeros(nblocks, np.uint8)
        self._keys = np.zeros((nblocks, 2), np.int64)
        self._window = new_window()

    def refer(self, block: int, part: Part) -> bool:
        """Count a reference; False where one of the same kind was counted before."""
        if block >= len(self.uses):
            raise Damage(MetadataError(f"metadata block {block}: outside the device of {len(self.uses)} blocks", block=block))
        self.uses[block] += 1
        if self.uses[block] == 1:
            self._kinds[block] = part
        elif self._kinds[block] != part:
            raise Damage(MetadataError(f"metadata block {block}: is part of something else, too", block=block))
        return bool(self.uses[block] == 1)

    def tree(self, root: int, part: Part, data: U32 | None = None) -> Iterator[Damage]:
        """Count what a tree refers to, ``data`` being counts of data blocks, if they are wanted; yield what is wrong with it.

        Leaves of mappings pass, all other nodes stay in memory and can be read again.
        """
        try:
            if not self.refer(root, part):
                return
        except Damage as damage:
            yield damage
            return
        cursor, memory = self.metadata.walk(root), self.metadata.memory
        n_data = self.metadata.nr_data_blocks if part is Part.MAPPINGS else -1
        window = self._window if part is Part.MAPPINGS else None
        while cursor[0] > 0:
            try:
                thincount.tree(
                    memory.arena, memory.state, window, self.metadata.fd, cursor, self.uses, self._kinds, self._keys, part,
                    _SIZES[part], data, n_data,
                )  # fmt: skip
            except (MetadataError, OSError) as error:
                yield Damage(error, int(cursor[4]), int(cursor[5]))
        self.metadata.n_reads += int(cursor[1])

    def entries_not_met(self, root: int, met: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
        """Yield key and value of the leaves of a counted tree of devices, but for those below nodes that were met before."""
        if met[root]:
            return
        node = self.metadata.memory.arena[root * BLOCK_NBYTES : (root + 1) * BLOCK_NBYTES]
        flags, n, most = (int.from_bytes(node[at : at + 4], "little") for at in (4, 16, 20))
        keys, values = (np.frombuffer(node, "<u8", n, at).tolist() for at in (_NODE_HEADER, _NODE_HEADER + 8 * most))
        for key, value in zip(keys, values, strict=True):
            if flags & _INTERNAL:
                yield from self.entries_not_met(value, met)
            else:
                yield key, value

    def bitmaps(self, blocks: NDArray[np.int64], part: Part, counts: U32) -> Iterator[Damage]:
        """Read bitmaps to ``counts``; yield what is wrong with them."""
        memory, at = self.metadata.memory, 0
        while at < len(blocks):
            try:
                at, n_reads = thincount.bitmaps(
                    memory.arena, memory.state, self.metadata.fd, blocks, at, self.uses, self._kinds, part, counts
                )
                self.metadata.n_reads += n_reads
            except (MetadataError, OSError) as error:
                yield Damage(error)
                at += 1


def space_map(counts: Counts, root: SpaceMapRoot, *, metadata: bool) -> tuple[U32, list[Damage]]:
    """Return what a space map has for each block, and what is wrong with it; its own blocks are counted."""
    bitmap, tree = (
        (Part.METADATA_BITMAP, Part.METADATA_COUNTS) if metadata else (Part.DATA_BITMAP, Part.DATA_COUNTS)
    )
    try:
        blocks, damage = _metadata_index(counts, root) if metadata else _data_index(counts, root)
    except Damage as found:
        return np.zeros(0, np.uint32), [found]
    damage += counts.tree(root.count_root, tree)
    if damage:
        return np.zeros(0, np.uint32), damage
    has = np.zeros(root.nblocks, np.uint32)
    damage += counts.bitmaps(blocks, bitmap, has)
    for keys, rows in counts.metadata.entries(root.count_root, _COUNT):
        inside = keys[: np.searchsorted(keys, root.nblocks)]
        wanted = has[inside] == thincount.NOT_IN_TREE
        has[inside[wanted]] = rows["count"][: len(inside)][wanted]
    return has, damage


def _metadata_index(counts: Counts, root: SpaceMapRoot) -> tuple[NDArray[np.int64], list[Damage]]:
    """Return the bitmaps that the index block names."""
    metadata, n = counts.metadata, -(-root.nblocks // thincount.PER_BITMAP)
    counts.refer(root.bitmap_root, Part.METADATA_INDEX)
    memory = metadata.memory
    try:
        thinmeta.load(memory.arena, memory.state, metadata.fd, root.bitmap_root, thinmeta.SALT_INDEX)
    except (MetadataError, OSError) as error:
        raise Damage(error) from error
    found = np.frombuffer(memory.arena, ENTRY, (BLOCK_NBYTES - _INDEX_HEADER) // 16, root.bitmap_root * BLOCK_NBYTES + 16)
    if n > len(found):
        raise Damage(MetadataError(f"the index block counts {root.nblocks} metadata blocks", block=root.bitmap_root))
    return found["block"][:n].astype(np.int64), []


def _data_index(counts: Counts, root: SpaceMapRoot) -> tuple[NDArray[np.int64], list[Damage]]:
    """Return the bitmaps that the tree of index entries names."""
    n = -(-root.nblocks // thincount.PER_BITMAP)
    damage = list(counts.tree(root.bitmap_root, Part.DATA_INDEX))
    if damage:
        return np.zeros(0, np.int64), damage
    keys, rows = zip(*counts.metadata.entries(root.bitmap_root, ENTRY), strict=True)
    blocks = np.concatenate(rows)["block"]
    if len(blocks) < n or not np.array_equal(np.concatenate(keys)[:n], np.arange(n)):
        what = f"bitmaps of {root.nblocks} data blocks are missing"
        raise Damage(MetadataError(what, block=root.bitmap_root))
    return blocks[:n].astype(np.int64), []


def mismatches(has: U32, wants: U32) -> Iterator[tuple[int, int, int, int]]:
    """Yield runs where counts differ: first block, blocks, the count, the count wanted."""
    rows, at = np.zeros((_ROWS, 4), np.int64), 0
    while at < len(has):
        n, at = thincount.mismatches(has, wants, at, rows)
        yield from map(tuple, rows[:n].tolist())
