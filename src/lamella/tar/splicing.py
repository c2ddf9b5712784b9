"""A layer made of rows of others, written with their content copied out of their tars as these stream by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamella._kernels import splice
from lamella.columns import F_SPARSE
from lamella.errors import TruncatedError
from lamella.model import Progress
from lamella.stream.blob import BlobWriter
from lamella.table import EntryTable
from lamella.tar.layerinfo import LayerInfo
from lamella.tar.payload import expanded
from lamella.tar.writer import RowWriter, TarOptions

__all__ = ["Source", "write_spliced"]

_BLOCK = 512
Source = tuple[int, Callable[[], AbstractContextManager[Iterator[memoryview]]]]


def write_spliced(
    table: EntryTable,
    out: Any,
    offs: NDArray[np.int64],
    sources: Iterable[Source],
    *,
    compression: str = "gzip",
    level: int | None = None,
    options: TarOptions | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> LayerInfo:
    """Write ``table`` as a layer to ``out``; the content of row ``i`` begins at ``offs[i]`` of a source.

    ``sources``: of each, in the order of the rows, the row behind its last one and what opens the chunks of its
    uncompressed tar; the last one's rows end the table. ``out``, ``compression`` and ``level`` as
    :func:`lamella.write_layer`. TruncatedError where a source ends before the content; ValueError where content lies
    behind what was read; errors of the sources, of forming and of writing.
    """
    with BlobWriter(out, compression=compression, level=level) as blob:
        writer = _Splicer(table, np.arange(len(table)), blob, options or TarOptions(), progress)
        begin = 0
        for end, opened in sources:
            with opened() as chunks:
                writer.splice(offs, begin, end, _Feed(chunks))
            begin = end
        blob.write(bytes(2 * _BLOCK))
        return writer.info(blob)


class _Feed:
    """A stream by chunks: ``chunk`` is what it has from offset ``off`` on."""

    def __init__(self, chunks: Iterator[memoryview]) -> None:
        self._chunks = chunks
        self.chunk = memoryview(b"")
        self.off = 0

    def more(self) -> None:
        """Go on to the next chunk."""
        self.off += len(self.chunk)
        chunk = next(self._chunks, None)
        if chunk is None:
            raise TruncatedError("a layer ends before the content of its rows", offset=self.off)
        self.chunk = chunk

    def pieces(self, off: int, nbytes: int) -> Iterator[memoryview]:
        """Iterate over ``nbytes`` from offset ``off`` on."""
        while nbytes:
            while off >= self.off + len(self.chunk):
                self.more()
            piece = self.chunk[off - self.off :][:nbytes]
            yield piece
            off += len(piece)
            nbytes -= len(piece)


class _Splicer(RowWriter):
    def splice(self, offs: NDArray[np.int64], begin: int, end: int, feed: _Feed) -> None:
        """Write rows [begin, end), their content out of ``feed``; what is sparse there and not here is filled in."""
        holed = (self._table.flags[begin:end] & F_SPARSE != 0) & (self._options.sparse is None)
        for stop in [*(np.flatnonzero(holed) + begin).tolist(), end]:
            self._run(offs, begin, stop, feed)
            if stop < end:
                self._expand(stop, int(offs[stop]), feed)
            begin = stop + 1
        self._n_entries = end
        self._report()

    def _expand(self, row: int, off: int, feed: _Feed) -> None:
        self._form(row)
        regions, size = self._table.sparse(row), int(self._table.size[row])
        known = [] if regions is None else regions.tolist()
        self._copy_content(row, expanded(known, size, lambda at, nbytes: feed.pieces(off + at, nbytes)))
        self._blob.write(bytes(-size % _BLOCK))

    def _run(self, offs: NDArray[np.int64], begin: int, end: int, feed: _Feed) -> None:
        state = np.zeros(splice.STATE_ITEMS, np.int64)
        state[0] = begin
        form = (self._options.clamp_mtime, self._options.libarchive_xattr, self._options.sparse is not None)
        verdict = splice.FULL
        while verdict != splice.DONE:
            nbytes, verdict = splice.splice(
                self._columns, self._rows, offs, end, state, feed.chunk, feed.off, self._blob.buffer(), self._head, *form
            )
            self._blob.commit(nbytes)
            if verdict == splice.MORE:
                feed.more()
            elif verdict == splice.HEAD:
                self._head = bytearray(4 * len(self._head))
            elif verdict == splice.FULL:
                self._n_entries = int(state[0])
                self._report()
        self._n_uncarried += int(state[6])
