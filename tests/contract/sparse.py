"""Sparse files in the four spellings of GNU tar, made by hand (GNU tar manual, "Storing Sparse Files")."""

from __future__ import annotations

from lamella.testing.tars import BLOCK, Member, padded

Regions = list[tuple[int, bytes]]  # offset and data, in order


def expanded(regions: Regions, size: int) -> bytes:
    """Return the file that the regions make."""
    content = bytearray(size)
    for offset, data in regions:
        content[offset : offset + len(data)] = data
    return bytes(content)


def _octal(value: int) -> bytes:
    return b"%011o\0" % value


def old_gnu(path: str, regions: Regions, size: int, **header: bytes) -> Member:
    """Type ``S``: four regions in the header, 21 in each block after it; the real size is a field of its own."""
    pairs = [_octal(offset) + _octal(len(data)) for offset, data in regions]
    first, rest = pairs[:4], pairs[4:]
    fields: dict[str | int, bytes] = {386 + 24 * i: pair for i, pair in enumerate(first)}
    fields |= {482: bytes([bool(rest)]), 483: _octal(size), **header}
    blocks = []
    while rest:
        piece, rest = rest[:21], rest[21:]
        blocks.append(b"".join(piece).ljust(504, b"\0") + bytes([bool(rest)]) + bytes(7))
    stored = b"".join(data for _, data in regions)
    # the blocks of the map are not counted in the size
    return Member(path, "S", b"".join(blocks) + stored, size=len(stored), style="gnu", header=fields)


def pax_00(path: str, regions: Regions, size: int) -> Member:
    """Version 0.0: the keywords of the map come again and again."""
    records = [("GNU.sparse.size", size), ("GNU.sparse.numblocks", len(regions))]
    for offset, data in regions:
        records += [("GNU.sparse.offset", offset), ("GNU.sparse.numbytes", len(data))]
    return Member(path, "0", b"".join(data for _, data in regions), pax=records)


def pax_01(path: str, regions: Regions, size: int) -> Member:
    """Version 0.1: the map is one record, the name another."""
    pairs = ",".join(f"{offset},{len(data)}" for offset, data in regions)
    records = [
        ("GNU.sparse.size", size), ("GNU.sparse.numblocks", len(regions)), ("GNU.sparse.map", pairs),
        ("GNU.sparse.name", path),
    ]  # fmt: skip
    return Member("GNUSparseFile.1/name", "0", b"".join(data for _, data in regions), pax=records)


def pax_10(path: str, regions: Regions, size: int, *, map_text: bytes | None = None) -> Member:
    """Version 1.0: the map stands before the data, in decimal lines, filled to a whole block."""
    lines = [len(regions)] + [n for offset, data in regions for n in (offset, len(data))]
    text = padded(b"".join(b"%d\n" % n for n in lines)) if map_text is None else map_text
    records = [
        ("GNU.sparse.major", 1),
        ("GNU.sparse.minor", 0),
        ("GNU.sparse.name", path),
        ("GNU.sparse.realsize", size),
    ]
    return Member("GNUSparseFile.1/name", "0", text + b"".join(data for _, data in regions), pax=records)


SPELLINGS = {"old": old_gnu, "0.0": pax_00, "0.1": pax_01, "1.0": pax_10}
assert BLOCK == 512
