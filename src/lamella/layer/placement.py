"""One layer on its way into a root: rows as they are scanned, and the placing kernel.

What the kernel cannot decide alone it hands to a *decider* (layer/decide.py) by a code, row by row.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from lamella._kernels import index, place
from lamella.columns import F_IMPLIED
from lamella.errors import ConflictError, UnsupportedMediaType
from lamella.layer.rows import DIR, SEED, LayerRows
from lamella.model import IdMap, Limits
from lamella.tar.scanner import Scanner
from lamella.tree.root import Root, split

__all__ = ["Placement"]

_WARNINGS = 4096
_MAX_TRIES = 8  # a row has few obstacles; more means that one of them does not go away


def _ranges(ranges: tuple[tuple[int, int, int], ...], squash: bool, own: int) -> np.ndarray[Any, Any]:
    triples = [*ranges, (-1, own, 1)] if squash else [*ranges]  # -1: whatever no range holds
    return np.array(triples, np.int64).reshape(-1)


class Placement(LayerRows):
    """Places the rows of one layer below ``root``; ``options`` are those of the place kernel."""

    def __init__(self, root: Root, options: int, limits: Limits, idmap: IdMap | None) -> None:
        super().__init__()
        self.root = root
        self.scanner = Scanner(limits, self.builder)
        self.special: Callable[[int, int], bool] = _undecided
        self.idmap = idmap
        self.batch: place.Batch | None = None  # whose servers help
        self.judge: Callable[[int, int], None] | None = None  # sees new rows first, and may flag them F_SKIP
        self._limits = limits
        self._state = np.zeros(place.STATE_NBYTES, np.uint8)
        self._found = np.zeros(2 * _WARNINGS, np.int64)
        self._uids = None if idmap is None else _ranges(idmap.uid, idmap.squash, os.geteuid())
        self._gids = None if idmap is None else _ranges(idmap.gid, idmap.squash, os.getegid())
        self._next = 0
        place.open_state(self._state, root.fd, options)

    def _n_twice(self) -> int:
        return place.counters(self._state)[2]

    def feed(self, chunk: memoryview, offset: int) -> None:
        """Scan ``chunk``, the stream's bytes from ``offset`` on, and make what is in it."""
        end = self._end = self.scanner.feed(chunk)
        self._room(64)
        if offset == 0:
            self._refuse_windows(end)
        if self.judge is not None:
            self.judge(self._next, end)
        self.place(self._next, end, chunk, offset)

    def place(self, at: int, end: int, chunk: memoryview, offset: int) -> int:
        """Make rows [at, end) as far as ``chunk`` has their bytes; return the row to go on with at the next chunk."""
        self._end, asked = end, (-1, 0)
        while True:
            at, special = place.place(
                self._state, self.builder.columns, at, end, chunk, offset, self._slots, SEED, self._uids, self._gids,
                self._found, self.batch,
            )  # fmt: skip
            if not special:
                break
            self._at, asked = at, (at, asked[1] + 1 if asked[0] == at else 0)
            if asked[1] > _MAX_TRIES:
                raise ConflictError(self.path(at), "what stands in its way stays there")
            if self.special(special, at):
                at += 1
            self._room(64)
        self._next = self._at = self.builder.n_rows  # rows that deciders added are made already
        return at

    def _refuse_windows(self, end: int) -> None:
        # 95: the two trees of a Windows layer stand at its very beginning
        tops = {self.path(row).partition(b"/")[0] for row in range(self._next, min(end, self._next + 256))}
        if b"Hives" in tops and b"Files" in tops:
            raise UnsupportedMediaType("a Windows layer (Files, Hives) can be read but not applied")

    def push(self, path: bytes, fd: int) -> None:
        """Make ``fd`` the directory in which rows below ``path`` are made; the kernel owns it from now on."""
        place.push(self._state, path, fd)

    def reset(self) -> None:
        """Forget every directory: one was removed or replaced."""
        place.reset(self._state)

    def end_layer(self) -> None:
        """Say that the stream ends here; what is fed next is another one."""
        self.scanner.finish()
        self.scanner = Scanner(self._limits, self.builder)

    def finish(self, *, restore: bool, entries: np.ndarray[Any, Any] | None = None) -> None:
        """Give directories their metadata, children first; ``restore``: their time to those without an entry too (54).

        ``entries``: the rows that do, instead of all that are a directory's entry.
        """
        is_dir = self.column("type")[: self.builder.n_rows] == DIR
        if entries is not None:
            is_dir &= self.column("flags")[: self.builder.n_rows] & F_IMPLIED != 0
            is_dir[entries] = True
        is_dir[[row for row in self._implied if self.find(self.path(row)) != row]] = False  # an entry came later
        if not restore:
            is_dir &= self.column("flags")[: self.builder.n_rows] & F_IMPLIED == 0
        if self._gone:
            is_dir[[row for row in np.flatnonzero(is_dir).tolist() if self._stale(row, self.path(row))]] = False
        rows = np.flatnonzero(is_dir).astype(np.int64)
        order = np.ascontiguousarray(rows[: index.sort(self.builder.columns, rows, np.empty_like(rows))][::-1])
        at = 0
        while at < len(order):  # the kernel stops where no directory stands any more
            at = 1 + place.finish(self._state, self.builder.columns, order, at, self._uids, self._gids, self._found)

    def close(self) -> None:
        """Close what is open. The file that was being written, if any, is removed."""
        row = place.counters(self._state)[4]
        place.reset(self._state)
        if row >= 0:
            path = self.path(row)
            parent, name = split(path)
            try:
                with self.root.dir(parent) as fd:
                    os.unlink(name, dir_fd=fd)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
                    raise

    @property
    def n_entries(self) -> int:
        """Entries of the layer so far."""
        return self.builder.n_rows - self.n_implied

    @property
    def counters(self) -> tuple[int, int]:
        """Regular files made, bytes written to them."""
        files, nbytes, *_ = place.counters(self._state)
        return files, nbytes

    def found(self, begin: int, end: int) -> np.ndarray[Any, Any]:
        """Return what the kernel noted of rows [begin, end): pairs (row, code of place.pxd, Warning)."""
        n = place.counters(self._state)[3]
        pairs: np.ndarray[Any, Any] = self._found[: 2 * n].reshape(-1, 2)
        return pairs[(pairs[:, 0] >= begin) & (pairs[:, 0] < end)]


def _undecided(special: int, row: int) -> bool:
    raise ValueError(f"row {row} needs a decision ({special}) and nobody makes it")
