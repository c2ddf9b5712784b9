"""What a caller may hand over as bytes: a path, a binary file object, or a buffer, behind one small interface."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from abc import ABC, abstractmethod
from typing import Any, Self

__all__ = ["Source", "open_source"]


class Source(ABC):
    """Bytes to be read once from the front, or again after :meth:`rewind` where ``seekable``.

    ``size`` is the number of bytes from the start, None where nobody knows; ``name`` is for messages. A context
    manager that closes only what it opened.
    """

    name: str
    size: int | None
    seekable: bool

    @abstractmethod
    def readinto(self, view: memoryview) -> int:
        """Fill the front of ``view`` and return how many bytes; 0 at the end only. Fewer than asked is no end."""

    @abstractmethod
    def rewind(self) -> None:
        """Go back to the start; ``io.UnsupportedOperation`` where not ``seekable``."""

    def fileno(self) -> int | None:
        """Return a descriptor whose bytes from offset 0 are this source's, for pread; None where there is none."""
        return None

    @property
    def buffer(self) -> memoryview | None:
        """All the bytes in memory, where they are there already."""
        return None

    def close(self) -> None:  # noqa: B027 - nothing to do for what was not opened here
        """Release what was opened here."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _BufferSource(Source):
    """A caller's buffer; slices of it are handed on without a copy."""

    name = "<buffer>"
    seekable = True

    def __init__(self, view: memoryview) -> None:
        self._given = view
        self._view = view.cast("B")
        self._pos = 0
        self.size = self._view.nbytes

    def readinto(self, view: memoryview) -> int:
        piece = self._view[self._pos : self._pos + len(view)]
        view[: len(piece)] = piece
        self._pos += len(piece)
        return len(piece)

    def rewind(self) -> None:
        self._pos = 0

    @property
    def buffer(self) -> memoryview:
        return self._view

    def close(self) -> None:
        self._view.release()  # so that a mapping can be closed
        self._given.release()


class _PathSource(Source):
    """A regular file or block device that is opened here."""

    seekable = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        # O_NONBLOCK: opening a FIFO must fail below instead of waiting for a writer; it means nothing to a file
        fd = os.open(self.name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self.size = self._checked_size(fd)
            self._file = io.FileIO(fd, "rb")
        except BaseException:
            os.close(fd)
            raise

    def _checked_size(self, fd: int) -> int:
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode):
            return status.st_size
        if stat.S_ISBLK(status.st_mode):
            size = os.lseek(fd, 0, os.SEEK_END)
            os.lseek(fd, 0, os.SEEK_SET)
            return size
        code = errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL
        reason = os.strerror(code) if code == errno.EISDIR else "Not a regular file; pass a file object to read a pipe"
        raise OSError(code, reason, self.name)

    def readinto(self, view: memoryview) -> int:
        return self._file.readinto(view) or 0

    def rewind(self) -> None:
        self._file.seek(0)

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()


class _FileSource(Source):
    """A caller's binary file object, read from where it stands and left open."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._readinto = getattr(file, "readinto", None)
        self.name = str(getattr(file, "name", "<file object>"))
        self.seekable = bool(getattr(file, "seekable", bool)())
        self._start = file.tell() if self.seekable else 0
        self.size = self._remaining() if self.seekable else None

    def _remaining(self) -> int:
        end: int = self._file.seek(0, os.SEEK_END)
        self._file.seek(self._start)
        return max(0, end - self._start)

    def readinto(self, view: memoryview) -> int:
        if self._readinto is not None:
            got = self._readinto(view)
            if got is None:
                raise BlockingIOError(errno.EAGAIN, "file object is in non-blocking mode", self.name)
            return int(got)
        data = self._file.read(len(view))
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"not a binary file object: {self.name} gave {type(data).__name__}")
        view[: len(data)] = data
        return len(data)

    def rewind(self) -> None:
        if not self.seekable:
            raise io.UnsupportedOperation(f"cannot read {self.name} twice")
        self._file.seek(self._start)

    def fileno(self) -> int | None:
        # Only these types promise that their bytes are the descriptor's: GzipFile has a fileno() too.
        raw = self._file.raw if isinstance(self._file, (io.BufferedReader, io.BufferedRandom)) else self._file
        if not isinstance(raw, io.FileIO) or self._start != 0:
            return None
        fd = raw.fileno()
        return fd if stat.S_ISREG(os.fstat(fd).st_mode) else None


def open_source(source: Any) -> Source:
    """Open a path (``str`` or ``os.PathLike``), a binary file object or a buffer for reading.

    Bytes are content, never a path (api.md, "source"). A :class:`Source` is returned as it is. OSError for a path that
    cannot be read, a directory, a FIFO, a socket or a character device; TypeError for anything that is no source.
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, (str, os.PathLike)):
        return _PathSource(source)
    with contextlib.suppress(TypeError):
        return _BufferSource(memoryview(source))
    if isinstance(source, io.TextIOBase) or not (hasattr(source, "readinto") or hasattr(source, "read")):
        raise TypeError(f"not a path, binary file object or buffer: {type(source).__name__}")
    return _FileSource(source)
