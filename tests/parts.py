"""What a test may need of the machine, each part probed once, by doing the thing.

A part is a name: ``root``, ``loop``, ``btrfs``, ``overlay``, ``userns``, ``user_xattr``, ``devices``, ``fuse``, ``vm`` (an
emulated machine with a Debian kernel), or else a program on PATH.
Use it as a mark, ``@pytest.mark.requires("umoci", "root")``, or inside a test or fixture, ``requires("loop")``.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.vm import kernel, machine

REQUIRE_ALL = os.environ.get("LAMELLA_REQUIRE_ALL") == "1"
TMPFS = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path(tempfile.gettempdir())
MKFS = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
}
BTRFS_NBYTES = 128 << 20  # it takes no less
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


def requires(*parts: str) -> None:
    """Skip the running test, naming what is missing; fail instead under LAMELLA_REQUIRE_ALL=1."""
    for part in parts:
        reason = missing(part)
        if reason is None:
            continue
        message = f"requires {part}: {reason}"
        if REQUIRE_ALL:
            pytest.fail(f"{message} (LAMELLA_REQUIRE_ALL=1)", pytrace=False)
        pytest.skip(message)


@functools.cache
def missing(part: str) -> str | None:
    """Return why ``part`` cannot be used here, or None where it can."""
    probe = PROBES.get(part)
    if probe is None:
        return None if program(part) else "no such program on PATH"
    try:
        return probe()
    except OSError as error:
        return str(error)


def program(name: str) -> str | None:
    """Find ``name`` on PATH or in the administrator's folders; None where there is none."""
    return shutil.which(name) or shutil.which(name, path=SBIN)


def run(*argv: str) -> str | None:
    """Run a program for its effect; return its complaint, or None when it succeeded."""
    path = program(argv[0])
    if path is None:
        return f"{argv[0]} is not installed"
    done = subprocess.run([path, *argv[1:]], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"{argv[0]}: {done.stderr.strip() or done.returncode}"


@contextlib.contextmanager
def probe_folder() -> Iterator[Path]:
    """Lend an empty directory for one probe."""
    with tempfile.TemporaryDirectory(prefix="lamella-probe-", dir=os.environ.get("TMPDIR", TMPFS)) as name:
        yield Path(name)


def _root() -> str | None:
    return None if os.geteuid() == 0 else "not running as root"


def _loop() -> str | None:
    if (reason := _root()) is not None:
        return reason
    with probe_folder() as folder, contextlib.ExitStack() as undo:
        return mount_ext4(folder / "disk", folder / "mnt", 8 << 20, undo)


def _btrfs() -> str | None:
    if (reason := _root()) is not None:
        return reason
    with probe_folder() as folder, contextlib.ExitStack() as undo:
        return mount_disk("btrfs", folder / "disk", folder / "mnt", BTRFS_NBYTES, undo)


def _overlay() -> str | None:
    if (reason := _root()) is not None:
        return reason
    with probe_folder() as folder:
        for name in ("lower", "upper", "work", "merged"):
            (folder / name).mkdir()
        options = f"lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work"
        reason = run("mount", "-t", "overlay", "overlay", "-o", options, f"{folder}/merged")
        return reason if reason is not None else run("umount", f"{folder}/merged")


def _userns() -> str | None:
    return run("unshare", "--user", "--map-root-user", "true")


def _user_xattr() -> str | None:
    with probe_folder() as folder:
        os.setxattr(folder, b"user.probe", b"1")
    return None


def _devices() -> str | None:
    with probe_folder() as folder:
        os.mknod(folder / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    return None


def _fuse() -> str | None:
    if importlib.util.find_spec("mfusepy") is None:
        return "mfusepy is not installed"
    if program("fusermount3") is None:
        return "libfuse 3 is not installed"
    os.close(os.open("/dev/fuse", os.O_RDWR))
    return None


def _vm() -> str | None:
    if program(machine.QEMU) is None:
        return f"{machine.QEMU} is not installed"
    kernel.fetch()
    return None


PROBES: dict[str, Callable[[], str | None]] = {
    "root": _root,
    "loop": _loop,
    "btrfs": _btrfs,
    "overlay": _overlay,
    "userns": _userns,
    "user_xattr": _user_xattr,
    "devices": _devices,
    "fuse": _fuse,
    "vm": _vm,
}


def mount_ext4(disk: Path, where: Path, nbytes: int, undo: contextlib.ExitStack) -> str | None:
    """Do mount_disk() of an ext4."""
    return mount_disk("ext4", disk, where, nbytes, undo)


def mount_disk(kind: str, disk: Path, where: Path, nbytes: int, undo: contextlib.ExitStack) -> str | None:
    """Make a fresh file system of ``nbytes`` in the file ``disk`` and mount it on ``where``; ``undo`` takes it all back.

    Returns the complaint of the program that failed, or None.
    """
    undo.callback(disk.unlink, missing_ok=True)
    with disk.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, nbytes)
    where.mkdir()
    undo.callback(where.rmdir)
    reason = run(*MKFS[kind], str(disk))
    if reason is None:
        undo.callback(release, disk, where)
        reason = run("mount", "-o", "loop", str(disk), str(where))
    return reason


def release(disk: Path, where: Path) -> None:
    """Unmount ``where``, lazily if it is busy, and detach every loop device of ``disk``."""
    while os.path.ismount(where):
        if run("umount", str(where)) is not None and (reason := run("umount", "-l", str(where))) is not None:
            raise OSError(reason)
    for device in loops_of(disk):
        run("losetup", "-d", device)


def loops_of(disk: Path) -> list[str]:
    """Return the loop devices whose backing file is ``disk``, or lies below it."""
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            name = backing.read_text().rstrip("\n").removesuffix(" (deleted)")
            if Path(name).is_relative_to(disk):
                found.append(f"/dev/{backing.parts[3]}")
    return found


def mounts_below(folder: Path) -> list[str]:
    """Return the mount points at or below ``folder``, the last mounted first."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    decoded = [point.encode().decode("unicode_escape") for point in points]
    return [point for point in reversed(decoded) if Path(point).is_relative_to(folder)]
