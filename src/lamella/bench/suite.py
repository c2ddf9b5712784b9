"""A whole run: the corpus, every panel by turns, the figures; everything on tmpfs, nothing of it left behind."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lamella.bench import costs, gate, machine, peers, workloads
from lamella.bench.corpus import Corpus, make_corpus, tree_of
from lamella.bench.gate import Figure
from lamella.bench.ground import Ext4, Tmpfs, memory_folder, remove
from lamella.bench.measure import MeasureError
from lamella.bench.panel import Panel, Run, run_panel
from lamella.errors import LamellaError

__all__ = ["ROUNDS", "AbsentPeers", "Result", "run_suite"]

ROUNDS = 5
Say = Callable[[str], None]


class AbsentPeers(LamellaError):
    """A peer is not installed: nothing was measured. ``names`` are the peers, with where they are to be had."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"absent: {', '.join(names)}")
        self.names = tuple(names)


@dataclass(slots=True)
class Result:
    """What a run found out: ``runs`` with every sample, ``figures`` with verdicts, ``errors`` for what could not be run."""

    quick: bool
    rounds: int
    date: str
    machine: dict[str, Any]
    load: dict[str, list[float]]
    peers: dict[str, str]
    libraries: dict[str, str]
    corpus: dict[str, Any] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def failure(self) -> str | None:
        """Say in one line why the run is no success, None where it is one."""
        below = [figure for figure in self.figures if figure.verdict == "defect"]
        defects = [f"{f.target.panel}/{f.target.fs} {f.text} (wanted {f.wanted})" for f in below]
        said = [f"below the floor: {'; '.join(defects)}"] if defects else []
        said += [f"not measured: {'; '.join(self.errors)}"] if self.errors else []
        return "; ".join(said) or None


def run_suite(
    *, quick: bool = False, rounds: int | None = None, panels: Sequence[str] = (), say: Say = lambda _: None
) -> Result:
    """Measure everything, or the panels whose names begin with one of ``panels``.

    ``quick``: one round of a small corpus. AbsentPeers before anything is measured; MeasureError where there is no tmpfs
    or not room enough on it.
    """
    if names := peers.absent():
        raise AbsentPeers(names)
    rounds = rounds or (1 if quick else ROUNDS)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    result = Result(
        quick, rounds, date, machine.describe(), {"before": machine.load()}, peers.versions(), peers.libraries()
    )
    with _home() as home:
        _check_names(panels, [panel.name for panel in _panels(home, Corpus(home, "", 0, 0), 0, quick=quick)])
        say("the corpus")
        corpus, entries = _corpus(home, quick=quick)
        result.corpus = corpus.facts()
        chosen = [p for p in _panels(home, corpus, entries, quick=quick) if not panels or p.name.startswith(tuple(panels))]
        for panel in chosen:
            runs, complaints = run_panel(panel, rounds, say)
            result.runs += runs
            result.errors += complaints
    result.load["after"] = machine.load()
    found = {(run.panel, run.fs, run.contender): run for run in result.runs}
    result.figures = gate.judge((*gate.TARGETS, *_costs(quick=quick)), found, corpus.n_entries)
    return result


def _check_names(asked: Sequence[str], names: Sequence[str]) -> None:
    """MeasureError for a name that no panel's begins with."""
    for word in asked:
        if not any(name.startswith(word) for name in names):
            raise MeasureError(f"no task is called {word!r}; there are {', '.join(names)}")


@contextlib.contextmanager
def _home() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="lamella-bench-", dir=memory_folder()))
    try:
        yield home
    finally:
        remove(home)


def _corpus(home: Path, *, quick: bool) -> tuple[Corpus, int]:
    """Make the corpus and its tree; return it, and how many entries the tree has with its root."""
    folder = home / "corpus"
    folder.mkdir()
    corpus = make_corpus(folder, quick=quick)
    room = os.statvfs(home)
    wanted, free = _disk_nbytes(corpus) + 4 * corpus.nbytes, room.f_bavail * room.f_frsize
    if free < wanted:
        raise MeasureError(f"{wanted >> 20} MiB are wanted on {memory_folder()}, {free >> 20} are there")
    tree_of(corpus, corpus.lower, corpus.upper)
    remove(corpus.upper)
    return corpus, workloads.count(corpus.lower)


def _disk_nbytes(corpus: Corpus) -> int:
    """Return how large an ext4 must be for two trees of the corpus."""
    return (5 * (corpus.nbytes + 2048 * corpus.n_entries) // 2 + (256 << 20)) & -4096


def _panels(home: Path, corpus: Corpus, entries: int, *, quick: bool) -> list[Panel]:
    tmpfs, ext4 = Tmpfs(home), Ext4(home, _disk_nbytes(corpus), 2 * corpus.n_entries + 10_000)
    return [
        workloads.decode(corpus, tmpfs),
        workloads.listing(corpus, tmpfs),
        *(workloads.apply_gzip(corpus, ground, entries) for ground in (tmpfs, ext4)),
        *(workloads.apply_plain(corpus, ground, entries) for ground in (tmpfs, ext4)),
        workloads.apply_zstd(corpus, tmpfs, entries),
        *(workloads.diff(corpus, ground) for ground in (tmpfs, ext4)),
        workloads.write_plain(corpus, tmpfs),
        workloads.write_gzip(corpus, tmpfs),
        costs.calls(home, tmpfs, quick=quick),
        costs.memory(home, tmpfs, quick=quick),
        costs.memory_of_diff(tmpfs, quick=quick),
    ]


def _costs(*, quick: bool) -> tuple[gate.Target, ...]:
    return gate.costs(costs.names_of_memory(quick=quick), costs.name_of_million(quick=quick), costs.names_of_calls(quick=quick))
