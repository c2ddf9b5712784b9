"""A tree copied: everything that an inode has, on file systems that share content and on those that do not."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamella._kernels import clone
from lamella.layer import copy
from lamella.layer.copy import CopyResult, copy_into, copy_tree
from lamella.testing.listing import compare
from lamella.testing.trees import Chmod, Dir, Fifo, File, Hardlink, Socket, Symlink, build
from tests import parts

AS_ROOT = os.geteuid() == 0
OLD = 1_234_567_890_123_456_789
SMALL = (Dir("d", mode=0o750, mtime_ns=OLD), File("d/f", b"content"), Symlink("s", "d/f"))
CHILD = "import sys; from lamella.layer.copy import copy_tree; copy_tree(sys.argv[1], sys.argv[2])"


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_many_files_on_threads(scratch, workers):
    edits = [Dir(f"d{i:02}", mtime_ns=OLD + i) for i in range(20)]
    edits += [File(f"d{i % 20:02}/f{i}", b"%d" % i * (i % 50), mtime_ns=OLD + i) for i in range(1_500)]
    edits += [Hardlink(f"d{i % 20:02}/h{i}", f"d{i % 7:02}/f{i % 7}") for i in range(50)]
    source, before = build(scratch / "source", *edits), open_fds()
    result = copy_tree(source, scratch / "copy", workers=workers)
    assert compare(source, scratch / "copy") == []
    assert result == CopyResult(1_571, 1_500, 0, sum(len(b"%d" % i * (i % 50)) for i in range(1_500)))
    assert open_fds() == before
    assert {t.name for t in threading.enumerate() if t.name.startswith("lamella")} == set()


def test_sockets_and_their_names_are_inodes_too(scratch):
    edits = [Dir("d"), Socket("d/s", mode=0o710, mtime_ns=OLD), Hardlink("t", "d/s"), Socket("u"), Fifo("p")]
    source = build(scratch / "source", *edits)
    assert copy_tree(source, scratch / "copy").entries == 6
    assert compare(source, scratch / "copy") == []


def test_what_is_there_already_is_not_mixed_with(scratch):
    source = build(scratch / "source", *SMALL)
    there = build(scratch / "there", File("x"))
    with pytest.raises(FileExistsError) as caught:
        copy_tree(source, there)
    assert caught.value.errno == errno.ENOTEMPTY
    assert os.listdir(there) == ["x"]
    (scratch / "empty").mkdir()
    copy_tree(source, scratch / "empty")
    assert compare(source, scratch / "empty") == []


def test_into_itself_is_once(scratch):
    source = build(scratch / "source", *SMALL)
    copy_tree(source, source / "d/copy")
    assert sorted(os.listdir(source / "d/copy/d")) == ["f"]


def test_nothing_is_inherited(scratch):
    """From a set-group-id directory with a default ACL."""
    source = build(scratch / "source", *SMALL)
    acl = bytes.fromhex("02000000 01000700ffffffff 04000500ffffffff 20000500ffffffff")
    above = build(scratch / "above", Dir("", mode=0o2755, gid=4321 if AS_ROOT else None))
    with contextlib.suppress(OSError):
        os.setxattr(above, "system.posix_acl_default", acl)
    copy_tree(source, above / "copy")
    assert compare(source, above / "copy") == []


@pytest.mark.parametrize("place", ["scratch", "ext4_scratch"])
def test_holes_stay_holes(place, request):
    folder = request.getfixturevalue(place)
    source = build(folder / "source", File("all"), File("some"), File("end"), File("none", b"x" * 100_000))
    os.truncate(source / "all", 10 << 20)
    with open(source / "some", "r+b") as some:
        for at in (1 << 20, 5 << 20, (9 << 20) - 5_000):
            some.seek(at)
            some.write(b"data" * 1_250)
    with open(source / "end", "r+b") as end:
        end.write(b"begin")
        end.truncate(3 << 20)
    result = copy_tree(source, folder / "copy")
    assert compare(source, folder / "copy") == []
    assert [allocated(folder / "copy" / n) for n in ("all", "end")] == [allocated(source / n) for n in ("all", "end")]
    assert allocated(folder / "copy/some") == allocated(source / "some")
    assert result.nbytes < 200_000


@pytest.fixture(scope="module")
def btrfs(home: Path, worker: str) -> Iterator[Path]:
    """Give a fresh file system that shares content."""
    parts.requires("btrfs")
    with contextlib.ExitStack() as undo:
        where = home / f"btrfs-{worker}"
        reason = parts.mount_disk("btrfs", where.with_suffix(".img"), where, parts.BTRFS_NBYTES, undo)
        assert reason is None, reason
        yield where


def test_content_is_shared_where_it_can_be(btrfs, scratch):
    big = os.urandom(4 << 20)
    source = build(btrfs / "source", *SMALL, File("big", big), File("empty"), File("odd", b"x" * 5_000))
    os.truncate(source / "odd", 1 << 20)
    result = copy_tree(source, btrfs / "copy")
    assert compare(source, btrfs / "copy") == []
    assert (result.files, result.shared, result.nbytes) == (4, 3, 0)
    (btrfs / "copy/big").write_bytes(b"changed")
    assert (source / "big").read_bytes() == big
    assert copy_tree(source, scratch / "elsewhere").shared == 0
    assert compare(source, scratch / "elsewhere") == []
    assert copy_tree(scratch / "elsewhere", btrfs / "back").shared == 0
    assert compare(source, btrfs / "back") == []


# -- what goes wrong ------------------------------------------------------------------------------------------------


def test_a_file_that_changes_meanwhile_is_an_error_and_nothing_is_left(scratch, monkeypatch):
    source = build(scratch / "beside/source", *SMALL)
    seen = copy.scan_fd

    def scan_fd(fd: int):
        found = seen(fd)
        (source / "d/f").write_bytes(b"other content")
        return found

    monkeypatch.setattr(copy, "scan_fd", scan_fd)
    before = open_fds()
    with pytest.raises(OSError, match="d/f") as caught:
        copy_tree(source, scratch / "beside/copy")
    assert (caught.value.errno, caught.value.filename) == (errno.ESTALE, str(source / "d/f"))
    assert os.listdir(scratch / "beside") == ["source"]
    assert open_fds() == before


def test_a_file_that_goes_meanwhile_is_an_error(scratch, monkeypatch):
    source = build(scratch / "source", *SMALL)
    made = clone.dirs
    monkeypatch.setattr(clone, "dirs", lambda *args: [made(*args), (source / "d/f").unlink()])
    with pytest.raises(FileNotFoundError) as caught:
        copy_tree(source, scratch / "copy")
    assert caught.value.filename == str(source / "d/f")
    assert os.listdir(scratch) == ["source"]


def test_a_full_disk_ends_every_thread(scratch):
    parts.requires("loop", "mkfs.ext4")
    edits = [Dir(f"d{i}") for i in range(10)]
    edits += [File(f"d{i % 10}/f{i}", bytes([i % 256]) * 20_000) for i in range(1_000)]
    source = build(scratch / "source", *edits)
    with contextlib.ExitStack() as undo:
        where = scratch / "disk"
        assert parts.mount_ext4(scratch / "img", where, 8 << 20, undo) is None
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            copy_tree(source, where / "copy")
        assert sorted(os.listdir(where)) == ["lost+found"]


def test_an_attribute_that_the_target_cannot_hold_is_an_error(scratch, monkeypatch):
    parts.requires("user_xattr")
    source = build(scratch / "source", File("f", xattrs={"user.a": b"1"}))
    seen = copy.scan_fd

    def scan_fd(fd: int):
        found = seen(fd)
        arena = found.table.columns[-1]
        at = bytes(arena).index(b"user.a")
        arena.setflags(write=True)
        arena[at : at + 6] = list(b"what.a")
        return found

    monkeypatch.setattr(copy, "scan_fd", scan_fd)
    with pytest.raises(OSError, match="source/f") as caught:
        copy_tree(source, scratch / "copy")
    assert caught.value.errno == errno.ENOTSUP


def test_an_interrupt_stops_the_copy(scratch, monkeypatch):
    source = build(scratch / "source", *SMALL)

    def run_placing(work, stop, report):
        stop()
        work()

    monkeypatch.setattr(copy, "run_placing", run_placing)
    with pytest.raises(KeyboardInterrupt):
        copy_tree(source, scratch / "copy")
    assert os.listdir(scratch) == ["source"]


def unprivileged(folder: Path) -> list[str]:
    """Copy what an ordinary user has; return how the copy differs."""
    xattrs = {"user.a": b"1"}
    edits = [Dir("d", xattrs=xattrs), File("d/g", b"2", mode=0o4511), File("f", b"1", xattrs=xattrs), Symlink("s", "f")]
    build(folder / "source", *edits, Chmod("f", 0o444), Chmod("d", 0o500))
    copy_tree(folder / "source", folder / "copy")
    return compare(folder / "source", folder / "copy")


@pytest.mark.requires("root")
def test_an_ordinary_user_copies_what_is_his(nobody_box):
    assert nobody_box.call(unprivileged) == []


def test_a_path_longer_than_the_kernel_takes(scratch):
    source = build(scratch / "source", File("f", b"1"))
    fd = os.open(source, os.O_RDONLY)
    for _ in range(30):
        os.mkdir(b"n" * 200, dir_fd=fd)
        deeper = os.open(b"n" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(os.open("deep", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    copy_tree(source, scratch / "copy")
    assert compare(source, scratch / "copy") == []


def test_the_descriptor_is_all_that_is_written_through(scratch):
    """copy_into() makes nothing beside."""
    source, target = build(scratch / "source", *SMALL), build(scratch / "target")
    fd = os.open(target, os.O_RDONLY)
    moved = scratch / "moved"
    target.rename(moved)
    target.mkdir()
    try:
        copy_into(source, fd)
    finally:
        os.close(fd)
    assert compare(source, moved) == []
    assert os.listdir(target) == []
    assert stat.S_IMODE(moved.stat().st_mode) == 0o755


# -- counts ---------------------------------------------------------------------------------------------------------


def calls(scratch: Path, source: Path, name: str) -> Counter[str]:
    """Copy in a child under strace; return how often it made which system call."""
    log = scratch / f"log-{name}"
    argv = ["strace", "-f", "-c", "-o", log, sys.executable, "-B", "-c", CHILD, source, scratch / name]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("COV", "PYTEST"))}
    subprocess.run(argv, check=True, env=env | {"PYTHONPATH": os.pathsep.join(sys.path)})
    rows = [line.split() for line in log.read_text().splitlines()]  # time, seconds, each, calls, perhaps errors, name
    return Counter({row[-1]: int(row[3]) for row in rows if len(row) >= 5 and row[3].isdigit() and row[-1] != "total"})


@pytest.mark.requires("strace")
def test_seven_calls_a_file_and_no_object(scratch):
    """Beside what the walk asks: two opens, a look, the content, the time, two closes; a directory made, opened, closed."""
    n_dirs, n = 20, 2_000
    edits = [Dir(f"d{i:02}") for i in range(n_dirs)]
    files = [File(f"d{i % n_dirs:02}/f{i}", b"x" * (1 + i % 900)) for i in range(n)]
    nothing = calls(scratch, build(scratch / "empty"), "nothing")
    made = calls(scratch, build(scratch / "source", *edits, *files), "copy") - nothing
    del made["futex"], made["statx"], made["listxattrat"], made["llistxattr"], made["flistxattr"]
    assert made["copy_file_range"] == n
    assert made["ioctl"] <= 4  # asked once a thread whether content can be shared
    assert made.total() / n <= 7.4, made


def test_python_does_nothing_for_an_entry(scratch):
    counted = []
    for n in (600, 6_000):
        source = build(scratch / f"source{n}", *(File(f"f{i:04}", mtime_ns=OLD) for i in range(n)))
        events = 0

        def hook(frame, event, arg):
            nonlocal events
            events += event in {"call", "c_call"}

        threading.setprofile(hook)
        sys.setprofile(hook)
        try:
            copy_tree(source, scratch / f"copy{n}")
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
        counted.append(events)
    assert counted[1] - counted[0] < 100, counted
