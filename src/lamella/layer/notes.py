"""What the placing kernel noted about rows, for people to read."""

from __future__ import annotations

import os

from lamella.layer.placement import Placement
from lamella.table import EntryTable

__all__ = ["warnings"]

_MESSAGES = {
    1: "the file system does not keep this xattr",
    2: "xattr refused by the kernel",
    3: "overlay's own xattr dropped",
    4: "trusted xattr dropped",
    5: "time clamped by the file system",
    6: "xattr name that cannot be set",
}
_OF_XATTRS = {1, 2, 3, 4, 6}


def warnings(placement: Placement, begin: int = 0, end: int | None = None) -> list[str]:
    """Tell what was noted of rows [begin, end), a line a kind with its first path and the number of others."""
    pairs = placement.found(begin, placement.builder.n_rows if end is None else end)
    table = EntryTable(placement.builder.snapshot(), "archive")
    lines = []
    for code, message in _MESSAGES.items():
        rows = pairs[pairs[:, 1] == code, 0]
        if len(rows):
            path = os.fsdecode(placement.path(int(rows[0]))).encode("utf-8", "replace").decode()
            if code in _OF_XATTRS:
                path += f" ({', '.join(sorted(os.fsdecode(n) for n in table.xattrs(int(rows[0]))))})"
            more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
            lines.append(f"{message}: {path}{more}")
    return lines
