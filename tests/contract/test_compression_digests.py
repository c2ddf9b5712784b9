"""Compressed streams, digests and media types: items 86 to 95."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import struct

import pytest
import zstandard

import lamella
from lamella.errors import CodecError, DigestMismatchError, FormatError, LamellaError, UnsupportedMediaType
from lamella.model import ChainID, DiffID
from lamella.testing.listing import listing
from lamella.testing.tars import directory, file, layer_tar, whiteout
from lamella.testing.trees import Dir, File
from tests.contract.workbench import AS_ROOT, diff, shape, tree
from tests.image.layouts import LAYER, HandMade

TAR = layer_tar([directory("d"), file("d/f", b"content" * 1000), file("g", bytes(range(256)) * 300), whiteout("old")])
TREE = {"d": "dir", "d/f": b"content" * 1000, "g": bytes(range(256)) * 300}
DIFF_ID = "sha256:" + hashlib.sha256(TAR).hexdigest()
PIECES = [TAR[:100], TAR[100:9000], b"", TAR[9000:]]


def zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def skippable(data: bytes, kind: int = 0) -> bytes:
    return struct.pack("<II", 0x184D2A50 + kind, len(data)) + data


CODECS = {"gzip": gzip.compress, "zstd": zst, "xz": lzma.compress, "bzip2": bz2.compress}


def applied(scratch, data: bytes, **options):
    root = tree(scratch / f"r{hashlib.sha256(data).hexdigest()[:8]}", File("old"))
    return lamella.apply(data, root, rootless=not AS_ROOT, **options), root


@pytest.mark.parametrize("tail", [b"", bytes(1), bytes(5000)])
def test_086_members_of_gzip_are_one_stream(scratch, tail):
    data = b"".join(map(gzip.compress, PIECES)) + tail
    result, root = applied(scratch, data)
    assert shape(root) == TREE
    assert (result.diff_id, result.digest) == (DIFF_ID, "sha256:" + hashlib.sha256(data).hexdigest())
    assert (result.compressed_size, result.uncompressed_size) == (len(data), len(TAR))


@pytest.mark.parametrize("tail", [b"x", bytes(100) + b"x", gzip.compress(b"more", mtime=0)[:-1], b"\x1f\x8b"])
def test_086_other_things_after_the_last_member_are_an_error(scratch, tail):
    with pytest.raises(FormatError):
        applied(scratch, gzip.compress(TAR, mtime=0) + tail)


FRAMES = {
    "several": b"".join(map(zst, PIECES)),
    "skippable first": skippable(b"estargz", 3) + zst(TAR),
    "skippable between and last": zst(TAR[:5000]) + skippable(b"", 15) + zst(TAR[5000:]) + skippable(b"x" * 300),
    "only empty ones before": zst(b"") + skippable(b"1") + zst(TAR),
}


@pytest.mark.parametrize("frames", FRAMES)
def test_087_frames_of_zstd_are_one_stream(scratch, frames):
    result, root = applied(scratch, FRAMES[frames])
    assert shape(root) == TREE
    assert (result.diff_id, result.compressed_size) == (DIFF_ID, len(FRAMES[frames]))
    assert result.digest == "sha256:" + hashlib.sha256(FRAMES[frames]).hexdigest()


@pytest.mark.parametrize("codec", CODECS)
def test_088_bytes_are_sniffed(scratch, codec):
    result, root = applied(scratch, CODECS[codec](TAR))
    assert shape(root) == TREE
    assert result.diff_id == DIFF_ID
    assert result.media_type == {"gzip": LAYER + "+gzip", "zstd": LAYER + "+zstd"}.get(codec), "OCI names no others"


@pytest.mark.parametrize("said", [LAYER + "+zstd", LAYER])
def test_088_but_a_descriptor_that_says_otherwise_is_an_error(scratch, said):
    made = HandMade(scratch / "image", tars=[gzip.compress(TAR, mtime=0)], media_type=said).write()
    with lamella.open_image(made.reference) as image, pytest.raises(CodecError), image.layers[0].reader() as reader:
        list(reader)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("cut", [1, 7, 20, 0.3, 0.9, -9, -1])
def test_089_a_truncated_stream_is_an_error(scratch, codec, cut):
    data = CODECS[codec](TAR)
    at = int(len(data) * cut) if isinstance(cut, float) else cut
    with pytest.raises(FormatError):
        applied(scratch, data[:at])


@pytest.mark.parametrize("at", [1, 511, 513, 1023, 1600, 3000, 9000])
def test_089_a_truncated_tar_too(scratch, at):
    for data in (TAR[:at], gzip.compress(TAR[:at], mtime=0)):
        with pytest.raises(FormatError):
            applied(scratch, data)


def test_090_the_two_digests_are_not_mixed(scratch):
    blob = gzip.compress(TAR, mtime=0)
    result, _ = applied(scratch, blob)
    assert isinstance(result.diff_id, DiffID)
    assert not isinstance(result.digest, DiffID)
    assert result.diff_id == DIFF_ID != result.digest
    info, data = diff(None, tree(scratch / "u", File("f")), compression="gzip")
    assert info.digest == "sha256:" + hashlib.sha256(data).hexdigest()
    assert info.diff_id == "sha256:" + hashlib.sha256(gzip.decompress(data)).hexdigest()
    assert (info.size, info.uncompressed_size) == (len(data), len(gzip.decompress(data)))
    with pytest.raises(DigestMismatchError):
        applied(scratch, blob, expected_diff_id=result.digest)


def test_091_chain_ids_are_made_of_strings_with_their_algorithm():
    layers = [DiffID("sha256:" + f"{n}" * 64) for n in (1, 2, 3)]
    chain = ChainID.chain(None, layers[0])
    assert chain == layers[0]
    for layer in layers[1:]:
        expected = "sha256:" + hashlib.sha256(f"{chain} {layer}".encode()).hexdigest()
        chain = ChainID.chain(chain, layer)
        assert chain == expected


def test_093_another_compression_is_another_digest_of_the_same_layer(scratch):
    upper = tree(scratch / "u", Dir("d"), File("d/f", b"content" * 5000))
    ways = [("none", None), ("gzip", None), ("gzip", 1), ("zstd", None), ("zstd", 19)]
    infos = [diff(None, upper, compression=codec, level=level)[0] for codec, level in ways]
    assert len({info.diff_id for info in infos}) == 1
    assert len({info.digest for info in infos}) >= 3
    for info, (codec, _) in zip(infos, ways, strict=True):
        assert codec == "none" or codec in str(info.codec) or "isal" in str(info.codec)
        assert info.descriptor() == {"mediaType": info.media_type, "digest": info.digest, "size": info.size}


def test_094_a_layer_that_may_not_be_distributed_is_read_all_the_same(scratch):
    kind = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    made = HandMade(scratch / "image", tars=[TAR], media_type=kind).write()
    with lamella.open_image(made.reference) as image:
        assert image.layers[0].media_type == kind
        with image.layers[0].reader() as reader:
            assert [entry.path for entry in reader] == [b"d", b"d/f", b"g", b".wh.old"]


WINDOWS = layer_tar([
    directory("Files"), directory("Files/Windows", pax={"MSWINDOWS.fileattr": "16", "MSWINDOWS.rawsd": "AQAEgBQ="}),
    file("Files/Windows/x.dll", b"MZ", pax={"MSWINDOWS.fileattr": "32"}), directory("Hives"),
    file("Hives/System_Delta", b"regf"),
])  # fmt: skip


def test_095_a_layer_of_windows_is_read_and_listed():
    with lamella.read_layer(WINDOWS) as reader:
        table = reader.table()
        assert list(table.paths)[2] == b"Files/Windows/x.dll"
        assert table[2].pax == {b"MSWINDOWS.fileattr": b"32"}


def test_095_but_not_applied(scratch):
    root = tree(scratch / "r", File("living"))
    before = listing(root)
    with pytest.raises(UnsupportedMediaType):
        lamella.apply(WINDOWS, root, rootless=not AS_ROOT)
    assert listing(root) == before


def test_089_a_stream_that_fails_says_so(scratch):
    class Broken(io.RawIOBase):
        def __init__(self) -> None:
            self.left = [TAR[:700], TAR[700:5000]]

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            if not self.left:
                raise OSError(5, "the network is gone")
            return self.left.pop(0)

        def readinto(self, buffer) -> int:
            data = self.read()
            buffer[: len(data)] = data
            return len(data)

    with pytest.raises((OSError, LamellaError), match="network is gone"):
        lamella.apply(Broken(), tree(scratch / "r", File("living")), rootless=not AS_ROOT)
