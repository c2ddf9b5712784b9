"""A panel: contenders that do the same task on the same ground, measured by turns."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from lamella.bench.ground import Ground
from lamella.bench.measure import MeasureError, Sample

__all__ = ["Contender", "Panel", "Run", "run_panel"]

NOISE = 0.10  # CPUs that others may use before a measurement is marked


@dataclass(frozen=True, slots=True)
class Contender:
    """One side: ``measure(folder)`` takes a sample in a lent directory. ``how`` and ``leaves_out`` are for the report."""

    name: str
    measure: Callable[[Path], Sample]
    how: str = ""
    leaves_out: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """``key`` names the task. ``prepare`` fills one directory for all rounds; without it each sample has a fresh one."""

    key: str
    title: str
    ground: Ground
    contenders: tuple[Contender, ...]
    prepare: Callable[[Path], None] | None = None
    max_rounds: int | None = None

    @property
    def name(self) -> str:
        """The task and the file system."""
        return f"{self.key}/{self.ground.name}"


@dataclass(slots=True)
class Run:
    """What a contender took, round by round."""

    panel: str
    fs: str
    contender: str
    how: str = ""
    leaves_out: str = ""
    samples: list[Sample] = field(default_factory=list)

    @property
    def wall(self) -> float:
        """Median of the wall times in seconds."""
        return median(sample.wall for sample in self.samples)

    @property
    def cpu(self) -> float:
        """Median of the CPU times in seconds."""
        return median(sample.cpu for sample in self.samples)

    @property
    def rss(self) -> int:
        """Median of the peaks of memory in bytes."""
        return int(median(sample.rss for sample in self.samples))

    @property
    def noisy(self) -> int:
        """Number of samples during which others used more than a tenth of a CPU."""
        return sum(sample.others > NOISE for sample in self.samples)

    @property
    def facts(self) -> dict[str, Any]:
        """What the last sample told."""
        return self.samples[-1].facts


def run_panel(panel: Panel, rounds: int, say: Callable[[str], None]) -> tuple[list[Run], list[str]]:
    """Take ``rounds`` samples of each contender by turns, in an order that moves on by one every round.

    Returns the runs of those who finished, and a complaint for each failure; one who failed is not asked again.
    """
    runs = {c.name: Run(panel.key, panel.ground.name, c.name, c.how, c.leaves_out) for c in panel.contenders}
    complaints: list[str] = []
    rounds = min(rounds, panel.max_rounds or rounds)
    try:
        with _shared(panel) as shared:
            for number in range(rounds):
                say(f"{panel.title}, {panel.ground.name}: round {number + 1} of {rounds}")
                shift = number % len(panel.contenders)
                for contender in panel.contenders[shift:] + panel.contenders[:shift]:
                    if contender.name in runs:
                        _sample(panel, contender, shared, runs, complaints)
    except MeasureError as error:  # the ground itself
        return [], [f"{panel.name}: {error}"]
    return list(runs.values()), complaints


def _sample(
    panel: Panel, contender: Contender, shared: Path | None, runs: dict[str, Run], complaints: list[str]
) -> None:
    with contextlib.ExitStack() as stack:
        folder = shared if shared is not None else stack.enter_context(panel.ground.fresh())
        try:
            runs[contender.name].samples.append(contender.measure(folder))
        except MeasureError as error:
            del runs[contender.name]
            complaints.append(f"{panel.name}: {contender.name}: {error}")


@contextlib.contextmanager
def _shared(panel: Panel) -> Iterator[Path | None]:
    if panel.prepare is None:
        yield None
        return
    with panel.ground.fresh() as folder:
        panel.prepare(folder)
        yield folder
