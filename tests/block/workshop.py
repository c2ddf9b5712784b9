"""A child process that makes, mounts, freezes and copies file systems in a mount namespace of its own: all goes with it.

A :class:`Workshop` answers calls as tests/sandbox.py's Sandbox does, which it is but for what it may do.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import parts
from tests.sandbox import PR_SET_PDEATHSIG, REPOSITORY, Sandbox, answer_calls

THROUGH = ("unshare", "--mount", "--propagation", "private")
FIFREEZE, FITHAW = 0xC0045877, 0xC0045878
MNT_DETACH = 2


class Workshop(Sandbox):
    """The child process; every call gets a fresh directory, below which it may mount."""

    def _start(self) -> subprocess.Popen[bytes]:
        code = f"from tests.block import workshop; workshop.serve({os.fspath(self.where)!r})"
        path = os.pathsep.join([str(REPOSITORY), *filter(None, sys.path)])
        env = os.environ | {"PYTHONPATH": path, "PATH": f"{os.environ['PATH']}:{parts.SBIN}"}
        argv = [*THROUGH, sys.executable, "-B", "-c", code]
        pipe = subprocess.PIPE
        return subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=self.stderr, env=env, cwd=REPOSITORY)


def serve(where: str) -> None:
    """Be the child: answer calls until stdin ends. Never returns."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    faulthandler.register(signal.SIGALRM, chain=True)  # where it was, when a call takes too long
    answer_calls(source, sink, where, _clean)


def _clean(folder: Path) -> None:
    for point in parts.mounts_below(folder):
        ctypes.CDLL(None).umount2(os.fsencode(point), MNT_DETACH)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def workshop(home: Path) -> Iterator[Workshop]:
    """Give a workshop on tmpfs."""
    parts.requires("loop", "mkfs.ext4", "unshare")
    with tempfile.TemporaryDirectory(prefix="ext4-", dir=home / "tmp") as where, Workshop(Path(where)) as child:
        yield child


def make(disk: Path, nbytes: int, *options: str) -> None:
    """Make a file system in a new file."""
    with disk.open("wb") as file:
        file.truncate(nbytes)
    reason = parts.run("mkfs.ext4", "-q", "-F", *options, str(disk))
    assert reason is None, reason


@contextlib.contextmanager
def mounted(disk: Path, where: Path, options: str = "loop") -> Iterator[Path]:
    """Mount ``disk``; the loop device goes with the mount."""
    where.mkdir(exist_ok=True)
    reason = parts.run("mount", "-t", "ext4", "-o", options, str(disk), str(where))
    assert reason is None, reason
    try:
        yield where
    finally:
        reason = parts.run("umount", str(where))
        assert reason is None, reason


@contextlib.contextmanager
def frozen(where: Path) -> Iterator[None]:
    """Have all on disk, and nobody write."""
    fd = os.open(where, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(fd, FIFREEZE, 0)
        try:
            yield
        finally:
            fcntl.ioctl(fd, FITHAW, 0)
    finally:
        os.close(fd)
