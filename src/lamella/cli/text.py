"""Text that can deceive no terminal, paths for JSON, numbers for people."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Sequence

__all__ = ["columns", "human", "one_line", "path_fields", "shown"]


def shown(text: bytes | str) -> str:
    r"""Return a path, or any foreign text, as a terminal may have it.

    Printable characters stand for themselves, a backslash is doubled, and everything else (control characters, escape
    sequences, bidirectional marks, bytes that are not UTF-8) is escaped: ``\n``, ``\x1b``, ``\u202e``, ``\xff``. Two
    names are never shown alike.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    return "".join(map(_shown_character, text)) if not text.isprintable() or "\\" in text else text


def _shown_character(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as surrogateescape keeps it
        return f"\\x{code - 0xDC00:02x}"
    if 0x80 <= code <= 0xFF:  # not to be taken for that byte
        return f"\\u{code:04x}"
    return character.encode("unicode_escape").decode("ascii")


def path_fields(path: bytes | str, key: str = "path") -> dict[str, str]:
    """Return a path as JSON can hold it: ``key``, and ``key_b64`` with the exact bytes where they are not UTF-8."""
    path = os.fsencode(path)
    try:
        return {key: path.decode("utf-8")}
    except UnicodeDecodeError:
        return {key: path.decode("utf-8", "replace"), f"{key}_b64": base64.b64encode(path).decode("ascii")}


def one_line(message: BaseException | str) -> str:
    """Return a message as one printable line: what it quotes keeps its look. An exception without one gives its class.

    Unlike :func:`shown` it leaves backslashes alone: names inside were escaped when the message was made.
    """
    text = str(message) or type(message).__name__
    return "".join(c if c.isprintable() else _shown_character(c) for c in text)


def human(nbytes: int) -> str:
    """Return a number of bytes for reading, in decimal units: ``1.4 MB``."""
    value, unit = float(nbytes), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.95 or unit == "TB":
            break
        value /= 1000
    return f"{nbytes} B" if unit == "B" else f"{value:.1f} {unit}"


def columns(rows: Sequence[tuple[str, ...]], right: str = "") -> Iterator[str]:
    """Line up ``rows``; ``right`` has an ``r`` for each column whose text ends at the column's right edge."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if right[i : i + 1] == "r" else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
