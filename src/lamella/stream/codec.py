"""Which compression a blob has: by its magic, checked against what its media type says.

Codec names are ``"none"``, ``"gzip"``, ``"zstd"``, ``"xz"`` and ``"bzip2"``; all are read, the first three written.
"""

from __future__ import annotations

from lamella.errors import CodecError, UnsupportedMediaType
from lamella.stream.decoder import MAX_OUT, Decoder, NoneDecoder
from lamella.stream.encode import Encoder, GzipEncoder, NoneEncoder, ZstdEncoder
from lamella.stream.members import Bzip2Decoder, GzipDecoder, XzDecoder
from lamella.stream.zstd_frames import ZstdDecoder

__all__ = [
    "CODECS",
    "ENCODINGS",
    "SNIFF_NBYTES",
    "check_media_type",
    "codec_of_media_type",
    "decoder",
    "encoder",
    "media_type_of",
    "sniff",
]

_DECODERS: dict[str, type[Decoder]] = {
    kind.codec: kind for kind in (NoneDecoder, GzipDecoder, ZstdDecoder, XzDecoder, Bzip2Decoder)
}
CODECS = tuple(_DECODERS)
ENCODINGS = ("none", "gzip", "zstd")
SNIFF_NBYTES = 16

_OCI = "application/vnd.oci.image.layer.v1.tar"
_OCI_NONDIST = "application/vnd.oci.image.layer.nondistributable.v1.tar"
_DOCKER = "application/vnd.docker.image.rootfs.diff.tar"
_DOCKER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar"

# OCI image-spec layer.md and media-types.md; Docker image manifest v2, schema 2
_MEDIA_TYPES = {
    f"{prefix}{suffix}": codec
    for prefix, joint in ((_OCI, "+"), (_OCI_NONDIST, "+"), (_DOCKER, "."), (_DOCKER_FOREIGN, "."))
    for suffix, codec in (("", "none"), (f"{joint}gzip", "gzip"), (f"{joint}zstd", "zstd"))
}

_GZIP = b"\x1f\x8b\x08"  # RFC 1952 2.3: ID1 ID2 and the only method there is
_XZ = b"\xfd7zXZ\0"  # The .xz file format 2.1.1.1
_ZSTD = b"\x28\xb5\x2f\xfd"  # RFC 8878 3.1.1
_ZSTD_SKIPPABLE_FIRST = {bytes((first,)) for first in range(0x50, 0x60)}  # RFC 8878 3.1.2
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"
_BZIP2 = b"BZh"
_BZIP2_BLOCKS = (b"1AY&SY", b"\x17rE8P\x90")  # a block, or the end of an empty stream: "BZh" alone could begin a name


def sniff(head: bytes | bytearray | memoryview) -> str:
    """Return the codec of the blob that begins with ``head``.

    ``head`` holds at least SNIFF_NBYTES bytes unless the blob is shorter. A blob shorter than a magic that it begins is
    that codec, cut short: it cannot be a tar. An empty blob is ``"none"`` (tests/contract 40).
    """
    head = bytes(head[:SNIFF_NBYTES])
    if _begins(head, _GZIP):
        return "gzip"
    if _begins(head, _ZSTD) or (head[:1] in _ZSTD_SKIPPABLE_FIRST and _begins(head[1:], _ZSTD_SKIPPABLE, empty=True)):
        return "zstd"
    if _begins(head, _XZ) and head[6:12] != bytes(6):  # flags and their CRC32: NULs are a name's padding
        return "xz"
    if _begins(head, _BZIP2):
        level, block = head[3:4], head[4:10]
        if level in b"123456789" and any(_begins(block, magic, empty=True) for magic in _BZIP2_BLOCKS):
            return "bzip2"
    return "none"


def _begins(head: bytes, magic: bytes, *, empty: bool = False) -> bool:
    if not head:
        return empty
    return head.startswith(magic) or magic.startswith(head)


def codec_of_media_type(media_type: str) -> str | None:
    """Return the codec that a layer's media type names, None for a type that is no known layer."""
    return _MEDIA_TYPES.get(media_type)


def media_type_of(codec: str) -> str:
    """Return the OCI layer type of ``codec``; UnsupportedMediaType for ``"xz"`` and ``"bzip2"``, which have none."""
    suffix = {"none": "", "gzip": "+gzip", "zstd": "+zstd"}.get(codec)
    if suffix is None:
        raise UnsupportedMediaType(f"no layer media type stands for {codec}")
    return _OCI + suffix


def check_media_type(media_type: str, codec: str) -> None:
    """Compare what the descriptor says with what was sniffed (tests/contract 88).

    CodecError where they disagree, UnsupportedMediaType for a type that is no known layer.
    """
    declared = codec_of_media_type(media_type)
    if declared is None:
        raise UnsupportedMediaType(f"not a layer's media type: {media_type!r}")
    if declared != codec:
        raise CodecError(f"media type {media_type} says {declared}, the bytes are {codec}", offset=0)


def decoder(codec: str, max_out: int = MAX_OUT) -> Decoder:
    """Return a new decoder for one of CODECS, whose chunks hold at most ``max_out`` bytes; ValueError for another."""
    if codec not in _DECODERS:
        raise ValueError(f"unknown codec {codec!r}, known: {', '.join(CODECS)}")
    return _DECODERS[codec](max_out)


def encoder(codec: str, level: int | None = None) -> Encoder:
    """Return a new encoder for one of ENCODINGS; ValueError for another name, or a level that the codec lacks."""
    if codec == "gzip":
        return GzipEncoder(level)
    if codec == "zstd":
        return ZstdEncoder(level)
    if codec != "none":
        raise ValueError(f"cannot compress with {codec!r}, only with: {', '.join(ENCODINGS)}")
    if level is not None:
        raise ValueError("compression none has no levels")
    return NoneEncoder()
