"""block/: one ext4 image, what is refused, the index of names, content, and what a file delta costs and cannot see."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lamella
from lamella.block import names as names_module
from lamella.block.contents import ImageContent
from lamella.block.ext4 import Ext4Image, has_journal_to_replay, is_ext4
from lamella.block.files import file_delta
from lamella.block.inodes import changed_inodes
from lamella.block.names import Names
from lamella.errors import FilesystemError, FormatError, LamellaError, UnrecoveredJournal, UnsupportedFilesystem
from lamella.testing.trees import Dir, File, Hardlink, Rename, build
from tests import parts
from tests.block.deltas import MIB, States, compare, differing, facts, indexed, layer
from tests.block.workshop import frozen, make, mounted

NOTHING = np.empty((0, 2), np.int64)


@contextlib.contextmanager
def image_of(path: Path, base: int = 0) -> Any:
    """Open an image."""
    fd = os.open(path, os.O_RDONLY)
    try:
        yield Ext4Image(fd, base=base)
    finally:
        os.close(fd)


@contextlib.contextmanager
def states(folder: Path, *options: str, nbytes: int = 24 * MIB) -> Any:
    """Lend successive states, and the stack their mounts are on."""
    with contextlib.ExitStack() as undo:
        made = States(folder, options, undo, nbytes)
        yield made, undo.enter_context(contextlib.ExitStack())


# -- what is refused --------------------------------------------------------------------------------------------------


def refusals(folder: Path) -> dict[str, tuple[str, str]]:
    """Say what is refused, and how."""
    said = {}
    made = {
        "encrypted": ("-O", "encrypt"), "casefold": ("-O", "casefold"), "journal": ("-O", "journal_dev"),
        "plain": (), "128": ("-I", "128"), "64k": ("-b", "65536", "-I", "8192"),
    }  # fmt: skip
    for name, options in made.items():
        make(folder / name, (64 if name == "64k" else 8) * MIB, *options)
    (folder / "zeros").write_bytes(bytes(MIB))
    (folder / "short").write_bytes(b"s")
    feature = bytearray((folder / "plain").read_bytes())
    struct.pack_into("<I", feature, 1024 + 0x60, struct.unpack_from("<I", feature, 1024 + 0x60)[0] | 0x80000000)
    (folder / "unknown").write_bytes(feature)
    for name in (*made, "zeros", "short", "unknown"):
        try:
            with image_of(folder / name):
                said[name] = ("", "")
        except UnsupportedFilesystem as error:
            said[name] = type(error).__name__, error.reason
    return said


def test_what_is_not_understood_is_refused_by_name(workshop):
    said = workshop.call(refusals)
    kind = "UnsupportedFilesystem"
    assert said == {
        "encrypted": (kind, "it has encrypted files"), "casefold": (kind, "it has directories that fold case"),
        "journal": (kind, "it has a journal alone, on a device of its own"), "plain": ("", ""), "128": ("", ""),
        "64k": (kind, "it has inodes of 8192 bytes"), "zeros": (kind, "not an ext4 file system"),
        "short": (kind, "not an ext4 file system"), "unknown": (kind, "it has features that are not known (0x80000000)"),
    }  # fmt: skip


def journals(folder: Path) -> list[Any]:
    """Copy a file system while it is in use, frozen, and unmounted; tell whether each has a journal to replay."""
    disk, said = folder / "disk", []
    make(disk, 8 * MIB)
    with mounted(disk, folder / "live") as live:
        (live / "f").write_bytes(b"f")
        os.sync()
        (folder / "used").write_bytes(disk.read_bytes())
        with frozen(live):
            (folder / "frozen").write_bytes(disk.read_bytes())
    for name in ("used", "frozen", "disk"):
        with open(folder / name, "rb") as file:
            fd = file.fileno()
            try:
                found = {name for _, _, name in names_module.entries(Ext4Image(fd), [2])}
            except UnrecoveredJournal as error:
                found = error.reason
            said.append((is_ext4(fd), has_journal_to_replay(fd), found))
    return said


def test_a_journal_that_is_to_be_replayed_is_refused_and_said(workshop):
    reason = "the journal is still to be replayed: it was neither unmounted nor frozen"
    used, still, unmounted = workshop.call(journals)
    assert used == (True, True, reason)
    assert still == unmounted == (True, False, {b"f", b"lost+found"})


def geometries(folder: Path) -> str:
    """Compare a file system with itself, resized."""
    disk = folder / "disk"
    make(disk, 16 * MIB, "-b", "1024", "-g", "1024")
    (folder / "old").write_bytes(disk.read_bytes())
    os.truncate(disk, 32 * MIB)
    reason = parts.run("resize2fs", str(disk))
    assert reason is None, reason
    with image_of(folder / "old") as old, image_of(disk) as new, pytest.raises(UnsupportedFilesystem) as info:
        file_delta(old, new, NOTHING)
    return info.value.reason


def test_one_that_was_resized_is_refused(workshop):
    assert workshop.call(geometries) == "the two are not of one geometry: it was resized, or it is another file system"


# -- deltas -----------------------------------------------------------------------------------------------------------


def same_second(folder: Path) -> list[Any]:
    """Write to a file in the second in which it was made: with inodes of 128 bytes nothing of its inode tells."""
    with states(folder, "-I", "128", "-b", "1024") as (made, mounts):
        build(made.live, File("f", b"1" * 5000), File("g", b"g" * 5000))
        while time.time() % 1 > 0.2:
            time.sleep(0.01)
        (made.live / "f").write_bytes(b"1" * 5000)
        low = made.copy(mounts)
        with open(made.live / "f", "r+b") as file:
            file.write(b"2")
        up = made.copy(mounts)
        compare(low, up, None, {})
        with image_of(low[0]) as lower, image_of(up[0]) as upper:
            found = file_delta(lower, upper, differing(low[0], up[0])).changeset
            return [(c.path, c.why) for c in found]


def test_what_is_written_in_the_second_of_the_snapshot_is_seen(workshop):
    assert workshop.call(same_second) == [(b"f", lamella.Why.CONTENT)]


def only_read(folder: Path) -> tuple[int, int]:
    """Have access times written, which a first read does."""
    with states(folder) as (made, mounts):
        build(made.live, Dir("d"), *(File(f"d/{n}", b"x") for n in range(50)))
        low = made.copy(mounts)
        for path in (made.live / "d").iterdir():
            path.read_bytes()
        up = made.copy(mounts)
        with image_of(low[0]) as lower, image_of(up[0]) as upper:
            ranges = differing(low[0], up[0])
            return len(ranges), len(changed_inodes(lower, upper, ranges).numbers)


def test_to_read_is_no_change(workshop):
    n_ranges, n_changed = workshop.call(only_read)
    assert n_ranges > 0
    assert n_changed == 0


def costs(folder: Path, n: int) -> dict[str, Any]:
    """Make a tree of ``n`` directories of 20 files and three changes, and count what is looked at with an index."""
    with states(folder, nbytes=64 * MIB) as (made, mounts):
        build(made.live, *(edit for i in range(n) for edit in (Dir(f"d{i}"), *(File(f"d{i}/f{k}") for k in range(20)))))
        low = made.copy(mounts)
        with image_of(low[0]) as lower:
            index = Names.scan(lower)
        (made.live / "d1" / "f1").write_bytes(b"other")
        (made.live / "d2" / "f2").unlink()
        (made.live / "d3" / "new").write_bytes(b"")
        up = made.copy(mounts)
        listed = []
        whole = names_module.entries
        with image_of(low[0]) as lower, image_of(up[0]) as upper:
            names_module.kernel = Counting(names_module.kernel, listed)
            try:
                found = file_delta(lower, upper, differing(low[0], up[0]), lower_names=index).changeset
            finally:
                names_module.kernel = names_module.kernel.kernel
        assert whole is names_module.entries
        return {"rows": (len(found.lower), len(found.upper)), "listed": listed, "paths": [c.path for c in found]}


class Counting:
    """The kernel of directories, and how many are asked for."""

    def __init__(self, kernel: Any, listed: list[int]) -> None:
        self.kernel, self.listed = kernel, listed

    def entries(self, *args: Any) -> int:
        self.listed.append(len(args[4]))
        return self.kernel.entries(*args)


def test_the_cost_is_that_of_the_changes(workshop):
    few, many = (workshop.call(costs, n) for n in (6, 60))
    assert few == many
    assert few["paths"] == [b"d1/f1", b"d2/f2", b"d3/new"]
    assert few["listed"] == [2, 2]
    assert max(few["rows"]) <= 10


def moved(folder: Path) -> None:
    """Move a directory with links in and out of it, put another in its place, and look with and without an index."""
    with states(folder, "-b", "1024") as (made, mounts):
        build(made.live, Dir("a"), Dir("a/s"), File("a/s/f", b"f"), Hardlink("out", "a/s/f"), File("a/g"), Dir("b"), File("b/g"))
        low = made.copy(mounts)
        build(made.live, Rename("a", "z"), Dir("a"), Dir("a/s"), File("a/s/f", b"f"), Rename("b", "y"), Dir("b"))
        os.sync()
        up = made.copy(mounts)
        with image_of(low[0]) as lower:
            index = Names.scan(lower)
        for names in (None, index):
            compare(low, up, names, {})


def test_a_directory_that_moved_and_one_in_its_place(workshop):
    workshop.call(moved)


def at_a_base(folder: Path) -> None:
    """Look at a file system that begins inside a file."""
    with states(folder, "-b", "1024") as (made, mounts):
        build(made.live, File("f", b"f" * 9000), Dir("d"), File("d/g"))
        low = made.copy(mounts)
        build(made.live, File("f", b"g" * 9000))
        up = made.copy(mounts)
        shifted = []
        for image, _ in (low, up):
            shifted.append(image.with_suffix(".shifted"))
            shifted[-1].write_bytes(bytes(12_288) + image.read_bytes())
        with image_of(shifted[0], 12_288) as lower, image_of(shifted[1], 12_288) as upper:
            found = file_delta(lower, upper, differing(low[0], up[0])).changeset
            wanted = lamella.changes(low[1], up[1])
            assert (facts(found), layer(found)) == (facts(wanted), layer(wanted))


def test_a_file_system_in_a_file(workshop):
    workshop.call(at_a_base)


def from_the_mount(folder: Path) -> None:
    """Take content from where the upper is mounted."""
    with states(folder) as (made, mounts):
        low = made.copy(mounts)
        build(made.live, File("f", b"f" * 9000))
        up = made.copy(mounts)
        with image_of(low[0]) as lower, image_of(up[0]) as upper:
            found = file_delta(lower, upper, differing(low[0], up[0]), root=up[1]).changeset
        assert layer(found) == layer(lamella.changes(low[1], up[1]))


def test_content_may_come_from_a_mount(workshop):
    workshop.call(from_the_mount)


# -- content ----------------------------------------------------------------------------------------------------------


def holes(folder: Path) -> list[Any]:
    """Read files with holes, what was promised room and never written, and small ones that lie in their inode."""
    with states(folder, "-b", "1024", "-I", "256", "-O", "inline_data") as (made, mounts):
        top = made.live
        with (top / "holey").open("wb") as file:
            for at in (3, 40, 41, 90):
                os.pwrite(file.fileno(), bytes([at]) * 1024, at * 1024)
            os.truncate(file.fileno(), 100_000)
        with (top / "promised").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, 9000)
        (top / "small").write_bytes(b"s" * 100)
        os.truncate(top / "small", 120)
        (top / "nothing").write_bytes(b"")
        (top / "tail").write_bytes(b"t" * 1500)
        image, mount = made.copy(mounts)
        with image_of(image) as found:
            table = lamella.scan(mount)
            content = ImageContent(found, table)
            for row in table:
                if row.type is lamella.EntryType.FILE:
                    assert b"".join(map(bytes, content.chunks(row))) == (mount / row.name).read_bytes(), row
            sparse = content.with_holes(table)
            return [(row.name, None if row.sparse is None else row.sparse.tolist()) for row in sparse if row.size]


def test_content_is_read_by_where_it_lies(workshop):
    assert workshop.call(holes) == [
        ("holey", [[3072, 1024], [40_960, 2048], [92_160, 1024]]), ("promised", []), ("small", None), ("tail", None),
    ]  # fmt: skip


def compared(folder: Path) -> list[tuple[bytes, str]]:
    """Compare files of one size and second, most of whose bytes are holes, and very many of them."""
    with states(folder, "-b", "1024") as (made, mounts):
        top, at = made.live, (0, 50_000, (1 << 33) + 5000)
        for name in ("same", "other", "moved", "end"):
            with (top / name).open("wb") as file:
                for place in at:
                    os.pwrite(file.fileno(), b"d" * 3000, place)
                os.truncate(file.fileno(), 1 << 34)
        low = made.copy(mounts)
        for name, place in (("same", at[2]), ("other", at[1]), ("end", (1 << 34) - 1)):
            with (top / name).open("r+b") as file:
                os.pwrite(file.fileno(), b"d" if name == "same" else b"e", place)
        with (top / "moved").open("r+b") as file:
            os.pwrite(file.fileno(), bytes(3000), at[0])
            os.pwrite(file.fileno(), b"d" * 3000, 10_000)
        up = made.copy(mounts)
        begin = time.monotonic()
        with image_of(low[0]) as lower, image_of(up[0]) as upper:
            found = file_delta(lower, upper, differing(low[0], up[0]), content="always").changeset
        assert time.monotonic() - begin < 20  # it ends
        return [(c.path, "CONTENT" if c.why & lamella.Why.CONTENT else str(c.why)) for c in found]


def test_large_holes_are_not_read(workshop):
    said = dict(workshop.call(compared))
    assert said == {b"same": "Why.MTIME", b"other": "CONTENT", b"moved": "CONTENT", b"end": "CONTENT"}


# -- the index of names -----------------------------------------------------------------------------------------------


def kept(folder: Path) -> list[str]:
    """Save an index, load it, and have others refused."""
    said = []
    with states(folder) as (made, mounts):
        build(made.live, Dir("d"), *(File(f"d/{'x' * (n % 90)}{n}") for n in range(300)), Hardlink("e", "d/0"))
        first, second = made.copy(mounts), None
        file = folder / "index"
        with image_of(first[0]) as image:
            index = Names.scan(image)
            index.save(file)
            again = Names.load(file, image)
            assert indexed(again) == indexed(index)
            assert len(index) == 303
            raw = file.read_bytes()
            for damaged in (b"", raw[:50], raw[:-1], raw + b"1", raw[:-1] + b"\0", b"X" + raw[1:]):
                (folder / "damaged").write_bytes(damaged)
                with pytest.raises(FormatError) as info:
                    Names.load(folder / "damaged", image)
                said.append(str(info.value))
        build(made.live, File("new"))
        second = made.copy(mounts)
        with image_of(first[0]) as lower, image_of(second[0]) as upper:
            with pytest.raises(FormatError) as info:
                Names.load(file, upper)
            said.append(str(info.value))
            with pytest.raises(ValueError, match="names of another state"):
                file_delta(upper, lower, NOTHING, lower_names=index)
    return said


def test_an_index_is_kept_in_a_file_and_is_of_one_state(workshop):
    said = workshop.call(kept)
    assert said[:2] == ["an index of names that ends early"] * 2
    assert said[2:-1] == ["no index of names, or a damaged one"] * 4
    assert said[-1] == "an index of names of another state of the file system"


def index_of(*names: tuple[int, int, bytes]) -> Names:
    """Make an index by hand."""
    names = tuple(sorted(names))
    text = b"".join(name for _, _, name in names)
    sizes = np.array([len(name) for _, _, name in names])
    columns = (
        np.array([n for n, _, _ in names], np.uint32), np.array([p for _, p, _ in names], np.uint32),
        (np.cumsum(sizes) - sizes).astype(np.uint32), sizes.astype(np.uint8),
    )  # fmt: skip
    return Names(columns, np.frombuffer(text, np.uint8), b"")


def test_paths_of_directories():
    paths = names_module.Paths()
    paths.add([(2, 12, b"a"), (12, 13, b"b"), (99, 14, b"lost"), (16, 15, b"c"), (15, 16, b"d"), (17, 17, b"e")])
    assert [paths.of(n) for n in (2, 13, 12, 14, 18)] == [b"", b"a/b", b"a", None, None]
    for number in (15, 17):
        with pytest.raises(FilesystemError, match="in itself"):
            paths.of(number)


def test_an_index_that_changes_keeps_little_beside_it(scratch, monkeypatch):
    monkeypatch.setattr(names_module, "_BESIDE", 10)
    index, wanted = index_of((12, 2, b"kept"), (13, 2, b"n0")), {(2, 12, b"kept"), (2, 13, b"n0")}
    for n in range(1, 100):
        new, gone = {(2, 13 + n % 7, b"n%d" % n)}, set(index.of([13 + n % 5]))
        index, wanted = index.updated(gone, new, b""), wanted - gone | new
        assert set(index) == wanted
        assert len(index) == len(wanted)
        assert set(index.of(range(20))) == wanted
        assert len(index._gone) + len(index._new) <= 12
    again = index.updated(wanted, (), b"").updated((), wanted, b"")
    assert set(again) == wanted
    with pytest.raises(FilesystemError, match="the index of names has not"):
        index.updated({(2, 12, b"other")}, set(), b"")
    assert set(index.updated(set(index), set(), b"")) == set()


# -- images that lie --------------------------------------------------------------------------------------------------


def lying(folder: Path, options: tuple[str, ...], seed: int, n: int) -> dict[str, int]:
    """Damage bytes of metadata of the upper state, and look: what comes is a delta, or an error that says what it is."""
    outcomes: dict[str, int] = {}
    with states(folder, *options, nbytes=8 * MIB) as (made, mounts):
        build(made.live, Dir("d"), *(File(f"d/{k}", b"x" * 3000, xattrs={"user.a": b"1" * k}) for k in range(40)), Dir("d/e"))
        with open(made.live / "holey", "wb") as file:
            for k in range(60):
                os.pwrite(file.fileno(), b"f" * 1000, k * 20_000)
        low = made.copy(mounts)
        build(made.live, Rename("d", "e"), File("holey2", b"y" * 70_000), File("e/1"))
        up = made.copy(mounts)
        ranges = differing(low[0], up[0])
        good, zeros = bytearray(up[0].read_bytes()), bytes(64)
        used = [at for at in range(0, len(good), 64) if good[at : at + 64] != zeros and good[at : at + 64] != b"x" * 64]
        random = np.random.default_rng(seed)
        everything = np.array([[0, len(good)]], np.int64)
        for number in range(n):
            bad = bytearray(good)
            for _ in range(int(random.integers(1, 6))):
                at = used[int(random.integers(len(used)))] + int(random.integers(64))
                bad[at] = int(random.choice([0, 1, 255, 127, int(random.integers(256))]))
            path = folder / "bad"
            path.write_bytes(bad if number % 20 else bad[: int(random.integers(len(bad)))])
            begin = time.monotonic()
            try:
                with image_of(low[0]) as lower, image_of(path) as upper:
                    found = file_delta(lower, upper, ranges if number % 2 else everything, content="always").changeset
                    if found.upper.size.sum() < 1 << 28:  # a hole may be as large as it says
                        found.write(io.BytesIO(), compression="none", whiteouts="opaque", sparse="pax")
                outcome = "delta"
            except (LamellaError, OSError) as error:
                outcome = type(error).__name__
            assert time.monotonic() - begin < 20  # it ends
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
    return outcomes


@pytest.mark.parametrize(
    "options", [("-b", "1024"), ("-b", "1024", "-t", "ext2", "-I", "128"), ("-b", "1024", "-I", "512", "-O", "inline_data")]
)
def test_a_damaged_image_is_an_error_or_a_delta(workshop, options):
    outcomes = workshop.call(lying, options, 1, 150, timeout=300)
    assert outcomes["delta"] > 5
    assert outcomes["FilesystemError"] > 5
