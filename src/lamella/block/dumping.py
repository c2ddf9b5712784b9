"""Metadata as text: the XML and the human readable form that thin_dump 0.9.0 prints, byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from lamella.block.extents import ExtentTable
from lamella.block.lines import HUMAN, XML, Lines
from lamella.block.metadata import DeviceDetails, Metadata

__all__ = ["Overrides", "dump"]

Form = Literal["xml", "human_readable"]
_FORMS = {"xml": XML, "human_readable": HUMAN}
_HEAD = {
    "xml": '<superblock uuid="{}" time="{}" transaction="{}" flags="{}" version="{}" data_block_size="{}" '
    'nr_data_blocks="{}">\n',
    "human_readable": 'begin superblock: "{}", {}, {}, {}, {}, {}, {}\n',
}
_DEVICE = {
    "xml": '  <device dev_id="{}" mapped_blocks="{}" transaction="{}" creation_time="{}" snap_time="{}">\n',
    "human_readable": "device: {}\nmapped_blocks: {}\ntransaction: {}\ncreation time: {}\nsnap time: {}\n",
}
_DEVICE_END = {"xml": "  </device>\n", "human_readable": "\n"}
_END = {"xml": "</superblock>\n", "human_readable": "end superblock\n"}


@dataclass(frozen=True, slots=True)
class Overrides:
    """Fields of the superblock that the caller knows better; None: as they are."""

    transaction_id: int | None = None
    data_block_size: int | None = None
    nr_data_blocks: int | None = None

    def over(self, transaction_id: int, data_block_size: int, nr_data_blocks: int) -> tuple[int, int, int]:
        """Return the three fields as they shall be."""
        return (
            transaction_id if self.transaction_id is None else self.transaction_id,
            data_block_size if self.data_block_size is None else self.data_block_size,
            nr_data_blocks if self.nr_data_blocks is None else self.nr_data_blocks,
        )


AS_THEY_ARE = Overrides()


def dump(
    metadata: Metadata,
    write: Callable[[Any], object],
    *,
    form: Form = "xml",
    dev_ids: Collection[int] = (),
    mappings: bool = True,
    overrides: Overrides = AS_THEY_ARE,
) -> None:
    """Give the text of ``metadata`` to ``write``, piece by piece, as bytes or as a buffer that is written to again later.

    ``dev_ids``: those devices only, where any are named; ids that no device has are passed over. ``mappings``: with them.
    ``MetadataError`` where the trees are damaged; what was written until then stands.
    """
    found = metadata.superblock
    transaction, block_size, nr_blocks = overrides.over(found.transaction_id, found.data_block_size, found.data_sm.nblocks)
    head = ("", found.time, transaction, found.flags, found.version, block_size, nr_blocks)
    write(_HEAD[form].format(*head).encode())
    lines = Lines()
    roots = metadata.roots()
    for device in metadata.devices():
        if dev_ids and device.dev_id not in dev_ids:
            continue
        write(_DEVICE[form].format(*device).encode())
        if mappings:
            for table in _extents(metadata, device, roots):
                for piece in lines.of(_FORMS[form], *table.columns):
                    write(piece)
        write(_DEVICE_END[form].encode())
    write(_END[form].encode())


def _extents(metadata: Metadata, device: DeviceDetails, roots: dict[int, int]) -> Iterator[ExtentTable]:
    root = roots.get(device.dev_id)
    return metadata.extents(device.dev_id) if root is None else metadata.extents(root=root)  # the former says what is wrong
