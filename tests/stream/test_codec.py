"""Sniffing, media types, and encoders whose bytes depend on the content alone."""

from __future__ import annotations

import io
import platform
import tarfile
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella.errors import CodecError, UnsupportedMediaType
from lamella.stream import codec
from lamella.stream.encode import BLOCK_NBYTES
from tests.stream import blobs

OCI = "application/vnd.oci.image.layer.v1.tar"
DOCKER = "application/vnd.docker.image.rootfs.diff.tar"


@pytest.mark.parametrize("name", codec.CODECS)
def test_sniff_by_magic(name):
    tar = tarfile.TarInfo("a").tobuf() + bytes(1024)
    blob = blobs.compress(name, tar)
    assert codec.sniff(blob) == name
    assert codec.sniff(memoryview(blob)[: codec.SNIFF_NBYTES]) == name
    assert codec.sniff(blobs.compress(name, b"")) == name


@pytest.mark.parametrize("name", blobs.COMPRESSED)
def test_a_blob_shorter_than_a_magic_that_it_begins_is_that_codec(name):
    blob = blobs.compress(name, b"content")
    assert {codec.sniff(blob[:cut]) for cut in range(1, len(blob))} == {name}


@pytest.mark.parametrize("kind", range(16))
def test_skippable_frames_first_are_zstd(kind):
    assert codec.sniff(blobs.skippable(b"", kind)) == "zstd"
    assert codec.sniff(blobs.skippable(b"x" * 100, kind)) == "zstd"


@pytest.mark.parametrize("name", [b"BZh9", b"BZh91AY", b"\x1f\x8b", b"(\xb5/", b"P*M", b"\xfd7zXZ", b"BZh01AY&SY"])
def test_names_that_begin_like_a_magic_are_a_tar(name):
    with io.BytesIO() as out:
        with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT, encoding="latin-1") as tar:
            tar.addfile(tarfile.TarInfo(name.decode("latin-1")))
        assert codec.sniff(out.getvalue()) == "none"


def test_empty_is_none():
    assert codec.sniff(b"") == "none"


def test_media_types():
    known = {
        OCI: "none",
        f"{OCI}+gzip": "gzip",
        f"{OCI}+zstd": "zstd",
        OCI.replace("layer", "layer.nondistributable"): "none",
        OCI.replace("layer", "layer.nondistributable") + "+gzip": "gzip",
        OCI.replace("layer", "layer.nondistributable") + "+zstd": "zstd",
        DOCKER: "none",
        f"{DOCKER}.gzip": "gzip",
        f"{DOCKER}.zstd": "zstd",
        DOCKER.replace("diff", "foreign.diff"): "none",
        DOCKER.replace("diff", "foreign.diff") + ".gzip": "gzip",
    }
    assert {media_type: codec.codec_of_media_type(media_type) for media_type in known} == known
    assert codec.codec_of_media_type("application/vnd.oci.image.config.v1+json") is None
    assert codec.codec_of_media_type(f"{OCI}+gzip+encrypted") is None
    for name in codec.ENCODINGS:
        assert codec.codec_of_media_type(codec.media_type_of(name)) == name
    for name in ("xz", "bzip2"):
        with pytest.raises(UnsupportedMediaType):
            codec.media_type_of(name)


def test_item_88_a_media_type_that_disagrees_is_an_error():
    codec.check_media_type(f"{OCI}+gzip", "gzip")
    for media_type, name in ((f"{OCI}+gzip", "zstd"), (f"{DOCKER}.gzip", "none"), (OCI, "gzip"), (OCI, "xz")):
        with pytest.raises(CodecError, match="media type") as caught:
            codec.check_media_type(media_type, name)
        assert caught.value.offset == 0
    with pytest.raises(UnsupportedMediaType):
        codec.check_media_type("text/plain", "gzip")


SAMPLE = blobs.sample(3_000_007)
LEVELS = [("none", None), ("gzip", None), *(("gzip", level) for level in range(10)), ("zstd", None), ("zstd", -3),
          ("zstd", 9)]  # fmt: skip


@pytest.mark.parametrize(("name", "level"), LEVELS)
@pytest.mark.parametrize("nbytes", [0, 1, 100_000, BLOCK_NBYTES, 2 * BLOCK_NBYTES + 12_345])
def test_encoders_write_what_the_reference_reads(name, level, nbytes):
    data = SAMPLE[:nbytes]
    made = codec.encoder(name, level)
    blob = made.compress(data) + made.flush()
    assert blobs.decompress(name, blob) == data
    assert name == "none" or codec.sniff(blob) == name


@pytest.mark.parametrize(("name", "level"), [("none", None), ("gzip", None), ("gzip", 4), ("zstd", None)])
@given(steps=st.lists(st.integers(1, 3 << 19), min_size=1, max_size=8), data=st.integers(0, 3))
def test_the_bytes_do_not_depend_on_how_the_content_was_cut(name, level, steps, data):
    content = SAMPLE[: 1_000_000 * data + 7]
    whole, cut = codec.encoder(name, level), codec.encoder(name, level)
    expected = whole.compress(content) + whole.flush()
    out, begin = b"", 0
    for n in range(1000):
        if begin >= len(content):
            break
        end = begin + steps[n % len(steps)]
        out += cut.compress(memoryview(content)[begin:end])
        begin = end
    assert out + cut.compress(memoryview(content)[begin:]) + cut.flush() == expected


def test_gzip_carries_no_time_and_no_name():
    made = codec.encoder("gzip")
    blob = made.compress(b"abc") + made.flush()
    assert blob[:10] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"


def test_zstd_bytes_do_not_depend_on_the_number_of_threads(monkeypatch):
    from lamella.stream import encode

    content = blobs.sample(12 << 20)
    made = codec.encoder("zstd")
    two = made.compress(content) + made.flush()
    monkeypatch.setattr(encode, "_ZSTD_THREADS", 1)
    made = codec.encoder("zstd")
    assert made.compress(content) + made.flush() == two


def test_names_say_library_version_and_level():
    from lamella.stream.deflate import BACKEND_NAME

    assert codec.encoder("none").name == "none"
    assert codec.encoder("gzip").name == f"{BACKEND_NAME} level 1"
    assert codec.encoder("gzip", 3).name == f"{BACKEND_NAME} level 3"
    assert codec.encoder("gzip", 6).name == f"zlib {zlib.ZLIB_RUNTIME_VERSION} level 6"
    assert codec.encoder("zstd").name.startswith("zstd 1.")
    assert codec.encoder("zstd").name.endswith(" level 3")


def test_the_platform_decides_which_library_deflates():
    from lamella.stream.deflate import BACKEND_NAME

    expected = "isal " if platform.machine() in {"x86_64", "aarch64"} else "zlib-ng "
    assert BACKEND_NAME.startswith(expected)


@pytest.mark.parametrize(("name", "level"), [("xz", None), ("lz4", None), ("none", 1), ("gzip", 10), ("gzip", -1),
                                             ("zstd", 23), ("zstd", -8)])  # fmt: skip
def test_what_cannot_be_written(name, level):
    with pytest.raises(ValueError, match=r"compress|level"):
        codec.encoder(name, level)


def test_unknown_decoder():
    with pytest.raises(ValueError, match="lz4"):
        codec.decoder("lz4")
