"""Layers as one: the same tree, by a layer that says no more than it must."""

from __future__ import annotations

import os

import pytest

import lamella
from lamella import open_image
from lamella.errors import BlobNotFound, DigestMismatchError
from lamella.testing.listing import compare, listing
from lamella.testing.tars import directory, file, hardlink, layer_tar, opaque, symlink, whiteout
from tests.image.archives import archive
from tests.image.layouts import LAYER, HandMade, sha256

NS = 10**9
LAYERS = [
    [
        directory("d", mtime_ns=5 * NS), file("d/a", b"a"), file("d/b", b"b" * 100), directory("gone"), file("gone/x"), directory("e"),
        file("e/x", b"e"), symlink("ln", "d"), symlink("s", "nowhere"),
    ],
    [hardlink("h", "d/a"), hardlink("s2", "s"), whiteout("gone"), file("d/b", b"B"), directory("d", mode=0o700, mtime_ns=6 * NS)],
    [directory("e", mode=0o711), opaque("e"), file("e/y", b"y"), whiteout("d/a"), file("top", b"t")],
]  # fmt: skip
TARS = [layer_tar(entries) for entries in LAYERS]
HISTORY = [
    {"created_by": "0"},
    {"created_by": "ENV", "empty_layer": True},
    {"created_by": "1"},
    {"created_by": "2"},
    {"created_by": "CMD", "empty_layer": True},
]
ROOTLESS = os.geteuid() != 0


@pytest.fixture(params=["layout", "archive"])
def image(request, scratch):
    if request.param == "archive":
        opened = open_image(f"docker-archive:{archive(*TARS).write(scratch / 'source.tar')}")
    else:
        made = HandMade(
            scratch / "source", tars=TARS, config={"history": HISTORY, "x-new": [1]}, manifest={"annotations": {"a": "b"}}
        )
        opened = open_image(made.write().reference)
    with opened:
        yield opened


def unpacked(image, root):
    image.unpack(root, rootless=ROOTLESS)
    return listing(root)


@pytest.mark.parametrize(("start", "stop"), [(0, None), (0, 2), (1, None), (1, 3), (-2, None), (0, -1), (0, 1), (2, 9)])
def test_the_tree_is_the_same(image, scratch, start, stop):
    n_squashed = len(image.layers[start:stop])
    with image.squash(start=start, stop=stop) as edited:
        assert len(edited.layers) == 3 - n_squashed + 1
        assert edited.verify() == []
        assert compare(unpacked(image, scratch / "a"), unpacked(edited, scratch / "b")) == []
        first = range(3)[start:stop].start
        assert edited.diff_ids[:first] == image.diff_ids[:first]
        assert edited.config.get("x-new") == image.config.get("x-new")
        assert edited.manifest.get("annotations") == image.manifest.get("annotations")
        edited.save(f"docker-archive:{scratch}/x.tar:app")
        edited.save(f"oci:{scratch}/y:app", compression="zstd")
    for saved in ("x.tar", "y"):
        with open_image(scratch / saved) as again:
            assert again.verify() == []
            assert again.id == edited.id
            assert compare(listing(scratch / "a"), unpacked(again, scratch / f"of-{saved}")) == []


def test_115_links_to_links_stay_and_no_marker_is_left(image):
    with image.squash() as edited, edited.layers[0].reader() as reader:
        entries = {entry.path: (entry.type.name, entry.link_target) for entry in reader}
    assert {name for name in entries if b".wh." in name} == set()
    kinds = sorted(entries[name] for name in (b"s", b"s2"))
    assert [kind for kind, _ in kinds] == ["HARDLINK", "SYMLINK"]
    assert b"d/a" not in entries
    assert entries[b"h"] == ("FILE", b"")


def test_history(image):
    with image.squash(start=1, comment="why", created="2026-01-02T03:04:05Z") as edited:
        if "history" not in image.config:
            assert "history" not in edited.config
            return
        step = {"created": "2026-01-02T03:04:05Z", "created_by": "lamella squash 1:", "comment": "why"}
        empty = [{**HISTORY[i], "empty_layer": True} for i in (2, 3)]
        assert edited.config["history"] == [HISTORY[0], HISTORY[1], *empty, step, HISTORY[4]]
        assert [step.layer for step in edited.history if step.layer] == list(edited.layers)
        assert edited.config["created"] == "2026-01-02T03:04:05Z"


@pytest.mark.parametrize("compression", [None, "none", "gzip", "zstd"])
def test_compression(image, compression):
    with image.squash(compression=compression) as edited:
        wanted = {"none": "", "gzip": "+gzip", "zstd": "+zstd", None: image.layers[-1].media_type.removeprefix(LAYER)}[
            compression
        ]
        assert edited.layers[0].media_type == LAYER + wanted


def test_the_same_squash_gives_the_same_image(image):
    with image.squash() as one, image.squash() as two:
        assert (one.id, one.digest) == (two.id, two.digest)


@pytest.mark.parametrize(("start", "stop"), [(3, None), (1, 1), (2, 1), (0, -3)])
def test_nothing_to_squash(image, start, stop):
    with pytest.raises(ValueError, match="no layers"):
        image.squash(start=start, stop=stop)


def test_layers_are_verified_before_they_are_used(scratch):
    diff_ids = [sha256(TARS[0]), sha256(b"another")]
    made = HandMade(scratch / "source", tars=TARS[:2], config={"rootfs": {"type": "layers", "diff_ids": diff_ids}}).write()
    with open_image(made.reference) as image, pytest.raises(DigestMismatchError):
        image.squash()
    made = HandMade(scratch / "other", tars=TARS).write()
    made.stored(sha256(made.blobs[2])).unlink()
    with open_image(made.reference) as image, pytest.raises(BlobNotFound):
        image.squash()


def test_a_squashed_image_outlives_the_other_and_can_be_edited_again(image, scratch):
    with image.squash(stop=2) as once:
        image.close()
        with once.append(layer_tar([file("more", b"m")])) as more, more.squash() as twice:
            once.close()
            more.close()
            assert len(twice.layers) == 1
            assert b"more" in unpacked(twice, scratch / "root")


def test_nothing_is_left(scratch):
    before = set(os.listdir("/proc/self/fd"))
    with open_image(archive(*TARS).write(scratch / "x.tar")) as image, image.squash() as edited:
        lamella.open_image(scratch / "x.tar").close()
        edited.save(f"oci:{scratch}/target")
    assert set(os.listdir("/proc/self/fd")) == before
    assert sorted(os.listdir(scratch)) == ["target", "x.tar"]
