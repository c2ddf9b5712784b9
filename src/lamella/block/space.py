"""The buffers of a transaction on thin metadata: blocks, counts, what the data space map's bitmaps are, and the books."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamella._kernels import thinspace
from lamella.block.memory import Memory

__all__ = ["BOOKS", "Space"]

BOOKS = (
    "time", "held_root", "n_free", "n_held", "n_over", "cursor", "index", "counts", "counts_nodes",
    "data_blocks", "data_used", "data_held", "data_cursor", "data_index", "data_index_nodes",
    "data_counts", "data_counts_nodes", "mapping", "mapping_nodes", "details", "details_nodes",
)  # fmt: skip
_AT = {name: place for place, name in enumerate(BOOKS)}
_RUNS = 1024
_NONE = -1


def _bitmaps(nblocks: int) -> int:
    return -(-nblocks // thinspace.COUNTS)


class Space:
    """What a transaction works on: ``parts``, in the order that kernels want; ``places``, metadata's own bitmaps.

    ``nblocks`` metadata blocks are read from ``fd`` when they are first needed. Items of the books are read and set by
    name: ``space["time"]``.
    """

    def __init__(self, fd: int, nblocks: int, data_blocks: int) -> None:
        self.memory = Memory(nblocks, huge=True)
        self.counts = np.zeros(nblocks, np.uint32)
        self.places = np.full(_bitmaps(nblocks), _NONE, np.int64)
        self.books = np.zeros(len(BOOKS), np.int64)
        self.fd = fd
        self["data_blocks"] = data_blocks
        self._columns([np.full(_bitmaps(data_blocks), _NONE, np.int64) for _ in range(4)])

    def _columns(self, columns: list[NDArray[np.int64]]) -> None:
        self.columns = columns
        self.changed = np.ones(len(columns[0]), np.uint8)
        self.parts: tuple[Any, ...] = (
            self.memory.arena, self.memory.state, self.fd, self.counts, self.books, *columns, self.changed
        )  # fmt: skip

    def __getitem__(self, name: str) -> int:
        return int(self.books[_AT[name]])

    def __setitem__(self, name: str, value: int) -> None:
        self.books[_AT[name]] = value

    @property
    def nblocks(self) -> int:
        """Blocks of the metadata device."""
        return self.memory.nblocks

    def begin(self) -> None:
        """Make the space maps of an empty pool."""
        thinspace.begin(self.parts, self.places)
        thinspace.extend(self.parts, self.places)

    def load(self) -> None:
        """Read the space maps, whose roots the books have."""
        thinspace.load(self.parts, self.places)

    def grow(self, nblocks: int, data_blocks: int) -> None:
        """Take up larger devices; whatever was made or changed so far stays."""
        if nblocks > self.nblocks:
            self._grow_metadata(nblocks)
        more = _bitmaps(data_blocks) - len(self.changed)
        changed = np.concatenate([self.changed, np.ones(more, np.uint8)])
        self._columns([np.concatenate([column, np.full(more, _NONE, np.int64)]) for column in self.columns])
        self.changed[:] = changed
        self["data_blocks"] = data_blocks
        thinspace.extend(self.parts, self.places)

    def _grow_metadata(self, nblocks: int) -> None:
        old, self.memory = self.memory, Memory(nblocks, huge=True)
        arena, was = (np.frombuffer(m.arena, np.uint8).reshape(-1, 4096) for m in (self.memory, old))
        held = np.flatnonzero(old.state)
        arena[held] = was[held]
        self.memory.state[: old.nblocks] = old.state
        self.counts = np.concatenate([self.counts, np.zeros(nblocks - old.nblocks, np.uint32)])
        self.places = np.concatenate([self.places, np.full(_bitmaps(nblocks) - len(self.places), _NONE, np.int64)])
        self["n_free"] += nblocks - old.nblocks

    def save(self) -> None:
        """Write the space maps to blocks of the transaction."""
        thinspace.save(self.parts, self.places)

    def runs(self) -> list[tuple[int, memoryview]]:
        """Seal the transaction's blocks; return runs of them: first block, bytes."""
        found, at, arena = [], 0, memoryview(self.memory.arena)
        begin, length = np.zeros(_RUNS, np.int64), np.zeros(_RUNS, np.int64)
        while at < self.nblocks:
            n, at = thinspace.seal(self.parts, at, begin, length)
            pairs = zip(begin[:n].tolist(), length[:n].tolist(), strict=True)
            found += [(first, arena[first * 4096 : (first + count) * 4096]) for first, count in pairs]
        return found

    def settle(self) -> None:
        """Note that the transaction has been committed."""
        thinspace.settle(self.parts)
