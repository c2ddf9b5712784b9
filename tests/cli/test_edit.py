"""The commands that write images."""

from __future__ import annotations

import gzip
import subprocess
import sys

import pytest

from lamella import open_image
from tests.image.archives import BASE, UPPER, archive
from tests.image.layouts import LAYER, HandMade, sha256, tar_of

KEYS = ["source", "reference", "id", "digest", "layers", "written", "bytes"]
TOP = tar_of({"top": b"on top"})


@pytest.fixture
def made(scratch):
    history = [{"created_by": "base"}, {"created_by": "upper"}]
    return HandMade(scratch / "image", tars=[BASE, UPPER], config={"history": history}).write()


@pytest.mark.parametrize("dest", ["oci:{}/target:v1", "docker-archive:{}/x.tar:app:v1"])
@pytest.mark.parametrize("compression", [None, "none", "zstd", "gzip:9"])
def test_convert(lamella, made, scratch, dest, compression):
    dest = dest.format(scratch)
    ran = lamella("convert", made.reference, dest, *(["--compression", compression] if compression else []), "--json")
    assert ran.status == 0
    assert list(ran.document) == KEYS
    assert ran.document["reference"] == dest
    assert (ran.document["layers"], ran.document["written"]) == (2, 2)
    with open_image(dest) as image, open_image(made.reference) as before:
        assert image.verify() == []
        assert (image.id, image.diff_ids) == (before.id, before.diff_ids)
        assert ran.document["id"] == image.id
        assert ran.document["digest"] == (image.digest if dest.startswith("oci:") else None)
        codec = {"none": "", "zstd": "+zstd", "gzip:9": "+gzip", None: "+gzip" if dest.startswith("oci:") else ""}
        assert {layer.media_type for layer in image.layers} == {LAYER + codec[compression]}


def test_convert_in_words(lamella, made, scratch):
    ran = lamella("convert", made.reference, f"oci:{scratch}/target:v1")
    assert ran.out.startswith(f"wrote oci:{scratch}/target:v1\n  2 layers, 2 of them written, ")
    ran = lamella("convert", made.reference, f"oci:{scratch}/target:v1")
    assert "2 layers, 0 of them written, 0 B" in ran.out


@pytest.mark.parametrize("dest", ["oci:{}/target:v1", "docker-archive:{}/x.tar:app:v1"])
def test_append(lamella, made, scratch, monkeypatch, dest):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    (scratch / "layer.tar.gz").write_bytes(gzip.compress(TOP))
    dest = dest.format(scratch)
    ran = lamella("append", made.reference, scratch / "layer.tar.gz", dest, "--comment", "why", "--json")
    assert ran.status == 0
    assert list(ran.document) == KEYS
    assert ran.document["layers"] == 3
    with open_image(dest) as image:
        assert image.verify() == []
        assert image.id == ran.document["id"]
        assert image.diff_ids[2] == sha256(TOP)
        step = {"created": "2023-11-14T22:13:20Z", "created_by": "lamella append layer.tar.gz", "comment": "why"}
        assert image.config["history"][-1] == step
        assert image.config["created"] == step["created"]


def test_append_from_stdin(made, scratch):
    argv = [sys.executable, "-m", "lamella", "append", made.reference, "-", f"oci:{scratch}/target:v1", "--created-by", "me"]
    subprocess.run(argv, input=gzip.compress(TOP), check=True, stdout=subprocess.DEVNULL)
    with open_image(f"oci:{scratch}/target:v1") as image:
        assert image.diff_ids[2] == sha256(TOP)
        assert image.history[-1].created_by == "me"


@pytest.mark.parametrize("dest", ["oci:{}/target:v1", "docker-archive:{}/x.tar:app:v1"])
def test_squash(lamella, made, scratch, dest):
    dest = dest.format(scratch)
    ran = lamella("squash", made.reference, dest, "--comment", "why", "--json")
    assert ran.status == 0
    assert list(ran.document) == KEYS
    assert (ran.document["layers"], ran.document["written"]) == (1, 1)
    with open_image(dest) as image:
        assert image.verify() == []
        assert image.history[-1].comment == "why"
        assert image.layers[0].media_type == LAYER + ("+gzip" if dest.startswith("oci") else "")
        with image.layers[0].reader() as reader:
            assert list(reader.table().paths) == [b"a", b"d", b"d/b"]
    assert lamella("squash", made.reference, dest, "--start", "-1").status == 0
    assert len(open_image(dest).layers) == 2


def test_rebase(lamella, failed, made, scratch):
    old = HandMade(scratch / "old", tars=[BASE], config={"history": [{"created_by": "base"}]}).write()
    new = HandMade(
        scratch / "new", tars=[tar_of({"a": b"another\n", "gone": b"x"})], config={"history": [{"created_by": "new"}]}
    ).write()
    ran = lamella("rebase", made.reference, old.reference, new.reference, f"oci:{scratch}/target:v1", "--json")
    assert ran.status == 0
    assert list(ran.document) == [*KEYS, "conflicts"]
    assert ran.document["conflicts"] == []
    with open_image(f"oci:{scratch}/target:v1") as image:
        assert image.verify() == []
        assert [step.created_by for step in image.history] == ["new", "upper"]
    failed("rebase", made.reference, new.reference, old.reference, f"oci:{scratch}/target:v2")
    clash = HandMade(scratch / "clash", tars=[tar_of({"a": b"one\n", "gone": b"not x"})]).write()
    argv = ["rebase", made.reference, old.reference, clash.reference, f"oci:{scratch}/target:v3"]
    assert "gone" in failed(*argv).err
    ran = lamella(*argv, "--keep-conflicts", "--json")
    assert [(c["path"], c["kind"]) for c in ran.document["conflicts"]] == [("gone", "deleted-and-changed")]
    assert "conflict: gone: the layer deletes it" in lamella(*argv, "--keep-conflicts").out


def test_a_platform_is_chosen(lamella, failed, made, scratch):
    failed("convert", made.reference, f"oci:{scratch}/target", "--platform", "linux/arm64")
    assert lamella("convert", made.reference, f"oci:{scratch}/target", "--platform", "linux/amd64").status == 0
    assert lamella("inspect", made.reference, "--platform", "linux/amd64").status == 0
    failed("inspect", made.reference, "--platform", "linux/arm64")
    assert lamella("verify", made.reference, "--platform", "linux/amd64").status == 0


@pytest.mark.parametrize(
    "argv",
    [
        ["convert", "oci:nowhere", "oci:{}/x"],
        ["convert", "{}/image", "{}/x"],
        ["convert", "{}/image", "docker-archive:{}/x.tar:UPPER"],
        ["append", "{}/image", "nowhere", "oci:{}/x"],
        ["append", "{}/image", "{}/image/index.json", "oci:{}/x"],
        ["squash", "{}/image", "oci:{}/x", "--stop", "0"],
    ],
)
def test_what_cannot_be_is_one_line(failed, made, scratch, argv):
    failed(*(arg.format(scratch) for arg in argv))


def test_an_archive_is_told_from_a_layer(lamella, scratch):
    path = archive(BASE, UPPER, tags=["app:v1"]).write(scratch / "x.tar")
    (scratch / "x.tar.gz").write_bytes(gzip.compress(path.read_bytes()))
    for reference in (path, scratch / "x.tar.gz", f"docker-archive:{path}"):
        document = lamella("inspect", reference, "--layers", "--tree", "--json").document
        assert document["kind"] == "image"
        assert [line["path"] for line in document["tree"]] == ["a", "d", "d/b"]
        assert lamella("verify", reference).status == 0


@pytest.mark.parametrize(
    "files", [{"manifest.json": b"{}"}, {"manifest.json": b"[]"}, {"blobs/x": b"", "other": b""}, {"repositories": b"["}]
)
@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_layer_is_told_from_an_archive(lamella, scratch, files, compress):
    (scratch / "layer").write_bytes(compress(tar_of(files)))
    assert lamella("inspect", scratch / "layer", "--json").document["kind"] == "layer"


def test_verify_an_archive(lamella, scratch):
    made = archive(BASE, UPPER)
    made.add(f"{sha256(BASE)[7:]}.tar", UPPER)
    ran = lamella("verify", made.write(scratch / "x.tar"), "--json")
    assert ran.status == 1
    assert [problem["kind"] for problem in ran.document["problems"]] == ["digest"]
