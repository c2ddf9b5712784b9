"""Where layers are applied to: tmpfs, and an ext4 or a btrfs that is made anew for every measurement.

An ext4 that has seen a mass of deletions creates files many times slower (docs/benchmarks.md), and the file system that
the machine keeps its own files on has seen everything. So there is a file on tmpfs, preallocated once, with a fresh file
system in it each time.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from lamella.bench.measure import MeasureError, program

__all__ = ["Btrfs", "Ext4", "Ground", "Tmpfs", "memory_folder", "missing_for_ext4", "remove", "run"]

PATIENCE = 1.0  # seconds that a loop device may take to be free
MEMORY = Path("/dev/shm")  # noqa: S108  (a fresh folder of our own is made in it)


class Ground(Protocol):
    """A file system to measure on; ``name`` labels every figure."""

    name: str

    def fresh(self) -> contextlib.AbstractContextManager[Path]:
        """Lend an empty directory."""


def memory_folder() -> Path:
    """Return the tmpfs that all of a run's files go to; MeasureError where there is none to write to."""
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    types = {fields[4]: fields[fields.index("-") + 1] for fields in lines}
    if types.get(str(MEMORY)) != "tmpfs" or not os.access(MEMORY, os.W_OK | os.X_OK):
        raise MeasureError(f"{MEMORY} is no tmpfs that can be written to")
    return MEMORY


def run(*argv: str, status: int = 0) -> None:
    """Run a program for its effect; MeasureError with its last words."""
    path = program(argv[0])
    if path is None:
        raise MeasureError(f"{argv[0]} is not installed")
    done = subprocess.run([path, *argv[1:]], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if not 0 <= done.returncode <= status:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise MeasureError(f"{argv[0]}: {said[-1] if said else f'exit status {done.returncode}'}")


def remove(folder: Path) -> None:
    """Remove a tree, whatever is in it, below one mount point."""
    run("rm", "-rf", "--one-file-system", str(folder))


class Tmpfs:
    """Memory: what the engine and the system calls cost."""

    name = "tmpfs"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def fresh(self) -> Iterator[Path]:
        """Lend an empty directory; it is removed afterwards."""
        where = self._folder / "ground"
        where.mkdir()
        try:
            yield where
        finally:
            remove(where)


class Ext4:
    """A disk file system on a loop device whose file is on tmpfs: no disk in it, but all of ext4."""

    name = "ext4"

    def __init__(self, folder: Path, nbytes: int, n_inodes: int) -> None:
        self._disk, self._mount = folder / "disk", folder / "mnt"
        self._nbytes, self._n_inodes = nbytes, n_inodes

    @contextlib.contextmanager
    def fresh(self) -> Iterator[Path]:
        """Lend an empty directory of a new file system; MeasureError where that cannot be had."""
        if (reason := missing_for_ext4()) is not None:
            raise MeasureError(reason)
        if not self._disk.exists():
            try:
                with self._disk.open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, self._nbytes)
            except OSError as error:
                self._disk.unlink()
                raise MeasureError(f"no room for an ext4 of {self._nbytes >> 20} MiB: {error}") from error
        self._mount.mkdir(exist_ok=True)
        self._format(self._disk)
        try:
            run("mount", "-o", "loop", str(self._disk), str(self._mount))
            root = self._mount / "ground"
            root.mkdir()
            yield root
        finally:
            self.release()

    def _format(self, disk: Path) -> None:
        options = "nodiscard,lazy_itable_init=0,lazy_journal_init=0"
        run("mkfs.ext4", "-q", "-F", "-N", str(self._n_inodes), "-E", options, str(disk))

    def release(self) -> None:
        """Unmount, lazily if it is busy, and detach every loop device of the file.

        A mount namespace that somebody made meanwhile keeps its copy of the mount until it ends, and one that has just
        ended for a moment longer. As long as the device is in use, a new mount of the file would be of the old file system:
        then the file is let go, and the next one is another.
        """
        while os.path.ismount(self._mount):
            try:
                run("umount", str(self._mount))
            except MeasureError:
                run("umount", "-l", str(self._mount))
        end = time.monotonic() + PATIENCE
        while devices := self._devices():
            if time.monotonic() > end:
                self._disk.unlink()
                self._disk = self._disk.with_suffix(f".{time.monotonic_ns()}")
                break
            for device in devices:
                with contextlib.suppress(MeasureError):  # it went by itself
                    run("losetup", "-d", device)
            time.sleep(0.01)

    def _devices(self) -> list[str]:
        """Return the loop devices of the file."""
        found = []
        for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
            with contextlib.suppress(OSError):
                if backing.read_text().rstrip("\n").removesuffix(" (deleted)") == str(self._disk):
                    found.append(f"/dev/{backing.parts[3]}")
        return found


def missing_for_ext4() -> str | None:
    """Return what an ext4 of our own lacks here, None for nothing."""
    if os.geteuid() != 0:
        return "ext4 on a loop device needs root"
    if not Path("/dev/loop-control").exists():
        return "no loop devices here (/dev/loop-control)"
    absent = [name for name in ("mkfs.ext4", "mount", "umount", "losetup") if program(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


class Btrfs(Ext4):
    """A btrfs in the same way."""

    name = "btrfs"

    def _format(self, disk: Path) -> None:
        run("mkfs.btrfs", "-q", "-f", "-K", str(disk))
