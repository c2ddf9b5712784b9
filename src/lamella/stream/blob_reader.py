"""A layer blob read as raw chunks, with both digests, on up to two threads beside the caller's."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Self

from lamella.errors import DigestMismatchError
from lamella.model import DiffID, Digest, Limits
from lamella.stream.codec import ENCODINGS, check_media_type, media_type_of
from lamella.stream.digest import MultiDigest
from lamella.stream.pump import Pump
from lamella.stream.ring import Item, Ring
from lamella.stream.source import Source, open_source
from lamella.stream.worker import Worker

__all__ = ["BlobReader"]

_HASH, _CONSUME = "hash", "consume"  # channels
_BLOB, _RAW = "blob", "raw"  # tags: bytes of the blob, or uncompressed ones
_RING_NBYTES_MIN = 2 << 20  # the inflating thread holds a piece while it waits for room for a chunk
_RING_NBYTES_NONE = 8 << 20  # reading outruns hashing: more would only touch fresh pages


class _Digests:
    """Both digests of a layer; one and the same where the blob is not compressed (tests/contract 90)."""

    def __init__(self, compressed: bool, expected_digest: str | None, expected_diff_id: str | None) -> None:
        self.expected = [None if e is None else Digest(e) for e in (expected_digest, expected_diff_id)]
        algorithms = [{"sha256"} if e is None else {"sha256", e.algorithm} for e in self.expected]
        self.raw = MultiDigest(algorithms[1] if compressed else algorithms[0] | algorithms[1])
        self.blob = MultiDigest(algorithms[0]) if compressed else self.raw

    def verify(self) -> None:
        """DigestMismatchError for the blob first."""
        for what, made, expected in zip(("blob", "diff_id"), (self.blob, self.raw), self.expected, strict=True):
            if expected is not None and (actual := made.digest(expected.algorithm)) != expected:
                raise DigestMismatchError(f"digest of the {what}", expected=expected, actual=actual)


class BlobReader:
    """Iterate over the uncompressed bytes of a layer blob as memoryviews; a context manager.

    A chunk (at most 512 KiB, never empty) is valid until the next is asked for. Bytes behind the end of the tar count
    for the digests: who stops there calls :meth:`drain` (tests/contract 80). Digests of the blob and of its raw
    bytes are two things; those of an uncompressed blob are equal, and computed once (90).

    ``source`` is a path, file object, buffer or open Source. ``media_type`` must agree with the bytes (88), but an
    empty blob is an empty layer under every type (40). At most ``ring_bytes`` (2 MiB at least) are buffered. A blob
    known to hold at most 256 KiB is read without threads, as is an uncompressed one without digests.

    ``codec`` and ``media_type`` (None for xz and bzip2 unless given) are known at once; ``digest diff_id
    compressed_size uncompressed_size`` are None until the end, and the digests stay so with ``digests=False``.

    Errors, at construction: OSError of the source, CodecError and UnsupportedMediaType for the media type, ValueError
    for digests that cannot be computed. While iterating: OSError, CodecError, TruncatedError, LimitExceededError; at
    the end DigestMismatchError for ``expected_digest``, ``expected_diff_id``, or ``expected_size`` of the blob.
    """

    def __init__(
        self,
        source: Any,
        *,
        media_type: str | None = None,
        digests: bool = True,
        expected_digest: str | None = None,
        expected_diff_id: str | None = None,
        expected_size: int | None = None,
        limits: Limits | None = None,
        ring_bytes: int = 32 << 20,
    ) -> None:
        if not digests and (expected_digest, expected_diff_id) != (None, None):
            raise ValueError("an expected digest asks for digests=True")
        self.digest: Digest | None = None
        self.diff_id: DiffID | None = None
        self.compressed_size: int | None = None
        self.uncompressed_size: int | None = None
        self._ring: Ring | None = None
        self._ring_bytes = max(ring_bytes, _RING_NBYTES_MIN)
        self._workers: list[Worker] = []
        self._chunks: Iterator[memoryview] | None = None  # without threads
        self._held: Item | None = None
        self._failure: BaseException | None = None
        self._ended = False
        self._owned = not isinstance(source, Source)
        self._source = open_source(source)
        try:
            self._pump = Pump(self._source, limits or Limits(), expected_size)
            self.codec = self._pump.codec
            if media_type is not None and not self._pump.empty:
                check_media_type(media_type, self.codec)
            self._digests = _Digests(self.codec != "none", expected_digest, expected_diff_id) if digests else None
        except BaseException:
            self._close_source()
            raise
        self.media_type = media_type
        if media_type is None and self.codec in ENCODINGS:
            self.media_type = media_type_of(self.codec)

    @property
    def bytes_in(self) -> int:
        """Bytes of the blob that were read so far (ahead of what was consumed)."""
        return self._pump.n_in

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> memoryview:
        if self._failure is not None:
            raise self._failure
        if self._ended:
            raise StopIteration
        try:
            chunk = self._next()
            if chunk is None:
                self._end()
        except BaseException as error:
            self._failure = error
            raise
        if chunk is None:
            raise StopIteration
        return chunk

    def _next(self) -> memoryview | None:
        if self._ring is None and self._chunks is None:
            self._start()
        if self._chunks is not None:
            return next(self._chunks, None)
        ring = self._ring
        if ring is None:
            raise ValueError("the reader is closed")
        if self._held is not None:
            held, self._held = self._held, None
            ring.release(held)
        self._held = ring.get(_CONSUME)
        return None if self._held is None else self._held.data

    def start(self) -> None:
        """Begin to read ahead, as the first ``next()`` would: for one who will come to this blob later."""
        if self._ring is None and self._chunks is None and not self._ended and self._failure is None:
            self._start()

    def _start(self) -> None:
        if self._pump.small or (self.codec == "none" and self._digests is None):
            self._chunks = _read(self._pump, self._digests)
            return
        nbytes = min(self._ring_bytes, _RING_NBYTES_NONE) if self.codec == "none" else self._ring_bytes
        self._ring = ring = Ring((_HASH, _CONSUME), nbytes=nbytes, slot_nbytes=self._pump.piece_nbytes)
        hashing = self._digests is not None
        self._workers.append(Worker("inflate", partial(_inflate, ring, self._pump, hashing), ring.finish))
        if self._digests is not None:
            self._workers.append(Worker("hash", partial(_hash, ring, self._digests), ring.cancel))
        for worker in self._workers:
            worker.start()

    def _end(self) -> None:
        """Wait for the digests, compare, publish."""
        self._join()
        if self._ring is not None and self._ring.failure is not None:
            raise self._ring.failure
        if self._digests is not None:
            self._digests.verify()
            self.digest = self._digests.blob.digest()
            self.diff_id = DiffID(self._digests.raw.digest())
        self.compressed_size, self.uncompressed_size = self._pump.n_in, self._pump.n_out
        self._ended = True

    def drain(self) -> None:
        """Read to the end, hashing and verifying; the bytes are dropped."""
        for _ in self:
            pass

    def close(self) -> None:
        """Stop, wherever reading stands; waits for a read of the source that is under way."""
        if self._failure is None and not self._ended:
            self._failure = ValueError("the reader is closed")
        if self._ring is not None:
            self._ring.cancel()
        self._join()
        self._ring = self._held = self._chunks = None
        self._pump.close()
        self._close_source()

    def _join(self) -> None:
        while self._workers:
            self._workers[-1].wait()
            self._workers.pop()

    def _close_source(self) -> None:
        if self._owned:
            self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        ring = getattr(self, "_ring", None)
        if ring is not None:
            ring.cancel()


def _read(pump: Pump, digests: _Digests | None) -> Iterator[memoryview]:
    """Do all the work in the caller's thread."""
    compressed = pump.codec != "none"
    buffer = memoryview(b"" if pump.lends else bytearray(pump.piece_nbytes))
    pieces = pump.front()
    while piece := next(pieces, None) or pump.fill(buffer):
        if digests is not None and compressed:
            digests.blob.update(piece)
        for chunk in pump.decode(piece):
            if digests is not None:
                digests.raw.update(chunk)
            yield chunk
    pump.finish()


def _inflate(ring: Ring, pump: Pump, hashing: bool) -> None:
    """The first thread: read and decode; it waits for nobody but for credits."""
    raw_to = (_HASH, _CONSUME) if hashing else (_CONSUME,)
    pieces = pump.front()
    while True:
        lent = next(pieces, None)
        item = ring.acquire() if lent is None else ring.lend(lent)
        item.data = pump.fill(item.data) if lent is None else lent
        if not item.data:
            ring.release(item)
            break
        if pump.codec == "none":
            for chunk in pump.decode(item.data):  # one chunk: the piece itself, counted and checked
                item.data, item.tag = chunk, _RAW
                ring.put(item, *raw_to)
            continue
        for chunk in pump.decode(item.data):
            ring.put(ring.lend(chunk, _RAW), *raw_to)
        item.tag = _BLOB
        if hashing:
            ring.put(item, _HASH)
        else:
            ring.release(item)
    pump.finish()
    ring.finish()


def _hash(ring: Ring, digests: _Digests) -> None:
    """The second thread: both digests."""
    while (item := ring.get(_HASH)) is not None:
        (digests.blob if item.tag == _BLOB else digests.raw).update(item.data)
        ring.release(item)
