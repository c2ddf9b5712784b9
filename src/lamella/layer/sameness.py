"""Whether rows of two layers say the same: metadata by the kernel that compares trees, contents by a hash where asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import xxhash
from numpy.typing import NDArray

from lamella._kernels import changes as kernel
from lamella.layer.composed import AnyLayer, rows_of
from lamella.model import Why

__all__ = ["Content", "Origin", "same_rows"]

Origin = tuple[int, int]  # number of a layer, and a row of it
Content = Literal["auto", "always", "never"]
_OPTIONS = {"auto": 0, "always": 1, "never": 2}
_DIR_MTIME, _UNDECIDED = 4, 32768
_TIME = np.uint16(Why.MTIME.value)


def same_rows(
    layers: Sequence[AnyLayer],
    pairs: Sequence[tuple[Origin, Origin]],
    *,
    content: Content = "auto",
    dir_mtime: bool = True,
) -> NDArray[np.bool_]:
    """Tell of each pair of rows whether both make the same inode: type, metadata to the nanosecond, and content.

    ``content``: "auto" compares contents where a time without nanoseconds leaves it open (56), "always" wherever sizes
    are equal, "never". A content that has to be compared and cannot be read is not the same.
    """
    if not pairs:
        return np.zeros(0, bool)
    why = _why(layers, pairs, _OPTIONS[content] | (_DIR_MTIME if dir_mtime else 0))
    open_ = np.flatnonzero(why == _UNDECIDED).tolist()
    for at, equal in zip(open_, _same_contents(layers, [pairs[at] for at in open_]), strict=True):
        why[at] = 0 if equal else _UNDECIDED
    return np.equal(why, 0)


def _why(layers: Sequence[AnyLayer], pairs: Sequence[tuple[Origin, Origin]], options: int) -> NDArray[np.uint16]:
    n = len(pairs)
    lower, upper = (rows_of(layers, [pair[side] for pair in pairs]) for side in (0, 1))
    state, kind = np.array([0, 0, 0, -1], np.int64), np.zeros(n, np.uint8)
    lower_rows, upper_rows, found = np.zeros(n, np.int32), np.zeros(n, np.int32), np.zeros(n, np.uint16)
    kernel.merge(
        lower.columns, upper.columns, state, options, kind, lower_rows, upper_rows, found, np.zeros(n, np.int32)
    )
    count = int(state[2])
    why = np.zeros(n, np.uint16)
    why[upper_rows[:count]] = found[:count]
    if options & _DIR_MTIME:  # a time without nanoseconds is another one here
        why[lower.mtime_nsec != upper.mtime_nsec] |= _TIME
    return why


def _same_contents(layers: Sequence[AnyLayer], pairs: list[tuple[Origin, Origin]]) -> list[bool]:
    wanted: dict[int, set[int]] = {}
    for pair in pairs:
        for layer, row in pair:
            wanted.setdefault(layer, set()).add(row)
    readable = {layer for layer in wanted if layers[layer].readable}
    wanted = {layer: rows for layer, rows in wanted.items() if layer in readable}
    pairs_open = [pair for pair in pairs if {layer for layer, _ in pair} <= readable]
    needed = {origin for pair in pairs_open for origin in pair}
    digests: dict[Origin, bytes] = {}
    for layer, rows in wanted.items():
        numbers = sorted(row for row in rows if (layer, row) in needed)
        for row, pieces in zip(numbers, layers[layer].contents(numbers), strict=True):
            digest = xxhash.xxh3_128()
            for piece in pieces:
                digest.update(piece)
            digests[layer, row] = digest.digest()
    return [pair[0] in digests and digests[pair[0]] == digests.get(pair[1]) for pair in pairs]
