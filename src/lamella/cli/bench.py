"""Command for the benchmarks: the table of ratios against other programs of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from lamella.bench import report
from lamella.bench.suite import run_suite
from lamella.cli.output import Output, Report, command_options

__all__ = ["bench"]


@click.command(short_help="Compare the speed with other programs of this machine.")
@click.option("--quick", is_flag=True, help="One round of a small corpus.")
@click.option("--rounds", type=click.IntRange(min=1), metavar="N", help="Samples of each contender, taken by turns.")
@click.option("--panel", "panels", multiple=True, metavar="NAME", help="Only tasks whose name begins so; repeatable.")
@click.option("--image", default="", metavar="REF", help="An OCI layout of gzip layers, instead of one made here.")
@click.option("--image-zstd", default="", metavar="REF", help="Its zstd twin.")
@click.option("-o", "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write every sample to this file, as JSON.")
@command_options
def bench(
    output: Output, *, quick: bool, rounds: int | None, panels: tuple[str, ...], image: str, image_zstd: str, out: Path | None
) -> Report:
    """Measure apply, list, diff, write, unpack and squash beside other programs, and print ratios.

    Exit 1 where a peer is absent, a task cannot be measured, or a figure is below its floor.
    """
    result = run_suite(quick=quick, rounds=rounds, panels=panels, image=image, image_zstd=image_zstd, say=output.say)
    found: dict[str, Any] = report.document(result)
    if out is not None:
        report.save(result, out)

    def lines() -> Iterator[str]:
        return report.lines(found)

    return Report(lambda: found, lines, result.failure)
