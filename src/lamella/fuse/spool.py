"""The bytes of layers' tars at any offset: where they lie, or unpacked once into a folder of bounded size."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import time
from pathlib import Path

from lamella.model import DiffID
from lamella.stream.blob import BlobReader
from lamella.stream.region import HeldFile, RegionSource

__all__ = ["Spool"]

_NEW, _DONE = ".new-", ".tar"
_ABANDONED = 3600 * 10**9  # nanoseconds for which nothing was written: who filled it is gone


class Spool:
    """Unpacked layers in ``folder`` by diff_id, no more than ``nbytes`` of them: what was not used for longest goes first.

    What is open can be read on when it goes. Several processes may share a folder.
    """

    def __init__(self, folder: Path, nbytes: int) -> None:
        self.folder, self.nbytes = folder, nbytes

    def find(self, diff_id: DiffID | None) -> HeldFile | None:
        """Open a layer that is here."""
        if diff_id is None:
            return None
        path = self._path(diff_id)
        try:
            held = HeldFile.open(path)
        except FileNotFoundError:
            return None
        with contextlib.suppress(OSError):  # it went meanwhile, or is another user's: it is open
            os.utime(path)
        return held

    def fill(self, source: RegionSource, diff_id: DiffID | None) -> HeldFile:
        """Unpack a layer, check it and open it; one without a ``diff_id`` is of use to nobody else, and has no name.

        DigestMismatchError, CodecError; OSError ENOSPC where it is larger than all that may be here.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd, new = tempfile.mkstemp(prefix=_NEW, dir=self.folder)
        held = HeldFile(fd)
        try:
            self._unpack(source, fd, diff_id)
        except BaseException:
            os.unlink(new)
            raise
        if diff_id is None:
            os.unlink(new)
        else:
            os.rename(new, self._path(diff_id))
        self._shrink()
        return held

    def _unpack(self, source: RegionSource, fd: int, diff_id: DiffID | None) -> None:
        source.rewind()
        done = 0
        with BlobReader(source, expected_diff_id=None if diff_id is None else str(diff_id)) as reader:
            for chunk in reader:
                done += len(chunk)
                if done > self.nbytes:
                    raise OSError(errno.ENOSPC, f"an unpacked layer takes more than {self.nbytes} bytes", str(self.folder))
                left = chunk
                while left:
                    left = left[os.write(fd, left) :]

    def _path(self, diff_id: DiffID) -> Path:
        return self.folder / f"{diff_id.hex}{_DONE}"

    def _shrink(self) -> None:
        found = []
        for entry in os.scandir(self.folder):
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                found.append((status.st_mtime_ns, status.st_blocks * 512, entry.path))
        room = sum(nbytes for _, nbytes, _ in found)
        abandoned = time.time_ns() - _ABANDONED
        for written, nbytes, path in sorted(found):
            is_done = path.endswith(_DONE)
            if (is_done and room > self.nbytes) or (not is_done and written < abandoned):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                room -= nbytes
