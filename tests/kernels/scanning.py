"""Scan bytes with the kernel, in pieces of any size, and bring rows into the form of the reference."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lamella.columns import F_DOTDOT, TableBuilder
from lamella.errors import LimitExceededError, TarFormatError, TruncatedError
from lamella.model import Limits
from lamella.table import EntryTable
from lamella.tar.scanner import Scanner

REFUSED = (TarFormatError, TruncatedError, LimitExceededError)


def scanned(chunks: bytes | Iterable[bytes], *, limits: Limits = Limits(), rows: int = 4, arena: int = 64) -> EntryTable:
    """Return the table of a tar given in pieces; room is small at the beginning, so that it must grow."""
    scanner = Scanner(limits, TableBuilder("tar", rows=rows, arena=arena))
    for chunk in [chunks] if isinstance(chunks, bytes) else chunks:
        scanner.feed(chunk)
    scanner.finish()
    return EntryTable(scanner.builder.finish(), "archive")


def rows_of(table: EntryTable) -> list[dict[str, Any]]:
    """Return the rows as dictionaries."""
    rows = []
    for i, e in enumerate(table):
        row = {"path": e.path, "link": e.link_target, "type": e.type.value, "mode": e.mode, "uid": e.uid, "gid": e.gid}
        row |= {"size": e.size, "mtime": (e.mtime, e.mtime_nsec), "major": e.rdev_major, "minor": e.rdev_minor}
        row |= {"uname": e.uname, "gname": e.gname, "xattrs": e.xattrs, "pax": e.pax, "off": e.data_off}
        row["atime"] = None if e.atime_ns is None else divmod(e.atime_ns, 10**9)
        row["dotdot"] = bool(table.flags[i] & F_DOTDOT)
        if e.sparse is not None:
            row["sparse"] = [tuple(pair) for pair in e.sparse.tolist()]
        assert table.link_group[i] == -1
        assert list(row["xattrs"]) == sorted(row["xattrs"])
        rows.append(row)
    return rows


def outcome(chunks: bytes | Iterable[bytes], **options: Any) -> Any:
    """Return the rows, or what the refusal says: its class, offset, limit, value and entry."""
    try:
        return rows_of(scanned(chunks, **options))
    except REFUSED as error:
        names = ("offset", "limit", "value", "entry")
        return (type(error).__name__, *(getattr(error, name, None) for name in names))
