"""walk: a directory tree as rows, in memory of any size, however often it is interrupted."""

from __future__ import annotations

import errno
import os
import platform
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from lamella._kernels import walk
from lamella.columns import ARENA, AT
from lamella.testing.listing import listing
from lamella.testing.trees import Dir, Fifo, File, Hardlink, Socket, Symlink, build
from tests.kernels.guarded import guarded
from tests.kernels.packing import open_fds
from tests.kernels.walking import (
    AT_END,
    N_STATE,
    OUTPUT_FULL,
    ROAD_AT,
    ROAD_CWD,
    SPECIAL,
    Walk,
    empty_columns,
    facts,
    found,
    opened,
)

GHOST, SOCKET = 1, 2
TREE = (
    Dir("a", mode=0o1755, mtime_ns=1),
    File("a/-", content=b"1" * 5000, xattrs={"user.b": b"2", "user.a": b"1"}),
    Dir("a/b"),
    Symlink("a/b/l", target=b"x" * 4000),
    File("a/b/\xff\n".encode("latin-1"), mtime_ns=-1),
    File("a.", mode=0o4711, mtime_ns=10**18 + 7),
    File("a!", xattrs={"user.a": b"1", "user.b": b"2"}),
    Dir("b" * 255),
    File("b" * 255 + "/" + "c" * 255),
    Hardlink("z", "a!"),
    Hardlink("b" * 255 + "/0", "a/b/l"),
    Hardlink("y", "a/b/l"),
    Fifo("p"),
    Socket("q"),
    *(Dir(f"{'d/' * i}d") for i in range(30)),
    *(File(f"d/d/{i}", xattrs={"user.n": b"%d" % i}) for i in range(40)),
)


@pytest.fixture(scope="module")
def tree(home):
    folder = home / "tmp" / f"walk-{os.getpid()}"
    folder.mkdir()
    return build(folder / "r", *TREE)


def expected(root):
    return {p: f._replace(sha256="") for p, f in listing(root).items() if f.type != "socket"}


def walked(root, **options):
    before = open_fds()
    with opened(root) as fd:
        task = Walk(fd, **options)
        table = task.run()
    assert open_fds() == before
    return table, task


def test_rows_are_what_the_tree_holds(tree):
    table, task = walked(tree)
    assert found(table) == expected(tree)
    assert task.special == [(SOCKET, b"q")]
    for row, path in enumerate(table.paths):
        st = os.lstat(os.path.join(os.fsencode(tree), path))
        assert (int(table.dev[row]), int(table.ino[row])) == (st.st_dev, st.st_ino)


def test_rows_are_in_path_order_with_slash_lowest(tree):
    paths = list(walked(tree)[0].paths)
    assert paths == sorted(paths, key=lambda path: path.replace(b"/", b"\0"))
    assert paths[0] == b""


@pytest.mark.parametrize("max_fds", [3, 64])
@pytest.mark.parametrize("scratch", [8, 5000])
@pytest.mark.parametrize("rows", [0, 3, 500])
def test_however_memory_is_cut_the_table_is_the_same(tree, rows, scratch, max_fds):
    whole = facts(walked(tree)[0])
    for arena in (0, 5000, 1 << 20):
        table, task = walked(tree, rows=rows, arena=arena, scratch=scratch, max_fds=max_fds, fit=guarded)
        assert facts(table) == whole
        assert task.special == [(SOCKET, b"q")]
    assert task.n_full >= len(whole) - rows


def test_equal_attributes_in_a_row_are_stored_once(scratch):
    same = [File(f"f{i:03}", xattrs={"user.x": b"1" * 500}) for i in range(100)]
    root = build(scratch / "r", *same, File("f050", xattrs={"user.x": b"2"}))
    table, _ = walked(root)
    runs = set(zip(table.ext_off.tolist(), table.ext_len.tolist(), strict=True))
    assert len(runs) == 4  # the root has none; the odd one parts the others
    assert table.xattrs(1) == {b"user.x": b"1" * 500}


def test_a_link_group_is_named_by_its_first_row_and_one_name_is_none(scratch):
    root = build(scratch / "r", File("a"), Dir("b"), Hardlink("b/c", "a"), File("d"))
    os.link(root / "d", scratch / "outside")
    table, _ = walked(root)
    assert table.link_group[[table.find(p) for p in ("a", "b/c", "d")]].tolist() == [table.find("a")] * 2 + [-1]


def test_the_working_directory_road_reads_the_same(tree):
    code = (
        "import sys; from lamella._kernels import walk; from tests.kernels.walking import *\n"
        "walk.own_cwd()\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "for rows, scratch, max_fds in ((1, 8, 3), (999, 1 << 16, 64)):\n"
        "    one, two = [Walk(fd, rows=rows, scratch=scratch, max_fds=max_fds, options=o).run() for o in (1, 2)]\n"
        "    assert facts(one) == facts(two)\n"
        "assert any(one.xattrs(i) for i in range(len(one)))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tree)], check=True)


@pytest.mark.parametrize("n_names", [1, 700])
def test_attributes_of_any_number_and_size(scratch, n_names):
    wanted = {b"user.%d" % (i * 7919 % n_names): bytes([i % 256]) * (i % 90) for i in range(n_names)}
    if n_names == 1:
        wanted = {b"user." + b"k" * 250: b"v" * 65536}
    root = build(scratch / "r", File("f", xattrs=wanted), Dir("d", xattrs=wanted))
    for options in ({}, {"scratch": 8, "arena": 10}):
        table, _ = walked(root, **options, fit=guarded)
        for path in ("f", "d"):
            row = table.find(path)
            assert table.xattrs(row) == wanted
            assert [name for _, name, _ in table.extras(row)] == sorted(wanted)


@pytest.mark.requires("root")
@pytest.mark.parametrize("option", [0, 4])
def test_labels_of_selinux_are_read_on_request(scratch, option):
    root = build(scratch / "r", File("f", xattrs={"security.selinux": b"label", "security.sel": b"1"}))
    table, _ = walked(root, options=ROAD_AT | option)
    assert set(table.xattrs(1)) == {b"security.sel", *([b"security.selinux"] if option else [])}


def test_no_attributes_at_all_on_request(tree):
    assert not walked(tree, options=0)[0].ext_len.any()


def test_holes_are_summed(scratch):
    root = build(scratch / "r", File("f", content=b"1"))
    os.truncate(root / "f", 1 << 40)
    _, task = walked(root)
    assert (1 << 40) - 8192 <= task.get("holes") <= 1 << 40


@pytest.mark.parametrize(("max_fds", "road"), [(64, ROAD_AT), (3, ROAD_CWD)])
def test_a_tree_deeper_than_descriptors_reach(scratch, max_fds, road):
    fd = os.open(scratch, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=fd)
        deeper = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.mknod("e", dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(fd)
    code = (
        "import resource, sys; from tests.kernels.walking import *\n"
        f"if {road} == 2: walk.own_cwd()\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))\n"  # max_fds=64 runs into EMFILE and makes do
        f"table = Walk(os.open(sys.argv[1], os.O_RDONLY), rows=7000, arena=1 << 25, scratch=1 << 21,\n"
        f"             max_fds={max_fds}, options={road}).run()\n"
        "paths = list(table.paths)\n"
        "down = [b'/'.join([b'd'] * i) for i in range(3001)]\n"
        "up = [b'/'.join([b'd'] * i + [b'e']) for i in range(2999, -1, -1)]\n"
        "assert paths == down + up\n"
    )
    subprocess.run([sys.executable, "-c", code, str(scratch)], check=True)


def test_a_path_longer_than_a_table_holds_is_an_error_with_its_directory(scratch):
    fd = os.open(scratch, os.O_RDONLY)
    for _ in range(257):
        os.mkdir("d" * 255, dir_fd=fd)
        deeper = os.open("d" * 255, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(fd)
    before = open_fds()
    with pytest.raises(OSError, match="too long") as caught:
        walked(scratch, arena=1 << 24, rows=300, scratch=1 << 20)
    assert caught.value.errno == errno.ENAMETOOLONG
    assert caught.value.filename == b"/".join([b"d" * 255] * 256)
    assert open_fds() == before


def test_a_hundred_thousand_names_in_one_directory(scratch):
    (scratch / "f").touch()
    names = [b"%x" % (i * 0x9E3779B97F4A7C15 % (1 << 64)) for i in range(100_000)]
    with opened(scratch) as fd:
        for name in names:
            os.link("f", name, src_dir_fd=fd, dst_dir_fd=fd)
    table, _ = walked(scratch, rows=100_002, arena=1 << 22, options=0)
    assert list(table.paths) == sorted([b"", b"f", *names])
    assert set(table.link_group[1:].tolist()) == {1}


@pytest.mark.parametrize("prefix", [b"", b"p", b"prefix-", b"a-prefix-of-more-bytes"])
def test_names_that_differ_late_or_only_in_length_are_in_order(scratch, prefix):
    # the order is found by eight bytes at a time, behind what all names share
    ends = [b"", b"\x01", b"\x7f", b"\x80", b"\xff", b"\x80\x01", b"yz"]
    names = {prefix + b"x" * n + end for n in range(26) for end in ends} - {b""}
    with opened(scratch) as fd:
        for name in names:
            os.mknod(name, dir_fd=fd)
    for scratch_bytes in (8, 1 << 16):
        table, _ = walked(scratch, options=0, scratch=scratch_bytes, fit=guarded)
        assert list(table.paths) == sorted([b"", *names])


@pytest.mark.skipif(platform.machine() not in {"x86_64", "aarch64"}, reason="_syscall.pxd knows no other registers")
def test_no_call_on_the_hot_road_goes_through_the_c_library():
    # the first return behind a system call is dear: what the wrappers of openat, getdents64, statx and the like cost
    library = {b"openat", b"openat64", b"getdents64", b"readlinkat", b"close", b"fchdir", b"llistxattr", b"flistxattr",
               b"lgetxattr", b"fgetxattr", b"syscall", b"__errno_location"}  # fmt: skip
    strings = set(Path(walk.__file__).read_bytes().split(b"\0"))
    assert strings & library <= {b"__errno_location"}  # that of unshare
    assert b"unshare" in strings


def test_a_name_that_is_gone_when_its_turn_comes_is_a_ghost(scratch):
    root = build(scratch / "r", *(File(f"{i}") for i in range(5)), Dir("d"), Symlink("l"))
    with opened(root) as fd:
        task = Walk(fd, rows=2)
        while task.step() != OUTPUT_FULL:
            pass
        for name in ("3", "l"):
            (root / name).unlink()
        (root / "d").rmdir()
        table = task.run()
    assert list(table.paths) == [b"", b"0", b"1", b"2", b"4"]
    assert task.special == [(GHOST, b"3"), (GHOST, b"d"), (GHOST, b"l")]


def test_a_name_that_is_something_else_when_its_turn_comes_is_that(scratch):
    root = build(scratch / "r", *(File(f"{i}") for i in range(5)), Dir("d"), Dir("d/e"), Symlink("l"), Dir("m"))
    with opened(root) as fd:
        task = Walk(fd, rows=2)
        while task.step() != OUTPUT_FULL:
            pass
        (root / "4").unlink()
        build(root, Dir("4"), Dir("4/5"), Symlink("d", target=b"m"), File("l"), Fifo("m"))
        table = task.run()
    assert list(table.paths) == [b"", *(b"%d" % i for i in range(5)), b"4/5", b"d", b"l", b"m"]
    assert bytes(table.type[-3:]) == b"206"
    assert table.link_target(7) == b"m"


def test_attributes_that_come_and_go_are_read_whole_or_not_at_all(scratch):
    stay = {f"user.{i:02}": b"%d" % i * 20 for i in range(60)}
    root = build(scratch / "r", File("f", xattrs=stay))
    path, stop = root / "f", threading.Event()

    def change() -> None:
        while not stop.is_set():
            os.setxattr(path, "user.99", b"x" * 300)
            os.removexattr(path, "user.99")
            os.setxattr(path, "user.99", b"y" * 30)
            os.removexattr(path, "user.99")

    thread = threading.Thread(target=change)
    thread.start()
    try:
        seen = [walked(root, arena=1 << 16)[0].xattrs(1) for _ in range(300)]
    finally:
        stop.set()
        thread.join()
    kept = {name.encode(): value for name, value in stay.items()}
    assert all({n: v for n, v in xattrs.items() if n != b"user.99"} == kept for xattrs in seen)
    assert {xattrs.get(b"user.99") for xattrs in seen} <= {None, b"x" * 300, b"y" * 30}


def test_nothing_beside_the_tree_is_read_when_a_directory_is_moved_away(scratch):
    root = build(scratch / "r", *(Dir("d/" * i + "d") for i in range(20)), File("z"))
    with opened(root) as fd:
        before = open_fds()
        task = Walk(fd, rows=15, max_fds=3)
        while task.step() != OUTPUT_FULL:
            pass
        os.rename(root / "d/d/d/d", scratch / "moved")
        with pytest.raises(OSError, match=r"[Ss]tale") as caught:
            task.run()
        assert caught.value.errno == errno.ESTALE
        assert caught.value.filename == b"d/d/d/d"
        assert open_fds() == before


def test_release_closes_what_is_open_at_any_moment(tree):
    with opened(tree) as fd:
        before = open_fds()
        n = len(walked(tree)[0])
        for rows in range(0, n, 7):
            task = Walk(fd, rows=rows, max_fds=5)
            assert task.step() != AT_END
            assert open_fds() <= before + 5
            task.release()
            assert open_fds() == before
            task.release()
            assert task.step() == AT_END


def test_the_callers_descriptor_keeps_its_position(tree):
    with opened(tree) as fd:
        os.listdir(fd)
        position = os.lseek(fd, 0, os.SEEK_CUR)
        Walk(fd).run()
        assert os.lseek(fd, 0, os.SEEK_CUR) == position
    fd = os.open(tree, os.O_PATH)
    assert found(Walk(fd).run()) == expected(tree)
    os.close(fd)


@pytest.mark.parametrize(("kind", "wanted"), [("file", errno.ENOTDIR), ("closed", errno.EBADF)])
def test_what_is_no_directory_is_an_error_with_an_empty_path(scratch, kind, wanted):
    (scratch / "f").touch()
    fd = os.open(scratch / "f", os.O_RDONLY)
    if kind == "closed":
        os.close(fd)
        fd = 10_000
    with pytest.raises(OSError, match=os.strerror(wanted)) as caught:
        Walk(fd).run()
    assert (caught.value.errno, caught.value.filename) == (wanted, b"")
    if kind != "closed":
        os.close(fd)


def test_wrong_buffers_are_refused(tree):
    with opened(tree) as fd:
        columns, state, scratch = empty_columns(4, 9000), np.zeros(N_STATE, np.int64), np.zeros(1 << 16, np.uint8)
        state[11] = 3
        without = tuple(None if i == AT["ino"] else c for i, c in enumerate(columns))
        wrong = [
            (columns, state[:-1], scratch),
            (columns, state, scratch[1:]),
            (columns, state, scratch[:0]),
            (without, state, scratch),
            (columns, np.zeros(N_STATE, np.int64), scratch),
            (columns[:-1], state, scratch),
        ]
        for item, value in {"rows": 5, "arena": 9001, "top": 1 << 17, "frame": 1 << 17}.items():
            bad = state.copy()
            bad[{"rows": 0, "arena": 1, "top": 12, "frame": 13}[item]] = value
            wrong.append((columns, bad, scratch))
        for arguments in wrong:
            with pytest.raises(ValueError, match="."):
                walk.rows(fd, *arguments, 0)
    for slots, n in ((3, 0), (0, 0), (4, 5), (4, -1)):
        with pytest.raises(ValueError, match="."):
            walk.link(columns, n, np.zeros(slots, np.uint32), 0)


def test_a_full_table_of_links_does_not_hang():
    columns = empty_columns(8, 1)
    columns[AT["link_group"]][:] = -2
    columns[AT["ino"]][:] = np.arange(8)
    assert walk.link(columns, 8, np.zeros(4, np.uint32), 1) == 0
    assert (columns[AT["link_group"]] == -1).all()


SPOIL = """
import os, random, sys
from tests.kernels.guarded import guarded
from tests.kernels.walking import *
top = os.open(sys.argv[1], os.O_RDONLY)
for seed in range(int(sys.argv[2])):
    rng = random.Random(seed)
    task = Walk(top, rows=rng.randrange(60), arena=12_000, scratch=30_000, max_fds=rng.choice((3, 64)), fit=guarded)
    try:
        for _ in range(40):
            if task.step() == 3:
                break
            used = max(task.get("top"), 1)
            for _ in range(rng.choice((0, 1, 3, 200))):
                where = rng.randrange(used) if rng.random() < .8 else rng.randrange(len(task.scratch))
                task.scratch[where] = rng.choice((0, 255, rng.randrange(256)))
            if rng.random() < .3:
                task.state[rng.randrange(len(task.state))] = rng.choice((-1, 0, 1, 1 << 40, -1 << 63, rng.randrange(used)))
    except (ValueError, OSError, MemoryError, AssertionError):
        pass
    finally:
        for fd in range(3, 40):  # whatever a spoilt frame named; those that a walk lost
            if fd != top:
                try:
                    os.close(fd)
                except OSError:
                    pass
print("alive")
"""


def test_spoilt_state_and_scratch_do_no_harm(tree):
    done = subprocess.run(
        [sys.executable, "-c", SPOIL, str(tree), "250"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "alive\n"


def test_special_is_given_once_for_each_name(scratch):
    root = build(scratch / "r", *(Socket(f"{i}") for i in range(10)), File("f"))
    table, task = walked(root, rows=1)
    assert task.special == [(SOCKET, b"%d" % i) for i in range(10)]
    assert list(table.paths) == [b"", b"f"]
    assert SPECIAL == 4


def test_the_arena_holds_nothing_but_names_and_attributes(tree):
    table, task = walked(tree)
    names = sum(map(len, table.paths)) + sum(map(len, table.link_targets))
    runs = {(off, n) for off, n in zip(table.ext_off.tolist(), table.ext_len.tolist(), strict=True) if n}
    assert task.get("arena") == names + sum(n for _, n in runs)
    assert len(table.columns[ARENA]) >= task.get("arena")
