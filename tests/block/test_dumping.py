"""A dump is thin_dump's, byte for byte: of the kernel's images and of generated ones, in both forms, with its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella.block.dumping import Overrides, dump
from lamella.block.metadata import Metadata
from lamella.errors import MetadataError
from tests.block import images


def dumped(path: Path, *, snapshot: bool | None = None, **options: Any) -> bytes:
    pieces: list[bytes] = []
    with Metadata.open(path, snapshot=snapshot) as metadata:
        dump(metadata, lambda piece: pieces.append(bytes(piece)), **options)
    return b"".join(pieces)


@pytest.mark.parametrize("name", images.NAMES)
def test_images_of_the_kernel(scratch, name):
    path = images.golden_image(name, scratch)
    assert dumped(path) == images.golden(f"{name}.xml")
    assert dumped(path, form="human_readable") == images.golden(f"{name}.txt")


def test_a_held_snapshot(scratch):
    assert dumped(images.golden_image("held", scratch), snapshot=True) == images.golden("held.held.xml")


OPTIONS = {
    "plain": ([], {}),
    "human": (["-f", "human_readable"], {"form": "human_readable"}),
    "no mappings": (["--skip-mappings"], {"mappings": False}),
    "no mappings, human": (["--skip-mappings", "-f", "human_readable"], {"mappings": False, "form": "human_readable"}),
    "some": (["--dev-id", "0", "--dev-id", "1"], {"dev_ids": [0, 1]}),
    "overridden": (
        ["--transaction-id", "7", "--data-block-size", "256", "--nr-data-blocks", "9000"],
        {"overrides": Overrides(7, 256, 9000)},
    ),
}


@pytest.mark.requires("thin_restore", "thin_dump")
@given(found=images.devices(), case=st.sampled_from(sorted(OPTIONS)))
def test_what_thin_restore_wrote(found, case, home):
    words, options = OPTIONS[case]
    with images.folder(home) as scratch:
        path = images.restored(found, scratch)
        assert dumped(path, **options) == images.tool("thin_dump", *words, path).stdout


def test_damage_is_named(scratch):
    path = images.golden_image("shared", scratch)
    with Metadata.open(path) as metadata:
        root = next(iter(metadata.roots().values()))
    with path.open("r+b") as file:
        file.seek(root * 4096 + 100)
        file.write(b"damage")
    with pytest.raises(MetadataError) as caught:
        dumped(path)
    assert caught.value.block == root
