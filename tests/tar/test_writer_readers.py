"""What tarfile, GNU tar and bsdtar make of our tars: the rows, for every kind and every spelling.

Known disagreements, theirs: bsdtar reads a negative time with a fraction (POSIX: -1.75 is 1.75 s before 1970) with the
fraction's sign turned, complains of names in pax that are not UTF-8 though it keeps them, and knows LIBARCHIVE.xattr;
tarfile follows a hard link to a symlink when it sets the owner; GNU tar takes device numbers below 2**31 only, reads
%3D in an xattr's name as "=", and has no empty xattrs.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import subprocess
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella.tar.reader import read_layer
from lamella.tar.writer import write_layer
from lamella.testing.listing import Found, compare, listing
from lamella.tree.scan import scan
from tests.kernels.test_tarform_properties import ROWS
from tests.reference.rows import table_of

TOOLS = {
    "tarfile": None,
    "tar": ["tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "--warning=no-timestamp", "-xpf"],
    "bsdtar": ["bsdtar", "--numeric-owner", "-xpf"],
}
KINDS = {"0": "file", "2": "symlink", "3": "char", "4": "block", "5": "dir", "6": "fifo"}
S = 10**9
FILE = {"size": 700, "mtime_ns": 1_600_000_000 * S}

CASES = {
    "modes": [{"path": f"f{mode:04o}", "mode": mode, **FILE} for mode in (0, 0o644, 0o1777, 0o2755, 0o4711, 0o7777)],
    "kinds": [
        {"path": "d", "type": "5", "mode": 0o2750, "mtime_ns": 5 * S}, {"path": "d/f", **FILE},
        {"path": "l", "type": "2", "link_target": "/abs/../target", "mode": 0o777, "mtime_ns": 7 * S},
        {"path": "c", "type": "3", "rdev_major": 1, "rdev_minor": 3, "mode": 0o600},
        {"path": "b", "type": "4", "rdev_major": 259, "rdev_minor": 1_048_575}, {"path": "p", "type": "6"},
    ],
    "names": [
        *({"path": "n" * n, **FILE} for n in (99, 100, 101, 255)),
        {"path": "p" * 155, "type": "5"}, {"path": "p" * 155 + "/" + "n" * 100, **FILE},
        {"path": "p" * 156, "type": "5"}, {"path": "p" * 156 + "/" + "n" * 99, **FILE},
        {"path": "d" * 99, "type": "5"}, {"path": "d" * 100, "type": "5"},
        {"path": "sp ace\n\\ \"'", **FILE}, {"path": "é" * 20, **FILE}, {"path": "é" * 120, **FILE},
        {"path": "x/" * 300 + "y", **FILE},
        *({"path": "l" * n, "type": "2", "link_target": "t" * n, "mode": 0o777} for n in (98, 102, 103, 200)),
    ],
    "raw-names": [
        {"path": b"raw\xff", **FILE}, {"path": b"\xfe" * 120, **FILE}, {"path": b"\xc3", "type": "5"},
        {"path": "sl", "type": "2", "link_target": b"\xff" * 120, "mode": 0o777},
    ],
    "owners": [{"path": f"u{n}", "uid": n, "gid": 2**32 - 2 - n, **FILE} for n in (0, 2_097_151, 2_097_152, 2**32 - 2)],
    "times": [{"path": f"t{n}", "mtime_ns": ns} for n, ns in enumerate(
        (0, 1, S - 1, -S, -2 * S, -(10**10) * S, 8**11 * S - 1, 8**11 * S, 8**11 * S + 1, 253_402_300_800 * S, 2**63 + 5))],
    "negative-fractions": [{"path": f"t{n}", "mtime_ns": ns} for n, ns in enumerate((-1, -S // 2, -7 * S // 4, 1 - S))],
    "xattrs": [{"path": "a", "xattrs": {"user.a": b"\0\n\xff=1", "user.b.c": b"x" * 3000, "trusted.x": b"1"}, **FILE},
               {"path": "d", "type": "5", "xattrs": {"user.d": b"2"}}],
    "capability": [{"path": "a", "uid": 5, "mode": 0o755, "xattrs": {
        "security.capability": bytes.fromhex("0100000200040000000000000000000000000000")}}],
    "sparse": [
        {"path": "begin", "size": 1 << 20, "sparse": [(0, 4096)]},
        {"path": "d" * 120, "size": 1 << 20, "sparse": [(8192, 4096), (65536, 1)]},
        {"path": "all", "size": 1 << 20, "sparse": []}, {"path": "end", "size": 100_000, "sparse": [(99_000, 1000)]},
        {"path": "none", "size": 5000, "sparse": [(0, 5000)]}, {"path": "after", **FILE},
    ],
    "links": [
        {"path": "a" * 120, "size": 5, "link_group": 0}, {"path": "b", "size": 5, "link_group": 0},
        {"path": "s", "type": "2", "link_target": "x", "mode": 0o777, "link_group": 2},
        {"path": "t", "type": "2", "link_target": "x", "mode": 0o777, "link_group": 2},
        {"path": "p", "type": "6", "link_group": 4}, {"path": "q", "type": "6", "link_group": 4},
        {"path": "c", "size": 5, "link_group": 0},
    ],
}  # fmt: skip


def content_of(row) -> bytes:
    """Make content for a row, zero where it is sparse."""
    size = row.get("size", 0)
    data = bytearray((os.fsencode(row["path"]) * size)[:size]) if "link_group" not in row else bytearray(b"#" * size)
    for begin, end in gaps(row, size):
        data[begin:end] = bytes(end - begin)
    return bytes(data)


def gaps(row, size):
    at = 0
    for off, nbytes in row.get("sparse") or ([] if "sparse" in row else [(0, size)]):
        yield at, off
        at = off + nbytes
    yield at, size


def expected(rows) -> dict[bytes, Found]:
    """Say what a root should hold after the rows were extracted into it."""
    found = {}
    for row in rows:
        kind, data = KINDS[row.get("type", "0")], content_of(row)
        path = os.fsencode(row["path"])
        peers = [os.fsencode(r["path"]) for r in rows if r.get("link_group", -1) == row.get("link_group")]
        found[path] = Found(
            type=kind,
            mode=row.get("mode", 0o755 if kind == "dir" else 0o644),
            uid=row.get("uid", 0),
            gid=row.get("gid", 0),
            size=len(os.fsencode(row["link_target"])) if kind == "symlink" else len(data),
            mtime_ns=row.get("mtime_ns", 0),
            rdev=(row.get("rdev_major", 0), row.get("rdev_minor", 0)),
            links=tuple(sorted(peers)) if len(peers) > 1 else (),
            target=os.fsencode(row.get("link_target", b"")),
            xattrs=tuple(sorted((os.fsencode(k), v) for k, v in row.get("xattrs", {}).items())),
            sha256=hashlib.sha256(data).hexdigest() if kind == "file" else "",
        )
    return found


def written(rows, where, **options):
    table = table_of(rows)
    return write_layer(table, where, payload=lambda row: content_of(rows[row]), compression="none", sparse="pax", **options)


def extract(tool: str, tar, root) -> subprocess.CompletedProcess[bytes] | None:
    root.mkdir()
    argv = TOOLS[tool]
    if argv is not None:
        env = os.environ | {"LC_ALL": "C.UTF-8"}
        return subprocess.run([*argv, str(tar)], cwd=root, env=env, capture_output=True, check=False)
    with tarfile.open(tar, encoding="utf-8", errors="surrogateescape") as file:
        file.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
        file.errorlevel = 2
        file.extractall(root, numeric_owner=True)
    return None


def ignored(tool: str, name: str) -> set[str]:
    """Name what a tool does not restore."""
    if tool == "tarfile":  # floats; no xattrs, and chown takes the set-id bits with it on some kinds
        return {"mtime_ns", "xattrs"}
    return {"mtime_ns"} if (tool, name) == ("bsdtar", "negative-fractions") else set()


@pytest.mark.requires("root", "devices", "user_xattr")
@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("name", CASES)
def test_a_reader_makes_the_rows(scratch, requires, tool, name):
    if TOOLS[tool] is not None:
        requires(tool)
    rows = CASES[name]
    if (tool, name) == ("tarfile", "links"):
        rows = [row for row in rows if row["path"] not in "st"]
    written(rows, scratch / "tar")
    done = extract(tool, scratch / "tar", scratch / "root")
    if done is not None and (tool, name) != ("bsdtar", "raw-names"):
        assert done.returncode == 0, done.stderr
    made = listing(scratch / "root")
    made = {path: found for path, found in made.items() if path in {os.fsencode(r["path"]) for r in rows}}
    assert compare(expected(rows), made, ignore=ignored(tool, name) | {"dir_mtime"}) == []


@pytest.mark.requires("root", "bsdtar", "user_xattr")
def test_110_bsdtar_reads_empty_xattrs_and_odd_names(scratch):
    rows = [{"path": "a", "xattrs": {"user.empty": b"", "user.%=": b"1", "user.plain": b"\xff"}}]
    written(rows, scratch / "tar", libarchive_xattr=True)
    assert extract("bsdtar", scratch / "tar", scratch / "root").returncode == 0
    path = scratch / "root/a"
    assert {n: os.getxattr(path, n) for n in os.listxattr(path)} == rows[0]["xattrs"]


@pytest.mark.requires("tar", "bsdtar")
def test_large_device_numbers_and_sizes_are_listed(scratch):
    devices = [{"path": "d", "type": "3", "rdev_major": 2_097_152, "rdev_minor": 2**31 - 1}]
    written(devices, scratch / "tar")
    for tool in ("tar", "bsdtar"):
        listed = subprocess.run([tool, "-tvf", scratch / "tar"], capture_output=True, text=True, check=True).stdout
        assert "2097152,2147483647" in listed
    (scratch / "huge").touch()
    os.truncate(scratch / "huge", 1 << 40)
    with (scratch / "huge").open("r+b") as file:
        file.seek((1 << 40) - 3)
        file.write(b"end")
    table = table_of([{"path": "huge", "size": 1 << 40}], origin="tree")
    write_layer(table, scratch / "huge.tar", payload=scratch, compression="none", sparse="pax")
    for tool in ("tar", "bsdtar"):
        listed = subprocess.run([tool, "-tvf", scratch / "huge.tar"], capture_output=True, text=True, check=True).stdout
        assert str(1 << 40) in listed


@pytest.mark.requires("tar")
def test_gnu_tar_finds_no_difference_to_the_tree_it_was_made_from(scratch):
    root = scratch / "root"
    (root / "d" / ("n" * 150)).mkdir(parents=True)
    (root / "d" / ("n" * 150) / ("m" * 150)).write_bytes(b"data" * 1000)
    (root / "f").write_bytes(b"f")
    os.link(root / "f", root / "g")
    (root / "l").symlink_to("f")
    write_layer(scan(root), scratch / "tar", payload=root, compression="none")
    done = subprocess.run(["tar", "-C", root, "--compare", "-f", scratch / "tar"], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@given(st.lists(ROWS, max_size=6), st.booleans())
def test_l5_our_own_reader_gives_the_rows_and_the_bytes_again(rows, libarchive):
    table = table_of(rows)
    out = io.BytesIO()
    write_layer(table, out, payload=lambda row: b"", compression="none", libarchive_xattr=libarchive)
    with read_layer(out.getvalue()) as reader:
        again = reader.table()
    assert [normal(entry, libarchive) for entry in again] == [normal(entry, libarchive) for entry in table]
    second = io.BytesIO()
    write_layer(again, second, payload=lambda row: b"", compression="none", libarchive_xattr=libarchive)
    assert second.getvalue() == out.getvalue()


def normal(entry, libarchive) -> tuple:
    """Return what a tar can say of a row."""
    device = entry.type.value in "34"
    xattrs = entry.xattrs if libarchive else {k: v for k, v in entry.xattrs.items() if v and b"=" not in k}
    return (
        entry.path, entry.type, stat.S_IMODE(entry.mode), entry.uid, entry.gid, entry.size, entry.mtime_ns, entry.atime_ns,
        entry.link_target if entry.type.value in "12" else b"", (entry.rdev_major, entry.rdev_minor) if device else (0, 0),
        xattrs, entry.uname, entry.gname, {k: v for k, v in entry.pax.items() if v},
    )  # fmt: skip
