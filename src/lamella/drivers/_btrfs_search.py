"""What the tree of a subvolume says of its inodes: which were touched since a transaction, their names, their room.

Items are those of the kernel's header linux/btrfs_tree.h. Leaves that were not written since are passed over by the
kernel, so the cost is that of what was touched, and of what shares a leaf with it.
"""

from __future__ import annotations

import struct

from lamella.drivers._btrfs_calls import INODE, LAST, ROOT, items
from lamella.model import Usage
from lamella.tree.root import join

__all__ = ["Tree"]

_REF, _EXTREF, _EXTENT = 12, 13, 108
_OF_NAMES, _OF_ROOM = frozenset((INODE, _REF, _EXTREF)), frozenset((INODE, _EXTENT))
_INODE_ITEM = struct.Struct("<QQQQQI")  # generation, transaction, size, bytes, group, names
_REF_ITEM = struct.Struct("<QH")  # index, bytes of the name
_EXTREF_ITEM = struct.Struct("<QQH")  # directory, index, bytes of the name
_EXTENT_ITEM = struct.Struct("<QQBBHB")  # generation, bytes in memory, compression, encryption, other, kind
_PLACE = struct.Struct("<QQ")  # of an extent on disk: where, bytes
_INLINE = 0
_ALL = (1 << 64) - 1
_ANY = frozenset(range(256))
_MANY, _PART = 2000, 4  # from a quarter of the inodes on, if they are many
_FIRST, _LAST = (ROOT, 0, 0), (LAST, 255, _ALL)

Name = tuple[int, bytes]  # the directory's inode, and the name there


class Tree:
    """The tree of the subvolume whose root is open as ``fd``. OSError EPERM, of each call, for all but root."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._dirs: dict[int, bytes] = {ROOT: b""}

    def touched(self, since: int) -> set[bytes] | None:
        """Return all paths of the inodes that were written after transaction ``since``, if only for their access times.

        None where they are so large a part of all that a look at all is faster.
        """
        found: list[tuple[int, int, list[Name]]] = []
        for inode, kind, offset, content in items(self.fd, _FIRST, _LAST, _OF_NAMES, since=since + 1):
            if kind == INODE:
                found.append((inode, _INODE_ITEM.unpack_from(content)[5], []))
            else:
                found[-1][2].extend(_names(kind, offset, content))
        if len(found) >= _MANY and len(found) * _PART > self._highest() - ROOT:
            return None
        paths = set()
        for inode, n_names, names in found:
            if inode == ROOT:
                paths.add(b"")
            else:  # some names may be in the next leaf, which was not written
                paths.update(self._paths(names if len(names) == n_names else self._refs(inode)))
        return paths

    def _highest(self) -> int:
        """Return the highest inode number: there are not more inodes than that, but for those that are gone."""
        low, step = ROOT, 1 << 32
        while step:
            found = next(items(self.fd, (low + step, 0, 0), _LAST, _ANY), None)
            if found is None:
                step >>= 1
            else:
                low = found[0]
        return low

    def names(self, inode: int) -> list[bytes]:
        """Return all paths of an inode."""
        return self._paths(self._refs(inode))

    def room(self, since: int) -> Usage:
        """Return the room of what was written after transaction ``since``: inodes, and extents of content, each once."""
        n_inodes = nbytes = 0
        extents: dict[int, int] = {}
        for _, kind, _, content in items(self.fd, _FIRST, _LAST, _OF_ROOM, since=since + 1 if since else 0):
            if kind == INODE:
                n_inodes += 1
                continue
            written, _, _, _, _, how = _EXTENT_ITEM.unpack_from(content)
            if written <= since:
                continue
            if how == _INLINE:
                nbytes += len(content) - _EXTENT_ITEM.size
            else:
                where, length = _PLACE.unpack_from(content, _EXTENT_ITEM.size)
                extents[where] = length if where else 0  # 0 is a hole
        return Usage(nbytes + sum(extents.values()), n_inodes)

    def _refs(self, inode: int) -> list[Name]:
        found = []
        for _, kind, offset, content in items(self.fd, (inode, _REF, 0), (inode, _EXTREF, _ALL), frozenset((_REF, _EXTREF))):
            found += _names(kind, offset, content)
        return found

    def _paths(self, names: list[Name]) -> list[bytes]:
        found = []
        for folder, name in names:
            path = self._dir(folder)
            if path is not None:
                found.append(join(path, name))
        return found

    def _dir(self, inode: int) -> bytes | None:
        """Return the path of a directory, None for one that is removed meanwhile."""
        todo: list[tuple[int, bytes]] = []
        while inode not in self._dirs:
            names = self._refs(inode)
            if not names:
                return None
            todo.append((inode, names[0][1]))
            inode = names[0][0]
        path = self._dirs[inode]
        for at, name in reversed(todo):
            path = self._dirs[at] = join(path, name)
        return path


def _names(kind: int, offset: int, content: bytes) -> list[Name]:
    """Return the names that an item holds: those in one directory, or those whose hashes are one."""
    found, at, folder = [], 0, offset
    while at < len(content):
        if kind == _REF:
            _, nbytes = _REF_ITEM.unpack_from(content, at)
            at += _REF_ITEM.size
        else:
            folder, _, nbytes = _EXTREF_ITEM.unpack_from(content, at)
            at += _EXTREF_ITEM.size
        found.append((folder, content[at : at + nbytes]))
        at += nbytes
    return found
