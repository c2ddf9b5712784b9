"""The columns that tables keep, their codes, and the builder that kernels write them through."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["COLUMNS", "Columns", "TableBuilder"]

# name and item type of every column, in the order of _kernels/_rows.pxd; the last is the arena
COLUMNS: tuple[tuple[str, str], ...] = (
    ("type", "u1"), ("flags", "u1"), ("mode", "u2"), ("uid", "u4"), ("gid", "u4"), ("size", "i8"), ("mtime", "i8"),
    ("mtime_nsec", "u4"), ("rdev_major", "u4"), ("rdev_minor", "u4"), ("link_group", "i4"), ("name_off", "i8"),
    ("path_len", "u2"), ("link_len", "u2"), ("ext_off", "i8"), ("ext_len", "u4"), ("data_off", "i8"), ("dev", "u8"),
    ("ino", "u8"), ("arena", "u1"),
)  # fmt: skip
AT = {name: i for i, (name, _) in enumerate(COLUMNS)}
ARENA = AT["arena"]
EXT_XATTR, EXT_UNAME, EXT_GNAME, EXT_PAX, EXT_SPARSE, EXT_ATIME = 1, 2, 3, 4, 5, 6
F_ATIME, F_SPARSE, F_DOTDOT, F_GHOST, F_IMPLIED, F_EXISTED, F_HOST, F_SKIP = 1, 2, 4, 8, 16, 32, 64, 128

_MANY_ROWS, _MANY_BYTES = 1 << 16, 1 << 22  # room that a growing table is given at once

Columns = tuple[Any, ...]


class TableBuilder:
    """Growable columns for a kernel to write: ``columns`` has room for ``capacity`` rows, ``n_rows`` are in use.

    ``origin`` says which optional columns there are: ``"tar"`` (data_off) or ``"tree"`` (dev, ino).
    """

    def __init__(self, origin: Literal["tar", "tree"], rows: int = 4096, arena: int = 1 << 18) -> None:
        absent = (AT["dev"], AT["ino"]) if origin == "tar" else (AT["data_off"],)
        self._arrays: list[NDArray[Any] | None] = [
            None if i in absent else np.empty(arena if i == ARENA else rows, kind)
            for i, (_, kind) in enumerate(COLUMNS)
        ]
        self.capacity = rows
        self.arena_capacity = arena
        self.n_rows = 0
        self.arena_used = 0

    @property
    def columns(self) -> Columns:
        """The columns as kernels take them; taken anew after every grow()."""
        return tuple(self._arrays)

    def grow(self, rows: int = 0, arena: int = 0) -> None:
        """Make room for at least ``rows`` more rows and ``arena`` more arena bytes.

        What outgrows its beginnings moves to room for a whole tree at once: memory that is not touched costs nothing.
        From there on a sixteenth more than is there, so that memory follows use closely; resize() writes what it adds,
        but moves pages, not bytes.
        """
        if self.n_rows + rows > self.capacity:
            self.capacity = max(self.n_rows + rows, self.capacity + max(self.capacity // 16, 8192), _MANY_ROWS)
            self._resize(self.capacity, arena=False)
        if self.arena_used + arena > self.arena_capacity:
            step = max(self.arena_capacity // 16, 1 << 19)
            self.arena_capacity = max(self.arena_used + arena, self.arena_capacity + step, _MANY_BYTES)
            self._resize(self.arena_capacity, arena=True)

    def _resize(self, size: int, *, arena: bool) -> None:
        for i, array in enumerate(self._arrays):
            if array is None or (i == ARENA) != arena:
                continue
            if len(array) < size <= (_MANY_BYTES if arena else _MANY_ROWS):
                larger = np.empty(size, array.dtype)
                larger[: len(array)] = array
                self._arrays[i] = larger
            else:
                array.resize(size, refcheck=False)

    def snapshot(self) -> Columns:
        """Return the rows so far as columns that share memory with the builder: valid until the next grow()."""
        return tuple(
            a if a is None else a[: self.arena_used if i == ARENA else self.n_rows] for i, a in enumerate(self._arrays)
        )

    def finish(self) -> Columns:
        """Trim the columns and hand them over, ready for an EntryTable; the builder is empty afterwards."""
        self._resize(max(self.n_rows, 1), arena=False)
        self._resize(max(self.arena_used, 1), arena=True)
        columns = self.snapshot()
        self._arrays = []
        return columns
