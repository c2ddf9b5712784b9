"""Verdicts: the arithmetic of ratios, targets and floors."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamella.bench import costs, gate, image_tasks, uppers
from lamella.bench.gate import Target, judge, verdict
from lamella.bench.ground import Tmpfs
from lamella.bench.image_corpus import ImageCorpus
from tests.bench.conftest import run_of


@pytest.mark.parametrize(
    ("value", "sense", "limit", "floor", "expected"),
    [
        (3.5, ">=", 3.5, 2.5, "met"),
        (3.4, ">=", 3.5, 2.5, "missed"),
        (2.5, ">=", 3.5, 2.5, "missed"),
        (2.4, ">=", 3.5, 2.5, "defect"),
        (0.1, ">=", 3.5, None, "missed"),
        (120, "<=", 120, 200, "met"),
        (121, "<=", 120, 200, "missed"),
        (200, "<=", 120, 200, "missed"),
        (201, "<=", 120, 200, "defect"),
        (999, "<=", 120, None, "missed"),
    ],
)
def test_verdict(value, sense, limit, floor, expected):
    assert verdict(value, sense, limit, floor) == expected


def judged(target, *runs, n_entries=1000):
    return judge((target,), {(run.panel, run.fs, run.contender): run for run in runs}, n_entries)


def test_faster_is_the_peer_s_median_over_ours():
    target = Target("apply gzip", "tmpfs", "faster", "lamella", "tarfile", ">=", 3.5, 2.5)
    [figure] = judged(target, run_of("lamella", 1, 2, 9), run_of("tarfile", 8, 1, 20))
    assert (figure.value, figure.verdict) == (4.0, "met")
    assert (figure.text, figure.wanted) == ("4.00\u00d7", "≥ 3.50\u00d7")


def test_share_is_our_median_over_the_peer_s():
    target = Target("apply gzip", "tmpfs", "share", "lamella", "rsync", "<=", 0.4, 1.0)
    [figure] = judged(target, run_of("lamella", 3), run_of("rsync", 2))
    assert (figure.value, figure.verdict) == (1.5, "defect")


def test_cpu_is_allowed_by_the_entry():
    target = Target("diff", "ext4", "cpu", "lamella", "", "<=", gate.AUTO_CPU)
    run = run_of("lamella", 9.0, panel="diff", fs="ext4", cpu=1.2)
    assert judged(target, run, n_entries=68_000)[0].limit == pytest.approx(1.3)
    assert judged(target, run, n_entries=68_000)[0].verdict == "met"
    assert judged(target, run, n_entries=34_000)[0].verdict == "missed"


def test_memory_in_megabytes_and_by_the_further_entry():
    few = run_of("few", 1, panel="memory", rss=100_000_000, entries=100_000)
    many = run_of("many", 1, panel="memory", rss=115_000_000, entries=200_000)
    [figure] = judged(Target("memory", "tmpfs", "rss", "few", "", "<=", 120, 200), few)
    assert figure.value == 100
    [figure] = judged(Target("memory", "tmpfs", "further", "many", "few", "<=", 160), few, many)
    assert figure.value == 150


def test_calls_are_those_of_the_files_alone():
    few = run_of("few", 1, panel="system calls", calls=5_000, files=1_000)
    many = run_of("many", 1, panel="system calls", calls=9_100, files=2_000)
    [figure] = judged(Target("system calls", "tmpfs", "calls", "many", "few", "<=", 4.2), few, many)
    assert figure.value == pytest.approx(4.1)


def test_a_target_without_its_runs_has_no_figure():
    target = Target("apply gzip", "tmpfs", "faster", "lamella", "tarfile", ">=", 3.5)
    assert judged(target, run_of("lamella", 1)) == []
    assert judged(target, run_of("tarfile", 1)) == []
    assert judged(target, run_of("lamella", 1, fs="ext4"), run_of("tarfile", 1)) == []


def test_the_floors_are_worse_than_the_targets():
    counted = gate.costs(costs.names_of_memory(quick=False), "million", ("few", "many"))
    everything = (*gate.TARGETS, *counted, *gate.uppers(uppers.names_of_upper(quick=False)))
    floors = {t: t.floor for t in everything if t.floor is not None}
    assert all(verdict(floor, t.sense, t.limit, floor) == "missed" for t, floor in floors.items())
    assert {(t.peer, t.floor) for t in floors if t.kind != "rss"} == {
        ("tarfile", 2.5), ("tarfile", 8.0), ("GNU tar + igzip", 1.1), ("rsync -n -a", 1.0),
        ("umoci raw unpack", 3.0), ("GNU tar + igzip", 1.3), ("oci-squash", 5.0), ("docker-squash", 5.0),
        ("both walked", 4.0),
    }  # fmt: skip
    assert {t.floor for t in floors if t.kind == "rss"} == {200, 300}


def test_an_image_s_targets_are_those_of_its_panels():
    wanted = {(t.fs, t.peer): t.limit for t in gate.TARGETS if t.panel == "unpack gzip" and t.kind == "faster"}
    assert wanted["tmpfs", "GNU tar + igzip"] == 1.6
    assert wanted["ext4", "GNU tar + igzip"] == 2.0
    assert {limit for (_, peer), limit in wanted.items() if peer == "umoci unpack"} == {5.5}
    corpus = ImageCorpus("", 0, 0, 0, 0, "", "")
    for make in (image_tasks.unpack_gzip, image_tasks.unpack_zstd, image_tasks.squash):
        panel = make(corpus, Tmpfs(Path()))
        asked = {name for t in gate.TARGETS if t.panel == panel.key for name in (t.ours, t.peer) if name}
        assert asked
        assert asked <= {contender.name for contender in panel.contenders}


def test_a_change_is_allowed_ten_microseconds_beyond_a_millisecond():
    target = Target("upper diff", "tmpfs", "each", "lamella", "", "<=", 10)
    run = run_of("lamella", 0.006, panel="upper diff", changes=1_000)
    [figure] = judged(target, run)
    assert (figure.value, figure.verdict) == (pytest.approx(5.0), "met")
    run = run_of("lamella", 0.0005, panel="upper diff", changes=10)
    assert judged(target, run)[0].value == 0
    run = run_of("lamella", 0.012, panel="upper diff", changes=1_000)
    assert judged(target, run)[0].verdict == "missed"


def test_flat_is_the_largest_tree_over_the_smallest():
    names = uppers.names_of_upper(quick=True)
    flat = [target for target in gate.uppers(names) if target.kind == "flat"]
    assert [(t.ours, t.peer) for t in flat] == [
        ("100 changes of 10,000 files, off", "100 changes of 1,000 files, off"),
        ("100 changes of 10,000 files, on", "100 changes of 1,000 files, on"),
    ]
    large = run_of(flat[0].ours, 0.0024, panel="upper diff", changes=100)
    small = run_of(flat[0].peer, 0.0020, panel="upper diff", changes=100)
    [figure] = judged(flat[0], large, small)
    assert (figure.value, figure.verdict) == (pytest.approx(1.2), "missed")
