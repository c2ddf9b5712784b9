"""The data device of a thin pool: runs of blocks read, written, copied, given back."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lamella._kernels import thinpool
from lamella.block.devices import device_nbytes, write_all

__all__ = ["DataFile", "Run", "runs_of"]

Column = NDArray[np.int64]
Run = tuple[int, int, int]
_CHUNK = 1 << 20
_CANNOT = {errno.EINVAL, errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS}  # copying inside the kernel, or giving back


def runs_of(data: Column) -> Iterator[Run]:
    """Yield runs of a column of data blocks as (place in the column, data block, length); runs of none have -1."""
    if not len(data):
        return
    none = data < 0
    goes_on = np.where(none[1:], none[:-1], ~none[:-1] & (np.diff(data) == 1))
    cuts = np.flatnonzero(~goes_on) + 1
    begins = [0, *cuts.tolist()]
    for begin, end in zip(begins, [*begins[1:], len(data)], strict=True):
        yield begin, int(data[begin]), end - begin


class DataFile:
    """A file or block device of blocks of ``nbytes``."""

    def __init__(self, fd: int, nbytes: int) -> None:
        self.fd = fd
        self.nbytes = nbytes
        self.dirty = False

    @property
    def nblocks(self) -> int:
        """Whole blocks that there are."""
        return device_nbytes(self.fd) // self.nbytes

    def pread(self, nbytes: int, offset: int) -> bytes:
        """Return ``nbytes`` bytes."""
        found = os.pread(self.fd, nbytes, offset)
        while len(found) < nbytes:
            more = os.pread(self.fd, nbytes - len(found), offset + len(found))
            if not more:
                raise OSError(errno.EIO, f"the data device ends at byte {offset + len(found)}")
            found += more
        return found

    def write(self, data: memoryview, offset: int) -> None:
        """Write all of ``data``."""
        self.dirty = True
        write_all(self.fd, data, offset)

    def copy(self, source: int, target: int, nbytes: int) -> None:
        """Copy bytes from one offset to another."""
        self.dirty = True
        while nbytes:
            try:
                n = os.copy_file_range(self.fd, self.fd, nbytes, source, target)
            except OSError as error:
                if error.errno not in _CANNOT:
                    raise
                n = 0
            if n == 0:
                n = min(nbytes, _CHUNK)
                self.write(memoryview(self.pread(n, source)), target)
            source, target, nbytes = source + n, target + n, nbytes - n

    def zero(self, offset: int, nbytes: int) -> None:
        """Write zeros."""
        zeros = memoryview(bytes(min(nbytes, _CHUNK)))
        for at in range(offset, offset + nbytes, _CHUNK):
            self.write(zeros[: offset + nbytes - at], at)

    def give_back(self, blocks: Column) -> None:
        """Tell the device that it need not keep these blocks, where it can be told."""
        try:
            thinpool.punch(self.fd, np.sort(blocks), self.nbytes)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise

    def sync(self) -> None:
        """Return when everything written so far would survive a loss of power."""
        if self.dirty:
            os.fdatasync(self.fd)
            self.dirty = False
