"""clone: rows of a walked tree to inodes below another directory."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import numpy as np
import pytest

from lamella._kernels import clone
from lamella.columns import AT
from lamella.testing.listing import compare
from lamella.testing.trees import Chmod, Device, Dir, Fifo, File, Hardlink, Symlink, build
from lamella.tree.scan import scan
from tests.kernels.guarded import guarded, guarded_bytes, guarded_columns
from tests.kernels.packing import open_fds
from tests.reference.rows import table_of

AS_ROOT = os.geteuid() == 0
OLD = 1_234_567_890_123_456_789
TREE = (
    Dir("d", mode=0o1751, mtime_ns=OLD),
    File("d/f", b"content" * 3_000, mode=0o640, mtime_ns=-1_500_000_000),
    File("d/g", b"x", mode=0o4711, xattrs={"user.a": b"1", "user.b": b""}),
    Hardlink("e", "d/g"),
    Dir("d/deep"),
    Dir("d/deep/er", mode=0),
    File("d/deep/empty", mode=0o600),
    Symlink("s", "\xff"),
    Hardlink("z", "s"),
    Fifo("p", mode=0o620),
    File(".wh.f", b"an ordinary name here"),
)
OWNED = (Dir("o", uid=1, gid=2), File("o/f", b"1", uid=3, mode=0o6755), Symlink("o/s", "x", gid=4),
         Device("o/c", major=0, minor=0), Device("o/b", kind="block", major=7, minor=9, mode=0o660))  # fmt: skip


class Copy:
    """A copy of ``source``, step by step, with memory of any size."""

    def __init__(self, source: Path, target: Path, table=None, *, fit=np.array, scratch=1 << 16, **options):
        target.mkdir(exist_ok=True)
        self.table = scan(source) if table is None else table
        self.columns = guarded_columns(self.table.columns) if fit is guarded else self.table.columns
        self.turns = fit(np.array([-(-len(self.table) // clone.RUN)], np.uint64))
        self.scratch, self.options = scratch, options
        self.source, self.target = source, target

    def files(self, source: int, target: int):
        return clone.files(source, target, self.columns, self.turns, guarded_bytes(self.scratch), **self.options)

    def run(self):
        """Return what files() did."""
        before = open_fds()
        source, target = (os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (self.source, self.target))
        umask = os.umask(0)
        try:
            clone.dirs(target, self.columns)
            counts = self.files(source, target)
            clone.links(target, self.columns)
            clone.finish(target, self.columns)
            return counts
        finally:
            os.umask(umask)
            os.close(source)
            os.close(target)
            assert open_fds() == before


@pytest.fixture
def source(scratch: Path) -> Path:
    return build(scratch / "source", *TREE, *(OWNED if AS_ROOT else ()))


def failure(number: int):
    return pytest.raises(OSError, match=os.strerror(number).replace("(", r"\("))


@pytest.mark.parametrize("options", [{}, {"share": False}, {"ranges": False}, {"share": False, "ranges": False}])
@pytest.mark.parametrize("nbytes", [1, 2, 7, 4_096, 1 << 16])
def test_every_road_gives_the_same(scratch, source, nbytes, options):
    files, shared, copied = Copy(source, scratch / "copy", fit=guarded, scratch=nbytes, **options).run()
    assert compare(source, scratch / "copy") == []
    assert (files, shared, copied) == (4 + AS_ROOT, 0, 21_000 + 1 + 21 + AS_ROOT)


@pytest.mark.parametrize("ranges", [True, False])
def test_regions_between_holes(scratch, ranges):
    source = build(scratch / "source", File("a"), File("b"))
    with open(source / "a", "r+b") as file:
        for at in (100_000, 1_000_000, 3_000_001):
            file.seek(at)
            file.write(b"data")
        file.truncate(5_000_003)
    os.truncate(source / "b", 1 << 30)
    _, _, copied = Copy(source, scratch / "copy", ranges=ranges).run()
    assert compare(source, scratch / "copy") == []
    assert copied <= 3 * 2 * 4_096
    assert (scratch / "copy/a").stat().st_blocks == (source / "a").stat().st_blocks
    assert (scratch / "copy/b").stat().st_blocks == 0


def test_no_rows_and_a_root_alone(scratch):
    source = build(scratch / "source", Dir("", mode=0o2705, mtime_ns=OLD))
    assert Copy(source, scratch / "none", table_of([], origin="tree")).run() == (0, 0, 0)
    assert Copy(source, scratch / "copy").run() == (0, 0, 0)
    assert compare(source, scratch / "copy") == []


def test_threads_share_the_turns(scratch):
    source = build(scratch / "source", *(Dir(f"d{i}") for i in range(9)), *(File(f"d{i % 9}/{i}") for i in range(700)))
    copy, counts = Copy(source, scratch / "copy"), []
    alone = copy.files

    def shared(*fds):
        others = [threading.Thread(target=lambda: counts.append(alone(*fds))) for _ in range(3)]
        for thread in others:
            thread.start()
        counts.append(alone(*fds))
        for thread in others:
            thread.join()

    copy.files = shared
    copy.run()
    assert compare(source, scratch / "copy") == []
    assert sum(files for files, _, _ in counts) == 700


@pytest.mark.parametrize("turns", [0, 1, 1 << 31, (1 << 64) - 1, 5 << 32])
def test_turns_of_no_table_end(scratch, source, turns):
    copy = Copy(source, scratch / "copy")
    copy.turns[0] = turns
    if turns in (1, 1 << 31):
        copy.run()
        assert compare(source, scratch / "copy") == []
    else:
        with failure(errno.ENOENT):  # a further name of what was not made
            copy.run()


# -- rows that are not what is there ---------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["size", "ino", "mtime", "mtime_nsec"])
def test_a_file_that_is_not_its_row(scratch, source, column):
    table = scan(source)
    table.columns[AT[column]].setflags(write=True)
    table.columns[AT[column]][table.find(b"d/f")] += 1
    with failure(errno.ESTALE) as caught:
        Copy(source, scratch / "copy", table).run()
    assert caught.value.filename == b"d/f"


@pytest.mark.parametrize(
    ("edit", "number"),
    [
        (Fifo("d/f"), errno.ESTALE),
        (Symlink("d/f", "g"), errno.ELOOP),
        (Dir("d/f"), errno.ESTALE),
        (File("d/f", b"content" * 3_000, mtime_ns=-1_500_000_000), errno.ESTALE),
    ],
)
def test_something_else_has_its_name(scratch, source, edit, number):
    table = scan(source)
    spare = os.open(source / "d/f", os.O_RDONLY)  # or its inode's number might be given again
    os.unlink(source / "d/f")
    build(source, edit)
    with failure(number):
        Copy(source, scratch / "copy", table).run()
    os.close(spare)


def test_no_link_is_followed(scratch, source):
    treasure = build(scratch / "treasure", File("f", b"secret"))
    for side in ("source", "copy"):
        table, target = scan(source), scratch / f"copy-{side}"
        target.mkdir()
        aside = (source if side == "source" else target) / "d"
        if side == "source":
            aside.rename(scratch / "aside")
            aside.symlink_to(treasure)
            with failure(errno.ELOOP):
                Copy(source, target, table).run()
            aside.unlink()
            (scratch / "aside").rename(aside)
        else:
            aside.symlink_to(treasure)
            with failure(errno.EEXIST):
                Copy(source, target, table).run()
    assert os.listdir(treasure) == ["f"]
    assert (treasure / "f").read_bytes() == b"secret"


def test_a_directory_that_becomes_a_link_is_not_gone_through(scratch, source):
    treasure = build(scratch / "treasure")
    copy = Copy(source, scratch / "copy")
    alone = copy.files

    def files(*fds):
        os.rename(scratch / "copy/d", scratch / "copy/aside")
        os.symlink(treasure, scratch / "copy/d")
        return alone(*fds)

    copy.files = files
    with failure(errno.ELOOP):
        copy.run()
    assert os.listdir(treasure) == []


def row(path, **fields):
    return {"path": path, "type": "2", "link_target": "x", **fields}


@pytest.mark.parametrize("path", ["..", "../out", "a/../../out", "a//out", "./out", "a/.", "a\0b"])
def test_paths_that_lead_out(scratch, path):
    (scratch / "inside").mkdir()
    rows = [{"path": "a", "type": "5"}, row(path)]
    with pytest.raises(OSError, match=".") as caught:
        Copy(scratch / "inside", scratch / "inside/copy", table_of(rows, origin="tree")).run()
    assert caught.value.errno in {errno.EXDEV, errno.ENOENT}
    assert os.listdir(scratch) == ["inside"]
    assert os.listdir(scratch / "inside/copy") == ["a"]


def test_a_path_from_the_root_is_one_from_the_target(scratch):
    (scratch / "inside").mkdir()
    Copy(scratch / "inside", scratch / "copy", table_of([row("/out")], origin="tree")).run()
    assert os.listdir(scratch / "copy") == ["out"]


def spoilt(column: str, at: int, value: int):
    """Return a small table of symlinks with one number changed."""
    rows = [{"path": "", "type": "5"}, row("a", xattrs={"trusted.a": b"1"}), row("b"), row("c")]
    table = table_of(rows, origin="tree")
    table.columns[AT[column]].setflags(write=True)
    table.columns[AT[column]][at] = value
    return table


@pytest.mark.parametrize(
    ("column", "value", "number"),
    [
        ("name_off", -1, errno.EINVAL),
        ("name_off", 1 << 40, errno.EINVAL),
        ("path_len", 0xFFFF, errno.EINVAL),
        ("path_len", 0, errno.EXDEV),
        ("link_len", 0xFFFF, errno.EINVAL),
        ("link_len", 0, errno.EINVAL),
        ("ext_off", -5, errno.EINVAL),
        ("ext_off", 1 << 40, errno.EINVAL),
        ("ext_len", 3, errno.EINVAL),
        ("type", ord("1"), errno.EINVAL),
        ("type", 0, errno.EINVAL),
        ("link_group", 0, errno.EXDEV),
    ],
)
def test_numbers_that_point_nowhere(scratch, column, value, number):
    (scratch / "source").mkdir()
    table = spoilt(column, 1, value)
    with failure(number):
        Copy(scratch / "source", scratch / "copy", table, fit=guarded).run()


@pytest.mark.parametrize("value", [-1, 2, 3, -(1 << 31), (1 << 31) - 1])
def test_a_link_group_that_is_none_of_the_rows_before(scratch, value):
    """It is the first of its names, as far as the rows before tell."""
    (scratch / "source").mkdir()
    table = spoilt("link_group", 2, value)
    table.columns[AT["ext_len"]].setflags(write=True)
    table.columns[AT["ext_len"]][1] = 0
    Copy(scratch / "source", scratch / "copy", table, fit=guarded).run()
    assert sorted(os.listdir(scratch / "copy")) == ["a", "b", "c"]


@pytest.mark.parametrize("what", ["name", "dir", "file", "link"])
def test_what_stands_in_the_way_is_an_error(scratch, what):
    source = build(scratch / "source", Dir("d"), File("d/f"), Symlink("l", "x"), Hardlink("m", "l"))
    path = {"name": "l", "dir": "d", "file": "d/f", "link": "m"}[what]
    copy = Copy(source, scratch / "copy")
    at = scratch / "copy" / path
    alone = copy.files
    if what == "file":
        copy.files = lambda *fds: [at.write_bytes(b"there"), alone(*fds)]
    else:
        at.write_bytes(b"there")
    with failure(errno.EEXIST) as caught:
        copy.run()
    assert caught.value.filename == os.fsencode(path)
    assert at.read_bytes() == b"there"


def test_a_name_too_long(scratch):
    (scratch / "source").mkdir()
    with failure(errno.ENAMETOOLONG):
        Copy(scratch / "source", scratch / "copy", table_of([row("n" * 256)], origin="tree")).run()


@pytest.mark.parametrize("name", [b"", b"user.\0", b"user." + b"n" * 300])
def test_names_that_no_attribute_has(scratch, name):
    source = build(scratch / "source", File("f"))
    found = (source / "f").stat()
    row = {"path": "f", "mtime_ns": found.st_mtime_ns, "ino": found.st_ino, "dev": found.st_dev, "xattrs": {name: b"1"}}
    with failure(errno.EINVAL):
        Copy(source, scratch / "copy", table_of([row], origin="tree")).run()


def test_a_time_that_the_file_system_cuts_off(scratch, ext4_scratch):
    source = build(scratch / "source", File("f", mtime_ns=2**34 * 10**9))
    with failure(errno.EOVERFLOW):
        Copy(source, ext4_scratch / "copy").run()
    os.utime(source / "f", ns=(0, 2**33 * 10**9 + 5))
    Copy(source, ext4_scratch / "copy2").run()
    assert compare(source, ext4_scratch / "copy2") == []


@pytest.mark.requires("root")
def test_modes_do_not_depend_on_the_owner_s_rights(scratch):
    edits = [Dir("d"), File("d/f", b"1"), Chmod("d/f", 0o070), Chmod("d", 0o1000)]
    source = build(scratch / "source", *edits)
    Copy(source, scratch / "copy").run()
    assert compare(source, scratch / "copy") == []
    assert stat.S_IMODE((scratch / "copy/d").stat().st_mode) == 0o1000


def test_buffers_that_fit_no_copy(scratch, source):
    fd = os.open(source, os.O_RDONLY)
    columns, one = scan(source).columns, np.zeros(1, np.uint64)
    tar = table_of([{"path": "a"}]).columns
    try:
        for turns, scratch_, cols in ((np.zeros(2, np.uint64), bytearray(9), columns), (one, bytearray(), columns),
                                      (one, bytearray(9), tar)):  # fmt: skip
            with pytest.raises(ValueError, match=r"turns has one item|not those of a walk"):
                clone.files(fd, fd, cols, turns, scratch_)
        for step in (clone.dirs, clone.links, clone.finish):
            with pytest.raises(ValueError, match="not those of a walk"):
                step(fd, tar)
    finally:
        os.close(fd)
