"""Directories of a lower tree of which a part was looked up -> in which of them something else is: that is kept (19)."""

from __future__ import annotations

from collections.abc import Callable, Collection

from lamella.layer.lowers import Branches
from lamella.layer.pathtable import path_table
from lamella.table import EntryTable
from lamella.tree.root import join, split

__all__ = ["kept_in"]


def kept_in(lower: Callable[[], Branches], known: EntryTable, dirs: Collection[bytes]) -> set[bytes]:
    """Return which of ``dirs`` have something in the tree of the branches ``lower`` opens that is no row of ``known``.

    Each is listed. OSError with the path.
    """
    kept: set[bytes] = set()
    with lower() as branches:
        shown = branches.find(path_table(dirs), stacks=True)
        others = {
            path: [at for name in branches.names(shown, row) if known.find(at := join(path, name)) < 0]
            for row in shown.stacks
            if (path := shown.paths.path(row)) in dirs
        }
        for part in (slice(1), slice(1, None)):  # mostly one look tells: but a name may be hidden, or a socket
            asked = [at for path, names in others.items() if path not in kept for at in names[part]]
            found = branches.find(path_table(asked))
            kept.update(split(at)[0] for at in asked if found.branch[found.paths.find(at)] >= 0)
    return kept
