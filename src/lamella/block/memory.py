"""Metadata blocks in memory: address space for every block of a device, pages for those that were read."""

from __future__ import annotations

import contextlib
import mmap

import numpy as np
from numpy.typing import NDArray

from lamella.block.devices import address_space

BLOCK_NBYTES = 4096
SLACK = 3  # blocks behind a buffer of nodes, as kernels demand
WINDOW = 64


class Memory:
    """The buffers that kernels keep a metadata device's blocks in.

    ``arena`` has a place of 4,096 bytes for each of ``nblocks`` blocks; ``state`` a byte for each, zero until it is read;
    ``window``, if it is wanted, is where blocks pass through that need not stay. ``huge`` asks for large pages: look-ups
    all over the arena take a third of the time, and a block that is held may take 2 MiB.
    """

    def __init__(self, nblocks: int, *, window: bool = False, huge: bool = False) -> None:
        self.nblocks = nblocks
        self.arena = address_space((nblocks + SLACK) * BLOCK_NBYTES)
        if huge:
            with contextlib.suppress(OSError):  # a system without them
                self.arena.madvise(mmap.MADV_HUGEPAGE)
        self.state = np.zeros(nblocks, np.uint8)
        self.window = new_window() if window else None


def new_window() -> NDArray[np.uint8]:
    """Return a window: each walk that goes on in a later call needs its own."""
    return np.zeros((WINDOW + SLACK) * BLOCK_NBYTES, np.uint8)
