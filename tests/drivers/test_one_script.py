"""One script of edits gives one layer, and so one diff_id, whichever driver keeps the snapshots that it is played in."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from lamella.drivers.base import Place
from lamella.drivers.registry import driver_class
from lamella.model import SnapshotKind
from lamella.testing.suite import DriverSuite
from lamella.testing.trees import (
    Append,
    Chmod,
    Chown,
    Device,
    Dir,
    Fifo,
    File,
    Hardlink,
    Hole,
    Move,
    Remove,
    Script,
    Symlink,
    Truncate,
    Utime,
    Write,
    Xattr,
)
from tests.sandbox import without_subvolumes

NS = 10**9
# of hard links only what every union does with them: one that copies up without an index parts what is changed
SCRIPTS = [
    Script((
        Dir("", mode=0o755, mtime_ns=9 * NS), Dir("etc", mode=0o751, xattrs={"user.d": b"1"}), File("etc/conf", b"one", mode=0o640),
        Dir("usr"), Dir("usr/bin"), File("usr/bin/su", b"s" * 5000, mode=0o4755), Hardlink("usr/bin/sudo", "usr/bin/su"),
        Symlink("bin", "usr/bin", mtime_ns=7 * NS + 1), Fifo("pipe", mode=0o622), Device("null"), Dir("var"), Dir("var/log"),
        File("var/log/a", b"a" * 9000), File("var/log/b", b"b"), Dir("srv"), Dir("srv/deep"), File("srv/deep/f", b"deep"),
        File(b"\xff \n", b"no text"), File("n" * 251, b"long"), Dir("again"), File("again/old", b"old"), File("swap", b"file"),
    ), dir_mtime_ns=11 * NS),
    Script((
        Write("etc/conf", b"two", mtime_ns=13 * NS + 5), Chown("etc/conf", 4, 5), Chmod("etc", 0o700), Append("var/log/a", b"++", mtime_ns=14 * NS),
        Remove("var/log/b"), Move("srv", "var/srv"), Remove("again"), Dir("again", mode=0o711), File("again/new", b"new"),
        Remove("swap"), Dir("swap"), File("swap/in", b"in"), Remove("pipe"), Symlink("pipe", "null"), Truncate("n" * 251, 2, mtime_ns=15 * NS),
        Xattr("usr", "user.new", b"v"), Xattr("etc", "user.d"), Utime("bin", 16 * NS), Remove("usr/bin"), Device("disk", 8, 0, "block"),
        Hole("var/srv/deep/f", 100, 70_000, mtime_ns=17 * NS),
    ), dir_mtime_ns=12 * NS),
    Script((Remove("var"), File("var", b"a file"), Move("swap/in", "in"), Remove("null"), Chmod("again/new", 0o600)), dir_mtime_ns=18 * NS),
]  # fmt: skip
BY_CALLS, BY_FUSE = "by calls", "by FUSE"
DRIVERS = [
    pytest.param("vfs.kernel", "", id="vfs"), pytest.param("overlay.kernel", "", id="overlay", marks=pytest.mark.requires("overlay")),
    pytest.param("btrfs.kernel", "", id="btrfs", marks=pytest.mark.requires("btrfs")),
    *(pytest.param(f"{name}.userspace", BY_CALLS, id=f"{name} {BY_CALLS}") for name in ("overlay", "aufs")),
    *(
        pytest.param(f"{name}.userspace", BY_FUSE, id=f"{name} {BY_FUSE}", marks=pytest.mark.requires("fuse"))
        for name in ("overlay", "aufs")
    ),
]  # fmt: skip


class ByCalls(DriverSuite):
    by_calls = True


def diff_ids(folder: Path, driver: str, how: str = "") -> list[tuple[str, str]]:
    """Play each script in a snapshot upon the one before; return the diff_id of each, active and committed."""
    suite, found = ByCalls() if how == BY_CALLS else DriverSuite(), []
    of = driver_class(*driver.split("."))(folder, mount_points=folder / "mnt")
    for id_, script in enumerate(SCRIPTS, 1):
        parents = tuple(range(id_ - 1, 0, -1))
        of.create(Place(id_, parents))
        answers = suite.edit(of, Place(id_, parents), script)
        assert [answer for answer in answers if not answer.endswith(("done", "copied"))] == []
        active = suite.layer(of, Place(id_, parents))
        of.commit(Place(id_, parents))
        committed = suite.layer(of, Place(id_, parents, SnapshotKind.COMMITTED))
        found.append((hashlib.sha256(active).hexdigest(), hashlib.sha256(committed).hexdigest()))
    return found


@pytest.mark.requires("root")
@pytest.mark.parametrize(("driver", "how"), DRIVERS)
def test_a_script_has_one_diff_id(request: pytest.FixtureRequest, box: Any, driver: str, how: str) -> None:
    wanted = box.call(diff_ids, "vfs.kernel")
    if driver == "btrfs.kernel":
        assert request.getfixturevalue("btrfs_box").call(without_subvolumes, diff_ids, driver) == wanted
    else:
        assert box.call(diff_ids, driver, how) == wanted
    assert all(active == committed for active, committed in wanted)
    assert len({active for active, _ in wanted}) == len(SCRIPTS)
