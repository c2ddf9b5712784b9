"""EntryTable: a layer, a directory or a snapshot as one table; one NumPy column a field, one arena of bytes for names.

Rows are built by kernels through :class:`~lamella.columns.TableBuilder` and never change afterwards. ``order`` is
``"archive"`` (as read, duplicates kept) or ``"path"`` (sorted with ``/`` lowest, unique: a subtree is a slice).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from lamella._kernels import index
from lamella.columns import ARENA, AT, EXT_ATIME, EXT_GNAME, EXT_PAX, EXT_SPARSE, EXT_UNAME, EXT_XATTR, F_ATIME, Columns
from lamella.model import EntryType

__all__ = ["Entry", "EntryTable"]

_EXT_HEADER = struct.Struct("<BHI")
_ATIME = struct.Struct("<qI")
_TYPES = {ord(t.value): t for t in EntryType}
_SEED = int.from_bytes(os.urandom(8), "little")  # hostile names cannot be chosen to collide

Order = Literal["archive", "path"]


def _items(run: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    at = 0
    while at < len(run):
        tag, name_len, value_len = _EXT_HEADER.unpack_from(run, at)
        at += _EXT_HEADER.size
        yield tag, run[at : at + name_len], run[at + name_len : at + name_len + value_len]
        at += name_len + value_len


class Entry:
    """One row of a table; a view that keeps the table's block alive."""

    __slots__ = ("_row", "_table")

    def __init__(self, table: EntryTable, row: int) -> None:
        self._table = table
        self._row = row

    def _get(self, name: str) -> int:
        return int(self._table.columns[AT[name]][self._row])

    path = property(lambda self: self._table.path(self._row), doc="Path below the root, bytes; the root is ``b''``.")
    name = property(lambda self: os.fsdecode(self.path), doc="``path`` as text, undecodable bytes as surrogates.")
    link_target = property(lambda self: self._table.link_target(self._row), doc="Symlink text or hard-link path, bytes.")
    type = property(lambda self: _TYPES[self._get("type")], doc="The EntryType.")
    mode = property(lambda self: self._get("mode"), doc="Permission, set-id and sticky bits (0o7777).")
    uid = property(lambda self: self._get("uid"))
    gid = property(lambda self: self._get("gid"))
    size = property(lambda self: self._get("size"), doc="Bytes of content, holes included.")
    mtime = property(lambda self: self._get("mtime"), doc="Whole seconds since the epoch, rounded down.")
    mtime_nsec = property(lambda self: self._get("mtime_nsec"))
    mtime_ns = property(lambda self: self.mtime * 1_000_000_000 + self.mtime_nsec, doc="Nanoseconds, any size of int.")
    rdev_major = property(lambda self: self._get("rdev_major"))
    rdev_minor = property(lambda self: self._get("rdev_minor"))
    xattrs = property(lambda self: self._table.xattrs(self._row), doc="Extended attributes, bytes to bytes.")
    sparse = property(lambda self: self._table.sparse(self._row), doc="(n, 2) offsets and sizes of the data, or None.")
    uname = property(lambda self: self._one(EXT_UNAME, b""), doc="Owner's name as bytes, ``b''`` where absent.")
    gname = property(lambda self: self._one(EXT_GNAME, b""), doc="Group's name as bytes, ``b''`` where absent.")
    pax = property(
        lambda self: {n: v for tag, n, v in self._table.extras(self._row) if tag == EXT_PAX},
        doc="pax keywords that no other field holds, bytes to bytes.",
    )

    def _one(self, tag: int, default: bytes) -> bytes:
        return next((v for t, _, v in self._table.extras(self._row) if t == tag), default)

    @property
    def atime_ns(self) -> int | None:
        """Access time in nanoseconds, None where the entry has none."""
        value = self._one(EXT_ATIME, b"")
        if not value:
            return None
        seconds, nsec = _ATIME.unpack(value)
        return int(seconds) * 1_000_000_000 + int(nsec)

    @property
    def data_off(self) -> int:
        """Offset of the payload in the uncompressed tar, -1 for none."""
        return int(self._table.data_off[self._row])

    def __repr__(self) -> str:
        return f"<Entry {self.type.name} {self.path!r}>"


class _Names(Sequence[bytes]):
    """Names of a table by row, made when asked for."""

    def __init__(self, offsets: NDArray[np.int64], lengths: NDArray[np.uint16], arena: NDArray[np.uint8]) -> None:
        self._offsets, self._lengths, self._arena = offsets, lengths, arena

    def __len__(self) -> int:
        return len(self._offsets)

    @overload
    def __getitem__(self, row: int) -> bytes: ...
    @overload
    def __getitem__(self, row: slice) -> list[bytes]: ...
    def __getitem__(self, row: int | slice) -> bytes | list[bytes]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        begin = int(self._offsets[row])
        return self._arena[begin : begin + int(self._lengths[row])].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        arena = memoryview(self._arena)
        for begin, n in zip(self._offsets.tolist(), self._lengths.tolist(), strict=True):
            yield arena[begin : begin + n].tobytes()


class EntryTable:
    """Rows of entries. Columns are attributes (read-only arrays of ``len(table)`` items), see :data:`lamella.columns.COLUMNS`.

    ``table[i]`` is an Entry; a slice, mask or array of row numbers gives a table that shares the arena.
    """

    def __init__(self, columns: Columns, order: Order) -> None:
        self.columns = columns
        self.order: Order = order
        self._slots: NDArray[np.uint32] | None = None

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getattr__(self, name: str) -> NDArray[Any]:
        at = AT.get(name)
        if at is None or (name in ("dev", "ino") and self.columns[at] is None):
            raise AttributeError(name)
        if name == "data_off" and self.columns[at] is None:
            return np.broadcast_to(np.int64(-1), len(self))
        view: NDArray[Any] = self.columns[at].view()
        view.flags.writeable = False
        return view

    @property
    def _atimes(self) -> list[tuple[int, int, int]]:
        rows = np.flatnonzero(self.columns[AT["flags"]] & F_ATIME).tolist()
        return [(row, *_ATIME.unpack(self[row]._one(EXT_ATIME, bytes(12)))) for row in rows]

    @property
    def atime(self) -> NDArray[np.int64]:
        """Access times in seconds; 0 where the entry has none."""
        column = np.zeros(len(self), np.int64)
        for row, seconds, _ in self._atimes:
            column[row] = seconds
        return column

    @property
    def atime_nsec(self) -> NDArray[np.uint32]:
        """The nanoseconds of ``atime``."""
        column = np.zeros(len(self), np.uint32)
        for row, _, nsec in self._atimes:
            column[row] = nsec
        return column

    @property
    def paths(self) -> Sequence[bytes]:
        """Paths by row."""
        return _Names(self.columns[AT["name_off"]], self.columns[AT["path_len"]], self.columns[ARENA])

    @property
    def link_targets(self) -> Sequence[bytes]:
        """Link targets by row, ``b''`` for none."""
        off, skip = self.columns[AT["name_off"]], self.columns[AT["path_len"]]
        return _Names(off + skip, self.columns[AT["link_len"]], self.columns[ARENA])

    def path(self, row: int) -> bytes:
        """Return the path of ``row``."""
        begin = int(self.columns[AT["name_off"]][row])
        return bytes(self.columns[ARENA][begin : begin + int(self.columns[AT["path_len"]][row])])

    def link_target(self, row: int) -> bytes:
        """Return the link target of ``row``, ``b''`` for none."""
        begin = int(self.columns[AT["name_off"]][row]) + int(self.columns[AT["path_len"]][row])
        return bytes(self.columns[ARENA][begin : begin + int(self.columns[AT["link_len"]][row])])

    def extras(self, row: int) -> Iterator[tuple[int, bytes, bytes]]:
        """Iterate (tag, name, value) of ``row``; tags are those of _kernels/_rows.pxd."""
        begin, n = int(self.columns[AT["ext_off"]][row]), int(self.columns[AT["ext_len"]][row])
        return _items(bytes(self.columns[ARENA][begin : begin + n])) if n else iter(())

    def xattrs(self, row: int) -> dict[bytes, bytes]:
        """Return the extended attributes of ``row``."""
        return {name: value for tag, name, value in self.extras(row) if tag == EXT_XATTR}

    def sparse(self, row: int) -> NDArray[np.int64] | None:
        """Return the data regions of a sparse ``row`` as an (n, 2) array of offset and size in bytes, else None."""
        for tag, _, value in self.extras(row):
            if tag == EXT_SPARSE:
                return np.frombuffer(value, "<i8").reshape(-1, 2)
        return None

    @overload
    def __getitem__(self, key: int) -> Entry: ...
    @overload
    def __getitem__(self, key: slice | NDArray[Any]) -> EntryTable: ...
    def __getitem__(self, key: int | slice | NDArray[Any]) -> Entry | EntryTable:
        if isinstance(key, int | np.integer):
            row = int(key) + (len(self) if key < 0 else 0)
            if not 0 <= row < len(self):
                raise IndexError(f"row {key} of {len(self)}")
            return Entry(self, row)
        rows = np.arange(len(self))[key]
        columns = [c if c is None or i == ARENA else c[rows] for i, c in enumerate(self.columns)]
        columns[AT["link_group"]] = _regroup(columns[AT["link_group"]])
        ascending = len(rows) < 2 or bool(np.all(np.diff(rows) > 0))
        return EntryTable(tuple(columns), self.order if ascending else "archive")

    def __iter__(self) -> Iterator[Entry]:
        return (Entry(self, row) for row in range(len(self)))

    def find(self, path: bytes | str) -> int:
        """Return the row of ``path`` (the last one in archive order), or -1."""
        if self._slots is None:
            slots = np.zeros(1 << max(1, (len(self) * 4 // 3).bit_length()), np.uint32)
            index.insert(slots, _SEED, self.columns, 0, len(self))
            self._slots = slots
        return int(index.find(self._slots, _SEED, self.columns, os.fsencode(path)))

    def sorted(self) -> EntryTable:
        """Return the table in path order, the last of duplicate paths kept."""
        if self.order == "path":
            return self
        rows = np.arange(len(self), dtype=np.int64)
        kept = index.sort(self.columns, rows, np.empty_like(rows))
        table = self[rows[:kept]]
        table.order = "path"
        return table


def _regroup(groups: NDArray[np.int32]) -> NDArray[np.int32]:
    # link groups name rows of the table they came from: rename them to rows of this one, singles to -1
    out = np.full(len(groups), -1, np.int32)
    rows = np.flatnonzero(groups >= 0)
    if len(rows):
        rows = rows[np.argsort(groups[rows], kind="stable")]
        starts = np.flatnonzero(np.diff(groups[rows], prepend=np.int32(-1)))
        counts = np.diff(starts, append=len(rows))
        out[rows] = np.where(np.repeat(counts, counts) > 1, np.repeat(rows[starts], counts), -1)
    return out
