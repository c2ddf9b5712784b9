"""The calls of btrfs, by ioctl(2): one function a call, and OSError with what the kernel says of it.

Numbers and structures are those of the kernel's header linux/btrfs.h.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = [
    "INODE", "LAST", "ROOT", "Key", "Subvolume", "about", "create", "described", "destroy", "enable_quotas", "forget_quota",
    "items", "limit", "nested", "set_read_only", "snapshot", "sync",
]  # fmt: skip

Key = tuple[int, int, int]  # inode, type of item, offset

ROOT = 256  # the inode number of a subvolume's root; no other inode has a lower one
LAST = (1 << 64) - 256  # no inode has a higher one
INODE = 1  # the type of the item that describes an inode
_ALL = (1 << 64) - 1
_NAME_MAX = 255

# ioctl numbers have their directions in other bits, and fewer bits for sizes, where Linux was ported early
_PORTED_EARLY = os.uname().machine.startswith(("alpha", "mips", "ppc", "sparc"))
_DIRECTION, _WRITE, _READ = (29, 4, 2) if _PORTED_EARLY else (30, 1, 2)
_NONE = 1 if _PORTED_EARLY else 0


def _number(direction: int, number: int, nbytes: int) -> int:
    return direction << _DIRECTION | nbytes << 16 | 0x94 << 8 | number


_SYNC = _number(_NONE, 8, 0)
_SUBVOL_CREATE = _number(_WRITE, 14, 4096)
_SNAP_DESTROY = _number(_WRITE, 15, 4096)
_SNAP_CREATE_V2 = _number(_WRITE, 23, 4096)
_GETFLAGS, _SETFLAGS = _number(_READ, 25, 8), _number(_WRITE, 26, 8)
_TREE_SEARCH_V2 = _number(_READ | _WRITE, 17, 112)
_SUBVOL_INFO = _number(_READ, 60, 504)
_SUBVOL_ROOTREF = _number(_READ | _WRITE, 61, 4096)
_LOOKUP_USER = _number(_READ | _WRITE, 62, 4096)
_QUOTA_CTL = _number(_READ | _WRITE, 40, 16)
_QGROUP_CREATE, _QGROUP_LIMIT = _number(_WRITE, 42, 16), _number(_READ, 43, 48)
_RESCAN_WAIT = _number(_NONE, 46, 0)

_RDONLY = 2  # a flag of subvolumes
_QUOTA_ENABLE, _MAX_RFER = 1, 1
_AREA, _AREA_OF_ONE = 1 << 18, 1 << 12  # bytes of items that one search returns at most, to begin with
_AREA_MAX = 1 << 24
_MANY = (1 << 32) - 1
_N_ITEMS, _FIRST = 64, 112  # where a search says how many items it found, and where they begin
_KIND_MAX = 255
_INFO = struct.Struct("<Q256sQQQQ16s16s16sQQ")
_SEARCH = struct.Struct("<QQQQQQQIIIxxxx32xQ")
_ITEM = struct.Struct("<8xQQII").unpack_from  # inode, offset, type, bytes of content, which follows
_ITEM_HEAD = 32
_WRITTEN = struct.Struct("<8xQ").unpack_from  # the transaction in which an inode was, from its item


def _call(fd: int, number: int, argument: bytearray) -> None:
    fcntl.ioctl(fd, number, argument)


def _named(folder: int, number: int, name: str, *, fd: int = 0) -> None:
    raw = os.fsencode(name)
    if len(raw) > _NAME_MAX:
        raise ValueError(f"a name of {len(raw)} bytes")
    _call(folder, number, bytearray(struct.pack("<q4088s", fd, raw)))


@contextlib.contextmanager
def about(what: str, path: str | os.PathLike[str]) -> Iterator[None]:
    """Give an OSError of a call the name of what failed, and the path."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise OSError(error.errno, f"{what}: {error.strerror}", os.fspath(path)) from None
        raise


# -- subvolumes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Subvolume:
    """What the kernel says of a subvolume: ``changed`` and ``made`` are the transactions in which it last was.

    ``uuid`` is its own, ``origin`` that of the subvolume of which it was made a snapshot, zeros for none.
    """

    id: int
    uuid: bytes
    origin: bytes
    changed: int
    made: int

    @property
    def is_snapshot(self) -> bool:
        """Whether it was made of another one."""
        return any(self.origin)


def create(folder: int, name: str) -> None:
    """Make an empty subvolume ``name`` in the directory ``folder``."""
    _named(folder, _SUBVOL_CREATE, name)


def snapshot(source: int, folder: int, name: str, *, read_only: bool) -> None:
    """Make a snapshot ``name`` in the directory ``folder`` of the subvolume whose root is ``source``."""
    raw = os.fsencode(name)
    _call(folder, _SNAP_CREATE_V2, bytearray(struct.pack("<qQQ32x4040s", source, 0, _RDONLY if read_only else 0, raw)))


def destroy(folder: int, name: str) -> None:
    """Remove the subvolume ``name`` of the directory ``folder``, whatever is in it but further subvolumes."""
    _named(folder, _SNAP_DESTROY, name)


def set_read_only(subvolume: int, read_only: bool) -> None:
    """Let nothing, or anything, be written in the subvolume whose root is open; where it is so already, do nothing."""
    flags = bytearray(8)
    _call(subvolume, _GETFLAGS, flags)
    (now,) = struct.unpack("<Q", flags)
    wanted = now | _RDONLY if read_only else now & ~_RDONLY
    if wanted != now:
        _call(subvolume, _SETFLAGS, bytearray(struct.pack("<Q", wanted)))


def described(fd: int) -> Subvolume:
    """Return what the kernel says of the subvolume that ``fd`` is in."""
    answer = bytearray(504)
    _call(fd, _SUBVOL_INFO, answer)
    number, _, _, _, _, _, uuid, origin, _, changed, made = _INFO.unpack_from(answer)
    return Subvolume(number, uuid, origin, changed, made)


def nested(subvolume: int) -> list[bytes]:
    """Return the paths of the subvolumes in the one whose root is open, but of those that are in these."""
    found = []
    first = 0
    while True:
        answer = bytearray(struct.pack("<Q4088x", first))
        more = False
        try:
            _call(subvolume, _SUBVOL_ROOTREF, answer)
        except OSError as error:
            if error.errno != errno.EOVERFLOW:  # there are more of them
                raise
            more = True
        for i in range(answer[4088]):
            number, folder = struct.unpack_from("<QQ", answer, 8 + 16 * i)
            found.append(_path(subvolume, number, folder))
            first = number + 1
        if not more:
            return found


def _path(subvolume: int, number: int, folder: int) -> bytes:
    answer = bytearray(struct.pack("<QQ4080x", folder, number))
    _call(subvolume, _LOOKUP_USER, answer)
    name, path = answer[16:272], answer[272:]
    return bytes(path[: path.index(0)] + name[: name.index(0)])


def sync(fd: int) -> None:
    """Have everything on disk, every inode in its tree, and what was removed begin to be freed (else within 30 seconds)."""
    fcntl.ioctl(fd, _SYNC)


# -- quotas -----------------------------------------------------------------------------------------------------------


def enable_quotas(fd: int) -> None:
    """Have the file system account for every subvolume from now on, and for all that is there."""
    _call(fd, _QUOTA_CTL, bytearray(struct.pack("<QQ", _QUOTA_ENABLE, 0)))
    fcntl.ioctl(fd, _RESCAN_WAIT)


def limit(subvolume: int, nbytes: int) -> None:
    """Let the subvolume whose root is open show ``nbytes`` at most. ENOTCONN where there are no quotas."""
    _call(subvolume, _QGROUP_LIMIT, bytearray(struct.pack("<QQQQQQ", 0, _MAX_RFER, nbytes, 0, 0, 0)))


def forget_quota(fd: int, number: int) -> None:
    """Remove what the file system accounts for subvolume ``number``, which is gone."""
    _call(fd, _QGROUP_CREATE, bytearray(struct.pack("<QQ", 0, number)))


# -- items of a subvolume's tree --------------------------------------------------------------------------------------


def items(
    fd: int, first: Key, last: Key, kinds: frozenset[int], *, since: int = 0
) -> Iterator[tuple[int, int, int, bytes]]:  # fmt: skip
    """Iterate over (inode, type, offset, content) of the tree's items from ``first`` to ``last`` that are of ``kinds``.

    ``since``: only those of inodes that were written in this transaction or later. Leaves that were not are passed over by
    the kernel, and an inode has all its other items behind the one that says when it was. OSError EPERM for all but root.
    """
    area = _AREA if first[0] != last[0] else _AREA_OF_ONE
    current, fresh = -1, not since
    while first <= last:
        found = bytearray(_FIRST + area)
        _SEARCH.pack_into(found, 0, 0, first[0], last[0], first[2], last[2], since, _ALL, first[1], last[1], _MANY, area)
        try:
            _call(fd, _TREE_SEARCH_V2, found)
        except OSError as error:
            if error.errno != errno.EOVERFLOW or area >= _AREA_MAX:  # an item that does not fit
                raise
            area *= 8
            continue
        (n,) = struct.unpack_from("<I", found, _N_ITEMS)
        if not n:
            return
        at = _FIRST
        for _ in range(n):
            inode, offset, kind, nbytes = _ITEM(found, at)
            at += _ITEM_HEAD
            if since and inode != current:
                current = inode
                fresh = kind == INODE and _WRITTEN(found, at)[0] >= since
            if fresh and kind in kinds:
                yield inode, kind, offset, bytes(found[at : at + nbytes])
            at += nbytes
        first = _after((inode, kind, offset))


def _after(key: Key) -> Key:
    number, kind, offset = key
    if offset < _ALL:
        return number, kind, offset + 1
    return (number, kind + 1, 0) if kind < _KIND_MAX else (number + 1, 0, 0)
