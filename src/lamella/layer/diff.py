"""Two trees -> what differs, and a layer of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from lamella.layer.changeset import Changeset, empty_table
from lamella.layer.comparing import Content, decided, merged, options_of, with_links
from lamella.layer.treetable import as_tree
from lamella.model import IdMap, Progress
from lamella.table import EntryTable
from lamella.tar.layerinfo import LayerInfo
from lamella.tree.scan import Scan, Xattrs, directory, scan_fd

__all__ = ["changes", "diff"]

Tree = str | os.PathLike[str] | EntryTable | None


def changes(
    lower: Tree, upper: Tree, *, content: Content = "auto", xattrs: Xattrs = "all", dir_mtime: bool = False
) -> Changeset:
    """Compare two trees: directories, tables of trees or of a first layer, or None for nothing at all.

    ``content``: "auto" reads two files where metadata cannot decide (equal size and second, a time without
    nanoseconds: tests/contract 55, 56), "always" wherever sizes are equal, "never". ``dir_mtime``: a directory's time
    counts by itself (58). OSError with the path; ValueError for a table without content that would have to be read.
    """
    options = options_of(content, dir_mtime)
    with _opened(lower) as low_fd, _opened(upper) as up_fd:
        below, above = _tables((lower, low_fd), (upper, up_fd), xattrs)
        rows, match = merged(below.table, above.table, options)
        rows = decided(rows, below.table, above.table, low_fd, up_fd)
        rows = with_links(rows, below.table, above.table, match)
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
