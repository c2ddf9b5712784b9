"""Mappings as runs: which blocks of a thin device lie where in the pool, and what differs between two devices."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Delta", "DeltaKind", "DeltaTable", "Extent", "ExtentTable"]

Column = NDArray[np.int64]


class Extent(NamedTuple):
    """A run of ``length`` blocks: thin ``thin_begin + i`` lies at data ``data_begin + i``, mapped at snapshot clock ``time``."""

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

    In a run that was joined over data that does not lie together (``DeltaTable.coalesced``) they are those of its first block.
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


class ExtentTable:
    """Mappings of a thin device as extents: read-only int64 columns ``thin_begin data_begin length time``, a row a run.

    Rows ascend and do not overlap; lengths are at least 1; all is counted in blocks of the pool.
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

    def __len__(self) -> int:
        return len(self.thin_begin)

    def __iter__(self) -> Iterator[Extent]:
        return map(Extent._make, zip(*(column.tolist() for column in self.columns), strict=True))

    def __repr__(self) -> str:
        return f"<ExtentTable of {len(self)} extents, {self.nblocks} blocks>"


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
