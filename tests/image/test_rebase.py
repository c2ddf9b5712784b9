"""An image moved onto another base: its layers change the new one as they changed the old."""

from __future__ import annotations

import json
import os

import pytest

from lamella import open_image
from lamella.errors import ConflictError, ImageError, ReferenceNotFound
from lamella.testing.listing import compare, listing
from lamella.testing.tars import directory, file, hardlink, layer_tar, opaque, symlink, whiteout
from tests.image.archives import archive
from tests.image.layouts import LAYER, HandMade, sha256
from tests.image.test_layout import DOCKER_CONFIG, DOCKER_LAYER, DOCKER_MANIFEST

NS = 10**9
ROOTLESS = os.geteuid() != 0
DIR = {"mtime_ns": 5 * NS}
OLD = [
    [directory("etc", **DIR), file("etc/conf", b"old"), file("etc/version", b"1"), directory("lib", **DIR), file("lib/a", b"a" * 600), file("gone", b"g")],
    [directory("opt", **DIR), file("opt/x", b"x"), symlink("bin", "lib")],
]  # fmt: skip
NEW = [
    [
        directory("etc", **DIR), file("etc/conf", b"new"), file("etc/version", b"2"), file("etc/more", b"more"), directory("lib", **DIR),
        file("lib/a", b"a" * 600), file("gone", b"g"), directory("opt", **DIR), file("opt/x", b"x"), symlink("bin", "lib"),
    ],
]  # fmt: skip
OWN = [
    [directory("app", **DIR), file("app/run", b"run"), whiteout("gone"), directory("opt", **DIR), file("opt/mine", b"m")],
    [hardlink("app/a", "lib/a"), file("bin/tool", b"t"), directory("app", **DIR), file("app/run", b"run 2")],
]  # fmt: skip
STEPS = {
    "old": [{"created_by": "old 0"}, {"created_by": "ENV", "empty_layer": True}, {"created_by": "old 1"}, {"created_by": "CMD", "empty_layer": True}],
    "new": [{"created_by": "new 0"}, {"created_by": "ENV new", "empty_layer": True}],
    "own": [{"created_by": "WORKDIR", "empty_layer": True}, {"created_by": "own 0"}, {"created_by": "own 1"}],
}  # fmt: skip
MACHINE = {"architecture": "amd64", "os": "linux"}


def image_of(path, layers, history=None, **more):
    config = {**MACHINE, "config": {"Env": ["A=b"]}, **({"history": history} if history else {}), **more.pop("config", {})}
    return HandMade(path, tars=[layer_tar(entries) for entries in layers], config=config, **more).write().reference


@pytest.fixture
def bases(scratch):
    """Give references to an image, its base, and another base."""
    old = image_of(scratch / "old", OLD, STEPS["old"])
    new = image_of(scratch / "new", NEW, STEPS["new"], config={"variant": "v2", "config": {"Env": ["C=d"]}})
    notes = {"org.opencontainers.image.base.digest": sha256(b"old"), "org.opencontainers.image.base.name": "old", "a": "b"}
    return image_of(scratch / "own", [*OLD, *OWN], [*STEPS["old"], *STEPS["own"]], manifest={"annotations": notes}), old, new


def unpacked(image, root):
    image.unpack(root, rootless=ROOTLESS)
    return listing(root)


@pytest.mark.parametrize("form", ["references", "images"])
@pytest.mark.parametrize("target", ["oci:{}/made:x", "docker-archive:{}/made.tar:x"])
def test_rebase(scratch, bases, form, target):
    own, old, new = bases
    with open_image(own) as image:
        if form == "images":
            with open_image(old) as old_image, open_image(new) as new_image:
                moved = image.rebase(old_image, new_image)
        else:
            moved = image.rebase(old, new)
    with moved, open_image(new) as base:
        assert moved.conflicts == ()
        assert moved.diff_ids[:1] == base.diff_ids
        assert len(moved.layers) == 3
        assert moved.verify() == []
        moved.save(target.format(scratch))
        tree, below = unpacked(moved, scratch / "root"), unpacked(base, scratch / "base")
    for path, content in {
        "etc/conf": b"new",
        "etc/version": b"2",
        "etc/more": b"more",
        "app/run": b"run 2",
        "lib/tool": b"t",
        "opt/mine": b"m",
    }.items():
        assert (scratch / "root" / path).read_bytes() == content
    assert tree[b"app/a"].links == (b"app/a", b"lib/a")
    assert b"gone" not in tree
    touched = {b"app", b"app/a", b"app/run", b"lib/a", b"lib/tool", b"opt/mine", b"gone"}
    assert (
        compare(
            {p: row for p, row in tree.items() if p not in touched}, {p: row for p, row in below.items() if p not in touched}
        )
        == []
    )
    with open_image(target.format(scratch)) as again:
        assert again.verify() == []
        assert again.id == moved.id


def test_documents(bases):
    own, old, new = bases
    with open_image(own) as image, image.rebase(old, new, created="2026-01-02T03:04:05Z") as moved, open_image(new) as base:
        assert moved.config["history"] == [*STEPS["new"], *STEPS["own"]]
        assert moved.config["config"] == image.config["config"]
        assert (moved.config["variant"], moved.config["created"]) == ("v2", "2026-01-02T03:04:05Z")
        assert moved.manifest["annotations"] == {"org.opencontainers.image.base.digest": base.digest, "a": "b"}
        assert moved.manifest["layers"][:1] == base.manifest["layers"]
        assert [step.layer for step in moved.history if step.layer] == list(moved.layers)


def test_a_layer_that_says_the_same_keeps_its_blob(bases):
    own, old, new = bases
    with open_image(own) as image, image.rebase(old, new) as moved:
        assert moved.layers[1].digest == image.layers[2].digest
    with open_image(own) as image, image.rebase(old, old) as same:
        assert same.diff_ids[:3] == image.diff_ids[:3]


@pytest.mark.parametrize("history", ["none", "old only", "new only", "in other words"])
def test_histories_that_do_not_fit(scratch, history):
    own = image_of(scratch / "own", [*OLD, *OWN], [] if history == "none" else [*STEPS["old"], *STEPS["own"]])
    old = image_of(scratch / "old", OLD, {"in other words": [{"created_by": "?"}] * 2, "old only": STEPS["old"]}.get(history))
    new = image_of(scratch / "new", NEW, STEPS["new"] if history != "old only" else None)
    with open_image(own) as image, image.rebase(old, new) as moved:
        assert moved.verify() == []
        words = [step.created_by for step in moved.history]
        # where the old base does not say which steps are its own, those behind its last layer are taken for the image's
        expected = [] if history in ("none", "old only") else [*STEPS["new"], STEPS["old"][3], *STEPS["own"]]
        assert words == [step["created_by"] for step in expected]


def test_conflicts(scratch):
    new = image_of(scratch / "new", [[directory("etc", **DIR), file("etc/conf", b"theirs")]])
    old = image_of(scratch / "old", [[directory("etc", **DIR), file("etc/conf", b"old")]])
    own = image_of(
        scratch / "own", [[directory("etc", **DIR), file("etc/conf", b"old")], [file("etc/conf", b"mine"), file("etc/y", b"y")]]
    )
    with open_image(own) as image:
        with pytest.raises(ConflictError) as caught:
            image.rebase(old, new)
        assert caught.value.path == b"etc/conf"
        with image.rebase(old, new, conflicts="keep") as moved:
            assert [(c.path, c.kind, c.layer) for c in moved.conflicts] == [(b"etc/conf", "both-changed", 0)]
            unpacked(moved, scratch / "root")
            assert (scratch / "root/etc/conf").read_bytes() == b"mine"
        with pytest.raises(ValueError, match="conflicts"):
            image.rebase(old, new, conflicts="lose")


def test_20_an_opaque_directory_hides_what_the_new_base_added(scratch):
    old = image_of(scratch / "old", [[directory("d", **DIR), file("d/a", b"a")]])
    new = image_of(scratch / "new", [[directory("d", **DIR), file("d/a", b"a"), file("d/new", b"n")]])
    own = image_of(
        scratch / "own", [[directory("d", **DIR), file("d/a", b"a")], [directory("d", **DIR), opaque("d"), file("d/b", b"b")]]
    )
    with open_image(own) as image, pytest.raises(ConflictError) as caught:
        image.rebase(old, new)
    assert caught.value.path == b"d/new"


@pytest.mark.parametrize("wrong", ["another", "longer", "nowhere"])
def test_an_image_that_does_not_stand_on_the_base(scratch, bases, wrong):
    own, _, new = bases
    base = {"another": new, "longer": image_of(scratch / "long", [*OLD, *OWN, []]), "nowhere": "oci:nowhere"}[wrong]
    with open_image(own) as image, pytest.raises(ReferenceNotFound if wrong == "nowhere" else ImageError):
        image.rebase(base, new)


def test_across_forms_and_types(scratch, bases):
    own, old, _ = bases
    new = f"docker-archive:{archive(*[layer_tar(entries) for entries in NEW]).write(scratch / 'new.tar')}"
    with open_image(own) as image, image.rebase(old, new) as moved:
        assert moved.verify() == []
        assert [layer.media_type.removeprefix(LAYER) for layer in moved.layers] == ["", "+gzip", "+gzip"]
    made = HandMade(
        scratch / "docker", tars=[layer_tar(entries) for entries in NEW], media_type=DOCKER_LAYER, config=MACHINE
    ).write("x")
    [entry] = json.loads((made.path / "index.json").read_text())["manifests"]
    manifest = json.loads(made.stored(entry["digest"]).read_text()) | {"mediaType": DOCKER_MANIFEST}
    manifest["config"]["mediaType"] = DOCKER_CONFIG
    made.list(made.document(manifest, DOCKER_MANIFEST), "docker")
    with open_image(own) as image, image.rebase(old, f"{made.reference}:docker") as moved:
        assert moved.verify() == []
        assert {layer.media_type for layer in moved.layers} == {LAYER + "+gzip"}
        assert not moved.docker


def test_nothing_is_left(bases):
    own, old, new = bases
    before = set(os.listdir("/proc/self/fd"))
    with open_image(own) as image:
        image.rebase(old, new).close()
        with pytest.raises(ImageError):
            image.rebase(new, old)
    assert set(os.listdir("/proc/self/fd")) == before
