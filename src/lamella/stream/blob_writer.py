"""Raw bytes written as a layer blob, compressed and digested on threads beside the caller's."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from lamella.model import DiffID, Digest
from lamella.stream.codec import encoder, media_type_of
from lamella.stream.digest import MultiDigest
from lamella.stream.encode import BLOCK_NBYTES, Encoder
from lamella.stream.output import Output, open_output
from lamella.stream.ring import Item, Ring
from lamella.stream.worker import Worker

__all__ = ["BlobResult", "BlobWriter"]

_ENCODE, _JOIN = "encode", "join"  # channels
_N_ENCODERS_MAX = 4


@dataclass(frozen=True, slots=True)
class BlobResult:
    """What was written: ``size`` bytes of blob for ``uncompressed_size`` raw ones.

    ``digest`` and ``diff_id`` are None where they were not asked for. ``digest`` depends on ``codec_name`` (library,
    version and level), ``diff_id`` on the raw bytes alone.
    """

    digest: Digest | None
    diff_id: DiffID | None
    size: int
    uncompressed_size: int
    codec_name: str
    media_type: str


class _Assembly:
    """The ordered end: raw bytes counted and hashed, encoded bytes hashed and written."""

    def __init__(self, out: Output, enc: Encoder, digests: bool) -> None:
        self.out = out
        self.encoder = enc
        self.compressed = enc.codec != "none"
        self.raw = MultiDigest(("sha256",) if digests else ())
        self.blob = MultiDigest(("sha256",) if digests else ()) if self.compressed else self.raw

    def encode(self, block: memoryview) -> bytes:
        """Compress; raw bytes go into the file from here instead, while another thread hashes them."""
        if self.compressed:
            return self.encoder.encode(block)
        self.out.write(block)
        return b""

    def join(self, block: memoryview, encoded: Callable[[], bytes]) -> None:
        """Hash ``block`` while it is being encoded elsewhere, then write what came of it."""
        self.raw.update(block)
        self._emit(self.encoder.join(block, encoded()))

    def end(self) -> None:
        """Write the tail."""
        self._emit(self.encoder.tail())

    def _emit(self, data: bytes) -> None:
        if data:
            self.blob.update(data)
            self.out.write(data)

    def result(self, digests: bool) -> BlobResult:
        """Report."""
        return BlobResult(
            digest=self.blob.digest() if digests else None,
            diff_id=DiffID(self.raw.digest()) if digests else None,
            size=self.blob.nbytes,
            uncompressed_size=self.raw.nbytes,
            codec_name=self.encoder.name,
            media_type=media_type_of(self.encoder.codec),
        )


class BlobWriter:
    """Write a layer blob to ``out``, a path or a binary file object; a context manager that aborts on an exception.

    Fill the view that :meth:`buffer` gives and :meth:`commit` what was filled, or :meth:`write` bytes that lie
    elsewhere; then :meth:`finish`. A path is written under a temporary name beside it and renamed at the end; what is
    no regular file is written in place. A file object is left open, and holds a part of the blob after a failure.

    ``compression`` is ``"gzip"``, ``"zstd"`` or ``"none"``, ``level`` its level (see ``encode``). The blob depends on
    the bytes, on those two and on the library's version, never on how the bytes were cut or how many ``workers``
    compress (as many as there are processors, four at most). At most ``ring_bytes`` of raw bytes are buffered. Threads
    start with the second MiB.

    ValueError for a wrong compression or level; OSError from writing, raised by whichever call meets it.
    """

    def __init__(
        self,
        out: Any,
        *,
        compression: str = "gzip",
        level: int | None = None,
        digests: bool = True,
        ring_bytes: int = 16 << 20,
        workers: int | None = None,
    ) -> None:
        enc = encoder(compression, level)
        n_processors = len(os.sched_getaffinity(0))
        self._n_encoders = (workers or min(n_processors, _N_ENCODERS_MAX)) if enc.parallel else 1
        self._ring = Ring((_ENCODE, _JOIN), nbytes=ring_bytes, slot_nbytes=BLOCK_NBYTES)
        self._digests = digests
        self._workers: list[Worker] = []
        self._item: Item | None = None  # the block being filled
        self._n_filled = 0
        self._closed = False
        self._out = open_output(out)
        self._assembly = _Assembly(self._out, enc, digests)

    def buffer(self) -> memoryview:
        """Return writable memory for the next raw bytes, 1 to 1,048,576 of them; valid until :meth:`commit`."""
        if self._closed:
            raise ValueError("the writer is finished")
        if self._item is None:
            self._item = self._ring.acquire()
            self._n_filled = 0
        return self._item.data[self._n_filled :]

    def commit(self, nbytes: int) -> None:
        """Add the first ``nbytes`` of what :meth:`buffer` gave."""
        item = self._item
        if item is None or not 0 <= nbytes <= len(item.data) - self._n_filled:
            raise ValueError(f"cannot commit {nbytes} bytes: more than the buffer holds")
        self._n_filled += nbytes
        if self._n_filled == len(item.data):
            self._item = None
            self._start()
            self._ring.put(item, _ENCODE, _JOIN)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Add a copy of ``data``; returns its length in bytes."""
        view = memoryview(data).cast("B")
        nbytes = len(view)
        while view:
            room = self.buffer()
            piece = view[: len(room)]
            room[: len(piece)] = piece
            self.commit(len(piece))
            view = view[len(piece) :]
        return nbytes

    def _start(self) -> None:
        if self._workers:
            return
        ring, assembly = self._ring, self._assembly
        for n in range(self._n_encoders):
            self._workers.append(Worker(f"encode-{n}", partial(_encode, ring, assembly), ring.cancel))
        self._workers.append(Worker("join", partial(_join, ring, assembly), ring.cancel))
        for worker in self._workers:
            worker.start()

    def finish(self) -> BlobResult:
        """Write what is left, wait for it, put the file in place and report."""
        if self._closed:
            raise ValueError("the writer is finished")
        try:
            self._flush()
            self._out.commit()
        except BaseException:
            self.abort()
            raise
        self._closed = True
        return self._assembly.result(self._digests)

    def _flush(self) -> None:
        item, self._item = self._item, None
        if item is not None:
            item.data = item.data[: self._n_filled]
        if not self._workers:
            if item is not None and item.data:
                encoded = self._assembly.encode(item.data)
                self._assembly.join(item.data, lambda: encoded)
            self._assembly.end()
            return
        if item is not None and item.data:
            self._ring.put(item, _ENCODE, _JOIN)
        self._ring.finish()
        self._wait()
        if self._ring.failure is not None:
            raise self._ring.failure

    def abort(self) -> None:
        """Stop and remove the staged file; nothing happens after :meth:`finish`."""
        if self._closed:
            return
        self._closed = True
        self._ring.cancel()
        self._wait()
        self._item = None
        self._out.discard()

    def _wait(self) -> None:
        while self._workers:
            self._workers[-1].wait()
            self._workers.pop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def __del__(self) -> None:
        ring = getattr(self, "_ring", None)
        if ring is not None:
            ring.cancel()


def _encode(ring: Ring, assembly: _Assembly) -> None:
    """Run as one of the compressing threads, or as the one that writes raw bytes."""
    while (item := ring.get(_ENCODE)) is not None:
        ring.complete(item, assembly.encode(item.data))
        ring.release(item)


def _join(ring: Ring, assembly: _Assembly) -> None:
    """Run as the one thread that sees blocks in order."""
    while (item := ring.get(_JOIN)) is not None:
        assembly.join(item.data, partial(ring.result, item))
        ring.release(item)
    assembly.end()
