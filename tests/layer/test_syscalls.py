"""What an apply costs, counted: system calls of a child interpreter under strace, and what Python does beside the kernels.

Counts, so that a busy machine changes nothing. A regular file is four calls (open, write, times, close), a directory
six (made, opened and closed; opened, given its time and closed at the end); the rest does not grow with the layer.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import lamella
from lamella.testing.tars import Member, directory, file, hardlink, layer_tar, symlink

AS_ROOT = os.geteuid() == 0
CHILD = "import sys, lamella; lamella.apply(sys.argv[1], sys.argv[2], rootless=sys.argv[3] == '1')"
WAITING = {"futex"}  # how often threads meet is the scheduler's


def flat(n_files: int, n_dirs: int, **fields: Any) -> list[Member]:
    """A layer of small files, each directory with its entry before its files."""
    members: list[Member] = []
    for d in range(n_dirs):
        members.append(directory(f"d{d:03}"))
        members += [file(f"d{d:03}/f{f:04}", b"x" * (1 + f % 700), **fields) for f in range(n_files // n_dirs)]
    return members


def calls(scratch: Path, members: list[Member] | None, root: str) -> Counter[str]:
    """Apply the layer in a child under strace; return how often it made which system call."""
    layer, log = scratch / "layer.tar", scratch / "log"
    layer.write_bytes(layer_tar(members or []))
    argv = ["strace", "-f", "-c", "-o", log, sys.executable, "-B", "-c", CHILD, layer, scratch / root, str(int(not AS_ROOT))]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("COV", "PYTEST"))}
    subprocess.run(argv, check=True, env=env | {"PYTHONPATH": os.pathsep.join(sys.path)})
    rows = [line.split() for line in log.read_text().splitlines()]  # time, seconds, each, calls, perhaps errors, name
    return Counter({row[-1]: int(row[3]) for row in rows if len(row) >= 5 and row[3].isdigit() and row[-1] != "total"})


@pytest.fixture(scope="module")
def nothing(tmp_path_factory: pytest.TempPathFactory) -> Counter[str]:
    """What the interpreter, its imports and an empty layer cost."""
    return calls(tmp_path_factory.mktemp("nothing"), None, "empty")


@pytest.mark.requires("strace")
def test_at_most_4_2_system_calls_a_regular_file(scratch, nothing):
    n_files = 2_400
    made = calls(scratch, flat(n_files, 24), "root") - nothing
    assert made["openat"] == pytest.approx(n_files, abs=20)
    assert made.total() / n_files <= 4.2, made


@pytest.mark.requires("strace", "root")
def test_an_owner_is_one_call_more(scratch, nothing):
    n_files = 1_000  # enough that three threads and their stacks count for little
    made = calls(scratch, flat(n_files, 5, uid=1000, gid=1000), "root") - nothing
    assert made["fchown"] == n_files
    del made["futex"]
    assert made.total() / n_files <= 5.2, made


@pytest.mark.requires("strace")
def test_directories_cost_the_same_each(scratch, nothing):
    """Twice the directories, nested or not, are twice the calls: nothing is asked again for a sibling or a parent."""
    cost = []
    for n in (60, 120, 180):
        nested = [directory(f"{i // 10:02}/{i % 10}" if i % 10 else f"{i // 10:02}") for i in range(n)]
        made = calls(scratch, nested, f"root{n}") - nothing
        cost.append(sum(count for name, count in made.items() if name not in WAITING))
    assert cost[2] - cost[1] == pytest.approx(cost[1] - cost[0], rel=0.1)
    assert (cost[2] - cost[1]) / 60 <= 7.5


@pytest.mark.requires("strace")
def test_links_and_symlinks_are_cheap(scratch, nothing):
    """A hard link is one call, a symlink two, however many there are."""
    n = 300
    links = [directory("d"), file("d/f", b"1"), *(hardlink(f"d/h{i:03}", "d/f") for i in range(n))]
    links += [symlink(f"d/s{i:03}", "f") for i in range(n)]
    made = calls(scratch, links, "root") - nothing
    assert (made["linkat"], made["symlinkat"]) == (n, n)
    assert sum(count for name, count in made.items() if name not in WAITING) <= 3 * n + 100, made


@pytest.mark.requires("strace")
def test_a_whiteout_does_not_make_the_rest_dear(scratch, nothing):
    """A row that needs a decision drops the open directories; the next rows open theirs once, not each."""
    n = 800
    members = flat(n, 4)
    for at in (700, 500, 300):
        members.insert(at, file("d000/.wh.gone"))
    made = calls(scratch, members, "root") - nothing
    assert sum(count for name, count in made.items() if name not in WAITING) / n <= 4.3, made


# -- Python objects -------------------------------------------------------------------------------------------------


class Watched(io.BytesIO):
    """A source that counts live blocks of Python's allocator whenever a piece of it is read."""

    most = 0

    def read(self, size: int | None = -1) -> bytes:
        self.most = max(self.most, sys.getallocatedblocks())
        return super().read(size)

    def readinto(self, buffer: Any) -> int:
        self.most = max(self.most, sys.getallocatedblocks())
        return super().readinto(buffer)


def many(n: int) -> bytes:
    return layer_tar([directory("d"), *(file(f"d/{i:05}", b"x") for i in range(n - 1))])


def test_no_object_stays_for_an_entry(scratch):
    most = []
    for n in (100, 1_000, 10_000):
        source = Watched(many(n))
        before = sys.getallocatedblocks()
        result = lamella.apply(source, scratch / f"r{n}", rootless=not AS_ROOT)
        after = sys.getallocatedblocks()
        assert result.entries == n
        assert source.most > 0
        most.append(max(source.most, after) - before)
    assert most[2] - most[1] < 1_000, most


def events(data: bytes, root: Path) -> int:
    """Apply, and count calls of Python and C functions by Python code, in all threads."""
    counted = Counter[str]()

    def hook(frame: Any, event: str, arg: Any) -> None:
        counted[event] += 1

    threading.setprofile(hook)
    sys.setprofile(hook)
    try:
        lamella.apply(data, root, rootless=not AS_ROOT)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return counted["call"] + counted["c_call"]


def test_python_runs_by_the_chunk_not_by_the_entry(scratch):
    """One crossing a chunk: ten times the entries are a few calls of Python more for each half megabyte."""
    events(many(10), scratch / "warm")
    few, more = events(many(1_000), scratch / "few"), events(many(10_000), scratch / "more")
    assert (more - few) / 9_000 < 0.2, (few, more)
