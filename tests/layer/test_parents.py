"""What an apply to a branch sees of the directories below it, and what it takes from there."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

import lamella
from lamella.errors import ConflictError
from lamella.layer.parents import Parents
from lamella.testing.listing import Found, listing
from lamella.testing.tars import file, hardlink, layer_tar, whiteout
from lamella.testing.trees import Device, Dir, Fifo, File, Hardlink, Socket, Symlink, build

AS_ROOT = os.geteuid() == 0
NO_ID = 0xFFFF_FFFF
ACL = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in ((1, 7, NO_ID), (4, 5, NO_ID), (32, 1, NO_ID)))
OVERLAY_OWN = {"user.overlay.opaque": b"x", "user.overlay.origin": b"o"}


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def no_leak() -> Iterator[None]:
    before = open_fds()
    yield
    assert open_fds() == before


def where(parents: Parents, path: bytes) -> tuple[int, bytes] | None:
    """Tell which parent, by its number, has what is found, and by which path."""
    found = parents.lookup(path)
    return None if found is None else (parents.roots.index(found.root), found.path)


@pytest.mark.usefixtures("no_leak")
def test_the_nearest_that_has_it_says_what_it_is(scratch):
    near = build(scratch / "near", File("both", b"near"), Dir("d"), File("d/near"))
    far = build(scratch / "far", File("both", b"far"), Dir("d"), File("d/far"), Symlink("l", "d"), File("only"))
    with Parents([near, far]) as parents:
        assert where(parents, b"both") == (0, b"both")
        assert where(parents, b"d/far") == (1, b"d/far")
        assert where(parents, b"d/near") == (0, b"d/near")
        assert where(parents, b"d") == (0, b"d")
        assert where(parents, b"") == (0, b"")
        assert where(parents, b"no") is where(parents, b"no/such") is where(parents, b"d/no") is None
        assert parents.top_names() == [b"both", b"d", b"l", b"only"]


@pytest.mark.usefixtures("no_leak")
def test_no_parents_at_all():
    with Parents([]) as parents:
        assert parents.lookup(b"") is None
        assert parents.lookup(b"a/b") is None
        assert parents.top_names() == []


HIDING = {
    "AUFS whiteout": (File(".wh.x"),),
    "file": (File("x"),),
    "symlink": (Symlink("x", "d"),),
    "opaque root": (File(".wh..wh..opq"),),
}


@pytest.mark.usefixtures("no_leak")
@pytest.mark.parametrize("name", HIDING)
def test_what_a_nearer_parent_hides_is_hidden(scratch, name):
    near, far = build(scratch / "near", *HIDING[name]), build(scratch / "far", Dir("x"), File("x/f"), File("kept"))
    with Parents([near, far]) as parents:
        assert where(parents, b"x/f") is None
        assert where(parents, b"x") == ((0, b"x") if name in {"file", "symlink"} else None)
        assert where(parents, b"kept") == (None if name == "opaque root" else (1, b"kept"))


@pytest.mark.requires("devices")
@pytest.mark.usefixtures("no_leak")
def test_a_0_0_device_hides_and_another_one_is_one(scratch):
    near = build(scratch / "near", Device("x", 0, 0), Device("y", 1, 3), Dir("d"), Device("d/z", 0, 0))
    far = build(scratch / "far", Dir("x"), File("x/f"), File("y"), Dir("d"), Dir("d/z"), File("d/z/f"), File("d/kept"))
    with Parents([near, far]) as parents:
        assert [where(parents, p) for p in (b"x", b"x/f", b"d/z", b"d/z/f")] == [None] * 4
        assert where(parents, b"y") == (0, b"y")
        assert where(parents, b"d/kept") == (1, b"d/kept")
        assert parents.top_names() == [b"d", b"y"]


OPAQUE = ["user.overlay.opaque"] + (["trusted.overlay.opaque"] if AS_ROOT else [])


@pytest.mark.requires("user_xattr")
@pytest.mark.usefixtures("no_leak")
@pytest.mark.parametrize("attribute", OPAQUE)
def test_only_y_makes_a_directory_opaque(scratch, attribute):
    near = build(scratch / "near", Dir("y", xattrs={attribute: b"y"}), Dir("y/sub"), Dir("x", xattrs={attribute: b"x"}), File("y/own"))
    far = build(scratch / "far", Dir("y"), File("y/f"), Dir("y/sub"), File("y/sub/f"), Dir("x"), File("x/f"))
    with Parents([near, far]) as parents:
        assert where(parents, b"y/f") is None
        assert where(parents, b"y/sub/f") is None  # nor deeper: y's lower directory is hidden whole
        assert where(parents, b"y/own") == (0, b"y/own")
        assert where(parents, b"x/f") == (1, b"x/f")


@pytest.mark.usefixtures("no_leak")
def test_096_a_symlink_of_a_parent_is_seen_and_never_followed(scratch):
    build(scratch / "outside", File("f"))
    near = build(scratch / "near", Symlink("out", "../outside"), Symlink("d", "e"), Dir("e"), File("e/f"))
    with Parents([near]) as parents:
        assert where(parents, b"out/f") is None
        assert where(parents, b"d/f") is None
        assert parents.peek(b"out")[1] == b"../outside"
        assert parents.lookup(b"d").readlink() == b"e"


@pytest.mark.requires("user_xattr")
@pytest.mark.usefixtures("no_leak")
def test_what_is_found_is_read_without_overlays_own(scratch):
    near = build(scratch / "near", Dir("d", xattrs={**OVERLAY_OWN, "user.d": b"1"}), File("d/f", b"text", xattrs={"user.f": b"2"}))
    here = os.getcwd()
    try:
        with Parents([near]) as parents:
            assert parents.lookup(b"d").xattrs() == {b"user.d": b"1"}
            assert parents.lookup(b"").xattrs() == {}
            found = parents.lookup(b"d/f")
            assert found.xattrs() == {b"user.f": b"2"}
            with os.fdopen(found.open(os.O_RDONLY), "rb") as opened:
                assert opened.read() == b"text"
    finally:
        os.chdir(here)


@pytest.mark.usefixtures("no_leak")
def test_a_parent_that_is_no_directory_is_an_error(scratch):
    near = build(scratch / "near", File("f"))
    for bad in (scratch / "no", near / "f"):
        with pytest.raises(OSError, match="."):
            Parents([near, bad])
        with pytest.raises(OSError, match="."):
            lamella.apply(layer_tar([]), scratch / "r", dialect="aufs", parents=[near, bad])
    assert sorted(os.listdir(scratch)) == ["near"]


LONG = "n" * 255


@pytest.mark.usefixtures("no_leak")
def test_names_too_long_for_a_whiteout_are_looked_up_too(scratch):
    near = build(scratch / "near", Dir(LONG), File(f"{LONG}/f"))
    with Parents([near]) as parents:
        assert where(parents, LONG.encode() + b"/f") == (0, LONG.encode() + b"/f")
    assert f"{LONG}/g".encode() in branch(scratch / "r", [file(f"{LONG}/g")], near)


# -- through apply --------------------------------------------------------------------------------------------------


def branch(where: Path, members: list, *parents: Path, dialect: str = "overlay:user") -> dict[bytes, Found]:
    lamella.apply(layer_tar(members), where, dialect=dialect, parents=parents, rootless=not AS_ROOT)
    return listing(where)


@pytest.mark.parametrize("dialect", ["overlay:user", "aufs"])
def test_032_an_implied_parent_is_the_visible_one(scratch, dialect):
    """Not one that a nearer parent hides: what is hidden has nothing to say about a directory made anew."""
    near = build(scratch / "near", File(".wh.d"), Dir("e", mode=0o711))
    far = build(scratch / "far", Dir("d", mode=0o700), Dir("e", mode=0o700), Dir("e/sub", mode=0o1777))
    made = branch(scratch / "r", [file("d/f"), file("e/sub/f")], near, far, dialect=dialect)
    assert {p: made[p].mode for p in (b"d", b"e", b"e/sub")} == {b"d": 0o755, b"e": 0o711, b"e/sub": 0o1777}


@pytest.mark.requires("user_xattr", "root")
def test_032_with_all_it_has(scratch):
    near = build(scratch / "near", Dir("d", mode=0o2750, uid=5, gid=6, mtime_ns=77, xattrs={
        "user.a": b"1", "trusted.t": b"t", "system.posix_acl_default": ACL, **OVERLAY_OWN,
    }))  # fmt: skip
    made = branch(scratch / "r", [file("d/f", mode=0o644)], near)
    row = made[b"d"]
    assert (row.mode, row.uid, row.gid, row.mtime_ns) == (0o2750, 5, 6, 77)
    assert dict(row.xattrs) == {b"user.a": b"1", b"trusted.t": b"t", b"system.posix_acl_default": ACL}
    assert (made[b"d/f"].mode, made[b"d/f"].gid, made[b"d/f"].xattrs) == (0o644, 0, ())


KINDS = {
    "file": File("x", b"content", mode=0o4711, mtime_ns=5),
    "empty": File("x", mode=0o400),
    "big": File("x", bytes(range(256)) * 20_000),
    "symlink": Symlink("x", "any/where", mtime_ns=6),
    "fifo": Fifo("x", mode=0o622, mtime_ns=7),
    "socket": Socket("x"),
} | ({"device": Device("x", 1, 5, mode=0o2666, uid=1, gid=2), "owned": File("x", b"1", uid=3, gid=4, mode=0o6755)} if AS_ROOT else {})


@pytest.mark.parametrize("kind", KINDS)
def test_043_every_kind_is_copied_up_whole(scratch, kind):
    near = build(scratch / "near", Dir("d", mode=0o711), KINDS[kind])
    os.rename(near / "x", near / "d" / "x")
    before = listing(near)[b"d/x"]
    made = branch(scratch / "r", [hardlink("new", "d/x")], near)
    assert made[b"new"] == made[b"d/x"] == before._replace(links=(b"d/x", b"new"))
    assert made[b"d"].mode == 0o711
    assert listing(near)[b"d/x"] == before


def test_043_two_links_are_copied_up_once(scratch):
    near = build(scratch / "near", File("x", b"1"), Hardlink("y", "x"))
    made = branch(scratch / "r", [hardlink("a", "x"), hardlink("b", "x"), hardlink("c", "a")], near)
    assert made[b"x"].links == (b"a", b"b", b"c", b"x")
    assert b"y" not in made


@pytest.mark.parametrize("target", ["gone", "d/f", "no"])
def test_043_what_a_nearer_parent_hides_is_no_target(scratch, target):
    near = build(scratch / "near", File(".wh.gone"), File(".wh.d"))
    far = build(scratch / "far", File("gone", b"1"), Dir("d"), File("d/f"))
    with pytest.raises(ConflictError):
        branch(scratch / "r", [hardlink("x", target)], near, far)
    assert sorted(os.listdir(scratch)) == ["far", "near"]


def test_parents_are_only_read(scratch):
    near = build(scratch / "near", Dir("d"), File("d/f", b"1"), Symlink("l", "d"))
    before = listing(near)
    branch(scratch / "r", [file("d/g"), file("l/h"), whiteout("d/f"), hardlink("k", "d/g")], near)
    assert listing(near) == before
