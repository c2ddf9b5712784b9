"""``python -m lamella.fuse [--foreground] [--log FILE] TARGET OPTION...``: mount a union, serve it, end when it is unmounted.

Options are those of a :class:`~lamella.model.Mount`, a word each: ``lowerdir+=DIR`` (nearest first), ``upperdir=DIR`` and
``workdir=DIR`` or ``ro``, ``dialect=NAME``, ``redirect_dir=on``, ``source=NAME``. With ``--stdin`` target and options come
on standard input, each ended by a zero byte; none if nothing is to be mounted. It returns once the mount is there, and prints
why it is not: exit status 3 where there is no FUSE here, else 1 (with ``--stdin`` also errno, text and path on standard
output, each ended by a zero byte).
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from lamella.errors import DriverUnavailable, LamellaError

_UNAVAILABLE = 3
_READY = b"ready"


def main() -> NoReturn:
    """Run the command line."""
    words = [os.fsencode(word) for word in sys.argv[1:]]
    foreground, log, told = False, None, False
    while words and words[0].startswith(b"--"):
        word = words.pop(0)
        if word == b"--foreground":
            foreground = True
        elif word == b"--stdin":
            told = True
        elif word == b"--log" and words:
            log = os.path.abspath(words.pop(0))
        else:
            sys.exit(__doc__)
    if not words and not told:
        sys.exit(__doc__)
    if foreground:
        _serve(words, log, None)
    else:
        _return_when_ready(words, log, told=told)


def _return_when_ready(words: list[bytes], log: bytes | None, *, told: bool) -> NoReturn:
    ours, theirs = os.pipe()
    if os.fork() == 0:
        os.close(ours)
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        _serve(words, log, theirs)
    os.close(theirs)
    os.wait()
    with open(ours, "rb") as pipe:
        said = pipe.read()
    if said == _READY:
        sys.exit(0)
    status, *fields = said.split(b"\0")
    if told:
        sys.stdout.buffer.write(b"".join(field + b"\0" for field in fields))
    sys.exit(int(status or 1))


def _serve(words: list[bytes], log: bytes | None, pipe: int | None) -> NoReturn:
    """Be the server; ``pipe``: who waits there for the mount."""
    status = 0
    # a library's threads are not to get a signal: the default action is to die, and leave a mount that nobody serves
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    try:
        from lamella.fuse.server import Server  # noqa: PLC0415 - NumPy's threads do not survive a fork

        server = Server(words or _told())
        server.mount()
    except DriverUnavailable as error:
        status = _failed(error, _UNAVAILABLE, pipe)
    except (OSError, LamellaError, ValueError) as error:
        status = _failed(error, 1, pipe)
    else:
        os.chdir("/")
        if pipe is not None:
            _alone(log)
            os.write(pipe, _READY)
            os.close(pipe)
        server.serve()
    sys.stderr.flush()
    os._exit(status)  # threads may still wait for the kernel


def _told() -> list[bytes]:
    """Return the words that come on standard input, which whoever starts a server may know only when it is ready."""
    words = sys.stdin.buffer.read().split(b"\0")[:-1]
    if not words:
        os._exit(0)  # nothing is to be mounted after all
    return words


def _failed(error: Exception, status: int, pipe: int | None) -> int:
    print(f"lamella.fuse: {error}", file=sys.stderr, flush=True)
    if pipe is not None:
        number, text, path = 0, str(error), ""
        if isinstance(error, OSError):
            number, text, path = error.errno or 0, error.strerror or text, error.filename or ""
        fields = [b"%d" % status, b"%d" % number, os.fsencode(text), os.fsencode(path)]
        os.write(pipe, b"\0".join(fields))
    return status


def _alone(log: bytes | None) -> None:
    """Let go of the terminal, or whatever else the descriptors are."""
    null = os.open(os.devnull, os.O_RDWR)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if log else null
    os.dup2(null, 0)
    for fd in (1, 2):
        os.dup2(out, fd)
    for fd in {null, out} - {0, 1, 2}:
        os.close(fd)


if __name__ == "__main__":
    main()
