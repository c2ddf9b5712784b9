"""Whatever is wrong with an image is found, and said without stopping at the first thing."""

from __future__ import annotations

import gzip
import json

import pytest

from lamella import open_image
from lamella.image.layout import Layout
from lamella.image.verify import verify_image
from lamella.model import Progress
from tests.image.layouts import CONFIG, LAYER, HandMade, sha256, tar_of


@pytest.fixture
def made(scratch):
    return HandMade(scratch / "image").write()


def problems(made, tag=None):
    layout = Layout(str(made.path))
    return verify_image(layout, layout.image(tag))


def kinds(made):
    return [problem.kind for problem in problems(made)]


def test_nothing_wrong(made):
    with open_image(made.reference) as image:
        assert image.verify() == []


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (lambda data: data[:-4] + b"\0\0\0\0", "digest"),  # gzip's own size field is wrong too: the digest is named
        (lambda data: data + b"\0", "size"),
        (lambda data: data[:-1], "size"),
        (lambda data: b"", "size"),
    ],
    ids=["changed", "longer", "shorter", "empty"],
)
def test_a_damaged_layer(made, damage, kind):
    path = made.stored(sha256(made.blobs[1]))
    path.write_bytes(damage(path.read_bytes()))
    found = problems(made)
    assert kind in {problem.kind for problem in found}
    assert {problem.subject for problem in found} == {f"layer 1 {sha256(made.blobs[1])}"}


def test_every_layer_is_looked_at(made):
    for blob in made.blobs:
        made.stored(sha256(blob)).unlink()
    assert kinds(made) == ["missing", "missing"]


def test_090_a_wrong_diff_id(scratch):
    diff_ids = [sha256(tar_of({"a": b"one\n"})), sha256(b"another")]
    made = HandMade(scratch / "image", config={"rootfs": {"type": "layers", "diff_ids": diff_ids}}).write()
    [problem] = problems(made)
    assert problem.kind == "diff_id"
    assert sha256(b"another") in problem.message
    assert sha256(made.tars[1]) in problem.message


def test_090_a_blob_s_digest_is_no_diff_id(scratch):
    made = HandMade(scratch / "image").write()
    swapped = {"rootfs": {"type": "layers", "diff_ids": [sha256(blob) for blob in made.blobs]}}
    made = HandMade(scratch / "other", config=swapped).write()
    assert kinds(made) == ["diff_id", "diff_id"]


def layers_of(made, blobs, types):
    """Write an image of given blobs; the diff_ids are those of the hand-made tars."""
    layers = [made.blob(blob) | {"mediaType": kind} for blob, kind in zip(blobs, types, strict=True)]
    made.manifest = {"layers": layers}
    return made.write()


def test_088_a_media_type_that_the_magic_denies(scratch):
    made = HandMade(scratch / "image")
    layers_of(made, [gzip.compress(made.tars[0]), made.tars[1]], [LAYER, LAYER + "+gzip"])
    assert kinds(made) == ["media_type", "media_type"]


def test_a_media_type_that_is_no_layer(scratch):
    made = HandMade(scratch / "image")
    layers_of(made, [gzip.compress(tar) for tar in made.tars], ["text/plain", LAYER + "+gzip"])
    assert kinds(made) == ["media_type"]


def test_a_layer_that_is_wrong_although_its_digest_is_right(scratch):
    made = HandMade(scratch / "image")
    torn = made.tars[1][:700]
    broken = bytes([*made.tars[1][:10], 0xFF, *made.tars[1][11:]])  # the header's checksum is wrong
    made.tars = [*made.tars[:1], torn, broken]
    blobs = [gzip.compress(tar) for tar in made.tars]
    layers_of(made, [blobs[0][:-10], *blobs[1:]], [LAYER + "+gzip"] * 3)
    found = problems(made)
    assert [problem.subject.split()[1] for problem in found] == ["0", "1", "2"]
    assert [problem.kind for problem in found] == ["truncated", "truncated", "tar"]


def test_a_broken_tar_does_not_hide_a_wrong_diff_id(scratch):
    made = HandMade(scratch / "image", tars=[b"x" * 512])
    made.config = {"rootfs": {"type": "layers", "diff_ids": [sha256(b"")]}}
    made.write()
    assert kinds(made) == ["tar", "diff_id"]


def test_a_damaged_config_does_not_stop_the_layers(made):
    with open_image(made.reference) as image:
        path = made.stored(image.id)
    path.write_bytes(b"X" + path.read_bytes()[1:])
    made.stored(sha256(made.blobs[0])).unlink()
    assert kinds(made) == ["digest", "missing"]


def test_a_damaged_manifest_is_all_there_is_to_say(made):
    digest = json.loads((made.path / "index.json").read_text())["manifests"][0]["digest"]
    made.stored(digest).write_bytes(b"")
    [problem] = problems(made)
    assert problem.kind == "size"
    assert problem.subject == f"manifest {digest}"


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"history": [{}]}, "history"),
        ({"history": [{}, {}, {}]}, "history"),
        ({"rootfs": {"type": "layers", "diff_ids": []}}, "document"),
        ({"rootfs": 1}, "document"),
    ],
)
def test_counts_that_disagree(scratch, config, kind):
    [problem] = problems(HandMade(scratch / "image", config=config).write())
    assert problem.kind == kind
    assert problem.subject.startswith("config sha256:")


def test_a_config_of_something_else(scratch):
    made = HandMade(scratch / "image", manifest={}).write()
    made.manifest = {"config": made.document({}, CONFIG.replace("image", "chart"))}
    made.tars = made.tars[:1]
    made.write("chart")
    assert [problem.kind for problem in problems(made, "chart")] == ["media_type"]


def test_progress_counts_bytes_up_to_all_of_them(made):
    seen: list[Progress] = []
    with open_image(made.reference) as image:
        image.verify(progress=seen.append)
    total = sum(map(len, made.blobs))
    done = [p.done for p in seen]
    assert done == sorted(done)
    assert {0, len(made.blobs[0]), total} == set(done)
    assert {(p.stage, p.total, p.unit) for p in seen} == {("verify", total, "bytes")}
