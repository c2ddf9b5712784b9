"""place makes inodes as their rows say, and asks about the rest: every kind, every question, every refusal."""

from __future__ import annotations

import errno
import os
import resource
import struct
from pathlib import Path

import numpy as np
import pytest

from lamella._kernels import index, place
from lamella.columns import AT, F_DOTDOT, F_EXISTED, F_HOST, F_IMPLIED
from lamella.testing.listing import compare, listing
from lamella.testing.trees import Device, Dir, Fifo, File, Hardlink, Symlink, build
from tests.kernels.packing import open_fds
from tests.kernels.placing import AS_ROOT, OWN, SEED, Job, own_thread, placed, rows_of
from tests.reference.rows import table_of

pytestmark = pytest.mark.usefixtures("servers")
NO_ID = 0xFFFF_FFFF
SUPPORTED, REFUSED, OVERLAY, TRUSTED, CLAMPED, NAME = 1, 2, 3, 4, 5, 6  # place.pxd, Warning
MINUS = -1_500_000_000
EDITS = (
    Dir("d", mode=0o751, mtime_ns=5, xattrs={b"user.a": b"\0=\n", b"user.b": b"2" * 300}),
    File("d/f", b"content", mode=0o640, mtime_ns=1, xattrs={b"user.x": b"1"}),
    File("d/empty", mode=0o400),
    File("d/big", bytes(range(256)) * 500, mode=0 if AS_ROOT else 0o400, mtime_ns=-1),
    File("set-id", b"#!", mode=0o6755),
    File("first", b"1", mtime_ns=MINUS),
    Hardlink("d/second", "first"),
    Hardlink("third", "d/second"),
    Symlink("d/link", "../nowhere", mtime_ns=7),
    Hardlink("d/link-too", "d/link"),
    Symlink("absolute", "/etc/passwd", mtime_ns=2**33 * 10**9 + 1),
    Fifo("pipe", mode=0o622, mtime_ns=MINUS),
    Dir("d/sub", mode=0o1777),
    Dir("d/sub/set-gid", mode=0o2775),
    File(b"d/\xff \n", b"bytes"),
    File("n" * 255),
)
PRIVILEGED = (
    Dir("own", mode=0o700, uid=1000, gid=2**21 + 1, xattrs={b"trusted.d": b"d"}),
    File("own/caps", b"x", mode=0o4755, uid=7, gid=8, xattrs={b"security.capability": struct.pack("<5I", 0x2000001, 1024, 0, 0, 0)}),
    File("own/far", uid=NO_ID - 1, gid=NO_ID - 1),
    Symlink("own/link", "x", uid=5, gid=6, xattrs={b"trusted.l": b"l"}),
    Fifo("own/pipe", mode=0o4755, uid=5, gid=6, xattrs={b"trusted.p": b"p"}),
    Device("own/null", mode=0o2666, uid=5, gid=6),
    Device("own/disk", mode=0o660, major=259, minor=70_000, kind="block"),
    Device("own/zero", mode=0o600, major=0, minor=0),
)  # fmt: skip
KINDS = EDITS + (PRIVILEGED if AS_ROOT else ())
DEFAULT_ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *e) for e in ((1, 7, NO_ID), (2, 7, 1000), (4, 5, NO_ID), (16, 7, NO_ID), (32, 0, NO_ID))
)


def one(path: str | bytes, data: bytes = b"", **fields) -> dict:
    return {"path": path, "data": data, **fields}


def folder(path: str | bytes, **fields) -> dict:
    return {"path": path, "type": "5", **fields}


# -- kinds and metadata ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [place.FRESH, 0, place.SYNC | place.HOLES], ids=["fresh", "living", "sync-holes"])
def test_every_kind_is_what_its_row_says(scratch, options):
    job = placed(scratch / "made", rows_of(KINDS), OWN | options | place.ZERO_DEVICE)
    assert compare(scratch / "made", build(scratch / "wanted", *KINDS), ignore=["root"]) == []
    assert (job.specials, job.warnings) == ([], [])
    files = [e for e in KINDS if isinstance(e, File)]
    assert job.counters == (len(files), sum(len(e.content) for e in files), 0, 0, -1)


def test_a_second_time_over_the_same_tree_changes_nothing(scratch):
    rows = rows_of(KINDS)
    for _ in range(2):
        placed(scratch / "made", rows, OWN | place.ZERO_DEVICE)
    assert compare(scratch / "made", build(scratch / "wanted", *KINDS), ignore=["root"]) == []


def test_nothing_at_all(scratch):
    job = placed(scratch / "r", [])
    assert job.counters == (0, 0, 0, 0, -1)
    fd = os.open(scratch, os.O_RDONLY)
    try:
        empty = Job(fd, [])
        assert empty.call(0, 0, b"", 0) == (0, 0)
        assert empty.call(1, 1, b"anything", 1 << 40) == (1, 0)
        assert empty.finish(order=np.zeros(0, np.int64)) == 0
    finally:
        os.close(fd)


def test_an_access_time_of_its_own_else_the_modification_time(scratch):
    rows = [one("a", mtime_ns=5, atime_ns=-7_000_000_001), one("b", mtime_ns=6), folder("d", mtime_ns=8, atime_ns=9)]
    rows.append({"path": "l", "type": "2", "link_target": "x", "mtime_ns": 3, "atime_ns": 4})
    placed(scratch / "r", rows)
    times = {n: (scratch / "r" / n).lstat().st_atime_ns for n in "abdl"}
    assert times == {"a": -7_000_000_001, "b": 6, "d": 9, "l": 4}


def test_times_outside_what_engines_keep_become_0_on_request(scratch):
    times = {"before": -1, "zero": 0, "now": 10**18 + 1, "end": 9_223_372_035_999_999_999, "after": 9_223_372_036 * 10**9}
    placed(scratch / "r", [one(n, mtime_ns=t) for n, t in times.items()], OWN | place.CLAMP_TIMES)
    found = {n: (scratch / "r" / n).stat().st_mtime_ns for n in times}
    assert found == {**times, "before": 0, "after": 0}


def test_nanoseconds_that_are_none_are_0(scratch):
    placed(scratch / "r", [one("f", mtime=5, mtime_nsec=10**9), folder("d", mtime=6, mtime_nsec=2**32 - 1)])
    assert [(scratch / "r" / n).stat().st_mtime_ns for n in "fd"] == [5 * 10**9, 6 * 10**9]


def test_type_bits_in_a_mode_are_ignored(scratch):
    placed(scratch / "r", [one("f", mode=0o100644), folder("d", mode=0o120750)])
    assert {p: e.mode for p, e in listing(scratch / "r").items() if p} == {b"f": 0o644, b"d": 0o750}


@pytest.mark.requires("root")
def test_owners_through_maps(scratch):
    rows = [one("a", uid=0, gid=0), one("b", uid=5, gid=9), folder("d", uid=1, gid=10), one("host", uid=77, gid=78, flags=F_HOST)]
    job = placed(scratch / "r", rows, uids=[0, 100_000, 10], gids=[0, 200_000, 5, 5, 300_000, 10])
    owners = {p: (e.uid, e.gid) for p, e in listing(scratch / "r").items() if p}
    assert owners == {b"a": (100_000, 200_000), b"b": (100_005, 300_004), b"d": (100_001, 300_005)}
    assert job.specials == [(b"host", place.OWNER)]


@pytest.mark.requires("root")
def test_the_rest_of_the_ids_may_be_one(scratch):
    rows = [one("a", uid=3, gid=4), one("b", uid=4_000_000_000, gid=4)]
    placed(scratch / "r", rows, uids=[0, 1000, 5, -1, 42, 1], gids=[-1, 43, 1])
    assert [(e.uid, e.gid) for p, e in sorted(listing(scratch / "r").items()) if p] == [(1003, 43), (42, 43)]


def test_without_the_option_owners_stay_the_callers(scratch):
    placed(scratch / "r", [one("f", uid=1000, gid=1000), folder("d", uid=5)], 0)
    assert {(e.uid, e.gid) for e in listing(scratch / "r").values()} == {(os.geteuid(), os.getegid())}


# -- extended attributes --------------------------------------------------------------------------------------------


def xattrs_at(path: Path) -> dict[str, bytes]:
    return {n: os.getxattr(path, n, follow_symlinks=False) for n in os.listxattr(path, follow_symlinks=False)}


def test_attributes_that_are_left_out(scratch):
    overlay = {b"user.overlay.opaque": b"y", b"user.ok": b"1"}
    job = placed(scratch / "over", [one("f", xattrs=overlay), folder("d", xattrs=overlay)])
    assert job.warnings == [(b"f", OVERLAY), (b"d", OVERLAY)]
    assert xattrs_at(scratch / "over/f") == xattrs_at(scratch / "over/d") == {"user.ok": b"1"}
    job = placed(scratch / "none", [one("f", xattrs=overlay)], OWN | place.NO_XATTRS)
    assert (job.warnings, xattrs_at(scratch / "none/f")) == ([], {})
    job = placed(scratch / "dropped", [one("f", xattrs={b"trusted.x": b"1", b"user.y": b"2"})], OWN | place.NO_TRUSTED)
    assert (job.warnings, xattrs_at(scratch / "dropped/f")) == ([(b"f", TRUSTED)], {"user.y": b"2"})


def test_overlays_own_are_stored_escaped(scratch):
    rows = [one("f", xattrs={b"user.overlay.opaque": b"y", b"user.overlay.overlay.x": b"z"})]
    job = placed(scratch / "r", rows, OWN | place.ESCAPE_OVERLAY)
    assert job.warnings == []
    assert xattrs_at(scratch / "r/f") == {"user.overlay.overlay.opaque": b"y", "user.overlay.overlay.overlay.x": b"z"}


@pytest.mark.requires("root")
def test_trusted_overlay_too(scratch):
    placed(scratch / "r", [one("f", xattrs={b"trusted.overlay.redirect": b"/x"})], OWN | place.ESCAPE_OVERLAY)
    assert xattrs_at(scratch / "r/f") == {"trusted.overlay.overlay.redirect": b"/x"}


def test_names_that_no_attribute_can_have(scratch):
    bad = {b"user." + b"n" * 251: b"1", b"user.a\0b": b"2", b"": b"3", b"user.good": b"4"}
    job = placed(scratch / "r", [one("f", xattrs=bad)])
    assert job.warnings == [(b"f", NAME)] * 3
    assert xattrs_at(scratch / "r/f") == {"user.good": b"4"}


def test_what_the_file_system_does_not_keep_is_a_warning(scratch):
    job = placed(scratch / "r", [one("f", xattrs={b"nonsense.x": b"1", b"user.y": b"2"})])
    assert job.warnings == [(b"f", SUPPORTED)]
    assert xattrs_at(scratch / "r/f") == {"user.y": b"2"}


def test_user_attributes_are_refused_on_links_and_that_is_a_warning(scratch):
    job = placed(scratch / "r", [{"path": "l", "type": "2", "link_target": "x", "xattrs": {b"user.a": b"1"}}])
    assert job.warnings == [(b"l", REFUSED)]


def test_more_warnings_than_fit_are_dropped(scratch):
    rows = [one(f"{i}", xattrs={b"user.overlay.x": b"y"}) for i in range(9)]
    for room in (0, 1, 4):
        assert len(placed(scratch / f"r{room}", rows, warnings=room).warnings) == room


# -- holes ----------------------------------------------------------------------------------------------------------

PAGE = 4096


def blocks(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_regions_of_a_sparse_file_stand_where_its_map_says(scratch):
    regions = [(PAGE, 3), (3 * PAGE, PAGE), (9 * PAGE, 0)]
    data = b"abc" + b"d" * PAGE
    rows = [one("s", data, sparse=regions, size=9 * PAGE), one("hole", sparse=[], size=5 * PAGE), one("none", sparse=[(0, 0)], size=0)]
    job = placed(scratch / "r", rows)
    content = bytearray(9 * PAGE)
    content[PAGE : PAGE + 3] = b"abc"
    content[3 * PAGE : 4 * PAGE] = b"d" * PAGE
    assert (scratch / "r/s").read_bytes() == bytes(content)
    assert (scratch / "r/hole").read_bytes() == bytes(5 * PAGE)
    assert (blocks(scratch / "r/s"), blocks(scratch / "r/hole"), blocks(scratch / "r/none")) == (2 * PAGE, 0, 0)
    assert job.counters[1] == len(data)


def test_runs_of_zeros_become_holes_on_request(scratch):
    data = b"x" + bytes(3 * PAGE) + b"y" * PAGE + bytes(5) + bytes(2 * PAGE)
    row = one("f", data)
    placed(scratch / "dense", [row])
    placed(scratch / "holes", [row], OWN | place.HOLES)
    assert [(scratch / r / "f").read_bytes() for r in ("dense", "holes")] == [data, data]
    assert blocks(scratch / "dense/f") > 6 * PAGE
    assert blocks(scratch / "holes/f") == 3 * PAGE


@pytest.mark.parametrize(
    ("regions", "size"),
    [
        ([(0, 5), (-1, 1)], 10), ([(0, -1)], 10), ([(0, 11)], 10), ([(0, 6), (6, 6)], 10),
        ([(0, 2**62), (1, 2**62), (2, 2**62), (3, 2**62)], 2**63 - 1),
    ],
)  # fmt: skip
def test_a_map_that_does_not_fit_its_file_is_an_error(scratch, regions, size):
    with pytest.raises(ValueError, match="row 1"):
        placed(scratch / "r", [one("s", b"x" * 12, sparse=regions, size=size)])


def test_regions_at_the_end_of_the_world(scratch):
    far = 2**63 - 1
    with pytest.raises(OSError, match=".") as caught:
        placed(scratch / "r", [one("s", b"x" * 12, sparse=[(far - 3, 12)], size=far)])
    assert caught.value.filename == b"s"


# -- what stands there ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new", ["0", "1", "2", "6"])
@pytest.mark.parametrize("old", [File("x", b"old"), Symlink("x", "elsewhere"), Fifo("x"), Hardlink("x", "source")], ids=str)
def test_what_is_no_directory_makes_way(scratch, old, new):
    root = build(scratch / "r", File("source", b"source"), File("elsewhere", b"kept"), old)
    row = {"path": "x", "type": new, "link_target": {"1": b"source", "2": b"t"}.get(new, b"")}
    job = placed(root, [row | ({"data": b"new"} if new == "0" else {})])
    assert job.specials == []
    found = listing(root)
    assert found[b"x"].type == {"0": "file", "1": "file", "2": "symlink", "6": "fifo"}[new]
    assert (root / "source").read_bytes() == b"source"
    assert (root / "elsewhere").read_bytes() == b"kept"
    if new == "1":
        assert found[b"x"].links == (b"source", b"x")
    else:
        assert found[b"x"].links == ()


@pytest.mark.parametrize("old", [File("x", b"old"), Symlink("x", "d"), Fifo("x")], ids=str)
def test_for_a_directory_too(scratch, old):
    root = build(scratch / "r", Dir("d"), File("d/kept"), old)
    job = placed(root, [folder("x", mode=0o700), one("x/f")])
    assert job.specials == []
    assert {p: e.type for p, e in listing(root).items()} == {
        b"": "dir", b"d": "dir", b"d/kept": "file", b"x": "dir", b"x/f": "file"
    }  # fmt: skip


def test_028_a_directory_over_a_directory_takes_its_metadata_and_keeps_its_children(scratch):
    root = build(scratch / "r", Dir("d", mode=0o2700, xattrs={"user.old": b"1", "user.both": b"1"}), File("d/kept"))
    job = placed(root, [folder("d", mode=0o755, mtime_ns=5, xattrs={b"user.both": b"2", b"user.new": b"3"}), one("d/new")])
    found = listing(root)
    assert (found[b"d"].mode, found[b"d"].mtime_ns) == (0o755, 5)
    assert dict(found[b"d"].xattrs) == {b"user.both": b"2", b"user.new": b"3"}
    assert {b"d/kept", b"d/new"} <= found.keys()
    assert job.column("flags")[1] & F_EXISTED


def test_a_directory_in_the_way_is_the_callers_to_remove(scratch):
    root = build(scratch / "r", Dir("x"), File("x/f"))

    def remove(job: Job, special: int, row: int) -> bool:
        os.unlink("x/f", dir_fd=job.fd)
        os.rmdir("x", dir_fd=job.fd)
        place.reset(job.state)
        return False

    job = placed(root, [one("x", b"file")], decide=remove)
    assert job.specials == [(b"x", place.REPLACE_DIR)]
    assert (root / "x").read_bytes() == b"file"


def test_030_a_symlink_in_the_way_of_a_directory_may_be_kept(scratch):
    root = build(scratch / "r", Dir("d"), Symlink("x", "d"))
    job = placed(root, [folder("x")], OWN | place.KEEP_DIRLINKS)
    assert (job.specials, job.left_out) == ([(b"x", place.DIRLINK)], [b"x"])
    assert os.readlink(root / "x") == "d"


@pytest.mark.parametrize("kind", ["0", "2", "5", "6"])
def test_109_a_default_acl_and_a_set_group_id_bit_do_not_leak(scratch, kind):
    group, acl = 7 if AS_ROOT else None, {b"system.posix_acl_default": DEFAULT_ACL}
    root = build(scratch / "r", Dir("d", mode=0o2775, gid=group, xattrs=acl))
    row = {"path": "d/x", "type": kind, "mode": 0o622, "link_target": b"y" if kind == "2" else b""}
    job = placed(root, [folder("d", mode=0o2775, gid=group or 0, xattrs=acl), row])
    found = listing(root)
    assert job.warnings == []
    assert dict(found[b"d"].xattrs) == acl
    assert (found[b"d/x"].mode, found[b"d/x"].gid) == (0o777 if kind == "2" else 0o622, os.getegid())
    assert found[b"d/x"].xattrs == ()


def test_a_link_onto_itself_or_onto_its_inode_changes_nothing(scratch):
    rows = [one("a", b"1"), {"path": "b", "type": "1", "link_target": "a"}, {"path": "a", "type": "1", "link_target": "a"}]
    rows += [{"path": "a", "type": "1", "link_target": "b"}]
    job = placed(scratch / "r", rows)
    assert job.specials == []
    assert listing(scratch / "r")[b"a"].links == (b"a", b"b")
    assert job.counters[2] == 2


def test_links_between_directories(scratch):
    rows = [folder("d"), folder("d/e"), one("top", b"t"), one("d/e/f", b"f"), folder("g")]
    pairs = {"g/1": "top", "g/2": "d/e/f", "3": "d/e/f", "d/e/4": "d/e/f", "d/5": "/top", "d/e/6": "d/5"}
    job = placed(scratch / "r", [*rows, *({"path": p, "type": "1", "link_target": t} for p, t in pairs.items())])
    assert job.specials == []
    found = listing(scratch / "r")
    assert set(found[b"top"].links) == {b"top", b"g/1", b"d/5", b"d/e/6"}
    assert set(found[b"d/e/f"].links) == {b"d/e/f", b"g/2", b"3", b"d/e/4"}


# -- questions ------------------------------------------------------------------------------------------------------

LINK = {"type": "1", "link_target": "missing"}
QUESTIONS = {
    "whiteout": (place.WHITEOUT, one(".wh.x"), 0),
    "whiteout below": (place.WHITEOUT, one("d/.wh..wh..opq"), 0),
    "whiteout of nothing": (place.WHITEOUT, one("d/.wh."), 0),
    "dotdot flag": (place.DOTDOT, one("d/f", flags=F_DOTDOT), 0),
    "dotdot name": (place.DOTDOT, one(".."), 0),
    "dotdot below": (place.DOTDOT, folder("d/.."), 0),
    "root": (place.ROOT, folder(""), 0),
    "root that is none": (place.ROOT, one(""), 0),
    "parent missing": (place.PARENT, one("no/f"), 0),
    "parent without entry": (place.PARENT, one("old/f"), 0),
    "parent a file": (place.PARENT, one("file/f"), 0),
    "parent a symlink": (place.PARENT, one("link/f"), 0),
    "link missing": (place.LINK, {"path": "l", **LINK}, 0),
    "link in missing": (place.LINK, {"path": "l", "type": "1", "link_target": "no/where"}, 0),
    "link through symlink": (place.LINK, {"path": "l", "type": "1", "link_target": "link/f"}, 0),
    "link to nothing": (place.LINK, {"path": "l", "type": "1", "link_target": ""}, 0),
    "link to a directory": (place.LINK, {"path": "l", "type": "1", "link_target": "d"}, 0),
    "link to the directory it lies in": (place.LINK, {"path": "d/l", "type": "1", "link_target": "d"}, 0),
    "link asked": (place.LINK, {"path": "l", "type": "1", "link_target": "file"}, place.ASK_LINKS),
    "zero device": (place.DEVICE, {"path": "c", "type": "3"}, 0),
    "duplicate": (place.DUPLICATE, one("file"), place.ASK_DUPLICATES),
}  # fmt: skip


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_row_that_needs_a_decision_is_asked_about_and_nothing_is_made(scratch, name):
    special, row, options = QUESTIONS[name]
    root = build(scratch / "r", Dir("old"), Dir("elsewhere"), File("elsewhere/f"))
    before = [folder("d"), one("file", b"1"), {"path": "link", "type": "2", "link_target": "elsewhere"}]
    job = placed(root, [*before, row, one("after", b"2")], OWN | options)
    assert job.specials == [(os.fsencode(row["path"]), special)]
    assert {p for p in listing(root) if p} == {b"old", b"elsewhere", b"elsewhere/f", b"d", b"file", b"link", b"after"}


def test_a_directory_that_was_implied_is_no_duplicate(scratch):
    rows = [folder("d", flags=F_IMPLIED), folder("h", flags=F_HOST | F_IMPLIED), folder("d"), folder("h")]
    fd = os.open(scratch, os.O_RDONLY)
    try:
        job = Job(fd, rows, OWN | place.ASK_DUPLICATES)
        index.insert(job.slots, SEED, job.columns, 1, 3)
        own_thread(job.run)
    finally:
        os.close(fd)
    assert job.specials == []
    assert job.counters[2] == 0  # nor is it one in the count


def test_of_two_rows_for_a_path_the_last_wins(scratch):
    rows = [one("x", b"1"), folder("d"), one("x", b"2"), {"path": "d/l", "type": "2", "link_target": "1"}, one("d/l", b"3")]
    job = placed(scratch / "r", rows)
    assert job.counters[2] == 2
    assert (scratch / "r/x").read_bytes() == b"2"
    assert (scratch / "r/d/l").read_bytes() == b"3"


def test_rows_that_are_implied_are_not_made(scratch):
    job = placed(scratch / "r", [folder("d", flags=F_IMPLIED), one("f", flags=F_IMPLIED), one("g", b"1")])
    assert {p for p in listing(scratch / "r") if p} == {b"g"}
    assert job.counters[0] == 1


def test_a_directory_that_the_caller_gives_serves_the_rows_below_it(scratch):
    root = build(scratch / "r", Dir("real"), Symlink("way", "real"))

    def give(job: Job, special: int, row: int) -> bool:
        place.push(job.state, b"way", os.open("real", os.O_RDONLY, dir_fd=job.fd))
        return False

    before = open_fds()
    job = placed(root, [one("way/a", b"1"), one("way/b", b"2"), one("c"), one("way/d", b"3")], decide=give)
    assert job.specials == [(b"way/a", place.PARENT), (b"way/d", place.PARENT)]  # c is elsewhere, and it was forgotten
    assert sorted(os.listdir(root / "real")) == ["a", "b", "d"]
    assert open_fds() == before


def test_directories_are_writable_until_the_end_on_request(scratch):
    seen = []

    def look(job: Job, special: int, row: int) -> bool:
        seen.append(os.stat("d", dir_fd=job.fd).st_mode & 0o7777)
        return True

    for options in (0, place.WRITABLE_DIRS):
        root = scratch / f"r{options}"
        placed(root, [folder("d", mode=0o500), one(".wh.x")], OWN | options, decide=look)
        assert (root / "d").stat().st_mode & 0o7777 == 0o500
    assert seen == [0o500, 0o700]


# -- levels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [3, 63, 64, 65, 200])
def test_deeper_than_directories_are_kept_open(scratch, depth):
    rows = []
    for n in range(1, depth + 1):
        rows += [folder("d/" * (n - 1) + "d", mtime_ns=n), one("d/" * n + "f", b"%d" % n)]
    rows += [one("d/" * n + "g") for n in range(depth, 0, -1)]
    before = open_fds()
    job = placed(scratch / "r", rows)
    assert job.specials == []
    assert open_fds() == before
    found = listing(scratch / "r")
    for n in (1, depth // 2, depth):
        assert found[b"d/" * n + b"f"].size == len(str(n))
        assert found[b"d/" * n + b"g"].size == 0
        assert found[b"d/" * (n - 1) + b"d"].mtime_ns == n


def test_names_that_begin_alike_are_other_directories(scratch):
    rows = [folder("a"), folder("a/b"), one("a/b/1"), folder("a-b"), one("a-b/2"), folder("a/bc"), one("a/bc/3"), one("a/4")]
    assert placed(scratch / "r", rows).specials == []
    assert {p for p in listing(scratch / "r") if p} == {os.fsencode(r["path"]) for r in rows}


def test_two_loops_over_directories_open_each_once_a_loop(scratch):
    rows = [folder(f"{i}") for i in range(30)] + [one(f"{i % 30}/{i}") for i in range(300)]
    assert placed(scratch / "r", rows).counters[0] == 300


# -- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "code"),
    [
        (one("n" * 256), errno.ENAMETOOLONG),
        (folder("d/" + "n" * 300), errno.ENAMETOOLONG),
        (one("d/" * 2049 + "f"), errno.ENAMETOOLONG),
        ({"path": "l", "type": "2", "link_target": "t" * 4096}, errno.ENAMETOOLONG),
        ({"path": "l", "type": "2", "link_target": ""}, errno.ENOENT),
        (one("d/"), errno.ENOENT),
        (one("f", xattrs={b"user.x": b"v" * 70_000}), errno.E2BIG),
    ],
)  # fmt: skip
def test_an_error_names_its_path(scratch, row, code):
    before = open_fds()
    with pytest.raises(OSError, match=".") as caught:
        placed(scratch / "r", [folder("d"), row])
    assert (caught.value.errno, caught.value.filename) == (code, os.fsencode(row["path"]))
    assert open_fds() == before


PAGES_8 = b"x" * 8 * 4096
TOO_LONG = {
    "plain": (one("f", PAGES_8), 0),
    "data before a hole": (one("f", PAGES_8 + bytes(4096) + b"x"), place.HOLES),
    "data after a hole": (one("f", b"x" + bytes(8 * 4096) + b"x"), place.HOLES),
    "a hole at the end": (one("f", b"x" + bytes(8 * 4096)), place.HOLES),
    "a region of a map": (one("f", PAGES_8, sparse=[(4096, len(PAGES_8))], size=2**20), 0),
    "the end of a map": (one("f", b"x", sparse=[(0, 1)], size=2**20), 0),
}


@pytest.mark.parametrize("cuts", [(), range(0, len(PAGES_8), 1000)], ids=["whole", "cut"])
@pytest.mark.parametrize("name", TOO_LONG)
def test_a_file_that_cannot_be_written_to_its_end_is_an_error(scratch, name, cuts):
    """The limit of a file's size stands in for a full disk: what does not fit is never left out in silence."""
    row, option = TOO_LONG[name]
    before, limits = open_fds(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * 4096, limits[1]))
    try:
        with pytest.raises(OSError, match=".") as caught:
            placed(scratch / "r", [one("fits", b"1" * 4096), row], OWN | option, cuts=cuts)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, b"f")
    assert open_fds() == before
    assert (scratch / "r" / "fits").read_bytes() == b"1" * 4096


def test_files_of_a_batch_that_fail_are_gone_and_the_first_is_named(scratch, servers):
    """Files that other threads write fail like the rest: none is left half-made, all others are whole."""
    bad = {7, 8, 40, 150, 399}
    rows = [folder("d"), *(one(f"d/{i:03}", b"x" * i, xattrs={b"user.x": b"v" * 70_000} if i in bad else {}) for i in range(400))]
    before = open_fds()
    with pytest.raises(OSError, match=".") as caught:
        placed(scratch / "r", rows)
    assert (caught.value.errno, caught.value.filename) == (errno.E2BIG, b"d/007")
    assert open_fds() == before
    left = {int(path[2:]): found for path, found in listing(scratch / "r").items() if path not in (b"", b"d")}
    if servers:
        assert bad.isdisjoint(left)
        assert set(range(7)) | set(range(9, 40)) <= set(left)  # of the same batch
        left.pop(max(left))  # in progress: its owner removes it
        assert all(found.size == i for i, found in left.items())
    else:
        assert set(left) == set(range(8))


def test_a_batch_takes_no_descriptors_that_are_not_there(box):
    """With few descriptors left a batch ends early; the layer is placed all the same."""
    assert box.call(place_many, servers=2) == 400


def place_many(root: Path, servers: int) -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    rows = [folder("d"), *(one(f"d/{i:03}", b"x" * 3000) for i in range(400))]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(int(fd) for fd in os.listdir("/proc/self/fd")) + 30, hard))
    try:
        return placed(root / "r", rows, servers=servers).counters[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_file_in_progress_is_named_and_its_descriptor_given_back(scratch):
    fd = os.open(scratch, os.O_RDONLY)
    before = open_fds()
    try:
        job = Job(fd, [one("a", b"1"), one("b", b"22222"), one("c", b"3")])
        job.feed(0, 10)
        assert (job.at, job.counters) == (3, (1, 1 + 3, 0, 0, 2))
        assert (scratch / "b").read_bytes() == b"222"
        assert open_fds() == before + 2  # the file and the root's level
        place.reset(job.state)
        assert (open_fds(), job.counters[4]) == (before, -1)
        place.reset(job.state)  # again is nothing
    finally:
        os.close(fd)


def test_bytes_that_went_by_are_an_error(scratch):
    fd = os.open(scratch, os.O_RDONLY)
    try:
        job = Job(fd, [one("a", b"12345")])
        with pytest.raises(ValueError, match="row 1"):
            job.call(1, 2, job.stream[4:], 4)
        place.reset(job.state)
    finally:
        os.close(fd)


def test_directories_that_are_gone_stop_the_end(scratch):
    """finish() says where it stopped, and the caller leaves that row out: it follows no link and makes nothing."""
    root = build(scratch / "r", Dir("real"))
    fd = os.open(root, os.O_RDONLY)
    try:
        job = Job(fd, [folder("a", mtime_ns=1), *(folder(n, mode=0o700, mtime_ns=2) for n in "bcd"), folder("e", mtime_ns=3)])
        job.feed(0, len(job.stream))
        place.reset(job.state)
        assert [job.table.path(i) for i in job.order] == [b"e", b"d", b"c", b"b", b"a", b""]
        for name in "bcd":
            os.rmdir(root / name)
        os.symlink("real", root / "b")
        (root / "c").write_bytes(b"")
        assert [job.finish(begin) for begin in (0, 1, 2, 3, 4, 6)] == [1, 1, 2, 3, 6, 6]
        assert [(root / n).stat().st_mtime_ns for n in ("a", "e")] == [1, 3]
        found = listing(root)
        assert (found[b"real"].mode, found[b"c"].mode) == (0o755, 0o644)
        assert found[b"real"].mtime_ns != 2
    finally:
        os.close(fd)


def test_an_implied_directory_gets_its_time_alone(scratch):
    root = build(scratch / "r", Dir("d", mode=0o711, xattrs={"user.x": b"1"}))
    placed(root, [folder("d", mode=0o755, uid=5, mtime_ns=9, flags=F_IMPLIED)])
    found = listing(root)[b"d"]
    assert (found.mode, found.uid, found.mtime_ns, found.xattrs) == (0o711, os.geteuid(), 9, ((b"user.x", b"1"),))


def test_wrong_buffers_are_refused(scratch):
    fd = os.open(scratch, os.O_RDONLY)
    job = Job(fd, [one("f", b"1")])
    s, c, stream, slots, found = job.state, job.columns, job.stream, job.slots, job.found
    good = (s, c, 1, 2, stream, 0, slots, SEED, None, None, found)
    readonly = tuple(None if a is None else a.view() for a in c)
    for a in readonly:
        if a is not None:
            a.flags.writeable = False
    bad: list[tuple[int, object]] = [
        (0, s[:-1]), (0, bytearray(0)), (1, c[:-1]), (1, ()), (1, (*c[:3], None, *c[4:])), (1, (c[0].astype("u2"), *c[1:])),
        (1, readonly), (1, tuple(None if i == AT["data_off"] else a for i, a in enumerate(c))), (2, -1), (2, 3), (3, 3), (3, 0),
        (6, slots[:3]), (6, slots[:1]), (6, slots[:0]), (6, slots.astype("u8")), (10, found.astype("u4")),
    ]  # fmt: skip
    try:
        for at, value in bad:
            with pytest.raises((ValueError, TypeError, BufferError)):
                place.place(*good[:at], value, *good[at + 1 :])
        for at in (0, 1, 4, 6, 10):
            with pytest.raises(TypeError):
                place.place(*good[:at], None, *good[at + 1 :])
        for order, begin in (([2], 0), ([-1], 0), ([0, 2**40], 0), ([0], -1)):
            with pytest.raises((ValueError, IndexError)):
                job.finish(begin, order=np.array(order, np.int64))
        with pytest.raises(ValueError, match="."):
            place.open_state(bytearray(place.STATE_NBYTES - 1), fd, 0)
        with pytest.raises(ValueError, match="."):
            place.push(s, b"p" * 4096, fd)
        with pytest.raises(ValueError, match="."):
            place.counters(np.full(place.STATE_NBYTES, 255, np.uint8))
        assert os.listdir(scratch) == []
        assert place.place(*good) == (2, 0)
    finally:
        place.reset(s)
        os.close(fd)


def test_a_full_index_is_an_error_not_a_hang(scratch):
    fd = os.open(scratch, os.O_RDONLY)
    job = Job(fd, [one(f"{i}") for i in range(4)])
    job.slots = np.zeros(2, np.uint32)
    index.insert(job.slots, SEED, job.columns, 0, 1)
    try:
        with pytest.raises(ValueError, match="."):
            job.feed(0, len(job.stream))
    finally:
        place.reset(job.state)
        os.close(fd)


def test_rows_of_a_tree_have_no_payload(scratch):
    table = table_of([folder("")], origin="tree", order="path")
    state = np.zeros(place.STATE_NBYTES, np.uint8)
    with pytest.raises(ValueError, match="."):
        place.place(state, table.columns, 0, 1, b"", 0, np.zeros(4, np.uint32), SEED, None, None, np.zeros(0, np.int64))
