"""LayerReader: entries, content, digests and sizes, over every kind of source."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import subprocess
import sys

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

import lamella
from lamella.errors import CodecError, DigestMismatchError, LimitExceededError, TarFormatError, TruncatedError
from lamella.model import EntryType, Limits
from lamella.tar.payload import PayloadFile, expanded
from lamella.tar.reader import LayerReader
from lamella.testing.tars import directory, file, hardlink, layer_tar, symlink
from tests import parts
from tests.contract.sparse import SPELLINGS
from tests.kernels.scanning import rows_of, scanned
from tests.kernels.tarcorpus import CORPUS
from tests.reference.tar import parse

BIG = np.random.default_rng(5).integers(0, 256, 1_300_000).astype(np.uint8).tobytes()
MEMBERS = [
    directory("d"), file("d/empty"), file("d/small", b"small"), file("d/big", BIG), hardlink("h", "d/small"),
    symlink("s", "d"), SPELLINGS["1.0"]("sparse", [(5000, b"one"), (100_000, b"two" * 999)], 150_000),
    file("last", b"l" * 700_000),
]  # fmt: skip
LAYER = layer_tar(MEMBERS, end=bytes(10240)) + b"trailing"
CONTENT = {e["path"]: e for e in parse(LAYER)}
CODECS = {
    "none": bytes, "gzip": gzip.compress, "zstd": zstandard.compress, "xz": lzma.compress, "bzip2": bz2.compress,
}  # fmt: skip
BLOBS = {codec: pack(LAYER) for codec, pack in CODECS.items()}


def whole(row) -> bytes:
    """Return what the reference says of a regular file's content."""
    if "sparse" not in row:
        return row["content"]
    out, at = bytearray(row["size"]), 0
    for begin, n in row["sparse"]:
        out[begin : begin + n] = row["content"][at : at + n]
        at += n
    return bytes(out)


class Pipe(io.RawIOBase):
    """A stream that cannot seek and gives odd pieces."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def readable(self):
        return True

    def readinto(self, buffer):
        n = min(len(buffer), 60_001, len(self.data) - self.at)
        buffer[:n] = self.data[self.at : self.at + n]
        self.at += n
        return n


@pytest.fixture(params=["path", "file", "buffer", "bytesio", "pipe"])
def source(request, scratch):
    """Give ``source(data)`` of every kind."""
    opened = []

    def make(data: bytes):
        path = scratch / f"blob{len(opened)}"
        path.write_bytes(data)
        opened.append(path.open("rb"))
        kinds = {"path": path, "file": opened[-1], "buffer": memoryview(bytearray(data)), "bytesio": io.BytesIO(data)}
        return Pipe(data) if request.param == "pipe" else kinds[request.param]

    yield make
    for file_ in opened:
        file_.close()


@pytest.mark.parametrize("digests", [True, False])
@pytest.mark.parametrize("codec", CODECS)
def test_entries_and_content_in_one_pass(source, codec, digests):
    blob = BLOBS[codec]
    with lamella.read_layer(source(blob), digests=digests) as reader:
        assert reader.codec == codec
        assert (reader.digest, reader.diff_id, reader.compressed_size, reader.uncompressed_size) == (None,) * 4
        seen = []
        for entry in reader:
            seen.append(entry)
            if entry.type is EntryType.FILE:
                assert reader.read(entry) == whole(CONTENT[entry.path])
        assert [e.path for e in seen] == list(CONTENT)
        assert (reader.compressed_size, reader.uncompressed_size) == (len(blob), len(LAYER))
        expected = [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in (blob, LAYER)] if digests else [None] * 2
        assert [reader.digest, reader.diff_id] == expected
    assert [e.path for e in seen] == list(CONTENT)  # entries outlive the reader
    assert reader.uncompressed_size == len(LAYER)


@pytest.mark.parametrize("digests", [True, False])
@pytest.mark.parametrize("codec", CODECS)
def test_a_table(source, codec, digests):
    with lamella.read_layer(source(BLOBS[codec]), digests=digests) as reader:
        table = reader.table()
        assert rows_of(table) == rows_of(scanned(LAYER))
        assert reader.table() is table
        assert [e.path for e in reader] == list(CONTENT)
        assert reader.uncompressed_size == len(LAYER)
        assert (reader.diff_id is None) != digests
    assert table.order == "archive"


@pytest.mark.parametrize("digests", [True, False])
def test_content_at_any_time_where_the_source_can_seek(scratch, digests):
    path = scratch / "layer.tar"
    path.write_bytes(LAYER)
    for source in (path, LAYER, memoryview(LAYER), path.open("rb")):
        with lamella.read_layer(source, digests=digests) as reader:
            table = reader.table()
            for entry in reversed(list(table)):
                if entry.type is EntryType.FILE:
                    assert reader.read(entry) == reader.read(entry) == whole(CONTENT[entry.path])
        if hasattr(source, "close"):
            source.close()


@pytest.mark.parametrize("source", [lambda: gzip.compress(LAYER), lambda: Pipe(LAYER)], ids=["gzip", "pipe"])
def test_content_that_passed_by_is_an_error_on_a_stream(source):
    with lamella.read_layer(source()) as reader:
        table = reader.table()
        with pytest.raises(ValueError, match="passed by"):
            reader.read(table[table.find(b"d/small")])
    with lamella.read_layer(source()) as reader:
        entries = {}
        for entry in reader:
            entries[entry.path] = entry
            if entry.path == b"last":
                with pytest.raises(ValueError, match="passed by"):
                    reader.read(entries[b"d/small"])
                assert reader.read(entry) == b"l" * 700_000


def test_what_has_no_content_has_none():
    with lamella.read_layer(LAYER) as reader:
        for entry in reader:
            if entry.type is not EntryType.FILE:
                with pytest.raises(ValueError, match="no content"):
                    reader.read(entry)


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_content_as_a_file(codec):
    with lamella.read_layer(BLOBS[codec]) as reader:
        for entry in reader:
            if entry.type is EntryType.FILE:
                with reader.open(entry) as content:
                    assert (content.readable(), content.seekable(), content.writable()) == (True, False, False)
                    expected = whole(CONTENT[entry.path])
                    assert content.read(7) == expected[:7]
                    assert content.read() == expected[7:]
                    assert content.read(1) == b""


def test_a_file_may_be_left_in_the_middle():
    with lamella.read_layer(BLOBS["gzip"]) as reader:
        names = []
        for entry in reader:
            names.append(entry.path)
            if entry.type is EntryType.FILE:
                with reader.open(entry) as content:
                    content.read(100)
        assert names == list(CONTENT)
        assert reader.diff_id is not None


def test_chunks_are_small():
    with lamella.read_layer(BLOBS["gzip"]) as reader:
        for entry in reader:
            if entry.path == b"d/big":
                lengths = [len(chunk) for chunk in reader.chunks(entry)]
                assert sum(lengths) == len(BIG)
                assert max(lengths) <= 1 << 19


@pytest.mark.parametrize("digests", [True, False])
def test_a_huge_hole_costs_nothing(digests):
    size = 1 << 42
    data = layer_tar([SPELLINGS["1.0"]("s", [(size - 5, b"end")], size), file("f", b"f")])
    with lamella.read_layer(data, digests=digests) as reader:
        entry = next(reader)
        assert entry.size == size
        chunks = reader.chunks(entry)
        assert not any(map(any, (next(chunks) for _ in range(10))))
        with pytest.raises(LimitExceededError) as caught:
            reader.read(entry)
        assert (caught.value.limit, caught.value.entry) == ("total_bytes", b"s")
        assert reader.read(next(reader)) == b"f"


def test_a_table_comes_first():
    with lamella.read_layer(LAYER) as reader:
        next(reader)
        with pytest.raises(ValueError, match="first"):
            reader.table()


def test_entries_stay_valid_while_reading_goes_on():
    data = layer_tar([file(f"{i:06}", b"", uname=f"u{i}", pax={"comment": "c" * (i % 300)}) for i in range(6_000)])
    for digests in (True, False):
        with lamella.read_layer(gzip.compress(data, 1), digests=digests) as reader:
            entries = list(reader)
        assert [e.path for e in entries] == [b"%06d" % i for i in range(6_000)]
        assert [len(e.pax.get(b"comment", b"")) for e in entries] == [i % 300 for i in range(6_000)]


def test_a_file_is_listed_in_blocks(scratch):
    path = scratch / "layer.tar"
    path.write_bytes(layer_tar([file(f"{i:06}", b"x" * (i % 3)) for i in range(10_000)]))
    with lamella.read_layer(path, digests=False) as reader:
        blocks = {id(e._table): len(e._table) for e in [*reader]}
        assert sorted(blocks.values()) == [10_000 - 2 * 4096, 4096, 4096]
        assert reader.uncompressed_size == reader.compressed_size == path.stat().st_size


def test_headers_of_a_file_are_read_without_its_payload(scratch):
    path = scratch / "layer.tar"
    with path.open("wb") as out:
        out.write(layer_tar([file("a", size=1 << 32)], style="gnu", end=b""))
        out.seek(1 << 32, os.SEEK_CUR)
        out.write(layer_tar([file("b", b"1")]))
    script = (
        "import sys, lamella\n"
        "with lamella.read_layer(sys.argv[1], digests=False) as r: names = [e.name for e in r]\n"
        "print(*names, [l.split()[1] for l in open('/proc/self/io') if l.startswith('rchar')][0])"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert done.stdout.split()[:2] == ["a", "b"]
    assert int(done.stdout.split()[2]) < 64 << 20  # the interpreter's modules


def test_memory_does_not_follow_the_bytes(scratch):
    path = scratch / "layer.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as out:
        out.write(layer_tar([file("a", size=200 << 20)], end=b""))
        for _ in range(200):
            out.write(bytes(1 << 20))
        out.write(layer_tar([file("b", b"1")]))
    script = (
        "import sys, lamella\n"
        "with lamella.read_layer(sys.argv[1]) as r: n = sum(len(c) for e in r for c in r.chunks(e))\n"
        "print(n, [line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')][0])"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    n, rss_kib = map(int, done.stdout.split())
    assert n == (200 << 20) + 1
    assert rss_kib < 120 << 10


@pytest.mark.slow
def test_an_entry_costs_160_bytes(scratch):
    """Rows of a real tree, its names in the arena, and the index."""
    parts.requires("tar")
    path = scratch / "doc.tar"
    subprocess.run(["tar", "-cf", path, "-C", "/usr", "share/doc", "lib/python3"], stderr=subprocess.DEVNULL, check=False)
    with lamella.read_layer(path, digests=False) as reader:
        table = reader.table()
    assert table.find(b"share/doc") >= 0
    nbytes = sum(c.nbytes for c in table.columns if c is not None) + table._slots.nbytes
    assert nbytes / len(table) <= 160


def test_progress_is_told():
    for source, digests in ((LAYER, True), (BLOBS["gzip"], False)):
        told = []
        with lamella.read_layer(source, digests=digests, progress=told.append) as reader:
            reader.table()
        assert {p.unit for p in told} == {"bytes"}
        assert [p.done for p in told] == sorted(p.done for p in told)
        assert (told[-1].done, told[-1].total) == (len(source), len(source))


# -- errors -----------------------------------------------------------------------------------------------------------


def test_expected_digests():
    good = {"expected_digest": "sha256:" + hashlib.sha256(BLOBS["gzip"]).hexdigest()}
    good["expected_diff_id"] = "sha256:" + hashlib.sha256(LAYER).hexdigest()
    with lamella.read_layer(BLOBS["gzip"], **good) as reader:
        assert len(reader.table()) == len(CONTENT)
    for name, value in good.items():
        wrong = {**good, name: value[:-1] + ("0" if value[-1] != "0" else "1")}
        with lamella.read_layer(BLOBS["gzip"], **wrong) as reader, pytest.raises(DigestMismatchError):
            reader.table()


def test_a_media_type_that_is_not_the_bytes():
    with pytest.raises(CodecError):
        lamella.read_layer(BLOBS["gzip"], media_type="application/vnd.oci.image.layer.v1.tar+zstd")


def test_what_cannot_be_opened(scratch):
    with pytest.raises(FileNotFoundError):
        lamella.read_layer(scratch / "absent")
    with pytest.raises(TypeError):
        lamella.read_layer(5)
    with pytest.raises(ValueError, match="digest"):
        lamella.read_layer(LAYER, digests=False, expected_diff_id="sha256:" + "0" * 64)


@pytest.mark.parametrize("digests", [True, False])
@pytest.mark.parametrize("keep", [100, 512 + 100, 5000, len(LAYER) // 2])
def test_a_short_layer(source, keep, digests):
    with lamella.read_layer(source(LAYER[:keep]), digests=digests) as reader, pytest.raises(TruncatedError) as caught:
        list(reader)
    assert caught.value.offset is not None


@pytest.mark.parametrize("digests", [True, False])
def test_a_broken_header(source, digests):
    data = layer_tar([file("a", b"1"), file("b", header={"chksum": b"1"}), file("c")])
    with lamella.read_layer(source(data), digests=digests) as reader, pytest.raises(TarFormatError) as caught:
        reader.table()
    assert caught.value.offset == 1024


def test_junk_is_no_layer():
    for junk in (b"junk" * 300, b"x"):
        with lamella.read_layer(junk) as reader, pytest.raises((TarFormatError, TruncatedError)):
            reader.table()


def test_a_payload_cut_while_it_is_read():
    data = gzip.compress(LAYER[: LAYER.index(BIG[:64]) + (1 << 20)])
    with lamella.read_layer(data) as reader:
        for entry in reader:
            if entry.path == b"d/big":
                with pytest.raises(TruncatedError):
                    reader.read(entry)
                break


@pytest.mark.parametrize("digests", [True, False])
def test_limits(source, digests):
    for limits, name in ((Limits(entries=3), "entries"), (Limits(total_bytes=1 << 20), "total_bytes")):
        with (
            lamella.read_layer(source(LAYER), digests=digests, limits=limits) as reader,
            pytest.raises(LimitExceededError) as caught,
        ):
            reader.table()
        assert caught.value.limit == name


@pytest.mark.parametrize("data", [b"", bytes(512), bytes(1024)])
@pytest.mark.parametrize("digests", [True, False])
def test_an_empty_layer(source, data, digests):
    with lamella.read_layer(source(data), digests=digests) as reader:
        assert list(reader) == []
        assert reader.uncompressed_size == len(data)


def test_a_closed_reader_gives_nothing_more(scratch):
    path = scratch / "layer.tar"
    path.write_bytes(LAYER)
    with lamella.read_layer(path) as reader:
        entry = next(reader)
    assert entry.path == b"d"
    reader.close()
    assert reader.diff_id is None
    with open(path, "rb") as file_:
        with lamella.read_layer(file_) as reader:
            next(reader)
        assert not file_.closed


def test_a_foreign_entry_is_refused():
    other = layer_tar([file("f", b"x" * 100, size=1 << 30)], style="gnu", end=b"")
    entry = scanned([layer_tar([file("pad", b"p" * 3000)], end=b""), other[:512]] + [bytes(1 << 20)] * 1024)[1]
    with lamella.read_layer(layer_tar([file("f", b"1")])) as reader:
        reader.table()
        with pytest.raises(ValueError, match="not of this layer"):
            reader.read(entry)


@pytest.mark.parametrize("name", CORPUS)
def test_the_corpus(name, scratch):
    data = CORPUS[name]
    path = scratch / "f"
    path.write_bytes(data)
    for source in (data, path, gzip.compress(data)):
        with LayerReader(source) as reader:
            for entry, expected in zip(reader, parse(data), strict=True):
                if entry.type is EntryType.FILE and entry.size < 1 << 30:
                    assert reader.read(entry) == whole(expected)


@settings(max_examples=20)
@given(
    st.lists(st.tuples(st.integers(0, 3000), st.binary(max_size=900)), max_size=8),
    st.integers(0, 200_000),
    st.integers(1, 5000),
)
def test_expanded(gaps, tail, step):
    regions, data, content = [], b"", b""
    for gap, piece in gaps:
        content += bytes(gap)
        regions.append([len(content), len(piece)])
        data += piece
        content += piece
    content += bytes(tail)

    def packed(at: int, n: int):
        view = memoryview(data)[at : at + n]
        return iter([view[i : i + step] for i in range(0, n, step)])

    assert b"".join(expanded(regions, len(content), packed)) == content
    with PayloadFile.open(expanded(regions, len(content), packed)) as file_:
        assert file_.read() == content
