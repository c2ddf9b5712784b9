"""The program ``lamella``: its commands, and what becomes of an exception."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

import lamella
from lamella.cli.lazy import LazyGroup
from lamella.cli.output import Interrupted, Output
from lamella.cli.text import one_line

__all__ = ["main", "program"]

_GARBAGE = 50_000  # objects: what is imported alone is more than the interpreter's 700
# command -> module of lamella.cli; a command is loaded when it is asked for, so that none waits for another's imports
COMMANDS = {
    "append": "edit",
    "apply": "layer",
    "bench": "bench",
    "changes": "layer",
    "convert": "edit",
    "demo": "demo",
    "diff": "layer",
    "drivers": "store",
    "explain": "explain",
    "inspect": "image",
    "mount": "mount",
    "rebase": "edit",
    "squash": "edit",
    "store": "store",
    "thin": "thin",
    "unpack": "unpack",
    "verify": "image",
}


class _Program(LazyGroup):
    modules = COMMANDS


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(lamella.__version__, prog_name="lamella", message="%(prog)s %(version)s")
def program() -> None:
    """Read, apply, diff and store container image layers.

    Every command takes --json (one document on stdout), --quiet and --debug. The exit status is 0 when it is done, 1
    when it failed (one line on stderr says why), 2 for wrong usage.
    """


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the program with ``argv`` (None: the process's own arguments) and exit."""
    sys.unraisablehook = _repeat_interrupt
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy starts a thread a processor otherwise, for algebra
    gc.set_threshold(_GARBAGE)
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
    except Exception as error:  # noqa: BLE001  (the end of the program: whatever happened becomes one line)
        if output.debug:
            traceback.print_exception(error)
        _complain(f"error: {one_line(error)}")
        return 1
    return code or 0


def _repeat_interrupt(unraisable: sys.UnraisableHookArgs) -> None:
    """Repeat an interrupt that fell where no exception is raised: in a callback of an import or the end of an object."""
    if unraisable.exc_type is KeyboardInterrupt:
        repeated = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT))
        repeated.daemon = True
        repeated.start()
    else:
        sys.__unraisablehook__(unraisable)


def _complain(message: str) -> None:
    print(f"lamella: {message}", file=sys.stderr)
