"""Layouts that we write are whole at every moment, and other tools accept them."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import threading

import pytest

from lamella import open_image
from lamella.errors import ImageError
from lamella.image.platforms import goarch
from lamella.image.writer import LayoutWriter, image_config
from lamella.model import DiffID, Digest
from lamella.tar.layerinfo import LayerInfo
from tests.image.layouts import CONFIG, LAYER, MANIFEST, sha256, tar_of

BASE = tar_of({"dir": None, "dir/file": b"lower\n", "gone": b"x"})
UPPER = tar_of({"dir/.wh.file": b"", ".wh.gone": b"", "dir/new": b"upper\n"})


def written(out, tar):
    """Write a gzip layer as diff does, and describe it."""
    blob = gzip.compress(tar, mtime=0)
    out.write(blob)
    return LayerInfo(LAYER + "+gzip", Digest(sha256(blob)), DiffID(sha256(tar)), len(blob), len(tar), 1, "test")


def write_image(path, *tars, tag="latest", **config):
    with LayoutWriter(path) as layout:
        infos = [layout.add_layer(lambda out, tar=tar: written(out, tar)) for tar in tars]
        steps = [{"created_by": f"step {i}"} for i in range(len(infos))]
        document = image_config([info.diff_id for info in infos], history=steps, **config)
        return layout.add_image(document, [info.descriptor() for info in infos], tag)


def files(path):
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())


def test_what_was_written_is_read(scratch):
    digest = write_image(scratch / "image", BASE, UPPER, Cmd=["/bin/sh"], created="2026-01-02T03:04:05Z")
    with open_image(f"oci:{scratch}/image:latest") as image:
        assert image.verify() == []
        assert image.digest == digest
        assert list(image.diff_ids) == [sha256(BASE), sha256(UPPER)]
        assert [step.created_by for step in image.history] == ["step 0", "step 1"]
        assert image.config["config"] == {"Cmd": ["/bin/sh"]}
        assert image.config["created"] == "2026-01-02T03:04:05Z"
        assert (image.config["os"], image.config["architecture"]) == ("linux", goarch())
        assert image.manifest["mediaType"] == MANIFEST
        assert image.manifest["config"]["mediaType"] == CONFIG
    assert len(files(scratch / "image")) == 2 + 4


def test_the_bytes_depend_on_the_content_alone(scratch):
    assert write_image(scratch / "a", BASE) == write_image(scratch / "b", BASE)
    for name in files(scratch / "a"):
        assert (scratch / "a" / name).read_bytes() == (scratch / "b" / name).read_bytes()


def test_an_image_joins_the_others_and_a_tag_moves(scratch):
    first = write_image(scratch / "image", BASE, tag="one")
    index = scratch / "image/index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"annotations": {"kept": "yes"}}))
    second = write_image(scratch / "image", BASE, UPPER, tag="two")
    assert open_image(f"oci:{scratch}/image:one").digest == first
    assert open_image(f"oci:{scratch}/image:two").digest == second
    assert write_image(scratch / "image", UPPER, tag="one") not in (first, second)
    document = json.loads(index.read_text())
    assert len(document["manifests"]) == 2
    assert document["annotations"] == {"kept": "yes"}


@pytest.mark.parametrize("umask", [0o077, 0o000])
def test_files_are_for_reading_whatever_the_umask(scratch, umask):
    before = os.umask(umask)
    try:
        write_image(scratch / "image", BASE)
    finally:
        os.umask(before)
    for name in files(scratch / "image"):
        assert (scratch / "image" / name).stat().st_mode & 0o777 == 0o644


def test_a_failure_leaves_what_was_there(scratch):
    write_image(scratch / "image", BASE)
    before = files(scratch / "image")

    def fails(out):
        out.write(b"half of a layer")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), LayoutWriter(scratch / "image") as layout:
        layout.add_layer(fails)
    assert files(scratch / "image") == before


def test_the_index_is_replaced_last(scratch, monkeypatch):
    write_image(scratch / "image", BASE)
    renamed = []
    rename = os.rename
    monkeypatch.setattr(os, "rename", lambda old, new: (renamed.append(os.path.basename(new)), rename(old, new)))
    write_image(scratch / "image", UPPER, tag="two")
    assert renamed[-1] == "index.json"
    assert renamed.count("index.json") == 1


@pytest.mark.parametrize("killed_before", ["oci-layout", "index.json", "blobs"])
def test_what_a_killed_writer_left_is_taken_over(scratch, killed_before):
    write_image(scratch / "image", BASE)
    (scratch / "image/oci-layout").unlink()
    if killed_before != "oci-layout":
        (scratch / "image/index.json").unlink()
    if killed_before == "blobs":
        shutil.rmtree(scratch / "image/blobs")
    (scratch / "image/.lamella-x").write_bytes(b"half of a layer")
    write_image(scratch / "image", BASE)
    with open_image(f"oci:{scratch}/image:latest") as image:
        assert image.verify() == []
    assert len(files(scratch / "image")) == 2 + 3


@pytest.mark.parametrize("n", range(8))
def test_broken_off_at_any_rename_the_layout_is_whole(scratch, monkeypatch, n):
    write_image(scratch / "image", BASE)
    calls = iter(range(100))
    rename = os.rename

    def rename_until(old, new):
        if next(calls) == n:
            raise OSError("power cut")
        rename(old, new)

    monkeypatch.setattr(os, "rename", rename_until)
    broken = False
    try:
        write_image(scratch / "image", UPPER, tag="two")
    except OSError:
        broken = True
    assert broken == (n < 4)  # layer, config, manifest, index
    with open_image(f"oci:{scratch}/image:latest") as image:
        assert image.verify() == []
    assert not [name for name in files(scratch / "image") if ".lamella" in name]


def test_writers_wait_for_each_other(scratch):
    threads = [threading.Thread(target=write_image, args=(scratch / "image", BASE), kwargs={"tag": f"t{i}"}) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({open_image(f"oci:{scratch}/image:t{i}").digest for i in range(8)}) == 1
    assert len(json.loads((scratch / "image/index.json").read_text())["manifests"]) == 8


def test_a_folder_of_something_else_is_refused(scratch):
    (scratch / "image").mkdir()
    (scratch / "image/letter").write_text("dear")
    with pytest.raises(ImageError, match="neither empty nor"):
        write_image(scratch / "image", BASE)
    assert files(scratch / "image") == ["letter"]


@pytest.mark.parametrize("tag", ["", "a b", "../x"])
def test_a_tag_that_is_none_is_refused(scratch, tag):
    with pytest.raises(ImageError, match="reference name"):
        write_image(scratch / "image", BASE, tag=tag)


# --- others read it


def run(*argv):
    return subprocess.run([str(arg) for arg in argv], capture_output=True, text=True, check=True).stdout


@pytest.mark.requires("skopeo")
def test_skopeo_inspects_and_copies(scratch):
    digest = write_image(scratch / "image", BASE, UPPER, Cmd=["/bin/true"])
    told = json.loads(run("skopeo", "inspect", f"oci:{scratch}/image:latest"))
    assert told["Digest"] == digest
    assert told["Architecture"] == goarch()
    with open_image(f"oci:{scratch}/image:latest") as image:
        assert told["Layers"] == [layer.digest for layer in image.layers]
    run("skopeo", "--insecure-policy", "copy", "-q", f"oci:{scratch}/image:latest", f"dir:{scratch}/copied")
    run("skopeo", "--insecure-policy", "copy", "-q", f"oci:{scratch}/image:latest", f"oci:{scratch}/again:v1")
    with open_image(f"oci:{scratch}/again:v1") as image:
        assert image.verify() == []
        assert image.digest == digest


@pytest.mark.requires("skopeo")
def test_skopeo_s_recompressed_copies_are_read(scratch):
    write_image(scratch / "image", BASE)
    copy = ["skopeo", "--insecure-policy", "copy", "-q", f"oci:{scratch}/image:latest"]
    for compression in ("gzip", "zstd"):
        run(*copy, "--dest-compress-format", compression, f"oci:{scratch}/{compression}:x")
        with open_image(f"oci:{scratch}/{compression}") as image:
            assert image.verify() == []
            assert list(image.diff_ids) == [sha256(BASE)]


@pytest.mark.requires("umoci")
def test_umoci_unpacks(scratch):
    write_image(scratch / "image", BASE, UPPER, Cmd=["/bin/true"])
    rootless = ["--rootless"] if os.geteuid() else []
    run("umoci", "unpack", *rootless, "--image", f"{scratch}/image:latest", scratch / "bundle")
    assert files(scratch / "bundle/rootfs") == ["dir/new"]
    assert json.loads((scratch / "bundle/config.json").read_text())["process"]["args"] == ["/bin/true"]


@pytest.mark.requires("umoci")
def test_we_read_what_umoci_writes(scratch):
    run("umoci", "init", "--layout", scratch / "image")
    run("umoci", "new", "--image", f"{scratch}/image:empty")
    with open_image(f"oci:{scratch}/image:empty") as image:
        assert image.layers == ()
        assert image.verify() == []
    with LayoutWriter(scratch / "image") as layout:  # and write beside it
        layout.add_image(image_config([]), [], "ours")
    assert "ours" in run("umoci", "list", "--layout", scratch / "image")
