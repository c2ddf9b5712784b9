"""Metadata of thin pools to text and back, beside thin-provisioning-tools; maps as extents beside a copy of their columns."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lamella.bench.gate import Target
from lamella.bench.ground import Ground
from lamella.bench.measure import Sample, in_python, programs
from lamella.bench.panel import Contender, Panel
from lamella.bench.thin import MAPPED, SHAPES, blank, make_image

__all__ = ["JOBS", "TARGETS", "extents", "thin_text"]

_BLOCKS = 1_638_400  # 100 GiB at 64 KiB
_MAPS = {"few extents": 16_384, "runs of 16": 16, "singles": 1}
_COPIED = "columns copied"
_LOOKUPS = 1_000_000
_TASKS = {"dump": 4.0, "restore": 8.0}


def thin_text(ground: Ground, *, quick: bool) -> Panel:
    """Dump metadata to text and restore it, all in memory; a dump is not written anywhere."""
    mapped = MAPPED // 20 if quick else MAPPED

    def prepare(folder: Path) -> None:
        for shape, length in SHAPES.items():
            (folder / shape).mkdir()
            make_image(folder / shape / "image", mapped, length)

    def contender(name: str, measure: Callable[[Path], Sample], shape: str) -> Contender:
        return Contender(f"{name}, {shape}", lambda folder: measure(folder / shape))

    def restore(home: Path) -> Sample:
        return in_python("thin-restore", home / "image.xml", blank(home / "out", mapped))

    def their_restore(home: Path) -> Sample:
        return programs(("thin_restore", "-q", "-i", str(home / "image.xml"), "-o", str(blank(home / "out", mapped))))

    sides = {
        "lamella dump": lambda home: in_python("thin-dump", home / "image"),
        "thin_dump": lambda home: programs(("thin_dump", str(home / "image"))),
        "lamella restore": restore,
        "thin_restore": their_restore,
    }
    contenders = [contender(name, measure, shape) for shape in SHAPES for name, measure in sides.items()]
    return Panel("thin text", f"{2 * mapped:,} mappings to XML and back", ground, tuple(contenders), prepare)


def extents(ground: Ground, *, quick: bool) -> tuple[Panel, Panel]:
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
            ours = f"lamella {task}, {shape}"
            yield Target("thin text", "tmpfs", "cheaper", ours, f"thin_{task}, {shape}", ">=", limit)
            yield Target("thin text", "tmpfs", "rss", ours, "", "<=", 300)
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
    "thin-dump": dump_text,
    "thin-restore": restore_text,
}
