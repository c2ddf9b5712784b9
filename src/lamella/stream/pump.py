"""A source and a decoder joined: blob pieces in, raw chunks out, counted and held against limits. No threads here."""

from __future__ import annotations

from collections.abc import Iterator

from lamella.errors import DigestMismatchError, LimitExceededError
from lamella.model import Limits
from lamella.stream.codec import SNIFF_NBYTES, decoder, sniff
from lamella.stream.source import Source

__all__ = ["SMALL_NBYTES", "Pump"]

SMALL_NBYTES = 1 << 18  # a blob up to here is not worth a thread
_PIECE_NBYTES = 1 << 18  # of a compressed blob
_RAW_NBYTES = 1 << 19  # of an uncompressed one: at most what a decoder gives at a time
_RATIO_FREE = 64 << 20  # the ratio counts above this much output (api.md, Limits)


class Pump:
    """Reads ``source`` once; sniffs on construction.

    ``codec`` is its compression, ``empty`` whether it holds no byte, ``small`` whether it is known to hold at most
    SMALL_NBYTES, ``lends`` whether its pieces are slices of memory that stays. ``n_in`` and ``n_out`` count compressed
    and uncompressed bytes so far. Pieces hold at most ``piece_nbytes``.
    """

    def __init__(self, source: Source, limits: Limits, expected_size: int | None) -> None:
        self._source = source
        self._limits = limits
        self._expected_size = expected_size
        self.n_in = 0
        self.n_out = 0
        self.lends = source.buffer is not None
        self._front = self._read_front() if source.buffer is None else source.buffer
        self.codec = sniff(self._front)
        self.empty = not self._front
        self.small = source.size is not None and source.size <= SMALL_NBYTES
        self.piece_nbytes = _RAW_NBYTES if self.codec == "none" else _PIECE_NBYTES
        self._decoder = decoder(self.codec)

    def _read_front(self) -> memoryview:
        """Read until the magic is there; what comes along is the first piece."""
        front = memoryview(bytearray(_PIECE_NBYTES))
        n_read = 0
        while n_read < SNIFF_NBYTES and (got := self._source.readinto(front[n_read:])):
            n_read += got
        return front[:n_read]

    def front(self) -> Iterator[memoryview]:
        """Yield the pieces that are in memory already: all of them where ``lends``, else what the sniffing has read."""
        for begin in range(0, len(self._front), self.piece_nbytes):
            yield self._count_in(self._front[begin : begin + self.piece_nbytes])

    def fill(self, buffer: memoryview) -> memoryview:
        """Read the next piece into ``buffer``; returns the part that was filled, empty at the end.

        Short reads are gathered: a pipe gives 64 KiB at a time.
        """
        n_filled = 0
        while not self.lends and n_filled < len(buffer) and (got := self._source.readinto(buffer[n_filled:])):
            n_filled += got
        return self._count_in(buffer[:n_filled])

    def _count_in(self, piece: memoryview) -> memoryview:
        self.n_in += len(piece)
        if self._expected_size is not None and self.n_in > self._expected_size:
            raise DigestMismatchError("size of the blob", expected=self._expected_size, actual=self.n_in)
        return piece

    def decode(self, piece: memoryview) -> Iterator[memoryview]:
        """Yield the raw chunks of ``piece``; LimitExceededError names ``total_bytes`` or ``ratio``."""
        for chunk in self._decoder.feed(piece):
            self.n_out += len(chunk)
            if self.n_out > self._limits.total_bytes:
                raise LimitExceededError("total_bytes", self.n_out)
            if self.n_out > _RATIO_FREE and self.n_out > self._limits.ratio * self.n_in:
                raise LimitExceededError("ratio", self.n_out // self.n_in)
            yield chunk

    def finish(self) -> None:
        """Check that the stream is complete and has the expected size."""
        self._decoder.finish()
        if self._expected_size is not None and self.n_in != self._expected_size:
            raise DigestMismatchError("size of the blob", expected=self._expected_size, actual=self.n_in)

    def close(self) -> None:
        """Let go of the source's memory."""
        self._front = memoryview(b"")
