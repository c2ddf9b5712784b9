"""What the benchmarks stand on: a small corpus on tmpfs, and one way to run a panel of lamella.bench under pytest-benchmark.

Without ``--benchmark-enable`` a panel runs once, on a tiny layer: all that is asked is that everybody does the task.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path

import pytest

from lamella.bench import corpus as corpora
from lamella.bench import gate, workloads
from lamella.bench.ground import Btrfs, Ext4, Tmpfs
from lamella.bench.panel import run_panel
from lamella.bench.stacks import Synthetic
from tests import parts

TINY = Synthetic(300, 3_000)
ROUNDS = 5


@pytest.fixture(scope="session")
def home():
    """Give a folder on tmpfs for the session."""
    parts.requires("tar", "cp")
    folder = Path(tempfile.mkdtemp(prefix="lamella-benchmarks-", dir=parts.TMPFS))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def enabled(pytestconfig):
    """Tell whether anything is to be timed."""
    return pytestconfig.getoption("benchmark_enable") or not pytestconfig.getoption("benchmark_disable")


@pytest.fixture(scope="session")
def corpus(home, enabled):
    """Give a layer in its spellings, with its tree."""
    (home / "corpus").mkdir()
    made = corpora.make_corpus(home / "corpus", quick=True, layer=None if enabled else TINY)
    corpora.tree_of(made, made.lower, made.upper)
    return made


@pytest.fixture(scope="session")
def entries(corpus):
    """Give the number of names in the tree, its root included."""
    return workloads.count(corpus.lower)


@pytest.fixture(params=["tmpfs", "ext4"])
def ground(request, home):
    """Give each file system in turn."""
    if request.param == "ext4":
        parts.requires("root", "loop", "mkfs.ext4", "mount", "umount", "losetup")
        return Ext4(home, 256 << 20, 20_000)
    return Tmpfs(home)


@pytest.fixture
def btrfs(home):
    """Give a btrfs."""
    parts.requires("root", "loop", "btrfs")
    return Btrfs(home, 512 << 20, 0)


@pytest.fixture
def tmpfs(home):
    """Give tmpfs alone."""
    return Tmpfs(home)


@pytest.fixture
def measured(benchmark, corpus):
    """Give ``measured(panel)``: everybody did the task; where benchmarks are enabled, no figure is below its floor.

    The time that pytest-benchmark shows is the whole panel's; those of the contenders are in ``extra_info``.
    """

    def run(panel):
        # fastar comes with the extra that `make bench` installs, not with the tests'
        contenders = tuple(contender for contender in panel.contenders if contender.name != "fastar")
        panel = dataclasses.replace(panel, contenders=contenders)
        rounds = 1 if benchmark.disabled else ROUNDS
        runs, complaints = benchmark.pedantic(run_panel, args=(panel, rounds, print), rounds=1, iterations=1)
        assert complaints == []
        assert [run.contender for run in runs] == [contender.name for contender in contenders]
        found = {(run.panel, run.fs, run.contender): run for run in runs}
        figures = gate.judge(gate.TARGETS, found, corpus.n_entries)
        benchmark.extra_info.update({run.contender: {"wall": run.wall, "cpu": run.cpu, "rss": run.rss} for run in runs})
        if not benchmark.disabled:
            assert [figure for figure in figures if figure.verdict == "defect"] == []
        return figures

    return run
