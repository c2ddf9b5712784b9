"""The tree that a stack of layer tars makes, read from the tars: nothing is unpacked to see it.

The tree is that of the algebra (layer/algebra.py): what applying the layers one after another would make, from their tables
alone. Content is read where it lies in an uncompressed tar; a compressed one is unpacked once, into a spool, when content of
it is first asked for.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import count
from threading import Lock
from types import MappingProxyType

import numpy as np

from lamella.columns import AT
from lamella.errors import UnsafePathError
from lamella.fuse.spool import Spool
from lamella.fuse.stored import OpenContent, StoredLayer
from lamella.fuse.tree import Content, Seen
from lamella.layer.algebra import squash
from lamella.layer.listing import Listing
from lamella.layer.treetable import as_tree
from lamella.table import EntryTable
from lamella.tree.root import join

__all__ = ["LayersTree"]

_FILE, _LINK, _DEVICES = stat.S_IFREG, stat.S_IFLNK, (stat.S_IFCHR, stat.S_IFBLK)
_KINDS = dict(zip(b"0123456", (_FILE, _FILE, _LINK, *_DEVICES, stat.S_IFDIR, stat.S_IFIFO), strict=True))
_ROOT_MODE = 0o755  # where no layer has an entry for it
_BLOCK = 512
_LISTINGS = 4096  # directories whose names are kept


class LayersTree:
    """What ``layers`` (nearest first) show; read-only. ``escaped``: show attributes that begin so as a union's lower layer
    keeps them, that are its own, so that nothing in a layer speaks to the union (tests/contract 27).

    The reader's errors, and those of the algebra where the layers do not fit together; UnsafePathError for a device that would
    be a whiteout in a union.
    """

    flips = np.zeros(1, np.uint64)  # a listing has the numbers that are shown
    kept: Mapping[int, int] = MappingProxyType({})

    def __init__(self, layers: Sequence[StoredLayer], spool: Spool, *, escaped: Sequence[bytes] = (), workers: int = 2) -> None:
        self._layers = list(reversed(layers))
        self._spool = spool
        self._escaped = tuple(escaped)
        with ThreadPoolExecutor(workers, "lamella-table") as pool:
            made = squash(pool.map(lambda layer: layer.table(spool), self._layers))
        columns = list(made.table.columns)
        columns[AT["data_off"]] = np.arange(len(made.table), dtype=np.int64)  # so that links say of which row they are
        self._table = as_tree(EntryTable(tuple(columns), "archive"))
        from_row = self._table.data_off
        self._origin, self._origin_row = made.origin[from_row], made.origin_row[from_row]
        self._sources = [layer.table for layer in made.layers]
        if escaped:
            self._check_devices()
        self._groups = self._table.link_group.tolist()
        self._kinds = [_KINDS[kind] for kind in self._table.type.tolist()]
        self._shift = 0 if self._table.find(b"") == 0 else 1
        self._first, self._below = self._arranged()
        self._links = np.bincount(self._table.link_group[self._table.link_group >= 0], minlength=len(self._table))
        self._open: dict[int, OpenContent] = {}
        self._rows: dict[int, int] = {}
        self._unpacking = Lock()
        self._handles = count(1)
        self._lock = Lock()
        self.listing = lru_cache(_LISTINGS)(self._listing)

    def _check_devices(self) -> None:
        table = self._table
        devices = (table.type == ord("3")) & (table.rdev_major == 0) & (table.rdev_minor == 0)
        for row in np.flatnonzero(devices).tolist():
            raise UnsafePathError(table.path(row), "a 0:0 character device would be a whiteout in a union")

    def _arranged(self) -> tuple[list[int], list[int]]:
        """Return for each row and, last, for a root without one where its children begin; and all children."""
        n = len(self._table)
        parents = [n] * n
        above: list[int] = [n]  # the directory at each depth, the root's first
        for row, path in enumerate(self._table.paths):
            if not path:
                above[0] = row
                parents[row] = n + 1
                continue
            depth = path.count(b"/")
            parents[row] = above[depth]
            del above[depth + 1 :]
            above.append(row)
        owners = np.array(parents, np.int64)
        order = np.argsort(owners, kind="stable")
        return np.searchsorted(owners[order], np.arange(n + 2)).tolist(), order.tolist()

    # -- names ----------------------------------------------------------------------------------------------------

    def _row(self, path: bytes) -> int:
        if not path:
            return 0 if not self._shift else len(self._table)
        return self._table.find(path)

    def look(self, path: bytes) -> Seen | None:
        """Return the inode at ``path``, None for nothing."""
        row = self._row(path)
        return None if row < 0 else self._seen(row)

    def look_at(self, handle: int) -> Seen:
        """Return the inode of a file that is open."""
        return self._seen(self._rows[handle])

    def _listing(self, path: bytes) -> Listing:
        row = self._existing(path)
        if row < len(self._kinds) and self._kinds[row] != stat.S_IFDIR:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        skip = len(path) + 1 if path else 0
        children = self._below[self._first[row] : self._first[row + 1]]
        path_of, kinds, ino = self._table.path, self._kinds, self._ino
        return Listing.of((n, path_of(row)[skip:], kinds[row], ino(row), 0) for n, row in enumerate(children, 1))

    def look_in(self, path: bytes, names: Iterable[bytes]) -> dict[bytes, Seen]:
        """Return the inodes at ``names`` of a directory."""
        found = ((name, self._row(join(path, name))) for name in names)
        return {name: self._seen(row) for name, row in found if row >= 0}

    def readlink(self, path: bytes) -> bytes:
        """Return a symlink's text; OSError EINVAL."""
        row = self._existing(path)
        if row >= len(self._kinds) or self._kinds[row] != stat.S_IFLNK:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return self._table.link_target(row)

    def _existing(self, path: bytes) -> int:
        row = self._row(path)
        if row < 0:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return row

    # -- inodes ---------------------------------------------------------------------------------------------------

    def _ino(self, row: int) -> int:
        group = self._groups[row] if row < len(self._groups) else -1
        return 1 if row == self._row(b"") else (row if group < 0 else group) + 2

    def _seen(self, row: int) -> Seen:
        number = self._ino(row)
        if row == len(self._table):
            return Seen(_status(stat.S_IFDIR | _ROOT_MODE, number, 1), number, 1)
        entry, kind = self._table[row], self._kinds[row]
        group = self._groups[row]
        nlink = 1 if group < 0 else int(self._links[group])
        size = entry.size if kind == stat.S_IFREG else len(entry.link_target) if kind == stat.S_IFLNK else 0
        data = size
        if kind == stat.S_IFREG and (regions := entry.sparse) is not None:
            data = int(regions[:, 1].sum())
        rdev = os.makedev(entry.rdev_major, entry.rdev_minor) if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
        mode = kind | (0o777 if kind == stat.S_IFLNK else entry.mode)
        status = _status(
            mode, number, nlink, uid=entry.uid, gid=entry.gid, size=size, mtime_ns=entry.mtime_ns, rdev=rdev,
            blocks=-(-data // _BLOCK) if kind == stat.S_IFREG else 0,
        )  # fmt: skip
        return Seen(status, number, nlink)

    def _shown(self, key: bytes) -> bytes:
        for own in self._escaped:
            if key.startswith(own):
                return own + b"overlay." + key[len(own) :]
        return key

    def _xattrs(self, path: bytes) -> dict[bytes, bytes]:
        row = self._existing(path)
        found = self._table.xattrs(row) if row < len(self._kinds) else {}
        return {self._shown(key): value for key, value in found.items()} if self._escaped else found

    def listxattr(self, path: bytes) -> list[bytes]:
        """Return the names of extended attributes."""
        return list(self._xattrs(path))

    def getxattr(self, path: bytes, key: bytes) -> bytes:
        """Return the value of an extended attribute; OSError ENODATA."""
        value = self._xattrs(path).get(key)
        if value is None:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        return value

    # -- content --------------------------------------------------------------------------------------------------

    def content(self, path: bytes) -> Content:
        """Return where the content of a file is: in a lower branch, as nothing here is changed."""
        return 1, path

    def open(self, path: bytes, flags: int = os.O_RDONLY) -> int:
        """Open a regular file and return a handle; OSError EROFS, EISDIR, and EIO of a layer that cannot be unpacked."""
        row = self._existing(path)
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        if row == len(self._kinds) or self._kinds[row] != stat.S_IFREG:
            raise OSError(errno.EISDIR if row == len(self._kinds) or self._kinds[row] == stat.S_IFDIR else errno.ENXIO, "")
        opened = self._opened(row)
        with self._lock:
            handle = next(self._handles)
            self._open[handle], self._rows[handle] = opened, row
        return handle

    def _opened(self, row: int) -> OpenContent:
        number, own = int(self._origin[row]), int(self._origin_row[row])
        layer, source = self._layers[number], self._sources[number]
        with self._unpacking:
            tar = layer.tar(self._spool)
        return OpenContent.of(tar, layer.offset, source, own)

    def read(self, handle: int, nbytes: int, offset: int) -> bytes:
        """Return content."""
        return self._open[handle].read(nbytes, offset)

    def seek(self, handle: int, offset: int, whence: int) -> int:
        """Return where data or a hole is next; OSError ENXIO."""
        return self._open[handle].seek(offset, whence)

    def flush(self, handle: int, *, data: bool) -> None:
        """Do nothing: nothing is changed."""

    def release(self, handle: int) -> None:
        """Close a handle."""
        with self._lock:
            del self._open[handle], self._rows[handle]

    def sync(self, path: bytes) -> None:
        """Do nothing: nothing is changed."""

    def room(self) -> os.statvfs_result:
        """Return the status of the first layer's file system, with no room left in it."""
        found = list(os.fstatvfs(self._layers[-1].file.fd) if self._layers else os.statvfs("/"))
        found[3] = found[4] = found[6] = found[7] = 0
        return os.statvfs_result(found)

    def close(self) -> None:
        """Close all layers."""
        self._open.clear()
        self._layers.clear()


def _status(
    mode: int, number: int, nlink: int, *, uid: int = 0, gid: int = 0, size: int = 0, mtime_ns: int = 0, rdev: int = 0,
    blocks: int = 0,
) -> os.stat_result:  # fmt: skip
    seconds = mtime_ns // 10**9
    return os.stat_result(
        (mode, number, 0, nlink, uid, gid, size, seconds, seconds, seconds),
        {"st_atime_ns": mtime_ns, "st_mtime_ns": mtime_ns, "st_ctime_ns": mtime_ns, "st_rdev": rdev, "st_blocks": blocks,
         "st_blksize": 4096},
    )  # fmt: skip
