"""Metadata of thin pools beside thin-provisioning-tools, and maps as extents beside the copying of their columns.

Two devices of 2.5 million mappings each, which share no node; of the second one 1 % of the runs lies elsewhere. ``singles``:
every mapping is a run of its own; else runs have 16. The image is thin_restore's, so that everybody reads the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lamella.bench.gate import Target
from lamella.bench.ground import Tmpfs, run
from lamella.bench.measure import MeasureError, Sample, in_python, programs
from lamella.bench.panel import Contender, Panel

__all__ = ["JOBS", "TARGETS", "Thin", "extents"]

SHAPES = {"singles": 1, "runs": 16}
_MAPPINGS = 2_500_000  # of a device
_SLICE = 10  # of it with --quick
_BLOCKS = 1_638_400  # 100 GiB at 64 KiB
_MAPS = {"few extents": 16_384, "runs of 16": 16, "singles": 1}
_COPIED = "columns copied"
_LOOKUPS = 1_000_000
_TASKS = {"check": 4.0, "delta": 4.0, "dump": 4.0, "restore": 8.0}


class Thin:
    """The part of a run that has a pool's metadata to work on."""

    name = "thin pool"

    def __init__(self, *, quick: bool) -> None:
        self._n = _MAPPINGS // (_SLICE if quick else 1)

    def make(self, home: Path, result: Any) -> None:  # noqa: ARG002  (the corpus of this part is in no result)
        """Make an XML and an image of each shape."""
        for shape, length in SHAPES.items():
            folder = home / shape
            folder.mkdir()
            in_python("thin-make", folder, self._n, length)
            (folder / "image").write_bytes(b"")
            os.truncate(folder / "image", 12 * self._n * 16 + (4 << 20) & -4096)
            run("thin_restore", "-q", "-i", str(folder / "xml"), "-o", str(folder / "image"))

    def panels(self, home: Path) -> list[Panel]:
        """List them."""
        return [_panel(task, shape, home / shape) for task in _TASKS for shape in SHAPES]


def _panel(task: str, shape: str, folder: Path) -> Panel:
    image, xml = folder / "image", folder / "xml"
    argv = {
        "check": ("thin_check", "-q", str(image)),
        "delta": ("thin_delta", "--snap1", "1", "--snap2", "2", str(image)),
        "dump": ("thin_dump", str(image)),
    }

    def ours(lent: Path) -> Sample:
        return in_python("thin-restore", xml, _blank(lent, image)) if task == "restore" else in_python(f"thin-{task}", image)

    def theirs(lent: Path) -> Sample:
        if task != "restore":
            return programs(argv[task])
        return programs(("thin_restore", "-q", "-i", str(xml), "-o", str(_blank(lent, image))))

    contenders = (Contender("lamella", ours, "in one interpreter, its start excluded"), Contender(f"thin_{task}", theirs))
    title = f"{task} the metadata of two thin devices, {shape}"
    return Panel(f"thin {task} {shape}", title, Tmpfs(folder.parent), contenders)


def _blank(folder: Path, like: Path) -> Path:
    path = folder / "out"
    path.write_bytes(b"")
    os.truncate(path, like.stat().st_size)
    return path


def extents(ground: Tmpfs, *, quick: bool) -> tuple[Panel, Panel]:
    """Tell two maps of 100 GiB apart, and look blocks of one up, in one interpreter each; warm."""

    def contender(job: str, name: str, how: str) -> Contender:
        def measure(_: Path) -> Sample:
            sample = in_python(job, name, 3 if quick else 15)
            return replace(sample, wall=sample.facts["wall"], cpu=sample.facts["cpu"])

        return Contender(name, measure, how)

    maps = [contender("extents-delta", name, "ExtentTable.delta, 1 % differs, median") for name in _MAPS]
    copied = contender("extents-delta", _COPIED, "six columns of singles copied by NumPy, once")
    looks = [contender("extents-lookup", f"{name}, {order}", "ExtentTable.lookup of a million blocks, median")
             for name in _MAPS for order in ("sorted", "random")]  # fmt: skip
    return (
        Panel("extents delta", "tell two maps of 1.6 million blocks apart", ground, (*maps, copied)),
        Panel("extents lookup", "look a million blocks up", ground, tuple(looks)),
    )


def _targets() -> Iterator[Target]:
    for shape in SHAPES:
        for task, limit in _TASKS.items():
            panel = f"thin {task} {shape}"
            yield Target(panel, "tmpfs", "cheaper", "lamella", f"thin_{task}", ">=", limit)
            yield Target(panel, "tmpfs", "rss", "lamella", "", "<=", 300)
    yield Target("extents delta", "tmpfs", "ms", "few extents", "", "<=", 1.0)
    yield Target("extents delta", "tmpfs", "times", "singles", _COPIED, "<=", 2.0)
    for name in _MAPS:
        yield Target("extents lookup", "tmpfs", "nanos", f"{name}, sorted", "", "<=", 50)


TARGETS = tuple(_targets())


# -- jobs, each in an interpreter of its own ------------------------------------------------------------------------------


def _map(length: int, blocks: int, *, other: bool) -> Any:
    """Return a map of runs in an order of data that chance gave; of ``other`` every hundredth run lies elsewhere."""
    from lamella.block.extents import ExtentTable  # noqa: PLC0415  (jobs import what they measure)

    n = blocks // length
    data = np.random.default_rng(1).permutation(n) * length
    if other:
        data[::100] += blocks
    return ExtentTable(np.arange(n) * length, data, np.full(n, length), np.zeros(n))


def make(folder: str, n: str, length: str) -> dict[str, Any]:
    """Write the XML of two devices, by way of an image of our own."""
    from lamella.block.building import Builder, output_device  # noqa: PLC0415
    from lamella.block.dumping import dump  # noqa: PLC0415
    from lamella.block.metadata import DeviceDetails, Metadata  # noqa: PLC0415
    from lamella.block.superblock import SpaceMapRoot, Superblock  # noqa: PLC0415

    home, blocks, none = Path(folder), int(n), SpaceMapRoot(0, 0, 0, 0)
    path = home / "made"
    path.write_bytes(b"")
    os.truncate(path, 12 * blocks * 16 + (4 << 20) & -4096)
    with output_device(path) as fd:
        builder = Builder(fd, nr_data_blocks=2 * blocks)
        for dev_id in (1, 2):
            builder.add(DeviceDetails(dev_id, 0, 0, 0, 0), iter([_map(int(length), blocks, other=dev_id == 2)]))
        builder.finish(Superblock(0, b"", 2, 0, 1, 0, none, none, 0, 0, 128, 8, 0, 0, 0, 0))
    with Metadata.open(path) as metadata, open(home / "xml", "wb") as out:
        dump(metadata, out.write)
    path.unlink()
    return {}


def check(image: str) -> Callable[[], dict[str, Any]]:
    """Check an image."""
    from lamella.block.checking import check as examine  # noqa: PLC0415
    from lamella.block.metadata import Metadata  # noqa: PLC0415

    def call() -> dict[str, Any]:
        with Metadata.open(image) as metadata:
            if examine(metadata):
                raise MeasureError("the image is not whole")
        return {}

    return call


def delta(image: str) -> Callable[[], dict[str, Any]]:
    """Print what differs between its devices."""
    from lamella.block.delta import delta_xml  # noqa: PLC0415
    from lamella.block.metadata import Metadata  # noqa: PLC0415

    def call() -> dict[str, Any]:
        with Metadata.open(image) as metadata, open(os.devnull, "w") as out:
            out.writelines(delta_xml(metadata, 1, 2))
        return {}

    return call


def dump_text(image: str) -> Callable[[], dict[str, Any]]:
    """Print it all."""
    from lamella.block.dumping import dump  # noqa: PLC0415
    from lamella.block.metadata import Metadata  # noqa: PLC0415

    def call() -> dict[str, Any]:
        with Metadata.open(image) as metadata, open(os.devnull, "wb", buffering=0) as out:
            dump(metadata, out.write)
        return {}

    return call


def restore_text(xml: str, out: str) -> Callable[[], dict[str, Any]]:
    """Make an image of an XML."""
    from lamella.block.building import output_device  # noqa: PLC0415
    from lamella.block.restoring import restore  # noqa: PLC0415

    def call() -> dict[str, Any]:
        with open(xml, "rb", buffering=0) as source, output_device(out) as fd:
            restore(source, fd)
        return {}

    return call


def _repeated(call: Callable[[], object], repeats: int) -> dict[str, Any]:
    walls, cpus = [], []
    for _ in range(repeats + 1):
        cpu, wall = time.process_time(), time.perf_counter()
        call()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return {"wall": float(np.median(walls[1:])), "cpu": float(np.median(cpus[1:]))}


def time_delta(name: str, repeats: str) -> dict[str, Any]:
    """Take the median of deltas of two maps, or of copies of their columns."""
    length = _MAPS.get(name, 1)
    left, right = _map(length, _BLOCKS, other=False), _map(length, _BLOCKS, other=True)
    if name == _COPIED:
        pairs = [(column, np.empty_like(column)) for table in (left, right) for column in table.columns[:3]]

        def copy() -> None:
            for column, to in pairs:
                np.copyto(to, column)

        return _repeated(copy, int(repeats))
    return _repeated(lambda: left.delta(right), int(repeats)) | {"extents": len(left)}


def time_lookup(name: str, repeats: str) -> dict[str, Any]:
    """Take the median of lookups of blocks that chance gave."""
    shape, _, order = name.partition(", ")
    table = _map(_MAPS[shape], _BLOCKS, other=False)
    blocks = np.random.default_rng(3).integers(0, _BLOCKS, _LOOKUPS)
    if order == "sorted":
        blocks.sort()
    return _repeated(lambda: table.lookup(blocks), int(repeats)) | {"n": _LOOKUPS}


Job = Callable[..., Callable[[], dict[str, Any]]]


def _late(job: Callable[..., dict[str, Any]]) -> Job:
    return lambda *arguments: lambda: job(*arguments)


JOBS: dict[str, Job] = {
    "extents-delta": _late(time_delta),
    "extents-lookup": _late(time_lookup),
    "thin-check": check,
    "thin-delta": delta,
    "thin-dump": dump_text,
    "thin-make": _late(make),
    "thin-restore": restore_text,
}
