"""An image saved in either form is the same image, verified on the way, and what was there before is never half gone."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import os
import tarfile
from functools import partial

import pytest
import zstandard

from lamella import open_image
from lamella.errors import BlobNotFound, CodecError, DigestMismatchError, ImageError, UnsupportedMediaType
from lamella.image import archive_writer
from lamella.model import Progress
from tests.image.archives import BASE, UPPER, archive
from tests.image.layouts import CONFIG, LAYER, MANIFEST, HandMade, sha256, tar_of
from tests.image.test_layout import DOCKER_CONFIG, DOCKER_LAYER, DOCKER_MANIFEST

BIG = tar_of({"big": bytes(range(256)) * 12_000})  # three blocks of the encoders
FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
SUFFIXES = {"none": "", "gzip": "+gzip", "zstd": "+zstd"}
COMPRESS = {"none": bytes, "gzip": partial(gzip.compress, mtime=0), "zstd": zstandard.compress}


def layout(path, compression, *tars, **more):
    """Write a layout whose layers are compressed in the given way."""
    made = HandMade(path, tars=list(tars), **more)
    layers = [made.blob(COMPRESS[compression](tar)) | {"mediaType": LAYER + SUFFIXES[compression]} for tar in tars]
    made.manifest = {"layers": layers, **made.manifest}
    return made.write()


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(params=["none", "gzip", "zstd", "archive"])
def image(request, scratch):
    """Give an image of three layers, two of them equal, with unknown fields and annotations."""
    if request.param == "archive":
        path = archive(BASE, BIG, UPPER).write(scratch / "source.tar")
        with open_image(f"docker-archive:{path}") as opened:
            yield opened
        return
    more = {"config": {"x-new": {"deep": [1, None]}, "history": [{}, {"empty_layer": True}, {}, {}]}}
    more |= {"manifest": {"annotations": {"a": "b"}}}
    made = layout(scratch / "source", request.param, BASE, BIG, BASE, **more)
    with open_image(made.reference) as opened:
        yield opened


@pytest.mark.parametrize("compression", [None, "none", "gzip", "zstd"])
@pytest.mark.parametrize(
    "form", ["oci:{}/target", "oci:{}/target:v1", "docker-archive:{}/x.tar", "docker-archive:{}/x.tar:app:v1"]
)
def test_it_is_the_same_image(image, scratch, form, compression):
    target = form.format(scratch)
    saved = image.save(target, compression=compression)
    with open_image(target) as again:
        assert again.verify() == []
        assert again.id == image.id == saved.id
        assert again.config == image.config
        assert again.diff_ids == image.diff_ids
        assert saved.digest in (again.digest, None)
        codecs = {layer.media_type.removeprefix(LAYER) for layer in again.layers}
        before = {layer.media_type.removeprefix(LAYER) for layer in image.layers}
        if compression is not None:
            assert codecs == {SUFFIXES[compression]}
        elif target.startswith("oci:"):
            assert codecs == before
            assert [layer.digest for layer in again.layers] == [layer.digest for layer in image.layers]
            assert again.digest == image.digest
        else:
            assert codecs == {""}
        if target.startswith("oci:"):
            assert again.manifest.get("annotations") == image.manifest.get("annotations")
            assert again.manifest["layers"] is not None
    assert saved.reference == target


@pytest.mark.parametrize("target", ["oci:{}/{}", "docker-archive:{}/{}"])
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_the_bytes_depend_on_the_content_alone(image, scratch, target, compression):
    written = []
    for name in ("one", "two"):
        image.save(target.format(scratch, name) + ":app", compression=compression)
        path = scratch / name
        written.append(contents(path) if path.is_dir() else path.read_bytes())
    assert written[0] == written[1]


def test_from_form_to_form_and_back(image, scratch):
    image.save(f"docker-archive:{scratch}/x.tar", compression="zstd")
    with open_image(scratch / "x.tar") as one:
        one.save(f"oci:{scratch}/back:x", compression="none")
    with open_image(f"oci:{scratch}/back:x") as two:
        assert two.verify() == []
        assert (two.id, two.diff_ids, two.config) == (image.id, image.diff_ids, image.config)


def test_what_an_archive_looks_like(image, scratch):
    image.save(f"docker-archive:{scratch}/x.tar:Localhost/App:v1".lower())
    with tarfile.open(scratch / "x.tar") as tar:
        names = tar.getnames()
        [listed] = json.load(tar.extractfile("manifest.json"))
        assert listed["Config"] == f"{image.id.hex}.json"
        assert listed["RepoTags"] == ["localhost/app:v1"]
        assert listed["Layers"] == [f"{diff_id.hex}/layer.tar" for diff_id in image.diff_ids]
        for diff_id in image.diff_ids:
            data = tar.extractfile(f"{diff_id.hex}/layer.tar").read()
            assert f"sha256:{hashlib.sha256(data).hexdigest()}" == diff_id
        assert {(m.mtime, m.uid, m.gid, m.mode, m.uname, m.isreg()) for m in tar} == {(0, 0, 0, 0o644, "", True)}
    assert len(names) == len(set(names)) == len(set(image.diff_ids)) + 2


def test_an_archive_without_a_name(image, scratch):
    image.save(f"docker-archive:{scratch}/x.tar")
    with tarfile.open(scratch / "x.tar") as tar:
        assert json.load(tar.extractfile("manifest.json"))[0]["RepoTags"] is None


@pytest.mark.parametrize("umask", [0o077, 0o022])
def test_an_archive_is_for_whom_the_umask_says(image, scratch, umask):
    before = os.umask(umask)
    try:
        image.save(f"docker-archive:{scratch}/x.tar")
    finally:
        os.umask(before)
    assert (scratch / "x.tar").stat().st_mode & 0o777 == 0o666 & ~umask


def test_blobs_that_are_there_are_shared(image, scratch):
    first = image.save(f"oci:{scratch}/target:one")
    inodes = {p.name: p.stat().st_ino for p in (scratch / "target/blobs/sha256").iterdir()}
    second = image.save(f"oci:{scratch}/target:two")
    assert inodes == {p.name: p.stat().st_ino for p in (scratch / "target/blobs/sha256").iterdir()}
    assert (first.n_written, second.n_written) == (len(set(image.diff_ids)), 0)
    assert (first.digest, second.nbytes) == (second.digest, 0)
    index = json.loads((scratch / "target/index.json").read_text())
    assert len(index["manifests"]) == 2


def test_a_blob_of_the_wrong_size_is_written_again(image, scratch):
    image.save(f"oci:{scratch}/target")
    path = scratch / "target/blobs/sha256" / image.layers[0].digest.hex
    path.write_bytes(b"torn")
    image.save(f"oci:{scratch}/target")
    with open_image(f"oci:{scratch}/target") as again:
        assert again.verify() == []


def test_a_tag_moves_and_an_image_without_one_joins(image, scratch):
    with open_image(f"docker-archive:{archive(UPPER).write(scratch / 'other.tar')}") as other:
        other.save(f"oci:{scratch}/target:one")
        image.save(f"oci:{scratch}/target:one")
        assert open_image(f"oci:{scratch}/target:one").id == image.id
        for _ in range(2):
            image.save(f"oci:{scratch}/target")
            other.save(f"oci:{scratch}/target")
    assert len(json.loads((scratch / "target/index.json").read_text())["manifests"]) == 3


def test_an_image_may_be_saved_onto_itself(scratch):
    made = layout(scratch / "source", "gzip", BASE, UPPER)
    with open_image(made.reference) as image:
        image.save(f"{made.reference}:latest", compression="zstd")
    with open_image(f"{made.reference}:latest") as again:
        assert {layer.media_type for layer in again.layers} == {LAYER + "+zstd"}
    path = archive(BASE, UPPER).write(scratch / "x.tar")
    with open_image(path) as image:
        image.save(f"docker-archive:{path}:again")
        assert image.verify() == []  # it still reads what it had opened
    with open_image(f"docker-archive:{path}:again") as again:
        assert again.verify() == []
        assert again.diff_ids == image.diff_ids


def test_a_level_compresses_all_anew(scratch):
    made = layout(scratch / "source", "gzip", BIG)
    with open_image(made.reference) as image:
        kept = image.save(f"oci:{scratch}/kept", compression="gzip")
        anew = image.save(f"oci:{scratch}/anew", compression="gzip", level=9)
        assert open_image(f"oci:{scratch}/kept").layers[0].digest == image.layers[0].digest
        assert open_image(f"oci:{scratch}/anew").layers[0].digest != image.layers[0].digest
        assert kept.id == anew.id


def test_docker_s_types_become_oci_s_in_a_layout(scratch):
    made = HandMade(scratch / "image", media_type=DOCKER_LAYER).write("x")
    [entry] = json.loads((made.path / "index.json").read_text())["manifests"]
    manifest = json.loads(made.stored(entry["digest"]).read_text()) | {"mediaType": DOCKER_MANIFEST}
    manifest["config"]["mediaType"] = DOCKER_CONFIG
    made.list(made.document(manifest, DOCKER_MANIFEST), "docker")
    with open_image(f"{made.reference}:docker") as image:
        image.save(f"oci:{scratch}/target:x")
        with open_image(f"oci:{scratch}/target:x") as again:
            assert again.verify() == []
            assert again.manifest["mediaType"] == again.descriptor.media_type == MANIFEST
            assert again.manifest["config"]["mediaType"] == CONFIG
            assert {layer.media_type for layer in again.layers} == {LAYER + "+gzip"}
            assert (again.id, [layer.digest for layer in again.layers]) == (image.id, [layer.digest for layer in image.layers])


def test_annotations_of_the_bytes_go_with_them(scratch):
    notes = {"kept": "yes", "containerd.io/snapshot/stargz/toc.digest": sha256(b"")}
    made = HandMade(scratch / "image", tars=[BASE])
    layer = made.blob(gzip.compress(BASE)) | {"mediaType": LAYER + "+gzip", "annotations": notes, "x-more": 1}
    made.manifest = {"layers": [layer]}
    with open_image(made.write().reference) as image:
        image.save(f"oci:{scratch}/same")
        assert open_image(f"oci:{scratch}/same").manifest["layers"] == [layer]
        image.save(f"oci:{scratch}/other", compression="zstd")
        [other] = open_image(f"oci:{scratch}/other").manifest["layers"]
        assert (other["annotations"], other["x-more"]) == ({"kept": "yes"}, 1)


def test_094_what_only_its_publisher_keeps_stays_there(scratch):
    made = HandMade(scratch / "image", tars=[BASE, UPPER])
    missing = {"mediaType": FOREIGN, "digest": sha256(b"gone"), "size": 4, "urls": ["https://example.com/x"]}
    made.manifest = {"layers": [missing, made.blob(gzip.compress(UPPER)) | {"mediaType": FOREIGN}]}
    with open_image(made.write().reference) as image:
        image.save(f"oci:{scratch}/target")
        with open_image(f"oci:{scratch}/target") as again:
            assert again.digest == image.digest
            assert [problem.kind for problem in again.verify()] == ["missing"]
        for target, compression in (("oci:{}/zstd", "zstd"), ("docker-archive:{}/x.tar", None)):
            with pytest.raises(BlobNotFound) as caught:
                image.save(target.format(scratch), compression=compression)
            assert caught.value.urls == ("https://example.com/x",)
        assert not (scratch / "x.tar").exists()


def test_094_a_layer_not_for_distribution_stays_one(scratch):
    made = HandMade(scratch / "image", tars=[BASE], media_type=FOREIGN).write()
    with open_image(made.reference) as image:
        image.save(f"oci:{scratch}/target", compression="none")
        assert open_image(f"oci:{scratch}/target").layers[0].media_type == FOREIGN.removesuffix("+gzip")


@pytest.mark.parametrize("target", ["oci:{}/target:x", "docker-archive:{}/target:x"])
@pytest.mark.parametrize("compression", [None, "none", "gzip", "zstd"])
@pytest.mark.parametrize("wrong", ["digest", "diff_id", "size", "codec"])
def test_what_is_wrong_is_not_passed_on(scratch, target, compression, wrong):
    config = {"rootfs": {"type": "layers", "diff_ids": [sha256(UPPER)]}} if wrong == "diff_id" else {}
    kind = LAYER + ("+zstd" if wrong == "codec" else "+gzip")
    made = HandMade(scratch / "image", tars=[BASE], config=config)
    made.manifest = {"layers": [made.blob(gzip.compress(BASE, mtime=0)) | {"mediaType": kind}]}
    made.write()
    path = made.stored(sha256(gzip.compress(BASE, mtime=0)))
    if wrong == "digest":
        path.write_bytes(bytes([*path.read_bytes()[:9], 0x77, *path.read_bytes()[10:]]))  # OS field: the tar is the same
    elif wrong == "size":
        path.write_bytes(path.read_bytes() + b"\0")
    with open_image(made.reference) as image, pytest.raises((DigestMismatchError, CodecError)):
        image.save(target.format(scratch), compression=compression)
    assert not (scratch / "target").is_file()
    assert (
        not (scratch / "target/index.json").exists()
        or json.loads((scratch / "target/index.json").read_text())["manifests"] == []
    )
    left = [name for _, _, names in os.walk(scratch / "target") for name in names]
    assert not [name for name in left if "lamella" in name or name.endswith(".tmp")]
    assert [name for name in os.listdir(scratch) if name.startswith(".")] == []


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_a_failure_leaves_the_archive_that_was_there(scratch, compression):
    (scratch / "x.tar").write_bytes(b"before")
    made = HandMade(scratch / "image", tars=[BASE, UPPER]).write()
    made.stored(sha256(made.blobs[1])).unlink()
    with open_image(made.reference) as image, pytest.raises(BlobNotFound):
        image.save(f"docker-archive:{scratch}/x.tar", compression=compression)
    assert (scratch / "x.tar").read_bytes() == b"before"
    assert sorted(os.listdir(scratch)) == ["image", "x.tar"]


@pytest.mark.parametrize(
    ("target", "options", "error"),
    [
        ("{}/target", {}, ImageError),
        ("docker://x", {}, ImageError),
        ("docker-archive:{}/target:Upper", {}, ImageError),
        ("oci:{}/target:a b", {}, ImageError),
        ("oci:{}/target", {"compression": "xz"}, ValueError),
        ("oci:{}/target", {"compression": "gzip", "level": 17}, ValueError),
        ("oci:{}/target", {"level": 1}, ValueError),
        ("docker-archive:{}/nowhere/target", {}, FileNotFoundError),
        ("docker-archive:{}", {}, OSError),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(image, scratch, target, options, error):
    before = sorted(os.listdir(scratch))
    with pytest.raises(error):
        image.save(target.format(scratch), **options)
    assert sorted(os.listdir(scratch)) == before


def test_a_layer_of_an_unknown_type(scratch):
    made = HandMade(scratch / "image", tars=[BASE])
    made.manifest = {"layers": [made.blob(lzma.compress(BASE)) | {"mediaType": LAYER + "+xz"}]}
    with open_image(made.write().reference) as image:
        for target in ("oci:{}/target", "docker-archive:{}/x.tar"):
            with pytest.raises(UnsupportedMediaType):
                image.save(target.format(scratch))


@pytest.mark.parametrize("target", ["oci:{}/target", "docker-archive:{}/x.tar"])
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_progress_counts_bytes_up_to_all_of_them(image, scratch, target, compression):
    seen: list[Progress] = []
    image.save(target.format(scratch), compression=compression, progress=seen.append)
    done = [p.done for p in seen]
    total = sum(layer.size for layer in image.layers)
    assert done == sorted(done)
    assert done[-1] == total
    assert {(p.stage, p.total, p.unit) for p in seen} == {("save", total, "bytes")}


def test_an_archive_s_member_above_8_gib_has_a_header_that_others_read(scratch):
    info = tarfile.TarInfo.frombuf(archive_writer._header("x", 9 << 30), "utf-8", "strict")
    assert info.size == 9 << 30
    with pytest.raises(ValueError, match="longer"):
        archive_writer._header("x" * 200, 1)
