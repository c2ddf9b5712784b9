"""What overlayfs's own extended attributes say of the rows of a table (kernel document overlayfs.rst)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lamella._kernels import lookup as kernel
from lamella.columns import ARENA, AT
from lamella.errors import UnsafePathError

__all__ = ["HIDING", "METACOPY", "OPAQUE", "REDIRECT", "XWHITEOUTS", "BranchDialect", "Own", "lower_path", "read_own"]

HIDING, OPAQUE, XWHITEOUTS = kernel.FACT_HIDING, kernel.FACT_OPAQUE, kernel.FACT_XWHITEOUTS
METACOPY, REDIRECT = kernel.FACT_METACOPY, kernel.FACT_REDIRECT

BranchDialect = Literal["overlay", "overlay:trusted", "overlay:user", "aufs"]
_NAMESPACES = {"overlay": 3, "overlay:trusted": 1, "overlay:user": 2, "aufs": 0}


@dataclass(frozen=True, slots=True, eq=False)
class Own:
    """``columns`` without overlay's own attributes, nested ones unescaped; ``facts`` by row, ``texts`` of redirects."""

    columns: tuple[Any, ...]
    facts: NDArray[np.uint8]
    texts: dict[int, bytes]


def read_own(columns: tuple[Any, ...], dialect: BranchDialect) -> Own:
    """Take overlay's own attributes out of ``columns`` (``ext_off ext_len`` and the arena are new ones)."""
    ext_len = columns[AT["ext_len"]]
    n = len(ext_len)
    facts = np.zeros(n, np.uint8)
    nbytes = int(ext_len.sum(dtype=np.int64)) if n else 0
    if not nbytes or not _NAMESPACES[dialect]:
        return Own(columns, facts, {})
    text_off, text_len = np.empty(n, np.int64), np.empty(n, np.uint16)
    new_off, new_len = np.empty(n, np.int64), np.empty(n, np.uint32)
    more = np.empty(nbytes, np.uint8)
    used = kernel.own(columns, _NAMESPACES[dialect], facts, text_off, text_len, new_off, new_len, more)
    arena = columns[ARENA]
    texts = {row: arena[text_off[row] : text_off[row] + text_len[row]].tobytes() for row in np.flatnonzero(text_len).tolist()}
    out = list(columns)
    out[AT["ext_off"]], out[AT["ext_len"]] = new_off, new_len
    out[ARENA] = np.concatenate([arena, more[:used]]) if used else arena
    return Own(tuple(out), facts, texts)


def lower_path(path: bytes, text: bytes, parent: bytes) -> bytes:
    """Return where the redirect ``text`` of ``path`` leads: from the root, or beside it in ``parent``.

    UnsafePathError for a text that overlayfs would not follow.
    """
    absolute = text.startswith(b"/")
    parts = text[absolute:].split(b"/")
    if any(part in (b"", b".", b"..") for part in parts) or b"\0" in text or (len(parts) > 1 and not absolute):
        raise UnsafePathError(path, "a redirect that leads nowhere", target=text)
    return b"/".join(parts if absolute or not parent else [parent, *parts])
