"""Space maps that are wrong are made anew; trees that are damaged are refused, and the output is left as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamella.block.building import output_device
from lamella.block.dumping import Overrides
from lamella.block.metadata import Metadata
from lamella.block.repairing import repair
from lamella.errors import MetadataError
from tests.block import images
from tests.block.test_dumping import dumped
from tests.block.test_restoring import assert_counts_hold, blank
from tests.reference import thinread


def repaired(source: Path, target: Path, overrides: Overrides = Overrides()) -> Path:  # noqa: B008  (frozen)
    with Metadata.open(source) as metadata, output_device(target) as fd:
        repair(metadata, fd, overrides=overrides)
    return target


def damaged(path: Path, block: int) -> Path:
    data = bytearray(path.read_bytes())
    data[4096 * block + 2000] ^= 0xFF
    path.write_bytes(data)
    return path


def map_blocks(data: bytes) -> list[int]:
    """Return blocks that space maps alone need."""
    image = thinread.Image(data)
    return [*image.index(metadata=False), *image.index(metadata=True), image.metadata_sm[2], image.data_sm[3]]


@pytest.mark.requires("thin_check")
@pytest.mark.parametrize("name", images.NAMES)
def test_space_maps_are_made_anew(scratch, name):
    path = images.golden_image(name, scratch)
    for block in map_blocks(path.read_bytes()):
        damaged(path, block)
    assert images.tool("thin_check", "-q", path).returncode == 1
    target = repaired(path, blank(scratch))
    assert images.tool("thin_check", "-q", target).returncode == 0
    assert dumped(target) == images.golden(f"{name}.xml")
    assert_counts_hold(target)


@pytest.mark.requires("thin_repair", "thin_dump")
@pytest.mark.parametrize("name", images.NAMES)
def test_as_thin_repair_does(scratch, name):
    path = images.golden_image(name, scratch)
    theirs = scratch / "theirs.bin"
    theirs.write_bytes(bytes(4096 * 1024))
    assert images.tool("thin_repair", "-i", path, "-o", theirs).returncode == 0
    assert dumped(repaired(path, blank(scratch))) == images.tool("thin_dump", theirs).stdout


@pytest.mark.parametrize("which", ["details_root", "data_root", "tree"])
def test_trees_that_are_damaged_are_refused(scratch, which):
    path = images.golden_image("shared", scratch)
    image = thinread.Image(path.read_bytes())
    block = getattr(image, which) if which != "tree" else list(image.roots().values())[-1]
    target = blank(scratch)
    with pytest.raises(MetadataError) as caught:
        repaired(damaged(path, block), target)
    assert caught.value.block == block
    assert target.read_bytes() == b"\xa5" * target.stat().st_size


def test_a_superblock_that_is_damaged_is_refused(scratch):
    path = images.golden_image("shared", scratch)
    with pytest.raises(MetadataError) as caught:
        repaired(damaged(path, 0), blank(scratch))
    assert caught.value.block == 0


def test_overrides_and_what_is_not_kept(scratch):
    """The metadata snapshot goes: its tree is not the pool's."""
    path = images.golden_image("held", scratch)
    with Metadata.open(repaired(path, blank(scratch), Overrides(77, 512, 4000))) as metadata:
        found = metadata.superblock
    assert (found.transaction_id, found.data_block_size, found.data_sm.nblocks, found.held_root) == (77, 512, 4000, 0)


def test_not_in_place(scratch):
    path = images.golden_image("shared", scratch)
    link = scratch / "link"
    link.symlink_to(path)
    with pytest.raises(OSError, match="in place"):
        repaired(path, link)
    assert dumped(path) == images.golden("shared.xml")
