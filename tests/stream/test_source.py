"""Paths, file objects and buffers behind one interface; bytes are content, never a path."""

from __future__ import annotations

import array
import gzip
import io
import mmap
import os
import pathlib
import threading

import pytest

from lamella.stream.source import open_source

CONTENT = bytes(range(256)) * 40


def read_all(source, nbytes=1000):
    out = bytearray()
    piece = bytearray(nbytes)
    while got := source.readinto(memoryview(piece)):
        out += piece[:got]
    return bytes(out)


def of_path(folder):
    (folder / "blob").write_bytes(CONTENT)
    return str(folder / "blob")


def of_pathlike(folder):
    return pathlib.Path(of_path(folder))


def of_file(folder):
    return open(of_path(folder), "rb")


def of_raw_file(folder):
    return open(of_path(folder), "rb", buffering=0)


def of_mmap(folder):
    with open(of_path(folder), "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


SOURCES = {
    "path": of_path,
    "pathlike": of_pathlike,
    "file": of_file,
    "raw file": of_raw_file,
    "mmap": of_mmap,
    "bytes": lambda folder: CONTENT,
    "bytearray": lambda folder: bytearray(CONTENT),
    "memoryview": lambda folder: memoryview(CONTENT),
    "wide items": lambda folder: array.array("I", CONTENT),
    "BytesIO": lambda folder: io.BytesIO(CONTENT),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_reads_twice_and_knows_its_size(kind, scratch):
    given = SOURCES[kind](scratch)
    with open_source(given) as source:
        assert source.size == len(CONTENT)
        assert source.seekable
        assert read_all(source) == CONTENT
        assert source.readinto(memoryview(bytearray(5))) == 0
        source.rewind()
        assert read_all(source, 7) == CONTENT
        assert source.name
    if hasattr(given, "close"):
        assert not given.closed, "what the caller opened stays open"
        given.close()


@pytest.mark.parametrize("kind", SOURCES)
def test_the_descriptor_is_given_only_where_its_bytes_are_the_sources(kind, scratch):
    given = SOURCES[kind](scratch)
    with open_source(given) as source:
        fd = source.fileno()
        assert (fd is not None) == (kind in {"path", "pathlike", "file", "raw file"})
        if fd is not None:
            assert os.pread(fd, 100, 5) == CONTENT[5:105]
    if hasattr(given, "close"):
        given.close()


def test_buffers_are_lent_without_a_copy():
    content = bytearray(CONTENT)
    with open_source(content) as source:
        content[3] = 200
        assert source.buffer[3] == 200


def test_a_file_object_is_read_from_where_it_stands(scratch):
    with of_file(scratch) as file:
        file.seek(100)
        with open_source(file) as source:
            assert source.size == len(CONTENT) - 100
            assert source.fileno() is None
            assert read_all(source) == CONTENT[100:]
            source.rewind()
            assert read_all(source) == CONTENT[100:]


def test_a_decompressing_file_object_does_not_give_its_descriptor(scratch):
    with gzip.open(scratch / "x.gz", "wb") as file:
        file.write(CONTENT)
    with gzip.open(scratch / "x.gz") as file, open_source(file) as source:
        assert source.fileno() is None
        assert read_all(source) == CONTENT


def test_a_pipe_as_file_object():
    reading, writing = os.pipe()
    with open(reading, "rb") as file:
        writer = threading.Thread(target=lambda: (os.write(writing, CONTENT), os.close(writing)))
        writer.start()
        with open_source(file) as source:
            assert (source.size, source.seekable, source.fileno()) == (None, False, None)
            assert read_all(source) == CONTENT
            with pytest.raises(io.UnsupportedOperation):
                source.rewind()
        writer.join()


def test_an_object_that_can_only_read():
    class Reader:
        def __init__(self):
            self.file = io.BytesIO(CONTENT)

        def read(self, nbytes):
            return self.file.read(min(nbytes, 33))

    with open_source(Reader()) as source:
        assert source.size is None
        assert read_all(source) == CONTENT


def test_a_source_is_passed_through():
    with open_source(CONTENT) as source:
        assert open_source(source) is source


def test_bytes_are_never_a_path(scratch):
    path = os.fsencode(of_path(scratch))
    with open_source(path) as source:
        assert read_all(source) == path


def test_paths_that_are_no_files(scratch):
    with pytest.raises(FileNotFoundError):
        open_source(scratch / "absent")
    with pytest.raises(IsADirectoryError) as caught:
        open_source(scratch)
    assert caught.value.filename == str(scratch)
    os.mkfifo(scratch / "fifo")
    with pytest.raises(OSError, match="Not a regular file") as caught:
        open_source(scratch / "fifo")
    assert caught.value.filename == str(scratch / "fifo")
    with pytest.raises(OSError, match="Not a regular file"):
        open_source("/dev/null")


@pytest.mark.parametrize("wrong", [None, 3, object(), io.StringIO("text"), ["list"]])
def test_what_is_no_source(wrong):
    with pytest.raises(TypeError):
        open_source(wrong)


def test_a_text_reader_and_a_file_that_would_block():
    class Text:
        def read(self, nbytes):
            return "text"

    class Blocking:
        def readinto(self, view):
            return None

    with pytest.raises(TypeError, match="not a binary file object"):
        read_all(open_source(Text()))
    with pytest.raises(BlockingIOError):
        read_all(open_source(Blocking()))
