"""What the tests of the walking kernel share: its loop with memory of any size, and a table in words of the listing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lamella._kernels import walk
from lamella.columns import ARENA, COLUMNS, Columns
from lamella.table import EntryTable
from lamella.testing.listing import Found
from lamella.tree import scan

N_STATE = len(scan._STATE)
AT = scan._AT
OUTPUT_FULL, AT_END, SPECIAL = 2, 3, 4
ROAD_AT, ROAD_CWD, SELINUX = 1, 2, 4
KINDS = {"0": "file", "2": "symlink", "3": "char", "4": "block", "5": "dir", "6": "fifo"}


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """Lend a descriptor of a directory."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def empty_columns(rows: int, arena: int) -> Columns:
    """Return columns of a tree's table with room for so many rows and bytes."""
    return tuple(
        None if name == "data_off" else np.zeros(arena if i == ARENA else rows, kind)
        for i, (name, kind) in enumerate(COLUMNS)
    )


class Walk:
    """A walk whose memory is exactly as large as asked for; ``fit`` makes each array (a guarded one, say)."""

    def __init__(self, fd: int, *, rows: int = 8, arena: int = 8192, scratch: int = 1 << 16, max_fds: int = 64,
                 options: int = ROAD_AT, fit: Callable[[Any], Any] = np.array) -> None:  # fmt: skip
        self.fd, self.options, self.fit = fd, options, fit
        self.columns = tuple(None if c is None else fit(c) for c in empty_columns(rows, arena))
        self.scratch = fit(np.zeros(-(-scratch // 8) * 8, np.uint8))
        self.state = np.zeros(N_STATE, np.int64)
        self.state[AT["max_fds"]] = max_fds
        self.special: list[tuple[int, bytes]] = []
        self.n_full = 0

    def get(self, item: str) -> int:
        return int(self.state[AT[item]])

    def step(self) -> int:
        """Call the kernel once and do what its verdict asks for."""
        status = walk.rows(self.fd, self.columns, self.state, self.scratch, self.options)
        if status == OUTPUT_FULL:
            self.n_full += 1
            self.grow()
        elif status == SPECIAL:
            begin = self.get("path_off")
            self.special.append((self.get("special"), bytes(self.columns[ARENA][begin:][: self.get("path_len")])))
        return status

    def grow(self) -> None:
        """Give no more than what was asked for."""
        rows, arena = self.get("rows") + self.get("need_rows"), self.get("arena") + self.get("need_arena")
        assert self.get("need_rows") or self.get("need_arena") or self.get("need_scratch") > len(self.scratch)
        self.columns = tuple(self._grown(c, arena if i == ARENA else rows) for i, c in enumerate(self.columns))
        self.scratch = self._grown(self.scratch, -(-self.get("need_scratch") // 8) * 8)

    def _grown(self, column: Any, n: int) -> Any:
        if column is None or n <= len(column):
            return column
        longer = np.zeros(n, column.dtype)
        longer[: len(column)] = column
        return self.fit(longer)

    def run(self) -> EntryTable:
        """Go on to the end."""
        try:
            while self.step() != AT_END:
                pass
        finally:
            self.release()
        return self.table()

    def release(self) -> None:
        walk.release(self.state, self.scratch)

    def table(self) -> EntryTable:
        n, n_linked = self.get("rows"), self.get("linked")
        walk.link(self.columns, n, np.zeros(1 << (n_linked + 2).bit_length(), np.uint32), 7)
        return EntryTable(tuple(c if c is None or i == ARENA else c[:n] for i, c in enumerate(self.columns)), "path")


def facts(table: EntryTable) -> list[tuple[Any, ...]]:
    """Return all of a table that does not depend on where in the arena things stand."""
    plain = [table.columns[i].tolist() for i, (name, _) in enumerate(COLUMNS)
             if name not in {"name_off", "ext_off", "data_off", "arena"}]  # fmt: skip
    return [
        (path, link, sorted(table.xattrs(i).items()), *values)
        for i, (path, link, *values) in enumerate(zip(table.paths, table.link_targets, *plain, strict=True))
    ]


def found(table: EntryTable) -> dict[bytes, Found]:
    """Say a table in words of lamella.testing.listing, contents left out."""
    names: dict[int, list[bytes]] = {}
    for row, group in enumerate(table.link_group.tolist()):
        if group >= 0:
            names.setdefault(group, []).append(table.path(row))
    return {
        entry.path: Found(
            type=KINDS[entry.type.value],
            mode=entry.mode,
            uid=entry.uid,
            gid=entry.gid,
            size=len(entry.link_target) if entry.type.value == "2" else entry.size,
            mtime_ns=entry.mtime_ns,
            rdev=(entry.rdev_major, entry.rdev_minor),
            links=tuple(sorted(names.get(int(table.link_group[row]), []))),
            target=entry.link_target,
            xattrs=tuple(sorted(entry.xattrs.items())),
            sha256="",
        )
        for row, entry in enumerate(table)
    }
