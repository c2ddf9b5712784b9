"""An overlay upper directory, or an AUFS branch -> what it changes, without a look at what it does not.

Only the upper directory is walked. What it touches is looked up in its parents (lowers.py), and both are compared as two
trees are (diff.py). Two things make it list more than that: a directory that hides or replaces a lower one, whose names
are then deleted, and a renamed directory, whose content is new where it is now.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lamella.columns import AT, F_GHOST
from lamella.layer.branchview import BranchView, view_of
from lamella.layer.changeset import MODIFY, Changeset, Rows, empty_table
from lamella.layer.comparing import NESTED, SAME, compared, inodes, merged, open_rows, settled, with_links, with_rows
from lamella.layer.content import content_of, same_content
from lamella.layer.kept import kept_in
from lamella.layer.linked import LinkedNames
from lamella.layer.lowers import Branches, Shown
from lamella.layer.merged import through
from lamella.layer.own import BranchDialect
from lamella.layer.pathtable import concatenated, named, path_table
from lamella.layer.whiteout import is_metadata
from lamella.model import IdMap, Progress, Why
from lamella.table import EntryTable
from lamella.tar.layerinfo import LayerInfo
from lamella.tree.root import split
from lamella.tree.scan import Xattrs

__all__ = ["changes_from_upper", "diff_from_upper"]

Path = str | os.PathLike[str]
_DIR = ord("5")
# of what is not in the upper directory itself, and of what has no such attribute
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENODATA, errno.ENOTSUP, errno.EPERM)


def changes_from_upper(
    upper: Path, parents: Sequence[Path] = (), *, dialect: BranchDialect = "overlay", xattrs: Xattrs = "all",
    lowest: bool = False,
) -> Changeset:  # fmt: skip
    """Return what an overlay upper directory, or an AUFS branch, changes of ``parents``: O(changed).

    ``parents`` are the lower directories, nearest first, which may be upper directories themselves. ``dialect`` is
    "overlay", "overlay:trusted" or "overlay:user" where only one namespace of attributes counts, or "aufs". Without
    parents everything in ``upper`` is an ADD, and a whiteout a DELETE of which nothing is known (``before`` None); with
    ``lowest`` it is known that there is nothing to hide.

    The result is that of :func:`lamella.changes` for the two merged views, but for three things. Attributes of a nested
    overlay count, and are kept (tests/contract 27). Of a file with several names of which some were not touched, the
    names that were are reported for their LINKS, though it may be the others that a look at all would name; and in a
    renamed directory such a file is one of its own (49), with a warning. Nobody can see in an upper directory what a
    mount with ``index=on`` did to names that it has not; where the kernel counted that it has all, they are all.

    ConflictError for a renamed directory without parents; UnsafePathError for a redirect that leads nowhere; OSError.
    """
    places = [os.path.abspath(path) for path in (upper, *parents)]  # the process may go elsewhere before write()
    with Branches(places, dialect, xattrs) as branches:
        view = view_of(branches)
        shown = branches.find(_asked(branches, view), first=1)
        none = np.empty(0, np.int64)
        below, numbers = shown.table() if parents else (empty_table() if lowest else _unknown(view), none)
        above = view.table
        rows, match = merged(below, above, NESTED)
        rows = _decided(branches, view, rows, below, numbers, shown)
        rows = with_links(rows, below, above, match)
        if len(numbers):
            rows = _parted(branches, view, rows, below, match, shown, numbers)
    return Changeset(
        below, above, rows, match, root=upper, holes=view.holes, warnings=view.warnings, nested=True,
        source=partial(content_of, places, dialect, _borrowed(view)) if view.borrowed.any() else None,
        opaque=() if parents or lowest else tuple(np.flatnonzero(view.opaque).tolist()),
        keeps=partial(kept_in, partial(Branches, places[1:], dialect), below) if parents else set, road="upper",
    )  # fmt: skip


def diff_from_upper(
    upper: Path, out: Any, parents: Sequence[Path] = (), *, dialect: BranchDialect = "overlay", compression: str = "gzip",
    level: int | None = None, whiteouts: Literal["explicit", "opaque"] = "explicit", clamp_mtime: int | None = None,
    idmap: IdMap | None = None, xattrs: Xattrs = "all", sparse: Literal["pax"] | None = None,
    libarchive_xattr: bool = False, progress: Callable[[Progress], None] | None = None,
) -> LayerInfo:  # fmt: skip
    """Write the layer of an overlay upper directory, or of an AUFS branch, to ``out``, a path or a binary file object.

    See :func:`changes_from_upper` for ``upper parents dialect`` and :func:`lamella.diff` for the others. Without parents
    an opaque directory is written as one, since nobody knows what it hides, and no other is, since nobody knows what it
    keeps. With them ``whiteouts`` "opaque" has those directories of theirs listed that may have kept nothing.
    """
    found = changes_from_upper(upper, parents, dialect=dialect, xattrs=xattrs)
    return found.write(
        out, compression=compression, level=level, whiteouts=whiteouts, clamp_mtime=clamp_mtime, idmap=idmap,
        sparse=sparse, libarchive_xattr=libarchive_xattr, progress=progress,
    )  # fmt: skip


def _asked(branches: Branches, view: BranchView) -> EntryTable:
    """Return the paths whose lower state matters."""
    paths = set(view.gone)
    todo = view.wide if len(branches) > 1 else set()
    while todo:  # a level at a time: a directory is listed where there is one below
        shown = branches.find(path_table(todo), first=1, stacks=True)
        deeper: set[bytes] = set()
        for row in shown.stacks:
            path = shown.paths.path(row)
            if path not in todo:
                continue
            names = {path + b"/" + name if path else name for name in branches.names(shown, row)}
            paths |= names
            deeper.update(name for name in names if view.is_dir(name))
        todo = deeper
    if not paths:
        return view.listed
    return concatenated([view.listed, named(paths - set(view.listed.paths))])[0]  # their directories are there


def _unknown(view: BranchView) -> EntryTable:
    table = named(view.taken())
    table.columns[AT["type"]][:] = ord("0")
    table.columns[AT["flags"]][:] = F_GHOST
    return table


def _borrowed(view: BranchView) -> list[bytes]:
    return [view.table.path(row) for row in np.flatnonzero(view.borrowed).tolist()]


def _decided(  # noqa: PLR0917 - both sides
    branches: Branches, view: BranchView, rows: Rows, below: EntryTable, numbers: NDArray[np.int64], shown: Shown
) -> Rows:
    """Compare the contents of what metadata left open, a lower branch at a time."""
    open_ = open_rows(rows)
    if not len(open_):
        return rows
    low, up = inodes(below, rows.lower[open_]), inodes(view.table, rows.upper[open_])
    asked = numbers[low]
    odd = view.borrowed[up] | (shown.facts[asked] != 0)
    if shown.places:
        odd |= np.isin(asked, list(shown.places))
    same = np.zeros(len(open_), bool)
    for branch in np.unique(shown.branch[asked[~odd]]).tolist():
        at = np.flatnonzero(~odd & (shown.branch[asked] == branch))
        fds = branches.roots[branch].fd, branches.roots[0].fd
        same[at] = compared(below, view.table, *fds, low[at], up[at]) == SAME
    if odd.any():
        paths = [(below.path(int(low[k])), view.table.path(int(up[k]))) for k in np.flatnonzero(odd)]
        same[odd] = same_content(branches, paths)
    return settled(rows, open_, same)


def _parted(  # noqa: PLR0917 - both sides
    branches: Branches, view: BranchView, rows: Rows, below: EntryTable, match: NDArray[np.int32], shown: Shown,
    numbers: NDArray[np.int64],
) -> Rows:  # fmt: skip
    """Say LINKS of files that were copied away from names of theirs that stay below, changed (49) or not."""
    nlink = shown.nlink[numbers]
    at = np.flatnonzero(match >= 0)
    at = at[(nlink[match[at]] > 1) & (below.type[match[at]] != _DIR)]
    if not len(at):
        return rows
    groups = below.link_group
    counts = np.bincount(groups[groups >= 0], minlength=len(below)) if len(below) else np.zeros(1, np.int64)
    low = match[at]
    known = np.where(groups[low] >= 0, counts[groups[low]], 1)
    parted = at[known < nlink[low]]
    if branches.dialect == "aufs":
        linked = LinkedNames(branches)
        places = [shown.place(int(numbers[row])) for row in match[parted].tolist()]
        stays = [_stays(branches, below, linked.at(place), place[0]) for place in places]
    else:
        stays = [not _has_all_names(branches, view.table.path(row)) for row in parted.tolist()]
    parted = parted[np.array(stays, bool)]
    changed = rows.upper[rows.kind == MODIFY]
    rows.why[np.isin(rows.upper, parted) & (rows.kind == MODIFY)] |= Why.LINKS.value
    return with_rows(rows, parted[~np.isin(parted, changed)].astype(np.int32), match)


def _stays(branches: Branches, below: EntryTable, names: list[bytes], branch: int) -> bool:
    """Tell whether an inode of a lower branch still shows one of its ``names`` that is no row of ``below``."""
    others = [name for name in names if below.find(name) < 0 and not is_metadata(name)]
    if not others:
        return False
    found = branches.find(path_table(others))
    return any(found.branch[found.paths.find(name)] == branch for name in others)


def _has_all_names(branches: Branches, path: bytes) -> bool:
    """Tell whether a file that a mount with ``index=on`` copied up has all its names in the upper directory.

    The kernel counts them in overlay.nlink: those of the inode, less the index, which is one more.
    """
    parent, name = split(path)
    for namespace in ("trusted", "user") if branches.dialect == "overlay" else (branches.dialect.partition(":")[2],):
        try:
            with branches.roots[0].dir(parent) as fd:
                if os.getxattr(through(fd, name), f"{namespace}.overlay.nlink", follow_symlinks=False) == b"U-1":
                    return True
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise
    return False
