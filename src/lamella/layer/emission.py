"""The rows of a changed tree as the table of a layer: whiteouts put in, and what does not leave a host taken out."""

from __future__ import annotations

import re
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamella._kernels import changes as kernel
from lamella.columns import ARENA, AT, EXT_SPARSE, EXT_XATTR, F_SPARSE
from lamella.errors import LimitExceededError, WhiteoutError
from lamella.layer.whiteout import PREFIX
from lamella.table import EntryTable
from lamella.tree.root import split

__all__ = ["Whiteout", "clean_xattrs", "joined", "with_sparse"]

Whiteout = tuple[int, bytes]  # row of its directory in the upper table, -1 for none, and its own path

_OVERLAY = (b"trusted.overlay.", b"user.overlay.")
_CAPABILITY = b"security.capability"
_V2, _V3, _REVISION, _V3_NBYTES = 0x02000000, 0x03000000, 0xFF000000, 24
_SUSPECT = re.compile(rb"(?:trusted|user)\.overlay\.|security\.capability")
_MAX_PATH = 0xFFFF
_ITEM = struct.Struct("<BHI")


def joined(upper: EntryTable, rows: NDArray[np.int64], gone: list[Whiteout]) -> EntryTable:
    """Return ``rows`` (ascending) of ``upper``, each whiteout behind the row of its directory, in an arena of its own.

    Where a directory has no row here, its whiteouts stand where it would. WhiteoutError for a name that would be read
    back as a whiteout (tests/contract 8).
    """
    columns = list(upper[rows].columns)  # copies, but for the arena
    names = b"".join(path for _, path in gone)
    nbytes = kernel.compact(tuple(columns))
    arena = np.empty(max(nbytes + len(names), 1), np.uint8)
    kernel.compact(tuple(columns), arena)
    columns[ARENA] = arena
    table = EntryTable(tuple(columns), "path")
    _check_names(table, nbytes)
    if not gone:
        return table
    arena[nbytes : nbytes + len(names)] = np.frombuffer(names, np.uint8)
    table = EntryTable(_with_whiteouts(table, [path for _, path in gone], nbytes), "archive")
    owner = np.concatenate([2 * rows, 2 * np.array([row for row, _ in gone], np.int64) + 1])
    table = table[np.argsort(owner, kind="stable")]
    table.order = "archive"
    return table


def _check_names(table: EntryTable, nbytes: int) -> None:
    if re.search(re.escape(PREFIX), memoryview(table.columns[ARENA])[:nbytes]) is None:
        return
    for path in table.paths:
        if split(path)[1].startswith(PREFIX):
            raise WhiteoutError("a name that a layer cannot hold", entry=path)


def _with_whiteouts(table: EntryTable, paths: list[bytes], begin: int) -> tuple[NDArray[np.generic] | None, ...]:
    """Append one row for each path; the paths stand in the arena from ``begin`` on. All they hold is zero (22)."""
    lengths = np.array([len(path) for path in paths], np.int64)
    longest = int(lengths.argmax())
    if lengths[longest] > _MAX_PATH:
        raise LimitExceededError("path", int(lengths[longest]), entry=paths[longest])
    fills = {
        "type": ord("0"),
        "link_group": -1,
        "data_off": -1,
        "path_len": lengths,
        "name_off": begin + np.cumsum(lengths) - lengths,
    }
    columns = []
    for name, i in AT.items():
        column = table.columns[i]
        if column is not None and i != ARENA:
            more = np.zeros(len(paths), column.dtype)
            more[:] = fills.get(name, 0)
            column = np.concatenate([column, more])
        columns.append(column)
    return tuple(columns)


def with_sparse(table: EntryTable, regions: dict[int, bytes]) -> EntryTable:
    """Return ``table`` with the data regions of rows, int64 pairs (offset, nbytes), among their extras."""
    if not regions:
        return table
    columns: list[Any] = [None if c is None or i == ARENA else c.copy() for i, c in enumerate(table.columns)]
    arena, runs, end = table.columns[ARENA], [], len(table.columns[ARENA])
    for row, value in regions.items():
        begin, n = int(table.ext_off[row]), int(table.ext_len[row])
        run = arena[begin : begin + n].tobytes() + _ITEM.pack(EXT_SPARSE, 0, len(value)) + value
        columns[AT["ext_off"]][row], columns[AT["ext_len"]][row] = end, len(run)
        columns[AT["flags"]][row] |= F_SPARSE
        runs.append(run)
        end += len(run)
    columns[ARENA] = np.concatenate([arena, np.frombuffer(b"".join(runs), np.uint8)])
    return EntryTable(tuple(columns), table.order)


def clean_xattrs(table: EntryTable, *, nested: bool = False) -> tuple[EntryTable, int]:
    """Leave out overlay's own xattrs (65) and the root id of capabilities (63); return how many were left out.

    ``nested``: overlay's own are gone already, what looks like them belongs to a nested overlay and stays (27).
    """
    arena = table.columns[ARENA]
    if _SUSPECT.search(memoryview(arena)) is None:
        return table, 0
    ext_off, ext_len = table.ext_off.copy(), table.ext_len.copy()
    rows = np.flatnonzero(ext_len)
    _, first, which = np.unique(ext_off[rows], return_index=True, return_inverse=True)
    new_off, new_len = ext_off[rows[first]], ext_len[rows[first]]
    dropped = np.zeros(len(first), np.int64)
    runs, end = [], len(arena)
    for k, row in enumerate(rows[first].tolist()):  # rows share runs: there are few
        items = list(table.extras(row))
        kept = [item for item in items if nested or item[0] != EXT_XATTR or not item[1].startswith(_OVERLAY)]
        kept = [(tag, n, _capability(v) if n == _CAPABILITY else v) for tag, n, v in kept]
        if kept != items:
            run = b"".join(_ITEM.pack(tag, len(n), len(v)) + n + v for tag, n, v in kept)
            runs.append(run)
            new_off[k], new_len[k], dropped[k] = end, len(run), len(items) - len(kept)
            end += len(run)
    columns = list(table.columns)
    ext_off[rows], ext_len[rows] = new_off[which], new_len[which]
    columns[AT["ext_off"]], columns[AT["ext_len"]] = ext_off, ext_len
    columns[ARENA] = np.concatenate([arena, np.frombuffer(b"".join(runs), np.uint8)])
    return EntryTable(tuple(columns), table.order), int(dropped[which].sum())


def _capability(value: bytes) -> bytes:
    """Return a revision 3 capability as revision 2: its root id means nothing outside its user namespace (63)."""
    magic = int.from_bytes(value[:4], "little")
    if len(value) != _V3_NBYTES or magic & _REVISION != _V3:
        return value
    return (magic & ~_REVISION | _V2).to_bytes(4, "little") + value[4:20]
