"""What differs between two trees, and the rows of the layer that makes one of the other."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from lamella._kernels import changes as kernel
from lamella.columns import F_GHOST, TableBuilder
from lamella.errors import WhiteoutError
from lamella.layer.emission import clean_xattrs, joined
from lamella.layer.whiteout import OPAQUE, PREFIX
from lamella.model import ChangeKind, IdMap, Progress, Why
from lamella.table import Entry, EntryTable
from lamella.tar.payload import Chunks
from lamella.tar.writer import LayerInfo, Payload, write_layer
from lamella.tree.root import join, split

__all__ = ["Change", "Changeset"]

ADD, MODIFY, DELETE = 1, 2, 3
Road = Literal["walk", "upper", "search"]
_KINDS = {ADD: ChangeKind.ADD, MODIFY: ChangeKind.MODIFY, DELETE: ChangeKind.DELETE}
_WHY = 1023
_GIB = 1 << 30
_LARGE = 1 << 20  # smaller files have no hole that is worth a word


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


class Borrowing(Chunks, Protocol):
    """Content that is in several directories."""

    def with_holes(self, table: EntryTable, /) -> EntryTable:
        """Return ``table`` with the data regions of its files."""
        ...


class Changeset:
    """The changes that lead from table ``lower`` to table ``upper``, in path order; iterates :class:`Change`.

    A deleted subtree is one delete of its top. Content for :meth:`write` comes from the directory ``root``, or from what
    ``source`` opens. ``nested``: the tables are free of overlay's own attributes but those of a nested overlay, which
    stay (27). ``opaque``: rows of directories that hide what nobody knows. ``keeps``: where ``lower`` is not all that is
    below, what tells in which directories something of it is kept that has no row.

    ``road`` says how it came about: "walk" for a look at all of both trees, "upper" for one at an upper directory or a
    branch, "search" for one at what the file system says was touched. ``reasons``: why a faster road was not taken.
    """

    def __init__(
        self, lower: EntryTable, upper: EntryTable, rows: Rows, match: NDArray[np.int32], *,
        root: str | os.PathLike[str] | None = None, holes: int = 0, warnings: tuple[str, ...] = (),
        source: Callable[[], AbstractContextManager[Borrowing]] | None = None, nested: bool = False,
        opaque: tuple[int, ...] = (), keeps: Callable[[Collection[bytes]], set[bytes]] | None = None, road: Road = "walk",
    ) -> None:  # fmt: skip
        self.lower, self.upper, self.rows = lower, upper, rows
        self.warnings, self.road = warnings, road
        self.reasons: tuple[str, ...] = ()
        self._match, self._holes = match, holes
        self._source, self._nested, self._opaque, self._keeps = source, nested, opaque, keeps
        self._root = None if root is None else os.path.abspath(root)  # the process may go elsewhere before write()

    def __len__(self) -> int:
        return len(self.rows.kind)

    def __iter__(self) -> Iterator[Change]:
        rows, unknown = self.rows, self.lower.flags & F_GHOST
        for kind, low, up, why in zip(
            rows.kind.tolist(), rows.lower.tolist(), rows.upper.tolist(), rows.why.tolist(), strict=True
        ):
            before = self.lower[low] if low >= 0 and not unknown[low] else None
            after = self.upper[up] if kind != DELETE else None
            path = self.lower.path(low) if after is None else after.path
            yield Change(_KINDS[kind], path, before, after, Why(why & _WHY) if kind == MODIFY else Why(0))

    def table(self, whiteouts: Literal["explicit", "opaque"] = "explicit") -> EntryTable:
        """Return the layer's rows in the order they are written; whiteouts come first in their directory (18).

        For "opaque", a changeset that knows a part of the lower tree lists there the directories that may have kept
        nothing: OSError. WhiteoutError for a name of the upper tree that would be read back as a whiteout (8).
        """
        if whiteouts not in ("explicit", "opaque"):
            raise ValueError(f"whiteouts {whiteouts!r}; one of explicit, opaque")
        gone = self._gone(whiteouts == "opaque")
        return joined(self.upper, self._emitted([row for row, _ in gone]), gone)

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
        marked = set(self._opaque)
        if opaque:
            marked |= self._wiped({row for row, _ in gone if row >= 0} - marked)
            gone = [g for g in gone if g[0] not in marked]
        gone += [(row, join(self.upper.path(row), OPAQUE)) for row in marked]
        return sorted(gone)

    def _wiped(self, rows: set[int]) -> set[int]:
        """Return which directories, of those that lost a name, still show no lower name (19)."""
        if rows:
            rows = rows - set(self._parents()[self._match >= 0].tolist())
        if rows and self._keeps is not None:  # a marker would remove what has no row too
            paths = {self.upper.path(row): row for row in rows}
            rows = {paths[path] for path in paths.keys() - self._keeps(paths.keys())}
        return rows

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

    def write(
        self, out: Any, *, compression: str = "gzip", level: int | None = None,
        whiteouts: Literal["explicit", "opaque"] = "explicit", clamp_mtime: int | None = None,
        idmap: IdMap | None = None, sparse: Literal["pax"] | None = None, libarchive_xattr: bool = False,
        payload: Payload | None = None, progress: Callable[[Progress], None] | None = None,
    ) -> LayerInfo:  # fmt: skip
        """Write the changes as a layer to ``out``, a path or binary file object; see :func:`lamella.diff`.

        Content comes from the upper directory, or from ``payload`` as in :func:`lamella.write_layer` (a callable gets
        rows of :meth:`table`). ValueError where there is neither and content is wanted.
        """
        table, dropped = clean_xattrs(self.table(whiteouts), nested=self._nested)
        notes = list(self.warnings)
        if dropped:
            notes.append(f"{dropped} xattrs of overlay's own left out")
        if sparse is None and self._holes > _GIB:
            notes += self._holes_in(table)
        with contextlib.ExitStack() as stack:
            source = payload if payload is not None else self._root
            if payload is None and self._source is not None:
                source = content = stack.enter_context(self._source())
                table = content.with_holes(table) if sparse == "pax" else table
            if source is None and not np.any(table.size > 0):
                source = _empty
            if source is None:
                raise ValueError("a changeset of tables has no content to write: give directories, or a payload")
            info = write_layer(
                table, out, payload=source, compression=compression, level=level, clamp_mtime=clamp_mtime, idmap=idmap,
                sparse=sparse, libarchive_xattr=libarchive_xattr, progress=progress,
            )  # fmt: skip
        return replace(info, warnings=(*notes, *info.warnings))

    def _holes_in(self, table: EntryTable) -> list[str]:
        """Look how much of the layer's files is holes: the walk knows only how much of all files is (77)."""
        if self._root is None:
            return []
        holes: dict[tuple[int, int], tuple[int, bytes]] = {}
        for row in np.flatnonzero(table.size >= _LARGE).tolist():
            path = table.path(row)
            with contextlib.suppress(OSError):
                st = os.lstat(os.path.join(os.fsencode(self._root), path))
                holes[st.st_dev, st.st_ino] = max(0, st.st_size - 512 * st.st_blocks), path
        total = sum(n for n, _ in holes.values())
        if total <= _GIB:
            return []
        most = os.fsdecode(max(holes.values())[1])
        return [f"{total} bytes of holes are written as zeros, most of them in {most!r} (sparse='pax' keeps them)"]


def _empty(_row: int) -> bytes:
    return b""


def empty_table() -> EntryTable:
    """Return a table of no rows, in path order."""
    return EntryTable(TableBuilder("tree", 1, 1).finish(), "path")
