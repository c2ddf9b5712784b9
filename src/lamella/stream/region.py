"""Bytes that lie in a part of an open file: a blob of a layout, a member of an archive."""

from __future__ import annotations

import errno
import os
import stat
from typing import Self

from lamella.stream.source import Source

__all__ = ["HeldFile", "RegionSource"]


class HeldFile:
    """A file's descriptor, shared by regions of it, closed when the last one lets go of it. Close-on-exec.

    Opened by :meth:`open`, or given with ``HeldFile(fd)``, which takes it over.
    """

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open a regular file for reading; OSError for anything else, without waiting for a pipe's other end."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        held = cls(fd)  # closes it whatever comes
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
        return held

    @property
    def size(self) -> int:
        """Bytes of the file, now."""
        return os.fstat(self.fd).st_size

    def __del__(self) -> None:
        fd, self.fd = getattr(self, "fd", -1), -1
        if fd >= 0:
            os.close(fd)


class RegionSource(Source):
    """``size`` bytes of ``file`` from byte ``begin`` on, read by pread: any number of regions are read at the same time.

    A file that ends too early gives fewer bytes. ``fd`` is the file's descriptor, valid until :meth:`close`.
    """

    seekable = True

    def __init__(self, file: HeldFile, begin: int, size: int, name: str) -> None:
        self._file: HeldFile | None = file
        self.begin = begin
        self.size: int = size
        self.name = name
        self._at = 0

    @property
    def fd(self) -> int:
        """The descriptor; ValueError when closed."""
        if self._file is None:
            raise ValueError(f"closed: {self.name}")
        return self._file.fd

    def readinto(self, view: memoryview) -> int:
        """Fill the front of ``view``; 0 at the end only."""
        fd, piece = self.fd, view[: self.size - self._at]
        n_read = os.preadv(fd, [piece], self.begin + self._at) if piece else 0
        self._at += n_read
        return n_read

    def rewind(self) -> None:
        """Go back to the region's first byte."""
        self._at = 0

    def fileno(self) -> int | None:
        """Return the descriptor where the region is the whole file."""
        return self.fd if self.begin == 0 and self._file is not None and self._file.size == self.size else None

    def close(self) -> None:
        """Let go of the file."""
        self._file = None
