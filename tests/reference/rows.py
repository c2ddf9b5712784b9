"""Tables from dictionaries: one row each, by name, slow and obvious."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from lamella.columns import (
    ARENA,
    AT,
    EXT_ATIME,
    EXT_GNAME,
    EXT_PAX,
    EXT_SPARSE,
    EXT_UNAME,
    EXT_XATTR,
    F_ATIME,
    F_SPARSE,
    TableBuilder,
)
from lamella.model import EntryType
from lamella.table import EntryTable

PLAIN = ("mode", "uid", "gid", "size", "mtime", "mtime_nsec", "rdev_major", "rdev_minor", "link_group", "data_off")
DEFAULTS = {"mode": 0o644, "link_group": -1, "data_off": -1}
KEYS = {*PLAIN, "path", "type", "link_target", "flags", "mtime_ns", "atime_ns", "dev", "ino"} | {
    "xattrs", "uname", "gname", "pax", "sparse"
}  # fmt: skip


def extra(tag: int, name: bytes, value: bytes) -> bytes:
    """Return one item of a run of extras."""
    return struct.pack("<BHI", tag, len(name), len(value)) + name + value


def extras_of(row: Mapping[str, Any]) -> bytes:
    """Return the run of extras that ``row`` asks for, extended attributes first, names sorted as tarscan does."""
    run = b"".join(extra(EXT_XATTR, os.fsencode(n), v) for n, v in sorted(row.get("xattrs", {}).items()))
    for tag, key in ((EXT_UNAME, "uname"), (EXT_GNAME, "gname")):
        if row.get(key):
            run += extra(tag, b"", os.fsencode(row[key]))
    run += b"".join(extra(EXT_PAX, os.fsencode(n), os.fsencode(v)) for n, v in sorted(row.get("pax", {}).items()))
    if row.get("sparse") is not None:
        run += extra(EXT_SPARSE, b"", b"".join(struct.pack("<qq", *region) for region in row["sparse"]))
    if row.get("atime_ns") is not None:
        run += extra(EXT_ATIME, b"", struct.pack("<qI", *divmod(row["atime_ns"], 10**9)))
    return run


def table_of(
    rows: Iterable[Mapping[str, Any]],
    *,
    origin: Literal["tar", "tree"] = "tar",
    order: Literal["archive", "path"] = "archive",
) -> EntryTable:
    """Build a table; ``path`` alone is required: a regular file of size 0 and mode 0644 (directories 0755), owned by 0.

    ``type`` is an EntryType or tar's flag as text; names are str or bytes; ``xattrs`` and ``pax`` map names to values;
    ``sparse`` lists (offset, nbytes) and ``atime_ns``, ``mtime_ns`` set seconds and nanoseconds; the flags that these
    imply are set. ``dev`` and ``ino`` belong to origin "tree", ``data_off`` to "tar". The rows are taken as they come.
    """
    builder = TableBuilder(origin, rows=16, arena=256)
    for row in rows:
        assert row.keys() <= KEYS, row.keys() - KEYS
        put(builder, row)
    return EntryTable(builder.finish(), order)


def put(builder: TableBuilder, row: Mapping[str, Any]) -> None:
    """Append one row."""
    kind = EntryType(row.get("type", "0"))
    path, target, run = os.fsencode(row["path"]), os.fsencode(row.get("link_target", b"")), extras_of(row)
    values = DEFAULTS | ({"mode": 0o755} if kind is EntryType.DIR else {}) | {k: row[k] for k in PLAIN if k in row}
    if "mtime_ns" in row:
        values["mtime"], values["mtime_nsec"] = divmod(row["mtime_ns"], 10**9)
    values |= {"type": ord(kind.value), "path_len": len(path), "link_len": len(target), "ext_len": len(run)}
    values |= {"dev": row.get("dev", 0), "ino": row.get("ino", 0)}
    values["flags"] = row.get("flags", 0)
    values["flags"] |= F_SPARSE * (row.get("sparse") is not None) | F_ATIME * (row.get("atime_ns") is not None)
    builder.grow(1, len(path) + len(target) + len(run))
    begin = builder.arena_used
    values["name_off"] = begin
    values["ext_off"] = begin + len(path) + len(target)
    data = path + target + run
    builder.columns[ARENA][begin : begin + len(data)] = bytearray(data)
    builder.arena_used += len(data)
    for name, at in AT.items():
        if at != ARENA and builder.columns[at] is not None:
            builder.columns[at][builder.n_rows] = values.get(name, 0)
    builder.n_rows += 1
