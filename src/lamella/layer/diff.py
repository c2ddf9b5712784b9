"""Two trees -> what differs, and a layer of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lamella._kernels import changes as kernel
from lamella._kernels import content as content_kernel
from lamella.layer.changeset import DELETE, MODIFY, Changeset, Rows, empty_table
from lamella.layer.treetable import as_tree
from lamella.model import IdMap, Progress, Why
from lamella.table import EntryTable
from lamella.tar.layerinfo import LayerInfo
from lamella.tree.scan import Scan, Xattrs, directory, scan_fd

__all__ = ["changes", "diff"]

Tree = str | os.PathLike[str] | EntryTable | None
Content = Literal["auto", "always", "never"]
_ALWAYS, _NEVER, _DIR_MTIME = 1, 2, 4
_UNDECIDED = 32768
_OUTPUT_FULL = 2
_BATCH = 1 << 14
_SCRATCH = 1 << 18
_SMALL = 4096  # bytes that could be read while a file is opened
_SAME = 1


def changes(
    lower: Tree, upper: Tree, *, content: Content = "auto", xattrs: Xattrs = "all", dir_mtime: bool = False
) -> Changeset:
    """Compare two trees: directories, tables of trees or of a first layer, or None for nothing at all.

    ``content``: "auto" reads two files where metadata cannot decide (equal size and second, a time without
    nanoseconds: tests/contract 55, 56), "always" wherever sizes are equal, "never". ``dir_mtime``: a directory's time
    counts by itself (58). OSError with the path; ValueError for a table without content that would have to be read.
    """
    if content not in ("auto", "always", "never"):
        raise ValueError(f"content {content!r}; one of auto, always, never")
    options = {"auto": 0, "always": _ALWAYS, "never": _NEVER}[content] | (_DIR_MTIME if dir_mtime else 0)
    with _opened(lower) as low_fd, _opened(upper) as up_fd:
        below, above = _tables((lower, low_fd), (upper, up_fd), xattrs)
        rows, match = _merge(below.table, above.table, options)
        rows = _decide(rows, below.table, above.table, low_fd, up_fd)
        rows = _with_links(rows, below.table, above.table, match)
    root = upper if isinstance(upper, str | os.PathLike) else None
    notes = [f"socket left out: {os.fsdecode(p)!r}" for p in above.sockets]
    notes += [f"name that its directory lists and denies left out: {os.fsdecode(p)!r}" for p in above.ghosts]
    return Changeset(below.table, above.table, rows, match, root=root, holes=above.holes, warnings=tuple(notes))


def diff(
    lower: Tree, upper: Tree, out: Any, *, compression: str = "gzip", level: int | None = None,
    whiteouts: Literal["explicit", "opaque"] = "explicit", clamp_mtime: int | None = None, idmap: IdMap | None = None,
    content: Content = "auto", xattrs: Xattrs = "all", dir_mtime: bool = False, sparse: Literal["pax"] | None = None,
    libarchive_xattr: bool = False, progress: Callable[[Progress], None] | None = None,
) -> LayerInfo:  # fmt: skip
    """Write the layer that makes ``upper`` of ``lower`` to ``out``, a path or a binary file object.

    The diff_id depends on the two trees and the options alone. For ``content xattrs dir_mtime`` see :func:`changes`,
    for the others :func:`lamella.write_layer`; ``whiteouts`` "opaque" writes one opaque marker where a directory has
    kept nothing (tests/contract 19, 20). WhiteoutError for a name that a layer cannot hold (8).
    """
    found = changes(lower, upper, content=content, xattrs=xattrs, dir_mtime=dir_mtime)
    return found.write(
        out, compression=compression, level=level, whiteouts=whiteouts, clamp_mtime=clamp_mtime, idmap=idmap,
        sparse=sparse, libarchive_xattr=libarchive_xattr, progress=progress,
    )  # fmt: skip


@contextlib.contextmanager
def _opened(tree: Tree) -> Iterator[int]:
    if isinstance(tree, str | os.PathLike):
        with directory(tree) as fd:
            yield fd
    else:
        yield -1


def _tables(lower: tuple[Tree, int], upper: tuple[Tree, int], xattrs: Xattrs) -> tuple[Scan, Scan]:
    def one(tree: Tree, fd: int) -> Scan:
        if fd >= 0:
            return _named(tree, lambda: scan_fd(fd, xattrs=xattrs))
        return Scan(as_tree(tree) if isinstance(tree, EntryTable) else empty_table())

    with ThreadPoolExecutor(2, "lamella-scan") as pool:
        first, second = pool.submit(one, *lower), pool.submit(one, *upper)
        return first.result(), second.result()


def _named(tree: Any, call: Callable[[], Scan]) -> Scan:
    try:
        return call()
    except OSError as error:  # the kernel knows paths below its descriptor only
        if isinstance(error.filename, bytes):
            error.filename = os.path.join(os.fsencode(tree), error.filename)
        raise


def _merge(lower: EntryTable, upper: EntryTable, options: int) -> tuple[Rows, NDArray[np.int32]]:
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


def _decide(rows: Rows, lower: EntryTable, upper: EntryTable, low_fd: int, up_fd: int) -> Rows:
    """Compare the contents of what metadata left open, on two threads."""
    open_ = np.flatnonzero(rows.why & _UNDECIDED)
    if not len(open_):
        return rows
    if low_fd < 0 or up_fd < 0:
        raise ValueError("contents must be compared and a table has none: give directories, or content='never'")
    low, up = _inodes(lower, rows.lower[open_]), _inodes(upper, rows.upper[open_])
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
    verdicts = verdicts[which]
    rows.why[open_] &= _UNDECIDED - 1
    rows.why[open_[verdicts != _SAME]] |= Why.CONTENT.value
    keep = np.ones(len(rows.kind), bool)
    keep[open_[(verdicts == _SAME) & (rows.why[open_] == 0)]] = False
    return _keep(rows, keep)


def _linked(table: EntryTable) -> bool:
    return bool(np.any(table.link_group >= 0))


def _inodes(table: EntryTable, rows: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the first row of each row's link set, or the row itself."""
    groups = table.link_group[rows]
    return np.where(groups >= 0, groups, rows).astype(np.int64)


def _with_links(rows: Rows, lower: EntryTable, upper: EntryTable, match: NDArray[np.int32]) -> Rows:
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
