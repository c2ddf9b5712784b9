"""What each storage driver costs, step by step: a snapshot, a first write, a move, a look, the changes, the end."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from lamella.bench.ground import Ground, run
from lamella.bench.measure import MeasureError, Sample, alone, pipe
from lamella.bench.panel import Contender, Panel
from lamella.bench.uppers import A_FOLDER, change, path_of

__all__ = ["JOBS", "driver_costs"]

_FILES, _QUICK_FILES = 50_000, 3_000  # the second directory of 2,500 is moved
_EDITS = 20
_LARGE = 256 << 20
_TIMES = 5  # snapshots made to take the median of
_ON = {
    "ext4": (("vfs", "kernel"), ("overlay", "kernel"), ("overlay", "userspace"), ("aufs", "userspace")),
    "btrfs": (("btrfs", "kernel"), ("vfs", "kernel"), ("overlay", "kernel")),
}


def driver_costs(ground: Ground, *, quick: bool) -> Panel:
    """Do the same things with each driver that works on the ground; the figures are in each sample's ``facts``."""
    files = _QUICK_FILES if quick else _FILES

    def contender(name: str, backend: str) -> Contender:
        def measure(folder: Path) -> Sample:
            return alone("driver-costs", folder, name, backend, files, _LARGE // 16 if quick else _LARGE)

        return Contender(f"{name}/{backend}", measure, "create, write, rewrite, chmod, move, find, changes, remove")

    contenders = tuple(contender(*each) for each in _ON[ground.name])
    return Panel("drivers", f"snapshots of {files:,} files", ground, contenders, max_rounds=3)


def time_driver(home: str, name: str, backend: str, files: str, large: str) -> dict[str, Any]:
    """Return seconds, and bytes of ``room``, by step; None for what the driver refuses. What is looked at is in memory."""
    from lamella.drivers.registry import driver_class  # noqa: PLC0415  (heavy: this runs in an interpreter of its own)

    root = Path(home) / "root"
    root.mkdir()
    trial = _Trial(driver_class(name, backend)(root, mount_points=Path(home) / "points"))
    trial.fill(int(files), int(large))
    found: dict[str, float | int | None] = {"create": trial.create()}
    with trial.child() as view:
        found["find"] = pipe(["find", view, "-type", "f"]).wall
        found["write"] = _seconds(lambda: _poke(f"{view}/large-1"))
        found["write again"] = _seconds(lambda: _poke(f"{view}/large-1"))
        found["chmod"] = _seconds(lambda: os.chmod(f"{view}/large-2", 0o600))
        found["move"] = _seconds(lambda: os.rename(f"{view}/d001", f"{view}/moved"))
    found["room"] = trial.driver.usage(trial.place(2)).nbytes
    trial.driver.remove(2)
    with trial.child() as view:
        for number in range(_EDITS):
            change(Path(view) / path_of(number * int(files) // _EDITS // 10 * 10), number)
    found["changes"] = trial.changes()
    found["remove"] = _seconds(lambda: trial.driver.remove(2))
    return found


def _seconds(work: Callable[[], object]) -> float | None:
    """Time a call; None where the driver leaves it to the caller, as mv does it: by copying."""
    begin = time.perf_counter()
    try:
        work()
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return None
    return time.perf_counter() - begin


def _poke(path: str) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        os.pwrite(fd, b"x", 4096)
    finally:
        os.close(fd)


class _Trial:
    """A driver with a committed snapshot, number 1, and one upon it, number 2."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def place(self, number: int) -> Any:
        from lamella.drivers.base import Place  # noqa: PLC0415

        return Place(number, () if number == 1 else (1,))

    @contextlib.contextmanager
    def _mounted(self, number: int) -> Iterator[str]:
        from lamella.drivers._run import mounted  # noqa: PLC0415

        with mounted(self.driver.mounts(self.place(number)), self.driver.mount_points) as path:
            yield path

    def fill(self, files: int, large: int) -> None:
        """Make snapshot 1: a tree of small files, and two large ones."""
        self.driver.create(self.place(1))
        with self._mounted(1) as view:
            for number in range(files):
                path = Path(view) / path_of(number)
                if number % A_FOLDER == 0:
                    path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"%07d" % number * 20)
            for number in (1, 2):
                with open(f"{view}/large-{number}", "xb") as file:
                    file.writelines(os.urandom(1 << 20) for _ in range(large >> 20))
        self.driver.commit(self.place(1))
        run("sync", "-f", str(self.driver.root))

    def create(self) -> float:
        """Return the median time to make a snapshot."""
        times = []
        for _ in range(_TIMES):
            begin = time.perf_counter()
            self.driver.create(self.place(2))
            times.append(time.perf_counter() - begin)
            self.driver.remove(2)
        return median(times)

    @contextlib.contextmanager
    def child(self) -> Iterator[str]:
        """Lend the mounted snapshot 2, made for it."""
        self.driver.create(self.place(2))
        with self._mounted(2) as view:
            yield view

    def changes(self) -> float:
        """Return the median time to find what it changes."""
        times = []
        for _ in range(_TIMES):
            begin = time.perf_counter()
            with self.driver.changes(self.place(2)) as found:
                times.append(time.perf_counter() - begin)
            if len(found) < _EDITS:
                raise MeasureError(f"{len(found)} of {_EDITS} changes found")
        return median(times)


JOBS: dict[str, Callable[..., dict[str, Any]]] = {"driver-costs": time_driver}
