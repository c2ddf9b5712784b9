"""Compressed bytes by the reference libraries, and by hand where no library writes the variant."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import struct
import zlib

import zstandard

COMPRESSED = ("gzip", "zstd", "xz", "bzip2")


def sample(nbytes, seed=1):
    """Give bytes that compress to about a third, with long runs in between."""
    rng = random.Random(seed)
    words = [rng.randbytes(rng.randrange(1, 12)) for _ in range(200)]
    out = bytearray()
    while len(out) < nbytes:
        out += rng.choice(words) if rng.random() < 0.995 else bytes(rng.randrange(5000))
    return bytes(out[:nbytes])


def compress(codec, data):
    """Give one member or frame that holds ``data``."""
    if codec == "none":
        return data
    if codec == "gzip":
        return gzip.compress(data, mtime=0)
    if codec == "zstd":
        stream = zstandard.ZstdCompressor(write_checksum=True).compressobj()
        return stream.compress(data) + stream.flush()
    return lzma.compress(data) if codec == "xz" else bz2.compress(data)


def decompress(codec, blob):
    """Decode with the reference library."""
    if codec == "zstd":
        return zstandard.ZstdDecompressor().decompressobj(read_across_frames=True).decompress(blob)
    return {"none": bytes, "gzip": gzip.decompress, "xz": lzma.decompress, "bzip2": bz2.decompress}[codec](blob)


def gzip_with_fields(data, flags):
    """Give a member with FTEXT (1), FHCRC (2), FEXTRA (4), FNAME (8) and FCOMMENT (16) as asked (RFC 1952, 2.3)."""
    header = b"\x1f\x8b\x08" + struct.pack("<BIBB", flags, 12345, 2, 3)
    header += struct.pack("<H", 6) + b"AB\x02\x00xy" if flags & 4 else b""
    header += b"name\0" if flags & 8 else b""
    header += b"a comment\0" if flags & 16 else b""
    header += struct.pack("<H", zlib.crc32(header) & 0xFFFF) if flags & 2 else b""
    raw = zlib.compressobj(6, wbits=-15)
    return header + raw.compress(data) + raw.flush() + struct.pack("<II", zlib.crc32(data), len(data))


def skippable(payload, kind=0):
    """Give a skippable frame (RFC 8878, 3.1.2)."""
    return struct.pack("<II", 0x184D2A50 + kind, len(payload)) + payload


def zstd_zeros(n_blocks, *, window_log=20):
    """Give a frame of ``n_blocks`` RLE blocks of 128 KiB: four bytes each."""
    header = b"\x28\xb5\x2f\xfd\x00" + bytes(((window_log - 10) << 3,))
    return header + b"".join(
        struct.pack("<I", (1 << 17) << 3 | 1 << 1 | (n == n_blocks - 1))[:3] + b"\0" for n in range(n_blocks)
    )
