"""What two states of an ext4 differ in, found from the blocks that differ, beside a walk of both, mounted."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, BinaryIO

from lamella.bench.ground import Ground, run
from lamella.bench.measure import MeasureError, Sample, alone
from lamella.bench.panel import Contender, Panel
from lamella.bench.uppers import A_FOLDER, SPARE, change, path_of

__all__ = ["INDEXED", "JOBS", "OURS", "WALK", "file_delta", "make_states", "time_delta"]

OURS, INDEXED, WALK = "lamella", "lamella, names kept", "both walked"
_FILES, _EDITS = 50_000, 20
_UNIT = 1 << 16  # bytes of a block of a thin pool
_FREEZE, _THAW = 0xC0045877, 0xC0045878
_HOW = {
    OURS: "file_delta() of two images, all directories read; median of several in one interpreter, warm",
    INDEXED: "the same with the names that are kept of the lower image",
    WALK: "both images mounted, lamella.changes() of the two",
}


def file_delta(ground: Ground, *, quick: bool) -> Panel:
    """Find what changed between two frozen copies of an ext4; which blocks differ is known before, as of a thin pool."""
    files = _FILES // 10 if quick else _FILES

    def prepare(folder: Path) -> None:
        alone("file-delta-make", folder, files, _EDITS)

    def contender(name: str, repeats: int) -> Contender:
        def measure(folder: Path) -> Sample:
            sample = alone("file-delta", folder, name, repeats)
            if sample.facts["changes"] < _EDITS:
                raise MeasureError(f"{sample.facts['changes']} of {_EDITS} changes found")
            return replace(sample, wall=sample.facts["wall"], cpu=sample.facts["cpu"])

        return Contender(name, measure, _HOW[name])

    contenders = (contender(OURS, 15), contender(INDEXED, 15), contender(WALK, 5))
    return Panel("file delta", f"find {_EDITS} changes of {files:,} files from blocks", ground, contenders, prepare)


def make_states(home: str, files: str, n_edits: str) -> dict[str, Any]:
    """Make an ext4 of so many files, copy it, make so many edits in different directories, and copy it again."""
    disk, live = Path(home) / "disk", Path(home) / "live"
    live.mkdir()
    nbytes = (int(files) * 6144 + (128 << 20)) & -(1 << 20)
    with disk.open("wb") as file:
        file.truncate(nbytes)
    options = "nodiscard,lazy_itable_init=0,lazy_journal_init=0"
    run("mkfs.ext4", "-q", "-F", "-N", str(2 * int(files) + 1000), "-E", options, str(disk))
    run("mount", "-o", "loop", str(disk), str(live))
    try:
        for number in range(int(files)):
            path = live / path_of(number)
            if number % A_FOLDER == 0:
                path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"%07d" % number * 20)
        _copy(live, disk, Path(home) / "lower")
        for number in range(int(n_edits)):
            change(live / path_of(number * int(files) // int(n_edits) // SPARE * SPARE), number)
        _copy(live, disk, Path(home) / "upper")
    finally:
        run("umount", str(live))
    disk.unlink()
    return {}


def _copy(live: Path, disk: Path, to: Path) -> None:
    """Copy a file system that is frozen meanwhile."""
    fd = os.open(live, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(fd, _FREEZE, 0)
        try:
            shutil.copyfile(disk, to)
        finally:
            fcntl.ioctl(fd, _THAW, 0)
    finally:
        os.close(fd)


def time_delta(home: str, name: str, repeats: str) -> dict[str, Any]:
    """Return the median seconds of ``repeats`` looks at what changed, after a first one."""
    walls, cpus, counts = [], [], set()
    with (_walked if name == WALK else _found)(Path(home), name) as look:
        for _ in range(int(repeats) + 1):
            cpu, wall = time.process_time(), time.perf_counter()
            counts.add(look())
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
    if len(counts) != 1:
        raise MeasureError(f"{sorted(counts)} changes")
    return {"changes": counts.pop(), "wall": median(walls[1:]), "cpu": median(cpus[1:])}


@contextlib.contextmanager
def _walked(home: Path, _name: str) -> Iterator[Callable[[], int]]:
    from lamella import changes  # noqa: PLC0415  (heavy: this runs in an interpreter of its own)

    sides = []
    for name in ("lower", "upper"):
        sides.append(home / f"mnt-{name}")
        sides[-1].mkdir(exist_ok=True)
        run("mount", "-o", "loop,ro,noload", str(home / name), str(sides[-1]))
    try:
        yield lambda: len(changes(*sides))
    finally:
        for side in sides:
            run("umount", str(side))


@contextlib.contextmanager
def _found(home: Path, name: str) -> Iterator[Callable[[], int]]:
    from lamella.block.ext4 import Ext4Image  # noqa: PLC0415
    from lamella.block.files import file_delta as delta  # noqa: PLC0415
    from lamella.block.names import Names  # noqa: PLC0415

    with open(home / "lower", "rb") as lower, open(home / "upper", "rb") as upper:
        fds, ranges = (lower.fileno(), upper.fileno()), _differing(lower, upper)
        names = Names.scan(Ext4Image(fds[0])) if name == INDEXED else None
        yield lambda: len(delta(Ext4Image(fds[0]), Ext4Image(fds[1]), ranges, lower_names=names).changeset)


def _differing(one: BinaryIO, other: BinaryIO) -> Any:
    """Return the ranges of bytes in which two files differ, as a pool tells them."""
    import numpy as np  # noqa: PLC0415

    found, at = [], 0
    while piece := one.read(_UNIT):
        if piece != other.read(_UNIT):
            found.append((at, at + _UNIT))
        at += _UNIT
    return np.array(found, np.int64)


JOBS: dict[str, Callable[..., dict[str, Any]]] = {"file-delta": time_delta, "file-delta-make": make_states}
