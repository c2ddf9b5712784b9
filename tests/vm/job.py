"""Scripts to results: one boot runs them all, each on regions of its own of two sparse disks.

Nothing is copied out of the machine: when it is off, what its pools wrote lies in the regions.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.vm import guest, machine
from tests.vm.script import SECTOR, Script

PAGE = 4096
START = "{python} -B -E -s -S guest.py\n"  # no site packages: emulated, each import costs


@dataclass(frozen=True)
class Region:
    """A pool's share of a disk."""

    disk: Path
    begin: int
    nbytes: int

    def read(self, offset: int = 0, nbytes: int | None = None) -> bytes:
        """Return its bytes, or some of them."""
        with self.disk.open("rb") as file:
            return os.pread(file.fileno(), self.nbytes - offset if nbytes is None else nbytes, self.begin + offset)

    def save(self, path: Path) -> Path:
        """Write its bytes to a sparse file."""
        content = self.read()
        with path.open("wb") as file:
            for at in range(0, len(content), PAGE):
                if any(page := content[at : at + PAGE]):
                    os.pwrite(file.fileno(), page, at)
            file.truncate(self.nbytes)
        return path

    def fill(self, image: Path) -> None:
        """Begin with what an image holds."""
        content = image.read_bytes()
        if len(content) > self.nbytes:
            raise ValueError(f"{image} holds {len(content)} bytes, its device {self.nbytes}")
        with self.disk.open("r+b") as file:
            os.pwrite(file.fileno(), content, self.begin)


@dataclass(frozen=True)
class Result:
    """What came of a script: how the pool was opened, an answer for each operation, status lines, and the two regions."""

    script: Script
    opened: str
    outcomes: list[Any]
    pool_status: str
    device_status: dict[int, str]
    metadata: Region
    data: Region


def run(scripts: Sequence[Script], folder: Path, *, timeout_s: float = 300) -> list[Result]:
    """Boot once and run every script; ``folder`` is a new one, and holds the disks for as long as results are read."""
    (folder / "job" / "scripts").mkdir(parents=True)
    disks = folder / "metadata.disk", folder / "data.disk"
    metadata = regions(disks[0], [script.metadata_nbytes for script in scripts])
    data = regions(disks[1], [script.data_nbytes for script in scripts])
    for script, *both in zip(scripts, metadata, data, strict=True):
        for region, image in zip(both, (script.metadata_image, script.data_image), strict=True):
            if image is not None:
                region.fill(image)
    write_job(folder / "job", scripts, metadata, data)
    machine.boot(folder / "job", disks, timeout_s=timeout_s)
    answers = [json.loads(path.read_text()) for path in sorted((folder / "job" / "results").iterdir())]
    return [result(*each) for each in zip(scripts, answers, metadata, data, strict=True)]


def regions(disk: Path, sizes: list[int]) -> list[Region]:
    """Make a sparse disk and divide it."""
    begins = [sum(sizes[:place]) for place in range(len(sizes))]
    with disk.open("wb") as file:
        file.truncate(sum(sizes))
    return [Region(disk, begin, size) for begin, size in zip(begins, sizes, strict=True)]


def write_job(job: Path, scripts: Sequence[Script], metadata: list[Region], data: list[Region]) -> None:
    """Write what the machine runs."""
    for name in ("guest.py", "mapper.py"):
        shutil.copyfile(Path(guest.__file__).with_name(name), job / name)
    (job / "start").write_text(START.format(python=Path(sys.executable).resolve()))
    for place, script in enumerate(scripts):
        shares = {
            kind: [region.begin // SECTOR, region.nbytes // SECTOR]
            for kind, region in (("metadata", metadata[place]), ("data", data[place]))
        }
        (job / "scripts" / f"{place:04}.json").write_text(json.dumps(script.rendered() | shares))


def result(script: Script, answer: dict[str, Any], metadata: Region, data: Region) -> Result:
    """Join a script and its answer."""
    devices = {int(device): status for device, status in answer["devices"].items()}
    return Result(script, answer["opened"], answer["outcomes"], answer["pool"], devices, metadata, data)
