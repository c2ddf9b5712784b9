"""The nearest branch of a stack, read whole: the tree it shows where it has something to say, and what it hides."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lamella._kernels import walk
from lamella.columns import AT
from lamella.errors import ConflictError
from lamella.layer.lowers import Branches
from lamella.layer.own import HIDING, METACOPY, OPAQUE, XWHITEOUTS, lower_path, read_own
from lamella.layer.pathtable import concatenated
from lamella.layer.search import rename
from lamella.layer.whiteout import OPAQUE as OPAQUE_NAME
from lamella.layer.whiteout import PREFIX, hidden_name, is_metadata
from lamella.table import EntryTable
from lamella.tree.root import join, split
from lamella.tree.scan import Scan

__all__ = ["BranchView", "view_of"]

_FILE, _CHAR, _DIR = (ord(flag) for flag in "035")
_LINK_PENDING = -2


@dataclass(slots=True, eq=False)
class BranchView:
    """``table``: what is shown of the branch, and of lower directories that it renamed; by row of it, ``opaque``
    directories, and files whose content is ``borrowed`` from a lower branch. ``listed``: the rows of ``table``, and those
    that are whiteouts. ``gone``: further names that it takes away. ``wide``: directories where it hides or replaces
    what is lower.
    """  # fmt: skip

    table: EntryTable
    opaque: NDArray[np.bool_]
    borrowed: NDArray[np.bool_]
    listed: EntryTable
    gone: set[bytes]
    wide: set[bytes]
    holes: int
    warnings: tuple[str, ...]

    def taken(self) -> set[bytes]:
        """Return all the names that it takes away."""
        if len(self.listed) == len(self.table):
            return self.gone
        return self.gone | (set(self.listed.paths) - set(self.table.paths))

    def is_dir(self, path: bytes) -> bool:
        """Tell whether the view shows a directory at ``path``."""
        row = self.table.find(path)
        return row >= 0 and bool(self.table.type[row] == _DIR)


def view_of(branches: Branches) -> BranchView:
    """Read the nearest branch. ConflictError for a renamed directory where there is no lower branch."""
    scan = branches.scan(0)
    view = (_aufs if branches.dialect == "aufs" else _overlay)(branches, scan)
    if branches.xattrs == "none":
        columns = list(view.table.columns)
        columns[AT["ext_len"]] = np.zeros(len(view.table), np.uint32)
        view.table = EntryTable(tuple(columns), "path")
    view.gone.update(scan.sockets)  # no row is left to look what they hide
    notes = [f"socket left out: {os.fsdecode(p)!r}" for p in scan.sockets]
    notes += [f"name that its directory lists and denies left out: {os.fsdecode(p)!r}" for p in scan.ghosts]
    view.warnings = (*notes, *view.warnings)
    return view


def _aufs(_branches: Branches, scan: Scan) -> BranchView:
    table, gone, opaque = scan.table, set[bytes](), set[bytes]()
    if re.search(re.escape(PREFIX), memoryview(table.columns[-1])) is not None:
        keep = np.ones(len(table), bool)
        for row, path in enumerate(table.paths):
            parent, name = split(path)
            keep[row] = not (name.startswith(PREFIX) or is_metadata(path))
            if is_metadata(path) or keep[row]:
                continue
            if name == OPAQUE_NAME:
                opaque.add(parent)
            else:
                gone.add(join(parent, hidden_name(path)))
        table = table[keep]
    opaque |= {path for path in gone if (row := table.find(path)) >= 0 and table.type[row] == _DIR}
    rows = np.zeros(len(table), bool)
    rows[[table.find(path) for path in opaque]] = True
    gone = {path for path in gone if table.find(path) < 0}
    return BranchView(table, rows, np.zeros(len(table), bool), table, gone, opaque, scan.holes, ())


def _overlay(branches: Branches, scan: Scan) -> BranchView:
    own = read_own(scan.table.columns, branches.dialect)
    table, facts = EntryTable(own.columns, "path"), own.facts
    white = (table.type == _CHAR) & (table.rdev_major == 0) & (table.rdev_minor == 0)
    if np.any(facts & HIDING):
        white |= (facts & HIDING != 0) & (table.type == _FILE) & (table.size == 0) & _in_xwhiteouts(table, facts)
    listed, texts = table, own.texts
    if white.any():
        numbers = np.cumsum(~white) - 1
        texts = {int(numbers[row]): text for row, text in texts.items() if not white[row]}
        table, facts = table[~white], facts[~white]
    dirs = table.type == _DIR
    opaque = dirs & (facts & OPAQUE != 0)
    wide = {table.path(row) for row in np.flatnonzero(opaque).tolist()} - {b""}  # roots always merge
    borrowed = (facts & METACOPY != 0) & (table.type == _FILE) & (table.size > 0)
    view = BranchView(table, opaque, borrowed, listed, set(), wide, scan.holes, ())
    moved = {row: text for row, text in texts.items() if dirs[row] and not opaque[row]}
    return _with_moved(branches, view, moved) if moved else view


def _in_xwhiteouts(table: EntryTable, facts: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Tell rows in directories that say they hold whiteouts which are files (tests/contract 25)."""
    marked = {table.path(row) for row in np.flatnonzero(facts & XWHITEOUTS).tolist()}
    return np.array([split(path)[0] in marked and bool(path) for path in table.paths], bool)


# -- renamed directories ------------------------------------------------------------------------------------------------


def _with_moved(branches: Branches, view: BranchView, moved: dict[int, bytes]) -> BranchView:
    """Add what is below the lower directories that the branch shows under other names."""
    places = {path: low for path, low in _lower_places(view, moved) if path != low}
    if len(branches) == 1:
        raise ConflictError(view.table.path(min(moved)), "a renamed directory has its content in a parent: give parents")
    own: dict[bytes, int] = dict.fromkeys(view.taken(), -1)
    own.update((path, row) for row, path in enumerate(view.table.paths))
    tables, borrowed, nlinks = [view.table], [view.borrowed], [np.zeros(len(view.table), np.uint32)]
    for path, low in places.items():
        if low is None:
            continue
        table, nlink = _graft(branches, path, low, partial(_stops, view, own, places))
        tables.append(table)
        borrowed.append((table.type == _FILE) & (table.size > 0))
        nlinks.append(nlink)
    table, order = concatenated(tables)
    view.opaque = np.concatenate([view.opaque, np.zeros(len(table) - len(view.opaque), bool)])[order]
    view.table, view.borrowed = _linked(table), np.concatenate(borrowed)[order]
    view.listed = concatenated([view.listed, *tables[1:]])[0]
    view.wide |= set(places)
    n_lost = _n_lost(view.table, np.concatenate(nlinks)[order])
    if n_lost:
        view.warnings += (f"{n_lost} files of renamed directories have other names, which they are not links to any more",)
    return view


def _lower_places(view: BranchView, moved: dict[int, bytes]) -> Iterator[tuple[bytes, bytes | None]]:
    """Iterate over the redirected directories and what they show of the parents: None for nothing."""
    lower: dict[bytes, bytes | None] = {b"": b""}
    for row in np.flatnonzero(view.table.type == _DIR).tolist():
        path = view.table.path(row)
        if not path:
            continue
        parent, name = split(path)
        within, text = lower[parent], moved.get(row, b"")
        if view.opaque[row] or (within is None and not text.startswith(b"/")):
            lower[path] = None
        elif text:
            lower[path] = lower_path(path, text, within or b"")
        else:
            lower[path] = join(within or b"", name)
        if text:
            yield path, lower[path]


def _stops(view: BranchView, own: dict[bytes, int], places: dict[bytes, bytes | None], path: bytes) -> bool | None:
    """Tell what the branch itself says of ``path`` in a renamed directory: None for nothing, True if it ends there."""
    row = own.get(path)
    if row is None:
        return None
    return bool(row < 0 or view.table.type[row] != _DIR or view.opaque[row] or path in places)


def _graft(
    branches: Branches, path: bytes, low: bytes, stops: Callable[[bytes], bool | None]
) -> tuple[EntryTable, NDArray[np.uint32]]:
    """Return what the parents show below ``low``, as rows below ``path``, and how many names each inode has."""
    table, nlink = branches.tree(low, first=1)
    rows, names, hidden = [], [], b"/"  # no path of a table begins with it
    for row, at in enumerate(table.paths):
        name = path + at[len(low) :]
        if name.startswith(hidden):
            continue
        stop = stops(name)
        if stop is None:
            rows.append(row)
            names.append(name)
        elif stop:
            hidden = name + b"/"
    numbers = np.array(rows, np.int64)
    table, nlink = table[numbers], nlink[numbers]
    columns = list(table.columns)
    rename(columns, list(enumerate(names)))
    return EntryTable(tuple(columns), "path"), nlink


def _linked(table: EntryTable) -> EntryTable:
    """Group the names of each inode anew."""
    columns = list(table.columns)
    columns[AT["link_group"]] = np.where(table.type == _DIR, -1, _LINK_PENDING).astype(np.int32)
    walk.link(tuple(columns), len(table), np.zeros(1 << (len(table) * 4 // 3).bit_length(), np.uint32), 0)
    return EntryTable(tuple(columns), "path")


def _n_lost(table: EntryTable, nlink: NDArray[np.uint32]) -> int:
    groups = table.link_group
    counts = np.bincount(groups[groups >= 0], minlength=len(table))
    known = np.where(groups >= 0, counts[groups], 1)
    return int(np.count_nonzero((nlink > known) & (table.type != _DIR)))
