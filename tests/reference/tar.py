"""A tar reader in plain Python: slow, all in memory, one rule after another as the formats' documents have them.

:func:`parse` gives a dictionary for each entry, or raises :class:`Bad` with the name of the exception that a reader owes.
It was written from the rules, not from the kernel, and is compared with it on broken and unbroken archives.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
from typing import Any
from urllib.parse import unquote_to_bytes

BLOCK = 512
NUMBER = re.compile(rb"[ \0]*(?![ \0])([0-7]*) *(?:\0.*)?\Z", re.DOTALL)
TIME = re.compile(rb"(-?)([0-9]+)(?:\.([0-9]*))?\Z")
DIGITS = re.compile(rb"[0-9]+\Z")
FREE = {"SCHILY.devmajor": "major", "SCHILY.devminor": "minor", "uid": "uid", "gid": "gid", "size": "size"}
LIMITS = {"entries": 1 << 40, "pax_bytes": 1 << 20, "xattrs": 256, "sparse_entries": 1 << 20, "path": 4096}


class Bad(Exception):
    """The archive is refused: ``kind`` is the exception's name, or the name of a limit."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


def number(field: bytes) -> int:
    """Read an octal or base-256 field."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        if field[0] & 0x40:
            value -= 1 << (8 * len(field) - 1)
        if not -(1 << 63) <= value < 1 << 63:
            raise Bad("TarFormatError")
        return value
    found = NUMBER.match(field)
    if found is None:
        raise Bad("TarFormatError")
    return int(found[1] or b"0", 8)


def decimal(value: bytes) -> int:
    """Read a pax integer."""
    if not DIGITS.match(value) or int(value) >= 1 << 63:
        raise Bad("TarFormatError")
    return int(value)


def time(value: bytes) -> tuple[int, int]:
    """Read a pax time: seconds and nanoseconds, rounded down."""
    found = TIME.match(value)
    if found is None:
        raise Bad("TarFormatError")
    fraction = found[3] or b""
    units = int(found[2] + fraction) * (-1 if found[1] else 1)
    seconds, nsec = divmod(units * 10**9 // 10 ** len(fraction), 10**9)
    if not -(1 << 63) <= seconds < 1 << 63:
        raise Bad("TarFormatError")
    return seconds, nsec


def text(field: bytes) -> bytes:
    """Cut at the first NUL."""
    return field.partition(b"\0")[0]


def normal(path: bytes) -> bytes:
    """Drop empty and ``.`` components."""
    return b"/".join(part for part in path.split(b"/") if part not in (b"", b"."))


def records(body: bytes) -> list[tuple[bytes, bytes]]:
    """Split a pax body."""
    found = []
    while body.strip(b"\0"):
        digits, _, _ = body.partition(b" ")
        if not DIGITS.match(digits) or int(digits) > len(body):
            raise Bad("TarFormatError")
        record, body = body[: int(digits)], body[int(digits) :]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if record[-1:] != b"\n" or not key or not equals or b"\0" in key or len(record) < len(digits) + 4:
            raise Bad("TarFormatError")
        if key in (b"path", b"linkpath", b"uname", b"gname", b"GNU.sparse.name") and b"\0" in value:
            raise Bad("TarFormatError")
        found.append((key, value))
    return found


def libarchive(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """Decode a LIBARCHIVE.xattr record."""
    plain = value.rstrip(b"=")
    if re.search(rb"%(?![0-9A-Fa-f]{2})|%00", name) or not re.fullmatch(rb"[A-Za-z0-9+/]*", plain):
        raise Bad("TarFormatError")
    try:
        return unquote_to_bytes(name), base64.b64decode(plain + b"=" * (-len(plain) % 4))
    except binascii.Error as error:
        raise Bad("TarFormatError") from error


class Archive:
    """One pass over ``data``."""

    def __init__(self, data: bytes, limits: dict[str, int]) -> None:
        self.data, self.limits = data, {**LIMITS, **limits}
        self.at = 0
        self.shared: list[tuple[bytes, bytes]] = []  # global pax records
        self.entries: list[dict[str, Any]] = []
        self.clear()

    def clear(self) -> None:
        self.local: list[tuple[bytes, bytes]] | None = None
        self.long: dict[int, bytes] = {}

    def take(self, n: int) -> bytes:
        """Take ``n`` bytes, all of them."""
        if n > len(self.data) - self.at:
            raise Bad("TruncatedError")
        self.at += n
        return self.data[self.at - n : self.at]

    def body(self, n: int) -> bytes:
        """Take ``n`` bytes and the padding."""
        return self.take(n + -n % BLOCK)[:n]

    def run(self) -> list[dict[str, Any]]:
        while self.at < len(self.data):
            header = self.take(BLOCK)
            if not any(header):
                if self.local is not None or self.long:
                    raise Bad("TarFormatError")
                return self.entries
            if not checked(header):
                raise Bad("TarFormatError")
            self.member(header, header[156])
        if self.local is not None or self.long:
            raise Bad("TruncatedError")
        return self.entries

    def member(self, header: bytes, flag: int) -> None:
        if flag in b"xXg" or flag in b"LK":
            self.extended(header, flag)
        elif flag == ord("S"):
            if header[257:265] != b"ustar  \0":
                raise Bad("TarFormatError")
            regions = self.old_map(header)
            self.entry(header, regions)
        elif flag in b"\x0001234567":
            self.entry(header, None)
        else:
            raise Bad("TarFormatError")

    def extended(self, header: bytes, flag: int) -> None:
        size = number(header[124:136])
        pending = self.local is not None or bool(self.long)
        if size < 0 or (flag == ord("g") and pending):
            raise Bad("TarFormatError")
        if (flag in b"xX" and self.local is not None) or flag in self.long:
            raise Bad("TarFormatError")
        used = sum(len(b"%d" % len(v)) for _, v in self.shared)
        if size > self.limits["pax_bytes"] - (used if flag == ord("g") else 0):
            raise Bad("pax_bytes")
        body = self.take(size)
        if flag in b"LK":
            self.long[flag] = text(body)
        elif flag in b"xX":
            self.local = records(body)
        else:
            found = records(body)
            if any(k in SPARSE | {b"size"} for k, _ in found):
                raise Bad("TarFormatError")
            self.shared += found
        self.take(-size % BLOCK)

    def old_map(self, header: bytes) -> list[int]:
        values, more = pairs(header[386:482]), header[482]
        while more:
            block = self.take(BLOCK)
            values += pairs(block[:504])
            more = block[504]
        if len(values) // 2 > self.limits["sparse_entries"]:
            raise Bad("sparse_entries")
        return values

    def keywords(self) -> tuple[dict[str, bytes], dict[bytes, bytes], dict[bytes, bytes]]:
        """Merge global and local records: known keywords, extended attributes, others."""
        known: dict[bytes, bytes] = {}
        spelled: dict[bytes, bytes] = {}
        for key, value in [*self.shared, *(self.local or [])]:
            if key.startswith(b"LIBARCHIVE.xattr."):
                name, value = libarchive(key[17:], value)  # noqa: PLW2901
                if not key[17:]:
                    raise Bad("TarFormatError")
                spelled[name] = value
                continue
            if key == b"SCHILY.xattr.":
                raise Bad("TarFormatError")
            known.pop(key, None)
            if value:
                known[key] = value
        xattrs = {k[13:]: v for k, v in known.items() if k.startswith(b"SCHILY.xattr.")}
        fields = {k.decode(): v for k, v in known.items() if k in COLUMNS | SPARSE}
        taken = COLUMNS | SPARSE | {b"ctime"}
        others = {k: v for k, v in known.items() if k not in taken and not k.startswith(b"SCHILY.xattr.")}
        if max(len(xattrs), len(spelled)) > self.limits["xattrs"]:
            raise Bad("xattrs")
        return fields, {**spelled, **xattrs}, others

    def entry(self, h: bytes, regions: list[int] | None) -> None:
        e = plain(h)
        e["path"] = self.long.get(ord("L"), e["path"])
        e["link"] = self.long.get(ord("K"), e["link"])
        kw, e["xattrs"], e["pax"] = self.keywords()
        packed, room = apply(e, kw), None
        if regions is not None:
            e["size"], packed = number(h[483:495]), e["size"]
            if e["size"] < 0:
                raise Bad("TarFormatError")
        flag = kind(e, h[156], h[257:265])
        if any(not 0 <= e[k] < 1 << 32 for k in ("uid", "gid", "major", "minor")):
            raise Bad("TarFormatError")
        if max(len(e["path"].replace(b"/", b"", 0)) - e.pop("joint"), len(e["link"]) if flag in "12" else 0) > min(
            self.limits["path"], 65535
        ):
            raise Bad("path")
        if len(self.entries) >= self.limits["entries"]:
            raise Bad("entries")
        sparse = regions is not None or packed is not None
        if sparse and flag != "0":
            raise Bad("TarFormatError")
        stated = packed if packed is not None else e["size"]
        if packed is not None and regions is None:
            regions, room = self.pax_map(kw, packed)
            packed -= room
        if sparse and regions is not None:
            e["sparse"] = checked_map(regions, e["size"], packed or 0, self.limits["sparse_entries"])
        e["type"], e["off"] = flag, self.at if flag == "0" and (packed if sparse else stated) else -1
        self.entries.append(finished(e))
        self.clear()
        self.pass_by(flag, stated, room or 0)

    def pass_by(self, flag: str, stated: int, taken: int) -> None:
        if flag == "0":
            e = self.entries[-1]
            payload = self.body(stated - taken)
            e["content"] = payload
        elif stated and self.at < len(self.data):
            following = self.data[self.at : self.at + BLOCK]
            if len(following) < BLOCK:
                raise Bad("TruncatedError")
            if any(following) and not checked(following):
                self.body(stated)
        if flag != "0":
            self.entries[-1]["size"] = 0

    def pax_map(self, kw: dict[str, bytes], packed: int) -> tuple[list[int], int]:
        if "GNU.sparse.map" in kw:
            return [decimal(v) for v in kw["GNU.sparse.map"].split(b",")] + self.map_00(), 0
        if kw.get("GNU.sparse.major") != b"1":
            return self.map_00(), 0
        begin, values, want = self.at, [], 1
        line = b""
        while len(values) < want:
            if self.at - begin >= packed:
                raise Bad("TarFormatError")
            char = self.take(1)
            line += char
            if char == b"\n":
                values.append(decimal(line[:-1]))
                if values[-1] >= 1 << 58:
                    raise Bad("TarFormatError")
                if len(values) == 1:
                    if values[0] > self.limits["sparse_entries"]:
                        raise Bad("sparse_entries")
                    if values[0] > (packed - (self.at - begin) + 1) // 4:
                        raise Bad("TarFormatError")
                    want = 1 + 2 * values[0]
                line = b""
            elif not char.isdigit():
                raise Bad("TarFormatError")
        while (self.at - begin) % BLOCK:
            if self.at - begin >= packed:
                raise Bad("TarFormatError")
            self.take(1)
        return values[1:], self.at - begin

    def map_00(self) -> list[int]:
        values: list[int] = []
        for key, value in self.local or []:
            if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
                if (key == b"GNU.sparse.numbytes") != len(values) % 2:
                    raise Bad("TarFormatError")
                values.append(decimal(value))
        return values


COLUMNS = {b"path", b"linkpath", b"uname", b"gname", b"mtime", b"atime"} | {k.encode() for k in FREE}
SPARSE = {
    f"GNU.sparse.{k}".encode() for k in ["name", "map", "size", "realsize", "major", "minor", "numblocks", "offset", "numbytes"]
}


def checked(h: bytes) -> bool:
    """Compare the checksum with both sums."""
    try:
        stated = number(h[148:156])
    except Bad:
        return False
    others = h[:148] + b" " * 8 + h[156:]
    return stated in (sum(others), sum(b - 256 if b > 127 else b for b in others))


def pairs(fields: bytes) -> list[int]:
    """Read old GNU pairs up to the first blank one."""
    values: list[int] = []
    for at in range(0, len(fields), 24):
        if 0 in (fields[at], fields[at + 12]):
            break
        values += [number(fields[at : at + 12]), number(fields[at + 12 : at + 24])]
    return values


def plain(h: bytes) -> dict[str, Any]:
    """Read what the header alone says."""
    e: dict[str, Any] = {"path": text(h[:100]), "link": text(h[157:257]), "uname": b"", "gname": b"", "joint": 0}
    e |= {"mode": number(h[100:108]), "uid": number(h[108:116]), "gid": number(h[116:124])}
    e |= {"size": number(h[124:136]), "mtime": (number(h[136:148]), 0), "atime": None, "major": 0, "minor": 0}
    if e["mode"] < 0 or e["size"] < 0:
        raise Bad("TarFormatError")
    ustar, gnu = h[257:263] == b"ustar\0", h[257:265] == b"ustar  \0"
    star = ustar and h[508:512] == b"tar\0"
    if ustar or gnu:
        e["uname"], e["gname"] = text(h[265:297]), text(h[297:329])
        if h[156] in b"34":
            e["major"], e["minor"] = number(h[329:337]), number(h[337:345])
    if ustar:
        prefix = text(h[345 : 476 if star else 500])
        e["path"], e["joint"] = (prefix + b"/" + e["path"], 1) if prefix else (e["path"], 0)
    if star and h[476]:
        e["atime"] = (number(h[476:488]), 0)
    if gnu and h[345]:
        with contextlib.suppress(Bad):
            e["atime"] = (number(h[345:357]), 0)
    return e


def apply(e: dict[str, Any], kw: dict[str, bytes]) -> int | None:
    """Let pax records override; returns the packed size where they make the entry sparse."""
    for keyword, name in FREE.items():
        if keyword in kw:
            e[name] = decimal(kw[keyword])
    for keyword, name in (("path", "path"), ("GNU.sparse.name", "path"), ("linkpath", "link")):
        if keyword in kw:
            e[name] = kw[keyword]
            e["joint"] = 0 if name == "path" else e["joint"]
    e |= {name: kw[name] for name in ("uname", "gname") if name in kw}
    e |= {name: time(kw[name]) for name in ("mtime", "atime") if name in kw}
    if kw.get("GNU.sparse.major") == b"1" and kw.get("GNU.sparse.minor") == b"0":
        real = kw.get("GNU.sparse.realsize", b"")
    elif kw.get("GNU.sparse.major", b"0") != b"0":
        raise Bad("TarFormatError")
    elif kw.keys() & {"GNU.sparse.map", "GNU.sparse.offset", "GNU.sparse.size"}:
        real = kw.get("GNU.sparse.size", b"")
    else:
        return None
    packed: int = e["size"]
    e["size"] = decimal(real)
    return packed


def kind(e: dict[str, Any], flag: int, magic: bytes) -> str:
    """Return the row's type."""
    if flag not in b"\x0007S":
        return chr(flag)
    v7 = magic[:6] != b"ustar\0" and magic != b"ustar  \0"
    return "5" if e["path"].endswith(b"/") and (flag == 0 or v7) else "0"


def checked_map(values: list[int], size: int, packed: int, limit: int) -> list[tuple[int, int]]:
    """Check a sparse map; empty regions are dropped."""
    if len(values) // 2 > limit:
        raise Bad("sparse_entries")
    if len(values) % 2:
        raise Bad("TarFormatError")
    found, end = [], 0
    for offset, nbytes in zip(values[::2], values[1::2], strict=True):
        if nbytes == 0:
            continue
        if offset < end or nbytes < 0 or offset + nbytes > size:
            raise Bad("TarFormatError")
        found.append((offset, nbytes))
        end = offset + nbytes
    if sum(n for _, n in found) != packed:
        raise Bad("TarFormatError")
    return found


def finished(e: dict[str, Any]) -> dict[str, Any]:
    """Bring names and numbers into the form of a row."""
    e["dotdot"] = b".." in e["path"].split(b"/") or (e["type"] == "1" and b".." in e["link"].split(b"/"))
    e["path"], e["mode"] = normal(e["path"]), e["mode"] & 0o7777
    e["link"] = normal(e["link"]) if e["type"] == "1" else e["link"] if e["type"] == "2" else b""
    if e["type"] not in "34":
        e["major"] = e["minor"] = 0
    return e


def parse(data: bytes, **limits: int) -> list[dict[str, Any]]:
    """Return the entries of the tar ``data``; Bad where it is refused."""
    return Archive(data, limits).run()
