"""Synthetic layers: the same bytes for the same seed, read alike by every reader, as many entries as were asked for."""

from __future__ import annotations

import hashlib
import io
import tarfile

import pytest

import lamella
from lamella.bench import corpus as corpora
from lamella.bench.stacks import Synthetic, write_tar

LAYERS = [Synthetic(500, 2_000), Synthetic(500, 2_000, files_only=True), Synthetic(1, 10), Synthetic(40, 100, seed=7)]


def tar_of(layer):
    out = io.BytesIO()
    assert write_tar(layer, out) == len(out.getvalue())
    return out.getvalue()


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_the_same_bytes_each_time(layer):
    assert tar_of(layer) == tar_of(layer)


def test_and_in_every_process_and_version():
    digest = hashlib.sha256(tar_of(Synthetic(200, 1_000, seed=3))).hexdigest()
    assert digest == "998bef2b0056deaefed8b0b215b73c94fcbc8b49f2a520a09946591bec433841"


def test_another_seed_is_another_layer():
    assert tar_of(Synthetic(100, 500, seed=1)) != tar_of(Synthetic(100, 500, seed=2))


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_readers_see_what_was_asked_for(layer):
    data = tar_of(layer)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        theirs = [(m.name, m.size, m.mode, m.linkname, m.type) for m in tar]
    made = [(m.path.decode(), m.nbytes, m.mode, m.link.decode(), m.kind) for m in layer.members()]
    assert theirs == made
    assert len(made) == layer.n_entries
    assert len({name for name, *_ in made}) == layer.n_entries
    with lamella.read_layer(data) as reader:
        assert [entry.name for entry in reader] == [name for name, *_ in made]


def test_it_applies(scratch):
    layer = Synthetic(300, 500)
    assert lamella.apply(tar_of(layer), scratch / "root").entries == 300


def test_files_only_has_files_in_so_many_folders():
    kinds = [member.kind for member in Synthetic(100, 10, files_only=True, n_folders=4).members()]
    assert (kinds.count(b"5"), kinds.count(b"0")) == (4, 96)


@pytest.mark.requires("tar")
def test_a_corpus_is_one_layer_in_three_spellings(scratch):
    made = corpora.make_corpus(scratch, quick=True, layer=Synthetic(60, 300))
    assert made.n_entries == 60
    diff_ids = set()
    for blob in (made.tar, made.gzip, made.zstd):
        with lamella.read_layer(blob) as reader:
            assert len(reader.table()) == 60
            diff_ids.add(reader.diff_id)
    assert len(diff_ids) == 1
    with lamella.open_image(f"oci:{made.image}:bench") as image:
        assert {layer.diff_id for layer in image.layers} == diff_ids
    assert made.facts()["gzip"] == {"encoder": "zlib level 6", "bytes": made.gzip.stat().st_size}
