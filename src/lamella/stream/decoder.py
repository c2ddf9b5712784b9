"""What every decoder does: compressed pieces in, uncompressed chunks of bounded size out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

__all__ = ["MAX_OUT", "Decoder", "NoneDecoder"]

MAX_OUT = 1 << 19  # bytes of a chunk: larger ones leave the cache before they are hashed and parsed


class Decoder(ABC):
    """One stream of compressed bytes.

    What comes out depends on the bytes alone, never on how they were cut into pieces. ``offset`` is the number of
    compressed bytes consumed; that of an error is exact between members and frames, and inside one it is the start of
    the piece (128 KiB at most) that holds the bad byte. Errors: CodecError, TruncatedError.
    """

    codec: str
    offset = 0

    def __init__(self, max_out: int = MAX_OUT) -> None:
        self._max_out = max_out

    @abstractmethod
    def feed(self, data: bytes | memoryview) -> Iterator[memoryview]:
        """Decode ``data``; yields chunks of at most ``max_out`` bytes, none empty. Run the iterator to its end."""

    @abstractmethod
    def finish(self) -> None:
        """Declare the end of input; TruncatedError where the stream is not complete."""


class NoneDecoder(Decoder):
    """Bytes as they are: slices of the input, not copies. An empty stream is complete (tests/contract 40)."""

    codec = "none"

    def feed(self, data: bytes | memoryview) -> Iterator[memoryview]:
        """Yield slices of ``data``."""
        view = memoryview(data)
        for begin in range(0, len(view), self._max_out):
            piece = view[begin : begin + self._max_out]
            self.offset += len(piece)
            yield piece

    def finish(self) -> None:
        """Accept: any number of bytes is complete."""
