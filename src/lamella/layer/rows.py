"""The rows of a layer on its way into a root, and the index of what it made.

Rows come from the tar, and are added for directories that have no entry. A row may move: where its path really leads.
"""

from __future__ import annotations

import os
import struct
from typing import Any

import numpy as np

from lamella._kernels import index
from lamella.columns import AT, F_EXISTED, F_HOST, F_IMPLIED, F_SKIP, TableBuilder
from lamella.tree.root import ancestors, join, split

__all__ = ["DIR", "SEED", "LayerRows"]

SEED = int.from_bytes(os.urandom(8), "little")
DIR = ord("5")
_XATTR = struct.Struct("<BHI")


class LayerRows:
    """Rows in ``builder``; those below ``_at`` are placed."""

    def __init__(self) -> None:
        self.builder = TableBuilder("tar")
        self.n_implied = 0
        self._implied: list[int] = []
        self._gone: dict[bytes, tuple[int, int]] = {}  # removed directory -> rows placed and rows in the table by then
        self._nondirs: set[bytes] = set()
        self._n_retaken = self._n_sifted = 0
        self._slots = np.zeros(1 << 13, np.uint32)
        self._at = self._end = 0

    def _n_twice(self) -> int:
        """Rows that took over a path without enter()."""
        return 0

    def column(self, name: str) -> np.ndarray[Any, Any]:
        """Return a column of the rows so far; valid until the next row is added."""
        column: np.ndarray[Any, Any] = self.builder.columns[AT[name]]
        return column

    def path(self, row: int) -> bytes:
        """Return the path of ``row``."""
        begin, n = int(self.column("name_off")[row]), int(self.column("path_len")[row])
        return bytes(self.column("arena")[begin : begin + n])

    def link_target(self, row: int) -> bytes:
        """Return the link target of ``row``."""
        begin = int(self.column("name_off")[row]) + int(self.column("path_len")[row])
        return bytes(self.column("arena")[begin : begin + int(self.column("link_len")[row])])

    def find(self, path: bytes) -> int:
        """Return the row that this layer made ``path`` by, or -1: entries so far and the parents they imply."""
        row: int = index.find(self._slots, SEED, self.builder.columns, path)
        return -1 if row >= 0 and self._stale(row, path) else row

    def _stale(self, row: int, path: bytes) -> bool:
        """Tell whether ``row`` made what went when a directory above ``path`` was removed."""
        if not self._gone:
            return False
        host = int(self.column("flags")[row]) & (F_IMPLIED | F_HOST) != 0
        return any(row < self._gone[at][host] for at in ancestors(path) if at in self._gone)

    def forget(self, path: bytes) -> None:
        """Note that the directory ``path`` was removed with all that this layer made in it."""
        self._gone[path] = (self._at, self.builder.n_rows)

    def made(self, path: bytes) -> bool:
        """Tell whether this layer made ``path``, or something below it."""
        return self.find(path) >= 0

    def enter(self, row: int) -> None:
        """Note in the index that ``row`` was made."""
        self._room(0)
        self._n_retaken += index.insert(self._slots, SEED, self.builder.columns, row, row + 1)

    def move_all(self, row: int, parent: bytes, real: bytes, fixed: set[bytes]) -> None:
        """Move ``row``, and the rows of ``parent`` that follow up to a name of ``fixed``, to the directory ``real``."""
        for at in range(row, self._end):
            folder, name = split(self.path(at))
            if at > row and (folder != parent or name.startswith(b".wh.")):
                break
            self.move(at, join(real, name))
            if name in fixed:
                break

    def move(self, row: int, path: bytes) -> None:
        """Give ``row`` another path: where it really goes, when its own leads through a symlink."""
        self._write(row, path, path + self.link_target(row))

    def _write(self, row: int, path: bytes, text: bytes) -> None:
        self.builder.grow(rows=0, arena=len(text))
        at = self.builder.arena_used
        self.column("arena")[at : at + len(text)] = np.frombuffer(text, np.uint8)
        self.column("name_off")[row], self.column("path_len")[row] = at, len(path)
        self.builder.arena_used += len(text)

    def retarget(self, row: int, target: bytes) -> None:
        """Make the hard link ``row`` one to ``target``."""
        path = self.path(row)
        self.column("link_len")[row] = len(target)
        self._write(row, path, path + target)

    def repeat(self, row: int, path: bytes) -> int:
        """Add a row that makes what ``row`` makes, at ``path``."""
        builder = self.builder
        builder.grow(rows=1)
        new = builder.n_rows
        for i, column in enumerate(builder.columns):
            if i != AT["arena"] and column is not None:
                column[new] = column[row]
        self.column("flags")[new] &= ~np.uint8(F_SKIP)
        builder.n_rows += 1
        self._write(new, path, path + self.link_target(row))
        return new

    def imply(self, path: bytes, mtime_ns: int, status: os.stat_result | None = None,
              xattrs: dict[bytes, bytes] | None = None) -> int:
        """Add a row for a directory that has no entry: only its mtime is set at the end, or all of ``status``."""
        run = b"".join(_XATTR.pack(1, len(k), len(v)) + k + v for k, v in sorted((xattrs or {}).items()))
        builder = self.builder
        builder.grow(rows=1, arena=len(path) + len(run))
        row, at = builder.n_rows, builder.arena_used
        values = {
            "type": DIR, "flags": F_IMPLIED if status is None else F_EXISTED | F_HOST, "mode": 0o755, "name_off": at,
            "path_len": len(path), "ext_off": at + len(path), "ext_len": len(run), "data_off": -1, "link_group": -1,
            "mtime": mtime_ns // 1_000_000_000, "mtime_nsec": mtime_ns % 1_000_000_000,
        }  # fmt: skip
        if status is not None:
            values |= {"mode": status.st_mode & 0o7777, "uid": status.st_uid, "gid": status.st_gid}
        for name, i in AT.items():
            if name != "arena" and builder.columns[i] is not None:
                builder.columns[i][row] = values.get(name, 0)
        self.column("arena")[at : at + len(path) + len(run)] = np.frombuffer(path + run, np.uint8)
        builder.n_rows += 1
        builder.arena_used += len(path) + len(run)
        self.n_implied += 1
        self._implied.append(row)
        self.enter(row)
        return row

    def renew(self, row: int) -> None:
        """Make an implied directory a new one: what it was below is hidden (13)."""
        own = {"uid": os.geteuid(), "gid": os.getegid(), "mode": 0o755, "mtime": 0, "mtime_nsec": 0, "ext_len": 0}
        for name, value in {"flags": F_EXISTED | F_HOST, **own}.items():
            self.column(name)[row] = value

    def renew_implied(self, tops: set[bytes], below: set[bytes]) -> None:
        """Renew the implied directories that are one of ``tops`` or lie under one, or lie under one of ``below``."""
        for row in self._implied:
            path = self.path(row)
            above = ancestors(path)[:-1]
            if not path or self.find(path) != row:
                continue
            if path in tops or b"" in below or not tops.isdisjoint(above) or not below.isdisjoint(above):
                self.renew(row)

    def nondirs(self) -> set[bytes]:
        """Return the paths that this layer, at any time so far, made something else than a directory of.

        Empty as long as no path can have been made twice: they are asked for where a directory stands now.
        """
        if not self._n_retaken and not self._n_twice():
            return set()
        kinds = self.column("type")[self._n_sifted : self._at]
        self._nondirs.update(map(self.path, (np.flatnonzero(kinds != DIR) + self._n_sifted).tolist()))
        self._n_sifted = max(self._at, self._n_sifted)
        return self._nondirs

    def _room(self, more: int) -> None:
        rows = self.builder.n_rows + more
        if rows * 4 // 3 + 2 > len(self._slots):
            larger = np.zeros(1 << (rows * 4 // 3 + 2).bit_length(), np.uint32)
            index.refill(larger, SEED, self.builder.columns, self._slots)
            self._slots = larger
