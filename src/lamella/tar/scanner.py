"""Drive the tarscan kernel: chunks of a tar stream in, rows of a table out."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import numpy as np

from lamella._kernels import tarscan
from lamella.columns import TableBuilder
from lamella.model import Limits

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Scanner"]

_SCRATCH = 4 * mmap.PAGESIZE


class Scanner:
    """Scan a tar stream that comes in chunks of any size into ``builder``, which may be replaced between two calls.

    Errors are TarFormatError, TruncatedError and LimitExceededError; the scanner is good for nothing after one.
    """

    def __init__(self, limits: Limits = Limits(), builder: TableBuilder | None = None) -> None:
        self.builder = TableBuilder("tar") if builder is None else builder
        self.at_end = False
        self._limits = np.array([limits.entries, limits.pax_bytes, limits.xattrs, limits.sparse_entries, limits.path], np.int64)
        self._state = np.zeros(tarscan.STATE_NBYTES, np.uint8)
        self._scratch = np.empty(_SCRATCH, np.uint8)

    @property
    def offset(self) -> int:
        """Offset in the uncompressed stream of the next byte to scan."""
        return tarscan.offset(self._state)

    def feed(self, chunk: Buffer) -> int:
        """Scan the next bytes of the stream, all of them; return the number of rows in the builder."""
        at = 0
        verdict = tarscan.OUTPUT_FULL
        while verdict in (tarscan.OUTPUT_FULL, tarscan.SCRATCH_FULL):
            builder = self.builder
            at, builder.n_rows, builder.arena_used, verdict = tarscan.scan(
                chunk,
                at,
                self._state,
                self._scratch,
                builder.columns,
                builder.n_rows,
                builder.arena_used,
                self._limits,
            )
            self._grow(verdict)
        self.at_end = verdict == tarscan.AT_END
        return self.builder.n_rows

    def scan_fd(self, fd: int, *, base: int = 0, max_rows: int | None = None) -> bool:
        """Scan the tar that begins at ``base`` of a regular file, reading headers only; tell whether all of it was scanned.

        With ``max_rows``, stop when the builder has no room for another row (and False); else grow it. A file that ends
        too early is a TruncatedError; OSError where it cannot be read.
        """
        while True:
            builder = self.builder
            builder.n_rows, builder.arena_used, verdict = tarscan.scan_fd(
                fd,
                self._state,
                self._scratch,
                builder.columns,
                builder.n_rows,
                builder.arena_used,
                self._limits,
                base,
            )
            if verdict not in (tarscan.OUTPUT_FULL, tarscan.SCRATCH_FULL):
                self.at_end = verdict == tarscan.AT_END
                self.finish()
                return True
            if verdict == tarscan.OUTPUT_FULL and max_rows is not None and builder.n_rows >= max_rows:
                return False
            self._grow(verdict)

    def _grow(self, verdict: int) -> None:
        builder = self.builder
        if verdict == tarscan.SCRATCH_FULL:
            self._scratch = np.concatenate([self._scratch, np.empty_like(self._scratch)])
        elif verdict == tarscan.OUTPUT_FULL and builder.n_rows == builder.capacity:
            builder.grow(rows=1)
        elif verdict == tarscan.OUTPUT_FULL:
            builder.grow(arena=builder.arena_capacity - builder.arena_used + 1)

    def finish(self) -> None:
        """Say that the stream ends here: TruncatedError where it stopped inside a header, a body or a payload."""
        tarscan.finish(self._state, self._scratch)
