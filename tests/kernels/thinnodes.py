"""Nodes of metadata trees made by hand, right or wrong, and buffers for the kernels that walk them."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamella._kernels import thindelta, thinmeta
from lamella.block.memory import BLOCK_NBYTES, SLACK, WINDOW
from tests.kernels.guarded import guarded, guarded_bytes

NODE = 121107
INTERNAL, LEAF = 1, 2


def node(number: int, flags: int, entries: list[tuple[int, int]], *, most: int = 252, size: int = 8, n: int | None = None) -> bytes:
    """Spell a node with numbers as values, sealed."""
    block = bytearray(BLOCK_NBYTES)
    struct.pack_into("<IQIIII", block, 4, flags, number, len(entries) if n is None else n, most, size, 0)
    for i, (key, value) in enumerate(entries):
        struct.pack_into("<Q", block, 32 + 8 * i, key)
        block[32 + 8 * most + size * i : 32 + 8 * most + size * (i + 1)] = (value % 2 ** (8 * size)).to_bytes(size, "little")
    thinmeta.seal(block, number, NODE)
    return bytes(block)


def inner(number: int, entries: list[tuple[int, int]]) -> bytes:
    """Spell an inner node: first keys and blocks of children."""
    return node(number, INTERNAL, entries)


def leaf(number: int, mappings: list[tuple[int, int]], time: int = 0) -> bytes:
    """Spell a leaf of mappings: thin blocks and data blocks."""
    return node(number, LEAF, [(key, data << 24 | time) for key, data in mappings])


@dataclass
class Buffers:
    """What kernels are given, each buffer flush against a page that nobody may touch."""

    fd: int
    arena: NDArray[np.uint8]
    state: NDArray[np.uint8]
    window: NDArray[np.uint8] | None
    other: NDArray[np.uint8] | None

    @property
    def nblocks(self) -> int:
        return len(self.state)

    @property
    def head(self) -> tuple[Any, ...]:
        return self.arena, self.state, self.window, self.fd

    def extents(self, root: int, cap: int = 100, n_data: int = 1 << 30) -> list[tuple[int, ...]]:
        """Walk a tree to its end with columns of ``cap`` rows."""
        cursor = guarded(np.zeros(thinmeta.CURSOR, np.int64))
        thinmeta.open_walk(cursor, root)
        found: list[tuple[int, ...]] = []
        n = cap
        while n == cap:
            columns = [guarded(np.zeros(cap, np.int64)) for _ in range(4)]
            n = thinmeta.extents(*self.head, cursor, *columns, n_data)
            found += zip(*(column[:n].tolist() for column in columns), strict=True)
        return found

    def delta(self, left: int, right: int, cap: int = 100, *, same: bool = True, loose: bool = False) -> list[tuple[int, ...]]:
        """Compare two trees with columns of ``cap`` rows."""
        cursor = guarded(np.zeros(thindelta.CURSOR, np.int64))
        thindelta.open_delta(self.arena, self.state, self.fd, cursor, left, right, same)
        found: list[tuple[int, ...]] = []
        n = cap
        while n == cap:
            columns = tuple(guarded(np.zeros(cap, np.int64)) for _ in range(5))
            n = thindelta.delta(
                self.arena, self.state, self.window, self.other, self.fd, cursor, columns, 1 << 30, same, loose
            )
            found += zip(*(column[:n].tolist() for column in columns), strict=True)
        return found


@contextlib.contextmanager
def device(blocks: dict[int, bytes] | bytes, *, window: bool = True) -> Iterator[Buffers]:
    """Lend a device in memory with these blocks, and fresh buffers for it."""
    if isinstance(blocks, dict):
        blocks = b"".join(blocks.get(number, bytes(BLOCK_NBYTES)) for number in range(max(blocks) + 1))
    nblocks = len(blocks) // BLOCK_NBYTES
    fd = os.memfd_create("metadata")
    try:
        os.write(fd, blocks)
        windows = [guarded_bytes((WINDOW + SLACK) * BLOCK_NBYTES) if window else None for _ in range(2)]
        yield Buffers(fd, guarded_bytes((nblocks + SLACK) * BLOCK_NBYTES), guarded_bytes(nblocks), *windows)
    finally:
        os.close(fd)
