"""One search of a table of paths through a stack of branches: see lowers.py for the rules."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamella._kernels import changes as tables
from lamella._kernels import lookup as kernel
from lamella._kernels import walk
from lamella.columns import ARENA, AT, COLUMNS
from lamella.layer.own import HIDING, METACOPY, OPAQUE, XWHITEOUTS, BranchDialect, Own, lower_path, read_own
from lamella.layer.pathtable import OF_DIR, path_table
from lamella.table import EntryTable
from lamella.tree.root import Root, join, split

__all__ = ["Place", "Search", "Shown", "below", "rename"]

Place = tuple[int, bytes]  # number of a branch, and the path there

_FILE, _DIR = ord("0"), ord("5")
_OUTPUT_FULL = 2
_NEED_ARENA, _NEED_SCRATCH, _ARENA_USED = 2, 3, 1  # items of the kernel's state
_SCRATCH, _ARENA_ROW = 1 << 14, 64
_LINK_PENDING = -2
_PER_ROW = [i for i in range(len(COLUMNS)) if i not in (ARENA, OF_DIR)]


@dataclass(slots=True, eq=False)
class Shown:
    """What a merged view has at each row of ``paths``: the number of its ``branch``, -1 for nothing, and its columns.

    ``places``: rows whose path in their branch is another one. ``stacks``: the branches of a directory, nearest first.
    ``data``: of a metacopy row, where its content is, None for nowhere.
    """

    paths: EntryTable
    branch: NDArray[np.int16]
    columns: list[Any]
    facts: NDArray[np.uint8]
    nlink: NDArray[np.uint32]
    places: dict[int, bytes] = field(default_factory=dict)
    stacks: dict[int, list[Place]] = field(default_factory=dict)
    data: dict[int, Place | None] = field(default_factory=dict)

    def place(self, row: int) -> Place:
        """Return where the inode of a row is."""
        return int(self.branch[row]), self.places.get(row) or self.paths.path(row)

    def content(self, row: int) -> Place | None:
        """Return where the content of a file's row is (found with ``data``)."""
        return self.data[row] if row in self.data else self.place(row)

    def table(self) -> tuple[EntryTable, NDArray[np.int64]]:
        """Return the rows that are shown, under the paths that were asked for, linked as inodes are; and their numbers."""
        rows = np.flatnonzero(self.branch >= 0)
        columns = [c if c is None or i == ARENA else c[rows] for i, c in enumerate(self.columns)]
        moved = [(int(np.searchsorted(rows, row)), self.paths.path(row)) for row in self.places if self.branch[row] >= 0]
        rename(columns, moved)
        links = np.flatnonzero((self.nlink[rows] > 1) & (columns[AT["type"]] != _DIR))
        if len(links):
            columns[AT["link_group"]][links] = _LINK_PENDING
            slots = np.zeros(1 << (len(links) * 4 // 3).bit_length(), np.uint32)
            walk.link(tuple(columns), len(rows), slots, 0)
        return EntryTable(tuple(columns), "path"), rows


def rename(columns: list[Any], moved: list[tuple[int, bytes]]) -> None:
    """Give rows other paths; their link texts go with them."""
    if not moved:
        return
    arena = columns[ARENA]
    rows = np.array([row for row, _ in moved], np.int64)
    names = [path for _, path in moved]
    lengths = np.array([len(path) for path in names], np.int64)
    off, n_path, n_link = columns[AT["name_off"]], columns[AT["path_len"]], columns[AT["link_len"]]
    for k in np.flatnonzero(n_link[rows]).tolist():
        row = int(rows[k])
        begin = int(off[row]) + int(n_path[row])
        names[k] += arena[begin : begin + int(n_link[row])].tobytes()
    nbytes = lengths + n_link[rows]
    off[rows], n_path[rows] = len(arena) + np.cumsum(nbytes) - nbytes, lengths
    columns[ARENA] = np.concatenate([arena, np.frombuffer(b"".join(names), np.uint8)])


@contextlib.contextmanager
def below(directory: str, place: bytes = b"") -> Iterator[None]:
    """Give an OSError its whole path: kernels know the one below their descriptor."""
    try:
        yield
    except OSError as error:
        if isinstance(error.filename, bytes):
            error.filename = os.path.join(directory, *map(os.fsdecode, filter(None, (place, error.filename))))
        raise


class Search:
    """The state of one search; ``want`` marks the rows that the next branch is asked for."""

    def __init__(
        self, roots: Sequence[tuple[str, Root]], options: int, dialect: BranchDialect, paths: EntryTable, *,
        stacks: bool, data: bool,
    ) -> None:  # fmt: skip
        n = len(paths)
        self.roots, self.options, self.dialect = roots, options, dialect
        self.stacks, self.data = stacks, data
        self.parents = np.empty(n, np.int32)
        tables.parents(paths.columns, self.parents)
        self.order = np.argsort(self.parents, kind="stable")
        self.want = np.ones(n, np.uint8)
        self.is_dir = np.zeros(n, bool)
        columns: list[Any] = [np.zeros(1 if i == ARENA else n, kind) for i, (_, kind) in enumerate(COLUMNS)]
        columns[OF_DIR] = None
        self.out = Shown(paths, np.full(n, -1, np.int16), columns, np.zeros(n, np.uint8), np.zeros(n, np.uint32))
        self._arenas: list[Any] = [columns[ARENA]]
        self._end = 1
        self._asked: list[Any] = [None if c is None else np.empty(n, c.dtype) for c in columns]
        self._asked[ARENA] = np.empty(_ARENA_ROW * n + _SCRATCH, np.uint8)
        self._scratch = np.empty(_SCRATCH, np.uint8)

    def run(self, first: int) -> Shown:
        """Search branches from number ``first`` on."""
        for branch in range(first, len(self.roots)):
            if not self.want[1:].any() and branch > first and not self.stacks:
                break
            self._ask(branch)
        self.out.columns[ARENA] = np.concatenate(self._arenas)
        return self.out

    def _ask(self, branch: int) -> None:
        with below(self.roots[branch][0]):
            own, verdict, nlink = self._follow(self.roots[branch][1])
        if not (verdict >= kernel.FOUND_ROW).any():
            return
        found = verdict == kernel.FOUND_ROW
        kinds = own.columns[AT["type"]]
        hiding = found & (own.facts & HIDING != 0)
        if hiding.any():  # empty files in a directory that says so (tests/contract 25)
            above = np.maximum(self.parents, 0)
            hiding &= (kinds == _FILE) & (own.columns[AT["size"]] == 0) & (own.facts[above] & XWHITEOUTS != 0)
            found &= ~hiding
        dirs = found & (kinds == _DIR)
        fresh = found & (self.out.branch < 0)
        taking = dirs & (fresh | self.is_dir)
        self._take(fresh, own, nlink, branch)
        self.is_dir |= fresh & dirs
        self.want[((verdict >= kernel.FOUND_ROW) & ~taking) | (own.facts & OPAQUE != 0)] = 0
        if self.dialect != "aufs" and not self.out.paths.path(0):
            self.want[0] = 1  # roots always merge
        if self.stacks:
            for row in np.flatnonzero(taking).tolist():
                self.out.stacks.setdefault(row, []).append((branch, self.out.paths.path(row)))
        metas: list[int] = []
        if self.data:
            metas = np.flatnonzero(fresh & (own.facts & METACOPY != 0) & (kinds == _FILE)).tolist()
        moved = {row: own.texts[row] for row in own.texts if taking[row] and self.want[row]}
        if moved or metas:
            self._move(branch, moved, {row: own.texts.get(row, b"") for row in metas})

    def _follow(self, root: Root) -> tuple[Own, NDArray[np.uint8], NDArray[np.uint32]]:
        n, columns = len(self.want), self._asked
        columns[AT["ext_off"]].fill(0)
        columns[AT["ext_len"]].fill(0)  # of rows that are not found nothing else is looked at
        verdict, facts, nlink = np.zeros(n, np.uint8), np.zeros(n, np.uint8), np.zeros(n, np.uint32)
        state = np.zeros(kernel.N_STATE, np.int64)
        while kernel.follow(
            root.fd, self.out.paths.columns, self.order, self.parents, self.want, tuple(columns), verdict,
            facts, nlink, state, self._scratch, self.options,
        ) == _OUTPUT_FULL:  # fmt: skip
            used, old = int(state[_ARENA_USED]), columns[ARENA]
            columns[ARENA] = np.empty(max(used + int(state[_NEED_ARENA]), 2 * used), np.uint8)
            columns[ARENA][:used] = old[:used]
            if state[_NEED_SCRATCH] > len(self._scratch):
                self._scratch = np.empty(int(state[_NEED_SCRATCH]), np.uint8)
        own = read_own((*columns[:ARENA], columns[ARENA][: int(state[_ARENA_USED])]), self.dialect)
        own.facts[:] |= facts
        return own, verdict, nlink

    def _take(self, fresh: NDArray[np.bool_], own: Own, nlink: NDArray[np.uint32], branch: int) -> None:
        rows = np.flatnonzero(fresh)
        if len(rows):
            self._copy(rows, own.columns, rows)
            self._asked[ARENA] = np.empty(_ARENA_ROW * len(self.want) + _SCRATCH, np.uint8)  # it has the last one
            self.out.branch[rows], self.out.facts[rows], self.out.nlink[rows] = branch, own.facts[rows], nlink[rows]

    def _copy(self, rows: NDArray[np.int64], columns: Sequence[Any], sources: NDArray[np.int64]) -> None:
        """Copy rows ``sources`` of ``columns``, their arena with them."""
        for i in _PER_ROW:
            self.out.columns[i][rows] = columns[i][sources]
        self.out.columns[AT["name_off"]][rows] += self._end
        self.out.columns[AT["ext_off"]][rows] += self._end
        self._arenas.append(columns[ARENA])
        self._end += len(columns[ARENA])

    # -- redirects ------------------------------------------------------------------------------------------------

    def _move(self, branch: int, moved: dict[int, bytes], metas: dict[int, bytes]) -> None:
        """Search on below ``branch`` for rows that have other names there."""
        lower, going = self._lower_paths(moved, metas)
        if not going:
            return
        sub = Search(self.roots, self.options, self.dialect, path_table(lower[row] for row in going),
                     stacks=self.stacks, data=self.data)  # fmt: skip
        found = sub.run(branch + 1)
        pairs = [(row, found.paths.find(lower[row])) for row in going]
        fresh = [(row, at) for row, at in pairs if self.out.branch[row] < 0 <= found.branch[at]]
        if fresh:
            rows, sources = (np.array(side, np.int64) for side in zip(*fresh, strict=True))
            self._copy(rows, found.columns, sources)
            self.out.branch[rows], self.out.nlink[rows] = found.branch[sources], found.nlink[sources]
            self.out.facts[rows] = found.facts[sources]
            self.is_dir[rows] = sub.is_dir[sources]
            self.out.places.update((row, found.place(at)[1]) for row, at in fresh)
            self.out.data.update((row, found.data[at]) for row, at in fresh if at in found.data)
        for row, at in pairs:
            if row in metas:
                is_file = found.branch[at] >= 0 and found.columns[AT["type"]][at] == _FILE
                self.out.data[row] = found.content(at) if is_file else None
            elif at in found.stacks and self.is_dir[row]:
                self.out.stacks.setdefault(row, []).extend(found.stacks[at])

    def _lower_paths(self, moved: dict[int, bytes], metas: dict[int, bytes]) -> tuple[dict[int, bytes], list[int]]:
        """Return the names that rows have in what is lower, if those are others, and the rows to look for there.

        The search of this table ends for all of them, but not for metacopy files without a redirect of their own.
        """
        paths = self.out.paths
        lower: dict[int, bytes] = {}
        going, opened = [], {-1: True}
        for row, above in enumerate(self.parents.tolist()):
            text = moved.get(row) or metas.get(row, b"")
            path = paths.path(row)
            within = lower.get(above, paths.path(above) if above >= 0 else b"")
            opened[row] = opened[above] and bool(self.want[row])
            if text:
                lower[row] = lower_path(path, text, within)
            elif above in lower or row in metas:
                lower[row] = join(within, split(path)[1])
            else:
                continue
            reachable = text.startswith(b"/") or opened[above]
            opened[row] = reachable and bool(self.want[row])
            if reachable and (self.want[row] or row in metas):
                going.append(row)
        for row in metas:
            self.out.data[row] = None
        self.want[list(lower)] = 0
        return lower, going
