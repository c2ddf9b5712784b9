"""The flag by which the kernel asks for a check before it writes again."""

from __future__ import annotations

import dataclasses
import os

from lamella.block.devices import open_device, write_all
from lamella.block.memory import Memory
from lamella.block.metadata import load_superblock, sealed
from lamella.block.superblock import NEEDS_CHECK

__all__ = ["clear_needs_check"]


def clear_needs_check(path: str | os.PathLike[str]) -> bool:
    """Clear the flag in the superblock, on disk when this returns; False where it is not set. A device in use is refused."""
    fd = open_device(path, write=True)
    try:
        found = load_superblock(Memory(1), fd)
        if not found.needs_check:
            return False
        write_all(fd, sealed(dataclasses.replace(found, flags=found.flags & ~NEEDS_CHECK)), 0)
        os.fsync(fd)
    finally:
        os.close(fd)
    return True
