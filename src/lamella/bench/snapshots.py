"""What snapshots cost to look at: what one changed of a large tree, a union as a mount, an image that is not unpacked."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from lamella.bench.ground import Ground, run
from lamella.bench.image_corpus import ImageCorpus
from lamella.bench.machine import high_water
from lamella.bench.measure import MeasureError, Sample, alone, pipe
from lamella.bench.panel import Contender, Panel
from lamella.bench.uppers import A_FOLDER, SPARE, change, path_of

__all__ = ["JOBS", "WALK", "make_snapshots", "mount_image", "snapshot_diff", "time_snapshot", "union_find", "union_read"]

WALK = "both walked"
KERNEL, OURS = "kernel overlay", "lamella, aufs"
_FILES, _EDITS = 50_000, 20
_FOUND = 40_000
_BIG = 1 << 30


# -- what a snapshot changed --------------------------------------------------------------------------------------------


def snapshot_diff(ground: Ground, *, quick: bool) -> Panel:
    """Find what a btrfs snapshot changed, by the search and by walking both trees, in one interpreter each, warm."""
    files = _FILES // 10 if quick else _FILES

    def prepare(folder: Path) -> None:
        alone("snapshots-make", folder, files, _EDITS)

    def contender(name: str, road: str, repeats: int) -> Contender:
        def measure(folder: Path) -> Sample:
            sample = alone("snapshot-diff", folder, road, repeats)
            if sample.facts["changes"] < _EDITS:
                raise MeasureError(f"{sample.facts['changes']} of {_EDITS} changes found")
            return replace(sample, wall=sample.facts["wall"], cpu=sample.facts["cpu"])

        return Contender(name, measure, "the changes of a btrfs snapshot, median of several in one interpreter, warm")

    contenders = (contender("lamella", "search", 15), contender(WALK, "walk", 5))
    return Panel("snapshot diff", f"find {_EDITS} changes of {files:,} files", ground, contenders, prepare)


def make_snapshots(home: str, files: str, n_edits: str) -> dict[str, Any]:
    """Make a committed btrfs snapshot of so many files, and one upon it with so many edits in different directories."""
    driver, base, child = _snapshots(home)
    driver.create(base)
    for number in range(int(files)):
        path = driver.root / base.name / path_of(number)
        if number % A_FOLDER == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%07d" % number * 20)
    driver.commit(base)
    driver.create(child)
    for number in range(int(n_edits)):
        change(driver.root / child.name / path_of(number * int(files) // int(n_edits) // SPARE * SPARE), number)
    driver.commit(child)
    driver.sync()
    return {}


def _snapshots(home: str) -> tuple[Any, Any, Any]:
    from lamella.drivers.base import Place  # noqa: PLC0415  (heavy: this runs in an interpreter of its own)
    from lamella.drivers.registry import driver_class  # noqa: PLC0415
    from lamella.model import SnapshotKind  # noqa: PLC0415

    root = Path(home) / "snapshots"
    root.mkdir(exist_ok=True)
    return driver_class("btrfs", "kernel")(root), Place(1), Place(2, (1,), SnapshotKind.COMMITTED)


def time_snapshot(home: str, road: str, repeats: str) -> dict[str, Any]:
    """Return the median seconds of ``repeats`` looks at what the snapshot changed, after a first one."""
    from lamella.drivers.base import Driver  # noqa: PLC0415

    driver, _, child = _snapshots(home)
    look = driver.changes if road == "search" else lambda place: Driver.changes(driver, place)
    walls, cpus, counts = [], [], set()
    for _ in range(int(repeats) + 1):
        cpu, wall = time.process_time(), time.perf_counter()
        with look(child) as found:
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
            counts.add(len(found))
    if len(counts) != 1:
        raise MeasureError(f"{sorted(counts)} changes")
    return {"changes": counts.pop(), "wall": median(walls[1:]), "cpu": median(cpus[1:])}


# -- a union as a mount -----------------------------------------------------------------------------------------------


def union_find(ground: Ground, *, quick: bool) -> Panel:
    """List all names of a union that was just mounted: the kernel's overlay, and ours by FUSE."""
    files = _FOUND // 10 if quick else _FOUND

    def prepare(folder: Path) -> None:
        for branch in (0, 1):  # half of them in each, in the same directories
            top = folder / f"branch-{branch}"
            for number in range(branch, files, 2):
                path = top / path_of(number)
                if number % A_FOLDER < 2:
                    path.parent.mkdir(parents=True, exist_ok=True)
                os.mknod(path, 0o100644)

    title = f"list {files:,} files of a union"
    panel = Panel("union find", title, ground, (), prepare)
    return _union(panel, "union-find", "find MOUNT, of a union just mounted")


def union_read(ground: Ground, *, quick: bool) -> Panel:
    """Read a large file of a union that was just mounted, which the machine has in memory."""

    def prepare(folder: Path) -> None:
        for branch in (0, 1):
            (folder / f"branch-{branch}").mkdir()
        with open(folder / "branch-1" / "big", "xb") as file:
            file.writelines(os.urandom(1 << 20) for _ in range((_BIG // 8 if quick else _BIG) >> 20))

    panel = Panel("union read", "read a file of a union", ground, (), prepare)
    return _union(panel, "union-read", "dd MOUNT/big, of a union just mounted")


def _union(panel: Panel, job: str, how: str) -> Panel:
    def contender(name: str) -> Contender:
        def measure(folder: Path) -> Sample:
            sample = alone(job, folder, name)
            return replace(sample, wall=sample.facts["wall"], cpu=sample.facts["cpu"])

        return Contender(name, measure, how)

    return replace(panel, contenders=(contender(OURS), contender(KERNEL)))


def find_union(home: str, name: str) -> dict[str, Any]:
    """List the names of the union of ``home``'s branches."""
    with _mounted(Path(home), name) as path:
        taken = pipe(["find", path, "-type", "f"])
    return {"wall": taken.wall, "cpu": taken.cpu}


def read_union(home: str, name: str) -> dict[str, Any]:
    """Read the file of the union of ``home``'s branches."""
    size = os.stat(f"{home}/branch-1/big").st_size
    with _mounted(Path(home), name) as path:
        taken = pipe(["dd", f"if={path}/big", "of=/dev/null", "bs=1M", "status=none"])
    return {"wall": taken.wall, "cpu": taken.cpu, "nbytes": size}


@contextlib.contextmanager
def _mounted(home: Path, name: str) -> Iterator[str]:
    from lamella.drivers._run import mounted  # noqa: PLC0415
    from lamella.model import Mount  # noqa: PLC0415

    lowers = [f"lowerdir+={home}/branch-{branch}" for branch in (0, 1)]
    if name == KERNEL:
        mount = Mount("overlay", "overlay", ("ro", *lowers))
    else:
        mount = Mount("fuse.lamella", "lamella", ("ro", *lowers, "dialect=aufs"))
    with mounted((mount,), home / "points", read_only=True) as path:
        yield path


# -- an image that is not unpacked ------------------------------------------------------------------------------------


def mount_image(corpus: ImageCorpus, ground: Ground) -> Panel:
    """Mount the image, and list its root; no layer was unpacked before."""

    def measure(folder: Path) -> Sample:
        sample = alone("mount-image", folder, corpus.gzip)
        return replace(sample, rss=sample.facts["rss"])

    ours = Contender("lamella", measure, "lamella mount REF DIR; ls DIR; the memory is the server's")
    return Panel("mount", "show an image without unpacking it", ground, (ours,))


def show_image(home: str, ref: str) -> dict[str, Any]:
    """Mount the image, list its root, and return the peak memory of who serves it."""
    target = Path(home) / "image"
    target.mkdir()
    run(sys.executable, "-m", "lamella", "mount", "--spool", f"{home}/spool", ref, str(target))
    names = len(os.listdir(target))
    return {"names": names, "rss": _server_rss(target)}


def _server_rss(target: Path) -> int:
    """Return the peak memory of the process that serves a mount, which its source names."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[4] == str(target):
            return high_water(int(fields[-2].rpartition(":")[2]))
    raise MeasureError(f"nothing is mounted at {target}")


JOBS: dict[str, Callable[..., dict[str, Any]]] = {
    "mount-image": show_image,
    "snapshot-diff": time_snapshot,
    "snapshots-make": make_snapshots,
    "union-find": find_union,
    "union-read": read_union,
}
