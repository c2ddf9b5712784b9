"""Owner ids on their way into a layer: those of the host become those of the container (tests/contract 70, 71)."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from lamella.columns import AT, Columns
from lamella.errors import FormatError
from lamella.model import IdMap
from lamella.table import EntryTable

__all__ = ["container_owners"]

_N_IDS = (1 << 32) - 1  # the last one means "none" to the kernel (chown(2))
_FILE, _CHAR = ord("0"), ord("3")


def _inverse(host: NDArray[np.int64], ranges: tuple[tuple[int, int, int], ...]) -> NDArray[np.int64]:
    """Map host ids to container ids by the first range that holds them, -1 where none does."""
    out = np.full(len(host), -1, np.int64)
    for container, first, count in reversed(ranges):
        if max(container, first) >= _N_IDS:
            continue
        end = min(first + count, first + _N_IDS - container, _N_IDS)
        held = (host >= first) & (host < end)
        out[held] = host[held] - first + container
    return out


def _whiteouts(table: EntryTable, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell which rows are whiteouts, in either spelling: they belong to nobody on the host."""
    types = table.type[rows]
    out: NDArray[np.bool_] = (types == _CHAR) & (table.rdev_major[rows] == 0) & (table.rdev_minor[rows] == 0)
    for i in np.flatnonzero((types == _FILE) & (table.size[rows] == 0)).tolist():
        out[i] = table.path(int(rows[i])).rpartition(b"/")[2].startswith(b".wh.")
    return out


def container_owners(table: EntryTable, rows: NDArray[np.int64], idmap: IdMap | None) -> Columns:
    """Return the columns of ``table`` with the owners of ``rows`` (row numbers) as the container sees them.

    FormatError names the first entry whose id no range holds; with ``idmap.squash`` it goes to the caller's own id in
    the container, to 0 where the caller has none. Whiteouts keep their ids.
    """
    if idmap is None:
        return table.columns
    columns = list(table.columns)
    mapped = rows[~_whiteouts(table, rows)]
    for name, ranges, own in (("uid", idmap.uid, os.geteuid()), ("gid", idmap.gid, os.getegid())):
        ids = table.columns[AT[name]].copy()
        inside = _inverse(ids[mapped].astype(np.int64), ranges)
        missing = np.flatnonzero(inside < 0)
        if len(missing) and not idmap.squash:
            row = int(mapped[missing[0]])
            spelled = ",".join(":".join(map(str, r)) for r in ranges)
            raise FormatError(f"{name} {ids[row]} is not in the map {spelled}", entry=table.path(row))
        inside[missing] = max(0, int(_inverse(np.array([own], np.int64), ranges)[0]))
        ids[mapped] = inside
        columns[AT[name]] = ids
    return tuple(columns)
