"""What the tree of a subvolume says of its inodes: which were touched since a transaction, their names, their room.

Items are those of the kernel's header linux/btrfs_tree.h. Leaves that were not written since are passed over by the
kernel, so the cost is that of what was touched, and of what shares a leaf with it.
"""

from __future__ import annotations

import struct

from lamella.drivers._btrfs_calls import LAST, ROOT, items
from lamella.model import Usage
from lamella.tree.root import join

__all__ = ["Tree"]

_INODE, _REF, _EXTREF, _EXTENT = 1, 12, 13, 108
_INODE_ITEM = struct.Struct("<QQQQQI")  # generation, transaction, size, bytes, group, names
_REF_ITEM = struct.Struct("<QH")  # index, bytes of the name
_EXTREF_ITEM = struct.Struct("<QQH")  # directory, index, bytes of the name
_EXTENT_ITEM = struct.Struct("<QQBBHB")  # generation, bytes in memory, compression, encryption, other, kind
_PLACE = struct.Struct("<QQ")  # of an extent on disk: where, bytes
_INLINE = 0
_ALL = (1 << 64) - 1

Name = tuple[int, bytes]  # the directory's inode, and the name there


class Tree:
    """The tree of the subvolume whose root is open as ``fd``. OSError EPERM, of each call, for all but root."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._dirs: dict[int, bytes] = {ROOT: b""}

    def touched(self, since: int) -> set[bytes]:
        """Return all paths of the inodes that were written after transaction ``since``, if only for their access times."""
        found: dict[int, tuple[int, list[Name]]] = {}
        current = -1
        wanted = frozenset((_INODE, _REF, _EXTREF))
        for inode, kind, offset, content in items(self.fd, (ROOT, 0, 0), (LAST, 255, _ALL), wanted, since=since + 1):
            if kind == _INODE:
                _, written, _, _, _, n_names = _INODE_ITEM.unpack_from(content)
                current = inode if written > since else -1
                if current >= 0:
                    found[inode] = n_names, []
            elif inode == current:
                found[inode][1].extend(_names(kind, offset, content))
        paths = set()
        for inode, (n_names, names) in found.items():
            if inode == ROOT:
                paths.add(b"")
            else:  # the names may be in the next leaf, which was not written
                paths.update(self._paths(names if len(names) == n_names else self._refs(inode)))
        return paths

    def names(self, inode: int) -> list[bytes]:
        """Return all paths of an inode."""
        return self._paths(self._refs(inode))

    def room(self, since: int) -> Usage:
        """Return the room of what was written after transaction ``since``: inodes, and extents of content, each once."""
        n_inodes = nbytes = 0
        extents: dict[int, int] = {}
        wanted = frozenset((_INODE, _EXTENT))
        for _, kind, _, content in items(self.fd, (ROOT, 0, 0), (LAST, 255, _ALL), wanted, since=since + 1 if since else 0):
            if kind == _INODE:
                n_inodes += _INODE_ITEM.unpack_from(content)[1] > since
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
