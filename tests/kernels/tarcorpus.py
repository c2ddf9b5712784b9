"""Small archives that hold every kind of header, by name; and seeded ways to break them."""

from __future__ import annotations

import base64
import io
import random
import tarfile

from lamella.testing.tars import (
    BLOCK,
    Member,
    char,
    directory,
    fifo,
    file,
    hardlink,
    layer_tar,
    padded,
    pax_header,
    symlink,
)
from tests.contract.sparse import SPELLINGS

LONG = b"d/" * 130 + b"name"
REGIONS = [(512 * i + i, bytes([i + 1]) * (i + 1)) for i in range(30)]


def by_tarfile(style: int) -> bytes:
    """Write an archive with CPython's tarfile."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=style) as tar:
        for i, (name, kind, link) in enumerate(
            [("d", b"5", ""), ("d/f", b"0", ""), ("x" * 120 + "/y", b"0", ""), ("s", b"2", "t" * 99), ("h", b"1", "d/f")]
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.mtime, member.mode = kind, link, i * 1000, 0o640 + i
            member.uid, member.gid, member.uname, member.gname = 1000 + i, 100, "user", "group"
            member.size = 700 * i if kind == b"0" else 0
            tar.addfile(member, io.BytesIO(b"z" * member.size))
    return out.getvalue()


def libarchive(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    return b"LIBARCHIVE.xattr." + name, base64.b64encode(value).rstrip(b"=")


def star() -> Member:
    """A header of star: short prefix, atime, ctime, its magic at the end."""
    header = {345: b"pre".ljust(131, b"\0"), 476: b"00000000017 ", 488: b"00000000018 ", 508: b"tar\0"}
    return Member("star", "0", b"1", header=header)


XATTRS = [
    ("SCHILY.xattr.user.b", b"\0\1\n="), ("SCHILY.xattr.user.a", "1"), libarchive(b"user.%3d%41", b"\xff" * 5),
    libarchive(b"user.a", b"other"), libarchive(b"user.empty", b""), ("SCHILY.xattr.user.gone", "1"),
    ("SCHILY.xattr.user.gone", ""), ("comment", "c"), ("SCHILY.acl.access", "user::rw-"), ("comment", "d"),
]  # fmt: skip
TIMES = {"mtime": "-1.0000000001", "atime": "99999999999.123456789", "ctime": "1.5", "uid": 2**32 - 1, "gid": 77}

MEMBERS = {
    "kinds": [
        directory("d"), file("d/f", b"1" * 700), hardlink("d/h", "./d//f"), symlink("s", "/a//b/"), fifo("p"),
        char("c", 1, 3), Member("b", "4", major=7, minor=2**21), Member("cont", "7", b"2"), Member("old", "\0", b"3"),
        Member("v7dir/", "\0", style="v7"), Member("slash/", "0", b"4"), file("../up", b""), hardlink("l", "../f"),
        directory("./"), file("/abs//x/./y", b"y" * 512), file("", b"z"),
    ],
    "bodies": [Member("l", "1", b"b" * 700, link="f"), file("f", b"f"), Member("s", "2", b"c", link="x"), file("g")],
    "no bodies": [Member("l", "1", size=700, link="f"), file("f", b"f"), Member("d/", "5", size=10)],
    "pax": [file("f", b"x" * 10, pax=XATTRS), file("g", b"", pax={**TIMES, "path": "other/./name", "size": 0})],
    "global": [
        pax_header({"uname": "all", "mtime": "5.5", "SCHILY.xattr.user.g": "1", "comment": "x"}, flag="g"), file("a"),
        file("b", pax={"uname": "", "SCHILY.xattr.user.g": "", "mtime": "6"}),
        pax_header({"uname": "", "gname": "g"}, flag="g"), file("c"), pax_header({"path": "p"}, flag="X"), file("d"),
    ],
    "gnu": [
        Member("x", "L", LONG + b"\0", style="gnu"), Member("x", "K", LONG, style="gnu"),
        symlink("cut", "cut", style="gnu"), file(LONG, b"5", style="gnu", uid=2**31, mtime_ns=-5 * 10**9),
        Member("atime", "0", style="gnu", header={345: b"00000000017\0", 357: b"00000000018\0"}),
    ],
    "star": [star(), file("next")],
    "sparse": [make("sparse", REGIONS, 20_000) for make in SPELLINGS.values()] + [file("next", b"n")],
    "holes": [make("hole", [], 1 << 40) for make in SPELLINGS.values()] + [file("next", b"n")],
}  # fmt: skip
CORPUS = {name: layer_tar(members) for name, members in MEMBERS.items()} | {
    f"tarfile {name}": by_tarfile(style)
    for name, style in (("ustar", tarfile.USTAR_FORMAT), ("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT))
}
CORPUS["bare end"] = layer_tar(MEMBERS["kinds"][:3], end=b"")
CORPUS["one zero block"] = layer_tar(MEMBERS["kinds"][:3], end=bytes(BLOCK))


def sealed(data: bytes, at: int) -> bytes:
    """Make the checksum of the header at ``at`` right again."""
    header = bytearray(data[at : at + BLOCK])
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:at] + bytes(header) + data[at + BLOCK :]


SPICES = [b"\0", b" ", b"7", b"9", b"\x80", b"\xff", b"-1", b"=", b"\n", b"/", b"..", b",", b"00000000000\0", b"%"]
FLAGS = b"\x0001234567LKxgXSVMDNA"


def broken(data: bytes, rng: random.Random) -> bytes:
    """Change a few bytes, or cut, repeat or drop blocks; half of the headers touched get a right checksum."""
    n_blocks = len(data) // BLOCK
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(n_blocks) * BLOCK
        what = rng.random()
        if what < 0.55:
            piece = rng.choice(SPICES)
            where = at + rng.randrange(BLOCK - len(piece))
            data = data[:where] + piece + data[where + len(piece) :]
        elif what < 0.65:
            data = data[: at + 156] + bytes([rng.choice(FLAGS)]) + data[at + 157 :]
        elif what < 0.75:
            data = data[: at + 124] + b"%011o\0" % rng.choice([0, 1, 511, 512, 513, 700, 8**11 - 1]) + data[at + 136 :]
        elif what < 0.85:
            data = data[:at] + data[at : at + BLOCK] + data[at:]
        elif what < 0.95:
            data = data[:at] + data[at + BLOCK :]
        else:
            data = data[: rng.randrange(len(data) + 1)]
        n_blocks = max(len(data) // BLOCK, 1)
        if what < 0.75 and rng.random() < 0.7 and len(data) >= at + BLOCK:
            data = sealed(data, at)
        if len(data) < 2 * BLOCK:
            break
    return data


def cuts(data: bytes, rng: random.Random) -> list[bytes]:
    """Cut ``data`` into pieces of odd sizes."""
    pieces, at = [], 0
    while at < len(data):
        step = rng.choice([0, 1, 7, 511, 512, 513, 1000, 4096])
        pieces.append(data[at : at + step])
        at += step
    return pieces


__all__ = ["CORPUS", "MEMBERS", "broken", "cuts", "padded", "sealed"]
