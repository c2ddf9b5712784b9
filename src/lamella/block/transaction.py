"""Transactions on a thin pool's metadata device: begun from what is committed, committed by one write, or given up.

Everything but the superblock is written to blocks that the committed state does not use, and is on the device before the
superblock is written, which is one sector's worth. So whatever is interrupted, one of the two states is there.
"""

from __future__ import annotations

import errno
import os
from typing import Any

import numpy as np

from lamella._kernels import thinpool, thintree
from lamella.block.space import MOST_BLOCKS, Space
from lamella.errors import MetadataError

__all__ = ["NEEDS_CHECK", "SECTOR", "MetadataDevice", "Transaction"]

SECTOR = 512
MAGIC, VERSION, BLOCK = 27022010, 2, 4096
NEEDS_CHECK = 1
MOST_TIME = 1 << 24
_MAP = ("nr_blocks", "nr_allocated", "bitmap_root", "ref_count_root")
_U8 = [(f"{kind}_{name}", "<u8", at + 8 * k) for kind, at in (("data", 64), ("meta", 192)) for k, name in enumerate(_MAP)]
_FIELDS = [
    ("csum", "<u4", 0), ("flags", "<u4", 4), ("blocknr", "<u8", 8), ("magic", "<u8", 32), ("version", "<u4", 40),
    ("time", "<u4", 44), ("trans_id", "<u8", 48), ("held_root", "<u8", 56), *_U8, ("mapping", "<u8", 320),
    ("details", "<u8", 328), ("sectors", "<u4", 336), ("metadata_sectors", "<u4", 340), ("metadata_blocks", "<u8", 344),
    ("compat", "<u4", 352), ("compat_ro", "<u4", 356), ("incompat", "<u4", 360),
]  # fmt: skip
_NAMES, _FORMATS, _OFFSETS = (list(items) for items in zip(*_FIELDS, strict=True))
SUPERBLOCK = np.dtype({"names": _NAMES, "formats": _FORMATS, "offsets": _OFFSETS, "itemsize": BLOCK})


class MetadataDevice:
    """The device that metadata is written to: every write of a pool's metadata passes here."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of ``data`` at a byte offset."""
        while data:
            n = os.pwrite(self.fd, data, offset)
            data, offset = data[n:], offset + n

    def sync(self) -> None:
        """Return when everything written so far would survive a loss of power."""
        os.fdatasync(self.fd)


def size_of(fd: int) -> int:
    """Return the bytes of a regular file or a block device."""
    return os.lseek(fd, 0, os.SEEK_END)


def metadata_blocks(fd: int) -> int:
    """Return the blocks of a metadata device that can be used."""
    return min(size_of(fd) // BLOCK, MOST_BLOCKS)


class Transaction:
    """The state of a pool between two commits. ``superblock`` is the committed one; ``space`` what has become of it."""

    def __init__(self, device: MetadataDevice, superblock: Any) -> None:
        self.device = device
        self.superblock = superblock
        self.space = self._space()

    @classmethod
    def format(cls, device: MetadataDevice, sectors: int, data_blocks: int) -> Transaction:
        """Write an empty pool's metadata; the device is to hold zeros where the superblock is."""
        nblocks = metadata_blocks(device.fd)
        superblock = np.zeros(1, SUPERBLOCK)
        for name, value in (("magic", MAGIC), ("version", VERSION), ("sectors", sectors), ("metadata_sectors", 8)):
            superblock[name] = value
        self = cls.__new__(cls)
        self.device, self.superblock = device, superblock
        self.space = Space(device.fd, nblocks, data_blocks)
        self.space.begin()
        thintree.begin(self.space.parts, thintree.MAPPING)
        thintree.begin(self.space.parts, thintree.DETAILS)
        self.commit()
        return self

    @classmethod
    def open(cls, device: MetadataDevice) -> Transaction:
        """Begin from what is committed. MetadataError for what is damaged; OSError for a format that is not known."""
        raw = os.pread(device.fd, BLOCK, 0)
        if not thinpool.is_superblock(raw):
            empty = len(raw) == BLOCK and not any(raw)
            raise MetadataError("metadata block 0: " + ("no pool is here" if empty else "checksum is wrong"), block=0)
        superblock = np.frombuffer(bytearray(raw), SUPERBLOCK)
        if superblock["magic"] != MAGIC or superblock["version"] != VERSION:
            raise MetadataError("metadata block 0: not version 2 of dm-thin metadata", block=0)
        if superblock["incompat"] or superblock["compat_ro"]:
            raise OSError(errno.EINVAL, "metadata has features that are not known here")
        if not 0 < superblock["meta_nr_blocks"] <= metadata_blocks(device.fd):
            raise MetadataError("metadata block 0: the device is smaller than its metadata", block=0)
        return cls(device, superblock)

    def _space(self) -> Space:
        found = self.superblock
        space = Space(self.device.fd, int(found["meta_nr_blocks"][0]), int(found["data_nr_blocks"][0]))
        books = {
            "time": "time", "held_root": "held_root", "index": "meta_bitmap_root", "counts": "meta_ref_count_root",
            "data_used": "data_nr_allocated", "data_index": "data_bitmap_root", "data_counts": "data_ref_count_root",
            "mapping": "mapping", "details": "details",
        }  # fmt: skip
        for name, field in books.items():
            space[name] = int(found[field][0])
        space.load()
        return space

    def commit(self) -> None:
        """Make what was done since the last commit the committed state. On an error the old one is; see ``give_up``."""
        space = self.space
        space.save()
        for first, data in space.runs():
            self.device.write(first * BLOCK, data)
        self.device.sync()
        self.superblock = self._sealed()
        self.device.write(0, memoryview(self.superblock.view(np.uint8)))
        self.device.sync()
        space.settle()

    def _sealed(self, **fields: int) -> Any:
        space, new = self.space, self.superblock.copy()
        books = {
            "time": "time", "held_root": "held_root", "mapping": "mapping", "details": "details",
            "data_nr_blocks": "data_blocks", "data_nr_allocated": "data_used", "data_bitmap_root": "data_index",
            "data_ref_count_root": "data_counts", "meta_bitmap_root": "index", "meta_ref_count_root": "counts",
        }  # fmt: skip
        for field, name in books.items():
            new[field] = space[name]
        new["meta_nr_blocks"] = new["metadata_blocks"] = space.nblocks
        new["meta_nr_allocated"] = np.count_nonzero(space.counts)
        for field, value in fields.items():
            new[field] = value
        thinpool.seal_superblock(new.view(np.uint8))
        return new

    def give_up(self) -> None:
        """Drop everything since the last commit."""
        self.space = self._space()

    def copy_of_superblock(self) -> Any:
        """Return the committed superblock as a metadata snapshot keeps it: without the roots of the space maps."""
        new = self.superblock.copy()
        raw = new.view(np.uint8)
        raw[64:320] = 0
        return raw

    def mark(self) -> None:
        """Note on the device that it needs a check; the committed state is the same otherwise."""
        self.superblock["flags"] |= NEEDS_CHECK
        thinpool.seal_superblock(self.superblock.view(np.uint8))
        self.device.write(0, memoryview(self.superblock.view(np.uint8)))
        self.device.sync()
