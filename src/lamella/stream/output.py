"""Where a blob is written: a caller's file object, or a path that appears only when it is complete."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from typing import Any

__all__ = ["Output", "open_output"]


class Output:
    """A caller's binary file object: written to, neither flushed nor closed."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def _put(self, view: memoryview) -> int | None:
        written: int | None = self._file.write(view)
        return written

    def write(self, data: bytes | memoryview) -> None:
        """Write all of ``data``, in as many calls as it takes."""
        view = memoryview(data)
        while view:
            n_written = self._put(view)
            if n_written is None:
                raise BlockingIOError(errno.EAGAIN, "file object is in non-blocking mode")
            view = view[n_written:]

    def commit(self) -> None:
        """Make it final."""

    def discard(self) -> None:
        """Leave nothing behind; also after :meth:`commit`, when there is nothing left to discard."""


class _StreamOutput(Output):
    """A path that is no regular file (a terminal, a FIFO, ``/dev/null``): opened, never replaced."""

    _fd = -1

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    def _put(self, view: memoryview) -> int:
        return os.write(self._fd, view)

    def commit(self) -> None:
        self._close()

    def discard(self) -> None:
        self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.discard()  # whoever forgot, or was interrupted too early to do it; the last writing thread is gone by now


class _StagedOutput(_StreamOutput):
    """A file written under a temporary name beside the target and renamed onto it; a link's target is replaced."""

    _temporary = ""

    def __init__(self, path: str) -> None:
        self._target = os.path.realpath(path)
        folder, name = os.path.split(self._target)
        # 200 bytes: the random part and the dots must still fit into NAME_MAX
        temporary = os.path.join(folder, f".{os.fsdecode(os.fsencode(name)[:200])}.{secrets.token_hex(4)}.tmp")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(temporary, flags, 0o666)
        self._temporary = temporary

    def commit(self) -> None:
        self._close()
        os.rename(self._temporary, self._target)
        self._temporary = ""

    def discard(self) -> None:
        self._close()
        if self._temporary:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary)
            self._temporary = ""


def open_output(out: Any) -> Output:
    """Open a path (``str`` or ``os.PathLike``) or a binary file object for writing.

    OSError where the path cannot be written or is a directory; TypeError for what is neither.
    """
    if not isinstance(out, (str, os.PathLike)):
        if not hasattr(out, "write"):
            raise TypeError(f"not a path or binary file object: {type(out).__name__}")
        return Output(out)
    path = os.fsdecode(out)
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not stat.S_ISREG(mode):
            return _StreamOutput(path)
    return _StagedOutput(path)
