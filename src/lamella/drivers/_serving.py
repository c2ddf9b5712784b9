"""Mounts that a process of ours serves (``python -m lamella.fuse``): started, found again by what is mounted, and awaited."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from lamella.drivers import _calls
from lamella.errors import DriverUnavailable
from lamella.fuse.binding import missing
from lamella.model import Mount

__all__ = ["KIND", "Program", "awaited", "refusals", "serve", "server", "unmount"]

KIND = "fuse.lamella"
Program = subprocess.Popen[bytes]

_MODULE = "lamella.fuse"
_SYS_ADMIN = 1 << 21
_UNAVAILABLE = 3  # exit status of the program
_PATIENCE = 30_000  # milliseconds for a server to close its files
_FUSERMOUNT = "fusermount3"


def refusals() -> Iterator[str]:
    """Yield why nobody can mount here what a server serves."""
    yield from missing()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    if int(status["CapEff"], 16) & _SYS_ADMIN:
        return
    program = shutil.which(_FUSERMOUNT)
    if program is None:
        yield f"mounting needs CAP_SYS_ADMIN, or {_FUSERMOUNT}"
        return
    found = os.stat(program)
    helps = found.st_mode & stat.S_ISUID and found.st_uid == 0 and not os.statvfs(program).f_flag & os.ST_NOSUID
    if not helps or int(status["NoNewPrivs"]):
        yield f"mounting needs CAP_SYS_ADMIN, and {_FUSERMOUNT} is not root's here"


@contextlib.contextmanager
def server() -> Iterator[Program]:
    """Start the program that serves a mount, which is ready sooner then; what it is to mount is for serve() to say.

    DriverUnavailable where it cannot be started. Unused, it ends.
    """
    if not sys.executable:
        raise DriverUnavailable("cannot be mounted", ("this program does not know its Python",))
    try:
        program = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", _MODULE, "--stdin"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path)},
        )  # fmt: skip
    except OSError as error:
        raise DriverUnavailable("cannot be mounted", (f"its server does not start: {error}",)) from None
    with program:
        yield program


def serve(mount: Mount, target: str, *, read_only: bool, program: Program | None = None) -> None:
    """Have a server (``program``, or a new one) serve ``mount``, and return when it is there.

    OSError and DriverUnavailable say what the server does.
    """
    if program is None:
        with server() as started:
            return serve(mount, target, read_only=read_only, program=started)
    options = [option for option in mount.options if option != "ro"] + (["ro"] if read_only else [])
    words = [target, f"source={mount.source}", *options]
    out, err = program.communicate(b"".join(os.fsencode(word) + b"\0" for word in words))
    if program.returncode == 0:
        return None
    said = [line.removeprefix(f"{_MODULE}: ") for line in os.fsdecode(err).splitlines()]
    if program.returncode == _UNAVAILABLE:
        raise DriverUnavailable("cannot be mounted", tuple(said))
    number, text, path = ([*map(os.fsdecode, out.split(b"\0")), "", "", ""])[:3]
    more = [line for line in said[:-1] if text]  # the last line is the error itself, libfuse's own stand before it
    raise OSError(int(number or 0) or errno.EIO, ": ".join(filter(None, [text, *more])) or "; ".join(said), path or target)


@contextlib.contextmanager
def awaited(kind: str, source: str, *, lazy: bool) -> Iterator[None]:
    """Undo a mount within, and wait afterwards until its server has ended; ``lazy``: somebody may still use it."""
    server = _server(source) if kind == KIND and not lazy else -1
    try:
        yield
        if server >= 0:
            poll = select.poll()
            poll.register(server, select.POLLIN)
            poll.poll(_PATIENCE)
    finally:
        if server >= 0:
            os.close(server)


def _server(source: str) -> int:
    """Return a descriptor of the process that serves what is mounted from ``source``, -1 for none that is to be seen."""
    number = source.rpartition(":")[2]
    if not number.isdecimal():
        return -1
    try:
        server = os.pidfd_open(int(number))
        with open(f"/proc/{number}/cmdline", "rb") as file:
            if _MODULE.encode() in file.read().split(b"\0"):
                return server
    except OSError:
        return -1  # it was killed
    os.close(server)
    return -1


def unmount(kind: str, target: str, *, lazy: bool) -> None:
    """Undo the last mount at ``target``, with the help that a user has who may not himself; OSError."""
    try:
        _calls.unmount(target, lazy=lazy)
    except PermissionError:
        program = shutil.which(_FUSERMOUNT) if kind.startswith("fuse.") else None
        if program is None:
            raise
        argv = [program, "-u", *(["-z"] if lazy else []), "--", target]
        done = subprocess.run(argv, capture_output=True, check=False)  # noqa: S603
        if done.returncode != 0:
            said = os.fsdecode(done.stderr).strip()
            number = errno.EBUSY if "busy" in said else errno.EPERM
            raise OSError(number, said or os.strerror(number), target) from None
