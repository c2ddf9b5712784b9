"""What a command says, and how: one JSON document or lines for people, a progress bar, one line for an error."""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from lamella.model import Progress

__all__ = ["Failed", "Interrupted", "Output", "Report", "command_options", "path_fields", "shown"]

Command = TypeVar("Command", bound=Callable[..., Any])
Reporter = Callable[["Progress"], None]


class Failed(click.ClickException):
    """The command's answer is no: the document was printed, one line says why, the program exits 1."""


class Interrupted(Exception):
    """The user pressed Ctrl-C."""


@dataclass
class Report:
    """A command's result; what is not asked for is not made. With ``failure`` the program exits 1 and says it."""

    document: Callable[[], dict[str, Any]]
    lines: Callable[[], Iterable[str]]
    failure: str | None = None


@dataclass
class Output:
    """Where a command speaks to; one for each run of the program."""

    json: bool = False
    quiet: bool = False
    debug: bool = False
    stream: Any = field(default_factory=lambda: sys.stdout)

    def say(self, line: str) -> None:
        """Print a line for people, at once; nothing with --json or --quiet."""
        if not self.json and not self.quiet:
            print(line, file=self.stream, flush=self.stream.isatty())

    def show(self, report: Report) -> None:
        """Print a result in the form that was asked for."""
        if self.json:
            json.dump(report.document(), self.stream, indent=2)
            print(file=self.stream)
        elif not self.quiet:
            for line in report.lines():
                print(line, file=self.stream)
        if report.failure is not None:
            raise Failed(report.failure)

    def style(self, text: str, **style: Any) -> str:
        """Colour ``text`` where the stream is a terminal that wants colours (no-color.org)."""
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not self.stream.isatty()
        return text if plain else click.style(text, **style)

    @contextlib.contextmanager
    def progress(self) -> Iterator[Reporter | None]:
        """Give a callback that draws a bar on stderr; None unless stderr is a terminal and --quiet is absent."""
        if self.quiet or not sys.stderr.isatty():
            yield None
            return
        from lamella.cli.bar import progress_bar  # noqa: PLC0415  (rich takes a tenth of a second to load)

        with progress_bar() as report:
            yield report


def command_options(function: Command) -> Callable[..., None]:
    """Add --json, --quiet and --debug to a command; ``function(output, ...)`` returns a Report."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
    @click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
    @click.option("--debug", is_flag=True, help="Show where an error came from.")
    @functools.wraps(function)
    def command(*, as_json: bool, quiet: bool, debug: bool, **arguments: Any) -> None:
        output = click.get_current_context().find_root().obj
        output.json, output.quiet, output.debug = as_json, quiet, debug
        try:
            output.show(function(output, **arguments))
        except KeyboardInterrupt as error:
            raise Interrupted from error

    return command


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


def path_fields(path: bytes, key: str = "path") -> dict[str, str]:
    """Return a path as JSON can hold it: ``key``, and ``key_b64`` with the exact bytes where they are not UTF-8."""
    try:
        return {key: path.decode("utf-8")}
    except UnicodeDecodeError:
        return {key: path.decode("utf-8", "replace"), f"{key}_b64": base64.b64encode(path).decode("ascii")}


def one_line(error: BaseException) -> str:
    """Return an error's message as one printable line; the class where it has no message."""
    text = str(error) or type(error).__name__
    return "".join(c if c.isprintable() else _shown_character(c) for c in text)


def human(nbytes: int) -> str:
    """Return a number of bytes for reading, in decimal units: ``1.4 MB``."""
    value, unit = float(nbytes), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.95 or unit == "TB":
            break
        value /= 1000
    return f"{nbytes} B" if unit == "B" else f"{value:.1f} {unit}"


def columns(rows: list[tuple[str, ...]], right: str = "") -> Iterator[str]:
    """Line up ``rows``; ``right`` has an ``r`` for each column whose text ends at the column's right edge."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if right[i : i + 1] == "r" else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
