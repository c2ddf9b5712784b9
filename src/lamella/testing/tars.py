"""Layer tars made by hand: any order, duplicates, type flag, header field and extended header, each byte chosen.

A :class:`Member` says what one entry holds; :func:`layer_tar` writes a row of them, deterministically, as pax (POSIX
1003.1-2017, "pax Interchange Format"), GNU tar's own format or that of Version 7. ``bytes`` in the row go in as is.
What a format cannot say is spelled in its own way: pax records, GNU's ``L`` and ``K`` members, base-256 numbers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from lamella.testing.trees import MTIME_NS
from lamella.testing.values import Value

__all__ = [
    "BLOCK", "FIELDS", "Member", "block", "char", "directory", "fifo", "file", "hardlink", "layer_tar", "opaque",
    "padded", "pax_header", "symlink", "whiteout",
]  # fmt: skip

Name = str | bytes
Records = Mapping[Any, Any] | Iterable[tuple[Any, Any]]
BLOCK = 512
SECOND = 1_000_000_000
# name -> offset and width of a header's fields
FIELDS = {
    "name": (0, 100), "mode": (100, 8), "uid": (108, 8), "gid": (116, 8), "size": (124, 12), "mtime": (136, 12),
    "chksum": (148, 8), "type": (156, 1), "link": (157, 100), "magic": (257, 8), "uname": (265, 32), "gname": (297, 32),
    "major": (329, 8), "minor": (337, 8), "prefix": (345, 155),
}  # fmt: skip
MAGIC = {"pax": b"ustar\x0000", "gnu": b"ustar  \0", "v7": b""}
DEFAULT_MODES = {"5": 0o755, "2": 0o777}


@dataclass(frozen=True, repr=False)
class Member(Value):
    """One entry. ``path`` is written as it stands (a directory's slash, ``./``, ``..`` and all).

    ``pax``: extended records beyond those that the fields need, a mapping or pairs (so that a keyword can come twice);
    ``header``: bytes that override a field by name (see FIELDS) or by offset, before the checksum is taken, which is
    itself overridden by ``"chksum"``; ``size``: what the header says of the content's length.
    """

    path: Name
    type: str = "0"
    content: bytes = b""
    mode: int | None = field(default=None, kw_only=True)
    uid: int = field(default=0, kw_only=True)
    gid: int = field(default=0, kw_only=True)
    mtime_ns: int = field(default=MTIME_NS, kw_only=True)
    link: Name = field(default=b"", kw_only=True)
    major: int = field(default=0, kw_only=True)
    minor: int = field(default=0, kw_only=True)
    uname: Name = field(default=b"", kw_only=True)
    gname: Name = field(default=b"", kw_only=True)
    xattrs: Mapping[Name, bytes] = field(default_factory=dict, kw_only=True, hash=False)
    pax: Records = field(default=(), kw_only=True, hash=False)
    header: Mapping[str | int, bytes] = field(default_factory=dict, kw_only=True, hash=False)
    size: int | None = field(default=None, kw_only=True)
    style: str | None = field(default=None, kw_only=True)


def file(path: Name, content: bytes = b"", **fields: Any) -> Member:
    """A regular file."""
    return Member(path, "0", content, **fields)


def directory(path: Name, **fields: Any) -> Member:
    """A directory, its path with the slash that writers add."""
    return Member(os.fsencode(path).rstrip(b"/") + b"/", "5", **fields)


def symlink(path: Name, target: Name, **fields: Any) -> Member:
    """A symbolic link with the text ``target``."""
    return Member(path, "2", link=target, **fields)


def hardlink(path: Name, target: Name, **fields: Any) -> Member:
    """A hard link to the path ``target``."""
    return Member(path, "1", link=target, **fields)


def char(path: Name, major: int, minor: int, **fields: Any) -> Member:
    """A character device."""
    return Member(path, "3", major=major, minor=minor, **fields)


def block(path: Name, major: int, minor: int, **fields: Any) -> Member:
    """A block device."""
    return Member(path, "4", major=major, minor=minor, **fields)


def fifo(path: Name, **fields: Any) -> Member:
    """A named pipe."""
    return Member(path, "6", **fields)


def whiteout(path: Name, **fields: Any) -> Member:
    """The marker that hides the lower ``path``: an empty file ``.wh.NAME`` beside it (image-spec, layer.md)."""
    folder, slash, name = os.fsencode(path).rpartition(b"/")
    return Member(folder + slash + b".wh." + name, "0", **{"mode": 0, "mtime_ns": 0, **fields})


def opaque(folder: Name = b"", **fields: Any) -> Member:
    """The marker that hides the lower content of ``folder`` (``b""``: of the root)."""
    path = os.path.join(os.fsencode(folder), b".wh..wh..opq")
    return Member(path, "0", **{"mode": 0, "mtime_ns": 0, **fields})


def padded(data: bytes) -> bytes:
    """Fill ``data`` with zeros to a whole number of blocks."""
    return data + bytes(-len(data) % BLOCK)


def pax_header(records: Records, *, flag: str = "x", style: str = "pax") -> bytes:
    """Return the extended header of ``records``; ``flag`` ``"g"`` makes it a global one."""
    data = b"".join(_record(name, value) for name, value in _pairs(records))
    name = "././@PaxHeader" if flag == "x" else "pax_global_header"
    return layer_tar([Member(name, flag, data, mtime_ns=0, style=style)], end=b"")


def _pairs(records: Records) -> list[tuple[bytes, bytes]]:
    pairs = records.items() if isinstance(records, Mapping) else records
    return [(os.fsencode(name), value if isinstance(value, bytes) else str(value).encode()) for name, value in pairs]


def _record(name: bytes, value: bytes) -> bytes:
    body = b" %s=%s\n" % (name, value)
    length = len(body) + 1
    while len(b"%d" % length) + len(body) != length:
        length = len(b"%d" % length) + len(body)
    return b"%d%s" % (length, body)


def _base256(value: int, width: int) -> bytes:
    number = value.to_bytes(width, "big", signed=True)
    return bytes([number[0] | 0x80 if value >= 0 else 0xFF]) + number[1:]


def _split(path: bytes) -> tuple[bytes, bytes] | None:
    # ustar's prefix and name, or None where the path does not fit
    if len(path) <= 100:
        return b"", path
    for at in range(min(155, len(path) - 1), 0, -1):
        if path[at : at + 1] == b"/" and 0 < len(path) - at - 1 <= 100:
            return path[:at], path[at + 1 :]
    return None


class _Header:
    """One 512-byte header in the making, with the members and records that must go before it."""

    def __init__(self, member: Member, style: str) -> None:
        self.member, self.style = member, member.style or style
        self.before = b""
        self.records: list[tuple[bytes, bytes]] = []
        self.block = bytearray(BLOCK)

    def put(self, name: str, value: bytes) -> None:
        begin, width = FIELDS[name]
        self.block[begin : begin + width] = value[:width].ljust(width, b"\0")

    def number(self, name: str, value: int, exact: bytes | None = None) -> None:
        # ``exact`` is the pax spelling of a value that the field can only round
        width = FIELDS[name][1]
        fits = 0 <= value < 8 ** (width - 1)
        if fits:
            self.put(name, b"%0*o\0" % (width - 1, value))
        elif self.style == "pax":
            self.put(name, b"%0*o\0" % (width - 1, 0))
        else:
            self.put(name, _base256(value, width))
        if self.style == "pax" and (exact is not None or not fits):
            self.records.append((name.encode(), b"%d" % value if exact is None else exact))

    def text(self, name: str, value: bytes, keyword: bytes, gnu: str) -> None:
        parts = _split(value) if name == "name" and self.style == "pax" else (b"", value)
        if parts is not None and len(parts[1]) <= 100:
            self.put(name, parts[1])
            if name == "name" and self.style == "pax":
                self.put("prefix", parts[0])
            return
        self.put(name, value)
        if self.style == "pax":
            self.records.append((keyword, value))
        elif self.style == "gnu":
            long = Member("././@LongLink", gnu, value + b"\0", mode=0, mtime_ns=0, style="gnu")
            self.before += layer_tar([long], end=b"")

    def fill(self) -> None:
        m = self.member
        size = len(m.content) if m.size is None else m.size
        self.text("name", os.fsencode(m.path), b"path", "L")
        self.text("link", os.fsencode(m.link), b"linkpath", "K")
        self.number("mode", DEFAULT_MODES.get(m.type, 0o644) if m.mode is None else m.mode)
        self.number("uid", m.uid)
        self.number("gid", m.gid)
        self.number("size", size)
        fraction = m.mtime_ns % SECOND != 0
        self.number("mtime", m.mtime_ns // SECOND, b"%s" % _seconds(m.mtime_ns) if fraction else None)
        self.put("type", m.type.encode("latin-1"))
        self.put("magic", MAGIC[self.style])
        if self.style != "v7":
            self.put("uname", os.fsencode(m.uname))
            self.put("gname", os.fsencode(m.gname))
            if m.type in "34":
                self.number("major", m.major)
                self.number("minor", m.minor)
        self.records += [(b"SCHILY.xattr." + os.fsencode(n), v) for n, v in m.xattrs.items()]
        self.records += _pairs(m.pax)

    def seal(self) -> bytes:
        for where, value in self.member.header.items():
            if isinstance(where, int):
                self.block[where : where + len(value)] = value
            elif where != "chksum":
                self.put(where, value)
        self.put("chksum", b" " * 8)
        self.put("chksum", self.member.header.get("chksum", b"%06o\0 " % sum(self.block)))
        return bytes(self.block)


def _seconds(ns: int) -> bytes:
    return format(Decimal(ns) / SECOND, "f").encode()


def _encoded(member: Member, style: str) -> Iterator[bytes]:
    header = _Header(member, style)
    header.fill()
    yield header.before
    if header.records:
        yield pax_header(header.records)
    yield header.seal()
    yield padded(member.content)


def layer_tar(entries: Iterable[Member | bytes], *, style: str = "pax", end: bytes = bytes(2 * BLOCK)) -> bytes:
    """Return the tar of ``entries`` in their order; ``end`` follows the last one. The bytes depend on these alone."""
    parts: list[bytes] = []
    for entry in entries:
        parts.extend([entry] if isinstance(entry, bytes) else _encoded(entry, style))
    return b"".join(parts) + end
