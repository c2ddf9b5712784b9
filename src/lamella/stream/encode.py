"""Encoders: fixed blocks in, compressed bytes out; the same bytes for the same content, however it was cut.

Libraries that stream give output that depends on how their input was cut (isal does), so every encoder takes blocks
of BLOCK_NBYTES exactly, and a shorter one only at the end.
"""

from __future__ import annotations

import struct
import zlib
from abc import ABC, abstractmethod
from typing import Any

import zstandard

from lamella.stream.deflate import BACKEND, BACKEND_NAME

__all__ = ["BLOCK_NBYTES", "Encoder", "GzipEncoder", "NoneEncoder", "ZstdEncoder"]

BLOCK_NBYTES = 1 << 20
_ZSTD_THREADS = 2


class Encoder(ABC):
    """One compressed stream.

    Either stream through :meth:`compress` and :meth:`flush`, or split the work between threads: :meth:`encode` each
    block (by several threads at once where ``parallel``, else in order by one), then :meth:`join` block and encoded
    block in order, then :meth:`tail`. ``name`` says library, version and level: what the bytes depend on.
    """

    codec: str
    name: str
    parallel = False

    def __init__(self) -> None:
        self._carry = bytearray()

    @abstractmethod
    def encode(self, block: memoryview) -> bytes:
        """Compress one block."""

    def join(self, block: memoryview, encoded: bytes) -> bytes:
        """Return what goes into the blob for this block; the block itself is there to be counted."""
        del block
        return encoded

    @abstractmethod
    def tail(self) -> bytes:
        """Return the end of the blob."""

    def compress(self, data: bytes | bytearray | memoryview) -> bytes:
        """Add ``data``, cut in any way; returns what is ready of the blob."""
        view = memoryview(data).cast("B")
        out = []
        while view:
            if not self._carry and len(view) >= BLOCK_NBYTES:
                block, view = view[:BLOCK_NBYTES], view[BLOCK_NBYTES:]
                out.append(self.join(block, self.encode(block)))
                continue
            n_missing = BLOCK_NBYTES - len(self._carry)
            self._carry += view[:n_missing]
            view = view[n_missing:]
            if len(self._carry) == BLOCK_NBYTES:
                out.append(self._take())
        return b"".join(out)

    def flush(self) -> bytes:
        """Return the rest of the blob; the encoder is used up."""
        rest = self._take() if self._carry else b""
        return rest + self.tail()

    def _take(self) -> bytes:
        block = memoryview(bytes(self._carry))
        self._carry.clear()
        return self.join(block, self.encode(block))


class NoneEncoder(Encoder):
    """Bytes as they are."""

    codec = "none"
    name = "none"

    def encode(self, block: memoryview) -> bytes:
        """Return a copy of ``block``."""
        return bytes(block)

    def tail(self) -> bytes:
        """Return nothing."""
        return b""


class GzipEncoder(Encoder):
    """RFC 1952, one member, no name, mtime 0. Blocks share no history, so that several threads can deflate.

    ``level`` 0 to 3 are those of isal, the default 1 (0 is its fastest, not "stored"); 4 to 9 are zlib's: 2 to 6 %
    smaller than isal's 3, at a tenth of the speed. ValueError for others.
    """

    codec = "gzip"
    parallel = True

    def __init__(self, level: int | None = None) -> None:
        super().__init__()
        self._level = 1 if level is None else level
        if not 0 <= self._level <= 9:
            raise ValueError(f"gzip level {level} is not in 0..9")
        self._library: Any = BACKEND if self._level <= 3 else zlib
        library = BACKEND_NAME if self._level <= 3 else f"zlib {zlib.ZLIB_RUNTIME_VERSION}"
        self.name = f"{library} level {self._level}"
        self._crc = 0
        self._nbytes = 0
        # ID1 ID2 CM FLG MTIME XFL OS (255: unknown)
        self._header = struct.pack("<BBBBIBB", 0x1F, 0x8B, 8, 0, 0, 0, 255)

    def encode(self, block: memoryview) -> bytes:
        """Deflate ``block`` by itself, up to a byte boundary and without the end of the stream."""
        deflater = self._library.compressobj(self._level, wbits=-15)
        begin: bytes = deflater.compress(block)
        return begin + bytes(deflater.flush(zlib.Z_SYNC_FLUSH))

    def join(self, block: memoryview, encoded: bytes) -> bytes:
        """Count ``block`` into checksum and size, and return ``encoded``, the first time behind the header."""
        self._crc = BACKEND.crc32(block, self._crc)
        self._nbytes += len(block)
        header, self._header = self._header, b""
        return header + encoded

    def tail(self) -> bytes:
        """Return the last, empty block of deflate (RFC 1951, 3.2.6), CRC32 and ISIZE."""
        return self._header + b"\x03\x00" + struct.pack("<II", self._crc, self._nbytes & 0xFFFFFFFF)


class ZstdEncoder(Encoder):
    """RFC 8878, one frame with a checksum; ``level`` -7 to 22, the default 3. ValueError for others.

    Above one block libzstd compresses on two threads of its own; the bytes do not depend on how many there are.
    """

    codec = "zstd"

    def __init__(self, level: int | None = None) -> None:
        super().__init__()
        self._level = 3 if level is None else level
        if not -7 <= self._level <= zstandard.MAX_COMPRESSION_LEVEL:
            raise ValueError(f"zstd level {level} is not in -7..{zstandard.MAX_COMPRESSION_LEVEL}")
        version = ".".join(map(str, zstandard.ZSTD_VERSION))
        self.name = f"zstd {version} level {self._level}"
        self._stream: Any = None

    def encode(self, block: memoryview) -> bytes:
        """Compress the next block; what comes back may lag behind."""
        if self._stream is None:
            # a stream of one short block is not worth two threads: which it is, its length alone decides
            threads = _ZSTD_THREADS if len(block) == BLOCK_NBYTES else 0
            self._stream = self._new(threads)
        return bytes(self._stream.compress(block))

    def tail(self) -> bytes:
        """Return the rest of the frame."""
        return bytes((self._stream or self._new(0)).flush())

    def _new(self, threads: int) -> Any:
        return zstandard.ZstdCompressor(level=self._level, threads=threads, write_checksum=True).compressobj()
