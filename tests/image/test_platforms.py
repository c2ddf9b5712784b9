"""Of several images the one for the platform that was asked for, or for this machine."""

from __future__ import annotations

import json

import pytest

from lamella import open_image
from lamella.errors import ImageError, ReferenceNotFound
from lamella.image.documents import Platform
from lamella.image.platforms import fits, goarch, parse_platform, shown_platform
from tests.image.archives import BASE, archive
from tests.image.layouts import CONFIG, INDEX, MANIFEST, HandMade

PLATFORMS = ["linux/amd64", "linux/arm/v6", "linux/arm/v7", "linux/arm64/v8", "windows/amd64", "linux/s390x"]


def described(made, platform):
    """Store the image of the layout once more, for ``platform``."""
    os, architecture, *variant = platform.split("/")
    document = {"os": os, "architecture": architecture} | ({"variant": variant[0]} if variant else {})
    stored = made.document({**document, "rootfs": {"type": "layers", "diff_ids": []}}, CONFIG)
    manifest = {"schemaVersion": 2, "config": stored, "layers": [], "annotations": {"for": platform}}
    return made.document(manifest, MANIFEST) | {"platform": document}


@pytest.fixture(params=["nested", "nested twice", "flat"])
def several(request, scratch):
    """Give a reference to an image for several platforms."""
    made = HandMade(scratch / "image").write("other")
    listed = [described(made, platform) for platform in PLATFORMS]
    if request.param == "flat":
        for one in listed:
            made.list(one, "x")
    else:
        index = made.document({"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}, INDEX)
        if request.param == "nested twice":
            index = made.document({"schemaVersion": 2, "mediaType": INDEX, "manifests": [index]}, INDEX)
        made.list(index, "x")
    return f"{made.reference}:x"


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("linux/amd64", "linux/amd64"), ("linux/x86_64", "linux/amd64"), ("Linux/AMD64/v1", "linux/amd64"),
        ("linux/arm", "linux/arm/v6"), ("linux/arm/v7", "linux/arm/v7"), ("linux/arm64", "linux/arm64/v8"),
        ("linux/aarch64/v8", "linux/arm64/v8"), ("windows/amd64", "windows/amd64"), ("linux/s390x", "linux/s390x"),
    ],
)  # fmt: skip
def test_the_platform_that_was_asked_for(several, asked, found):
    with open_image(several, platform=asked) as image:
        assert image.manifest["annotations"] == {"for": found}


@pytest.mark.skipif(goarch() not in ("amd64", "arm64", "s390x"), reason="another machine")
def test_this_machine_s(several):
    with open_image(several) as image:
        assert image.config["architecture"] == goarch()
        assert image.config["os"] == "linux"


@pytest.mark.parametrize("asked", ["linux/riscv64", "linux/arm/v5", "plan9/amd64", "linux/amd64/v3"])
def test_one_that_is_not_there_lists_what_there_is(several, asked):
    with pytest.raises(
        ReferenceNotFound, match="linux/amd64, linux/arm/v6, linux/arm/v7, linux/arm64/v8, windows/amd64"
    ) as caught:
        open_image(several, platform=asked)
    assert asked in str(caught.value)


@pytest.mark.parametrize("form", ["layout", "archive"])
def test_an_image_that_stands_alone_is_for_what_its_config_says(scratch, form):
    reference = HandMade(scratch / "image").write().path if form == "layout" else archive(BASE).write(scratch / "x.tar")
    open_image(reference).close()
    open_image(reference, platform="linux/amd64").close()
    with pytest.raises(ReferenceNotFound, match="is for linux/amd64, not linux/arm64"):
        open_image(reference, platform="linux/arm64")


@pytest.mark.parametrize("text", ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux//v7"])
def test_not_platforms(scratch, text):
    with pytest.raises(ImageError, match="OS/ARCHITECTURE"):
        open_image(HandMade(scratch / "image").write().reference, platform=text)


def test_a_platform_reads_back():
    for text in PLATFORMS:
        assert shown_platform(parse_platform(text)) == text
    assert shown_platform(None) == "any"
    assert fits(Platform("arm", "linux", "v7"), Platform("arm", "linux"))
    assert not fits(Platform("arm", "linux", "v6"), Platform("arm", "linux"))


def test_an_index_of_images_that_no_one_asked_for_is_saved_as_the_one_that_was_chosen(several, scratch):
    with open_image(several, platform="linux/s390x") as image:
        image.save(f"oci:{scratch}/target:x")
    assert len(json.loads((scratch / "target/index.json").read_text())["manifests"]) == 1
    with open_image(f"oci:{scratch}/target:x") as again:
        assert again.digest == image.digest
