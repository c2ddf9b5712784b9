"""What a command says, and how: one JSON document or lines for people, a progress bar, one line for an error."""

from __future__ import annotations

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

__all__ = ["Failed", "Interrupted", "Output", "Report", "Reporter", "command_options"]

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
            self._print(line)
            if self.stream.isatty():
                self.stream.flush()

    def show(self, report: Report) -> None:
        """Print a result in the form that was asked for."""
        if self.json:
            # ASCII: no character of a name reaches a terminal; indented for eyes only, it takes ten times as long
            print(json.dumps(report.document(), indent=2 if self.stream.isatty() else None), file=self.stream)
        elif not self.quiet:
            for line in report.lines():
                self._print(line)
        if report.failure is not None:
            raise Failed(report.failure)

    def _print(self, line: str) -> None:
        encoding = self.stream.encoding or "ascii"
        if encoding.lower() != "utf-8":  # a locale that lacks the characters of a name gets their numbers
            line = line.encode(encoding, "backslashreplace").decode(encoding)
        print(line, file=self.stream)

    def style(self, text: str, **style: Any) -> str:
        """Colour ``text`` where the stream is a terminal that wants colours (no-color.org)."""
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not self.stream.isatty()
        return text if plain else click.style(text, **style)

    @contextlib.contextmanager
    def progress(self) -> Iterator[Reporter | None]:
        """Give a callback that draws a bar on stderr; None with --quiet, or where stderr is no terminal that can."""
        if self.quiet or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
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
