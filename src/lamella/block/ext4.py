"""An ext4 file system read from its device, or from a file: its geometry, as kernels want it. ext2 and ext3 are ext4 too.

What is not understood is refused by name before anything else is read: :class:`UnsupportedFilesystem` has the reason, for
who then mounts it and walks. So is a journal that is still to be replayed, since the bytes on disk are not yet the file
system's (:class:`UnrecoveredJournal`). A file system that was frozen has nothing in its journal.
"""

from __future__ import annotations

import hashlib
import os
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamella._kernels import ext4 as kernel
from lamella.errors import FilesystemError, UnrecoveredJournal, UnsupportedFilesystem

__all__ = ["ROOT", "Ext4Image", "has_journal_to_replay", "is_ext4"]

ROOT = 2
_AT, _NBYTES = 1024, 1024  # of the superblock
_MAGIC = 0xEF53
_RECOVER, _META_BG, _WIDE, _FILETYPE, _EA_INODE, _LARGEDIR = 0x4, 0x10, 0x80, 0x2, 0x400, 0x4000
_KNOWN = 0x2 | _RECOVER | _META_BG | 0x40 | _WIDE | 0x100 | 0x200 | _EA_INODE | 0x2000 | _LARGEDIR | 0x8000
_REFUSED = {
    0x1: "compressed files", 0x8: "a journal alone, on a device of its own", 0x1000: "data in directory entries",
    0x10000: "encrypted files", 0x20000: "directories that fold case",
}  # fmt: skip
_SPARSE, _SHARED, _CSUMS, _BIGALLOC = 0x1, 0x4000, 0x10 | 0x400, 0x200  # features that matter to writers, mostly
_SPARSE2 = 0x200  # a compatible one
_UNINIT = 0x1
_LARGEST_INODE = 4096
_MOST_NBYTES = 1 << 60  # of a file system
_PIECE = 1 << 20
_BITS = {_FILETYPE: 1, _LARGEDIR: 2, _EA_INODE: 4}  # as kernels have them


class _Super:
    """The superblock, field by field."""

    def __init__(self, raw: bytes) -> None:
        def u16(at: int) -> int:
            return int(struct.unpack_from("<H", raw, at)[0])

        def u32(at: int) -> int:
            return int(struct.unpack_from("<I", raw, at)[0])

        self.raw = raw
        self.magic, self.log_block, self.log_cluster = u16(0x38), u32(0x18), u32(0x1C)
        self.n_inodes, self.first_data, self.per_group, self.inodes_per_group = u32(0), u32(0x14), u32(0x20), u32(0x28)
        self.compat, self.incompat, self.ro_compat = u32(0x5C), u32(0x60), u32(0x64)
        modern = u32(0x4C) > 0
        self.first_inode, self.inode_size = (u32(0x54), u16(0x58)) if modern else (11, 128)
        wide = bool(self.incompat & _WIDE)
        self.n_blocks = u32(4) | (u32(0x150) << 32 if wide else 0)
        self.desc_size = u16(0xFE) if wide else 32
        self.first_meta_bg = u32(0x104) if self.incompat & _META_BG else None
        self.backups = (u32(0x24C), u32(0x250))
        self.uuid = raw[0x68:0x78]

    @property
    def block(self) -> int:
        """Bytes of a block."""
        return 1024 << self.log_block


def _super(fd: int, base: int) -> _Super | None:
    raw = os.pread(fd, _NBYTES, base + _AT)
    found = _Super(raw) if len(raw) == _NBYTES else None
    return found if found is not None and found.magic == _MAGIC else None


def is_ext4(fd: int, base: int = 0) -> bool:
    """Tell whether an ext2, ext3 or ext4 begins at byte ``base`` of ``fd``, if only by its mark."""
    return _super(fd, base) is not None


def has_journal_to_replay(fd: int, base: int = 0) -> bool:
    """Tell whether the file system was neither unmounted nor frozen: a read-write mount of a copy would make it whole."""
    found = _super(fd, base)
    return found is not None and bool(found.incompat & _RECOVER)


def _checked(found: _Super | None) -> _Super:
    """Refuse what cannot be read as it lies there."""
    if found is None:
        raise UnsupportedFilesystem("not an ext4 file system")
    if found.incompat & _RECOVER:
        raise UnrecoveredJournal("the journal is still to be replayed: it was neither unmounted nor frozen")
    reasons = [f"it has {text}" for bit, text in _REFUSED.items() if found.incompat & bit]
    if unknown := found.incompat & ~_KNOWN & ~sum(_REFUSED):
        reasons.append(f"it has features that are not known ({unknown:#x})")
    if found.ro_compat & _SHARED:
        reasons.append("it has blocks that files share")
    if found.log_block <= 6 and _LARGEST_INODE < found.inode_size <= found.block:
        reasons.append(f"it has inodes of {found.inode_size} bytes")
    if reasons:
        raise UnsupportedFilesystem("; ".join(reasons))
    if found.log_block > 6 or not found.per_group or not found.inodes_per_group or found.n_blocks <= found.first_data:
        raise FilesystemError("a malformed superblock", block=0)
    if found.n_blocks > _MOST_NBYTES // found.block or not found.log_block <= found.log_cluster <= 20 + found.log_block:
        raise FilesystemError("a malformed superblock: larger than can be", block=0)
    if found.desc_size not in (32, 64, 128, 256, 512, 1024):
        raise FilesystemError(f"a malformed superblock: descriptors of {found.desc_size} bytes", block=0)
    return found


class Ext4Image:
    """The file system at byte ``base`` of ``fd``, which is the caller's to close and must not be written meanwhile.

    Of a device that is mounted itself the kernel may show content as it was: look at a snapshot of it. One thread at a time.
    ``shape``, ``tables`` and ``used`` are what kernels want (_kernels/ext4.pxd). ``identity`` stands for this state of it: it
    is another one after any mount that may write. UnsupportedFilesystem, UnrecoveredJournal, FilesystemError, OSError.
    """

    def __init__(self, fd: int, *, base: int = 0) -> None:
        found = _checked(_super(fd, base))
        self.fd, self.base = fd, base
        self.block_size, self.inode_size, self.first_inode = found.block, found.inode_size, found.first_inode
        self.uuid, self.identity = found.uuid, hashlib.sha256(found.raw).digest()
        self.tables, self.used = self._groups(found)
        bits = sum(bit for feature, bit in _BITS.items() if found.incompat & feature)
        cluster = found.block << (found.log_cluster - found.log_block if found.ro_compat & _BIGALLOC else 0)
        self.shape = np.array(
            [base, found.block, found.inode_size, found.inodes_per_group, found.n_inodes, found.n_blocks, bits, cluster >> 9],
            np.int64,
        )
        self.n_inodes, self.n_blocks = found.n_inodes, found.n_blocks
        try:
            self.scratch = np.empty(kernel.scratch_nbytes(self.shape), np.uint8)
            kernel.small(fd, self.shape, self.tables, self.used, ROOT, np.empty(0, np.uint8))
        except ValueError as error:
            if isinstance(error, FilesystemError):
                raise
            raise FilesystemError("a malformed superblock", block=0) from error

    @property
    def where(self) -> tuple[int, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """What every kernel is given first."""
        return self.fd, self.shape, self.tables, self.used

    def _groups(self, found: _Super) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return of each group where its inode table begins, and how many of its inodes may be in use."""
        n_groups = -(-(found.n_blocks - found.first_data) // found.per_group)
        if n_groups * found.inodes_per_group < found.n_inodes or n_groups > 1 << 24:
            raise FilesystemError("a malformed superblock: groups that are too few, or too many", block=0)
        raw = np.frombuffer(self._descriptors(found, n_groups), np.uint8)
        words = raw.reshape(n_groups, found.desc_size).view("<u4")
        tables = words[:, 2].astype(np.int64)
        unused = (words[:, 7] & 0xFFFF).astype(np.int64)
        if found.desc_size >= 64:
            tables |= words[:, 10].astype(np.int64) << 32
            unused |= (words[:, 12] >> 16).astype(np.int64) << 16
        used = np.full(n_groups, found.inodes_per_group, np.int64)
        if found.ro_compat & _CSUMS:  # otherwise nobody keeps count
            never = words[:, 4] >> 16 & _UNINIT != 0
            used = np.where(never, 0, np.maximum(used - unused, 0))
        return tables, used

    def _descriptors(self, found: _Super, n_groups: int) -> bytes:
        block, in_block = found.block, found.block // found.desc_size
        n = -(-n_groups // in_block)
        together = n if found.first_meta_bg is None else min(found.first_meta_bg, n)
        own = _AT // block  # the block of the superblock: the descriptors are behind it
        places = [(own + 1, together)] if together else []
        places += [(_meta_place(found, number * in_block), 1) for number in range(together, n)]
        raw = b"".join(_read(self.fd, count * block, self.base + at * block) for at, count in places)
        if len(raw) != n * block:
            raise FilesystemError("the file ends before the descriptors of its groups", block=own + 1)
        return raw[: n_groups * found.desc_size]


def _read(fd: int, nbytes: int, at: int) -> bytes:
    """Read by pieces: what a superblock says may be more than there is."""
    pieces = []
    while nbytes and (piece := os.pread(fd, min(nbytes, _PIECE), at)):
        pieces.append(piece)
        at, nbytes = at + len(piece), nbytes - len(piece)
    return b"".join(pieces)


def _meta_place(found: _Super, group: int) -> int:
    """Return the block of the descriptors of a group and those behind it, which lies in that group: behind a superblock."""
    behind = _has_super(found, group) or (found.block == 1024 and group == 0 and found.first_data == 0)
    return group * found.per_group + found.first_data + int(behind)


def _has_super(found: _Super, group: int) -> bool:
    if group == 0:
        return True
    if found.compat & _SPARSE2:
        return group in found.backups
    if group == 1 or not found.ro_compat & _SPARSE:
        return True
    return any(_is_power(group, of) for of in (3, 5, 7))


def _is_power(number: Any, of: int) -> bool:
    while number > 1 and number % of == 0:
        number //= of
    return bool(number == 1)
