"""The flag by which the kernel asks for a check before it writes again."""

from __future__ import annotations

import dataclasses
import os
import stat

from lamella._kernels import thinmeta
from lamella.block.memory import Memory
from lamella.block.metadata import load_superblock
from lamella.block.superblock import NEEDS_CHECK

__all__ = ["clear_needs_check"]


def clear_needs_check(path: str | os.PathLike[str]) -> bool:
    """Clear the flag in the superblock, on disk when this returns; False where it is not set. A device in use is refused."""
    is_device = stat.S_ISBLK(os.stat(path).st_mode)
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_EXCL if is_device else 0))
    try:
        found = load_superblock(Memory(1), fd)
        if not found.needs_check:
            return False
        block = bytearray(dataclasses.replace(found, flags=found.flags & ~NEEDS_CHECK).pack())
        thinmeta.seal(block, 0, thinmeta.SALT_SUPERBLOCK)
        os.pwrite(fd, block, 0)
        os.fsync(fd)
    finally:
        os.close(fd)
    return True
