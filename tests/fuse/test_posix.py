"""A mount answers hundreds of calls as ext4 does, over branches with nothing lower and with everything."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamella.drivers._run import attach, detach
from lamella.model import Mount
from tests.fuse import posix
from tests.fuse.random_io import wrong
from tests.sandbox import REPOSITORY

pytestmark = pytest.mark.requires("root", "loop", "fuse")


@contextlib.contextmanager
def union(folder: Path, *lowers: Path, dialect: str = "overlay:trusted") -> Iterator[Path]:
    upper = folder / "upper"
    for name in ("upper", "work", "mnt"):
        (folder / name).mkdir(parents=True)
    upper.chmod(0o777)
    options = [f"lowerdir+={lower}" for lower in lowers]
    words = (*options, f"upperdir={upper}", f"workdir={folder / 'work'}", f"dialect={dialect}", "redirect_dir=on")
    attach([Mount("fuse.lamella", "lamella", words)], folder / "mnt")
    try:
        yield folder / "mnt"
    finally:
        detach(folder / "mnt", lazy=True)


def played(where: Path, *, prepare: bool) -> list[str]:
    """Run the script in a process of its own: one that a mount keeps waiting can be left there."""
    argv = [sys.executable, posix.__file__, str(where), *(["prepare"] if prepare else [])]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return json.loads(done.stdout)


def differences(theirs: list[str], ours: list[str]) -> list[str]:
    return [f"{a!r} != {b!r}" for a, b in zip([*theirs, "end"], [*ours, "end"], strict=False) if a != b]


@pytest.mark.slow
@pytest.mark.parametrize("lower", ["empty", "filled"])
def test_a_mount_answers_as_ext4_does(ext4_scratch, lower):
    (ext4_scratch / "plain").mkdir()
    (ext4_scratch / "lower").mkdir()
    theirs = played(ext4_scratch / "plain", prepare=True)
    if lower == "filled":
        posix.prepare(ext4_scratch / "lower")
    with union(ext4_scratch / "union", ext4_scratch / "lower") as where:
        ours = played(where, prepare=lower == "empty")
    assert differences(theirs, ours) == []
    assert len(theirs) > 500


@pytest.mark.parametrize("seed", range(4))
def test_random_calls_leave_what_they_leave_in_a_plain_file(ext4_scratch, seed):
    lower = ext4_scratch / "lower"
    lower.mkdir()
    model = ext4_scratch / "model"
    for path in (lower / "file", model):
        path.write_bytes(bytes(range(256)) * 400)
    with union(ext4_scratch / "union", lower) as where:
        assert wrong(where / "file", model, seed, 300) == []
    assert (ext4_scratch / "union/upper/file").read_bytes() == model.read_bytes()
    assert (lower / "file").read_bytes() == bytes(range(256)) * 400
