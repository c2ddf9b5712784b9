"""content.pack: a directory's files into a tar stream, cut anywhere, whatever moves while it is read."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import socket
import subprocess
import sys
import tarfile
import threading

import numpy as np
import pytest

from lamella._kernels import content
from lamella.columns import AT
from lamella.errors import FormatError
from tests.kernels.guarded import guarded, guarded_bytes, guarded_columns
from tests.kernels.packing import PATTERN, Stream, as_nobody, contents, holes, lay, open_fds

FILES = {
    "a": b"1", "b/c": b"", "b/d": PATTERN[:512], "b/e": PATTERN[:511], "b/f/g": PATTERN[:513], "b/f/h": PATTERN,
    "z" * 200: b"long", "zz/" + "y" * 150 + "/" + "x" * 150: b"deep",
}  # fmt: skip


@pytest.fixture
def rows(scratch):
    return lay(scratch, FILES)


def test_tarfile_reads_the_stream(scratch, rows):
    stream = Stream(scratch, rows)
    tar = stream.run()
    found = contents(tar)
    assert list(found) == [row["path"] or "." for row in rows]
    assert {name: data for name, data in found.items() if data is not None} == FILES
    assert tar[-1024:] == bytes(1024)
    assert len(tar) % 512 == 0
    assert tar[-1536:-1024] != bytes(512)
    assert stream.events == []


@pytest.mark.parametrize("cap", [1, 2, 7, 511, 512, 513, 1000, 1024, 1025, 4096, 1 << 20])
def test_the_stream_does_not_depend_on_the_room(scratch, rows, cap):
    assert Stream(scratch, rows).run(cap) == Stream(scratch, rows).run()


def test_any_change_of_room_from_call_to_call(scratch, rows):
    whole = Stream(scratch, rows, libarchive_xattr=True).run()
    random = np.random.default_rng(5)
    for _ in range(20):
        stream = Stream(scratch, rows, libarchive_xattr=True)
        while stream.step(memoryview(bytearray(int(random.choice([0, 1, 3, 511, 512, 700, 5000]))))) != content.DONE:
            pass
        stream.close()
        assert stream.tar == whole


def test_component_by_component_gives_the_same(scratch, rows):
    assert Stream(scratch, rows, by_parts=True).run() == Stream(scratch, rows).run()


def test_the_archive_of_nothing_is_its_end_marker(scratch):
    stream = Stream(scratch, [])
    assert stream.run(100) == bytes(1024)


def test_done_is_said_again(scratch):
    stream = Stream(scratch, [])
    stream.run()
    stream.fd = -1
    state = bytearray(content.STATE_NBYTES)
    arguments = (-1, stream.table.columns, stream.order, state, memoryview(bytearray(4096)), bytearray(512))
    assert content.pack(*arguments)[:2] == (1024, content.DONE)
    assert content.pack(*arguments)[:2] == (0, content.DONE)


def test_out_may_end_where_memory_ends(scratch, rows):
    rows[3]["xattrs"] = {"user.a": b"x" * 900}
    whole = Stream(scratch, rows, head=4096).run()
    for cap in (1, 511, 512, 4096, len(whole)):
        stream = Stream(scratch, rows)
        stream.head, stream.state = guarded_bytes(2560), guarded_bytes(content.STATE_NBYTES)
        stream.order, stream.links = guarded(stream.order), guarded(np.full(len(rows), -1, np.int32))
        stream.table.columns = guarded_columns(stream.table.columns)
        out = guarded_bytes(cap)
        while stream.step(out) != content.DONE:
            pass
        stream.close()
        assert stream.tar == whole


def test_the_order_is_the_callers(scratch, rows):
    order = [5, 1, 4]
    stream = Stream(scratch, rows, order=order)
    assert list(contents(stream.run())) == [rows[i]["path"] for i in order]


def test_counts(scratch):
    rows = lay(scratch, {"a": b"1", "b": b"2"})
    rows[1]["xattrs"] = {"user.x": b""}
    stream = Stream(scratch, rows)
    assert content.counts(stream.state) == (0, 0)
    while stream.step(memoryview(bytearray(4096))) != content.DONE:
        pass
    assert content.counts(stream.state) == (3, 1)
    stream.close()
    assert content.counts(stream.state) == (0, 0)


def test_headers_larger_than_their_buffer(scratch):
    rows = lay(scratch, {"a": b"1" * 1000, "b": b"2"})
    rows[1]["xattrs"] = {f"user.{n}": b"v" * 500 for n in range(20)}
    stream = Stream(scratch, rows, head=512)
    tar = stream.run(700)
    assert len(stream.head) > 10_000
    assert tar == Stream(scratch, rows, head=1 << 16).run()


def test_101_a_file_that_vanished_is_left_out(scratch, rows):
    whole = Stream(scratch, rows).run()
    (scratch / "b/d").unlink()
    stream = Stream(scratch, rows)
    tar = stream.run()
    assert stream.events == [(b"b/d", content.VANISHED)]
    assert len(tar) == len(whole) - 1024
    assert "b/d" not in contents(tar)


def test_101_files_of_a_directory_that_vanished(scratch, rows):
    for path in ("b/f/g", "b/f/h"):
        (scratch / path).unlink()
    (scratch / "b/f").rmdir()
    stream = Stream(scratch, rows)
    stream.run()
    assert stream.events == [(b"b/f/g", content.VANISHED), (b"b/f/h", content.VANISHED)]
    (scratch / "b/f").write_bytes(b"a file now")
    stream = Stream(scratch, rows)
    stream.run()
    assert stream.events == [(b"b/f/g", content.VANISHED), (b"b/f/h", content.VANISHED)]


@pytest.mark.parametrize("cap", [1000, 1 << 20])
@pytest.mark.parametrize("now", [0, 1, 512, 9_999])
def test_101_a_file_that_shrank_is_filled_with_zeros(scratch, rows, cap, now):
    (scratch / "b/f/h").write_bytes(PATTERN[:now])
    stream = Stream(scratch, rows)
    found = contents(stream.run(cap))
    assert stream.events == [(b"b/f/h", content.SHRANK)]
    assert found["b/f/h"] == PATTERN[:now].ljust(len(PATTERN), b"\0")
    assert found["z" * 200] == b"long"


def test_101_a_file_that_shrinks_while_it_is_read(scratch, rows):
    stream = Stream(scratch, rows)
    while b"b/f/h" not in stream.tar:
        stream.step(memoryview(bytearray(600)))
    (scratch / "b/f/h").write_bytes(b"")
    tar = stream.run()
    assert stream.events == [(b"b/f/h", content.SHRANK)]
    assert contents(tar)["b/f/h"].rstrip(b"\0") in PATTERN


@pytest.mark.parametrize("cap", [1000, 1 << 20])
def test_101_a_file_that_grew_is_cut(scratch, rows, cap):
    (scratch / "b/f/g").write_bytes(PATTERN)
    stream = Stream(scratch, rows)
    found = contents(stream.run(cap))
    assert stream.events == [(b"b/f/g", content.GREW)]
    assert found["b/f/g"] == PATTERN[:513]
    assert found["b/f/h"] == PATTERN


def test_every_kind_that_took_a_files_name(scratch):
    rows = lay(scratch, dict.fromkeys(("dir", "fifo", "link", "socket", "stays"), b"12345"))
    for name in ("dir", "fifo", "link", "socket"):
        (scratch / name).unlink()
    (scratch / "dir").mkdir()
    os.mkfifo(scratch / "fifo")
    (scratch / "link").symlink_to("stays")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(scratch / "socket"))
        stream = Stream(scratch, rows)
        found = contents(stream.run())
    assert stream.events == [(name, content.VANISHED) for name in (b"dir", b"fifo", b"link", b"socket")]
    assert list(found) == [".", "stays"]


@pytest.mark.requires("devices")
def test_a_device_that_took_a_files_name_is_not_read(scratch):
    rows = lay(scratch, {"zero": b"12345"})
    (scratch / "zero").unlink()
    os.mknod(scratch / "zero", 0o20600, os.makedev(1, 5))
    stream = Stream(scratch, rows)
    assert list(contents(stream.run())) == ["."]
    assert stream.events == [(b"zero", content.VANISHED)]


@pytest.mark.parametrize("by_parts", [False, True])
@pytest.mark.parametrize("target", ["{outside}", "../outside", "inside", "/"])
def test_096_a_symlink_swapped_in_as_a_parent_is_refused(scratch, by_parts, target):
    root = scratch / "root"
    root.mkdir()
    rows = lay(root, {"inside/f": b"inside", "p/deep/f": b"12345", "p/f": b"12345"})
    lay(scratch / "outside", {"f": b"SECRET", "deep/f": b"SECRET"})
    (root / "p").rename(root / "moved")
    (root / "p").symlink_to(target.format(outside=scratch / "outside"))
    stream = Stream(root, rows, by_parts=by_parts)
    tar = stream.run()
    assert stream.events == [(b"p/deep/f", content.VANISHED), (b"p/f", content.VANISHED)]
    assert b"SECRET" not in tar


@pytest.mark.parametrize("by_parts", [False, True])
@pytest.mark.parametrize(
    ("path", "code"),
    [
        *[(path, errno.EXDEV) for path in ("../secret", "d/../../secret", "..", "d/..", "/etc/passwd", "d//f", "./f", ".")],
        *[(path, errno.ENAMETOOLONG) for path in ("n" * 256, "n" * 256 + "/f", "n" * 5000 + "/f")],
    ],
)
def test_a_path_that_is_none_of_a_tree_is_refused(scratch, path, code, by_parts):
    root = scratch / "root"
    lay(root, {"d/f": b"12345", "f": b"12345"})
    (scratch / "secret").write_bytes(b"12345")
    stream = Stream(root, [{"path": path, "size": 5}], by_parts=by_parts)
    with pytest.raises(OSError, match=os.strerror(code)) as caught:
        stream.run()
    assert caught.value.errno == code
    assert caught.value.filename == os.fsencode(path)
    assert b"12345" not in stream.tar


@pytest.mark.parametrize("by_parts", [False, True])
def test_paths_longer_than_a_system_call_takes(scratch, by_parts):
    name, depth = "n" * 200, 60
    fd = os.open(scratch, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        deeper = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    for file in ("x", "y"):
        with os.fdopen(os.open(file, os.O_CREAT | os.O_WRONLY, dir_fd=fd), "wb") as out:
            out.write(b"deep")
    os.close(fd)
    folder = "/".join([name] * depth)
    stream = Stream(scratch, [{"path": f"{folder}/{file}", "size": 4} for file in "xy"], head=1 << 16, by_parts=by_parts)
    assert list(contents(stream.run()).values()) == [b"deep", b"deep"]
    assert stream.events == []


def test_hard_link_sets_are_written_once(scratch):
    rows = lay(scratch, {"a": b"data", "b": b"data", "c": b"data"})
    for row in rows[1:]:
        row["link_group"] = 1
    tar = Stream(scratch, rows, links=True).run()
    with tarfile.open(fileobj=io.BytesIO(tar)) as file:
        assert [(m.name, m.type, m.linkname) for m in file][1:] == [("a", b"0", ""), ("b", b"1", "a"), ("c", b"1", "a")]
    assert len(tar) == 4 * 512 + 512 + 1024


def test_when_the_first_of_a_set_vanished_the_next_carries_the_data(scratch):
    rows = lay(scratch, {"a": b"data", "b": b"data", "c": b"data"})
    for row in rows[1:]:
        row["link_group"] = 1
    (scratch / "a").unlink()
    tar = Stream(scratch, rows, links=True).run()
    with tarfile.open(fileobj=io.BytesIO(tar)) as file:
        assert [(m.name, m.type, m.linkname) for m in file][1:] == [("b", b"0", ""), ("c", b"1", "b")]


SPARSE = {
    "all": (1 << 20, {}),
    "begin": (1 << 20, {0: PATTERN[:4096]}),
    "dense": (8192, {0: PATTERN[:8192]}),
    "end": ((1 << 20) + 77, {1 << 20: PATTERN[:77]}),
    "many": (1 << 20, dict.fromkeys(range(4096, 1 << 20, 16384), PATTERN[:4096])),
    "tiny": (3, {}),
}


def test_sparse_files(scratch):
    rows = [holes(scratch / name, *what) for name, what in SPARSE.items()]
    stream = Stream(scratch, rows, regions=1)
    tar = stream.run()
    assert len(stream.regions) > 2 * 60
    dense = contents(Stream(scratch, rows).run())
    assert contents(tar) == dense
    assert dense["end"] == (scratch / "end").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(tar)) as file:
        assert [m.name for m in file if not m.issparse()] == ["dense"]
    assert len(tar) < 500_000
    for cap in (1, 513, 5000):
        assert Stream(scratch, rows, regions=100).run(cap) == tar


def test_a_sparse_file_that_shrank(scratch):
    rows = [holes(scratch / "a", 1 << 20, {0: PATTERN[:4096], 1 << 19: PATTERN[:4096]}), {"path": "b", "size": 3}]
    (scratch / "b").write_bytes(b"end")
    stream = Stream(scratch, rows, regions=100)
    while len(stream.tar) < 2048:
        stream.step(memoryview(bytearray(512)))
    os.truncate(scratch / "a", 4096)
    found = contents(stream.run())
    assert stream.events == [(b"a", content.SHRANK)]
    assert found["a"] == PATTERN[:4096].ljust(1 << 20, b"\0")
    assert found["b"] == b"end"


def test_a_row_that_tar_cannot_hold(scratch, rows):
    rows[2]["pax"] = {"path": "x"}
    stream = Stream(scratch, rows)
    with pytest.raises(FormatError) as caught:
        stream.run()
    assert caught.value.entry == os.fsencode(rows[2]["path"])


def test_rows_outside_the_table_or_the_arena(scratch, rows):
    for order in ([0, len(rows)], [-1], [2**62]):
        with pytest.raises(ValueError, match="row"):
            Stream(scratch, rows, order=order).run()
    stream = Stream(scratch, rows)
    stream.table.columns[AT["name_off"]][1] = 1 << 50
    with pytest.raises((ValueError, OSError)):
        stream.run()


def test_wrong_buffers(scratch, rows):
    for change in ({"state": bytearray(8)}, {"head": bytearray(511)}, {"regions": np.zeros(1, np.int64)}):
        stream = Stream(scratch, rows)
        vars(stream).update(change)
        with pytest.raises(ValueError, match=r"head wants|state has"):
            stream.step(memoryview(bytearray(512)))
        os.close(stream.fd)
    for call in (content.counts, content.release):
        with pytest.raises(ValueError, match="state has"):
            call(bytearray(8))


def test_a_state_of_another_stream_does_no_harm(scratch, rows):
    random = np.random.default_rng(7)
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(300):
        stream = Stream(scratch, rows)
        stream.step(memoryview(bytearray(int(random.integers(1, 9000)))))
        for _ in range(int(random.integers(1, 4))):
            at = int(random.integers(0, content.STATE_NBYTES // 4)) * 4
            if not 2 < int.from_bytes(stream.state[at : at + 4], "little") < 1000:  # descriptors stay what they are
                stream.state[at : at + 4] = random.bytes(4)
        with contextlib.suppress(ValueError, OSError):
            for _ in range(3):
                stream.step(guarded_bytes(1000))
        for fd in set(os.listdir("/proc/self/fd")) - before:
            with contextlib.suppress(OSError):
                os.close(int(fd))


def test_release_closes_what_is_open(scratch, rows):
    before = open_fds()
    stream = Stream(scratch, rows)
    while b"b/f/h" not in stream.tar:
        stream.step(memoryview(bytearray(600)))
    assert open_fds() == before + 3
    content.release(stream.state)
    assert open_fds() == before + 1
    content.release(stream.state)
    os.close(stream.fd)


def test_nothing_stays_open_after_errors_and_events(scratch, rows):
    before = open_fds()
    (scratch / "b/d").unlink()
    Stream(scratch, rows).run(1)
    rows[-1]["pax"] = {"path": "x"}
    with pytest.raises(FormatError):
        Stream(scratch, rows).run()
    assert open_fds() == before


@pytest.mark.requires("root")
def test_files_of_others_are_read_without_noatime(scratch, rows):
    whole = Stream(scratch, rows).run()
    stream = Stream(scratch, rows)
    as_nobody(stream.run)
    assert stream.tar == whole


@pytest.mark.requires("root")
def test_a_file_that_may_not_be_read_is_an_error_with_its_path(scratch, rows):
    (scratch / "b/f/g").chmod(0)
    with pytest.raises(PermissionError) as caught:
        as_nobody(Stream(scratch, rows).run)
    assert caught.value.filename == b"b/f/g"


def test_access_times_stay(scratch, rows):
    os.utime(scratch / "b/f/h", ns=(5, 10**18))
    Stream(scratch, rows).run()
    assert (scratch / "b/f/h").stat().st_atime_ns == 5


CHILD = """
import sys
from pathlib import Path
from tests.kernels.packing import Stream
rows = [{"path": "d", "type": "5"}] + [{"path": f"d/{n:04}", "size": 700} for n in range(400)]
Stream(Path(sys.argv[1]), rows).run(1 << 20)
"""


@pytest.mark.requires("strace")
def test_at_most_four_system_calls_a_small_file(scratch):
    root = scratch / "root"
    lay(root, {f"d/{n:04}": b"x" * 700 for n in range(400)})
    log = scratch / "log"
    argv = ["strace", "-f", "-o", str(log), sys.executable, "-c", CHILD, str(root)]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("COVERAGE", "PYTEST"))}
    subprocess.run(argv, check=True, env=env | {"PYTHONPATH": os.pathsep.join(sys.path)})
    lines = log.read_text().splitlines()
    begin = next(n for n, line in enumerate(lines) if '"0000"' in line)
    end = next(n for n, line in enumerate(lines) if '"0399"' in line)
    assert (end - begin) / 399 <= 4.05
    assert sum("openat2" in line for line in lines) == 1


def test_another_thread_may_write_to_the_columns(scratch):
    rows = lay(scratch, {f"{n % 7}/{n}": PATTERN[: n % 2000] for n in range(300)})
    stream = Stream(scratch, rows)
    stop = threading.Event()
    names, sizes = (stream.table.columns[AT[c]] for c in ("name_off", "size"))
    saved = names.copy(), sizes.copy()

    def disturb() -> None:
        random = np.random.default_rng(3)
        while not stop.is_set():
            at = int(random.integers(0, len(names)))
            names[at], sizes[at] = random.integers(-(1 << 40), 1 << 40), random.integers(-5, 5000)
            names[at], sizes[at] = saved[0][at], saved[1][at]

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        for _ in range(30):
            stream = Stream(scratch, rows)
            stream.table.columns = tuple(
                names if i == AT["name_off"] else sizes if i == AT["size"] else c for i, c in enumerate(stream.table.columns)
            )
            try:
                hashlib.sha256(stream.run()).digest()
            except (ValueError, OSError):
                continue
    finally:
        stop.set()
        thread.join()
