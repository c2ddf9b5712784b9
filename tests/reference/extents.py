"""Maps of thin devices as dicts from thin block to (data block, time), slow and obvious."""

from __future__ import annotations

from lamella.block.extents import Delta, DeltaKind, Extent, ExtentTable

Map = dict[int, tuple[int, int]]


def blocks_of(table: ExtentTable) -> Map:
    """Spell extents block by block."""
    return {e.thin_begin + i: (e.data_begin + i, e.time) for e in table for i in range(e.length)}


def extents_of(blocks: Map) -> list[Extent]:
    """Return the fewest extents that spell ``blocks``."""
    found: list[Extent] = []
    for thin, (data, time) in sorted(blocks.items()):
        if found:
            begin, first, length, since = found[-1]
            if (thin, data, time) == (begin + length, first + length, since):
                found[-1] = Extent(begin, first, length + 1, since)
                continue
        found.append(Extent(thin, data, 1, time))
    return found


def delta_of(left: Map, right: Map, *, joined: bool, same: bool) -> list[Delta]:
    """Compare two maps block by block, then join what goes on."""
    found: list[Delta] = []
    for thin in sorted(left.keys() | right.keys()):
        a, b = left.get(thin, (-1, 0))[0], right.get(thin, (-1, 0))[0]
        if a < 0 or b < 0:
            kind = DeltaKind.RIGHT_ONLY if a < 0 else DeltaKind.LEFT_ONLY
        else:
            kind = DeltaKind.SAME if a == b else DeltaKind.DIFFERENT
        if kind is DeltaKind.SAME and not same:
            continue
        if found:
            last = found[-1]
            goes_on = (last.kind, last.begin + last.length) == (kind, thin)
            lies_on = all(
                first < 0 or first + last.length == now for first, now in ((last.left_begin, a), (last.right_begin, b))
            )
            if goes_on and (joined or lies_on):
                found[-1] = last._replace(length=last.length + 1)
                continue
        found.append(Delta(kind, thin, 1, a, b))
    return found
