"""The program ``lamella``: its commands, and what becomes of an exception."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

import lamella
from lamella.cli.demo import demo
from lamella.cli.image import inspect, verify
from lamella.cli.layer import apply, changes, diff
from lamella.cli.output import Interrupted, Output, one_line

__all__ = ["main", "program"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(lamella.__version__, prog_name="lamella", message="%(prog)s %(version)s")
def program() -> None:
    """Read, apply and diff container image layers.

    Every command takes --json (one document on stdout), --quiet and --debug. The exit status is 0 when it is done, 1
    when it failed (one line on stderr says why), 2 for wrong usage.
    """


for _command in (inspect, verify, apply, changes, diff, demo):
    program.add_command(_command)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the program with ``argv`` (None: the process's own arguments) and exit."""
    output = Output()
    sys.exit(_run(argv, output))


def _run(argv: Sequence[str] | None, output: Output) -> int:
    try:
        code = program.main(args=argv, prog_name="lamella", obj=output, standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        error.show()
        return 2
    except (Interrupted, KeyboardInterrupt, click.Abort):
        _complain("interrupted")
        return 130
    except BrokenPipeError:  # the reader of our output has gone: nothing is left to say, and nobody to hear it
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), sys.stdout.fileno())
        return 1
    except click.ClickException as error:
        _complain(f"error: {one_line(error)}")
        return 1
    except Exception as error:  # noqa: BLE001  (the end of the program: whatever happened becomes one line)
        if output.debug:
            traceback.print_exception(error)
        _complain(f"error: {one_line(error)}")
        return 1
    return code or 0


def _complain(message: str) -> None:
    print(f"lamella: {message}", file=sys.stderr)
