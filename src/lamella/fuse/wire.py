"""Answers as the kernel reads them (include/uapi/linux/fuse.h): packed here, so that libfuse only hands them on."""

from __future__ import annotations

import os
import struct

from lamella.fuse.tree import Seen

__all__ = [
    "ENTRY_SIZE", "attr", "dirent", "entry", "name_at", "negative", "opened", "position", "renumber", "room", "size", "written",
]  # fmt: skip

FOREVER = 86_400  # seconds that the kernel may remember what only its own calls change
_KEEP_CACHE = 2

_ATTR = "QQQqqqIIIIIIIIII"
_ENTRY = struct.Struct("=QQQQII" + _ATTR)
ENTRY_SIZE = _ENTRY.size
_ATTR_OUT = struct.Struct("=QII" + _ATTR)
_OPEN = struct.Struct("=QII")
_DIRENT = struct.Struct("=QQII")
_NUMBER = struct.Struct("=Q")
_PADS = [bytes(-n % 8) for n in range(8)]
_ROOM = struct.Struct("=QQQQQIII28x")
_NEGATIVE = _ENTRY.pack(0, 0, FOREVER, 0, 0, 0, *([0] * 16))
_BILLION = 10**9


def _attr(seen: Seen) -> tuple[int, ...]:
    status = seen.status
    atime, atimensec = divmod(status.st_atime_ns, _BILLION)
    mtime, mtimensec = divmod(status.st_mtime_ns, _BILLION)
    ctime, ctimensec = divmod(status.st_ctime_ns, _BILLION)
    return (
        seen.number, status.st_size, status.st_blocks, atime, mtime, ctime, atimensec, mtimensec, ctimensec, status.st_mode,
        seen.nlink & 0xFFFFFFFF, status.st_uid, status.st_gid, status.st_rdev & 0xFFFFFFFF, status.st_blksize & 0xFFFFFFFF, 0,
    )  # fmt: skip


def attr(seen: Seen) -> bytes:
    """Return the status of an inode."""
    return _ATTR_OUT.pack(FOREVER, 0, 0, *_attr(seen))


def entry(node: int, seen: Seen) -> bytes:
    """Return what a name leads to: the inode that the kernel calls ``node`` from now on."""
    return _ENTRY.pack(node, 0, FOREVER, FOREVER, 0, 0, *_attr(seen))


def negative() -> bytes:
    """Return that a name leads to nothing."""
    return _NEGATIVE


def opened(fh: int) -> bytes:
    """Return a handle; what the kernel has of the content stays good."""
    return _OPEN.pack(fh, _KEEP_CACHE, 0)


def dirent(number: int, offset: int, kind: int, name: bytes, *, plus: bool) -> bytes:
    """Return one name of a directory; ``offset`` is where the next begins. ``plus``: with nothing said of its inode."""
    return bytes(ENTRY_SIZE if plus else 0) + _DIRENT.pack(number, offset, len(name), kind >> 12) + name + _PADS[len(name) & 7]


def name_at(reply: bytearray, at: int, *, plus: bool) -> tuple[int, int, bytes]:
    """Return the inode's number, its S_IFMT, and the name that stand at ``at`` of an answer, as dirent() has them."""
    begin = at + (ENTRY_SIZE if plus else 0)
    number, _, n, kind = _DIRENT.unpack_from(reply, begin)
    return number, kind << 12, bytes(reply[begin + _DIRENT.size : begin + _DIRENT.size + n])


def renumber(reply: bytearray, at: int, number: int, *, plus: bool) -> None:
    """Give the name that stands at ``at`` of an answer another inode."""
    _NUMBER.pack_into(reply, at + (ENTRY_SIZE if plus else 0), number)


def room(status: os.statvfs_result) -> bytes:
    """Return the status of a file system."""
    return _ROOM.pack(
        status.f_blocks, status.f_bfree, status.f_bavail, status.f_files, status.f_ffree, status.f_bsize, status.f_namemax,
        status.f_frsize,
    )  # fmt: skip


def size(nbytes: int) -> bytes:
    """Return how long an attribute, or all names of them, are."""
    return struct.pack("=II", nbytes, 0)


def position(offset: int) -> bytes:
    """Return an offset in a file."""
    return struct.pack("=Q", offset)


written = size  # bytes written, in the same place
