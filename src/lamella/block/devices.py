"""Files and block devices that metadata and data lie on: opened, measured, written."""

from __future__ import annotations

import mmap
import os
import stat
from errno import ENOTBLK

__all__ = ["address_space", "device_nbytes", "open_device", "write_all"]

_MAP_NORESERVE = 0x4000  # address space is no promise of memory


def open_device(path: str | os.PathLike[str], *, write: bool, exclusive: bool = True) -> int:
    """Open a file or a block device; one that is in use is refused (EBUSY), unless that is not asked for.

    The flag that asks for a device alone means something else for a file.
    """
    alone = exclusive and stat.S_ISBLK(os.stat(path).st_mode)
    return os.open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC | (os.O_EXCL if alone else 0))


def device_nbytes(fd: int) -> int:
    """Return the size of a file or a block device; ENOTBLK for what is neither."""
    kind = os.fstat(fd).st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISBLK(kind)):
        raise OSError(ENOTBLK, "neither a regular file nor a block device")
    return os.lseek(fd, 0, os.SEEK_END)  # of a device, fstat tells nothing


def write_all(fd: int, data: memoryview, offset: int) -> None:
    """Write all of ``data`` at a byte offset."""
    while data:
        n = os.pwrite(fd, data, offset)
        data, offset = data[n:], offset + n


def address_space(nbytes: int) -> mmap.mmap:
    """Return ``nbytes`` zeros, at least 1, that take memory where they are written only."""
    return mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
