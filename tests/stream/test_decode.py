"""Decoders: members and frames, cuts anywhere, truncation anywhere, junk, bombs."""

from __future__ import annotations

import lzma
import struct
import zlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from lamella.errors import CodecError, TruncatedError
from lamella.stream.codec import CODECS, decoder
from tests.stream import blobs

BIG = blobs.sample(2_500_000)
SMALL = blobs.sample(300)


def decode(codec, pieces, max_out=1 << 19):
    made = decoder(codec, max_out)
    out = []
    for piece in pieces:
        for chunk in made.feed(piece):
            assert 0 < len(chunk) <= (max(max_out, 1 << 17) if codec == "zstd" else max_out)
            out.append(bytes(chunk))
    made.finish()
    assert made.offset == sum(map(len, pieces))
    return b"".join(out)


def cut(blob, step):
    return [memoryview(blob)[begin : begin + step] for begin in range(0, len(blob), step)]


def several(codec, *contents):
    return b"".join(blobs.compress(codec, content) for content in contents)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("step", [997, 65_536, 10_000_000])
@pytest.mark.parametrize("max_out", [1, 4096, 1 << 19])
def test_large_streams_in_bounded_chunks(codec, step, max_out):
    content = BIG[: 50_000 if max_out == 1 else None]
    assert decode(codec, cut(blobs.compress(codec, content), step), max_out) == content


@pytest.mark.parametrize("codec", CODECS)
def test_every_cut_in_two_and_byte_by_byte(codec):
    blob = several(codec, SMALL, b"", b"x", SMALL)
    expected = SMALL + b"x" + SMALL
    for at in range(len(blob) + 1):
        assert decode(codec, [blob[:at], blob[at:]]) == expected
    assert decode(codec, cut(blob, 1)) == expected


@pytest.mark.parametrize("codec", CODECS)
@given(
    contents=st.lists(st.binary(max_size=200) | st.integers(0, 400_000).map(bytes), min_size=1, max_size=5),
    steps=st.lists(st.integers(1, 3000), min_size=1, max_size=5),
)
def test_the_result_never_depends_on_the_cuts(codec, contents, steps):
    blob = several(codec, *contents)
    pieces, begin = [], 0
    while begin < len(blob):
        pieces.append(memoryview(blob)[begin : begin + steps[len(pieces) % len(steps)]])
        begin += len(pieces[-1])
    assert decode(codec, pieces, 100_000) == b"".join(contents)


@pytest.mark.parametrize("codec", blobs.COMPRESSED)
def test_item_89_truncated_at_every_byte_is_an_error(codec):
    first, second = blobs.compress(codec, SMALL), blobs.compress(codec, b"second")
    blob = first + second
    for end in range(len(blob)):
        if end == len(first):
            continue
        made = decoder(codec)
        for piece in cut(blob[:end], 5):
            for _ in made.feed(piece):
                pass
        with pytest.raises(TruncatedError) as caught:
            made.finish()
        assert caught.value.offset == end


@pytest.mark.parametrize("codec", blobs.COMPRESSED)
def test_no_corrupt_bit_goes_unnoticed(codec):
    blob = blobs.compress(codec, SMALL)
    noticed = []
    for at in range(len(blob)):
        damaged = bytearray(blob)
        damaged[at] ^= 0x20
        try:
            assert decode(codec, [bytes(damaged)]) == SMALL  # a field without consequence: a time, a bit of padding
        except (CodecError, TruncatedError) as error:
            noticed.append(error.offset)
    assert len(noticed) > len(blob) * 0.9
    assert all(0 <= offset <= len(blob) for offset in noticed)


# gzip: tests/contract 86


def test_item_86_concatenated_members_are_one_stream():
    blob = b"".join(blobs.compress("gzip", SMALL[n : n + 3]) for n in range(0, 300, 3))
    assert decode("gzip", [blob]) == SMALL


def test_item_86_a_thousand_tiny_members_are_not_quadratic():
    member = blobs.compress("gzip", b"a")
    made = decoder("gzip")
    assert sum(len(chunk) for chunk in made.feed(member * 20_000)) == 20_000
    made.finish()


@pytest.mark.parametrize("n_zeros", [1, 7, 511, 512, 10_000, 300_000])
@pytest.mark.parametrize("step", [1000, 1 << 20])
def test_item_86_zeros_after_the_last_member_are_tolerated(n_zeros, step):
    assert decode("gzip", cut(blobs.compress("gzip", SMALL) + bytes(n_zeros), step)) == SMALL


@pytest.mark.parametrize("junk", [b"junk", b"\x1e", b"\0\0x", b"\x1f\x8c" + bytes(10), b"\0" * 600 + b"\x1f\x8b\x08"])
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_other_junk_after_the_last_member_is_an_error(junk, step):
    blob = blobs.compress("gzip", SMALL)
    with pytest.raises(CodecError) as caught:
        decode("gzip", cut(blob + junk, step))
    assert len(blob) <= caught.value.offset <= len(blob + junk)


def test_the_offset_of_junk_is_exact():
    blob = several("gzip", SMALL, SMALL) + bytes(5)
    with pytest.raises(CodecError) as caught:
        decode("gzip", [blob + b"junk"])
    assert caught.value.offset == len(blob)


@pytest.mark.parametrize("flags", range(32))
def test_gzip_headers_with_any_fields_cut_anywhere(flags):
    blob = blobs.gzip_with_fields(SMALL, flags)
    for at in range(60):
        assert decode("gzip", [blob[:at], blob[at:]]) == SMALL
    assert decode("gzip", cut(blob + blob, 1)) == SMALL * 2
    for end in range(1, 60):
        made = decoder("gzip")
        assert SMALL.startswith(b"".join(bytes(chunk) for chunk in made.feed(blob[:end])))
        with pytest.raises(TruncatedError):
            made.finish()


def test_gzip_headers_that_are_wrong():
    for at, value in ((1, 0x8C), (2, 7), (3, 0x20), (3, 0x80)):
        blob = bytearray(blobs.compress("gzip", SMALL))
        blob[at] = value
        for step in (1, 1 << 20):
            with pytest.raises(CodecError):
                decode("gzip", cut(bytes(blob), step))
    checked = bytearray(blobs.gzip_with_fields(SMALL, 2))
    checked[4] ^= 1  # the time, which FHCRC covers
    with pytest.raises(CodecError):
        decode("gzip", [bytes(checked)])


def test_a_gzip_name_does_not_end_and_is_not_kept():
    endless = b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * (1 << 21)
    with pytest.raises(CodecError, match="header") as caught:
        decode("gzip", cut(endless, 1 << 16))
    assert caught.value.offset == 0


# zstd: tests/contract 87


@pytest.mark.parametrize("step", [1, 5, 1 << 20])
def test_item_87_skippable_frames_first_between_and_last(step):
    a, b = blobs.compress("zstd", SMALL), blobs.compress("zstd", BIG[:1000])
    blob = blobs.skippable(b"first") + a + blobs.skippable(b"", 15) + blobs.skippable(b"x" * 999, 3) + b
    blob += blobs.skippable(b"table of contents", 1)
    assert decode("zstd", cut(blob, step)) == SMALL + BIG[:1000]


def test_skippable_frames_alone_are_an_empty_stream():
    assert decode("zstd", [blobs.skippable(b"nothing")]) == b""


def test_a_skippable_frame_cut_short():
    made = decoder("zstd")
    blob = blobs.compress("zstd", SMALL) + blobs.skippable(b"1234567")[:-1]
    assert b"".join(bytes(chunk) for chunk in made.feed(blob)) == SMALL
    with pytest.raises(TruncatedError):
        made.finish()


@pytest.mark.parametrize("option", ["write_checksum", "write_content_size"])
@pytest.mark.parametrize("value", [False, True])
def test_zstd_frames_with_and_without_size_and_checksum(option, value):
    for nbytes in (0, 1, 255, 256, 65_791, 65_792, 400_000):
        blob = zstandard.ZstdCompressor(**{option: value}).compress(BIG[:nbytes])
        assert decode("zstd", cut(blob, 7 if nbytes < 1000 else 999)) == BIG[:nbytes]


def test_zstd_chunks_are_bounded_whatever_four_bytes_stand_for():
    blob = blobs.zstd_zeros(64)
    assert len(blob) < 300
    assert decode("zstd", [blob]) == bytes(64 << 17)


def test_zstd_junk_dictionaries_and_impossible_blocks():
    blob = blobs.compress("zstd", SMALL)
    with pytest.raises(CodecError, match="after the last") as caught:
        decode("zstd", [blob + b"junk"])
    assert caught.value.offset == len(blob)
    with pytest.raises(CodecError):
        decode("zstd", [blob + bytes(4)])
    with pytest.raises(CodecError, match="not a zstd frame"):
        decode("zstd", [b"\x27\xb5\x2f\xfd" + bytes(20)])  # a format before 1.0
    with pytest.raises(CodecError, match="impossible block"):
        decode("zstd", [b"\x28\xb5\x2f\xfd\x00\x50" + struct.pack("<I", (1 << 17) + 1 << 3 | 1)[:3]])
    with pytest.raises(CodecError, match="impossible block"):
        decode("zstd", [b"\x28\xb5\x2f\xfd\x00\x50" + struct.pack("<I", 10 << 3 | 3 << 1 | 1)[:3]])
    trained = zstandard.ZstdCompressionDict(blobs.sample(2000))
    with_dictionary = zstandard.ZstdCompressor(dict_data=trained).compress(SMALL)
    forged = b"\x28\xb5\x2f\xfd\x21\x09\x05" + with_dictionary[6:]  # the same, naming dictionary 9
    with pytest.raises(CodecError):
        decode("zstd", [forged])


def test_zstd_windows_are_bounded():
    assert decode("zstd", [blobs.zstd_zeros(2, window_log=27)]) == bytes(2 << 17)
    with pytest.raises(CodecError, match="memory"):
        decode("zstd", [blobs.zstd_zeros(2, window_log=28)])


# xz and bzip2


def test_xz_padding_comes_in_fours_and_streams_may_follow():
    blob = blobs.compress("xz", SMALL)
    for step in (1, 1 << 20):
        assert decode("xz", cut(blob + bytes(4) + blob + bytes(8), step)) == SMALL * 2
    with pytest.raises(TruncatedError):
        decode("xz", [blob + bytes(3)])
    for junk in (bytes(3) + blob, b"junk", bytes(4) + b"junk"):
        with pytest.raises(CodecError, match="after the last xz"):
            decode("xz", [blob + junk])


def test_an_xz_header_may_not_ask_for_gigabytes():
    made = lzma.LZMACompressor(filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 16}])
    blob = bytearray(made.compress(b"x" * 100) + made.flush())
    assert blob[12:16].hex() == "02002101", "block header: size, flags, LZMA2, one byte of properties"
    blob[16] = 34  # 2 << 28: a dictionary of 512 MiB
    blob[20:24] = struct.pack("<I", zlib.crc32(blob[12:20]))
    with pytest.raises(CodecError, match=r"[Mm]emory"):
        decode("xz", [bytes(blob)])


def test_bzip2_allows_nothing_behind_its_last_stream():
    blob = blobs.compress("bzip2", SMALL)
    for junk in (bytes(4), b"junk", b"BZx"):
        with pytest.raises(CodecError):
            decode("bzip2", [blob + junk])


# none


def test_none_is_never_incomplete_and_never_copied():
    assert decode("none", []) == b""
    content = bytearray(b"abc")
    (chunk,) = decoder("none").feed(memoryview(content))
    content[0] = ord("x")
    assert bytes(chunk) == b"xbc"
