"""Times, owners and modes: items 54 to 62 and 69 to 73."""

from __future__ import annotations

import os

import pytest

import lamella
from lamella.errors import LamellaError
from lamella.model import ChangeKind, IdMap, Why
from lamella.testing.listing import compare, listing
from lamella.testing.tars import Member, directory, fifo, file, hardlink, layer_tar, opaque, symlink, whiteout
from lamella.testing.trees import MTIME_NS, Chmod, Chown, Dir, Fifo, File, Hardlink, Remove, Symlink, Utime, Write
from tests.contract.workbench import AS_ROOT, apply, changed, diff, diffed, entries, found, redone, shape, tree

SECOND = 1_000_000_000
LOWER = (
    Dir("d", mtime_ns=11),
    File("d/f", b"f"),
    Dir("d/e", mtime_ns=12),
    File("d/e/g", b"g"),
    Dir("old"),
    File("old/x"),
)
QUIET = (*LOWER, Utime("d", 11), Utime("d/e", 12), Utime("", 13))


def test_054_directory_times_are_set_after_their_children(scratch):
    root = tree(scratch / "r")
    apply(root, directory("a", mtime_ns=1), directory("a/b", mtime_ns=2), file("a/b/c"), hardlink("a/d", "a/b/c"))
    assert [found(root, p).mtime_ns for p in ("a", "a/b")] == [1, 2]


@pytest.mark.parametrize(
    "member",
    [
        file("d/new"), file("d/f", b"again"), whiteout("d/f"), whiteout("d/e"), opaque("d"), hardlink("d/h", "old/x"),
        symlink("d/s", "f"), fifo("d/p"), directory("d/e", mode=0o700), symlink("d/e", "gone"), directory("d/f"),
    ],
    ids=lambda m: f"{m.type}-{os.fsdecode(m.path)}",
)  # fmt: skip
def test_054_a_parent_without_an_entry_keeps_its_time(scratch, member):
    root = tree(scratch / "r", *QUIET)
    apply(root, member)
    assert [found(root, p).mtime_ns for p in ("", "d")] == [13, 11]


def test_054_the_root_too(scratch):
    root = tree(scratch / "r", *QUIET)
    apply(root, file("new"), whiteout("old"))
    assert found(root, "").mtime_ns == 13


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("link", ["..", "/", "../d/..", "/d/up"])
def test_054_a_folder_reached_by_a_link_keeps_its_time_too(scratch, link, first):
    root = tree(scratch / "r", *LOWER, Symlink("ln", link), Symlink("d/up", ".."), File("gone"), *QUIET[-3:])
    members = [whiteout("gone"), directory("ln/new/sub", mtime_ns=3)]
    apply(root, members[first], members[1 - first])
    assert [found(root, p).mtime_ns for p in ("", "d", "new", "new/sub")] == [13, 11, 0, 3]


def test_055_zero_nanoseconds_and_equal_size_ask_for_the_contents(scratch):
    edits = (File("same", b"1234"), File("other", b"1234"))
    lower = tree(scratch / "l", *edits)
    upper = tree(scratch / "u", *edits, Write("other", b"5678", mtime_ns=None))
    assert {p: (c.kind, c.why) for p, c in changed(lower, upper).items()} == {b"other": (ChangeKind.MODIFY, Why.CONTENT)}
    assert changed(lower, upper, content="never") == {}


def test_055_equal_nanoseconds_decide(scratch):
    edits = (File("f", b"1234", mtime_ns=5 * SECOND + 1),)
    lower = tree(scratch / "l", *edits)
    upper = tree(scratch / "u", *edits, Write("f", b"5678", mtime_ns=None))
    assert changed(lower, upper) == {}
    assert changed(lower, upper, content="always")[b"f"].why == Why.CONTENT


@pytest.mark.parametrize(("one", "two"), [(5, 6), (0, SECOND), (1, SECOND + 1)])
def test_055_different_times_are_a_change(scratch, one, two):
    lower = tree(scratch / "l", File("f", b"1234", mtime_ns=MTIME_NS + one))
    upper = tree(scratch / "u", File("f", b"1234", mtime_ns=MTIME_NS + two))
    assert changed(lower, upper)[b"f"].why & Why.MTIME
    assert compare(redone(scratch, (), diff(None, upper)[1]), upper) == []


def test_056_an_edit_within_the_second_of_the_layer_is_found(scratch):
    # the lower was unpacked from a tar of whole seconds and edited at once, in a file of the same size
    lower = tree(scratch / "l")
    upper = tree(scratch / "u")
    now = int((scratch / "u").stat().st_ctime) * SECOND
    for root in (lower, upper):
        apply(root, file("etc/passwd", b"root:x:0", mtime_ns=now), directory("etc", mtime_ns=now))
    with (upper / "etc/passwd").open("r+b") as f:
        f.write(b"toor:y:1")
    assert set(changed(lower, upper)) == {b"etc/passwd"}
    os.utime(upper / "etc/passwd", ns=(now, now))
    assert set(changed(lower, upper)) == {b"etc/passwd"}


def test_057_ctime_atime_and_blocks_are_not_compared(scratch):
    edits = (Dir("d"), File("d/f", bytes(1 << 16)), Symlink("s", "d"))
    lower, upper = tree(scratch / "l", *edits), tree(scratch / "u", *edits)
    os.truncate(upper / "d/f", 0)
    os.truncate(upper / "d/f", 1 << 16)
    tree(upper, Chmod("d", 0o700), Chmod("d", 0o755))
    for path in ("d", "d/f", "s"):
        os.utime(upper / path, ns=(1, MTIME_NS), follow_symlinks=False)
    assert (lower / "d/f").stat().st_blocks != (upper / "d/f").stat().st_blocks
    assert changed(lower, upper, content="always", dir_mtime=True) == {}


def test_058_a_directorys_size_and_time_are_no_change(scratch):
    edits = (Dir("d"), File("d/f", b"1"))
    lower = tree(scratch / "l", *edits)
    upper = tree(scratch / "u", *edits)
    for i in range(200):
        (upper / "d" / ("long name " * 20 + str(i))).touch()
    tree(upper, *(Remove(f"d/{'long name ' * 20}{i}") for i in range(200)), Utime("d", 5), dir_mtime_ns=6)
    assert changed(lower, upper) == {}
    assert diffed(lower, upper) == {}


def test_058_a_directorys_time_is_one_on_request(scratch):
    edits = (Dir("d"), Dir("e"), File("d/f", b"1"))
    lower, upper = tree(scratch / "l", *edits), tree(scratch / "u", *edits, Utime("d", 5))
    assert {p: c.why for p, c in changed(lower, upper, dir_mtime=True).items()} == {b"d": Why.MTIME}
    assert list(diffed(lower, upper, dir_mtime=True)) == ["d"]


FAR = [0, -1, -SECOND, -5 * SECOND - 1, 2**31 * SECOND, 2**33 * SECOND + 5, 12_000_000_000 * SECOND + 999_999_999]


def test_059_negative_and_far_times_are_kept(scratch):
    root = tree(scratch / "r")
    result = apply(root, *(file(f"f{i}", mtime_ns=time) for i, time in enumerate(FAR)), directory("d", mtime_ns=FAR[-1]))
    now = listing(root)
    assert [now[b"f%d" % i].mtime_ns for i in range(len(FAR))] == FAR
    assert now[b"d"].mtime_ns == FAR[-1]
    assert not result.warnings


@pytest.mark.requires("loop", "mkfs.ext4")
@pytest.mark.parametrize("time", [-(2**33) * SECOND, 2**36 * SECOND])
def test_059_what_the_file_system_cannot_hold_is_clamped_with_a_warning(ext4_scratch, time):
    root = tree(ext4_scratch / "r")
    result = lamella.apply(layer_tar([file("far", b"1", mtime_ns=time), file("g")]), root)
    assert shape(root) == {"far": b"1", "g": b""}
    assert abs(found(root, "far").mtime_ns) < abs(time)
    assert len(result.warnings) == 1
    assert "far" in str(result.warnings[0])


@pytest.mark.parametrize("policy", ["moby", "containerd", "podman"])
@pytest.mark.parametrize("time", [-SECOND, 12_000_000_000 * SECOND])
def test_059_other_engines_clamp_to_the_epoch(scratch, policy, time):
    root = tree(scratch / "r")
    apply(root, file("f", mtime_ns=time), policy=policy)
    assert found(root, "f").mtime_ns == 0


def test_060_the_access_time_is_the_modification_time_where_absent(scratch):
    root = tree(scratch / "r")
    members = [file("f", b"1"), directory("d"), symlink("s", "f"), file("a", pax={"atime": "1700000000.5"})]
    apply(root, *members, file("b", pax={"atime": "7"}))
    times = {p: os.lstat(root / p).st_atime_ns for p in "fdsab"}
    assert times == {**dict.fromkeys("fds", MTIME_NS), "a": 1_700_000_000_500_000_000, "b": 7 * SECOND}


def test_061_newer_times_only_are_clamped(scratch):
    upper = tree(
        scratch / "u", Dir("d"), File("d/new", mtime_ns=MTIME_NS + 5), File("d/old", mtime_ns=7 * SECOND), Symlink("s")
    )
    times = {n: m.mtime for n, m in diffed(None, upper, clamp_mtime=MTIME_NS // SECOND - 100).items()}
    late = MTIME_NS // SECOND - 100
    assert {n: times[n] for n in ("d", "d/new", "d/old", "s")} == {"d": late, "d/new": late, "d/old": 7, "s": late}
    assert [m.mtime for m in diffed(None, upper, clamp_mtime=MTIME_NS // SECOND + 1).values() if m.name == "d/new"] != [late]


CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw+ep, version 2


@pytest.mark.requires("root")
def test_062_set_id_bits_and_capabilities_survive_owner_content_and_time(scratch):
    root = tree(scratch / "r")
    own = {"uid": 1000, "gid": 1001, "mtime_ns": 5, "xattrs": {"security.capability": CAPABILITY}}
    apply(root, file("f", b"x" * 10_000, mode=0o6755, **own), directory("d", mode=0o7755, uid=5, gid=6))
    now = found(root, "f")
    assert (now.mode, now.uid, now.gid, now.mtime_ns) == (0o6755, 1000, 1001, 5)
    assert now.xattrs == ((b"security.capability", CAPABILITY),)
    assert (found(root, "d").mode, found(root, "d").uid) == (0o7755, 5)


HUGE = [2_097_151, 2_097_152, 2**31 - 1, 2**31, 2**32 - 2]


@pytest.mark.requires("root")
@pytest.mark.parametrize("style", ["pax", "gnu"])
def test_069_owners_beyond_the_octal_field(scratch, style):
    root = tree(scratch / "r")
    apply(root, *(file(f"f{i}", uid=n, gid=n - 1) for i, n in enumerate(HUGE)), style=style)
    assert [(found(root, f"f{i}").uid, found(root, f"f{i}").gid) for i in range(5)] == [(n, n - 1) for n in HUGE]
    data = diff(None, root)[1]
    assert [entries(data)[f"f{i}"].uid for i in range(5)] == HUGE
    assert compare(redone(scratch, (), data), root) == []


@pytest.mark.parametrize(
    "bad",
    [
        {"header": {"uid": b"\xff" * 8}},
        {"pax": {"uid": "-1"}},
        {"pax": {"uid": str(2**32)}},
        {"pax": {"gid": str(2**64 + 5)}},
    ],
)
def test_069_an_owner_that_is_none_is_an_error(scratch, bad):
    root = tree(scratch / "r")
    with pytest.raises(LamellaError):
        apply(root, file("f", **bad))
    assert shape(root) == {}


@pytest.mark.requires("root")
def test_070_an_id_without_a_mapping_is_an_error_that_names_it(scratch):
    root = tree(scratch / "r", File("living"))
    idmap = IdMap.parse("0:100000:1000")
    with pytest.raises(LamellaError) as caught:
        apply(root, file("fine", uid=5, gid=6), file("etc/unmapped", uid=5000), idmap=idmap)
    for word in ("etc/unmapped", "5000", "0:100000:1000"):
        assert word in str(caught.value)
    assert (found(root, "fine").uid, found(root, "fine").gid) == (100005, 100006)


@pytest.mark.requires("root")
def test_070_squashed_on_request(scratch):
    root = tree(scratch / "r")
    idmap = IdMap.parse("0:100000:1000", "0:200000:10", squash=True)
    apply(root, file("a", uid=5000, gid=3), file("b", uid=999, gid=10), idmap=idmap)
    owners = [(found(root, p).uid, found(root, p).gid) for p in "ab"]
    assert owners == [(os.geteuid(), 200003), (100999, os.getegid())]


@pytest.mark.requires("root")
def test_070_and_back_on_the_way_out(scratch):
    idmap = IdMap.parse("0:100000:1000")
    upper = tree(scratch / "u", File("f", uid=100005, gid=100000))
    m = diffed(None, upper, idmap=IdMap.parse("0:100000:1000,1000:0:1"))["f"]
    assert (m.uid, m.gid) == (5, 0)
    with pytest.raises(LamellaError) as caught:
        diff(None, tree(scratch / "v", Chown("", 100000, 100000), File("unmapped", uid=7, gid=100000)), idmap=idmap)
    assert "unmapped" in str(caught.value)


@pytest.mark.requires("root")
def test_071_whiteouts_are_not_mapped(scratch):
    edits = (
        Chown("", 100000, 100000),
        File("gone", uid=7, gid=7),
        Dir("d", uid=100000, gid=100000),
        File("d/x", uid=7),
    )
    lower = tree(scratch / "l", *edits)
    upper = tree(scratch / "u", *edits, Remove("gone"), Remove("d/x"))
    found_ = diffed(lower, upper, idmap=IdMap.parse("0:100000:1000"))
    assert {n: (m.uid, m.gid) for n, m in found_.items() if ".wh." in n} == {".wh.gone": (0, 0), "d/.wh.x": (0, 0)}
    above = tree(scratch / "a")
    members = [whiteout("gone", uid=70_000), opaque("d", uid=70_000)]
    apply(above, *members, dialect="overlay", parents=[lower], idmap=IdMap.parse("0:100000:1000"))
    assert shape(above)["gone"] == ("char", 0, 0)


@pytest.mark.requires("root")
def test_072_names_of_owners_are_ignored(scratch):
    root = tree(scratch / "r")
    apply(root, file("f", uid=1234, gid=1235, uname="daemon", gname="daemon"), file("g", uname="nobody", gname="\xff"))
    assert (found(root, "f").uid, found(root, "f").gid) == (1234, 1235)
    assert (found(root, "g").uid, found(root, "g").gid) == (0, 0)
    members = diffed(None, root)
    assert {(m.uname, m.gname) for m in members.values()} == {("", "")}


def test_073_set_id_and_sticky_bits_are_kept(scratch):
    root = tree(scratch / "r")
    modes = [0o4755, 0o2755, 0o1755, 0o7777, 0o400, *([0o0, 0o200] if AS_ROOT else [])]
    apply(root, *(file(f"f{m:o}", mode=m) for m in modes), *(directory(f"d{m:o}", mode=m | 0o700) for m in modes))
    now = listing(root)
    assert {p: f.mode for p, f in now.items() if f.type == "file"} == {b"f%o" % m: m for m in modes}
    assert {p: f.mode for p, f in now.items() if f.type == "dir" and p} == {b"d%o" % m: m | 0o700 for m in modes}


@pytest.mark.parametrize("mode", [0o100644, 0o040644, 0o120644, 0o170644])
def test_073_file_type_bits_in_the_mode_are_ignored(scratch, mode):
    root = tree(scratch / "r")
    apply(root, file("f", b"1", mode=mode), Member("d/", "5", mode=mode | 0o111))
    assert shape(root) == {"f": b"1", "d": "dir"}
    assert (found(root, "f").mode, found(root, "d").mode) == (0o644, 0o755)


def test_073_the_umask_does_not_matter(scratch):
    old = os.umask(0o777)
    try:
        root = tree(scratch / "r")
        apply(
            root,
            file("f", mode=0o666),
            file("implied/g", mode=0o666),
            directory("d", mode=0o777),
            fifo("p", mode=0o666),
        )
        inside = os.umask(0o777)
    finally:
        os.umask(old)
    modes = {p: f.mode for p, f in listing(root).items()}
    assert modes == {b"": 0o755, b"f": 0o666, b"implied": 0o755, b"implied/g": 0o666, b"d": 0o777, b"p": 0o666}
    assert inside == 0o777, "and is left as it was"


def test_073_a_mode_is_a_change_and_nothing_else_is(scratch):
    edits = (Dir("d"), File("d/f"), Fifo("p"), Symlink("s"), Hardlink("h", "d/f"))
    lower, upper = tree(scratch / "l", *edits), tree(scratch / "u", *edits, Chmod("d/f", 0o4644), Chmod("p", 0o600))
    assert {p: c.why for p, c in changed(lower, upper).items()} in (
        {b"d/f": Why.MODE, b"p": Why.MODE, b"h": Why.MODE},
        {b"d/f": Why.MODE, b"p": Why.MODE},
    )
    again = tree(scratch / "again", *edits)
    lamella.apply(diff(lower, upper)[1], again, rootless=not AS_ROOT)
    assert compare(again, upper) == []
