"""Who is at work in a store: a locked file for each open store, so that the kernel says who is dead, however it died."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Owner", "dead_owners"]

_NEW = ".new-"


class Owner:
    """One open store; ``name`` stands in the rows that it is busy with. Alive until :meth:`close`, or its process's end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        while True:
            self.name = f"{os.getpid()}-{secrets.token_hex(4)}"
            new = folder / (_NEW + self.name)
            self._fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            try:
                os.rename(new, folder / self.name)  # under this name it is locked as long as it lives
            except FileNotFoundError:  # somebody took it for one of a dead process before it was locked
                os.close(self._fd)
                continue
            return

    def close(self) -> None:
        """Go, with nothing left undone."""
        if self._fd >= 0:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._folder / self.name)
            os.close(self._fd)
            self._fd = -1

    def abandon(self) -> None:
        """Go and leave the file: what was left undone is for whoever opens the store next."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield os.fstat(fd).st_nlink > 0  # else another one was faster
    finally:
        os.close(fd)


def dead_owners(folder: Path) -> Iterator[str]:
    """Iterate over the dead, each for this process alone; one is forgotten when the next is asked for."""
    for name in sorted(os.listdir(folder)):
        with _locked(folder / name) as ours:
            if not ours:
                continue
            if not name.startswith(_NEW):
                yield name
            os.unlink(folder / name)
