"""What a pool can be asked of: its modes, its block sizes, its devices."""

from __future__ import annotations

import contextlib
import enum
import fcntl
import os
import stat
from collections.abc import Iterator
from errno import EBUSY, EINVAL
from typing import NamedTuple

from lamella.block.devices import open_device

__all__ = ["PoolMode", "PoolUsage", "check_block_size", "exclusively"]

STEP, MOST = 1 << 16, 1 << 30


class PoolMode(enum.Enum):
    """What a pool does; values are those of ``dmsetup status``.

    WRITE, everything. OUT_OF_DATA_SPACE, everything but giving blocks data blocks. READ_ONLY: reading, and writing to what
    needs no new block. FAIL: nothing, its metadata cannot be read.
    """

    WRITE = "rw"
    OUT_OF_DATA_SPACE = "out_of_data_space"
    READ_ONLY = "ro"
    FAIL = "Fail"


class PoolUsage(NamedTuple):
    """Blocks used and there; ``metadata_snap`` is the block of the metadata snapshot, 0 without one."""

    data_used: int
    data_blocks: int
    block_size: int
    metadata_used: int
    metadata_blocks: int
    transaction_id: int
    metadata_snap: int


def check_block_size(nbytes: int) -> None:
    """Raise EINVAL unless it is a size that data blocks can have."""
    if nbytes % STEP or not STEP <= nbytes <= MOST:
        raise OSError(EINVAL, f"data blocks are 64 KiB to 1 GiB in steps of 64 KiB, not {nbytes} bytes")


@contextlib.contextmanager
def exclusively(*paths: str | os.PathLike[str]) -> Iterator[list[int]]:
    """Open files or block devices for this process alone (EBUSY); closed again only where the body fails."""
    fds: list[int] = []
    try:
        for path in paths:
            fds.append(_open(path))
            try:
                fcntl.flock(fds[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OSError(EBUSY, "in use by another pool", os.fspath(path)) from None
        yield fds
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise


def _open(path: str | os.PathLike[str]) -> int:
    kind = os.stat(path).st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISBLK(kind)):
        raise OSError(EINVAL, "neither a regular file nor a block device", os.fspath(path))
    return open_device(path, write=True)
