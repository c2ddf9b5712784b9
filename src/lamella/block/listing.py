"""The devices of a pool as thin_ls lists them: what is mapped, and how much of it is no other device's too."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from lamella.block.metadata import DeviceDetails, Metadata
from lamella.errors import LamellaError

__all__ = ["DEFAULT_FIELDS", "FIELDS", "disk_units", "exclusive_blocks", "listing"]

DEFAULT_FIELDS = ("DEV", "MAPPED", "CREATE_TIME", "SNAP_TIME")
_UNITS = ("", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_WORD = 1 << 64
Column = NDArray[np.int64]
_UNIT_FORMS: dict[str, Callable[[int, int], str]] = {  # blocks and the block's sectors, as the tool's 64-bit numbers have them
    "_BLOCKS": lambda blocks, _: str(blocks),
    "_SECTORS": lambda blocks, sectors: str(blocks * sectors % _WORD),
    "_BYTES": lambda blocks, sectors: str(blocks * sectors * 512 % _WORD),
    "": lambda blocks, sectors: disk_units(blocks * sectors * 512 % _WORD),
}
_SHARES = ("MAPPED", "EXCLUSIVE", "SHARED")
FIELDS = ("DEV", *(share + form for form in _UNIT_FORMS for share in _SHARES), "TRANSACTION", "CREATE_TIME", "SNAP_TIME")


def disk_units(nbytes: int) -> str:
    """Return a size in the unit in which it is at most 8,192: rounded below 1,024 units, cut off above."""
    power = 0
    while nbytes >> 10 * power > 8192:
        power += 1
    unit = 1 << 10 * power
    count = nbytes // unit
    if count < 1024:
        count = (2 * nbytes + unit) // (2 * unit)
    return f"{count}{_UNITS[power]}" if nbytes else "0"


def exclusive_blocks(metadata: Metadata) -> dict[int, int]:
    """Count for each device the data blocks that one mapping of it, and no other mapping of any device, points at."""
    devices = defaultdict(list)
    for dev_id, root in metadata.roots().items():
        devices[root].append(dev_id)  # devices with one root are read once
    begins, ends, owners = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    weights = np.array([len(ids) for ids in devices.values()], np.int64)
    for number, root in enumerate(devices):
        for table in metadata.extents(root=root):
            begins.append(table.data_begin)
            ends.append(table.data_begin + table.length)
            owners.append(np.full(len(table), number))
    found = _alone(np.concatenate(begins), np.concatenate(ends), np.concatenate(owners), weights)
    return {dev_id: found[number] for number, ids in enumerate(devices.values()) for dev_id in ids}


def _alone(begins: Column, ends: Column, owners: Column, weights: Column) -> list[int]:
    """Sweep over ranges with an owner each: the length of what is covered once, by owner.

    Where one range covers, the sum of all owners that cover is its owner.
    """
    where = np.concatenate((begins, ends))
    order = np.argsort(where)
    where = where[order]
    is_end = order >= len(begins)
    owner = owners[np.where(is_end, order - len(begins), order)]
    sign = np.where(is_end, -1, 1)
    covers = np.cumsum(sign * weights[owner])
    who = np.cumsum(sign * owner)
    length = np.diff(where, append=where[-1:])
    once = covers == 1
    counted = np.zeros(len(weights), np.int64)
    np.add.at(counted, who[once], length[once])
    return [int(count) for count in counted]


def listing(metadata: Metadata, fields: Sequence[str] = DEFAULT_FIELDS, *, headers: bool = True) -> Iterator[str]:
    """Yield lines as thin_ls 0.9.0 prints them: columns right-justified, each with a space behind it."""
    unknown = [name for name in fields if name not in FIELDS]
    if unknown:
        raise LamellaError(f"unknown field: {unknown[0]!r}")
    needs = any(name.startswith(_SHARES[1:]) for name in fields)
    exclusive = exclusive_blocks(metadata) if needs else {}
    size = metadata.superblock.data_block_size
    rows = [list(fields)] if headers else []
    rows += [[_cell(name, details, exclusive, size) for name in fields] for details in metadata.devices()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "".join(f"{cell:>{width}} " for cell, width in zip(row, widths, strict=True)) + "\n"


def _cell(name: str, details: DeviceDetails, exclusive: dict[int, int], size: int) -> str:
    plain = {
        "DEV": details.dev_id,
        "TRANSACTION": details.transaction_id,
        "CREATE_TIME": details.creation_time,
        "SNAP_TIME": details.snapshotted_time,
    }.get(name)
    if plain is not None:
        return str(plain)
    share = next(share for share in _SHARES if name.startswith(share))
    alone = exclusive.get(details.dev_id, 0)
    blocks = {"MAPPED": details.mapped_blocks, "EXCLUSIVE": alone, "SHARED": (details.mapped_blocks - alone) % _WORD}[share]
    return _UNIT_FORMS[name.removeprefix(share)](blocks, size)
