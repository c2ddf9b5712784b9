"""Tars made by hand are read by other people's readers as they were meant."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile

import pytest

from lamella.testing import tars
from lamella.testing.tars import Member, layer_tar

LONG = b"d/" * 60 + b"file"
VERY_LONG = b"x" * 120 + b"/" + b"y" * 300


def read(data: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.getmembers()


@pytest.mark.parametrize("style", ["pax", "gnu"])
def test_tarfile_reads_every_kind(style):
    members = [
        tars.directory("d", mode=0o1755, uid=1, gid=2),
        tars.file(b"d/\xff", b"content", mtime_ns=1),
        tars.file(LONG, b"long"),
        tars.file(VERY_LONG, b"very long", uid=1 << 31),
        tars.symlink("s", b"t" * 150),
        tars.hardlink("h", LONG),
        tars.char("c", 1, 3),
        tars.block("b", 8, 0),
        tars.fifo("p"),
        tars.file("old", mtime_ns=-5 * tars.SECOND),
        tars.whiteout("d/gone"),
        tars.opaque(),
    ]
    got = read(layer_tar(members, style=style))
    assert [m.type.decode() for m in got] == [m.type for m in members]
    names = [m.name.encode("utf-8", "surrogateescape") for m in got]
    assert names == [bytes(m.path).rstrip(b"/") if isinstance(m.path, bytes) else m.path.encode() for m in members]
    assert (got[0].mode, got[0].uid, got[0].gid) == (0o1755, 1, 2)
    assert got[1].mtime == (1e-9 if style == "pax" else 0)
    assert got[3].uid == 1 << 31
    assert got[4].linkname == "t" * 150
    assert got[5].linkname.encode() == LONG
    assert [(m.devmajor, m.devminor) for m in got[6:8]] == [(1, 3), (8, 0)]
    assert got[9].mtime == -5
    assert names[-2:] == [b"d/.wh.gone", b".wh..wh..opq"]


def test_records_and_overrides_are_written_as_given():
    member = tars.file("f", b"1234", xattrs={"user.a": b"\0=\n"}, pax=[("comment", "1"), ("comment", "2")])
    data = layer_tar([member])
    assert read(data)[0].pax_headers["comment"] == "2"
    assert b"23 SCHILY.xattr.user.a=\0=\n\n"[3:] in data
    assert data.count(b" comment=") == 2
    broken = layer_tar([tars.file("f", header={"chksum": b"000000\0 ", 500: b"tail"})])
    assert broken[148:156] == b"000000\0 "
    assert broken[500:504] == b"tail"
    assert read(layer_tar([Member("f", "0", b"abc", size=0)], end=b"")[:512])[0].size == 0


def test_global_headers_and_raw_bytes_stand_where_they_are_put():
    data = layer_tar([tars.pax_header({"comment": "all"}, flag="g"), tars.file("f"), b"junk"], end=b"")
    with tarfile.open(fileobj=io.BytesIO(data[:-4])) as tar:
        assert tar.getnames() == ["f"]
        assert tar.pax_headers == {"comment": "all"}
    assert data.endswith(b"junk")


def test_bytes_are_pinned():
    members = [tars.directory("d"), tars.file(VERY_LONG, b"x", mtime_ns=1), tars.whiteout("w")]
    digests = {style: hashlib.sha256(layer_tar(members, style=style)).hexdigest()[:16] for style in ("pax", "gnu", "v7")}
    assert digests == {"pax": "d0a68e1f5cbdd9de", "gnu": "f0b4e8281a79e80d", "v7": "3012aee7d928327d"}


@pytest.mark.requires("tar", "bsdtar")
@pytest.mark.parametrize("style", ["pax", "gnu", "v7"])
@pytest.mark.parametrize("program", ["tar", "bsdtar"])
def test_other_readers_agree(scratch, style, program):
    members = [tars.directory("d"), tars.file("d/f", b"content"), tars.symlink("s", "d/f"), tars.hardlink("h", "d/f")]
    members += [tars.file(LONG), tars.file(VERY_LONG)] if style != "v7" else []
    (scratch / "l.tar").write_bytes(layer_tar(members, style=style))
    out = subprocess.run([program, "-tf", scratch / "l.tar"], capture_output=True, check=True)
    assert out.stderr == b""
    assert out.stdout.split() == [m.path if isinstance(m.path, bytes) else m.path.encode() for m in members]
