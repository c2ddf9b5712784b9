"""Where an apply works: an absent or empty root appears whole or not at all, a mount point is cleared, a living tree stays."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import lamella
from lamella.errors import TarFormatError
from lamella.layer.staging import ground
from lamella.testing.listing import listing
from lamella.testing.tars import directory, file, layer_tar
from lamella.testing.trees import File, Symlink, build

AS_ROOT = os.geteuid() == 0
BAD = file("x", header={"chksum": b"0" * 8})
HALF = [file("a", b"1"), directory("d"), file("d/f", bytes(5_000))]
OLD = 1_500_000_000_000_000_007


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def fill(fd: int) -> None:
    """Make something in the ground, with a directory that nobody may enter."""
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=fd))
    os.mkdir("d", dir_fd=fd)
    os.mkdir("d/e", dir_fd=fd)
    os.symlink("/etc", "d/link", dir_fd=fd)
    os.chmod("d", 0o000 if AS_ROOT else 0o500, dir_fd=fd)


class Stop(Exception):
    """What goes wrong in the middle."""


@pytest.fixture
def beside(scratch: Path) -> Iterator[Path]:
    """A folder whose only content is the root; nothing else, and no descriptor, may be left."""
    folder = scratch / "beside"
    folder.mkdir()
    before = open_fds()
    yield folder
    assert {n for n in os.listdir(folder) if n.startswith(".")} == set()
    assert open_fds() == before


def test_an_absent_root_comes_by_a_rename(beside):
    with ground(beside / "r") as here:
        assert here.fresh
        assert here.mtime_ns == 0
        assert not (beside / "r").exists()
        (stage,) = os.listdir(beside)
        assert stage.startswith(".r.")
        assert os.path.samestat(os.fstat(here.root.fd), (beside / stage).stat())
        fill(here.root.fd)
    assert os.listdir(beside) == ["r"]
    made = (beside / "r").stat()
    assert (made.st_mode & 0o7777, made.st_uid, made.st_gid) == (0o755, os.geteuid(), os.getegid())
    assert sorted(os.listdir(beside / "r")) == ["d", "f"]


@pytest.mark.parametrize("mode", [0o700, 0o1777, 0o2755])
def test_an_empty_root_keeps_its_own_metadata(beside, mode):
    root = beside / "r"
    root.mkdir()
    if AS_ROOT:
        os.chown(root, 7, 8)
    root.chmod(mode)
    os.utime(root, ns=(OLD, OLD))
    inode = root.stat().st_ino
    with ground(root) as here:
        assert here.mtime_ns == OLD
        assert here.fresh == (not mode & stat.S_ISGID)  # what is made below would inherit the group
        assert len(os.listdir(beside)) == 2  # the root and the stage
        assert os.listdir(root) == []
    after = root.stat()
    assert after.st_ino != inode
    assert after.st_mode & 0o7777 == mode
    assert (after.st_uid, after.st_gid) == ((7, 8) if AS_ROOT else (os.geteuid(), os.getegid()))


@pytest.mark.requires("user_xattr")
def test_an_empty_root_keeps_its_attributes(beside):
    root = beside / "r"
    root.mkdir()
    os.setxattr(root, "user.k", b"v")
    with ground(root) as here:
        assert not here.fresh  # an entry for the root has them all
        fill(here.root.fd)
    assert listing(root)[b""].xattrs == ((b"user.k", b"v"),)


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_what_was_there(beside, empty, error):
    root = beside / "r"
    if empty:
        root.mkdir(mode=0o711)
        os.utime(root, ns=(OLD, OLD))
    before = listing(beside)
    with pytest.raises(error), ground(root) as here:  # noqa: PT012 - the block is what fails
        fill(here.root.fd)
        raise error
    after = listing(beside)
    assert {p: f._replace(mtime_ns=0) for p, f in after.items()} == {p: f._replace(mtime_ns=0) for p, f in before.items()}
    if empty:
        assert after[b"r"].mtime_ns == OLD


def test_a_deep_half_tree_is_removed_too(beside):
    """Deeper than a path may be long."""
    with pytest.raises(Stop), ground(beside / "r") as here:  # noqa: PT012
        fd = os.dup(here.root.fd)
        for _ in range(1_200):
            os.mkdir("deep", dir_fd=fd)
            deeper = os.open("deep", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = deeper
        os.close(fd)
        raise Stop
    assert os.listdir(beside) == []


def test_who_takes_the_name_meanwhile_keeps_it(beside):
    with pytest.raises(OSError, match=".") as caught, ground(beside / "r"):
        build(beside / "r", File("other"))
    assert caught.value.errno in {errno.ENOTEMPTY, errno.EEXIST}
    assert os.listdir(beside / "r") == ["other"]


def test_an_empty_directory_that_comes_meanwhile_is_replaced(beside):
    with ground(beside / "r") as here:
        (beside / "r").mkdir()
        fill(here.root.fd)
    assert sorted(os.listdir(beside / "r")) == ["d", "f"]


def test_a_living_tree_is_changed_where_it_is(beside):
    root = build(beside / "r", File("living"))
    os.utime(root, ns=(OLD, OLD))
    inode = root.stat().st_ino
    with pytest.raises(Stop), ground(root) as here:  # noqa: PT012
        assert not here.fresh
        assert here.mtime_ns == OLD
        fill(here.root.fd)
        raise Stop
    assert sorted(os.listdir(root)) == ["d", "f", "living"]
    assert root.stat().st_ino == inode


def test_a_symlink_to_the_root_stays_one(beside):
    (beside / "real").mkdir()
    (beside / "link").symlink_to("real")
    (beside / "dead").symlink_to("not-yet")
    for name, target in (("link", "real"), ("dead", "not-yet")):
        with ground(beside / name) as here:
            fill(here.root.fd)
        assert os.readlink(beside / name) == target
        assert sorted(os.listdir(beside / target)) == ["d", "f"]


def test_what_is_no_directory_is_refused(beside):
    build(beside, File("file"), Symlink("link", "file"), Symlink("loop", "loop"))
    for name in ("file", "link"):
        with pytest.raises(NotADirectoryError) as caught, ground(beside / name):
            pass
        assert caught.value.filename == str(beside / "file")
    with pytest.raises(FileNotFoundError), ground(beside / "no" / "r"):
        pass
    with pytest.raises(OSError, match="."), ground(beside / "file" / "r"):
        pass


@pytest.mark.parametrize("name", ["n" * 255, "\u00fc" * 127, os.fsdecode(b"\xff" * 200), " ", "a\nb", "-x"])
def test_any_name_that_a_directory_can_have(beside, name):
    lamella.apply(layer_tar(HALF), beside / name, rootless=not AS_ROOT)
    assert sorted(os.listdir(beside / name)) == ["a", "d"]


def test_what_the_folder_bequeaths_is_not_the_roots(beside):
    """A set-group-id bit and a default ACL above (109)."""
    no_id = 0xFFFF_FFFF
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in ((1, 7, no_id), (4, 7, no_id), (32, 0, no_id)))
    os.setxattr(beside, "system.posix_acl_default", acl)
    if AS_ROOT:
        os.chown(beside, -1, 7)
    beside.chmod(0o2775)
    with ground(beside / "r") as here:
        assert here.fresh
    found = listing(beside)[b"r"]
    assert (found.mode, found.gid, found.xattrs) == (0o755, os.getegid(), ())


@contextlib.contextmanager
def mounted(where: Path) -> Iterator[Path]:
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=0711", "tmpfs", where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True)


@pytest.mark.requires("root", "mount", "overlay")
def test_a_mount_point_is_written_inside_and_cleared(scratch):
    with mounted(scratch / "m") as root:
        inode = root.stat().st_ino
        with pytest.raises(Stop), ground(root) as here:  # noqa: PT012
            assert not here.fresh
            fill(here.root.fd)
            assert sorted(os.listdir(root)) == ["d", "f"]
            raise Stop
        assert os.listdir(root) == []
        with pytest.raises(TarFormatError):
            lamella.apply(layer_tar([*HALF, BAD]), root)
        assert os.listdir(root) == []
        assert root.stat().st_mode & 0o7777 == 0o711
        lamella.apply(layer_tar(HALF), root)
        assert sorted(os.listdir(root)) == ["a", "d"]
        assert os.path.ismount(root)
        assert root.stat().st_ino == inode
    assert os.listdir(scratch) == ["m"]


def in_it(root: Path, members: list) -> tuple[list[str], str]:
    """Apply to the working directory; for the sandbox, which has one of its own."""
    root.mkdir()
    before = os.getcwd()
    os.chdir(root)
    inode = root.stat().st_ino
    try:
        lamella.apply(layer_tar(members), ".", rootless=not AS_ROOT)
        said = ""
    except TarFormatError:
        said = "refused"
    finally:
        os.chdir(before)  # not into what goes when the call is over
    assert root.stat().st_ino == inode
    return sorted(os.listdir(root)), said


def test_the_working_directory_too(box):
    """A rename would leave the caller in a directory without a name."""
    assert box.call(under, in_it, HALF) == (["a", "d"], "")
    assert box.call(under, in_it, [*HALF, BAD]) == ([], "refused")


def under(folder: Path, work, *args):
    """Give ``work`` a root of its own below the sandbox's folder."""
    return work(folder / "cwd", *args)


def failing(folder: Path) -> list[str]:
    """Fail as an ordinary user, who closed the directories that he made."""
    closed = [directory("d", mode=0o000), directory("d/e", mode=0o000), file("d/e/f", b"1", mode=0), *(file(f"{i}") for i in range(9))]
    for members in ([*closed, BAD], [*closed, file("../x")]):
        with contextlib.suppress(lamella.errors.LamellaError):
            lamella.apply(layer_tar(members), folder / "r", rootless=True)
    return os.listdir(folder)


def test_a_half_tree_of_closed_directories_is_removed_by_its_owner(nobody_box):
    assert nobody_box.call(failing) == []


@pytest.mark.parametrize("root", ["absent", "empty"])
def test_an_error_out_of_a_staged_root_says_nothing_partial(beside, root):
    """There is nothing half done that it could be about."""
    if root == "empty":
        build(beside / "r")
    with pytest.raises(TarFormatError) as caught:
        lamella.apply(layer_tar([*HALF, BAD]), beside / "r", rootless=not AS_ROOT)
    assert caught.value.partial is None


def test_a_wrong_digest_leaves_no_root(beside):
    for option in ("expected_digest", "expected_diff_id"):
        with pytest.raises(lamella.errors.DigestMismatchError):
            lamella.apply(layer_tar(HALF), beside / "r", rootless=not AS_ROOT, **{option: "sha256:" + "0" * 64})
    assert os.listdir(beside) == []


def test_hidden_names_count(beside):
    """A root with a dot file is a living tree."""
    root = build(beside / "r", File(".hidden"))
    lamella.apply(layer_tar(HALF), root, rootless=not AS_ROOT)
    assert sorted(os.listdir(root)) == [".hidden", "a", "d"]
