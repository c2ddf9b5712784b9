"""What differs between two trees, and the rows of the layer that makes one of the other."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lamella._kernels import changes as kernel
from lamella.columns import ARENA, AT, EXT_XATTR, TableBuilder
from lamella.errors import WhiteoutError
from lamella.layer.whiteout import OPAQUE, PREFIX
from lamella.model import ChangeKind, IdMap, Progress, Why
from lamella.table import Entry, EntryTable
from lamella.tar.writer import LayerInfo, TarOptions, write_rows
from lamella.tree.root import split

__all__ = ["Change", "Changeset"]

ADD, MODIFY, DELETE = 1, 2, 3
_KINDS = {ADD: ChangeKind.ADD, MODIFY: ChangeKind.MODIFY, DELETE: ChangeKind.DELETE}
_WHY = 1023
OVERLAY_XATTRS = (b"trusted.overlay.", b"user.overlay.")
_CAPABILITY_V2, _CAPABILITY_V3, _REVISION = 0x02000000, 0x03000000, 0xFF000000
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Change:
    """One changed path. ``before`` and ``after`` are its entries below and above; ``why`` says what a MODIFY changed."""

    kind: ChangeKind
    path: bytes
    before: Entry | None
    after: Entry | None
    why: Why


@dataclass
class Rows:
    """The changes as columns: ``kind``, row ``lower`` and ``upper`` (a DELETE's is where it would stand), ``why``."""

    kind: NDArray[np.uint8]
    lower: NDArray[np.int32]
    upper: NDArray[np.int32]
    why: NDArray[np.uint16]


class Changeset:
    """The changes that lead from table ``lower`` to table ``upper``, in path order; iterates :class:`Change`.

    A deleted subtree is one delete of its top. Content for :meth:`write` comes from the directory ``root``.
    """

    def __init__(
        self, lower: EntryTable, upper: EntryTable, rows: Rows, match: NDArray[np.int32], *,
        root: str | os.PathLike[str] | None = None, holes: int = 0, warnings: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.lower, self.upper, self.rows = lower, upper, rows
        self.warnings = warnings
        self._match, self._root, self._holes = match, root, holes

    def __len__(self) -> int:
        return len(self.rows.kind)

    def __iter__(self) -> Iterator[Change]:
        rows = self.rows
        for kind, low, up, why in zip(
            rows.kind.tolist(), rows.lower.tolist(), rows.upper.tolist(), rows.why.tolist(), strict=True
        ):
            before = self.lower[low] if low >= 0 else None
            after = self.upper[up] if kind != DELETE else None
            path = (after or before).path  # type: ignore[union-attr]
            yield Change(_KINDS[kind], path, before, after, Why(why & _WHY) if kind == MODIFY else Why(0))

    def table(self, whiteouts: Literal["explicit", "opaque"] = "explicit") -> EntryTable:
        """Return the layer's rows in the order they are written; whiteouts come first in their directory (18).

        WhiteoutError for a name of the upper tree that would be read back as a whiteout (8).
        """
        if whiteouts not in ("explicit", "opaque"):
            raise ValueError(f"whiteouts {whiteouts!r}; one of explicit, opaque")
        gone = self._gone(whiteouts == "opaque")
        rows = self._emitted([row for row, _ in gone])
        picked = self.upper[rows]
        for path in picked.paths:
            if split(path)[1].startswith(PREFIX):
                raise WhiteoutError("a name that a layer cannot hold", entry=path)
        return _join(picked, rows, gone)

    def _gone(self, opaque: bool) -> list[tuple[int, bytes]]:
        """Return (upper row of the directory, path of the whiteout)."""
        at = np.flatnonzero(self.rows.kind == DELETE)
        paths = [self.lower.path(int(row)) for row in self.rows.lower[at]]
        gone = []
        for path in paths:
            parent, name = split(path)
            if name.startswith(PREFIX):
                raise WhiteoutError("a whiteout of a name that is one", entry=path)
            gone.append((self.upper.find(parent), (parent + b"/" if parent else b"") + PREFIX + name))
        if opaque and gone:
            parents = self._parents()
            kept = set(parents[self._match >= 0].tolist())  # directories that still show a lower name
            wiped = {row for row, _ in gone if row not in kept}
            gone = [g for g in gone if g[0] not in wiped]
            for row in wiped:
                path = self.upper.path(row)
                gone.append((row, (path + b"/" if path else b"") + OPAQUE))
        return sorted(gone)

    def _parents(self) -> NDArray[np.int32]:
        parents = np.empty(len(self.upper), np.int32)
        kernel.parents(self.upper.columns, parents)
        return parents

    def _emitted(self, dirs: list[int]) -> NDArray[np.int64]:
        """Changed rows and, once each, every ancestor (117); the root only if it changed."""
        marked = np.zeros(len(self.upper), bool)
        rows = self.rows.upper[self.rows.kind != DELETE].astype(np.int64)
        marked[rows] = True
        root = bool(len(marked)) and bool(marked[0])
        parents = self._parents()
        todo = np.concatenate([parents[rows].astype(np.int64), np.array(dirs, np.int64)])
        while len(todo):
            todo = todo[todo >= 0]
            todo = todo[~marked[todo]]
            marked[todo] = True
            todo = parents[todo].astype(np.int64)
        if len(marked) and not root and not self.upper.path(0):
            marked[0] = False
        return np.flatnonzero(marked)

    def _largest(self, table: EntryTable) -> str:
        return os.fsdecode(table.path(int(np.argmax(table.size))))

    def write(
        self, out: Any, *, compression: str = "gzip", level: int | None = None,
        whiteouts: Literal["explicit", "opaque"] = "explicit", clamp_mtime: int | None = None,
        idmap: IdMap | None = None, sparse: Literal["pax"] | None = None, libarchive_xattr: bool = False,
        progress: Callable[[Progress], None] | None = None,
    ) -> LayerInfo:  # fmt: skip
        """Write the changes as a layer to ``out``, a path or binary file object; see :func:`lamella.diff`."""
        if self._root is None:
            raise ValueError("a changeset of tables has no content to write")
        table = self.table(whiteouts)
        table, dropped = _clean_xattrs(table)
        info = write_rows(
            table, out, root=self._root, compression=compression, level=level,
            options=TarOptions(clamp_mtime, idmap, sparse, libarchive_xattr), progress=progress,
        )  # fmt: skip
        notes = list(self.warnings)
        if dropped:
            notes.append(f"{dropped} xattrs of overlay's own left out")
        if sparse is None and self._holes > _GIB:
            notes.append(f"{self._holes} bytes of holes are written as zeros, {self._largest(table)!r} among them "
                         "(sparse='pax' keeps them)")
        return replace(info, warnings=(*notes, *info.warnings))


def _join(picked: EntryTable, rows: NDArray[np.int64], gone: list[tuple[int, bytes]]) -> EntryTable:
    """Put whiteout rows behind the row of their directory, in one table with an arena of its own."""
    columns = [None if c is None else np.ascontiguousarray(c) for c in picked.columns]
    names = b"".join(path for _, path in gone)
    nbytes = kernel.compact(tuple(columns))
    arena = np.empty(max(nbytes + len(names), 1), np.uint8)
    kernel.compact(tuple(columns), arena)
    arena[nbytes : nbytes + len(names)] = np.frombuffer(names, np.uint8)
    lengths = np.array([len(path) for _, path in gone], np.int64)
    fills = {
        "type": ord("0"), "link_group": -1, "path_len": lengths, "name_off": nbytes + np.cumsum(lengths) - lengths,
    }  # fmt: skip
    for name, i in AT.items():
        column = columns[i]
        if i != ARENA and column is not None:
            extra = np.zeros(len(gone), column.dtype)
            extra[:] = fills.get(name, 0)
            columns[i] = np.concatenate([column, extra])
    columns[ARENA] = arena
    order = np.lexsort(
        (
            np.concatenate([np.zeros(len(rows), np.int64), 1 + np.arange(len(gone))]),
            np.concatenate([rows, np.array([row for row, _ in gone], np.int64)]),
        )
    )
    table = EntryTable(tuple(columns), "archive")[order]
    table.order = "archive"
    return table


def _clean_xattrs(table: EntryTable) -> tuple[EntryTable, int]:
    """Drop overlay's own xattrs (65) and take the root id out of capabilities (63)."""
    dropped = 0
    columns = list(table.columns)
    for row in np.flatnonzero(table.ext_len > 0).tolist():
        items = [(n, v) for tag, n, v in table.extras(row) if tag == EXT_XATTR]
        kept = [(n, _capability(v) if n == b"security.capability" else v) for n, v in items if not n.startswith(OVERLAY_XATTRS)]
        if kept == items:
            continue
        dropped += len(items) - len(kept)
        run = b"".join(struct.pack("<BHI", EXT_XATTR, len(n), len(v)) + n + v for n, v in kept)
        columns[AT["ext_off"]][row], columns[AT["ext_len"]][row] = len(columns[ARENA]), len(run)
        columns[ARENA] = np.concatenate([columns[ARENA], np.frombuffer(run, np.uint8)])
    return EntryTable(tuple(columns), table.order), dropped


def _capability(value: bytes) -> bytes:
    """Return a version 3 capability as version 2: its root id means nothing outside its namespace (63)."""
    if len(value) != 24:
        return value
    magic = int.from_bytes(value[:4], "little")
    if magic & _REVISION != _CAPABILITY_V3:
        return value
    return (magic & ~_REVISION | _CAPABILITY_V2).to_bytes(4, "little") + value[4:20]


def empty_table() -> EntryTable:
    """Return a table of no rows, in path order."""
    return EntryTable(TableBuilder("tree", 1, 1).finish(), "path")
