"""Write a docker-archive: members one after another into a file that appears when it is complete."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import tarfile
from collections.abc import Callable
from typing import IO, Self, TypeVar

__all__ = ["ArchiveWriter"]

_RECORD = 512
Written = TypeVar("Written")


class ArchiveWriter:
    """A tar at ``path``, written beside it and renamed onto it at the end. A context manager.

    Every header but for name and size is the same: mode 0644, owner 0, time 0, so that the bytes depend on what was
    added alone. An exception leaves ``path`` as it was. OSError where it cannot be written, or is no regular file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.realpath(os.fspath(path))
        self._names: set[str] = set()

    def __enter__(self) -> Self:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(os.stat(self.path).st_mode):
                raise OSError(errno.EINVAL, "not a regular file: an archive is renamed into its place", self.path)
        folder, name = os.path.split(self.path)
        short = os.fsdecode(os.fsencode(name)[:200])  # the rest must still fit into NAME_MAX
        self._staged = os.path.join(folder, f".{short}.{secrets.token_hex(4)}.tmp")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file: IO[bytes] = os.fdopen(os.open(self._staged, flags, 0o666), "w+b")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._file.write(bytes(2 * _RECORD))
                self._file.flush()
                os.rename(self._staged, self.path)
        finally:
            self._file.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._staged)

    def holds(self, name: str) -> bool:
        """Tell whether a member of this name was added."""
        return name in self._names

    def add(self, name: str, data: bytes) -> None:
        """Add a member that is in memory."""
        self.write(name, lambda file: file.write(data))

    def write(self, name: str, write: Callable[[IO[bytes]], Written]) -> Written:
        """Let ``write`` write a member's content into the file it is given; return what it returned."""
        begin = self._file.tell()
        self._file.write(bytes(_RECORD))
        made = write(self._file)
        size = self._file.tell() - begin - _RECORD
        self._file.write(bytes(-size % _RECORD))
        end = self._file.tell()
        self._file.seek(begin)
        self._file.write(_header(name, size))
        self._file.seek(end)
        self._names.add(name)
        return made


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    data = info.tobuf(tarfile.GNU_FORMAT)  # a size of 8 GiB and more as a binary number, which all of them read
    if len(data) != _RECORD:
        raise ValueError(f"a member's name is longer than its header: {name!r}")
    return data
