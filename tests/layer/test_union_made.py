"""A union by hand: what it leaves in its first branch, what it refuses, and branches that a mount with metacopy wrote."""

from __future__ import annotations

import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import lamella
from lamella.errors import UnsafePathError
from lamella.layer.union import Union
from lamella.model import ChangeKind
from lamella.testing.listing import compare, listing
from lamella.testing.trees import Chmod, Dir, Edit, File, Rename, Script, Symlink, build
from tests.overlays import overlay, perform
from tests.unions import alone, play, tree_of

LOWER: tuple[Edit, ...] = (
    Dir("d"), File("d/x", b"x" * 9), Dir("d/sub"), File("d/sub/y", b"y"), File("e", b"e", xattrs={"user.k": b"v"}), Symlink("ln", "d"),
)  # fmt: skip
FIRST = [
    ("unlink", b"e"), ("unlink", b"d/sub/y"), ("rmdir", b"d/sub"), ("mkdir", b"d/sub"), ("mkdir", b"new"), ("create", b"new/f"),
    ("unlink", b"new/f"), ("rmdir", b"new"), ("create", b"f"), ("unlink", b"f"),
]  # fmt: skip


@pytest.fixture
def lower(scratch: Path) -> Path:
    return build(scratch / "lower", *LOWER)


@pytest.fixture
def upper(scratch: Path) -> Path:
    return build(scratch / "upper")


def names(upper: Path) -> dict[bytes, str]:
    return {path: found.type for path, found in listing(upper).items() if path}


def raised(call: Any, *args: Any) -> str:
    with pytest.raises(OSError, match=".") as caught:
        call(*args)
    return errno.errorcode[caught.value.errno]


# -- on disk ----------------------------------------------------------------------------------------------------------


@pytest.mark.requires("user_xattr", "devices")
def test_021_markers_are_written_only_where_something_lower_would_show(lower, upper):
    with Union([upper, lower], dialect="overlay:user") as union:
        assert [a for a in play(union, FIRST) if not a.endswith("done")] == []
    assert names(upper) == {b"d": "dir", b"d/sub": "dir", b"e": "char"}
    assert os.getxattr(upper / "d" / "sub", "user.overlay.opaque") == b"y"
    assert os.stat(upper / "e").st_rdev == 0


def test_017_an_aufs_branch_has_the_names_of_the_tar(lower, upper):
    before = os.stat(upper).st_mtime_ns
    with Union([upper, lower], dialect="aufs") as union:
        assert os.stat(upper).st_mtime_ns == before
        assert [a for a in play(union, FIRST) if not a.endswith("done")] == []
        assert b".wh.e" not in union.readdir(b"")
        assert raised(union.stat, b"e") == "ENOENT"
    markers = {b".wh.e": "file", b"d/sub/.wh..wh..opq": "file"}
    assert names(upper) == {b"d": "dir", b"d/sub": "dir", b".wh..wh.aufs": "file", **markers}


def test_008_aufs_keeps_its_names_to_itself(lower, upper):
    with Union([upper, lower], dialect="aufs") as union:
        for call in (union.create, union.mkdir):
            assert raised(call, b".wh.x") == "EPERM"
            assert raised(call, b"n" * 252) == "ENAMETOOLONG"
        assert raised(union.rename, b"e", b".wh.e") == "EPERM"
        assert raised(union.link, b"e", b"d/.wh..wh..opq") == "EPERM"
        union.mkdir(b"n" * 251)
        union.unlink(b"e")
        for path in (b".wh.e", b".wh..wh.orph", b".wh..wh.orph/x"):
            assert raised(union.stat, path) == "ENOENT"
    assert names(upper) == {b"n" * 251: "dir", b".wh.e": "file", b".wh..wh.aufs": "file"}


@pytest.mark.requires("user_xattr")
def test_025_a_whiteout_is_a_file_where_no_device_may_be_made(lower, upper, monkeypatch):
    def mknod(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(errno.EPERM, "no devices here")

    monkeypatch.setattr(os, "mknod", mknod)
    with Union([upper, lower], dialect="overlay:user") as union:
        union.unlink(b"d/x")
        union.unlink(b"e")
        union.rename(b"d/sub/y", b"y")
        assert set(tree_of(union)) == {b"", b"d", b"d/sub", b"y", b"ln"}
        os.close(union.create(b"e"))
        union.unlink(b"e")
        shown = tree_of(union)
    assert os.getxattr(upper / "d", "user.overlay.opaque") == b"x"
    assert names(upper)[b"d/x"] == "file"
    found = {(c.kind, c.path) for c in lamella.changes_from_upper(upper, [lower], dialect="overlay:user")}
    assert {(ChangeKind.DELETE, b"d/x"), (ChangeKind.DELETE, b"e")} <= found
    with Union([upper, lower], dialect="overlay:user", writable=False) as union:
        assert compare(shown, tree_of(union)) == []


@pytest.mark.requires("user_xattr")
def test_an_ordinary_user_changes_a_union(nobody_box):
    assert nobody_box.call(alone, LOWER, FIRST) == ([], [])


@pytest.mark.requires("user_xattr")
def test_027_attributes_of_a_nested_overlay_have_their_own_names(lower, upper):
    os.setxattr(lower / "e", b"user.overlay.overlay.opaque", b"y")
    os.setxattr(lower / "e", b"user.overlay.origin", b"?")
    with Union([upper, lower], dialect="overlay:user") as union:
        assert union.xattrs(b"e") == {b"user.k": b"v", b"user.overlay.opaque": b"y"}
        union.setxattr(b"e", b"user.overlay.more", b"1")
        union.removexattr(b"e", b"user.k")
        assert union.xattrs(b"e") == {b"user.overlay.more": b"1", b"user.overlay.opaque": b"y"}
        union.removexattr(b"e", b"user.overlay.opaque")
    kept = {name for name in os.listxattr(upper / "e") if name.startswith("user.")}
    assert kept == {"user.overlay.overlay.more"}


def test_077_holes_stay_holes_when_a_file_is_copied_up(lower, upper):
    with (lower / "big").open("wb") as file:
        file.truncate(64 << 20)
        file.seek(32 << 20)
        file.write(b"data" * 2000)
    with Union([upper, lower]) as union:
        union.chmod(b"big", 0o600)
    assert (upper / "big").stat().st_size == 64 << 20
    assert (upper / "big").stat().st_blocks <= (lower / "big").stat().st_blocks
    assert (upper / "big").read_bytes() == (lower / "big").read_bytes()


def test_a_file_that_is_cut_is_not_copied(lower, upper):
    with Union([upper, lower]) as union:
        os.close(union.open(b"d/x", os.O_WRONLY | os.O_TRUNC))
        os.close(union.open(b"fresh", os.O_RDWR | os.O_CREAT, 0o600))
        assert raised(union.open, b"fresh", os.O_RDWR | os.O_CREAT | os.O_EXCL) == "EEXIST"
        with open(union.open(b"d/x", os.O_RDONLY), "rb") as file:
            assert file.read() == b""
    assert (upper / "d" / "x").read_bytes() == b""


# -- what it refuses --------------------------------------------------------------------------------------------------


def test_nothing_is_changed_in_a_union_that_is_not_writable(lower, upper):
    before = listing(upper.parent)
    with Union([upper, lower], writable=False) as union:
        calls = [
            ("mkdir", b"n"), ("create", b"n"), ("mknod", b"n", stat.S_IFIFO), ("symlink", b"t", b"n"), ("link", b"e", b"n"),
            ("unlink", b"e"), ("rmdir", b"d"), ("rename", b"e", b"n"), ("truncate", b"e", 0), ("chmod", b"e", 0), ("chown", b"e", 1, 1),
            ("utimens", b"e"), ("setxattr", b"e", b"user.a", b"1"), ("removexattr", b"e", b"user.k"), ("copy_up", b"e"),
            ("open", b"e", os.O_RDWR), ("open", b"n", os.O_RDONLY | os.O_CREAT),
        ]  # fmt: skip
        assert {raised(getattr(union, name), *args) for name, *args in calls} == {"EROFS"}
        with open(union.open(b"d/x"), "rb") as file:
            assert file.read() == b"x" * 9
    assert compare(before, listing(upper.parent)) == []


@pytest.mark.parametrize("dialect", ["overlay", "aufs"])
def test_096_no_path_leads_out_of_a_branch(lower, upper, dialect):
    build(upper.parent / "moat", File("secret"))
    build(lower, Symlink("out", "../moat"))
    with Union([upper, lower], dialect=dialect) as union:
        for path in (b"..", b"../moat/secret", b"/etc", b"d/../../moat", b"d//x", b"d/", b".", b"e\0"):
            assert raised(union.stat, path) == "EINVAL"
            assert raised(union.mkdir, path) == "EINVAL"
        assert raised(union.stat, b"out/secret") == "ELOOP"
        assert raised(union.create, b"out/new") == "ELOOP"
        assert raised(union.unlink, b"out/secret") == "ELOOP"
        assert raised(union.open, b"out", os.O_RDONLY) == "ELOOP"
        union.chown(b"out", os.geteuid(), os.getegid())
        union.utimens(b"out", (1, 1))
    assert os.listdir(upper.parent / "moat") == ["secret"]
    assert os.stat(upper.parent / "moat").st_mtime_ns != 1


@pytest.mark.requires("user_xattr")
def test_a_redirect_that_leads_nowhere_is_refused(lower, upper):
    build(upper, Dir("z", xattrs={"user.overlay.redirect": b"../d"}))
    with Union([upper, lower], dialect="overlay:user") as union, pytest.raises(UnsafePathError):
        union.readdir(b"z")


@pytest.mark.requires("devices")
def test_overlay_makes_no_device_that_would_be_a_whiteout(lower, upper):
    with Union([upper, lower]) as union:
        assert raised(union.mknod, b"w", stat.S_IFCHR) == "EPERM"


# -- the work directory -----------------------------------------------------------------------------------------------


def test_the_work_directory_is_there_for_as_long_as_the_union(lower, upper):
    beside = upper.parent / "upper.work"
    with Union([upper, lower]) as union:
        assert beside.is_dir()
        union.unlink(b"e")
        union.chmod(b"d/x", 0o600)
        assert os.listdir(beside) == []
    assert not beside.exists()


def test_a_given_work_directory_stays(lower, upper):
    work = build(upper.parent / "work")
    with Union([upper, lower], work=work) as union:
        union.chmod(b"d/x", 0o600)
    assert os.listdir(work) == []
    assert not (upper.parent / "upper.work").exists()


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="no other file system")
def test_a_work_directory_elsewhere_is_refused(lower, upper):
    assert raised(lambda: Union([upper, lower], work="/proc")) == "EXDEV"


@pytest.mark.parametrize("dialect", ["overlay", "aufs"])
def test_a_copy_up_that_fails_leaves_nothing(lower, upper, dialect, monkeypatch):
    def full(*args: Any) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "copy_file_range", full)
    with Union([upper, lower], dialect=dialect) as union:
        before = tree_of(union)
        assert raised(union.chmod, b"d/x", 0o600) == "ENOSPC"
        assert compare(before, tree_of(union)) == []
    assert names(upper) == {b"d": "dir"}
    assert set(os.listdir(upper.parent)) == {"lower", "upper"}


@pytest.mark.parametrize("dialect", ["overlay", "aufs"])
def test_a_union_gives_back_all_descriptors(lower, upper, dialect):
    before = os.listdir("/proc/self/fd")
    with Union([upper, lower], dialect=dialect) as union:
        play(union, [*FIRST, ("open", b"d/x"), ("open", b"d/x", os.O_RDWR), ("rename", b"d", b"z"), ("rename", b"e", b"d/e")])
        tree_of(union)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_several_threads_change_a_union(lower, upper):
    def work(number: int) -> None:
        path = b"d/%d" % number
        os.close(union.create(path))
        union.chmod(b"d/x", 0o600 + number)
        union.rename(path, path + b"-moved")
        assert union.readdir(b"d")[b"%d-moved" % number] == stat.S_IFREG

    with Union([upper, lower]) as union, ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(40)))
        assert len(union.readdir(b"d")) == 42


# -- branches of the kernel's -----------------------------------------------------------------------------------------


METACOPY = Script((Chmod("d/x", 0o600), Chmod("d/sub/y", 0o600), Rename("d/sub/y", "y"), Rename("d", "z")))
AFTER = [
    ("write", b"z/x", b"!", 3), ("link", b"y", b"y2"), ("rename", b"y", b"z/y"), ("rename", b"z", b"d"), ("mkdir", b"z"),
    ("truncate", b"d/y", 1), ("rename", b"d", b"z/in"), ("chmod", b"z/in/sub", 0o700),
]  # fmt: skip


def after_metacopy(folder: Path, calls: list[Any]) -> tuple[list[str], list[str]]:
    lower, upper = build(folder / "lower", *LOWER), build(folder / "upper")
    options = "metacopy=on,redirect_dir=on"
    with overlay(folder / "mnt", [lower], upper, options) as where:
        perform(METACOPY, where)
    with Union([upper, lower], redirect_dir=True) as union:
        answers = play(union, calls)
        shown = tree_of(union)
    with overlay(folder / "mnt", [lower], upper, options) as where:
        return [a for a in answers if not a.endswith("done")], compare(shown, listing(where))


@pytest.mark.requires("overlay", "root")
@pytest.mark.parametrize("n", range(len(AFTER) + 1))
def test_it_goes_on_where_a_mount_with_metacopy_and_redirects_ended(box: Any, n: int) -> None:
    assert box.call(after_metacopy, AFTER[:n]) == ([], [])


def whited_out(folder: Path) -> list[str]:
    lower, upper = build(folder / "lower", *LOWER), build(folder / "upper")
    real, os.mknod = os.mknod, refused
    try:
        with Union([upper, lower], dialect="overlay:user") as union:
            union.unlink(b"d/x")
            union.unlink(b"e")
            shown = tree_of(union)
    finally:
        os.mknod = real
    with overlay(folder / "mnt", [upper, lower], None, "userxattr") as where:
        return compare(shown, listing(where))


def refused(*args: Any, **kwargs: Any) -> None:
    raise PermissionError(errno.EPERM, "no devices here")


@pytest.mark.requires("overlay")
def test_025_the_kernel_takes_such_files_for_whiteouts(user_box: Any) -> None:
    assert user_box.call(whited_out) == []
