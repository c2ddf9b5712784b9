"""L5: write(read(tar)) is byte-identical for tars we wrote, and a diff is a pure function of the two trees."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lamella
from lamella.testing import strategies
from lamella.testing.trees import Device, Dir, Edit, Fifo, File, Hardlink, Script, Symlink
from tests.laws.ground import AS_ROOT, apply, diff, fresh, laid

TREES = strategies.trees(privileged=AS_ROOT)


def shuffled(source: Path, where: Path) -> Path:
    """Make the same tree by other steps: names in the opposite order, other inodes and other gaps between them."""
    where.mkdir()
    for name in ("first", "second"):
        (where / name).mkdir()
    apply(diff(None, source)[1], where)
    names = sorted(os.listdir(where), reverse=True)
    for name in names:
        os.rename(where / name, where.parent / "moved")
        os.rename(where.parent / "moved", where / name)
    for name in ("first", "second"):
        shutil.rmtree(where / name)
    times = os.stat(source)
    os.utime(where, ns=(1, times.st_mtime_ns))
    return where


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@given(st.data())
def test_l5_a_diff_depends_on_the_trees_alone(home, compression, data):
    tree = data.draw(TREES)
    edits = data.draw(strategies.edit_scripts(tree, privileged=AS_ROOT))
    with fresh(home) as folder:
        lower, upper = laid(folder / "lower", tree), laid(folder / "upper", tree, edits)
        info, first = diff(lower, upper, compression=compression)
        others = shuffled(lower, folder / "lower2"), shuffled(upper, folder / "upper2")
        for one, two in ((lower, upper), others):
            again, second = diff(one, two, compression=compression)
            assert second == first
            assert (again.diff_id, again.digest, again.size) == (info.diff_id, info.digest, info.size)
        lamella.diff(lower, upper, folder / "file", compression=compression)
        assert (folder / "file").read_bytes() == first


@pytest.mark.parametrize("payload", ["reader", "directory", "function"])
@given(st.data())
def test_l5_what_we_wrote_is_written_again_byte_by_byte(home, payload, data):
    tree = data.draw(TREES)
    edits = data.draw(strategies.edit_scripts(tree, privileged=AS_ROOT))
    with fresh(home) as folder:
        lower, upper = laid(folder / "lower", tree), laid(folder / "upper", tree, edits)
        info, layer = diff(lower, upper)
        with lamella.read_layer(layer) as reader:
            table = reader.table()
            sources = {"reader": reader, "directory": upper, "function": lambda row: content(layer, table, row)}
            out = io.BytesIO()
            again = lamella.write_layer(table, out, payload=sources[payload], compression="none")
        assert out.getvalue() == layer
        assert again.diff_id == info.diff_id


def content(layer: bytes, table, row: int) -> bytes:
    begin = int(table.data_off[row])
    return layer[begin : begin + int(table.size[row])] if begin >= 0 else b""


PINNED: tuple[Edit, ...] = (
    Dir("d", mode=0o2750, uid=1000, gid=1001, xattrs={"user.x": b"\0="}), Dir("a"),
    File("a/b", b"2"), File("a-b", b"3"), File("d/f", b"content", mtime_ns=1_500_000_000),
    File("d/late", b"x" * 513, mtime_ns=-1, uid=2_097_152),
    Hardlink("d/g", "d/f"), File("long-" + "n" * 200, b""), Symlink("s", "t" * 150), Fifo("p", mode=0o600),
    Device("c", 1, 3, mode=0o666), File(b"\xff", b"1", mode=0o4755), Symlink(b"\xc3\xbc", b"\xff"),
)  # fmt: skip


@pytest.mark.requires("root", "devices", "user_xattr")
def test_l5_the_bytes_of_a_diff_are_pinned(scratch):
    before = (File("gone"), Dir("gone too"), File("gone too/x"), Dir("a"), File("a/old"))
    lower = laid(scratch / "lower", Script(before))
    upper = laid(scratch / "upper", Script(PINNED))
    digests = {}
    for name, options in {
        "plain": {},
        "opaque": {"whiteouts": "opaque"},
        "clamped": {"clamp_mtime": 1_000_000_000},
    }.items():
        digests[name] = hashlib.sha256(diff(lower, upper, **options)[1]).hexdigest()[:16]
    wanted = {"plain": "9ce35fbded7dd127", "opaque": "63a6063dc95c5662", "clamped": "52aac6eb6c55f7f3"}
    assert digests == wanted, "a change of these bytes changes every diff_id"
