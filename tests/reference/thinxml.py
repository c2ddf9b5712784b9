"""What thin_restore reads in an XML, by Python's own expat: slow, and strict where the kernel is."""

from __future__ import annotations

from typing import Any
from xml.parsers import expat

Item = tuple[Any, ...]
RANGE = ("origin_begin", "data_begin", "length", "time")
SINGLE = ("origin_block", "data_block", "time")
DEVICE = ("dev_id", "mapped_blocks", "transaction", "creation_time", "snap_time")
HEAD = ("time", "transaction", "data_block_size", "nr_data_blocks")


class Refused(Exception):
    """Neither reads it."""


class Reader:
    """Collect ("head", ...), ("device", ...) and ("run", ...) in order."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.open: list[str] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """Take the beginning of an element where it may stand."""
        where = {"superblock": [], "device": ["superblock"], "single_mapping": ["superblock", "device"]}
        if self.open != where.get(name.replace("range_", "single_")):
            raise Refused(name)
        self.open.append(name)

        def numbers(*names: str) -> list[int]:
            found = [attributes.get(name, "") for name in names]
            if not all(value.isascii() and value.isdigit() for value in found):
                raise Refused(found)
            return [int(value) for value in found]

        if name == "superblock":
            rest = {"flags": "0", "version": "1"} | attributes
            self.items.append(("head", *numbers(*HEAD), int(rest["flags"]), int(rest["version"])))
        elif name == "device":
            self.items.append(("device", *numbers(*DEVICE)))
        else:
            begin, data, *rest_ = numbers(*(RANGE if name == "range_mapping" else SINGLE))
            length, time = rest_ if len(rest_) == 2 else (1, *rest_)
            if length:
                self.items.append(("run", begin, data, length, time))

    def end(self, _name: str) -> None:
        """Take an element's end."""
        self.open.pop()


def read(text: bytes) -> list[Item]:
    """Read a whole document; Refused where expat, or the order of elements, says no."""
    reader, parser = Reader(), expat.ParserCreate()
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    try:
        parser.Parse(text, True)
    except (expat.ExpatError, ValueError) as error:
        raise Refused(error) from None
    return reader.items
