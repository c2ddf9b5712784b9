"""A result made of invented samples: what gate and report do is arithmetic."""

from __future__ import annotations

import pytest

from lamella.bench import gate
from lamella.bench.measure import Sample
from lamella.bench.panel import Run
from lamella.bench.suite import Result

CORPUS = {
    "source": "/usr/share", "entries": 1000, "bytes": 5_000_000,
    "gzip": {"encoder": "zlib level 6", "bytes": 2_000_000}, "zstd": {"encoder": "zstd level 3", "bytes": 1_900_000},
}  # fmt: skip


def run_of(contender, *walls, panel="apply gzip", fs="tmpfs", cpu=1.0, rss=50_000_000, others=0.0, **facts):
    """Return a run with a sample for each wall time."""
    samples = [Sample(wall, cpu, rss, 30_000_000, others, dict(facts)) for wall in walls]
    return Run(panel, fs, contender, "how", "", samples)


@pytest.fixture
def result():
    """Give a result of three contenders in two rounds, one round noisy."""
    runs = [
        run_of("lamella", 1.0, 3.0, cpu=2.5),
        run_of("tarfile", 6.0, 6.0, cpu=5.0, others=0.2),
        run_of("GNU tar + igzip", 2.4, 2.4),
    ]
    machine = {"cpu": "A CPU", "cores": 2, "memory": 1 << 30, "kernel": "6.1", "python": "CPython 3.11", "architecture": "x"}
    made = Result(
        False, 2, "2026-01-02T03:04:05+00:00", machine, {"before": [0.1, 0, 0], "after": [0.2, 0, 0]},
        {"GNU tar": "1.34", "tarfile": "3.11.7"}, {"isal": "1.9"}, CORPUS, runs,
    )  # fmt: skip
    made.figures = gate.judge(gate.TARGETS, {(r.panel, r.fs, r.contender): r for r in runs}, 1000)
    return made
