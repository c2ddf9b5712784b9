"""A part of an open file as a source."""

from __future__ import annotations

import os
import threading

import pytest

from lamella.stream.blob import BlobReader
from lamella.stream.region import HeldFile, RegionSource
from lamella.stream.source import open_source

DATA = bytes(range(256)) * 4096


@pytest.fixture
def file(scratch):
    (scratch / "file").write_bytes(DATA)
    return HeldFile.open(scratch / "file")


def read(source, nbytes=1 << 16):
    buffer = memoryview(bytearray(nbytes))
    out = b""
    while n_read := source.readinto(buffer):
        out += buffer[:n_read]
    return out


@pytest.mark.parametrize(("begin", "size"), [(0, len(DATA)), (0, 10), (7, 1000), (len(DATA) - 3, 3), (500, 0)])
def test_a_region_holds_its_bytes_and_no_others(file, begin, size):
    with RegionSource(file, begin, size, "name") as source:
        assert read(source) == DATA[begin : begin + size]
        assert read(source) == b""
        source.rewind()
        assert read(source, 3) == DATA[begin : begin + size]
        assert (source.size, source.seekable, source.name, source.buffer) == (size, True, "name", None)
        assert open_source(source) is source
        assert (source.fileno() is not None) == (size == len(DATA))


def test_a_file_that_ends_too_early_gives_fewer_bytes(file):
    with RegionSource(file, len(DATA) - 5, 100, "name") as source:
        assert read(source) == DATA[-5:]


def test_regions_are_read_at_the_same_time(file):
    found = {}

    def one(begin):
        with BlobReader(RegionSource(file, begin, 300_000, "name"), digests=False) as reader:
            found[begin] = b"".join(bytes(chunk) for chunk in reader)

    threads = [threading.Thread(target=one, args=(begin,)) for begin in range(0, 700_000, 100_000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {begin: DATA[begin : begin + 300_000] for begin in range(0, 700_000, 100_000)}


def test_the_last_region_closes_the_file(scratch):
    (scratch / "file").write_bytes(DATA)
    file = HeldFile.open(scratch / "file")
    fd = file.fd
    one, two = (RegionSource(file, 0, 10, "name") for _ in range(2))
    assert not os.get_inheritable(fd)
    del file
    one.close()
    one.close()
    assert read(two) == DATA[:10]
    two.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    with pytest.raises(ValueError, match="closed"):
        two.readinto(memoryview(bytearray(1)))


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_only_regular_files_are_held(scratch, kind):
    path = scratch / kind
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="not a regular file"):
        HeldFile.open(path)
    assert set(os.listdir("/proc/self/fd")) == before
