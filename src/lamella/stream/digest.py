"""Several digests in one pass, and a reader that checks what it reads."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from typing import Any, Protocol

import xxhash

from lamella.errors import DigestMismatchError
from lamella.model import Digest

__all__ = ["ALGORITHMS", "MultiDigest", "VerifiedReader"]

ALGORITHMS = ("sha256", "sha384", "sha512", "xxh3_64", "xxh3_128")


class _Hash(Protocol):
    def update(self, data: Any, /) -> None: ...
    def hexdigest(self) -> str: ...


def _new(algorithm: str) -> _Hash:
    if algorithm not in ALGORITHMS:
        raise ValueError(f"unknown digest algorithm {algorithm!r}, known: {', '.join(ALGORITHMS)}")
    made: _Hash = getattr(xxhash if algorithm.startswith("xxh3") else hashlib, algorithm)()
    return made


class MultiDigest:
    """Digests of one stream, all updated in one pass.

    ``algorithms``: names out of :data:`ALGORITHMS`; repeated names count once. ValueError for another.
    """

    def __init__(self, algorithms: Iterable[str] = ("sha256",)) -> None:
        self._hashes = {algorithm: _new(algorithm) for algorithm in algorithms}
        self._updates = [made.update for made in self._hashes.values()]
        self.nbytes = 0

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Add ``data`` to every digest."""
        self.nbytes += memoryview(data).nbytes
        for update in self._updates:
            update(data)

    def digests(self) -> dict[str, str]:
        """Return ``{algorithm: hex}`` of what was added so far."""
        return {algorithm: made.hexdigest() for algorithm, made in self._hashes.items()}

    def digest(self, algorithm: str = "sha256") -> Digest:
        """Return one result in the form of a descriptor, ``algorithm:hex``."""
        return Digest(f"{algorithm}:{self._hashes[algorithm].hexdigest()}")


class VerifiedReader(io.RawIOBase):
    """Read ``fileobj`` and check its size and digest as soon as the last byte was read, without being asked.

    Too many bytes are noticed at the first one over ``expected_size``, which is also when reading stops; the last read
    that makes the size full looks for the end itself. DigestMismatchError carries sizes (int) or digests as
    ``expected`` and ``actual``. ``fileobj`` needs ``readinto`` or ``read``; it is not closed here.
    """

    def __init__(self, fileobj: Any, expected_digest: str | None = None, expected_size: int | None = None) -> None:
        self._file = fileobj
        self._expected = None if expected_digest is None else Digest(expected_digest)
        self._hash = None if self._expected is None else MultiDigest((self._expected.algorithm,))
        self._size = expected_size
        self._done = False
        self.nbytes = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Fill ``buffer`` as far as one read of the file object does; 0 at the end."""
        view = memoryview(buffer).cast("B")
        if self._done or not view:
            return 0
        got = self._read(view)
        if got:
            self._count(view[:got])
        full = got > 0 and self.nbytes == self._size
        if full and (n_over := self._read(memoryview(bytearray(1)))):
            raise DigestMismatchError("size", expected=self._size, actual=self.nbytes + n_over)
        if full or not got:
            self._verify()
        return got

    def _read(self, view: memoryview) -> int:
        if hasattr(self._file, "readinto"):
            return int(self._file.readinto(view) or 0)
        data = self._file.read(len(view))
        view[: len(data)] = data
        return len(data)

    def _count(self, data: memoryview) -> None:
        self.nbytes += len(data)
        if self._size is not None and self.nbytes > self._size:
            raise DigestMismatchError("size", expected=self._size, actual=self.nbytes)
        if self._hash is not None:
            self._hash.update(data)

    def _verify(self) -> None:
        if self._size is not None and self.nbytes != self._size:
            raise DigestMismatchError("size", expected=self._size, actual=self.nbytes)
        if self._hash is not None and self._expected is not None:
            actual = self._hash.digest(self._expected.algorithm)
            if actual != self._expected:
                raise DigestMismatchError("digest", expected=self._expected, actual=actual)
        self._done = True

    def readall(self) -> bytes:
        """Read to the end, at most one byte past ``expected_size``."""
        parts = []
        piece = bytearray(1 << 18)
        while got := self.readinto(piece):
            parts.append(bytes(memoryview(piece)[:got]))
        return b"".join(parts)
