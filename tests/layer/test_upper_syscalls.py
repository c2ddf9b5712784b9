"""What reading an upper directory costs, counted: system calls of a child under strace do not know how large the lower is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lamella.testing.trees import Chmod, Dir, Edit, File, Remove, Rename, Script, Write, build
from tests.overlays import OPTIONS, overlay, perform

pytestmark = pytest.mark.requires("overlay", "strace")
CHILD = "import sys, lamella; print(len(lamella.changes_from_upper(sys.argv[1], sys.argv[2:])))"
WAITING = {"futex"}
PER_DIR = 20


def cost(folder: Path, upper: Path, *lowers: Path) -> tuple[int, int]:
    """Return how many changes a child finds, and how many system calls it makes for them."""
    log = folder / "log"
    argv = ["strace", "-f", "-c", "-o", log, sys.executable, "-B", "-c", CHILD, upper, *lowers]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("COV", "PYTEST"))}
    done = subprocess.run(argv, check=False, capture_output=True, env=env | {"PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split() for line in log.read_text().splitlines()]
    calls = Counter({row[-1]: int(row[3]) for row in rows if len(row) >= 5 and row[3].isdigit() and row[-1] != "total"})
    return int(done.stdout), sum(count for name, count in calls.items() if name not in WAITING)


def edits(n: int) -> list[Edit]:
    """Write, chmod, add and remove in ``n`` directories, one of each in each."""
    out: list[Edit] = []
    for d in range(n):
        out += [
            Write(f"d{d:03}/f000", b"other"), Chmod(f"d{d:03}/f001", 0o600), File(f"d{d:03}/new", b"n"),
            Remove(f"d{d:03}/f002"),
        ]  # fmt: skip
    return out


def measured(folder: Path, options: str, n_dirs: int, n_changed: int) -> tuple[int, int]:
    """Make a lower tree, change a part of it in a mount, and count: runs in the sandbox."""
    lower = build(folder / "lower")
    for d in range(n_dirs):
        os.mkdir(lower / f"d{d:03}")
        for f in range(PER_DIR):
            (lower / f"d{d:03}" / f"f{f:03}").write_bytes(b"x")
    moved: list[Edit] = [Rename("d000", "moved")] if "redirect_dir=on" in options else []
    with overlay(folder / "merged", [lower], folder / "upper", options) as merged:
        perform(Script(tuple(edits(n_changed)[:] + moved)), merged)
    return cost(folder, folder / "upper", lower)


@pytest.mark.parametrize("options", OPTIONS)
def test_the_calls_are_those_of_the_changes(box: Any, options: str) -> None:
    small, large, more = (
        box.call(measured, options, n_dirs, n_changed) for n_dirs, n_changed in ((10, 5), (200, 5), (200, 105))
    )
    assert small[0] == large[0]
    assert abs(large[1] - small[1]) <= 10  # a larger lower tree costs nothing
    assert more[0] - large[0] == 4 * 100
    assert (more[1] - large[1]) / (5 * 100) <= 7, (large, more)  # an inode of the branch: what was changed, and its directory


def looked_up(folder: Path, n_parents: int) -> tuple[int, int]:
    """As measured(), one change in each of ten directories over a stack of parents that know nothing of them."""
    lowers = [build(folder / f"lower{i}", Dir("other"), File(f"other/{i}")) for i in range(n_parents)]
    lowers.append(build(folder / "lower", *(File(f"f{i}", b"1") for i in range(10))))
    upper = build(folder / "upper", *(File(f"f{i}", b"2") for i in range(10)))
    return cost(folder, upper, *lowers)


def test_a_parent_costs_a_look_a_change(box: Any) -> None:
    few, many = (box.call(looked_up, n) for n in (2, 12))
    assert (few[0], many[0]) == (10, 10)
    assert (many[1] - few[1]) / 10 <= 10 + 16
