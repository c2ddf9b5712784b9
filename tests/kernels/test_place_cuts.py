"""What place makes depends on rows and bytes alone: not on cuts of the stream, nor on how many rows a call gets."""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella._kernels import place
from lamella.testing import strategies
from lamella.testing.listing import compare, listing
from lamella.testing.trees import Dir
from tests.kernels.placing import AS_ROOT, OWN, Job, own_thread, placed, rows_of

pytestmark = pytest.mark.usefixtures("servers")
PAGE = 4096
FILES = [
    {"path": "a", "data": b"1"}, {"path": "none", "data": b""}, {"path": "d", "type": "5", "mtime_ns": 4},
    {"path": "d/page", "data": b"p" * PAGE}, {"path": "d/zeros", "data": bytes(3 * PAGE + 17)},
    {"path": "mixed", "data": b"x" + bytes(2 * PAGE) + b"y" * 700 + bytes(PAGE), "mode": 0o4711},
    {"path": "sparse", "data": b"s" * 700 + bytes(PAGE), "sparse": [(5, 0), (PAGE, 1), (2 * PAGE, 699), (4 * PAGE, PAGE)], "size": 20_000},
    {"path": "hole", "data": b"", "sparse": [(9, 0)], "size": 10_000}, {"path": "z", "type": "1", "link_target": "a"},
    {"path": "last", "data": b"l" * 513},
]  # fmt: skip


def outcome(root: Path) -> list:
    """All of a tree, and how much room its files take (which only holes make less)."""
    return [(path, *found, os.lstat(os.path.join(os.fsencode(root), path)).st_blocks if found.type == "file" else 0)
            for path, found in listing(root).items()]  # fmt: skip


@pytest.mark.parametrize("options", [OWN, OWN | place.HOLES, OWN | place.FRESH], ids=["dense", "holes", "fresh"])
def test_every_cut_in_two(scratch, options):
    first = placed(scratch / "whole", FILES, options)
    whole = outcome(scratch / "whole")
    begins = [int(first.column("data_off")[i]) for i in range(first.n)]
    edges = {at + i for at in begins for i in (-1, 0, 1, 700, PAGE - 1, PAGE, 2 * PAGE + 1)}
    for at in sorted(edges | set(range(0, len(first.stream), 1_501))):
        if 0 <= at <= len(first.stream):
            made = placed(scratch / f"{at}", FILES, options, cuts=[at])
            assert outcome(scratch / f"{at}") == whole, at
            assert made.counters == first.counters


def test_the_count_of_bytes_does_not_depend_on_cuts_either(scratch):
    rows = [{"path": "f", "data": b"x" + bytes(PAGE - 1)}]
    counts = {placed(scratch / f"{at}", rows, OWN | place.HOLES, cuts=[at]).counters[1] for at in (0, 3, 4, 100)}
    assert counts == {PAGE}


def test_byte_by_byte(scratch):
    rows = [row for row in FILES if len(row.get("data", b"")) < 1_000]
    first = placed(scratch / "whole", rows)
    placed(scratch / "bytes", rows, cuts=range(1, len(first.stream)))
    assert outcome(scratch / "bytes") == outcome(scratch / "whole")


def pieces(rng: random.Random, n: int) -> list[int]:
    """Ends of pieces of a stream of ``n`` bytes: single bytes, a few, pages, and nothing at all."""
    cuts, at = [], 0
    while at < n:
        at += rng.choice([0, 1, 1, 7, 511, 512, 513, PAGE, PAGE + 1, 9_000])
        cuts.append(min(at, n))
    return cuts


def in_windows(job: Job, rng: random.Random) -> None:
    """Place as an engine does that learns of rows as it scans: each call has more of them, and more bytes."""
    begin = 0
    try:
        for end in [*pieces(rng, len(job.stream)), len(job.stream)]:
            known = int((job.column("data_off") < end).sum())  # rows without payload have -1
            upto = max(job.at, min(known, job.n))
            while job.at < upto:
                job.feed(begin, end, job.at + rng.randint(0, upto - job.at) if rng.random() < 0.8 else upto)
                if job.counters[4] >= 0:
                    break  # a file in progress waits for the next piece
            job.feed(begin, end, job.at)
            begin = end
        job.feed(begin, begin, job.n)
        assert job.counters[4] == -1
        job.finish()
    finally:
        place.reset(job.state)


@given(strategies.trees(privileged=AS_ROOT), st.integers(0, 2**32), st.sampled_from([0, place.HOLES, place.FRESH]))
def test_any_tree_any_pieces(home, tree, seed, options):
    edits = latest(tree.edits)
    options |= OWN | place.ZERO_DEVICE
    with tempfile.TemporaryDirectory(dir=home / "tmp") as folder:
        first = placed(Path(folder, "whole"), rows_of(edits), options)
        whole = outcome(Path(folder, "whole"))
        cuts = pieces(random.Random(seed), len(first.stream))
        placed(Path(folder, "cut"), rows_of(edits), options, cuts=cuts)
        assert outcome(Path(folder, "cut")) == whole
        Path(folder, "windows").mkdir()
        fd = os.open(Path(folder, "windows"), os.O_RDONLY)
        try:
            own_thread(in_windows, Job(fd, rows_of(edits), options), random.Random(seed))
        finally:
            os.close(fd)
        assert outcome(Path(folder, "windows")) == whole


def latest(edits: tuple) -> list:
    """Leave the edits after which no directory stands in another's way: the kernel would ask about it."""
    dirs = {os.fsencode(e.path) for e in edits if isinstance(e, Dir)}
    return [e for e in edits if isinstance(e, Dir) or os.fsencode(e.path) not in dirs]


@given(strategies.trees(privileged=AS_ROOT))
def test_any_tree_is_the_one_that_was_meant(home, tree):
    """Against the tree's own edits, made by Python one by one."""
    edits = latest(tree.edits)
    with tempfile.TemporaryDirectory(dir=home / "tmp") as folder:
        job = placed(Path(folder, "made"), rows_of(edits), OWN | place.ZERO_DEVICE)
        wanted = Path(folder, "wanted")
        wanted.mkdir()
        for row, edit in enumerate(edits, 1):
            if row not in job.asked:
                edit.apply(wanted)
        times = {os.fsencode(e.path): e.mtime_ns for e in edits if isinstance(e, Dir)}
        for path, time in times.items():  # now that nothing is made below them any more
            os.utime(os.path.join(os.fsencode(wanted), path), ns=(time, time))
        assert compare(Path(folder, "made"), wanted, ignore=["root"]) == []
