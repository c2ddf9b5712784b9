"""The superblock of a thin pool: the one block that is written in place, and so the pool's commit."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from lamella.errors import MetadataError

__all__ = ["NEEDS_CHECK", "SpaceMapRoot", "Superblock", "is_unformatted"]

NEEDS_CHECK = 1  # flags: the kernel could not write; it wants a check before it writes again
MAGIC = 27022010
VERSIONS = range(1, 3)
_LAYOUT = struct.Struct("<IIQ16sQIIQQ128s128sQQIIQIII")  # 364 bytes: less than a sector, so it is written whole or not at all
_ROOT = struct.Struct("<QQQQ")


@dataclass(frozen=True, slots=True)
class SpaceMapRoot:
    """Where a space map lies: how many blocks it counts, how many of them are in use, and its two trees."""

    nblocks: int
    nallocated: int
    bitmap_root: int  # data: a tree of index entries; metadata: the one block of them
    count_root: int  # a tree: block to count, for counts above two


@dataclass(frozen=True, slots=True)
class Superblock:
    """The fields of a superblock. ``data_block_size`` is in sectors of 512 bytes, ``held_root`` the metadata snapshot or 0."""

    flags: int
    uuid: bytes
    version: int
    time: int
    transaction_id: int
    held_root: int
    data_sm: SpaceMapRoot
    metadata_sm: SpaceMapRoot
    data_root: int
    details_root: int
    data_block_size: int
    metadata_block_size: int
    metadata_nblocks: int
    compat_flags: int
    compat_ro_flags: int
    incompat_flags: int

    @property
    def needs_check(self) -> bool:
        """Whether the kernel wants a check first."""
        return bool(self.flags & NEEDS_CHECK)

    @classmethod
    def unpack(cls, block: bytes, number: int = 0) -> Superblock:
        """Read a block whose checksum is right; ``MetadataError`` where it is not a pool's, or one of a kind not known here."""
        (_, flags, _, uuid, magic, version, time, transaction, held, data, metadata, *rest) = _LAYOUT.unpack_from(block)
        found = cls(
            flags, uuid, version, time, transaction, held,
            SpaceMapRoot(*_ROOT.unpack_from(data)), SpaceMapRoot(*_ROOT.unpack_from(metadata)), *rest,
        )  # fmt: skip
        where = f"metadata block {number}"
        if magic != MAGIC:
            raise MetadataError(f"{where}: magic number {magic} is not a thin pool's", block=number)
        if version not in VERSIONS:
            raise MetadataError(f"{where}: version {version} of the format is not known", block=number)
        if found.incompat_flags:
            raise MetadataError(f"{where}: features are not known: {found.incompat_flags:#x}", block=number)
        return found

    def pack(self) -> bytes:
        """Return the block, without number and checksum."""
        data, metadata = (
            _ROOT.pack(sm.nblocks, sm.nallocated, sm.bitmap_root, sm.count_root) for sm in (self.data_sm, self.metadata_sm)
        )
        return _LAYOUT.pack(
            0, self.flags, 0, self.uuid, MAGIC, self.version, self.time, self.transaction_id, self.held_root, data, metadata,
            self.data_root, self.details_root, self.data_block_size, self.metadata_block_size, self.metadata_nblocks,
            self.compat_flags, self.compat_ro_flags, self.incompat_flags,
        ).ljust(4096, b"\0")  # fmt: skip


def is_unformatted(block: bytes) -> bool:
    """Tell whether block 0 is all zero: what device mapper takes for a device to make a new pool on."""
    return not any(block)
