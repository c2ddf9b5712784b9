"""Raw bytes written as a blob: results, determinism, staging, failures, threads."""

from __future__ import annotations

import errno
import gc
import io
import os
import stat
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella.model import DiffID, Digest
from lamella.stream.blob import BlobReader, BlobWriter
from lamella.stream.codec import ENCODINGS, encoder, media_type_of
from lamella.stream.encode import BLOCK_NBYTES
from tests.stream import blobs

RAW = b"r" + blobs.sample(5 * BLOCK_NBYTES + 4321)  # "r" begins no magic


def written(data=RAW, steps=(100_000,), **options):
    out = io.BytesIO()
    with BlobWriter(out, **options) as writer:
        begin = n = 0
        while begin < len(data):
            begin += writer.write(memoryview(data)[begin : begin + steps[n % len(steps)]])
            n += 1
        return out, writer.finish()


def write_to(out, data, compression):
    with BlobWriter(out, compression=compression) as writer:
        writer.write(data)
        return writer.finish()


@pytest.mark.parametrize("compression", ENCODINGS)
@pytest.mark.parametrize("nbytes", [0, 1, BLOCK_NBYTES - 1, BLOCK_NBYTES, BLOCK_NBYTES + 1, len(RAW)])
def test_what_is_written_is_read_back_with_the_same_digests(compression, nbytes):
    raw = RAW[:nbytes]
    out, result = written(raw, compression=compression)
    blob = out.getvalue()
    assert blobs.decompress(compression, blob) == raw
    assert (result.digest, result.size) == (Digest.of(blob), len(blob))
    assert (result.diff_id, result.uncompressed_size) == (DiffID.of(raw), nbytes)
    assert isinstance(result.diff_id, DiffID)
    assert result.media_type == media_type_of(compression)
    assert result.codec_name == encoder(compression).name
    with BlobReader(blob, media_type=result.media_type) as reader:
        reader.drain()
        assert (reader.digest, reader.diff_id) == (result.digest, result.diff_id)


@pytest.mark.parametrize("compression", ENCODINGS)
@given(
    steps=st.lists(st.integers(1, 2 * BLOCK_NBYTES), min_size=1, max_size=5).filter(lambda steps: max(steps) > 50_000),
    workers=st.integers(1, 4),
    ring_bytes=st.integers(1, 8 << 20),
)
def test_the_blob_depends_on_the_bytes_alone(compression, steps, workers, ring_bytes):
    out, result = written(steps=steps, compression=compression, workers=workers, ring_bytes=ring_bytes)
    made = encoder(compression)
    expected = made.compress(RAW) + made.flush()
    assert out.getvalue() == expected
    assert result.digest == Digest.of(expected)


def test_filling_the_buffers_in_place():
    out = io.BytesIO()
    with BlobWriter(out) as writer:
        begin = 0
        for n in range(10_000):
            room = writer.buffer()
            assert 0 < len(room) <= BLOCK_NBYTES
            piece = RAW[begin : begin + min(len(room), 1 + n * 777)]
            room[: len(piece)] = piece
            writer.commit(len(piece))
            begin += len(piece)
            if begin == len(RAW):
                break
        writer.commit(0)
        result = writer.finish()
    assert result.diff_id == DiffID.of(RAW)
    assert result.digest == Digest.of(out.getvalue())


def test_commits_that_do_not_fit():
    with BlobWriter(io.BytesIO()) as writer:
        with pytest.raises(ValueError, match="commit"):
            writer.commit(1)
        nbytes = len(writer.buffer())
        for wrong in (-1, nbytes + 1):
            with pytest.raises(ValueError, match="commit"):
                writer.commit(wrong)


def test_levels():
    sizes = {}
    for level in (0, 1, 3, 6, 9):
        _, result = written(compression="gzip", level=level)
        sizes[level] = result.size
        assert f"level {level}" in result.codec_name
    assert sizes[9] <= sizes[6] < sizes[0]
    assert written(compression="zstd", level=9)[1].size < written(compression="zstd", level=1)[1].size


@pytest.mark.parametrize("wrong", [{"compression": "xz"}, {"compression": "gzip", "level": 11},
                                   {"compression": "none", "level": 1}])  # fmt: skip
def test_wrong_options_touch_nothing(wrong, scratch):
    with pytest.raises(ValueError, match=r"compress|level"):
        BlobWriter(scratch / "out", **wrong)
    assert os.listdir(scratch) == []


@pytest.mark.parametrize("compression", ENCODINGS)
def test_without_digests(compression):
    out, result = written(compression=compression, digests=False)
    assert (result.digest, result.diff_id) == (None, None)
    assert (result.size, result.uncompressed_size) == (len(out.getvalue()), len(RAW))


# paths


@pytest.mark.parametrize("nbytes", [0, 1000, len(RAW)])
def test_a_path_appears_when_it_is_complete(nbytes, scratch):
    target = scratch / "layer.tar.gz"
    with BlobWriter(target) as writer:
        writer.write(RAW[:nbytes])
        (staged,) = os.listdir(scratch)
        assert staged.startswith(".layer.tar.gz.")
        assert staged.endswith(".tmp")
        result = writer.finish()
    assert os.listdir(scratch) == ["layer.tar.gz"]
    assert Digest.of(target.read_bytes()) == result.digest
    plain = scratch / "plain"
    plain.touch()
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode), "0666 under the umask"


def test_an_existing_file_is_replaced_only_at_the_end(scratch):
    target = scratch / "layer"
    target.write_bytes(b"old")
    (scratch / "link").symlink_to("layer")
    with BlobWriter(scratch / "link", compression="none") as writer:
        writer.write(b"new")
        assert target.read_bytes() == b"old"
        writer.finish()
    assert target.read_bytes() == b"new"
    assert (scratch / "link").is_symlink()


@pytest.mark.parametrize("nbytes", [0, 1000, len(RAW)])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_stays_after_an_exception(nbytes, error, scratch):
    (scratch / "layer").write_bytes(b"old")

    def fail():
        with BlobWriter(scratch / "layer") as writer:
            writer.write(RAW[:nbytes])
            raise error

    with pytest.raises(error):
        fail()
    assert os.listdir(scratch) == ["layer"]
    assert (scratch / "layer").read_bytes() == b"old"


def test_leaving_without_finish_is_an_abort(scratch):
    with BlobWriter(scratch / "layer") as writer:
        writer.write(RAW)
    assert os.listdir(scratch) == []
    for call in (writer.finish, writer.buffer, lambda: writer.write(b"x")):
        with pytest.raises(ValueError, match="finished"):
            call()
    writer.abort()


@pytest.mark.parametrize("nbytes", [0, len(RAW)])
def test_a_writer_that_is_dropped_takes_its_file_along(nbytes, scratch):
    writer = BlobWriter(scratch / "layer")
    writer.write(RAW[:nbytes])
    del writer
    gc.collect()
    deadline = time.monotonic() + 10
    while os.listdir(scratch) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert os.listdir(scratch) == []


def test_a_rename_that_fails_leaves_nothing(scratch):
    target = scratch / "layer"
    with BlobWriter(target) as writer:
        writer.write(b"abc")
        target.mkdir()
        with pytest.raises(IsADirectoryError):
            writer.finish()
    assert os.listdir(scratch) == ["layer"]


def test_paths_that_cannot_be_written(scratch):
    with pytest.raises(IsADirectoryError):
        BlobWriter(scratch)
    with pytest.raises(FileNotFoundError):
        BlobWriter(scratch / "absent" / "layer")
    with pytest.raises(TypeError):
        BlobWriter(b"bytes are no path")
    name = "n" * 255
    with BlobWriter(scratch / name) as writer:
        writer.finish()
    assert os.listdir(scratch) == [name]


def test_what_is_no_regular_file_is_written_in_place(scratch):
    with BlobWriter("/dev/null") as writer:
        writer.write(RAW)
        assert writer.finish().uncompressed_size == len(RAW)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    os.mkfifo(scratch / "fifo")
    got = []
    reader = threading.Thread(target=lambda: got.append((scratch / "fifo").read_bytes()))
    reader.start()
    with BlobWriter(scratch / "fifo", compression="none") as writer:
        writer.write(RAW)
        writer.finish()
    reader.join()
    assert got == [RAW]
    assert os.listdir(scratch) == ["fifo"]


# file objects that are difficult


class Short(io.RawIOBase):
    """Takes a little at a time."""

    def __init__(self, step):
        self.content = bytearray()
        self.step = step

    def writable(self):
        return True

    def write(self, data):
        self.content += data[: self.step]
        return min(len(data), self.step)


def test_short_writes_are_continued():
    out = Short(4097)
    with BlobWriter(out, compression="none") as writer:
        writer.write(RAW)
        writer.finish()
    assert out.content == RAW
    assert not out.closed


class Full:
    """A disk with room for so many bytes."""

    def __init__(self, room):
        self.room = room

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return len(data)


@pytest.mark.parametrize("compression", ENCODINGS)
@pytest.mark.parametrize("room", [0, 1_000_000])
@pytest.mark.parametrize("nbytes", [1000, len(RAW)])
def test_a_full_disk_is_told(compression, room, nbytes):
    if room > nbytes:
        return
    raw = os.urandom(1 << 20) * 12 if nbytes > 1000 else RAW[:nbytes]
    with pytest.raises(OSError, match="No space left"):
        write_to(Full(room), raw, compression)


def test_an_encoder_that_fails_is_told(monkeypatch):
    def broken(self, block):
        raise MemoryError("no room")

    monkeypatch.setattr("lamella.stream.encode.GzipEncoder.encode", broken)
    with pytest.raises(MemoryError, match="no room"):
        write_to(io.BytesIO(), RAW * 10, "gzip")


def test_a_file_that_would_block():
    class Blocking:
        def write(self, data):
            return None

    with BlobWriter(Blocking()) as writer, pytest.raises(BlockingIOError):
        writer.finish()


# threads and memory


def test_less_than_one_block_starts_no_thread(monkeypatch):
    def refuse(self):
        raise AssertionError("a thread was started")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    for compression in ENCODINGS:
        out, result = written(RAW[: BLOCK_NBYTES - 1], compression=compression)
        assert Digest.of(out.getvalue()) == result.digest


@pytest.mark.parametrize(("compression", "workers", "expected"), [("gzip", 3, 4), ("zstd", 3, 2), ("none", 3, 2)])
def test_as_many_threads_as_asked_for(compression, workers, expected):
    n_before = threading.active_count()
    with BlobWriter(io.BytesIO(), compression=compression, workers=workers) as writer:
        writer.write(RAW[:BLOCK_NBYTES])
        assert threading.active_count() - n_before == expected
        writer.finish()
        assert threading.active_count() == n_before


def test_the_ring_never_holds_more_than_its_credits():
    limit = 4 << 20
    gate = threading.Event()

    class Slow(io.BytesIO):
        def write(self, data):
            gate.wait(0.05)
            return super().write(data)

    out = Slow()
    with BlobWriter(out, compression="none", ring_bytes=limit) as writer:
        writer.write(RAW * 3)
        assert 0 < writer._ring.peak <= limit
        gate.set()
        writer.finish()
        assert writer._ring.peak <= limit
        assert len(writer._ring._pool) <= 4
    assert out.getvalue() == RAW * 3
