"""Digests in one pass, and the reader that verifies by itself."""

from __future__ import annotations

import hashlib
import io
import itertools

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from lamella.errors import DigestMismatchError, FormatError
from lamella.model import Digest
from lamella.stream.digest import ALGORITHMS, MultiDigest, VerifiedReader

CONTENT = b"layer" * 5000
DIGEST = Digest.of(CONTENT)


@given(st.binary(max_size=300), st.lists(st.integers(0, 300)))
def test_every_algorithm_in_one_pass_however_cut(data, cuts):
    made = MultiDigest(ALGORITHMS)
    ends = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    for begin, end in itertools.pairwise(ends):
        made.update(memoryview(data)[begin:end])
    assert made.digests() == {
        "sha256": hashlib.sha256(data).hexdigest(),
        "sha384": hashlib.sha384(data).hexdigest(),
        "sha512": hashlib.sha512(data).hexdigest(),
        "xxh3_64": xxhash.xxh3_64_hexdigest(data),
        "xxh3_128": xxhash.xxh3_128_hexdigest(data),
    }
    assert made.nbytes == len(data)
    assert made.digest() == Digest.of(data)
    assert made.digest("sha512").algorithm == "sha512"


def test_unknown_algorithms():
    with pytest.raises(ValueError, match="md5"):
        MultiDigest(("md5",))
    with pytest.raises(FormatError):
        VerifiedReader(io.BytesIO(), "sha256:abc")


class Dripping(io.RawIOBase):
    """Gives a few bytes at a time and counts them."""

    def __init__(self, content, step=999):
        self.file = io.BytesIO(content)
        self.step = step
        self.given = 0

    def readinto(self, view):
        got = self.file.readinto(memoryview(view)[: self.step])
        self.given += got
        return got


@pytest.mark.parametrize("expected", [{}, {"expected_digest": DIGEST}, {"expected_size": len(CONTENT)},
                                      {"expected_digest": DIGEST, "expected_size": len(CONTENT)}])  # fmt: skip
def test_what_is_right_is_read_whole(expected):
    assert VerifiedReader(Dripping(CONTENT), **expected).read() == CONTENT
    assert io.BufferedReader(VerifiedReader(io.BytesIO(CONTENT), **expected)).read() == CONTENT
    reader = VerifiedReader(Dripping(CONTENT), **expected)
    assert b"".join(iter(lambda: reader.read(700), b"")) == CONTENT
    assert reader.read(1) == b""


def test_wrong_digest():
    wrong = Digest.of(b"other")
    with pytest.raises(DigestMismatchError) as caught:
        VerifiedReader(Dripping(CONTENT), wrong).read()
    assert (caught.value.expected, caught.value.actual) == (wrong, DIGEST)


def test_the_last_bytes_are_not_given_out_unverified():
    reader = VerifiedReader(io.BytesIO(CONTENT), Digest.of(b"other"), len(CONTENT))
    with pytest.raises(DigestMismatchError):
        reader.read(len(CONTENT))


def test_too_few_bytes():
    with pytest.raises(DigestMismatchError) as caught:
        VerifiedReader(Dripping(CONTENT), DIGEST, len(CONTENT) + 7).read()
    assert (caught.value.expected, caught.value.actual) == (len(CONTENT) + 7, len(CONTENT))


@pytest.mark.parametrize("size", [0, 1, 999, 1000])
def test_too_many_bytes_stop_the_reading(size):
    file = Dripping(CONTENT)
    with pytest.raises(DigestMismatchError) as caught:
        VerifiedReader(file, None, size).read()
    assert caught.value.expected == size
    assert caught.value.actual > size
    assert file.given <= size + 999


def test_an_object_that_can_only_read():
    class Reader:
        file = io.BytesIO(CONTENT)

        def read(self, nbytes):
            return self.file.read(nbytes)

    assert VerifiedReader(Reader(), DIGEST, len(CONTENT)).read() == CONTENT


def test_empty():
    assert VerifiedReader(io.BytesIO(), Digest.of(b""), 0).read() == b""
    assert VerifiedReader(io.BytesIO()).readable()
