"""A blob read as raw chunks: digests, limits, failures, early stops, threads."""

from __future__ import annotations

import gc
import io
import mmap
import os
import subprocess
import sys
import threading
import time
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella.errors import (
    CodecError,
    DigestMismatchError,
    FormatError,
    LimitExceededError,
    TruncatedError,
    UnsupportedMediaType,
)
from lamella.model import DiffID, Digest, Limits
from lamella.stream.blob import BlobReader
from lamella.stream.codec import CODECS, SNIFF_NBYTES, media_type_of
from lamella.stream.source import open_source
from tests.stream import blobs

RAW = b"r" + blobs.sample(3_000_000)  # "r" begins no magic
BLOBS = {codec: blobs.compress(codec, RAW) for codec in CODECS}


def collect(reader, out):
    for chunk in reader:
        out += chunk


def read_all(reader):
    return b"".join(bytes(chunk) for chunk in reader)


class Pipe:
    """A file object without a size, a position or readinto; ``fail_at`` bytes it raises, ``gate`` holds it up."""

    name = "pipe"

    def __init__(self, content, step=70_000, fail_at=None, gate=None):
        self.file = io.BytesIO(content)
        self.step = step
        self.fail_at = fail_at
        self.gate = gate
        self.n_read = 0

    def read(self, nbytes):
        if self.gate is not None and self.n_read > SNIFF_NBYTES:
            self.gate.wait()
        if self.fail_at is not None and self.n_read >= self.fail_at:
            raise OSError("the cable is cut")
        data = self.file.read(min(nbytes, self.step))
        self.n_read += len(data)
        return data


def as_bytes(content, scratch):
    return content


def as_path(content, scratch):
    (scratch / "blob").write_bytes(content)
    return scratch / "blob"


def as_pipe(content, scratch):
    return Pipe(content)


def as_trickle(content, scratch):
    return Pipe(content, step=3) if len(content) < 10_000 else Pipe(content, step=999)


SOURCES = (as_bytes, as_path, as_pipe, as_trickle)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("make", SOURCES)
@pytest.mark.parametrize("nbytes", [1, 5000, len(RAW)])
def test_item_90_both_digests_of_every_codec_and_source(codec, make, nbytes, scratch):
    raw = RAW[:nbytes]
    blob = blobs.compress(codec, raw) if nbytes < len(RAW) else BLOBS[codec]
    with BlobReader(make(blob, scratch)) as reader:
        assert reader.codec == codec
        assert (reader.digest, reader.diff_id, reader.compressed_size, reader.uncompressed_size) == (None,) * 4
        out = bytearray()
        for chunk in reader:
            assert isinstance(chunk, memoryview)
            assert 0 < len(chunk) <= 1 << 19
            out += chunk
        assert out == raw
        assert reader.digest == Digest.of(blob)
        assert reader.diff_id == DiffID.of(raw)
        assert isinstance(reader.digest, Digest)
        assert isinstance(reader.diff_id, DiffID)
        assert (reader.compressed_size, reader.uncompressed_size) == (len(blob), nbytes)
        assert reader.bytes_in == len(blob)
        assert next(reader, None) is None
        assert reader.media_type == (None if reader.codec in {"xz", "bzip2"} else media_type_of(reader.codec))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("make", SOURCES)
def test_without_digests(codec, make, scratch):
    with BlobReader(make(BLOBS[codec], scratch), digests=False) as reader:
        assert read_all(reader) == RAW
        assert (reader.digest, reader.diff_id) == (None, None)
        assert reader.uncompressed_size == len(RAW)
    with pytest.raises(ValueError, match="digests"):
        BlobReader(BLOBS[codec], digests=False, expected_digest=Digest.of(BLOBS[codec]))


@given(
    steps=st.lists(st.integers(1, 200_000), min_size=1, max_size=4),
    codec=st.sampled_from(CODECS),
    ring_bytes=st.integers(1, 4 << 20),
)
def test_the_result_does_not_depend_on_reads_or_ring(steps, codec, ring_bytes):
    class Cut(Pipe):
        def read(self, nbytes):
            self.step = steps[self.n_read % len(steps)]
            return super().read(nbytes)

    with BlobReader(Cut(BLOBS[codec]), ring_bytes=ring_bytes) as reader:
        assert read_all(reader) == RAW
        assert (reader.digest, reader.diff_id) == (Digest.of(BLOBS[codec]), DiffID.of(RAW))


# item 40


@pytest.mark.parametrize("make", SOURCES)
@pytest.mark.parametrize("media_type", [None, *map(media_type_of, ("none", "gzip", "zstd"))])
def test_item_40_a_zero_byte_blob_is_an_empty_layer(make, media_type, scratch):
    with BlobReader(make(b"", scratch), media_type=media_type, expected_size=0) as reader:
        assert reader.codec == "none"
        assert list(reader) == []
        assert reader.digest == reader.diff_id == Digest.of(b"")
        assert (reader.compressed_size, reader.uncompressed_size) == (0, 0)


# item 80


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("n_chunks", [0, 1, 3])
def test_item_80_what_follows_an_early_stop_is_still_hashed(codec, n_chunks):
    with BlobReader(BLOBS[codec]) as reader:
        for _ in range(n_chunks):
            next(reader)
        assert reader.digest is None
        reader.drain()
        assert (reader.digest, reader.diff_id) == (Digest.of(BLOBS[codec]), DiffID.of(RAW))


def test_item_80_junk_behind_the_archive_counts_for_the_digest():
    raw = bytes(1024) + b"junk behind the end"
    with BlobReader(raw) as reader:
        reader.drain()
        assert reader.diff_id == DiffID.of(raw)


# items 86 and 87


@pytest.mark.parametrize("make", SOURCES)
def test_item_86_members_and_trailing_zeros_are_in_the_digest(make, scratch):
    blob = blobs.compress("gzip", RAW[:1000]) + blobs.compress("gzip", RAW[1000:]) + bytes(777)
    with BlobReader(make(blob, scratch)) as reader:
        assert read_all(reader) == RAW
        assert (reader.digest, reader.compressed_size) == (Digest.of(blob), len(blob))


@pytest.mark.parametrize("make", SOURCES)
def test_item_87_skippable_frames_are_in_the_digest(make, scratch):
    blob = blobs.skippable(b"first") + BLOBS["zstd"] + blobs.skippable(bytes(500_000)) + BLOBS["zstd"]
    with BlobReader(make(blob, scratch)) as reader:
        assert reader.codec == "zstd"
        assert read_all(reader) == RAW * 2
        assert reader.digest == Digest.of(blob)


# item 88


def test_item_88_media_type_against_magic():
    for codec in ("none", "gzip", "zstd"):
        with BlobReader(BLOBS[codec], media_type=media_type_of(codec)) as reader:
            assert reader.media_type == media_type_of(codec)
        for other in {"none", "gzip", "zstd"} - {codec}:
            with pytest.raises(CodecError):
                BlobReader(BLOBS[codec], media_type=media_type_of(other))
    with pytest.raises(UnsupportedMediaType):
        BlobReader(BLOBS["gzip"], media_type="application/octet-stream")


def test_a_refused_media_type_closes_the_path(scratch):
    n_before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(CodecError):
        BlobReader(as_path(BLOBS["gzip"], scratch), media_type=media_type_of("zstd"))
    assert len(os.listdir("/proc/self/fd")) == n_before


# item 89


@pytest.mark.parametrize("codec", blobs.COMPRESSED)
def test_item_89_truncated_at_every_byte(codec):
    blob = blobs.compress(codec, RAW[:300])
    for end in range(1, len(blob)):
        with BlobReader(blob[:end]) as reader:
            with pytest.raises(TruncatedError) as caught:
                reader.drain()
            assert caught.value.offset == end
            assert reader.digest is None
            with pytest.raises(TruncatedError):
                next(reader)


@pytest.mark.parametrize("codec", blobs.COMPRESSED)
@pytest.mark.parametrize("make", SOURCES)
def test_item_89_truncated_on_threads_after_what_came_before(codec, make, scratch):
    with BlobReader(make(BLOBS[codec][:-3], scratch)) as reader:
        out = bytearray()
        with pytest.raises(TruncatedError):
            collect(reader, out)
        assert RAW.startswith(out)
        assert len(out) > len(RAW) // 2


# expected digests and sizes


@pytest.mark.parametrize("codec", ["none", "gzip"])
@pytest.mark.parametrize("nbytes", [2000, len(RAW)])
def test_expected_digests(codec, nbytes):
    raw = RAW[:nbytes]
    blob = blobs.compress(codec, raw)
    right = {"expected_digest": Digest.of(blob), "expected_diff_id": DiffID.of(raw), "expected_size": len(blob)}
    with BlobReader(blob, **right) as reader:
        assert read_all(reader) == raw
    wrong = Digest.of(b"something else")
    for name, actual in (("expected_digest", Digest.of(blob)), ("expected_diff_id", DiffID.of(raw))):
        with BlobReader(blob, **{**right, name: wrong}) as reader:
            with pytest.raises(DigestMismatchError) as caught:
                reader.drain()
            assert (caught.value.expected, caught.value.actual) == (wrong, actual)
            assert reader.digest is None


def test_expected_digests_of_another_algorithm():
    import hashlib

    sha512 = "sha512:" + hashlib.sha512(BLOBS["gzip"]).hexdigest()
    with BlobReader(BLOBS["gzip"], expected_digest=sha512, expected_diff_id=DiffID.of(RAW)) as reader:
        reader.drain()
        assert reader.digest == Digest.of(BLOBS["gzip"])
    with BlobReader(RAW, expected_diff_id="sha512:" + "0" * 128) as reader, pytest.raises(DigestMismatchError):
        reader.drain()
    with pytest.raises(ValueError, match="blake3"):
        BlobReader(RAW, expected_digest="blake3:" + "0" * 64)
    with pytest.raises(FormatError):
        BlobReader(RAW, expected_digest="sha256:xyz")


@pytest.mark.parametrize("codec", ["none", "gzip"])
def test_expected_size_stops_the_reading(codec):
    blob = BLOBS[codec]
    for size in (len(blob) - 1, len(blob) + 1, 0):
        with BlobReader(blob, expected_size=size) as reader:
            with pytest.raises(DigestMismatchError) as caught:
                reader.drain()
            assert caught.value.expected == size
    endless = Pipe(bytes(100 << 20))
    with BlobReader(endless, expected_size=1000) as reader, pytest.raises(DigestMismatchError):
        reader.drain()
    assert endless.n_read < 2 << 20


# limits


@pytest.mark.parametrize("codec", CODECS)
def test_total_bytes(codec):
    with BlobReader(BLOBS[codec], limits=Limits(total_bytes=len(RAW))) as reader:
        reader.drain()
    with BlobReader(BLOBS[codec], limits=Limits(total_bytes=len(RAW) - 1)) as reader:
        with pytest.raises(LimitExceededError) as caught:
            reader.drain()
        assert caught.value.limit == "total_bytes"
        assert caught.value.value > len(RAW) - 1


@pytest.mark.parametrize("small", [True, False])
def test_a_bomb_meets_the_ratio(small):
    bomb = blobs.zstd_zeros(4000)  # 16 kB for 500 MiB
    source = bomb if small else Pipe(bomb)
    with BlobReader(source) as reader:
        with pytest.raises(LimitExceededError) as caught:
            reader.drain()
        assert caught.value.limit == "ratio"
        assert caught.value.value >= 2000
    with BlobReader(blobs.zstd_zeros(512)) as reader:  # 64 MiB are free
        reader.drain()
        assert reader.uncompressed_size == 64 << 20
    with BlobReader(blobs.zstd_zeros(1000), limits=Limits(ratio=1 << 17)) as reader:
        reader.drain()
        assert reader.uncompressed_size == 1000 << 17


# corrupt and failing sources


@pytest.mark.parametrize("codec", blobs.COMPRESSED)
def test_corrupt_in_the_middle(codec):
    blob = bytearray(BLOBS[codec])
    blob[len(blob) // 2 : len(blob) // 2 + 50] = bytes(50)
    with BlobReader(blob) as reader:
        with pytest.raises(FormatError) as caught:
            reader.drain()
        assert 0 < caught.value.offset <= len(blob)


@pytest.mark.parametrize("codec", CODECS)
def test_a_read_error_arrives_behind_the_bytes_before_it(codec):
    with BlobReader(Pipe(BLOBS[codec], fail_at=len(BLOBS[codec]) // 2)) as reader:
        out = bytearray()
        with pytest.raises(OSError, match="the cable is cut"):
            collect(reader, out)
        assert RAW.startswith(out)


def test_a_failing_hash_reaches_the_consumer(monkeypatch):
    def broken(self, data):
        raise MemoryError("no room")

    monkeypatch.setattr("lamella.stream.digest.MultiDigest.update", broken)
    with BlobReader(BLOBS["gzip"]) as reader, pytest.raises(MemoryError, match="no room"):
        reader.drain()


# threads


def n_threads():
    return sum(thread.name.startswith("lamella-") for thread in threading.enumerate())


@pytest.mark.parametrize("codec", CODECS)
def test_small_blobs_start_no_thread(codec, monkeypatch):
    def refuse(self):
        raise AssertionError("a thread was started")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with BlobReader(blobs.compress(codec, RAW[:100_000])) as reader:
        assert read_all(reader) == RAW[:100_000]
        assert reader.diff_id == DiffID.of(RAW[:100_000])
    with BlobReader(RAW, digests=False) as reader:
        assert read_all(reader) == RAW


@pytest.mark.parametrize(("digests", "expected"), [(True, 2), (False, 1)])
def test_large_blobs_start_as_many_threads_as_they_need(digests, expected):
    gate = threading.Event()
    with BlobReader(Pipe(BLOBS["gzip"], gate=gate, step=100_000), digests=digests) as reader:
        assert n_threads() == 0, "before the first chunk is asked for"
        next(reader)
        assert n_threads() == expected
        gate.set()
        reader.drain()
        assert n_threads() == 0, "all is done before the end is told"


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("n_chunks", [0, 1, 2])
def test_leaving_early_leaves_no_thread(codec, n_chunks):
    with BlobReader(BLOBS[codec], ring_bytes=1) as reader:
        for _ in range(n_chunks):
            next(reader)
    assert n_threads() == 0
    with pytest.raises(ValueError, match="closed"):
        next(reader)
    reader.close()
    assert reader.digest is None


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, GeneratorExit])
def test_a_consumer_that_raises_leaves_no_thread(error):
    def consume():
        with BlobReader(BLOBS["gzip"]) as reader:
            for _ in reader:
                raise error

    with pytest.raises(error):
        consume()
    assert n_threads() == 0


INTERRUPTED = """
import faulthandler, os, random, signal, sys, threading, time
from lamella.stream.blob import BlobReader, BlobWriter

faulthandler.dump_traceback_later(100, exit=True)
signal.signal(signal.SIGALRM, signal.default_int_handler)
blob, folder = open(sys.argv[1], "rb").read(), sys.argv[2]
rng = random.Random(5)
n_interrupts = 0

def work(n):
    if n % 2:
        with BlobReader(blob, ring_bytes=rng.choice([1, 32 << 20])) as reader:
            reader.drain()
    else:
        with BlobWriter(f"{folder}/out", compression=rng.choice(["none", "gzip"])) as writer:
            writer.write(blob * 3)
            writer.finish()
    time.sleep(0.1)

for n in range(100):
    try:
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.0003, 0.012))
        work(n)
    except KeyboardInterrupt:
        n_interrupts += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    deadline = time.monotonic() + 20
    while threading.active_count() > 1 and time.monotonic() < deadline:
        time.sleep(0.001)
    if threading.active_count() > 1:
        sys.exit(f"threads left: {threading.enumerate()}")
    staged = [name for name in os.listdir(folder) if name.endswith(".tmp")]
    if staged:
        sys.exit(f"left behind: {staged}")
print(n_interrupts)
"""


def test_interrupts_at_any_moment_leave_no_thread_and_no_file(scratch):
    path = as_path(BLOBS["gzip"], scratch)
    (scratch / "out").mkdir()
    argv = [sys.executable, "-c", INTERRUPTED, path, scratch / "out"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("COV")}  # coverage's own lock stands no interrupt
    done = subprocess.run(argv, capture_output=True, text=True, timeout=110, check=False, env=env)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 80, "a few fall into a callback, whose exceptions Python reports and drops"


def test_a_reader_that_is_dropped_lets_its_threads_go():
    reader = BlobReader(BLOBS["none"], ring_bytes=1)
    next(reader)
    gone = weakref.ref(reader)
    del reader
    gc.collect()
    assert gone() is None
    deadline = time.monotonic() + 10
    while n_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert n_threads() == 0


# memory


def test_the_ring_never_holds_more_than_its_credits():
    limit = 3 << 20
    raw = blobs.sample(1 << 20) * 16
    for codec in ("none", "gzip", "zstd"):
        with BlobReader(Pipe(blobs.compress(codec, raw), step=1 << 20), ring_bytes=limit) as reader:
            next(reader)
            time.sleep(0.1)  # time to run ahead
            ring = reader._ring
            assert 0 < ring.used <= limit
            reader.drain()
            assert ring.peak <= limit
            assert ring.used == 0


def test_chunks_of_a_buffer_are_slices_of_it():
    content = bytearray(RAW)
    address = memoryview(content)
    with BlobReader(content) as reader:
        offset = 0
        for chunk in reader:
            assert chunk.obj is content
            assert chunk == address[offset : offset + len(chunk)]
            offset += len(chunk)
        del chunk
    address.release()
    content.append(0)  # nothing holds it any more


def test_a_mapping_can_be_closed_afterwards(scratch):
    with open(as_path(BLOBS["gzip"], scratch), "rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with BlobReader(mapping) as reader:
        next(reader)
    mapping.close()


def test_a_chunk_stays_what_it_is_until_the_next_is_asked_for():
    with BlobReader(Pipe(RAW), ring_bytes=1) as reader:
        offset = 0
        for chunk in reader:
            time.sleep(0.002)  # time to overwrite it, if anyone would
            assert bytes(chunk) == RAW[offset : offset + len(chunk)]
            offset += len(chunk)
    assert offset == len(RAW)


def test_an_open_source_is_not_closed(scratch):
    with open_source(as_path(BLOBS["gzip"], scratch)) as source:
        with BlobReader(source) as reader:
            assert read_all(reader) == RAW
        source.rewind()
        with BlobReader(source) as reader:
            assert read_all(reader) == RAW
