"""Tables made of paths alone, and of other tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamella._kernels import index
from lamella.columns import ARENA, AT, COLUMNS
from lamella.errors import LimitExceededError
from lamella.table import EntryTable
from lamella.tree.root import split

__all__ = ["OF_DIR", "concatenated", "named", "path_table"]

OF_DIR = AT["data_off"]  # the column that a table of a directory has not
_MAX_PATH = 0xFFFF


def path_table(paths: Iterable[bytes]) -> EntryTable:
    """Return a table in path order of ``paths``, of every directory on the way to them, and of the root.

    All but the names is zero. LimitExceededError for a path that a table cannot hold.
    """
    return named(_completed(paths))


def _completed(paths: Iterable[bytes]) -> set[bytes]:
    names = {b""}
    for path in paths:
        while path not in names:
            names.add(path)
            path = split(path)[0]  # noqa: PLW2901
    return names


def named(paths: Iterable[bytes]) -> EntryTable:
    """Return a table in path order of ``paths`` (no duplicates) and nothing else; as path_table()."""
    ordered = list(paths)
    lengths = np.array([len(name) for name in ordered], np.int64)
    if len(lengths) and lengths.max() > _MAX_PATH:
        longest = ordered[int(lengths.argmax())]
        raise LimitExceededError("path", len(longest), entry=longest)
    columns: list[Any] = [np.zeros(len(ordered), kind) for _, kind in COLUMNS]
    columns[OF_DIR] = None
    columns[AT["path_len"]][:] = lengths
    columns[AT["name_off"]][:] = np.cumsum(lengths) - lengths
    columns[AT["link_group"]][:] = -1
    columns[ARENA] = np.frombuffer(b"".join(ordered) or b"\0", np.uint8)
    rows = np.arange(len(ordered), dtype=np.int64)
    index.sort(tuple(columns), rows, np.empty_like(rows))  # "/" is lowest there, not in bytes
    return EntryTable(tuple(c if c is None or i == ARENA else c[rows] for i, c in enumerate(columns)), "path")


def concatenated(tables: Sequence[EntryTable]) -> tuple[EntryTable, NDArray[np.int64]]:
    """Return the rows of tables of directories in path order, and for each its number in the row of all tables.

    No path may stand in two of them. Link groups are those of each table.
    """
    arena_offs = np.cumsum([0] + [len(table.columns[ARENA]) for table in tables])
    row_offs = np.cumsum([0] + [len(table) for table in tables])
    columns: list[Any] = []
    for name, i in AT.items():
        if i == OF_DIR:
            columns.append(None)
            continue
        parts = [table.columns[i] for table in tables]
        if name in ("name_off", "ext_off"):
            parts = [part + off for part, off in zip(parts, arena_offs, strict=False)]
        elif name == "link_group":
            parts = [np.where(part < 0, part, part + off) for part, off in zip(parts, row_offs, strict=False)]
        columns.append(np.concatenate(parts).astype(COLUMNS[i][1], copy=False))
    order = np.arange(int(row_offs[-1]), dtype=np.int64)
    index.sort(tuple(columns), order, np.empty_like(order))
    table = EntryTable(tuple(columns), "archive")[order]
    table.order = "path"
    return table, order
