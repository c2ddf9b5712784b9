"""Content of one entry: holes filled in, and pieces as a file object."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol, cast, runtime_checkable

from lamella.table import Entry

__all__ = ["Chunks", "PayloadFile", "expanded"]

_ZEROS = memoryview(bytes(1 << 16))


def _zeros(nbytes: int) -> Iterator[memoryview]:
    while nbytes > 0:
        yield _ZEROS[:nbytes]
        nbytes -= len(_ZEROS)


def expanded(regions: list[list[int]], size: int, packed: Callable[[int, int], Iterator[memoryview]]) -> Iterator[memoryview]:
    """Iterate over ``size`` bytes of which ``regions`` (offset, nbytes, ascending) are data, the rest zeros.

    ``packed(at, nbytes)`` gives the data from offset ``at`` of all data.
    """
    end = at = 0
    for begin, nbytes in regions:
        yield from _zeros(begin - end)
        yield from packed(at, nbytes)
        at += nbytes
        end = begin + nbytes
    yield from _zeros(size - end)


@runtime_checkable
class Chunks(Protocol):
    """Something that has the content of entries, in pieces: a LayerReader, or what is made of several."""

    def chunks(self, entry: Entry, /) -> Iterator[memoryview]:
        """Iterate over the content of a regular file; a chunk is valid until the next is asked for."""
        ...


class PayloadFile(io.RawIOBase):
    """Chunks, each valid until the next is asked for, as a raw file: readable, not seekable."""

    def __init__(self, chunks: Iterator[memoryview]) -> None:
        super().__init__()
        self._chunks = chunks
        self._chunk = memoryview(b"")

    @classmethod
    def open(cls, chunks: Iterator[memoryview]) -> BinaryIO:
        """Return a buffered file over ``chunks``."""
        return cast("BinaryIO", io.BufferedReader(cls(chunks)))

    def readable(self) -> bool:
        """Say yes."""
        return True

    def readinto(self, buffer: object) -> int:
        """Fill the front of ``buffer``; 0 at the end."""
        into = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        while not self._chunk and (chunk := next(self._chunks, None)) is not None:
            self._chunk = chunk
        piece = self._chunk[: len(into)]
        into[: len(piece)] = piece
        self._chunk = self._chunk[len(piece) :]
        return len(piece)
