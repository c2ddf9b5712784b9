"""Mappings as runs: which blocks of a thin device lie where in the pool, and what differs between two devices."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lamella._kernels import extents as kernel

__all__ = ["Delta", "DeltaKind", "DeltaTable", "Extent", "ExtentTable"]

Column = NDArray[np.int64]
_ROWS = 1 << 12  # room for output at first


class Extent(NamedTuple):
    """A run of ``length`` blocks: thin ``thin_begin + i`` lies at data ``data_begin + i``, since snapshot clock ``time``."""

    thin_begin: int
    data_begin: int
    length: int
    time: int


class DeltaKind(enum.IntEnum):
    """What two devices have at the same blocks. DIFFERENT is mapped to two places, which may hold equal bytes."""

    LEFT_ONLY = 0
    RIGHT_ONLY = 1
    DIFFERENT = 2
    SAME = 3


class Delta(NamedTuple):
    """A run of ``length`` blocks of one kind; ``left_begin`` and ``right_begin`` are data blocks, -1 where unmapped.

    In a run that was joined over data that does not lie together they are those of its first block.
    """

    kind: DeltaKind
    begin: int
    length: int
    left_begin: int
    right_begin: int


def _column(values: ArrayLike) -> Column:
    column = np.ascontiguousarray(values, np.int64).view()
    column.flags.writeable = False
    return column


def _columns(*given: ArrayLike) -> tuple[Column, ...]:
    columns = tuple(_column(values) for values in given)
    if any(column.shape != (len(columns[0]),) for column in columns):
        raise ValueError("columns of one table are flat and of one length")
    return columns


def _swept(call: Callable[[list[Column], Column], tuple[int, bool]], n_columns: int) -> list[Column]:
    """Call a kernel that goes on from a state until it has written all rows, and return its columns."""
    state = np.zeros(kernel.SWEEP_WORDS, np.int64)
    parts: list[list[Column]] = []
    rows, done = _ROWS, False
    while not done:
        out = [np.empty(rows, np.int64) for _ in range(n_columns)]
        n, done = call(out, state)
        parts.append([column[:n] for column in out])
        rows = min(4 * rows, 1 << 18)
    return [np.concatenate(columns) for columns in zip(*parts, strict=True)]


class ExtentTable:
    """Mappings of a thin device as extents: read-only int64 columns ``thin_begin data_begin length time``, a row a run.

    Rows ascend and do not overlap; lengths are at least 1; all is counted in blocks of the pool. Nothing here changes a
    table: what is laid over, or taken out, gives a new one.
    """

    __slots__ = ("data_begin", "length", "thin_begin", "time")

    def __init__(self, thin_begin: ArrayLike, data_begin: ArrayLike, length: ArrayLike, time: ArrayLike) -> None:
        self.thin_begin, self.data_begin, self.length, self.time = _columns(thin_begin, data_begin, length, time)

    @property
    def columns(self) -> tuple[Column, Column, Column, Column]:
        """The four columns, in the order that kernels take them."""
        return self.thin_begin, self.data_begin, self.length, self.time

    @property
    def nblocks(self) -> int:
        """Mapped blocks."""
        return int(self.length.sum())

    def lookup(self, blocks: ArrayLike) -> tuple[Column, Column]:
        """Return data block and time of each thin block, -1 and -1 where it is not mapped.

        Any order will do; blocks that ascend are found several times faster.
        """
        wanted = _column(blocks)
        data, time = np.empty(wanted.shape, np.int64), np.empty(wanted.shape, np.int64)
        kernel.lookup(*self.columns, wanted, data, time)
        return data, time

    def coalesced(self) -> ExtentTable:
        """Return the same mappings in the fewest extents."""
        return self.over(_NOTHING)

    def over(self, below: ExtentTable) -> ExtentTable:
        """Return this map laid over another: where both map a block, it is as here. The fewest extents."""
        return ExtentTable(*_swept(lambda out, state: kernel.splice(*below.columns, *self.columns, state, *out), 4))

    def without(self, begin: ArrayLike, length: ArrayLike) -> ExtentTable:
        """Return the map with ranges of thin blocks taken out, which ascend and do not overlap. The fewest extents."""
        ranges = _columns(begin, length)

        def punch(out: list[Column], state: Column) -> tuple[int, bool]:
            return kernel.splice(*self.columns, ranges[0], None, ranges[1], None, state, *out)

        return ExtentTable(*_swept(punch, 4))

    def delta(self, right: ExtentTable, *, joined: bool = False, same: bool = False) -> DeltaTable:
        """Return what differs between this map (left) and another. Data blocks are compared, never times.

        ``joined``: a run goes on while its kind does, as ``thin_delta`` prints it; without it a run also ends where its data
        on a side does not go on, as ``thin_delta --verbose`` prints it. ``same``: with runs of what both map alike.
        """
        sides = (*self.columns[:3], *right.columns[:3])
        return DeltaTable(*_swept(lambda out, state: kernel.classify(*sides, joined, same, state, *out), 5))

    def __len__(self) -> int:
        return len(self.thin_begin)

    def __iter__(self) -> Iterator[Extent]:
        return map(Extent._make, zip(*(column.tolist() for column in self.columns), strict=True))

    def __repr__(self) -> str:
        return f"<ExtentTable of {len(self)} extents, {self.nblocks} blocks>"


_NOTHING = ExtentTable((), (), (), ())


class DeltaTable:
    """What differs between two thin devices: read-only int64 columns ``kind begin length left_begin right_begin``.

    Rows ascend by ``begin`` and do not overlap. Blocks that neither side maps are in no row.
    """

    __slots__ = ("begin", "kind", "left_begin", "length", "right_begin")

    def __init__(
        self, kind: ArrayLike, begin: ArrayLike, length: ArrayLike, left_begin: ArrayLike, right_begin: ArrayLike
    ) -> None:
        columns = _columns(kind, begin, length, left_begin, right_begin)
        self.kind, self.begin, self.length, self.left_begin, self.right_begin = columns

    @property
    def columns(self) -> tuple[Column, Column, Column, Column, Column]:
        """The five columns, in the order that kernels take them."""
        return self.kind, self.begin, self.length, self.left_begin, self.right_begin

    @property
    def nblocks(self) -> int:
        """Blocks of all rows."""
        return int(self.length.sum())

    def __len__(self) -> int:
        return len(self.kind)

    def __iter__(self) -> Iterator[Delta]:
        for kind, *rest in zip(*(column.tolist() for column in self.columns), strict=True):
            yield Delta(DeltaKind(kind), *rest)

    def __repr__(self) -> str:
        return f"<DeltaTable of {len(self)} runs, {self.nblocks} blocks>"
