"""Two tables of trees -> the rows that differ: the steps that every comparison of trees shares."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lamella._kernels import changes as kernel
from lamella._kernels import content as content_kernel
from lamella.layer.changeset import DELETE, MODIFY, Rows
from lamella.model import Why
from lamella.table import EntryTable

__all__ = [
    "NESTED", "SAME", "Content", "compared", "decided", "inodes", "merged", "open_rows", "options_of", "settled", "with_links",
    "with_rows",
]  # fmt: skip

Content = Literal["auto", "always", "never"]

NESTED = 8
_ALWAYS, _NEVER, _DIR_MTIME = 1, 2, 4
SAME = 1
_UNDECIDED = 32768
_OUTPUT_FULL = 2
_BATCH = 1 << 14
_SCRATCH = 1 << 18
_SMALL = 4096  # bytes that could be read while a file is opened


def options_of(content: Content, dir_mtime: bool) -> int:
    """Return merged()'s options for those of :func:`lamella.changes`. ValueError."""
    if content not in ("auto", "always", "never"):
        raise ValueError(f"content {content!r}; one of auto, always, never")
    return {"auto": 0, "always": _ALWAYS, "never": _NEVER}[content] | (_DIR_MTIME if dir_mtime else 0)


def merged(lower: EntryTable, upper: EntryTable, options: int) -> tuple[Rows, NDArray[np.int32]]:
    """Merge two tables in path order: the rows that differ, and for each upper row the lower row of its path and type."""
    match = np.full(len(upper), -1, np.int32)
    state = np.zeros(4, np.int64)
    state[3] = -1
    parts: list[Rows] = []
    full = _OUTPUT_FULL
    while full == _OUTPUT_FULL:
        part = Rows(np.empty(_BATCH, np.uint8), np.empty(_BATCH, np.int32), np.empty(_BATCH, np.int32),
                    np.empty(_BATCH, np.uint16))  # fmt: skip
        state[2] = 0
        full = kernel.merge(
            lower.columns, upper.columns, state, options, part.kind, part.lower, part.upper, part.why, match
        )
        n = int(state[2])
        parts.append(Rows(part.kind[:n].copy(), part.lower[:n].copy(), part.upper[:n].copy(), part.why[:n].copy()))
    return Rows(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("kind", "lower", "upper", "why"))), match


def _keep(rows: Rows, mask: NDArray[Any]) -> Rows:
    return Rows(rows.kind[mask], rows.lower[mask], rows.upper[mask], rows.why[mask])


def open_rows(rows: Rows) -> NDArray[np.int64]:
    """Return which rows are changes only if the contents differ."""
    return np.flatnonzero(rows.why & _UNDECIDED)


def compared(  # noqa: PLR0917 - two of each
    lower: EntryTable, upper: EntryTable, low_fd: int, up_fd: int, low: NDArray[np.int64], up: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Compare the contents of rows ``low`` and ``up`` below two descriptors, on two threads: SAME or something else."""
    which: NDArray[np.int64] | slice = slice(None)
    if _linked(lower) or _linked(upper):  # the names of one file are compared once
        _, first, which = np.unique(low << 32 | up, return_index=True, return_inverse=True)
        low, up = low[first], up[first]
    verdicts = np.zeros(len(low), np.uint8)

    def compare(begin: int, end: int) -> None:
        scratch = np.empty(_SCRATCH, np.uint8)
        while begin < end:
            begin += content_kernel.same(
                low_fd, lower.columns, up_fd, upper.columns, low[begin:end], up[begin:end], verdicts[begin:end], scratch
            )

    cost = np.cumsum(upper.size[up] + _SMALL)
    half = int(np.searchsorted(cost, cost[-1] // 2))
    with ThreadPoolExecutor(2, "lamella-compare") as pool:
        for job in [pool.submit(compare, 0, half), pool.submit(compare, half, len(low))]:
            job.result()
    return verdicts[which]


def decided(rows: Rows, lower: EntryTable, upper: EntryTable, low_fd: int, up_fd: int) -> Rows:
    """Compare the contents of what metadata left open below two descriptors, -1 for none: ValueError if one is needed."""
    open_ = open_rows(rows)
    if not len(open_):
        return rows
    if low_fd < 0 or up_fd < 0:
        raise ValueError("contents must be compared and a table has none: give directories, or content='never'")
    low, up = inodes(lower, rows.lower[open_]), inodes(upper, rows.upper[open_])
    return settled(rows, open_, compared(lower, upper, low_fd, up_fd, low, up) == SAME)


def settled(rows: Rows, open_: NDArray[np.int64], same: NDArray[np.bool_]) -> Rows:
    """Return the rows without those of ``open_`` whose contents turned out to be the ``same``."""
    rows.why[open_] &= _UNDECIDED - 1
    rows.why[open_[~same]] |= Why.CONTENT.value
    keep = np.ones(len(rows.kind), bool)
    keep[open_[same & (rows.why[open_] == 0)]] = False
    return _keep(rows, keep)


def _linked(table: EntryTable) -> bool:
    return bool(np.any(table.link_group >= 0))


def inodes(table: EntryTable, rows: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the first row of each row's link set, or the row itself."""
    groups = table.link_group[rows]
    return np.where(groups >= 0, groups, rows).astype(np.int64)


def with_links(rows: Rows, lower: EntryTable, upper: EntryTable, match: NDArray[np.int32]) -> Rows:
    """Add the rows whose hard-link set is another one now (49)."""
    if not (_linked(lower) or _linked(upper)):
        return rows
    n = len(upper)
    changed = rows.upper[rows.kind != DELETE]
    dirty = np.zeros(n, np.uint8)
    dirty[changed] = 1
    flags = np.zeros(n, np.uint8)
    kernel.links(
        lower.columns, upper.columns, match, dirty, np.empty(n, np.int32), np.empty(len(lower), np.int32), flags
    )
    linked = flags & 4 != 0
    rows.why[np.isin(rows.upper, np.flatnonzero(linked)) & (rows.kind == MODIFY)] |= Why.LINKS.value
    extra = np.flatnonzero(linked & (dirty == 0)).astype(np.int32)
    return with_rows(rows, extra, match)


def with_rows(rows: Rows, extra: NDArray[np.int32], match: NDArray[np.int32]) -> Rows:
    """Add unchanged upper rows ``extra``, modified for their LINKS."""
    if not len(extra):
        return rows
    joined = Rows(
        np.concatenate([rows.kind, np.full(len(extra), MODIFY, np.uint8)]),
        np.concatenate([rows.lower, match[extra]]),
        np.concatenate([rows.upper, extra]),
        np.concatenate([rows.why, np.full(len(extra), Why.LINKS.value, np.uint16)]),
    )
    at = np.where(joined.kind == DELETE, -1 - joined.upper, joined.upper)
    return _keep(joined, np.lexsort((joined.lower, joined.kind != DELETE, at)))
