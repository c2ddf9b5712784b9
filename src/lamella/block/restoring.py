"""Metadata from the XML that thin_dump writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np

from lamella.block.building import Builder
from lamella.block.dumping import AS_THEY_ARE, Overrides
from lamella.block.extents import ExtentTable
from lamella.block.markup import Head, read_markup
from lamella.block.metadata import DeviceDetails
from lamella.block.superblock import SpaceMapRoot, Superblock
from lamella.errors import FormatError

__all__ = ["restore"]

_NO_MAP = SpaceMapRoot(0, 0, 0, 0)
Tables = Iterator[ExtentTable]


class _Disorder(Exception):
    """Extents of a device do not ascend."""


def restore(source: BinaryIO, fd: int, *, overrides: Overrides = AS_THEY_ARE) -> Superblock:
    """Write the pool that an XML describes over all that is on ``fd``, and return its superblock.

    ``source`` is read once, in little memory, where mappings ascend as thin_dump writes them. Else it is read again from
    its beginning, and each device's mappings are sorted in memory.
    ``FormatError`` where the text is wrong, ``PoolFullError`` where the metadata device is too small; then no pool is there.
    """
    try:
        return _restore(source, fd, overrides, _straight)
    except _Disorder:
        source.seek(0)
        return _restore(source, fd, overrides, _sorted)


def _restore(source: BinaryIO, fd: int, overrides: Overrides, order: Callable[[Tables], Tables]) -> Superblock:
    items = _Items(read_markup(source))
    head = items.take()
    if not isinstance(head, Head):
        raise FormatError("missing superblock")
    transaction, block_size, nr_blocks = overrides.over(head.transaction_id, head.data_block_size, head.nr_data_blocks)
    builder = Builder(fd, nr_data_blocks=nr_blocks)
    while (device := items.take()) is not None:
        if not isinstance(device, DeviceDetails):
            raise FormatError("not in device")
        if device.dev_id in builder:
            raise FormatError(f"Device already exists: {device.dev_id}")
        builder.add(device, order(items.tables()))
    given = Superblock(
        head.flags, b"", head.version, head.time, transaction, 0, _NO_MAP, _NO_MAP, 0, 0, block_size, 0, 0, 0, 0, 0
    )
    return builder.finish(given)


def _straight(tables: Tables) -> Tables:
    """Pass extents on as long as they ascend."""
    end = 0
    for table in tables:
        ends = table.thin_begin + table.length
        if table.thin_begin[0] < end or (table.thin_begin[1:] < ends[:-1]).any():
            raise _Disorder
        end = int(ends[-1])
        yield table


def _sorted(tables: Tables) -> Tables:
    """Sort a device's extents; a block that is mapped twice is the builder's to refuse."""
    columns = [np.concatenate(parts) for parts in zip(*(table.columns for table in tables), strict=True)]
    if columns:
        order = np.argsort(columns[0], kind="stable")
        yield ExtentTable(*(column[order] for column in columns))


class _Items:
    """The stream of read_markup, one item ahead."""

    def __init__(self, items: Iterator[Head | DeviceDetails | ExtentTable]) -> None:
        self._items = items
        self._next = next(items, None)

    def take(self) -> Head | DeviceDetails | ExtentTable | None:
        """Return the next item, None at the end."""
        item, self._next = self._next, next(self._items, None)
        return item

    def tables(self) -> Iterator[ExtentTable]:
        """Yield extents up to the next device."""
        while isinstance(self._next, ExtentTable):
            table, self._next = self._next, next(self._items, None)
            yield table
