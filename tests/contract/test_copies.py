"""What a driver that copies whole trees must not lose: item 114."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from lamella.drivers.base import Place
from lamella.drivers.vfs import Vfs
from lamella.model import SnapshotKind
from lamella.testing.listing import compare, listing
from lamella.testing.trees import Chown, Device, Dir, Edit, File, Hardlink, Symlink, build

NO_ID = 0xFFFFFFFF
OLD = 1_234_567_890_123_456_789
CAPABILITY = struct.pack("<5I", 0x2000001, 1 << 13, 0, 0, 0)


def acl(*entries: tuple[int, int, int]) -> bytes:
    """Return the attribute for entries (tag, permissions, id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


ACCESS = acl((1, 6, NO_ID), (2, 4, 7), (4, 4, NO_ID), (16, 4, NO_ID), (32, 0, NO_ID))
DEFAULT = acl((1, 7, NO_ID), (2, 7, 1000), (4, 5, NO_ID), (16, 7, NO_ID), (32, 0, NO_ID))


def copied(folder: Path, kind: SnapshotKind, *edits: Edit) -> Path:
    """Have the driver make a snapshot of one that holds the edits; return it. Nothing may differ."""
    driver = Vfs(folder)
    driver.create(Place(1))
    build(driver.root / "1", *edits)
    before = listing(driver.root / "1")
    driver.create(Place(2, (1,), kind))
    assert compare(before, driver.root / "2") == []
    assert listing(driver.root / "1") == before
    return driver.root / "2"


@pytest.mark.parametrize("kind", [SnapshotKind.ACTIVE, SnapshotKind.VIEW])
@pytest.mark.requires("setfacl")
def test_114_acls_and_user_attributes(ext4_scratch, kind):
    low = Dir("low", mode=0o770, xattrs={"system.posix_acl_default": DEFAULT, "user.low": b"1"})
    files = [File("low/f", mode=0o644, xattrs={"user.f": b"", "user.g": bytes(range(256))}), Dir("low/d")]
    own = File("own", mode=0o640, xattrs={"system.posix_acl_access": ACCESS})
    copied(ext4_scratch, kind, Dir("low"), *files, own, low)


@pytest.mark.requires("root")
def test_114_owners_capabilities_and_attributes_that_overlay_would_take_for_its_own(scratch):
    attributes = {"security.capability": CAPABILITY, "trusted.overlay.opaque": b"y", "trusted.a": b"1"}
    copied(
        scratch, SnapshotKind.ACTIVE,
        File("ping", b"x", uid=5, gid=6, mode=0o2755, xattrs={"security.capability": CAPABILITY}),
        File("su", b"x", uid=7, gid=8, mode=0o6711), Dir("d", uid=1, xattrs=attributes), Device("gone", major=0, minor=0),
        Symlink("s", "x", uid=9, xattrs={"trusted.b": b"2"}), Device("disk", kind="block", major=7, minor=3, uid=2),
        File("high"), Chown("high", 4_294_967_294, 2_097_152),
    )  # fmt: skip


def test_114_hard_links_of_symlinks_too(scratch):
    copy = copied(
        scratch, SnapshotKind.ACTIVE,
        File("a", b"1"), Dir("d"), Hardlink("d/a", "a"), Symlink("s", "a"), Hardlink("d/s", "s"), Hardlink("t", "s"),
    )  # fmt: skip
    assert (copy / "d/s").lstat().st_ino == (copy / "s").lstat().st_ino
    assert (copy / "s").lstat().st_nlink == 3


def test_114_times_of_directories_to_the_nanosecond(scratch):
    edits = [
        Dir("a", mtime_ns=OLD),
        Dir("a/b", mtime_ns=OLD + 1),
        File("a/b/f", mtime_ns=OLD + 2),
        Symlink("a/s", "f", mtime_ns=-1),
    ]
    copy = copied(scratch, SnapshotKind.ACTIVE, *edits, Dir("", mtime_ns=OLD + 3))
    assert [(copy / n).lstat().st_mtime_ns - OLD for n in ("a", "a/b", "a/b/f", "")] == [0, 1, 2, 3]


def test_114_holes(scratch):
    driver = Vfs(scratch)
    driver.create(Place(1))
    with open(scratch / "1/sparse", "wb") as file:
        file.truncate(1 << 30)
        file.seek(1 << 29)
        file.write(b"data")
    driver.create(Place(2, (1,)))
    was, now = (scratch / "1/sparse").stat(), (scratch / "2/sparse").stat()
    assert (now.st_size, now.st_blocks) == (was.st_size, was.st_blocks)
