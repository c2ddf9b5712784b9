"""content.same: files of two trees compared in pairs."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from lamella._kernels import content
from lamella.columns import AT
from tests.kernels.guarded import guarded, guarded_bytes, guarded_columns
from tests.kernels.packing import PATTERN, as_nobody, open_fds
from tests.reference.rows import table_of

DIFFERENT, SAME, UNREADABLE, UNSET = 0, 1, 2, 9


class Trees:
    """Two folders, ``a`` and ``b``, with a file for each pair."""

    def __init__(self, scratch, pairs, **columns):
        self.roots = [scratch / "a", scratch / "b"]
        self.paths = list(pairs)
        self.tables = []
        for root, side in zip(self.roots, (0, 1), strict=True):
            for name, data in pairs.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(data[side])
            rows = [{"path": n, "size": len(data[side])} | columns for n, data in pairs.items()]
            self.tables.append(table_of(rows, origin="tree"))

    def same(self, rows=None, *, scratch=None, out=None, **options):
        """Compare; return the verdicts."""
        rows = np.arange(len(self.paths)) if rows is None else rows
        out = np.full(len(rows), UNSET, np.uint8) if out is None else out
        scratch = np.zeros(1 << 18, np.uint8) if scratch is None else scratch
        fds = [os.open(root, os.O_PATH | os.O_DIRECTORY) for root in self.roots]
        a, b = (table.columns for table in self.tables)
        try:
            assert content.same(fds[0], a, fds[1], b, rows, rows, out, scratch, **options) == len(rows)
        finally:
            for fd in fds:
                os.close(fd)
        return out.tolist()


PAIRS = {
    "a": (b"same", b"same"),
    "b/c": (b"1", b"2"),
    "b/d": (b"", b""),
    "b/e": (PATTERN, PATTERN),
    "b/f": (PATTERN + b"1", PATTERN + b"2"),
    "b/g": (b"1" + PATTERN, b"2" + PATTERN),
    "c/h": (b"size", b"sizes"),
    "d/e/f/g": (PATTERN * 100, PATTERN * 100),
    "d/e/f/h": (PATTERN * 100, PATTERN * 99 + PATTERN[:-1] + b"x"),
}
VERDICTS = [SAME, DIFFERENT, SAME, SAME, DIFFERENT, DIFFERENT, DIFFERENT, SAME, DIFFERENT]


@pytest.mark.parametrize("by_parts", [False, True])
@pytest.mark.parametrize("nbytes", [1024, 1025, 5000, 1 << 18, 1 << 22])
def test_pairs(scratch, nbytes, by_parts):
    before = open_fds()
    trees = Trees(scratch, PAIRS)
    assert trees.same(scratch=np.zeros(nbytes, np.uint8), by_parts=by_parts) == VERDICTS
    assert open_fds() == before


def test_any_order_and_no_pairs(scratch):
    trees = Trees(scratch, PAIRS)
    assert trees.same(np.array([7, 0, 7, 4, 1])) == [SAME, SAME, SAME, DIFFERENT, DIFFERENT]
    assert trees.same(np.zeros(0, np.int64)) == []


def test_buffers_may_end_where_memory_ends(scratch):
    trees = Trees(scratch, PAIRS)
    for table in trees.tables:
        table.columns = guarded_columns(table.columns)
    rows = guarded(np.arange(len(PAIRS)))
    for nbytes in (1024, 3000, 1 << 16):
        assert trees.same(rows, scratch=guarded_bytes(nbytes), out=guarded_bytes(len(rows))) == VERDICTS


def test_one_inode_is_not_read(scratch):
    trees = Trees(scratch, {"a": (b"1", b"2"), "b": (b"1", b"2")}, dev=5, ino=6)
    assert trees.same() == [SAME, SAME]
    trees.tables[1].columns[AT["dev"]][1] = 7
    assert trees.same() == [SAME, DIFFERENT]
    assert content.same(-1, trees.tables[0].columns, -1, trees.tables[1].columns, *[np.zeros(1, np.int64)] * 2,
                        bytearray(1), bytearray(2048)) == 1  # fmt: skip


@pytest.mark.parametrize("side", [0, 1])
def test_101_what_is_gone_is_marked(scratch, side):
    trees = Trees(scratch, dict.fromkeys(("a", "b", "c", "d/e", "f", "g/h"), (b"12345", b"12345")))
    root = trees.roots[side]
    (root / "a").unlink()
    (root / "b").unlink()
    (root / "b").symlink_to("c")
    (root / "d").rename(root / "moved")
    (root / "d").symlink_to("moved")
    (root / "f").unlink()
    os.mkfifo(root / "f")
    assert trees.same() == [UNREADABLE, UNREADABLE, SAME, UNREADABLE, UNREADABLE, SAME]
    assert trees.same(by_parts=True) == [UNREADABLE, UNREADABLE, SAME, UNREADABLE, UNREADABLE, SAME]


@pytest.mark.parametrize("side", [0, 1])
def test_a_file_of_another_size_by_now_is_different(scratch, side):
    trees = Trees(scratch, {"a": (b"12345", b"12345"), "b": (b"12345", b"12345")})
    (trees.roots[side] / "a").write_bytes(b"1234")
    (trees.roots[side] / "b").write_bytes(b"123456")
    assert trees.same() == [DIFFERENT, DIFFERENT]


@pytest.mark.requires("root")
@pytest.mark.parametrize("side", [0, 1])
def test_what_may_not_be_read_is_marked(scratch, side):
    trees = Trees(scratch, {"a": (b"12345", b"12345"), "b": (b"12345", b"12345")})
    (trees.roots[side] / "a").chmod(0)
    found = []
    as_nobody(lambda: found.append(trees.same()))
    assert found == [[UNREADABLE, SAME]]


@pytest.mark.parametrize("side", [0, 1])
def test_an_error_names_the_path(scratch, side):
    trees = Trees(scratch, {"a": (b"1", b"1"), "b": (b"1", b"1")})
    trees.tables[side] = table_of([{"path": "a", "size": 1}, {"path": "x/../b", "size": 1}], origin="tree")
    out = np.full(2, UNSET, np.uint8)
    before = open_fds()
    with pytest.raises(OSError, match="cross-device") as caught:
        trees.same(out=out)
    assert caught.value.filename == b"x/../b"
    assert out.tolist() == [SAME, UNSET]
    assert open_fds() == before


def test_only_regular_files_are_pairs(scratch):
    trees = Trees(scratch, {"a": (b"1", b"1")})
    for row in (-1, 1, 2**62):
        with pytest.raises(ValueError, match="not of two regular files"):
            trees.same(np.array([row]))
    trees.tables[1].columns[AT["type"]][0] = ord("2")
    with pytest.raises(ValueError, match="not of two regular files"):
        trees.same()


def test_wrong_buffers(scratch):
    trees = Trees(scratch, {"a": (b"1", b"1")})
    with pytest.raises(ValueError, match="scratch"):
        trees.same(scratch=np.zeros(1023, np.uint8))
    with pytest.raises(ValueError, match="length"):
        trees.same(out=np.zeros(0, np.uint8))
    with pytest.raises(ValueError, match="length"):
        content.same(-1, trees.tables[0].columns, -1, trees.tables[1].columns, np.zeros(1, np.int64),
                     np.zeros(2, np.int64), bytearray(2), bytearray(2048))  # fmt: skip
    with pytest.raises(ValueError, match="columns"):
        content.same(-1, trees.tables[0].columns, -1, (), *[np.zeros(1, np.int64)] * 2, bytearray(1), bytearray(2048))


def test_two_threads_on_two_ranges(scratch):
    trees = Trees(scratch, {f"{n % 9}/{n}": (PATTERN[:n], PATTERN[: n - n % 2] + b"x" * (n % 2)) for n in range(400)})
    out = np.full(400, UNSET, np.uint8)

    def work(begin: int, end: int) -> None:
        trees.same(np.arange(begin, end), out=out[begin:end])

    threads = [threading.Thread(target=work, args=half) for half in ((0, 190), (190, 400))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = [PATTERN[:n] == PATTERN[: n - n % 2] + b"x" * (n % 2) for n in range(400)]
    assert out.tolist() == [int(same) for same in expected]


CHILD = """
import sys
from pathlib import Path
from tests.kernels.test_content_same import Trees
Trees(Path(sys.argv[1]), {f"d/{n:04}": (b"x" * 700, b"x" * 700) for n in range(400)}).same()
"""


@pytest.mark.requires("strace")
def test_eight_system_calls_a_pair(scratch):
    log = scratch / "log"
    argv = ["strace", "-f", "-o", str(log), sys.executable, "-c", CHILD, str(scratch)]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("COVERAGE", "PYTEST"))}
    subprocess.run(argv, check=True, env=env | {"PYTHONPATH": os.pathsep.join(sys.path)})
    opened = [n for n, line in enumerate(log.read_text().splitlines()) if "O_NOATIME" in line]
    assert len(opened) == 800
    assert (opened[-1] - opened[1]) / 399 <= 8.05


@pytest.mark.skipif(platform.machine() not in {"x86_64", "aarch64"}, reason="_syscall.pxd knows no other registers")
def test_no_call_of_a_pair_goes_through_the_c_library():
    strings = set(Path(content.__file__).read_bytes().split(b"\0"))
    assert strings & {b"pread", b"pread64", b"fstat", b"fstat64"} == set()
    assert b"lseek" in strings or b"lseek64" in strings
