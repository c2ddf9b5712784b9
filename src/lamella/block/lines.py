"""Runs as lines of text, by the kernel that writes them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lamella._kernels import thinxml

__all__ = ["HUMAN", "PAIR", "RANGE", "XML", "Lines"]

XML, HUMAN, RANGE, PAIR = thinxml.XML, thinxml.HUMAN, thinxml.RANGE, thinxml.PAIR
_ROOM = 1 << 18
Column = NDArray[np.int64]


class Lines:
    """A buffer that lines are written to again and again."""

    def __init__(self) -> None:
        self._room = np.empty(_ROOM, np.uint8)

    def of(self, form: int, thin: Column, data: Column, length: Column, more: Column) -> Iterator[memoryview]:
        """Yield the lines of runs in pieces, each to be used before the next one is asked for.

        ``form``: XML or HUMAN, a dump's, with ``more`` their times; RANGE or PAIR, a delta's, with the right side's data.
        """
        row = 0
        while row < len(thin):
            row, used = thinxml.render(thin, data, length, more, row, form, self._room)
            yield memoryview(self._room)[:used]
