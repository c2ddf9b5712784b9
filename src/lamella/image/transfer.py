"""One layer's blob copied to somewhere else, as it is or compressed anew, and verified on the way."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import IO

from lamella.image.layer import Layer
from lamella.stream.blob import BlobReader, BlobResult, BlobWriter
from lamella.stream.output import Output, open_output
from lamella.stream.region import RegionSource
from lamella.stream.source import Source

__all__ = ["copy_blob", "copy_bytes", "copy_source", "recode_blob"]

_PIECE_NBYTES = 1 << 20
Report = Callable[[int], None]


class _Tee(Source):
    """A source whose bytes also go to ``out``, in the thread that reads them."""

    def __init__(self, source: Source, out: Output) -> None:
        self._inner = source
        self._out = out
        self.name, self.size, self.seekable = source.name, source.size, False

    def readinto(self, view: memoryview) -> int:
        n_read = self._inner.readinto(view)
        self._out.write(view[:n_read])
        return n_read

    def rewind(self) -> None:
        raise OSError(f"cannot read {self.name} twice: its bytes were passed on")


def copy_blob(layer: Layer, out: IO[bytes], report: Report) -> None:
    """Copy the blob of ``layer`` bit for bit; ``report`` is told the bytes of the blob that were read so far.

    Size, digest and diff_id are verified, unless this process wrote the blob itself: DigestMismatchError comes after the
    last byte was written. Errors of :meth:`Layer.source` and :class:`lamella.stream.blob.BlobReader`; OSError from writing.
    """
    if layer.blobs.is_own(layer.digest):
        with layer.source() as source:
            copy_source(source, out)
        return
    with layer.source() as source, _reader(layer, _Tee(source, open_output(out))) as reader:
        for _ in reader:
            report(reader.bytes_in)


def copy_source(source: Source, out: IO[bytes]) -> None:
    """Write all that ``source`` gives to ``out``."""
    piece = memoryview(bytearray(_PIECE_NBYTES))
    while n_read := source.readinto(piece):
        out.write(piece[:n_read])


def copy_bytes(source: RegionSource, out: IO[bytes]) -> None:
    """Copy a blob, verifying nothing, by whatever the file systems share or the kernel can do by itself."""
    out.flush()
    done = 0
    while done < source.size:
        try:
            n = os.copy_file_range(source.fd, out.fileno(), source.size - done, source.begin + done)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            n = os.sendfile(out.fileno(), source.fd, source.begin + done, source.size - done)
        if n == 0:  # shorter than it should be: for whoever verifies it
            return
        done += n


def recode_blob(layer: Layer, out: IO[bytes], compression: str, level: int | None, report: Report) -> BlobResult:
    """Copy the blob of ``layer`` in another ``compression``; else as :func:`copy_blob`."""
    with (
        layer.source() as source,
        _reader(layer, source) as reader,
        BlobWriter(out, compression=compression, level=level) as writer,
    ):
        for chunk in reader:
            writer.write(chunk)
            report(reader.bytes_in)
        return writer.finish()


def _reader(layer: Layer, source: Source) -> BlobReader:
    return BlobReader(
        source,
        media_type=layer.media_type,
        expected_digest=layer.digest,
        expected_diff_id=layer.diff_id,
        expected_size=layer.size,
    )
