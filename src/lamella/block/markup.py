"""The XML of thin_dump, read as a stream: the superblock's line, then devices with their extents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from lamella._kernels import thinxml
from lamella.block.extents import ExtentTable
from lamella.block.metadata import DeviceDetails
from lamella.errors import FormatError

__all__ = ["Head", "read_markup"]

_ROOM = 1 << 20  # an element that is longer is refused
_ROWS = 1 << 13
_EVENTS = {thinxml.SUPERBLOCK, thinxml.DEVICE}


class Head(NamedTuple):
    """What the XML says of the superblock. ``data_block_size`` is in sectors; the uuid is passed over, as metadata has none."""

    time: int
    transaction_id: int
    data_block_size: int
    nr_data_blocks: int
    flags: int
    version: int


def read_markup(source: BinaryIO) -> Iterator[Head | DeviceDetails | ExtentTable]:
    """Yield the Head, and each device before its extents; rows are as they stand there, in any order.

    ``source`` has ``readinto``. ``FormatError`` names line and byte of what is wrong: also of what thin_restore takes but
    nobody writes, such as text between elements.
    """
    state = np.zeros(thinxml.STATE_NBYTES, np.uint8)
    room = np.empty(_ROOM, np.uint8)
    begin = end = 0
    while True:
        rows = tuple(np.empty(_ROWS, np.int64) for _ in range(4))
        used, n, event = thinxml.scan(state, room[begin:end], *rows)
        begin += used
        if n:
            yield ExtentTable(*(column[:n] for column in rows))
        if event in _EVENTS:
            yield _element(event, thinxml.values(state))
        if event == thinxml.MORE:
            room[: end - begin] = room[begin:end]
            begin, end = 0, end - begin
            if end == _ROOM:
                raise FormatError("an element that is too long")
            got = source.readinto(room[end:].data)  # type: ignore[attr-defined]
            if not got:
                break
            end += got
    if end or not thinxml.is_done(state):
        raise FormatError("no element found: the text ends too early")


def _element(event: int, values: dict[str, int]) -> Head | DeviceDetails:
    if event == thinxml.DEVICE:
        names = ("dev_id", "mapped_blocks", "transaction", "creation_time", "snap_time")
        return DeviceDetails(*[values[name] for name in names])
    optional = {"flags": 0, "version": 1}  # thin_restore's defaults
    fields = ("time", "transaction", "data_block_size", "nr_data_blocks", "flags", "version")
    return Head(*[{**optional, **values}[name] for name in fields])
