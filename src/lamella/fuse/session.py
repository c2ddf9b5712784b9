"""A mount and who serves it: libfuse's session, threads that hand requests to a handler, and the end of both."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from lamella.errors import LamellaError
from lamella.fuse.binding import Args, Buffer, Library, Operations
from lamella.fuse.reading import Reading
from lamella.fuse.turns import Turns

__all__ = ["Session"]

_THREADS = 4
# FUSE_LOOKUP FORGET GETATTR READLINK STATFS GETXATTR LISTXATTR OPENDIR READDIR RELEASEDIR BATCH_FORGET READDIRPLUS, and RELEASE
_QUICK = frozenset((1, 2, 3, 5, 17, 18, 22, 23, 27, 28, 29, 42, 44))
_MIB = 1 << 20
# FUSE_CAP_*: async_read atomic_o_trunc dont_mask ioctl_dir readdirplus _auto async_dio parallel_dirops posix_acl cache_symlinks
# no_opendir; not auto_inval_data, since only this server changes anything
_WANTED = sum(1 << bit for bit in (0, 3, 6, 11, 13, 14, 15, 18, 19, 23, 24))
_DETACH = 2
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_OVER = signal.SIGUSR1


class Session:
    """``handler`` (reading.py) mounted at ``target``, an absolute path, with FUSE's own ``options``."""

    def __init__(self, library: Library, handler: Reading, target: bytes, options: Sequence[str]) -> None:
        self.library, self.handler, self.target = library, handler, target
        self._turns = Turns()
        self._operations = Operations.of(self._init, self._callback)
        words = [b"lamella", b"-o", os.fsencode(",".join(options))]
        self._argv = (ctypes.c_char_p * (len(words) + 1))(*words, None)
        self._args = Args(len(words), self._argv, 0)
        self._session = self._new()

    def _new(self) -> int:
        session = self.library.session_new(
            ctypes.byref(self._args), ctypes.byref(self._operations), ctypes.sizeof(self._operations), None
        )
        if not session:
            raise OSError(errno.EINVAL, "libfuse takes no such options")
        return int(session)

    def mount(self) -> None:
        """Mount; OSError, and libfuse says more on stderr."""
        ctypes.set_errno(0)
        if self.library.session_mount(self._session, self.target) != 0:
            number = ctypes.get_errno() or errno.EPERM
            raise OSError(number, f"mount fuse.lamella: {os.strerror(number)}", os.fsdecode(self.target))

    def serve(self) -> None:
        """Answer until it is unmounted, by whom ever, or a signal asks for it."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {*_STOPS, _OVER})
        self._main = threading.get_ident()
        threads = [threading.Thread(target=self._work, name=f"lamella-fuse-{n}", daemon=True) for n in range(_THREADS)]
        watch = threading.Thread(target=self._turns.watch, name="lamella-fuse-watch", daemon=True)
        for thread in (watch, *threads):
            thread.start()
        if signal.sigwait({*_STOPS, _OVER}) != _OVER:
            self.unmount()
            for thread in threads:
                thread.join(1)
        self.handler.close()

    def unmount(self) -> None:
        """Take the mount from sight."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.umount2(self.target, _DETACH) != 0 and ctypes.get_errno() == errno.EPERM:
            with contextlib.suppress(OSError):
                os.spawnlp(os.P_WAIT, "fusermount3", "fusermount3", "-u", "-z", "-q", os.fsdecode(self.target))  # noqa: S606

    # -- requests -------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        library, session = self.library, self._session
        buffer = Buffer()  # libfuse allocates what it points to
        turns, has_turn = self._turns, False
        while True:
            if not has_turn:
                turns.take()
                has_turn = True
            n = library.receive(session, buffer) if not library.session_exited(session) else 0
            if n == -errno.EINTR:
                continue
            if n <= 0:
                break
            if buffer.opcode() in _QUICK:
                request = turns.begin()
                library.process(session, buffer)
                self.handler.look_ahead()
                has_turn = turns.end(request)
            else:
                turns.give()
                has_turn = False
                library.process(session, buffer)
        turns.give()
        signal.pthread_kill(self._main, _OVER)

    def _init(self, _: int, connection: int) -> None:
        conn = self.library.connection.from_address(connection)
        conn.want = _WANTED & conn.capable
        conn.max_write = _MIB
        conn.max_readahead = _MIB

    def _callback(self, name: str) -> Callable[..., None] | None:
        method = getattr(self.handler, name, None)
        if method is None:
            return None
        library = self.library
        reply_buf, reply_err, reply_none = library.reply_buf, library.reply_err, library.reply_none

        def answer(request: int, *arguments: Any) -> None:
            undo = None
            try:
                result = method(request, *arguments)
                if type(result) is tuple:
                    result, undo = result
            except OSError as error:
                reply_err(request, error.errno or errno.EIO)
                return
            except BaseException as error:  # noqa: BLE001 - the mount goes on whatever happens
                self._complain(name, error)
                reply_err(request, errno.EIO)
                return
            sent = reply_err(request, 0) if result is None else reply_buf(request, result, len(result))
            if sent != 0 and undo is not None:  # who asked was killed
                undo()

        def forget(request: int, *arguments: Any) -> None:
            try:
                method(request, *arguments)
            except BaseException as error:  # noqa: BLE001
                self._complain(name, error)
            reply_none(request)

        return forget if name.startswith("forget") else answer

    def _complain(self, name: str, error: BaseException) -> None:
        if isinstance(error, LamellaError):
            return  # of a branch that says what cannot be
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"lamella.fuse: {name}: {type(error).__name__}: {error}\n")
            sys.stderr.flush()
