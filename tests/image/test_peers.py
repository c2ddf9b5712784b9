"""Other programs read the images that we write, in both forms, as the same image with the same tree; and we read theirs."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import lamella
from lamella.image.image import Image
from lamella.image.writer import LayoutWriter, image_config
from lamella.testing.listing import Found, compare, listing, subtree
from lamella.testing.tars import Member, char, directory, fifo, file, hardlink, layer_tar, opaque, symlink, whiteout
from tests.image import dockerd
from tests.image.archives import archive
from tests.image.layouts import sha256, tar_of
from tests.layer import engines

NS = 10**9
FILE = {"mode": 0o4711, "uid": 7, "gid": 8, "mtime_ns": 1_500_000_000 * NS}
# all below t/: a container's file system has files of the daemon's own beside it; nothing that engines disagree about
LAYERS: list[list[Member]] = [
    [
        directory("t", mtime_ns=5 * NS), directory("t/d", mode=0o751, uid=1, gid=2**21 + 1, mtime_ns=6 * NS),
        file("t/d/f", b"x" * 700, **FILE), hardlink("t/d/g", "t/d/f", **FILE),
        symlink("t/link", "d/f", mtime_ns=7 * NS), fifo("t/pipe", mode=0o622), char("t/null", 1, 3, mode=0o666),
        directory("t/gone"), file("t/gone/a"), directory("t/emptied", mtime_ns=9 * NS), file("t/emptied/a"),
        file("t/" + "n" * 200, b"long"), file(b"t/latin1-\xe9", b"no text"), file("t/swap", b"file"), directory("t/pawl"),
        file("t/big", bytes(range(256)) * 9000),
    ],
    [
        directory("t", mtime_ns=5 * NS), whiteout("t/gone"), directory("t/emptied", mtime_ns=9 * NS), opaque("t/emptied"),
        file("t/emptied/b", b"b"), directory("t/d", mode=0o700, mtime_ns=8 * NS), file("t/d/new", b"new"),
        directory("t/swap"), file("t/swap/in", b"in"), file("t/pawl", b"was a directory"), file("t/d/f", b"y" * 701, uid=3),
    ],
    [],
    [directory("t", mtime_ns=5 * NS), whiteout("t/pipe"), file("t/top", b"top")],
]  # fmt: skip
APPENDED = layer_tar([directory("t", mtime_ns=5 * NS), file("t/appended", b"a")])


def run(*argv: str | Path) -> str:
    return subprocess.run([str(arg) for arg in argv], capture_output=True, text=True, check=True).stdout


def skopeo(*argv: str | Path) -> str:
    return run("skopeo", "--insecure-policy", *argv)


def inspected(reference: str) -> dict[str, object]:
    return json.loads(skopeo("inspect", reference))


@pytest.fixture
def image(scratch) -> Iterator[Image]:
    """Give an image of several layers and steps, two of them without a layer."""
    tars = [layer_tar(entries) for entries in LAYERS]
    steps = [{"created_by": f"step {i}", "created": f"2026-01-02T03:04:0{i}Z"} for i in range(4)]
    steps.insert(1, {"created_by": "ENV A=b", "empty_layer": True})
    config = image_config([sha256(tar) for tar in tars], history=steps, created="2026-01-02T03:04:05Z", Env=["A=b"], Cmd=["/x"])
    with LayoutWriter(scratch / "source") as layout, lamella.open_image(archive(*tars).write(scratch / "tars")) as plain:
        layers = [layout.add_layer(lambda out, layer=layer: Blob(out, layer)).described for layer in plain.layers]
        layout.add_image(config, layers, "x")
    (scratch / "tars").unlink()
    with lamella.open_image(f"oci:{scratch}/source:x") as opened:
        yield opened


class Blob:
    """A layer's blob, written to ``out``."""

    def __init__(self, out, layer):
        with layer.open() as blob:
            out.write(blob.readall())
        self.digest = layer.digest
        self.described = {"mediaType": layer.media_type, "digest": str(layer.digest), "size": layer.size}


def tree_of(image: Image, root: Path) -> dict[bytes, Found]:
    """Apply the layers one after another."""
    for layer in image.layers:
        with layer.source() as source:
            lamella.apply(source, root, expected_diff_id=layer.diff_id, rootless=os.geteuid() != 0)
    return subtree(listing(root), b"t")


# --- skopeo


@pytest.mark.requires("skopeo")
@pytest.mark.parametrize(
    ("form", "compression"),
    [("oci", "none"), ("oci", "gzip"), ("oci", "zstd"), ("docker-archive", "none"), ("docker-archive", "gzip")],
)
def test_skopeo_reads_what_we_write(scratch, image, form, compression):
    target = f"{form}:{scratch}/ours:localhost/app:v1"
    image.save(target, compression=compression)
    told = inspected(target)
    assert len(told["Layers"]) == len(image.layers)
    assert told["Env"] == ["A=b"]
    assert json.loads(skopeo("inspect", "--config", "--raw", target)) == image.config
    # "zstd compression is not supported for docker images", it says
    others = [] if compression == "zstd" else [f"docker-archive:{scratch}/theirs.tar:localhost/app:v1"]
    for again in (f"oci:{scratch}/theirs:v1", *others):
        skopeo("copy", "-q", target, again)
        with lamella.open_image(again) as copied:
            assert copied.verify() == []
            assert copied.diff_ids == image.diff_ids
            if form == "oci" or again.startswith("docker"):  # from an archive it writes a configuration anew
                assert (copied.id, copied.config) == (image.id, image.config)


@pytest.mark.requires("skopeo")
def test_skopeo_s_archive_of_an_image_and_ours_are_the_same_image(scratch, image):
    image.save(f"docker-archive:{scratch}/ours.tar:app:v1")
    skopeo("copy", "-q", f"oci:{scratch}/source:x", f"docker-archive:{scratch}/theirs.tar:app:v1")
    ours, theirs = (lamella.open_image(f"docker-archive:{scratch}/{name}.tar:app:v1") for name in ("ours", "theirs"))
    with ours, theirs:
        assert (ours.id, ours.diff_ids, ours.digest) == (theirs.id, theirs.diff_ids, theirs.digest)
        assert [layer.digest for layer in ours.layers] == [layer.digest for layer in theirs.layers]
    told = [inspected(f"docker-archive:{scratch}/{name}.tar") for name in ("ours", "theirs")]
    assert told[0] == told[1]


@pytest.mark.requires("skopeo")
def test_a_multi_image_archive_s_images_are_chosen_as_skopeo_does(scratch, image):
    path = archive(tar_of({"x": b""}), tags=["app:v1"]).write(scratch / "x.tar")
    for reference in (
        f"docker-archive:{path}:app:v1",
        f"docker-archive:{path}:docker.io/library/app:v1",
        f"docker-archive:{path}:@0",
    ):
        with lamella.open_image(reference) as opened:
            assert inspected(reference)["Layers"] == list(opened.diff_ids)


# --- umoci


@pytest.mark.requires("umoci", "root")
@pytest.mark.parametrize("compression", ["none", "gzip"])  # 0.4 knows no zstd
def test_umoci_unpacks_the_same_tree(scratch, image, compression):
    image.save(f"oci:{scratch}/ours:latest", compression=compression)
    made = engines.unpacked_by_umoci(scratch, scratch / "ours")
    assert compare(tree_of(image, scratch / "root"), subtree(listing(made), b"t")) == []


@pytest.mark.requires("umoci", "root")
def test_115_umoci_unpacks_what_we_squashed(scratch, image):
    with image.squash() as edited:
        edited.save(f"oci:{scratch}/ours:latest")
    made = engines.unpacked_by_umoci(scratch, scratch / "ours")
    assert compare(tree_of(image, scratch / "root"), subtree(listing(made), b"t")) == []


@pytest.mark.requires("umoci")
def test_umoci_edits_an_image_that_we_appended_to(scratch, image):
    with image.append(tar_of({"t/appended": b"a"}), created_by="lamella") as edited:
        edited.save(f"oci:{scratch}/ours:latest", compression="gzip")
    run("umoci", "config", "--image", f"{scratch}/ours:latest", "--config.user", "me")
    told = json.loads(run("umoci", "stat", "--image", f"{scratch}/ours:latest", "--json"))
    assert [step["created_by"] for step in told["history"]][-2:] == ["lamella", "umoci config"]
    with lamella.open_image(f"oci:{scratch}/ours:latest") as again:
        assert again.verify() == []
        assert again.diff_ids[:4] == image.diff_ids
        assert again.config["config"]["User"] == "me"


# --- Docker


@pytest.fixture(scope="module", params=["vfs", "overlay2"])
def daemon(request, home, worker) -> Iterator[dockerd.Daemon]:
    folder = home / f"docker-{request.param}-{worker}"
    folder.mkdir()
    try:
        with dockerd.running(folder, request.param) as running:
            yield running
    finally:
        subprocess.run(["rm", "-rf", "--one-file-system", str(folder)], check=True)


@pytest.mark.requires("root", "dockerd")
@pytest.mark.parametrize("compression", ["none", "gzip"])  # 20.10 knows no zstd
def test_docker_loads_what_we_write(scratch, image, daemon, compression):
    image.save(f"docker-archive:{scratch}/ours.tar:localhost/{compression}:v1", compression=compression)
    name = f"localhost/{compression}:v1"
    assert name in daemon.load(scratch / "ours.tar")
    told = daemon.inspect(name)
    assert told["Id"] == image.id
    assert told["RootFS"]["Layers"] == list(image.diff_ids)
    assert told["Config"]["Env"] == ["A=b"]
    (scratch / "export.tar").write_bytes(daemon.export(name))
    lamella.apply(scratch / "export.tar", scratch / "exported")
    assert compare(tree_of(image, scratch / "root"), subtree(listing(scratch / "exported"), b"t")) == []
    (scratch / "saved.tar").write_bytes(daemon.save(name))
    with lamella.open_image(f"docker-archive:{scratch}/saved.tar:{name}") as saved:
        assert saved.verify() == []
        assert (saved.id, saved.diff_ids, saved.config) == (image.id, image.diff_ids, image.config)


@pytest.mark.requires("root", "dockerd")
@pytest.mark.parametrize("edit", ["append", "squash"])
def test_docker_loads_an_image_that_we_edited_without_a_name(scratch, image, daemon, edit):
    with image.append(APPENDED) if edit == "append" else image.squash(start=1) as edited:
        edited.save(f"docker-archive:{scratch}/ours.tar")
        assert str(edited.id) in daemon.load(scratch / "ours.tar")
        assert daemon.inspect(edited.id)["RootFS"]["Layers"] == list(edited.diff_ids)
        (scratch / "export.tar").write_bytes(daemon.export(edited.id))
        lamella.apply(scratch / "export.tar", scratch / "exported")
        assert compare(tree_of(edited, scratch / "root"), subtree(listing(scratch / "exported"), b"t")) == []


@pytest.mark.requires("root", "dockerd")
def test_docker_refuses_an_archive_whose_diff_id_is_wrong(scratch, daemon):
    """That daemon is an oracle of diff_ids at all."""
    made = archive(tar_of({"x": b""}))
    made.items[0] = (made.items[0][0], tar_of({"y": b""}))
    with pytest.raises(AssertionError, match="invalid diffID"):
        daemon.load(made.write(scratch / "x.tar"))
