"""One layer on its way into a root: rows as they are scanned, the index of what the layer made, the placing kernel.

What the kernel cannot decide alone it hands to a *decider* (layer/decide.py) by a code, row by row.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from lamella._kernels import index, place
from lamella.columns import AT, F_EXISTED, F_HOST, F_IMPLIED, TableBuilder
from lamella.errors import ConflictError, UnsupportedMediaType
from lamella.model import IdMap, Limits
from lamella.table import EntryTable
from lamella.tar.scanner import Scanner
from lamella.tree.root import Root, ancestors, join, split

__all__ = ["Placement"]

_SEED = int.from_bytes(os.urandom(8), "little")
_DIR = ord("5")
_WARNINGS = 4096
_MAX_TRIES = 8  # a row has few obstacles; more means that one of them does not go away
_MESSAGES = {
    1: "the file system does not keep this xattr",
    2: "xattr refused by the kernel",
    3: "overlay's own xattr dropped",
    4: "trusted xattr dropped",
    5: "time clamped by the file system",
    6: "xattr name that cannot be set",
}
_OF_XATTRS = {1, 2, 3, 4, 6}
_XATTR = struct.Struct("<BHI")


def _ranges(ranges: tuple[tuple[int, int, int], ...], squash: bool, own: int) -> np.ndarray[Any, Any]:
    triples = [*ranges, (-1, own, 1)] if squash else [*ranges]  # -1: whatever no range holds
    return np.array(triples, np.int64).reshape(-1)


class Placement:
    """Places the rows of one layer below ``root``; ``options`` are those of the place kernel."""

    def __init__(self, root: Root, options: int, limits: Limits, idmap: IdMap | None) -> None:
        self.root = root
        self.builder = TableBuilder("tar")
        self.scanner = Scanner(limits, self.builder)
        self.special: Callable[[int, int], bool] = _undecided
        self.n_implied = 0
        self.idmap = idmap
        self.batch: place.Batch | None = None  # whose servers help
        self._implied: list[int] = []
        self._gone: dict[bytes, tuple[int, int]] = {}  # removed directory -> rows placed and rows in the table by then
        self._nondirs: set[bytes] = set()
        self._n_retaken = self._n_sifted = 0
        self._slots = np.zeros(1 << 13, np.uint32)
        self._state = np.zeros(place.STATE_NBYTES, np.uint8)
        self._found = np.zeros(2 * _WARNINGS, np.int64)
        self._uids = None if idmap is None else _ranges(idmap.uid, idmap.squash, os.geteuid())
        self._gids = None if idmap is None else _ranges(idmap.gid, idmap.squash, os.getegid())
        self._next = self._at = self._end = 0
        place.open_state(self._state, root.fd, options)

    # -- rows -----------------------------------------------------------------------------------------------------

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

    def xattrs(self, row: int) -> list[bytes]:
        """Return the names of the xattrs of ``row``."""
        return list(EntryTable(self.builder.snapshot(), "archive").xattrs(row))

    def find(self, path: bytes) -> int:
        """Return the row that this layer made ``path`` by, or -1: entries so far and the parents they imply."""
        row: int = index.find(self._slots, _SEED, self.builder.columns, path)
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
        self._n_retaken += index.insert(self._slots, _SEED, self.builder.columns, row, row + 1)

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
        text = path + self.link_target(row)
        self.builder.grow(rows=0, arena=len(text))
        at = self.builder.arena_used
        self.column("arena")[at : at + len(text)] = np.frombuffer(text, np.uint8)
        self.column("name_off")[row], self.column("path_len")[row] = at, len(path)
        self.builder.arena_used += len(text)

    def imply(self, path: bytes, mtime_ns: int, status: os.stat_result | None = None,
              xattrs: dict[bytes, bytes] | None = None) -> int:
        """Add a row for a directory that has no entry: only its mtime is set at the end, or all of ``status``."""
        run = b"".join(_XATTR.pack(1, len(k), len(v)) + k + v for k, v in sorted((xattrs or {}).items()))
        builder = self.builder
        builder.grow(rows=1, arena=len(path) + len(run))
        row, at = builder.n_rows, builder.arena_used
        values = {
            "type": _DIR, "flags": F_IMPLIED if status is None else F_EXISTED | F_HOST, "mode": 0o755, "name_off": at,
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
        if not self._n_retaken and not place.counters(self._state)[2]:
            return set()
        kinds = self.column("type")[self._n_sifted : self._at]
        self._nondirs.update(map(self.path, (np.flatnonzero(kinds != _DIR) + self._n_sifted).tolist()))
        self._n_sifted = max(self._at, self._n_sifted)
        return self._nondirs

    def _room(self, more: int) -> None:
        rows = self.builder.n_rows + more
        if rows * 4 // 3 + 2 > len(self._slots):
            larger = np.zeros(1 << (rows * 4 // 3 + 2).bit_length(), np.uint32)
            index.refill(larger, _SEED, self.builder.columns, self._slots)
            self._slots = larger

    # -- placing --------------------------------------------------------------------------------------------------

    def feed(self, chunk: memoryview, offset: int) -> None:
        """Scan ``chunk``, the stream's bytes from ``offset`` on, and make what is in it."""
        end = self._end = self.scanner.feed(chunk)
        self._room(64)
        if offset == 0:
            self._refuse_windows(end)
        at, asked = self._next, (-1, 0)
        while True:
            at, special = place.place(
                self._state, self.builder.columns, at, end, chunk, offset, self._slots, _SEED, self._uids, self._gids,
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

    def _refuse_windows(self, end: int) -> None:
        # 95: the two trees of a Windows layer stand at its very beginning
        tops = {self.path(row).partition(b"/")[0] for row in range(min(end, 256))}
        if b"Hives" in tops and b"Files" in tops:
            raise UnsupportedMediaType("a Windows layer (Files, Hives) can be read but not applied")

    def push(self, path: bytes, fd: int) -> None:
        """Make ``fd`` the directory in which rows below ``path`` are made; the kernel owns it from now on."""
        place.push(self._state, path, fd)

    def reset(self) -> None:
        """Forget every directory: one was removed or replaced."""
        place.reset(self._state)

    def finish(self, *, restore: bool) -> None:
        """Give directories their metadata, children first; ``restore``: their time to those without an entry too (54)."""
        self.scanner.finish()
        is_dir = self.column("type")[: self.builder.n_rows] == _DIR
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

    def warnings(self) -> list[str]:
        """What the kernel noted, a line a kind with its first path and the number of others."""
        n = place.counters(self._state)[3]
        pairs = self._found[: 2 * n].reshape(-1, 2)
        lines = []
        for code, message in _MESSAGES.items():
            rows = pairs[pairs[:, 1] == code, 0]
            if len(rows):
                path = os.fsdecode(self.path(int(rows[0]))).encode("utf-8", "replace").decode()
                if code in _OF_XATTRS:
                    path += f" ({', '.join(sorted(os.fsdecode(n) for n in self.xattrs(int(rows[0]))))})"
                more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
                lines.append(f"{message}: {path}{more}")
        return lines


def _undecided(special: int, row: int) -> bool:
    raise ValueError(f"row {row} needs a decision ({special}) and nobody makes it")
