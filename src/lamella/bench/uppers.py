"""What an overlay's upper directory changes: made by the kernel, asked for by us, at several sizes of tree and of change.

Trees of different sizes begin alike and only the beginning is changed, so that the same changes are made in the same
directories of each.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from lamella.bench.ground import Ground, run
from lamella.bench.measure import MeasureError, Sample, alone, in_python
from lamella.bench.panel import Contender, Panel

__all__ = ["A_FOLDER", "CASES", "SPARE", "change", "make_upper", "names_of_upper", "path_of", "time_upper", "upper_diff"]

A_FOLDER = 50  # files
SPARE = 10  # files for each change: those among which the changes are made
CASES = ((100, 1_000), (100, 10_000), (100, 100_000), (100, 1_000_000), (1_000, 10_000), (1_000, 100_000), (10_000, 100_000))
QUICK_CASES = ((100, 1_000), (100, 10_000), (1_000, 10_000))  # changes, files of the tree
FEATURES = {"off": "redirect_dir=off,metacopy=off", "on": "redirect_dir=on,metacopy=on"}
_PROBLEM = "the kernel's overlay made no upper directory"


def names_of_upper(*, quick: bool) -> dict[tuple[int, int, str], str]:
    """Return the contenders' names by changes, files and features."""
    return {
        (changes, files, features): f"{changes:,} changes of {files:,} files, {features}"
        for changes, files in (QUICK_CASES if quick else CASES)
        for features in FEATURES
    }


def upper_diff(ground: Ground, *, quick: bool) -> Panel:
    """Time ``changes_from_upper`` for real upper directories, redirect_dir and metacopy on and off; root only."""
    names = names_of_upper(quick=quick)

    def prepare(folder: Path) -> None:
        for files in sorted({files for _, files, _ in names}):
            _make_lower(folder / f"lower-{files}", files)
        for (changes, files, features), name in names.items():
            sample = alone("make-upper", folder, f"{changes}-{files}-{features}", changes, features)
            if sample.facts["changes"] != changes:
                raise MeasureError(f"{name}: {_PROBLEM}")

    def contender(name: str, changes: int, files: int, features: str) -> Contender:
        def measure(folder: Path) -> Sample:
            upper, lower = folder / f"upper-{changes}-{files}-{features}", folder / f"lower-{files}"
            sample = in_python("upper", upper, lower, 15 if changes < 1_000 else 5)
            if sample.facts["changes"] < changes:
                raise MeasureError(f"{sample.facts['changes']} of {changes} changes found")
            return replace(sample, wall=sample.facts["wall"], cpu=sample.facts["cpu"])

        return Contender(name, measure, "changes_from_upper(UPPER, [LOWER]), median of several in one interpreter, warm")

    contenders = tuple(contender(name, *case) for case, name in names.items())
    return Panel("upper diff", "find the changes of an overlay", ground, contenders, prepare)


def path_of(number: int) -> str:
    """Return where file ``number`` of a tree is: fifty in a directory, fifty of those in one."""
    folder = number // A_FOLDER
    return f"d{folder // A_FOLDER:03}/e{folder:05}/f{number:07}"


def _make_lower(top: Path, files: int) -> None:
    """Make a tree of ``files`` files, the first ones with content."""
    top.mkdir()
    filled = SPARE * max((changes for changes, of in CASES if of == files), default=0)
    for number in range(files):
        path = f"{top}/{path_of(number)}"
        if number % A_FOLDER == 0:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        if number < filled:
            with open(path, "xb") as file:
                file.write(b"%07d" % number * 20)
        else:
            os.mknod(path, 0o100644)


def make_upper(home: Path, name: str, n_changes: int, *, features: str) -> dict[str, Any]:
    """Mount an overlay over ``home/lower-FILES``, make ``n_changes`` in it, and leave ``home/upper-NAME``.

    In mount namespaces of its own; what is mounted there is gone with the process.
    """
    files = name.split("-")[1]
    upper, work, merged = (home / f"{part}-{name}" for part in ("upper", "work", "merged"))
    for folder in (upper, work, merged):
        folder.mkdir()
    options = f"lowerdir={home}/lower-{files},upperdir={upper},workdir={work},index=off,{FEATURES[features]}"
    run("mount", "-t", "overlay", "overlay", "-o", options, str(merged))
    for number in range(n_changes):
        change(merged / path_of(SPARE * number), number)
    if features == "on":  # without redirect_dir the kernel moves no directory of a lower layer
        for number in range(0, n_changes, 100):
            folder = (merged / path_of(SPARE * number)).parent
            folder.rename(folder.with_name(f"{folder.name}.moved"))
    run("umount", str(merged))
    return {"changes": n_changes}


def change(path: Path, number: int) -> None:
    """Make one change: half are writes, the others modes, deletions, new names and moves."""
    kind = number % 10
    if kind < 5:
        with path.open("ab") as file:
            file.write(b"more")
    elif kind < 7:
        path.chmod(0o600)
    elif kind < 8:
        path.unlink()
    elif kind < 9:
        path.with_name(f"{path.name}.new").write_bytes(b"new")
    else:
        path.rename(path.with_name(f"{path.name}.moved"))


def time_upper(upper: str, lower: str, repeats: int) -> dict[str, Any]:
    """Return the median seconds of ``repeats`` calls after a first one, and how many changes there are."""
    from lamella import changes_from_upper  # noqa: PLC0415  (heavy: this runs in an interpreter of its own)

    walls, cpus = [], []
    changes = len(changes_from_upper(upper, [lower]))
    for _ in range(repeats):
        cpu, wall = time.process_time(), time.perf_counter()
        found = changes_from_upper(upper, [lower])
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
        if len(found) != changes:
            raise MeasureError(f"{len(found)} changes, then {changes}")
    return {"changes": changes, "wall": median(walls), "cpu": median(cpus)}
