"""What the layers of a stack claim, seen from the top: drives the claim kernel over a placement's rows."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from lamella._kernels import claim
from lamella.layer.placement import Placement

__all__ = ["Claims", "Unforeseen"]

_SEED = int.from_bytes(os.urandom(8), "little")
_WHY = {
    claim.THROUGH: "a higher layer goes through what is not a directory here",
    claim.BELOW: "an entry below a non-directory of the same layer",
    claim.TWICE: "a path twice in one layer",
    claim.LINK: "a hard link to what this layer does not have",
    claim.MARKER: "a whiteout of nothing, or AUFS metadata",
    claim.NAME: "a '..' component, or a root that is no directory",
}


class Unforeseen(Exception):
    """What a pass from the top cannot know: the stack has to be applied from the bottom. For the stack's own ears."""


class Claims:
    """Judges the rows of one layer after another; ``level`` is the number of the current one, from the bottom.

    ``restore`` collects (level, row, source row) of hard links whose inode no row makes.
    """

    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        self.level = 0
        self.restore: list[tuple[int, int, int]] = []
        self._state = np.zeros(claim.STATE_NBYTES, np.uint8)
        self._nodes = np.empty(4096 * claim.NODE_NBYTES, np.uint8)
        self._names = np.empty(1 << 16, np.uint8)
        self._slots = np.zeros(1 << 13, np.uint32)
        self._origin = np.empty(4096, np.int32)
        claim.open_claims(self._state, self._nodes)

    def __call__(self, begin: int, end: int) -> None:
        """Flag what of rows [begin, end) is not to be made. Unforeseen where that cannot be told from here."""
        if end > len(self._origin):
            self._origin = _larger(self._origin, end)
        while True:
            begin, why, source = claim.claim(
                self._state, self._nodes, self._slots, _SEED, self._names, self.placement.builder.columns, self._origin,
                begin, end, self.level,
            )  # fmt: skip
            if not why:
                return
            if why == claim.FULL:
                self._grow()
                continue
            if why == claim.RELINK:
                self.placement.retarget(begin, self.placement.path(source))
            elif why == claim.RESTORE:
                self.restore.append((self.level, begin, source))
            else:
                raise Unforeseen(f"{_WHY[why]}: {self.placement.path(begin)!r}, layer {self.level}")
            begin += 1

    def _grow(self) -> None:
        self._nodes, self._names = _larger(self._nodes, 0), _larger(self._names, 0)
        slots = np.zeros(2 * len(self._slots), np.uint32)
        claim.refill(self._state, self._nodes, slots, _SEED, self._names)
        self._slots = slots

    def counts(self) -> tuple[int, int]:
        """Return whiteouts and opaque markers since the last call."""
        return claim.counts(self._state)

    def missing(self) -> list[bytes]:
        """Return the paths of directories that have no entry, and nothing that is seen in them."""
        return claim.missing(self._state, self._nodes, self._names)

    def directories(self) -> np.ndarray[Any, Any]:
        """Return the rows that give directories their metadata."""
        rows = np.empty(self.placement.builder.n_rows, np.int64)
        return rows[: claim.directories(self._state, self._nodes, rows)]


def _larger(array: np.ndarray[Any, Any], least: int) -> np.ndarray[Any, Any]:
    larger = np.empty(max(2 * len(array), least), array.dtype)
    larger[: len(array)] = array
    return larger
