"""The driver vfs: snapshots as whole trees. What every driver does is in the suite; here is what is its own."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from lamella.drivers.base import Place
from lamella.drivers.vfs import Vfs
from lamella.errors import TarFormatError
from lamella.model import Mount, SnapshotKind, Usage
from lamella.testing.listing import compare
from lamella.testing.tars import directory, file, layer_tar, whiteout
from lamella.testing.trees import Dir, Fifo, File, Hardlink, Socket, Symlink, build

AS_ROOT = os.geteuid() == 0
TREE = (Dir("d", mode=0o711), File("d/f", b"content"), Hardlink("g", "d/f"), Symlink("s", "nowhere"), Fifo("p"))


@pytest.fixture
def driver(scratch: Path) -> Vfs:
    root = scratch / "vfs"
    root.mkdir()
    return Vfs(root, mount_points=scratch / "mnt")


def test_a_snapshot_of_nothing_is_an_empty_directory(driver):
    driver.create(Place(1))
    found = (driver.root / "1").stat()
    assert (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (0o755, os.geteuid(), os.getegid())
    assert os.listdir(driver.root / "1") == []
    assert list(driver.ids()) == [1]


@pytest.mark.parametrize("kind", [SnapshotKind.ACTIVE, SnapshotKind.VIEW])
def test_a_snapshot_is_a_copy_of_the_nearest_parent(driver, kind):
    driver.create(Place(1))
    build(driver.root / "1", *TREE, Socket("k"))
    driver.create(Place(2, (1,)))
    build(driver.root / "2", File("more"))
    driver.create(Place(3, (2, 1), kind))
    assert compare(driver.root / "2", driver.root / "3") == []
    (driver.root / "3/d/f").write_bytes(b"changed")
    assert (driver.root / "2/d/f").read_bytes() == b"content"


def test_mounts_are_one_bind_that_only_an_active_snapshot_is_written_through(driver):
    where = str(driver.root / "7")
    assert driver.mounts(Place(7)) == (Mount("bind", where),)
    assert driver.mounts(Place(7, (), SnapshotKind.VIEW)) == (Mount("bind", where, ("ro",)),)
    assert driver.mounts(Place(7, (), SnapshotKind.COMMITTED)) == (Mount("bind", where, ("ro",)),)


def test_layers_are_applied_and_told_from_their_parents(driver):
    below, above = Place(1), Place(2, (1,))
    driver.create(below)
    driver.apply(below, layer_tar([directory("d"), file("d/a", b"a"), file("d/b", b"b")]), rootless=not AS_ROOT)
    driver.create(above)
    driver.apply(above, layer_tar([file("d/.wh.a"), file("d/c", b"c"), whiteout("nothing")]), rootless=not AS_ROOT)
    assert sorted(os.listdir(driver.root / "2/d")) == ["b", "c"]
    with driver.changes(above) as found:
        assert {(change.path, change.kind.value) for change in found} == {(b"d/a", "delete"), (b"d/c", "add")}
    with driver.changes(below) as found:
        assert {change.path for change in found} >= {b"d", b"d/a", b"d/b"}
    assert sorted(os.listdir(driver.root)) == ["1", "2"]


def test_a_layer_that_is_broken_leaves_a_snapshot_to_remove(driver):
    driver.create(Place(1))
    with pytest.raises(TarFormatError):
        driver.apply(Place(1), layer_tar([file("a", b"a"), file("x", header={"chksum": b"0" * 8})]), rootless=not AS_ROOT)
    driver.remove(1)
    assert os.listdir(driver.root) == []


def test_a_create_that_fails_leaves_nothing(driver, monkeypatch):
    driver.create(Place(1))
    build(driver.root / "1", *TREE)

    def copy_into(source, fd):
        os.mkdir("half", 0, dir_fd=fd)
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("lamella.drivers.vfs.copy_into", copy_into)
    with pytest.raises(OSError, match="full"):
        driver.create(Place(2, (1,)))
    assert os.listdir(driver.root) == ["1"]


def test_what_was_killed_in_the_making_is_cleared(driver):
    """By the next create of the number, or by remove: also what an apply staged beside an empty snapshot."""
    for name in (".new-2", ".2.abc\n", "2", ".new-22", "22", ".22.x"):
        build(driver.root / name, Dir("closed", mode=0), File("closed/f", b"1"))
    assert sorted(driver.ids()) == [2, 22]
    driver.remove(2)
    assert sorted(os.listdir(driver.root)) == [".22.x", ".new-22", "22"]
    driver.remove(22)
    driver.remove(22)
    assert os.listdir(driver.root) == []
    build(driver.root / ".new-3", File("old"))
    driver.create(Place(3))
    assert os.listdir(driver.root) == ["3"]
    assert os.listdir(driver.root / "3") == []


def test_removal_follows_no_link(driver, scratch):
    treasure = build(scratch / "treasure", File("f", b"1"))
    driver.create(Place(1))
    build(driver.root / "1", Symlink("into", os.fspath(treasure)), Symlink("up", "../.."))
    driver.remove(1)
    assert os.listdir(treasure) == ["f"]


def test_a_snapshot_deeper_than_a_path_goes(driver):
    driver.create(Place(1))
    fd = os.open(driver.root / "1", os.O_RDONLY)
    for _ in range(40):
        os.mkdir(b"n" * 200, dir_fd=fd)
        deeper = os.open(b"n" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(fd)
    driver.create(Place(2, (1,)))
    driver.remove(1)
    driver.remove(2)
    assert os.listdir(driver.root) == []


def test_usage_counts_an_inode_once(driver):
    driver.create(Place(1))
    build(driver.root / "1", *TREE)
    paths = [driver.root / "1", *(driver.root / "1").rglob("*")]
    inodes = {path.lstat().st_ino: path.lstat().st_blocks * 512 for path in paths}
    assert driver.usage(Place(1)) == Usage(sum(inodes.values()), 5)


def test_commit_and_sync_change_nothing(driver):
    driver.create(Place(1))
    build(driver.root / "1", *TREE)
    driver.commit(Place(1))
    driver.commit(Place(1))
    driver.sync()
    assert os.listdir(driver.root) == ["1"]


def test_it_works_wherever_a_directory_can_be_written(driver, scratch):
    assert Vfs.probe(driver.root).available
    assert os.listdir(driver.root) == []
    probe = Vfs.probe(scratch / "absent")
    assert (probe.name, probe.backend, probe.available) == ("vfs", "kernel", False)
    assert "absent cannot be written" in probe.reasons[0]
    with pytest.raises(ValueError, match="no option metacopy"):
        Vfs(driver.root, {"metacopy": "on"})
