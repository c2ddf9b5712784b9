"""Metadata of thin pools, beside thin-provisioning-tools: two devices that share no nodes, one mapping in a hundred differs.

In ``singles`` no two mappings follow each other, in ``runs`` sixteen do. Every image is made by thin_restore.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lamella.bench.ground import Ground, run
from lamella.bench.measure import MeasureError, Sample, in_python, programs
from lamella.bench.panel import Contender, Panel

__all__ = ["MAPPED", "SHAPES", "THIN_JOBS", "blank", "make_image", "thin"]

SHAPES = {"singles": 1, "runs": 16}  # name -> mappings in a run
MAPPED = 2_500_000  # by each of two devices
_BYTES_A_MAPPING = 110  # of metadata, with room to spare
Call = Callable[[], dict[str, Any]]


def thin(ground: Ground, *, quick: bool) -> Panel:
    """Check, compare and list metadata that the machine has in memory."""
    mapped = MAPPED // 20 if quick else MAPPED

    def prepare(folder: Path) -> None:
        for shape, length in SHAPES.items():
            make_image(folder / shape, mapped, length).unlink()

    contenders = []
    for shape in SHAPES:
        contenders += [
            _ours("check", shape, mapped), _theirs(f"thin_check, {shape}", shape, "thin_check", "-q"),
            _ours("delta", shape, mapped), _theirs(f"thin_delta, {shape}", shape, "thin_delta", "--snap1", "0", "--snap2", "1"),
            _ours("ls", shape, mapped), _theirs(f"thin_ls, {shape}", shape, "thin_ls", "-o", "DEV,EXCLUSIVE,SHARED"),
        ]  # fmt: skip
    return Panel("thin", f"{2 * mapped:,} mappings of two thin devices", ground, tuple(contenders), prepare)


def _ours(job: str, shape: str, mapped: int) -> Contender:
    def measure(folder: Path) -> Sample:
        sample = in_python(f"thin-{job}", folder / shape)
        if sample.facts.get("mapped", mapped) != mapped:
            raise MeasureError(f"{job}: {sample.facts}")
        return sample

    return Contender(f"lamella {job}, {shape}", measure, f"what lamella thin {job} does, its start-up left out")


def _theirs(name: str, shape: str, *argv: str) -> Contender:
    return Contender(name, lambda folder: programs([*argv, str(folder / shape)]), " ".join(argv))


# -- images -----------------------------------------------------------------------------------------------------------


def make_image(path: Path, mapped: int, length: int) -> Path:
    """Have thin_restore write devices 0 and 1, of ``mapped`` blocks in runs of ``length``; return the XML."""
    text = path.with_suffix(".xml")
    with text.open("w") as out:
        out.writelines(_lines(mapped, length))
    run("thin_restore", "-q", "-i", str(text), "-o", str(blank(path, mapped)))
    return text


def blank(path: Path, mapped: int) -> Path:
    """Make an empty file with room for the metadata of both devices."""
    with path.open("wb") as image:
        image.truncate((_BYTES_A_MAPPING * 2 * mapped + (4 << 20)) & -4096)
    return path


def _lines(mapped: int, length: int) -> Iterator[str]:
    rng = random.Random(7)  # noqa: S311  (the same mappings each time)
    yield f'<superblock uuid="" time="1" transaction="1" data_block_size="128" nr_data_blocks="{4 * mapped}">\n'
    for device in (0, 1):
        yield f'<device dev_id="{device}" mapped_blocks="{mapped}" transaction="0" creation_time="0" snap_time="0">\n'
        for begin in range(0, mapped, length):
            yield _element(begin, _data(begin, mapped, moved=device == 1, rng=rng), min(length, mapped - begin))
        yield "</device>\n"
    yield "</superblock>\n"


def _data(begin: int, mapped: int, *, moved: bool, rng: random.Random) -> int:
    """Return where a run lies: no run lies behind the one before it."""
    if moved and rng.random() < 0.01:
        return 2 * mapped + begin
    return 2 * mapped - begin - 16


def _element(begin: int, data: int, length: int) -> str:
    if length == 1:
        return f'<single_mapping origin_block="{begin}" data_block="{data}" time="0"/>\n'
    return f'<range_mapping origin_begin="{begin}" data_begin="{data}" length="{length}" time="0"/>\n'


# -- jobs -------------------------------------------------------------------------------------------------------------


def _check(path: str) -> Call:
    from lamella.block.checking import check  # noqa: PLC0415  (a job imports what it needs before it is measured)
    from lamella.block.metadata import Metadata  # noqa: PLC0415

    def call() -> dict[str, Any]:
        with Metadata.open(path) as metadata:
            problems = check(metadata)
        if problems:
            raise MeasureError(str(problems[0]))
        return {}

    return call


def _delta(path: str) -> Call:
    from lamella.block.delta import delta_xml  # noqa: PLC0415
    from lamella.block.metadata import Metadata  # noqa: PLC0415

    def call() -> dict[str, Any]:
        with Metadata.open(path) as metadata, open(os.devnull, "w") as out:
            out.writelines(delta_xml(metadata, 0, 1))
        return {}

    return call


def _ls(path: str) -> Call:
    from lamella.block.listing import listing  # noqa: PLC0415
    from lamella.block.metadata import Metadata  # noqa: PLC0415

    def call() -> dict[str, Any]:
        with Metadata.open(path) as metadata:
            lines = list(listing(metadata, ["MAPPED_BLOCKS", "EXCLUSIVE", "SHARED"], headers=False))
        return {"mapped": int(lines[0].split()[0])}

    return call


THIN_JOBS: dict[str, Callable[..., Call]] = {"thin-check": _check, "thin-delta": _delta, "thin-ls": _ls}
