"""Superblock, devices and mappings are read as the slow reader reads them, and wrong bytes are refused by name."""

from __future__ import annotations

import dataclasses
import errno
import os
import struct

import pytest
from hypothesis import given

from lamella._kernels import thinmeta
from lamella.block.metadata import DeviceDetails, Metadata
from lamella.block.superblock import Superblock
from lamella.errors import MetadataError
from tests.block import images
from tests.reference import thinread


def extents_of(metadata: Metadata, dev_id: int) -> list[tuple[int, ...]]:
    """Return a device's mappings as plain tuples."""
    return [tuple(extent) for table in metadata.extents(dev_id) for extent in table]


def assert_read_alike(metadata: Metadata, image: thinread.Image) -> None:
    found = metadata.superblock
    assert (found.time, found.transaction_id, found.held_root) == (image.time, image.transaction, image.held)
    assert dataclasses.astuple(found.data_sm) == image.data_sm
    assert dataclasses.astuple(found.metadata_sm) == image.metadata_sm
    assert metadata.devices() == [DeviceDetails(*row) for row in image.devices()]
    assert metadata.roots() == image.roots()
    for dev_id, root in image.roots().items():
        assert extents_of(metadata, dev_id) == thinread.runs(image.mappings(root))


@pytest.mark.parametrize("name", images.NAMES)
def test_images_of_the_kernel(scratch, name):
    with Metadata.open(images.golden_image(name, scratch)) as metadata:
        assert_read_alike(metadata, thinread.Image(images.golden(f"{name}.img")))


def test_a_held_snapshot_is_the_pool_of_then(scratch):
    data = images.golden("held.img")
    live = thinread.Image(data)
    path = images.golden_image("held", scratch)
    for snapshot in (True, live.held):
        with Metadata.open(path, snapshot=snapshot) as metadata:
            assert_read_alike(metadata, thinread.Image(data, live.held))
            assert metadata.superblock.data_sm.nblocks == 0
            assert metadata.nr_data_blocks == live.data_sm[0]


def test_no_snapshot_is_held(scratch):
    with pytest.raises(MetadataError, match="no metadata snapshot"):
        Metadata.open(images.golden_image("shared", scratch), snapshot=True)


@given(found=images.devices())
def test_what_thin_restore_wrote(found, home):
    with images.folder(home) as folder:
        path = images.restored(found, folder)
        with Metadata.open(path) as metadata:
            for dev_id, runs in found.items():
                assert [tuple(extent)[:3] for extent in metadata.devices() if extent[0] == dev_id] == [
                    (dev_id, sum(run[2] for run in runs), 2)
                ]
            assert_read_alike(metadata, thinread.Image(path.read_bytes(), check=False))


def test_a_descriptor_stays_open(scratch):
    fd = os.open(images.golden_image("shared", scratch), os.O_RDONLY)
    try:
        with Metadata.open(fd) as metadata:
            assert metadata.devices()
        os.fstat(fd)
    finally:
        os.close(fd)


def test_there_is_no_such_device(scratch):
    with Metadata.open(images.golden_image("shared", scratch)) as metadata, pytest.raises(OSError, match="no thin device 77") as caught:
        metadata.root_of(77)
    assert caught.value.errno == errno.ENODATA


def resealed(change: dict[str, object]) -> bytes:
    """Return an image whose superblock was changed and sealed again."""
    data = bytearray(images.golden("shared.img"))
    found = dataclasses.replace(Superblock.unpack(bytes(data[:4096])), **change)
    block = bytearray(found.pack())
    thinmeta.seal(block, 0, thinmeta.SALT_SUPERBLOCK)
    data[:4096] = block
    return bytes(data)


def test_a_superblock_packs_to_the_same_bytes():
    assert resealed({}) == images.golden("shared.img")


def refused(scratch, data: bytes) -> MetadataError:
    path = scratch / "bad.bin"
    path.write_bytes(data)
    with pytest.raises(MetadataError) as caught:
        Metadata.open(path)
    assert caught.value.block == 0
    return caught.value


def test_other_superblocks_are_refused(scratch):
    assert "version 3" in str(refused(scratch, resealed({"version": 3})))
    assert "features are not known: 0x4" in str(refused(scratch, resealed({"incompat_flags": 4})))
    magic = bytearray(images.golden("shared.img"))
    struct.pack_into("<Q", magic, 32, 1)
    thinmeta.seal(memoryview(magic)[:4096], 0, thinmeta.SALT_SUPERBLOCK)
    assert "magic number 1" in str(refused(scratch, bytes(magic)))
    moved = bytearray(images.golden("shared.img"))
    thinmeta.seal(memoryview(moved)[:4096], 5, thinmeta.SALT_SUPERBLOCK)
    assert "another block's number" in str(refused(scratch, bytes(moved)))
    flipped = bytearray(images.golden("shared.img"))
    flipped[50] ^= 1
    assert "checksum" in str(refused(scratch, bytes(flipped)))
    assert "all zero: no pool" in str(refused(scratch, bytes(40960)))
    assert "outside the device of 0 blocks" in str(refused(scratch, b"short"))


def test_compatible_features_are_no_reason(scratch):
    path = scratch / "new.bin"
    path.write_bytes(resealed({"compat_flags": 1, "compat_ro_flags": 2}))
    with Metadata.open(path) as metadata:
        assert metadata.superblock.compat_ro_flags == 2


def test_a_folder_is_no_metadata(scratch):
    with pytest.raises(OSError, match=".") as caught:
        Metadata.open(scratch)
    assert caught.value.errno in {errno.ENOTBLK, errno.EISDIR}
