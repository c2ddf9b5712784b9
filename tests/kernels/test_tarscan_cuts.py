"""tarscan's result depends on the bytes alone, not on cuts nor on room; every early end and every flipped byte is noticed."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella.errors import TruncatedError
from lamella.testing.strategies import layers
from lamella.testing.tars import BLOCK, file, layer_tar
from tests.kernels.scanning import outcome, scanned
from tests.kernels.tarcorpus import CORPUS, broken, cuts
from tests.reference.tar import Bad, parse

NAMES = st.sampled_from(sorted(CORPUS))


@pytest.mark.parametrize("name", CORPUS)
def test_byte_by_byte(name):
    data = CORPUS[name]
    assert outcome(data[i : i + 1] for i in range(len(data))) == outcome(data)


@pytest.mark.parametrize("name", CORPUS)
def test_every_cut_in_two(name):
    data = CORPUS[name]
    whole = outcome(data)
    near = {at + i for at in range(0, len(data), BLOCK) for i in (-1, 0, 1, 257)}
    for at in sorted(near | set(range(0, len(data), 1 if len(data) < 4000 else 37))):
        if 0 <= at <= len(data):
            assert outcome([data[:at], data[at:]]) == whole


@given(NAMES, st.data())
def test_any_cuts_and_any_room(name, data):
    archive = CORPUS[name]
    at = sorted(data.draw(st.lists(st.integers(0, len(archive)), max_size=20)))
    pieces = [archive[i:j] for i, j in zip([0, *at], [*at, len(archive)], strict=True)]
    rows, arena = data.draw(st.integers(0, 9)), data.draw(st.integers(0, 300))
    assert outcome(pieces, rows=rows, arena=arena) == outcome(archive, rows=1000, arena=1 << 20)


@given(layers(hostile=True), st.sampled_from(["pax", "gnu"]), st.integers(0, 2**32))
def test_random_layers(members, style, seed):
    data = layer_tar(members, style=style)
    whole = outcome(data)
    assert outcome(cuts(data, random.Random(seed))) == whole
    try:
        expected = [{k: v for k, v in e.items() if k != "content"} for e in parse(data)]
    except Bad as bad:
        assert bad.kind in (whole[0], whole[2])
    else:
        assert whole == expected


@pytest.mark.parametrize("seed", range(300))
def test_broken_archives(seed):
    rng = random.Random(seed)
    data = broken(CORPUS[rng.choice(sorted(CORPUS))], rng)
    assert outcome(cuts(data, rng)) == outcome(data)


@pytest.mark.parametrize("name", CORPUS)
def test_every_end(name):
    """An archive may end at its end marker, or where a header would begin; anywhere else it is cut short."""
    data = CORPUS[name]
    near = {at + i for at in range(0, len(data), BLOCK) for i in (-511, -1, 0, 1, 100)}
    for end in sorted(near | set(range(0, len(data), 101))):
        if not 0 <= end < len(data):
            continue
        try:
            expected = [{k: v for k, v in e.items() if k != "content"} for e in parse(data[:end])]
        except Bad as bad:
            assert bad.kind == "TruncatedError"
            with pytest.raises(TruncatedError):
                scanned(data[:end])
        else:
            assert outcome(data[:end]) == expected


def test_padding_may_not_be_missing():
    """GNU tar, bsdtar and tarfile refuse it too."""
    data = layer_tar([file("a", b"1" * 10)], end=b"")
    for end in range(513, 1024):
        with pytest.raises(TruncatedError):
            scanned(data[:end])
    assert len(scanned(data)) == 1


@pytest.mark.parametrize("mask", [1, 0x80])
def test_every_flipped_byte_of_a_header(mask):
    good = layer_tar([file("before"), file("name", b"", uname="user")])
    for i in range(BLOCK, 2 * BLOCK):
        bad = bytearray(good)
        bad[i] ^= mask
        said = outcome(bytes(bad))
        if 148 + BLOCK <= i < 156 + BLOCK and isinstance(said, list):
            assert said == outcome(good)  # a leading zero became a space, or the end's space a NUL
        else:
            assert said[:2] == ("TarFormatError", BLOCK)
