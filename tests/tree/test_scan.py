"""tree.scan: a directory as a table."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given

import lamella
from lamella._kernels import walk
from lamella.columns import TableBuilder
from lamella.testing import strategies
from lamella.testing.listing import listing
from lamella.testing.trees import Dir, File, Hardlink, Socket, Symlink, build
from lamella.tree.scan import directory, scan, scan_fd, scan_pair
from tests import parts
from tests.kernels.packing import as_nobody, open_fds
from tests.kernels.walking import facts, found

AS_ROOT = os.geteuid() == 0
ROADS = ["cwd", *(["at"] if walk.has_xattrat() else [])]


def expected(root):
    return {p: f._replace(sha256="") for p, f in listing(root).items() if f.type != "socket"}


@given(strategies.trees(privileged=AS_ROOT))
def test_a_table_says_what_the_tree_holds(home, script):
    with tempfile.TemporaryDirectory(dir=home / "tmp") as folder:
        root = Path(folder) / "r"
        build(root)
        script.apply(root)
        table = scan(root)
        assert found(table) == expected(root)
        assert table.order == "path"
        with directory(root) as fd:
            for road in ROADS:
                assert facts(scan_fd(fd, road=road, max_fds=3, capacity=(1, 1, 8)).table) == facts(table)


@pytest.mark.parametrize("xattrs", ["all", "all+selinux", "none"])
@pytest.mark.parametrize("road", ROADS)
def test_both_roads_read_the_same_attributes(scratch, road, xattrs):
    root = build(
        scratch / "r", Dir("d", xattrs={"user.d": b"1"}), File("d/f", xattrs={"user.f": b"2"}), Dir("d/e"),
        File("d/e/f", xattrs={"user.g": b"3"}), File("d/g", xattrs={"user.f": b"2"}), Symlink("l"),
    )  # fmt: skip
    with directory(root) as fd:
        table = scan_fd(fd, xattrs=xattrs, road=road).table
    wanted = {} if xattrs == "none" else {p: dict(f.xattrs) for p, f in listing(root).items() if f.xattrs}
    assert {p: table.xattrs(i) for i, p in enumerate(table.paths) if table.xattrs(i)} == wanted


def test_the_road_through_a_working_directory_leaves_that_of_others_alone(scratch):
    root = build(scratch / "r", Dir("d"), File("d/f"))
    before, threads = os.getcwd(), threading.active_count()
    with directory(root) as fd:
        for _ in range(3):
            scan_fd(fd, road="cwd")
            assert os.getcwd() == before
    assert threading.active_count() == threads


def test_two_trees_at_a_time(scratch):
    a, b = build(scratch / "a", File("x"), Socket("s")), build(scratch / "b", File("y"))
    one, two = scan_pair(a, b)
    assert (list(one.table.paths), one.sockets) == ([b"", b"x"], (b"s",))
    assert (list(two.table.paths), two.sockets) == ([b"", b"y"], ())


def test_the_public_call_takes_any_path_and_follows_a_root_that_is_a_link(scratch):
    build(scratch / "r", File("f"))
    (scratch / "l").symlink_to("r")
    for path in (scratch / "r", os.fspath(scratch / "r") + "/", scratch / "l"):
        assert list(lamella.scan(path).paths) == [b"", b"f"]


def test_an_empty_directory_is_its_root(scratch):
    table = scan(scratch)
    assert list(table.paths) == [b""]
    assert table[0].type is lamella.EntryType.DIR


def test_116_sockets_are_named_and_have_no_row(scratch):
    root = build(scratch / "r", Dir("d"), Socket("d/s"), File("d/t"), Socket("z"))
    with directory(root) as fd:
        result = scan_fd(fd)
    assert result.sockets == (b"d/s", b"z")
    assert list(result.table.paths) == [b"", b"d", b"d/t"]


@pytest.mark.requires("overlay")
@pytest.mark.parametrize("road", ROADS)
def test_107_ghosts_are_named_and_are_no_error(scratch, road):
    # whiteouts in a directory that only the upper branch has
    lower, upper = build(scratch / "lower", File("a")), build(scratch / "upper", Dir("d"), File("d/f"))
    for name in ("d/b", "d/z"):
        os.mknod(upper / name, 0o020000, 0)
    merged = build(scratch / "merged")
    (scratch / "work").mkdir()
    options = f"lowerdir={lower},upperdir={upper},workdir={scratch}/work"
    assert parts.run("mount", "-t", "overlay", "overlay", "-o", options, str(merged)) is None
    try:
        assert {"b", "z"} < set(os.listdir(merged / "d"))
        with directory(merged) as fd:
            result = scan_fd(fd, road=road)
        changes = lamella.changes(None, merged)
    finally:
        assert parts.run("umount", str(merged)) is None
    assert result.ghosts == (b"d/b", b"d/z")
    assert list(result.table.paths) == [b"", b"a", b"d", b"d/f"]
    assert len(changes.warnings) == 2


@pytest.mark.requires("root")
@pytest.mark.parametrize("road", ROADS)
def test_what_may_not_be_read_is_an_error_with_its_path(scratch, road):
    root = build(scratch / "r", Dir("d"), Dir("d/shut", mode=0o700), File("d/shut/f"))
    for folder in (scratch.parent, scratch):
        folder.chmod(0o755)
    before = open_fds()

    def work():
        with pytest.raises(PermissionError) as caught:
            scan(root)
        assert caught.value.filename == str(root / "d/shut")
        with directory(root) as fd, pytest.raises(PermissionError) as caught:
            scan_fd(fd, xattrs="none", max_fds=3)
        assert caught.value.filename == b"d/shut"

    as_nobody(work)
    assert open_fds() == before


@pytest.mark.requires("root")
def test_other_peoples_directories_are_read_without_privilege(scratch):
    # O_NOATIME is the owner's alone
    root = build(scratch / "r", Dir("d", mode=0o755), File("d/f"))
    for folder in (scratch.parent, scratch):
        folder.chmod(0o755)
    tables = []
    as_nobody(lambda: tables.append(scan(root)))
    assert list(tables[0].paths) == [b"", b"d", b"d/f"]


@pytest.mark.parametrize(("name", "error"), [("none", FileNotFoundError), ("f", NotADirectoryError)])
def test_a_root_that_is_no_directory(scratch, name, error):
    (scratch / "f").touch()
    with pytest.raises(error) as caught:
        scan(scratch / name)
    assert os.fspath(caught.value.filename) == str(scratch / name)


def test_a_wrong_option(scratch):
    with pytest.raises(ValueError, match="xattrs"):
        scan(scratch, xattrs="some")


def test_times_of_access_stay_as_they_are(scratch):
    root = build(scratch / "r", Dir("d"), File("d/f"), Symlink("d/l"))
    paths = [root, root / "d", root / "d/f", root / "d/l"]
    for path in paths:
        os.utime(path, ns=(1, 2), follow_symlinks=False)
    scan(root)
    assert [os.lstat(path).st_atime_ns for path in paths[:3]] == [1, 1, 1]


def calls_of(log: Path, root: Path, xattrs: str) -> Counter[str]:
    code = f"import sys; from lamella.tree.scan import *\nscan(sys.argv[1], xattrs={xattrs!r})"
    subprocess.run(["strace", "-f", "-qq", "-o", str(log), sys.executable, "-c", code, str(root)], check=True)
    lines = [line.split(None, 1)[1] for line in log.read_text().splitlines()]
    return Counter(re.split(r"[( ]", line)[0] for line in lines if "resumed" not in line)


@pytest.mark.requires("strace")
@pytest.mark.parametrize("xattrs", ["none", *(["all"] if walk.has_xattrat() else [])])
def test_one_statx_and_one_list_of_attributes_an_entry(scratch, xattrs):
    root = build(scratch / "r", *(Dir(f"{i:02}") for i in range(50)), *(File(f"{i % 50:02}/{i}") for i in range(1000)),
                 *(Symlink(f"l{i}") for i in range(9)), Hardlink("h", "00/0"))  # fmt: skip
    calls = calls_of(scratch / "log", root, xattrs)
    calls.subtract(calls_of(scratch / "log", build(scratch / "empty"), xattrs))
    listed = sum(n for name, n in calls.items() if name in {"flistxattr", "listxattrat", "syscall_0x1d1"})
    assert calls["statx"] == 1060
    assert calls["openat"] == calls["close"] == 50
    assert calls["getdents64"] == 100
    assert calls["readlinkat"] == 9
    assert listed == (1060 if xattrs == "all" else 0)


def test_a_tree_of_thousands_is_read_in_a_few_crossings(scratch, monkeypatch):
    (scratch / "d").mkdir()
    with directory(scratch / "d") as fd:
        for i in range(20_000):
            os.mknod(f"a-name-of-some-length-{i}", dir_fd=fd)
    crossings = []
    rows = walk.rows

    def counted(*arguments):
        crossings.append(None)
        return rows(*arguments)

    monkeypatch.setattr(walk, "rows", counted)
    assert len(scan(scratch, xattrs="none")) == 20_002
    assert len(crossings) <= 6  # more rows once, more bytes once; more scratch each time a large directory doubles it


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def test_room_for_a_whole_tree_is_not_touched_before_it_is_used():
    builder = TableBuilder("tree", 64, 4096)
    for i, column in enumerate(builder.columns):
        if column is not None:
            column[:10] = i
    builder.n_rows = builder.arena_used = 10
    before = faults()
    builder.grow(rows=5000, arena=1 << 19)
    assert builder.capacity >= 5010
    assert faults() - before < 80  # one page of each column, and what Python itself wants; room alone has 1,300
    assert all(c is None or (c[:10] == i).all() for i, c in enumerate(builder.columns))
    assert [len(c) for c in builder.finish() if c is not None] == [10] * 19
