"""Edits give new images, which live on their own and are written by save alone."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import os

import pytest
import zstandard

from lamella import open_image
from lamella.errors import CodecError, DigestMismatchError, TarFormatError, TruncatedError
from tests.image.archives import BASE, UPPER, archive
from tests.image.layouts import LAYER, HandMade, sha256, tar_of
from tests.image.test_layout import DOCKER_CONFIG, DOCKER_LAYER, DOCKER_MANIFEST

TOP = tar_of({"top": b"on top"})
STEP = {"created": "2026-01-02T03:04:05Z", "created_by": "a test", "comment": "why", "author": "me"}


@pytest.fixture(params=["layout", "archive"])
def image(request, scratch):
    if request.param == "archive":
        opened = open_image(f"docker-archive:{archive(BASE, UPPER).write(scratch / 'source.tar')}")
    else:
        more = {"config": {"x-new": {"deep": [1, None]}, "history": [{}, {"empty_layer": True}, {}]}}
        made = HandMade(scratch / "source", tars=[BASE, UPPER], manifest={"annotations": {"a": "b"}}, **more)
        opened = open_image(made.write().reference)
    with opened:
        yield opened


@pytest.mark.parametrize("target", ["oci:{}/target:x", "docker-archive:{}/x.tar:x"])
def test_append(image, scratch, target):
    with image.append(gzip.compress(TOP), **STEP) as edited:
        assert list(edited.diff_ids) == [*image.diff_ids, sha256(TOP)]
        assert edited.chain_ids[:2] == image.chain_ids
        assert edited.layers[2].media_type == LAYER + "+gzip"
        assert edited.id != image.id
        assert edited.verify() == []
        with edited.layers[2].reader() as reader:
            assert list(reader.table().paths) == [b"top"]
        edited.save(target.format(scratch))
        with open_image(target.format(scratch)) as again:
            assert again.verify() == []
            assert again.id == edited.id
            assert again.config == edited.config


def test_everything_else_is_kept(image):
    before = json.dumps([image.config, image.manifest])
    with image.append(TOP, **STEP) as edited:
        for key in set(image.config) - {"rootfs", "history", "created"}:
            assert edited.config[key] == image.config[key]
        assert edited.config["created"] == STEP["created"]
        assert edited.manifest.get("annotations") == image.manifest.get("annotations")
        assert edited.manifest["layers"][:2] == image.manifest["layers"]
        if "history" in image.config:
            assert edited.config["history"] == [*image.config["history"], STEP]
            assert edited.history[-1].layer is edited.layers[-1]
        else:  # it has layers that no history speaks of
            assert "history" not in edited.config
    assert json.dumps([image.config, image.manifest]) == before


def test_an_image_without_layers_gets_a_history(scratch):
    made = HandMade(scratch / "source", tars=[]).write()
    with open_image(made.reference) as image, image.append(TOP, created_by="first") as edited:
        assert edited.config["history"] == [{"created_by": "first"}]
        assert edited.verify() == []


def test_the_same_edit_gives_the_same_image(image):
    assert image.append(TOP, **STEP).id == image.append(io.BytesIO(TOP), **STEP).id


COMPRESSIONS = [bytes, gzip.compress, zstandard.compress, lzma.compress, bz2.compress]


@pytest.mark.parametrize("compress", COMPRESSIONS, ids=["none", "gzip", "zstd", "xz", "bzip2"])
@pytest.mark.parametrize("form", ["path", "file", "stream", "bytes"])
def test_sources(image, scratch, compress, form):
    data = compress(TOP)
    path = scratch / "layer"
    path.write_bytes(data)

    class Stream(io.BytesIO):
        def seekable(self):
            return False

    with contextlib.ExitStack() as stack:
        source = {"path": path, "stream": Stream(data), "bytes": data}.get(form) or stack.enter_context(path.open("rb"))
        edited = image.append(source)
    with edited:
        assert edited.diff_ids[-1] == sha256(TOP)
        if compress not in (lzma.compress, bz2.compress):
            assert edited.layers[-1].digest == sha256(data)
        else:
            assert edited.layers[-1].media_type == LAYER + "+gzip"
        path.unlink()  # it was opened
        assert edited.verify() == []


def test_a_layer_changed_after_it_was_appended_is_noticed(image, scratch):
    path = scratch / "layer"
    path.write_bytes(TOP)
    with image.append(path) as edited:
        with path.open("r+b") as file:
            file.write(b"TOP")
        with pytest.raises(DigestMismatchError):
            edited.save(f"oci:{scratch}/target")


@pytest.mark.parametrize(
    ("data", "error"),
    [(b"text" * 1000, TarFormatError), (TOP[:700], TruncatedError), (gzip.compress(TOP)[:-9], (TruncatedError, CodecError))],
    ids=["text", "truncated", "torn"],
)
def test_what_is_no_layer(image, data, error):
    with pytest.raises(error):
        image.append(data)
    assert image.verify() == []


def test_an_edited_image_outlives_the_one_it_came_from(image):
    edited = image.append(TOP)
    twice = edited.append(UPPER)
    image.close()
    edited.close()
    edited.close()
    assert twice.verify() == []
    assert len(twice.layers) == 4
    twice.close()
    for layer in twice.layers:
        with pytest.raises(ValueError, match="closed"):
            layer.open()


def test_nothing_is_left(scratch):
    before = set(os.listdir("/proc/self/fd"))
    with open_image(archive(BASE).write(scratch / "x.tar")) as image, image.append(io.BytesIO(TOP)) as edited:
        with pytest.raises(TarFormatError):
            edited.append(b"x" * 512)
        with edited.append(TOP) as twice:
            twice.save(f"oci:{scratch}/target")
    assert set(os.listdir("/proc/self/fd")) == before
    assert sorted(os.listdir(scratch)) == ["target", "x.tar"]


def test_an_image_of_docker_s_types_stays_one(scratch):
    made = HandMade(scratch / "image", media_type=DOCKER_LAYER).write("x")
    [entry] = json.loads((made.path / "index.json").read_text())["manifests"]
    manifest = json.loads(made.stored(entry["digest"]).read_text()) | {"mediaType": DOCKER_MANIFEST}
    manifest["config"]["mediaType"] = DOCKER_CONFIG
    made.list(made.document(manifest, DOCKER_MANIFEST), "docker")
    with open_image(f"{made.reference}:docker") as image, image.append(gzip.compress(TOP)) as edited:
        assert edited.layers[-1].media_type == DOCKER_LAYER
        assert edited.manifest["mediaType"] == DOCKER_MANIFEST
        assert edited.manifest["config"]["mediaType"] == DOCKER_CONFIG
        assert edited.verify() == []
