"""Metadata to the reference's states and back, by way of thin-provisioning-tools."""

from __future__ import annotations

import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

from tests import parts
from tests.reference.thin import Device, Mapping, PoolState


def tool(name: str, *argv: str | Path) -> str:
    """Run a tool and return what it prints; AssertionError with its complaint if it fails."""
    done = subprocess.run([parts.program(name) or name, *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
    return done.stdout


def read(image: Path, *options: str) -> PoolState:
    """Return what ``thin_dump`` finds in an image."""
    top = ET.fromstring(tool("thin_dump", *options, image))
    devices = {int(each.attrib["dev_id"]): device(each) for each in top}
    return PoolState(int(top.attrib["time"]), int(top.attrib["transaction"]), devices)


def device(element: ET.Element) -> Device:
    """Read a device."""
    numbers = {name: int(value) for name, value in element.items()}
    found = Device(numbers["transaction"], numbers["creation_time"], numbers["snap_time"], numbers["mapped_blocks"])
    for each in element:
        values = {name: int(value) for name, value in each.items()}
        if each.tag == "single_mapping":
            values |= {"origin_begin": values["origin_block"], "data_begin": values["data_block"], "length": 1}
        for place in range(values["length"]):
            found.blocks[values["origin_begin"] + place] = Mapping(values["data_begin"] + place, values["time"])
    return found


def restore(state: PoolState, image: Path, *, image_nbytes: int, block_nsectors: int, nblocks: int) -> None:
    """Let ``thin_restore`` write an image of a state."""
    top = ET.Element("superblock", numbers(time=state.time, transaction=state.transaction_id, version=2))
    top.attrib |= {"uuid": ""} | numbers(data_block_size=block_nsectors, nr_data_blocks=nblocks)
    for number, each in sorted(state.devices.items()):
        facts = numbers(dev_id=number, mapped_blocks=each.mapped, transaction=each.transaction_id)
        element = ET.SubElement(top, "device", facts | numbers(creation_time=each.created, snap_time=each.snapped))
        for block, mapping in sorted(each.blocks.items()):
            at = numbers(origin_block=block, data_block=mapping.data, time=mapping.time)
            ET.SubElement(element, "single_mapping", at)
    text = image.with_suffix(".xml")
    ET.ElementTree(top).write(text)
    with image.open("wb") as file:
        file.truncate(image_nbytes)
    tool("thin_restore", "-i", text, "-o", image)


def numbers(**values: int) -> dict[str, str]:
    """Spell attributes."""
    return {name: str(value) for name, value in values.items()}
