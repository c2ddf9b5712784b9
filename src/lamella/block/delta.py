"""What differs between two thin devices, from their trees of mappings: O(what differs) where one is a snapshot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np

from lamella._kernels import thindelta
from lamella.block.extents import DeltaKind, DeltaTable
from lamella.block.lines import PAIR, RANGE, Lines
from lamella.block.memory import Memory, new_window
from lamella.block.metadata import Metadata

__all__ = ["compare_roots", "delta", "delta_xml"]

BATCH = 16384
_NAMES = {kind: kind.name.lower() for kind in DeltaKind}


def compare_roots(
    memory: Memory, fd: int, left: int, right: int, *, nr_data_blocks: int, same: bool = False, loose: bool = False,
    count_reads: Callable[[int], object] = int,
) -> Iterator[DeltaTable]:  # fmt: skip
    """Yield what differs between the trees at blocks ``left`` and ``right`` as tables in order; no run is cut between two.

    Data blocks are compared, never times. ``same`` yields also what does not differ. With ``loose`` a run goes on where its
    data blocks do not follow each other: rows are fewer then, and data columns have the first block's. At the end
    ``count_reads`` is told how many calls for blocks were made.
    """
    cursor = np.zeros(thindelta.CURSOR, np.int64)
    thindelta.open_delta(memory.arena, memory.state, fd, cursor, left, right, same)
    windows = new_window(), new_window()
    n = BATCH
    while n == BATCH:
        kind, begin, length, first, other = (np.empty(BATCH, np.int64) for _ in range(5))
        columns = (kind, begin, length, first, other)
        n = thindelta.delta(memory.arena, memory.state, *windows, fd, cursor, columns, nr_data_blocks, same, loose)
        if n:
            yield DeltaTable(kind[:n], begin[:n], length[:n], first[:n], other[:n])
    count_reads(int(cursor[1] + cursor[thindelta.RIGHT + 1]))


def delta(metadata: Metadata, left: int, right: int, *, same: bool = False, loose: bool = False) -> Iterator[DeltaTable]:
    """Yield what differs between two devices, see compare_roots(); ``OSError`` (ENODATA) where there is no such device."""
    roots = metadata.root_of(left), metadata.root_of(right)

    def count(n_reads: int) -> None:
        metadata.n_reads += n_reads

    return compare_roots(
        metadata.memory, metadata.fd, *roots, nr_data_blocks=metadata.nr_data_blocks, same=same, loose=loose, count_reads=count
    )


def delta_xml(metadata: Metadata, left: int, right: int, *, verbose: bool = False) -> Iterator[str]:
    """Yield the delta as thin_delta 0.9.0 spells it, in pieces of many lines."""
    tables = delta(metadata, left, right, same=True, loose=not verbose)
    found = metadata.superblock
    snapshot = f' metadata_snap="{found.held_root}"' if found.held_root else ""
    yield (
        f'<superblock uuid="" time="{found.time}" transaction="{found.transaction_id}" '
        f'data_block_size="{found.data_block_size}" nr_data_blocks="{found.data_sm.nblocks}"{snapshot}>\n'
        f'  <diff left="{left}" right="{right}">\n'
    )
    yield from _grouped(tables) if verbose else map(_flat, tables)
    yield "  </diff>\n</superblock>\n"


def _flat(table: DeltaTable) -> str:
    rows = zip(table.kind.tolist(), table.begin.tolist(), table.length.tolist(), strict=True)
    names = _NAMES
    return "".join([f'    <{names[kind]} begin="{begin}" length="{length}"/>\n' for kind, begin, length in rows])


def _grouped(tables: Iterator[DeltaTable]) -> Iterator[str]:
    """Put rows of one kind that follow each other into one element."""
    before, lines = None, Lines()
    for table in tables:
        cuts = [0, *(np.flatnonzero(np.diff(table.kind)) + 1).tolist(), len(table)]
        for begin, end in pairwise(cuts):
            name = _NAMES[table.kind[begin]]
            if name != before:
                yield f"    <{name}>\n" if before is None else f"    </{before}>\n    <{name}>\n"
                before = name
            form = PAIR if table.kind[begin] == DeltaKind.DIFFERENT else RANGE
            left, right = table.left_begin[begin:end], table.right_begin[begin:end]
            data = left if form == PAIR else np.maximum(left, right)
            for piece in lines.of(form, table.begin[begin:end], data, table.length[begin:end], right):
                yield str(piece, "ascii")
    if before is not None:
        yield f"    </{before}>\n"
