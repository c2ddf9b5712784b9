"""Scripts to results: one boot runs them all, each on regions of its own of two sparse disks.

Nothing is copied out of the machine: when it is off, what its pools wrote lies in the regions.
"""

from __future__ import annotations

import itertools
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
DISKS = ("metadata.disk", "data.disk")
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
    disks = [make_disk(folder / name, sizes) for name, sizes in zip(DISKS, sizes_of(scripts), strict=True)]
    shares = regions(scripts, folder)
    for script, both in zip(scripts, shares, strict=True):
        for region, image in zip(both, (script.metadata_image, script.data_image), strict=True):
            if image is not None:
                region.fill(image)
    write_job(folder / "job", scripts, shares)
    machine.boot(folder / "job", disks, timeout_s=timeout_s)
    return results(scripts, folder)


def results(scripts: Sequence[Script], folder: Path) -> list[Result]:
    """Return what came of scripts that ran in ``folder``."""
    answers = [json.loads(path.read_text()) for path in sorted((folder / "job" / "results").iterdir())]
    return [result(*each) for each in zip(scripts, answers, regions(scripts, folder), strict=True)]


def sizes_of(scripts: Sequence[Script]) -> tuple[list[int], list[int]]:
    """Return the sizes of the shares of both disks."""
    return [script.metadata_nbytes for script in scripts], [script.data_nbytes for script in scripts]


def make_disk(disk: Path, sizes: list[int]) -> Path:
    """Make a sparse disk."""
    with disk.open("wb") as file:
        file.truncate(sum(sizes))
    return disk


def regions(scripts: Sequence[Script], folder: Path) -> list[tuple[Region, Region]]:
    """Return each script's shares of both disks."""
    columns = []
    for name, sizes in zip(DISKS, sizes_of(scripts), strict=True):
        begins = [0, *itertools.accumulate(sizes)][:-1]
        columns.append([Region(folder / name, begin, size) for begin, size in zip(begins, sizes, strict=True)])
    return list(zip(*columns, strict=True))


def write_job(job: Path, scripts: Sequence[Script], shares: list[tuple[Region, Region]]) -> None:
    """Write what the machine runs."""
    for name in ("guest.py", "mapper.py"):
        shutil.copyfile(Path(guest.__file__).with_name(name), job / name)
    (job / "start").write_text(START.format(python=Path(sys.executable).resolve()))
    for place, (script, both) in enumerate(zip(scripts, shares, strict=True)):
        sectors = [[region.begin // SECTOR, region.nbytes // SECTOR] for region in both]
        rendered = script.rendered() | dict(zip(("metadata", "data"), sectors, strict=True))
        (job / "scripts" / f"{place:04}.json").write_text(json.dumps(rendered))


def result(script: Script, answer: dict[str, Any], shares: tuple[Region, Region]) -> Result:
    """Join a script and its answer."""
    devices = {int(device): status for device, status in answer["devices"].items()}
    return Result(script, answer["opened"], answer["outcomes"], answer["pool"], devices, *shares)
