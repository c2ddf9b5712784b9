"""ext4 and ext4dirs: inodes and directories of an image, in memory of any size, and of images that lie."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import lamella
from lamella._kernels import ext4, ext4dirs
from lamella.block.inodes import decoded
from lamella.block.names import Names, Paths, entries
from lamella.columns import ARENA, AT
from lamella.errors import FilesystemError
from lamella.layer.pathtable import named
from lamella.table import EntryTable
from lamella.testing.trees import File
from lamella.tree.root import join
from tests import parts
from tests.kernels.extfs import AT_END, LARGE, N_LIST, OUTPUT_FULL, TREE, Disk, state
from tests.kernels.guarded import guarded, guarded_bytes

SHAPES = {
    "1k": ("-b", "1024"),
    "4k": ("-b", "4096", "-I", "512"),
    "ext2": ("-b", "1024", "-t", "ext2", "-I", "128"),
    "inline": ("-b", "1024", "-O", "inline_data"),
    "attributes as inodes": ("-b", "1024", "-O", "ea_inode"),
}


@pytest.fixture(params=SHAPES.values(), ids=list(SHAPES))
def disk(request, scratch):
    parts.requires("root", "mkfs.ext4")
    edits = TREE + (LARGE if "ea_inode" in request.param else ())
    made = Disk(scratch / "disk", *request.param, edits=edits)
    yield made
    made.close()


@pytest.fixture
def plain(scratch):
    parts.requires("root", "mkfs.ext4")
    made = Disk(scratch / "disk", "-b", "1024", "-O", "^metadata_csum")
    yield made
    made.close()


def paths_of(disk: Disk) -> dict[bytes, int]:
    """Return the inode of every path."""
    names, paths = Names.scan(disk.image), Paths()
    paths.add(names)
    return {b"": 2} | {join(paths.of(parent), name): inode for parent, inode, name in names}


def facts(table: EntryTable, *, nsec: bool) -> dict[bytes, Any]:
    return {
        row.path: (row.type, row.mode, row.uid, row.gid, row.size, row.mtime_ns if nsec else row.mtime, row.link_target, row.xattrs)
        for row in table
        if row.path and not row.path.startswith(b"lost+found")
    }  # fmt: skip


# -- what they answer -------------------------------------------------------------------------------------------------


def test_rows_are_those_of_a_walk(disk):
    found = decoded(disk.image, paths_of(disk), "all", 7).table
    assert facts(found, nsec=False) == facts(lamella.scan(disk.tree), nsec=False)  # mkfs leaves the nanoseconds out
    assert set(found.dev.tolist()) == {7}
    linked = found.link_group >= 0
    assert sorted(found.path(row) for row in np.flatnonzero(linked).tolist()) == [b"d/g", b"f"]


def test_times_have_epochs_and_nanoseconds(disk):
    paths = paths_of(disk)
    place = disk.place(paths[b"empty"])
    for low, more, ns in ((5, 2 | 7 << 2, (2**33 + 5) * 10**9 + 7), (-5, 0, -5 * 10**9), (-5, 1, (2**32 - 5) * 10**9),
                          (-(2**31), 999_999_999 << 2, -(2**31) * 10**9 + 999_999_999)):  # fmt: skip
        disk.put(place + 0x10, "i", low)
        if wide := disk.image.inode_size > 128:
            disk.put(place + 0x88, "I", more)
        table = decoded(disk.image, paths, "none", 0).table
        assert table[table.find(b"empty")].mtime_ns == (ns if wide else low * 10**9)


@pytest.mark.parametrize("step", [1, 7, 100])
def test_rows_in_an_arena_that_grows(disk, step):
    inodes = paths_of(disk)
    wanted = decoded(disk.image, inodes, "all", 0)
    table = named(inodes)
    numbers = np.array([inodes[p] for p in table.paths], np.uint32)
    n = len(table)
    columns = [None if c is None else guarded(np.asarray(c)) for c in table.columns]
    modes, nlink = guarded(np.zeros(n, np.uint16)), guarded(np.zeros(n, np.uint32))
    scratch = guarded_bytes(16 * (disk.image.block_size + disk.image.inode_size))
    st = state(arena=len(columns[ARENA]))
    n_full = 0
    while ext4.rows(*disk.where, numbers, tuple(columns), modes, nlink, 0, st, scratch, 0) == OUTPUT_FULL:
        n_full += 1
        used = int(st[3])
        assert st[4] > 0
        grown = np.zeros(len(columns[ARENA]) + step, np.uint8)
        grown[:used] = columns[ARENA][:used]
        columns[ARENA] = guarded(grown)
    assert n_full > (5 if step == 1 else 0)
    columns[AT["link_group"]] = wanted.table.link_group
    assert facts(EntryTable(tuple(columns), "path"), nsec=True) == facts(wanted.table, nsec=True)
    assert modes.tolist() == wanted.modes.tolist()
    assert nlink.tolist() == wanted.nlink.tolist()


@pytest.mark.parametrize("room", [(1, 1), (3, 40), (62, 5000), (200, 8000)])
def test_entries_in_columns_that_grow(disk, room):
    wanted = entries(disk.image, [2], deep=True)
    kinds = (np.uint32, np.uint32, np.uint8, np.int64, np.uint8)
    columns = [guarded(np.zeros(room[0], kind)) for kind in kinds]
    arena = guarded(np.zeros(room[1], np.uint8))
    seen = guarded_bytes(disk.image.n_inodes // 8 + 1)
    scratch = guarded_bytes(8 * disk.image.block_size + 131_072)
    st = state(N_LIST)
    n_full = 0
    while ext4dirs.entries(*disk.where, np.array([2], np.uint32), (*columns, arena), seen, st, scratch, 1) == OUTPUT_FULL:
        n_full += 1
        n, used = int(st[2]), int(st[3])
        assert st[4] > 0
        columns = [guarded(np.concatenate([c[:n], np.zeros(int(st[4]), c.dtype)])) for c in columns]
        arena = guarded(np.concatenate([arena[:used], np.zeros(int(st[5]), np.uint8)]))
    assert n_full > 0 or room == (200, 8000)
    assert int(st[2]) == len(wanted.inode)
    assert [c[: int(st[2])].tolist() for c in columns] == [
        c.tolist() for c in (wanted.parent, wanted.inode, wanted.kind, wanted.name_off, wanted.name_len)
    ]
    assert arena[: int(st[3])].tobytes() == wanted.arena.tobytes()


def changed(disk: Disk, other: Disk, ranges: list[int], cap: int) -> list[tuple[int, int, int]]:
    """Compare, with room for ``cap`` inodes at a time."""
    out, low, up = guarded(np.zeros(cap, np.uint32)), guarded(np.zeros(cap, np.uint16)), guarded(np.zeros(cap, np.uint16))
    scratch = guarded_bytes(2 * 262_144)
    st, found, full = state(), [], OUTPUT_FULL
    while full == OUTPUT_FULL:
        st[2] = 0
        full = ext4.changed(
            disk.fd, disk.image.tables, disk.image.used, other.fd, other.image.tables, other.image.used, disk.image.shape,
            guarded(np.array(ranges, np.int64)), st, out, low, up, scratch,
        )  # fmt: skip
        found += zip(*(c[: int(st[2])].tolist() for c in (out, low, up)), strict=True)
    assert full == AT_END
    return found


@pytest.mark.parametrize("cap", [1, 2, 100])
def test_inodes_that_differ(disk, scratch, cap):
    paths = paths_of(disk)
    n = disk.image.n_inodes
    copy = scratch / "other"
    copy.write_bytes(disk.path.read_bytes())
    other = object.__new__(Disk)
    other.path, other.fd = copy, os.open(copy, os.O_RDWR)
    other.image = type(disk.image)(other.fd)
    try:
        assert changed(disk, other, [1, n], cap) == []
        assert changed(disk, other, [], cap) == []
        for path in (b"f", b"e", b"d"):
            other.put(other.place(paths[path]) + 8, "I", 12345)  # access time
            other.put(other.place(paths[path]) + 0x7C, "H", 12345)  # checksum
        assert changed(disk, other, [1, n], cap) == []
        other.put(other.place(paths[b"f"]), "H", 0o100600)
        other.put(other.place(paths[b"e"]) + 0x1A, "H", 0)  # removed
        modes = [disk.get(disk.place(paths[path]), "H") for path in (b"f", b"e")]
        wanted = sorted([(paths[b"f"], modes[0], 0o100600), (paths[b"e"], modes[1], 0)])
        assert changed(disk, other, [1, n], cap) == wanted
        assert changed(disk, other, [k for i in range(1, n + 1) for k in (i, 1)], cap) == wanted
        assert changed(disk, other, [1, paths[b"f"], paths[b"f"] + 1, n - paths[b"f"]], cap) == wanted
        assert changed(other, disk, [paths[b"e"], 1], cap) == [(paths[b"e"], 0, modes[1])]
        with pytest.raises(FilesystemError, match="no such inode"):
            changed(disk, other, [1, n + 1], cap)
    finally:
        other.close()


def test_where_bytes_are(disk, scratch):
    paths = paths_of(disk)
    small = ext4.small(*disk.where, paths[b"empty"], np.empty(0, np.uint8))
    held = guarded_bytes(8)
    assert (small == -1) == (b"inline_data" not in features(disk))
    if small >= 0:
        assert ext4.small(*disk.where, paths[b"e"], held) == 100
        assert held.tobytes() == b"e" * 8
    out, st = guarded(np.zeros(3, np.int64)), state()
    scratch = guarded_bytes(16 * (disk.image.block_size + disk.image.inode_size))
    assert ext4.runs(*disk.where, paths[b"f"], st, out, scratch) == AT_END
    begin = int(out[1]) * disk.image.block_size
    assert os.pread(disk.fd, 5000, begin) == b"f" * 5000
    room = guarded_bytes(5 * disk.image.block_size + 262_144)
    block = int(out[1])
    for ranges, wanted in (([block, block + 1], [paths[b"f"]]), ([1, 2], []), ([], [])):
        st = state(next=11)
        found = guarded(np.zeros(1, np.uint32))
        assert ext4.owners(*disk.where, guarded(np.array(ranges, np.int64)), st, found, room) == AT_END
        assert found[: int(st[2])].tolist() == wanted


def features(disk: Disk) -> bytes:
    return b"inline_data" if disk.get(1024 + 0x60, "I") & 0x8000 else b""


def test_nothing_is_asked_for(plain):
    none = np.empty(0, np.uint32)
    assert len(entries(plain.image, none).inode) == 0
    assert len(decoded(plain.image, {}, "all", 0).table) == 0


# -- images that lie --------------------------------------------------------------------------------------------------


def scan(disk: Disk) -> None:
    decoded(disk.image, paths_of(disk), "all", 0)


def block_of(disk: Disk, inode: int) -> int:
    """Return the byte of the first block of an inode."""
    out = np.zeros(300, np.int64)
    scratch = np.zeros(1 << 20, np.uint8)
    ext4.runs(*disk.where, inode, state(), out, scratch)
    return int(out[1]) * disk.image.block_size


def entry_of(disk: Disk, folder: int, name: bytes) -> int:
    """Return the byte of an entry of a directory that has one block, or several in a row."""
    at = block_of(disk, folder)
    return os.pread(disk.fd, 16_384, at).index(name) - 8 + at


def lie(plain: Disk, what: str) -> None:  # noqa: C901 - a lie a case
    """Damage the image."""
    paths = paths_of(plain)
    e, f = plain.place(paths[b"d/e"]), plain.place(paths[b"f"])
    at = entry_of(plain, paths[b"d"], b"e" + b"\0")
    long = plain.place(paths[b"long"])
    match what:
        case "circle of directories":
            plain.put(at, "I", 2)
        case "directory of two names":
            plain.put(at, "I", paths[b"lost+found"])
        case "entry too long":
            plain.put(at + 4, "H", 60_000)
        case "entry too short":
            plain.put(at + 4, "H", 4)
        case "no name":
            plain.put(at + 6, "B", 0)
        case "name of two parts":
            plain.put(at + 8, "B", ord("/"))
        case "inode that is none":
            plain.put(at, "I", 0xFFFFFFF0)
        case "inode that is free":
            plain.put(at, "I", plain.image.n_inodes)
        case "no directory":
            plain.put(at, "I", paths[b"f"])
        case "extents without a mark":
            plain.put(e + 0x28, "H", 1)
        case "node of itself":
            block = block_of(plain, paths[b"d/e"])
            plain.put(e + 0x28, "HHHHIIIHH", 0xF30A, 1, 4, 1, 0, 0, block // 1024, 0, 0)
            plain.put(block, "HHHHIIIHH", 0xF30A, 1, 84, 1, 0, 0, block // 1024, 0, 0)
        case "too many extents":
            plain.put(e + 0x2A, "H", 5)
        case "block outside":
            plain.put(e + 0x28 + 20, "I", 0xFFFFFFF)
        case "extent of nothing":
            plain.put(e + 0x28 + 16, "H", 0)
        case "attributes too long":
            plain.put(f + 128 + plain.get(f + 128, "H") + 4, "BBHII", 255, 1, 0, 0, 4)
        case "attributes elsewhere":
            plain.put(f + 0x68, "I", 5)
        case "value too long":
            plain.put(f + 128 + plain.get(f + 128, "H") + 4 + 8, "I", 70_000)
        case "list of another version":
            acl = plain.place(paths[b"d/acl"])
            plain.put(acl + os.pread(plain.fd, 256, acl).index(bytes.fromhex("0100000001000700")), "I", 9)
        case "list that is cut":
            acl = plain.place(paths[b"d/acl"])
            plain.put(acl + os.pread(plain.fd, 256, acl).index(bytes.fromhex("0100000001000700")) + 32, "H", 2)
        case "value that is no inode's":
            plain.put(f + 128 + plain.get(f + 128, "H") + 4 + 4, "I", paths[b"e"])
        case "short link of long text":
            plain.put(plain.place(paths[b"short"]) + 4, "I", 61)
        case "link too long":
            plain.put(long + 4, "I", 5000)
        case "link of nothing":
            plain.put(long + 0x28 + 16, "HHI", 0, 0, 0)


LIES = {
    "circle of directories": "two names", "directory of two names": "two names", "entry too long": "malformed directory entry",
    "entry too short": "malformed directory entry", "no name": "malformed directory entry",
    "name of two parts": "malformed directory entry", "inode that is none": "no such inode", "inode that is free": "free",
    "no directory": "no directory", "extents without a mark": "no node", "node of itself": "no node",
    "too many extents": "no node", "block outside": "outside", "extent of nothing": "overlap or are empty",
    "attributes too long": "malformed extended attributes", "attributes elsewhere": "malformed extended attributes",
    "value too long": "malformed extended attributes", "list of another version": "malformed extended attributes",
    "list that is cut": "malformed extended attributes", "value that is no inode's": "malformed extended attributes",
    "short link of long text": "malformed symlink", "link too long": "malformed symlink", "link of nothing": "overlap or are empty",
}  # fmt: skip


@pytest.mark.parametrize("what", LIES)
def test_a_lie_is_an_error_with_its_place(plain, what):
    scan(plain)
    lie(plain, what)
    with pytest.raises(FilesystemError, match=LIES[what]) as info:
        scan(plain)
    assert info.value.block is not None or info.value.inode is not None


def test_tables_outside_the_file_system(plain):
    fd, shape, tables, used = plain.where
    out, modes, scratch = np.zeros(9, np.uint32), np.zeros(9, np.uint16), np.zeros(1 << 20, np.uint8)
    root = tuple(None if c is None else c.copy() for c in named([b""]).columns)
    for worse in (tables + (1 << 40), tables * 0, tables * 0 - 5, tables * 0 + plain.image.n_blocks - 1):
        with pytest.raises(FilesystemError, match="no such inode|ends early"):
            ext4.changed(fd, worse, used, fd, tables, used, shape, np.array([1, 500]), state(), out, modes, modes, scratch)
        with pytest.raises(FilesystemError, match="no such inode|is free|ends early"):
            ext4.small(fd, shape, worse, used, 2, np.zeros(9, np.uint8))
        with pytest.raises(FilesystemError, match="no such inode|is free|ends early"):
            ext4.rows(fd, shape, worse, used, out[:1] + np.uint32(2), root, modes[:1], out[1:2], 0, state(), scratch, 0)
    assert ext4.owners(fd, shape, tables * 0, used, np.array([1, 2]), state(next=11), out, scratch) == AT_END
    with pytest.raises(FilesystemError, match="is free"):
        ext4.small(fd, shape, tables, used * 0, 2, np.zeros(9, np.uint8))


def test_a_map_of_blocks_in_itself_ends(scratch):
    parts.requires("root", "mkfs.ext4")
    disk = Disk(scratch / "disk", "-b", "1024", "-t", "ext2", edits=(File("f", b"f" * 400_000),))
    try:
        inode = disk.place(paths_of(disk)[b"f"])
        block = disk.get(inode + 0x28 + 4 * 13, "I")
        assert block
        for k in range(256):
            disk.put(block * 1024 + 4 * k, "I", block)
        disk.put(inode + 4, "II", 0xFFFFFFFF, 0)
        disk.put(inode + 0x6C, "I", 0xFF)
        st, out = state(budget=disk.image.n_blocks), np.zeros(3 * 300_000, np.int64)
        with pytest.raises(FilesystemError, match="used twice"):
            ext4.runs(*disk.where, paths_of(disk)[b"f"], st, out, np.zeros(1 << 20, np.uint8))
    finally:
        disk.close()


def test_a_file_that_ends_early(disk):
    size = os.fstat(disk.fd).st_size
    failed = 0
    for part in range(39, 0, -1):
        os.truncate(disk.fd, size * part // 40)
        try:
            scan(disk)
        except FilesystemError as error:
            failed += 1
            assert "ends early" in str(error)
    assert failed > 0


def test_arrays_that_do_not_fit(plain):
    fd, shape, tables, used = plain.where
    good = {"fd": fd, "shape": shape, "tables": tables, "used": used, "dirs": np.array([2], np.uint32)}
    kinds = (np.uint32, np.uint32, np.uint8, np.int64, np.uint8)
    columns = (*(np.zeros(9, kind) for kind in kinds), np.zeros(99, np.uint8))
    rest = {"columns": columns, "seen": np.zeros(900, np.uint8), "state": state(N_LIST), "scratch": np.zeros(1 << 20, np.uint8), "options": 0}
    ext4dirs.entries(**good, **rest)
    worse = [
        {"shape": shape[:-1]}, {"tables": tables[:0]}, {"used": used[:-1]}, {"state": state(N_LIST)[:-1]},
        {"scratch": np.zeros(100, np.uint8)}, {"seen": np.zeros(0, np.uint8)}, {"columns": (columns[0][:3], *columns[1:])},
        {"state": np.full(N_LIST, 1 << 40)}, {"state": np.full(N_LIST, -1)},
    ]  # fmt: skip
    for k in range(8):
        for value in (-1, 0, 3, 1 << 62):
            bad = shape.copy()
            bad[k] = value
            if k not in (6, 7) and not (k == 0 and value in (0, 3)) and not (k == 3 and value == 3) and not (k == 5 and value == 3):
                worse.append({"shape": bad})
    for more in worse:
        with pytest.raises(ValueError):  # noqa: PT011 - of which a damaged file system is one
            ext4dirs.entries(**{**good, **rest, "state": state(N_LIST), "seen": np.zeros(900, np.uint8), **more})
    with pytest.raises(ValueError, match="pairs of numbers"):
        ext4.owners(*plain.where, np.zeros(3, np.int64), state(), np.zeros(1, np.uint32), np.zeros(1 << 20, np.uint8))
    with pytest.raises(ValueError, match="not the shape"):
        ext4.scratch_nbytes(shape[:-1])
    with pytest.raises(OSError, match="Bad file descriptor"):
        ext4dirs.entries(**{**good, **rest, "fd": -1, "state": state(N_LIST), "seen": np.zeros(900, np.uint8)})
