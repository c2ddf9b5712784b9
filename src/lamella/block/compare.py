"""Which blocks of two images differ, byte by byte: of buffers, of files and of raw devices."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lamella._kernels import blocks
from lamella.block.devices import device_nbytes
from lamella.errors import TruncatedError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Runs", "differing", "differing_files", "zero"]

Column = NDArray[np.int64]
_Kernel = Callable[[int, Column, Column], tuple[int, int, int]]
_Found = tuple[Column, Column]

_DONE = 0
_ROOM = 4096  # runs that a call of the kernel can tell
_WINDOW_NBYTES = 1 << 20  # two of them stay in the cache between the read and the comparison
_HUGE_PAGE = 2 << 20


class Runs(NamedTuple):
    """Runs of blocks, which ascend and do not touch: ``begin`` and ``length`` are in blocks."""

    begin: Column
    length: Column

    @property
    def nblocks(self) -> int:
        """Blocks in all runs."""
        return int(self.length.sum())


def differing(a: Buffer, b: Buffer, block_size: int) -> Runs:
    """Return the blocks in which two buffers differ; what only the longer one has differs. The last block may be short."""
    left, right = (np.frombuffer(each, np.uint8) for each in (a, b))
    common, tail = _shares(len(left), len(right), block_size)
    return _joined([*_compared(left[:common], right[:common], block_size, 0), tail])


def differing_files(a: int, b: int, block_size: int) -> Runs:
    """Return the blocks in which two open files, or block devices, differ; what only the longer one has differs.

    Blocks where both have a hole are not read. TruncatedError if one becomes shorter meanwhile. The descriptors' offsets
    are moved.
    """
    common, tail = _shares(device_nbytes(a), device_nbytes(b), block_size)
    return _joined([*_compared_files(a, b, common, block_size), tail])


def zero(a: Buffer, block_size: int) -> Runs:
    """Return the blocks of a buffer that hold nothing but zeros. The last one may be short."""
    flat = np.frombuffer(a, np.uint8)
    return _joined([*_told(lambda first, *room: blocks.zeros(flat, block_size, True, first, *room), 0)])


def _told(kernel: _Kernel, base: int) -> Iterator[_Found]:
    status, first = -1, 0
    while status != _DONE:
        begins, lengths = np.empty(_ROOM, np.int64), np.empty(_ROOM, np.int64)
        status, first, n = kernel(first, begins, lengths)
        yield begins[:n] + base, lengths[:n]


def _compared(left: NDArray[np.uint8], right: NDArray[np.uint8], block_size: int, base: int) -> Iterator[_Found]:
    """Yield what differs between buffers whose first block has the number ``base``."""
    return _told(lambda first, *room: blocks.compare(left, right, block_size, first, *room), base)


def _compared_files(a: int, b: int, common: int, block_size: int) -> Iterator[_Found]:
    # read, not mapped: a file that is cut while it is mapped ends the process
    rooms = _rooms(max(_WINDOW_NBYTES // block_size, 1) * block_size)
    at = 0
    while (at := min(_next_data(fd, at, common) for fd in (a, b))) < common:
        at = at // block_size * block_size
        left, right = (_read(fd, room[: common - at], at) for fd, room in zip((a, b), rooms, strict=True))
        yield from _compared(left, right, block_size, at // block_size)
        at = min(at + len(left), common)


def _rooms(nbytes: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return two buffers, on a huge page if there are any: with small ones the kernel copies at a third of the speed."""
    memory = mmap.mmap(-1, 2 * nbytes + _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel that was built without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    flat = np.frombuffer(memory, np.uint8)
    begin = -flat.ctypes.data % _HUGE_PAGE
    return flat[begin : begin + nbytes], flat[begin + nbytes : begin + 2 * nbytes]


def _shares(a: int, b: int, block_size: int) -> tuple[int, _Found]:
    """Return how many bytes of two are to be compared, and the run of blocks that differ by their lengths alone."""
    if block_size < 1:
        raise ValueError(f"a block has at least one byte, not {block_size}")
    common = a if a == b else min(a, b) // block_size * block_size
    nblocks = -(-(max(a, b) - common) // block_size)
    return common, (np.array([common // block_size][:nblocks], np.int64), np.array([nblocks][:nblocks], np.int64))


def _joined(found: list[_Found]) -> Runs:
    """Make one table of several, where a run may go on in the next one."""
    begin, length = (np.concatenate(column) for column in zip(*found, strict=True))
    end = begin + length
    opens = np.flatnonzero(np.concatenate(([True], begin[1:] != end[:-1]))[: len(begin)])
    closes = np.append(opens[1:], len(begin))[: len(opens)] - 1
    return Runs(begin[opens], end[closes] - begin[opens])


def _next_data(fd: int, at: int, end: int) -> int:
    """Return where the first data at or behind ``at`` are, ``end`` where there are none before it."""
    if at >= end:
        return end
    try:
        return min(os.lseek(fd, at, os.SEEK_DATA), end)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return end
        if error.errno == errno.EINVAL:  # a block device has no holes to tell of
            return at
        raise


def _read(fd: int, room: NDArray[np.uint8], at: int) -> NDArray[np.uint8]:
    """Fill ``room`` from offset ``at``."""
    done = 0
    while done < len(room):
        n = os.preadv(fd, [room[done:]], at + done)
        if n == 0:
            raise TruncatedError(f"the file ends at byte {at + done}, it was longer")
        done += n
    return room
