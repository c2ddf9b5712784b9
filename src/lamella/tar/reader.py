"""A layer blob as entries: one pass over a stream, or the headers alone of a plain tar file."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Self

from lamella.columns import TableBuilder
from lamella.errors import LimitExceededError
from lamella.model import DiffID, Digest, EntryType, Limits, Progress
from lamella.stream.blob import BlobReader
from lamella.stream.source import Source, open_source
from lamella.table import Entry, EntryTable
from lamella.tar.payload import PayloadFile, expanded
from lamella.tar.scanner import Scanner

__all__ = ["LayerReader", "read_layer"]

_BLOCK_ROWS = 4096
_CHUNK_ROWS = 1024  # a chunk of a BlobReader is 512 KiB at most: so many headers
_PIECE_NBYTES = 1 << 18


def read_layer(
    source: Any,
    *,
    digests: bool = True,
    media_type: str | None = None,
    expected_digest: str | None = None,
    expected_diff_id: str | None = None,
    limits: Limits = Limits(),
    progress: Callable[[Progress], None] | None = None,
) -> LayerReader:
    """Open a layer blob for reading: tar, plain or compressed with gzip, zstd, xz or bzip2 (OCI image-spec, layer.md).

    ``source`` is a path, a binary file object or a buffer. With ``digests=False`` a plain tar in a regular file has its
    headers read only. ``media_type`` must agree with the bytes; ``expected_digest`` (of the blob) and
    ``expected_diff_id`` (of the uncompressed tar) are compared at the end. ``progress`` is told the bytes read.

    OSError, CodecError, UnsupportedMediaType and ValueError as :class:`lamella.stream.blob.BlobReader` raises them.
    """
    return LayerReader(
        source,
        digests=digests,
        media_type=media_type,
        expected_digest=expected_digest,
        expected_diff_id=expected_diff_id,
        limits=limits,
        progress=progress,
    )


class LayerReader:
    """Entries of a layer blob in archive order; a context manager and an iterator that keeps few rows.

    Reading goes once over the blob: iterate, or take :meth:`table`. Content of a regular file (:meth:`read`,
    :meth:`open`, :meth:`chunks`) is there while its entry is the current one; of an uncompressed file or buffer always.

    ``codec`` and ``media_type`` are known at once. ``digest diff_id compressed_size uncompressed_size`` are known at the
    end, when bytes behind the archive's end marker were hashed too (tests/contract 80), and None before; the digests
    stay None with ``digests=False``.

    While reading: TarFormatError, TruncatedError, LimitExceededError, CodecError, OSError; DigestMismatchError at the end.
    """

    def __init__(
        self,
        source: Any,
        *,
        digests: bool = True,
        media_type: str | None = None,
        expected_digest: str | None = None,
        expected_diff_id: str | None = None,
        limits: Limits = Limits(),
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self._source = open_source(source)
        self._owned = not isinstance(source, Source)
        try:
            self._blob = BlobReader(
                self._source,
                media_type=media_type,
                digests=digests,
                expected_digest=expected_digest,
                expected_diff_id=expected_diff_id,
                limits=limits,
            )
        except BaseException:
            self._close_source()
            raise
        self._limits = limits
        self._progress = progress
        self._table: EntryTable | None = None
        self._blocks: deque[EntryTable] = deque()
        self._row = 0
        self._chunk = memoryview(b"")
        self._chunk_begin = 0
        self._started = self._ended = self._closed = False
        self._buffer = self._source.buffer if self._blob.codec == "none" else None
        self._fd = self._plain_file()
        self._direct = self._fd is not None and not digests
        self._scanner = Scanner(limits, self._block_builder())
        self.codec: str = self._blob.codec
        self.media_type: str | None = self._blob.media_type

    @property
    def digest(self) -> Digest | None:
        """Digest of the blob as stored."""
        return self._blob.digest

    @property
    def diff_id(self) -> DiffID | None:
        """Digest of the uncompressed tar."""
        return self._blob.diff_id

    @property
    def compressed_size(self) -> int | None:
        """Bytes of the blob."""
        return self._size if self._direct else self._blob.compressed_size

    @property
    def uncompressed_size(self) -> int | None:
        """Bytes of the tar."""
        return self._size if self._direct else self._blob.uncompressed_size

    @property
    def _size(self) -> int | None:
        return self._source.size if self._ended else None

    def _plain_file(self) -> int | None:
        # the descriptor of an uncompressed regular file
        fd = self._source.fileno() if self._blob.codec == "none" else None
        return fd if fd is not None and stat.S_ISREG(os.fstat(fd).st_mode) else None

    def _block_builder(self) -> TableBuilder:
        return TableBuilder("tar", rows=_BLOCK_ROWS if self._direct else _CHUNK_ROWS, arena=1 << 16)

    # -- entries --------------------------------------------------------------------------------------------------

    def table(self) -> EntryTable:
        """Read to the end and return all entries; ValueError when some were iterated before."""
        if self._table is None:
            if self._started:
                raise ValueError("entries were read already: ask for the table first")
            self._started = True
            self._scanner.builder = TableBuilder("tar")
            while self._pull(keep=True):
                pass
            self._table = EntryTable(self._scanner.builder.finish(), "archive")
        return self._table

    def raw(self) -> Iterator[memoryview]:
        """Iterate over the uncompressed tar itself, each chunk valid until the next is asked for; entries pass by unread.

        ValueError when some were read before.
        """
        if self._started:
            raise ValueError("entries were read already: ask for the tar first")
        self._started = True
        return self._blob

    def __iter__(self) -> Iterator[Entry]:
        return self if self._table is None else iter(self._table)

    def __next__(self) -> Entry:
        self._started = True
        while not self._blocks or self._row == len(self._blocks[0]):
            if self._blocks:
                self._blocks.popleft()
                self._row = 0
            elif not self._pull():
                raise StopIteration
        self._row += 1
        return self._blocks[0][self._row - 1]

    def _pull(self, *, keep: bool = False) -> bool:
        """Scan what comes next; False at the end. Rows stay in the builder with ``keep``, else they become a block."""
        if self._ended or self._closed:
            return False
        if self._direct and self._fd is not None:
            self._scan_file(self._fd, keep)
        else:
            self._scan_chunk()
        builder = self._scanner.builder
        if not keep and builder.n_rows:
            self._blocks.append(EntryTable(builder.finish(), "archive"))
            self._scanner.builder = self._block_builder()
        if self._progress is not None:
            done = self._scanner.offset if self._direct else self._blob.bytes_in
            self._progress(Progress("read", done, self._source.size, "bytes"))
        return bool(self._blocks) or not self._ended

    def _scan_file(self, fd: int, keep: bool) -> None:
        # headers only; what follows the end marker is nobody's business then
        if (size := self._source.size) is not None and size > self._limits.total_bytes:
            raise LimitExceededError("total_bytes", size)
        self._ended = self._scanner.scan_fd(fd, max_rows=None if keep else self._scanner.builder.capacity)

    def _scan_chunk(self) -> None:
        self._chunk_begin += len(self._chunk)
        self._chunk = memoryview(b"")
        if self._scanner.at_end:
            self._blob.drain()
        chunk = next(self._blob, None)
        if chunk is None:
            self._scanner.finish()
            self._ended = True
            return
        self._chunk = chunk
        self._scanner.feed(chunk)

    # -- content --------------------------------------------------------------------------------------------------

    def chunks(self, entry: Entry) -> Iterator[memoryview]:
        """Iterate over the content of a regular file, holes as zeros; a chunk is valid until the next is asked for.

        ValueError where ``entry`` is no regular file, or its content has passed by.
        """
        if entry.type is not EntryType.FILE:
            raise ValueError(f"no content of its own: {entry!r}")
        regions = entry.sparse
        if regions is None:
            return self._payload(entry, entry.data_off, entry.size)
        return expanded(regions.tolist(), entry.size, lambda at, n: self._payload(entry, entry.data_off + at, n))

    def open(self, entry: Entry) -> BinaryIO:
        """Open the content of a regular file as a binary file object; errors as :meth:`chunks`."""
        return PayloadFile.open(self.chunks(entry))

    def read(self, entry: Entry) -> bytes:
        """Return the content of a regular file, all of it; errors as :meth:`chunks`.

        LimitExceededError for a sparse file larger than ``limits.total_bytes``.
        """
        if entry.size > self._limits.total_bytes:
            raise LimitExceededError("total_bytes", entry.size, entry=entry.path)
        return b"".join([bytes(chunk) for chunk in self.chunks(entry)])

    def _payload(self, entry: Entry, off: int, nbytes: int) -> Iterator[memoryview]:
        while nbytes:
            piece = self._piece(entry, off, nbytes)
            yield piece
            off += len(piece)
            nbytes -= len(piece)

    def _piece(self, entry: Entry, off: int, nbytes: int) -> memoryview:
        # at least one byte of the stream from ``off`` on
        if self._buffer is not None:
            piece = self._buffer[off : off + nbytes]
        elif self._fd is not None:
            piece = memoryview(os.pread(self._fd, min(nbytes, _PIECE_NBYTES), off))
        else:
            if off < self._chunk_begin:
                raise ValueError(f"the content has passed by in this stream: {entry!r}")
            while off >= self._chunk_begin + len(self._chunk) and self._pull():
                pass
            begin = off - self._chunk_begin
            piece = self._chunk[begin : begin + nbytes]
        if not piece:
            raise ValueError(f"not of this layer: {entry!r}")
        return piece

    # -- end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop reading, wherever it stands."""
        self._chunk = memoryview(b"")
        self._blob.close()
        self._fd = self._buffer = None
        self._closed = True
        self._close_source()

    def _close_source(self) -> None:
        if self._owned:
            self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
