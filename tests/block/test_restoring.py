"""What is restored, thin_check accepts, thin_dump tells as it told thin_restore's, and a recount agrees with."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from lamella.block import building
from lamella.block.building import Builder, output_device
from lamella.block.dumping import Overrides
from lamella.block.metadata import Metadata
from lamella.block.restoring import restore
from lamella.errors import FormatError, MetadataError, PoolFullError
from tests.block import images
from tests.block.test_dumping import dumped
from tests.reference import thinread

PART = pytest.mark.requires("thin_restore", "thin_check", "thin_dump")


def blank(folder: Path, nblocks: int = 1024, fill: bytes = b"\xa5") -> Path:
    """Make an output of blocks that held something else."""
    path = folder / "output.bin"
    path.write_bytes(fill * (4096 * nblocks))
    return path


def restored(text: str | bytes, path: Path, **options: Any) -> Path:
    with output_device(path) as fd:
        restore(io.BytesIO(text.encode() if isinstance(text, str) else text), fd, **options)
    return path


def assert_counts_hold(path: Path, *, check: bool = True) -> thinread.Image:
    image = thinread.Image(path.read_bytes(), check=check)
    image.count()
    counts = image.counts(metadata=True)
    assert {block: count for block, count in enumerate(counts) if count} == dict(image.used)
    assert image.metadata_sm[1] == len(image.used)
    counts = image.counts(metadata=False)
    assert {block: count for block, count in enumerate(counts) if count} == dict(image.data_used)
    assert image.data_sm[1] == len(image.data_used)
    return image


@PART
@given(found=images.devices())
def test_generated_devices(found, home):
    with images.folder(home) as scratch:
        path = restored(images.xml(found), blank(scratch))
        done = images.tool("thin_check", path)
        assert done.returncode == 0, done.stderr
        theirs = images.tool("thin_dump", images.restored(found, scratch)).stdout
        assert images.tool("thin_dump", path).stdout == theirs == dumped(path)


@given(found=images.devices())
def test_a_recount(found, home):
    with images.folder(home) as scratch:
        image = assert_counts_hold(restored(images.xml(found), blank(scratch, 600)))
        assert {dev_id: thinread.runs(image.mappings(root)) for dev_id, root in image.roots().items()} == {
            dev_id: thinread.runs({thin + i: (data + i, time) for thin, data, n, time in runs for i in range(n)})
            for dev_id, runs in found.items()
        }


@pytest.mark.parametrize("name", images.NAMES)
def test_images_of_the_kernel(scratch, name):
    path = restored(images.golden(f"{name}.xml"), blank(scratch))
    assert dumped(path) == images.golden(f"{name}.xml")
    assert_counts_hold(path)


@PART
def test_three_levels_and_counts_above_two(scratch):
    """Seventy thousand singles are 278 leaves; blocks that two hundred devices map are counted in the tree."""
    singles = [(3 * i, 2 * i % 2999, 1, i % 3) for i in range(70_000)]
    found = {0: singles} | {dev_id: [(0, 0, 700, 1)] for dev_id in range(1, 200)}
    path = restored(images.xml(found), blank(scratch, 2048))
    assert images.tool("thin_check", "-q", path).returncode == 0
    assert images.tool("thin_dump", path).stdout == dumped(path)
    image = assert_counts_hold(path, check=False)
    assert max(image.counts(metadata=False)) > 200


def test_more_bitmaps_than_are_made_at_once(scratch):
    nr = 16320 * 130 + 7
    text = images.xml({1: [(0, 1, 1, 0), (1, nr - 2, 2, 0)], 2: [(5, nr - 1, 1, 0)], 3: [(5, nr - 1, 1, 0)]})
    path = restored(text.replace(f'nr_data_blocks="{images.NR_DATA}"', f'nr_data_blocks="{nr}"'), blank(scratch))
    image = assert_counts_hold(path, check=False)
    assert image.data_sm[:2] == (nr, 3)
    assert image.counts(metadata=False)[-2:] == [1, 3]


def test_counts_in_the_head_are_not_believed_and_overrides_are(scratch):
    text = images.xml({4: [(0, 0, 5, 0)]}).replace('mapped_blocks="5"', 'mapped_blocks="77"')
    path = restored(text, blank(scratch), overrides=Overrides(9, 64, 500))
    with Metadata.open(path) as metadata:
        assert metadata.devices()[0].mapped_blocks == 5
        found = metadata.superblock
        assert (found.transaction_id, found.data_block_size, found.data_sm.nblocks) == (9, 64, 500)
        assert (found.metadata_nblocks, found.metadata_block_size) == (1024, 8)


def test_mappings_and_devices_in_any_order(scratch):
    runs = [(i * 5, i * 3, 1 + i % 3, i % 2) for i in range(900)]
    ordered = restored(images.xml({1: runs, 7: runs[:3]}), blank(scratch))
    expected = dumped(ordered)
    shuffled = [*runs[500:], *runs[:500]]
    assert dumped(restored(images.xml({7: runs[2::-1], 1: shuffled}), blank(scratch))) == expected
    assert_counts_hold(ordered)


WRONG = {
    "beyond": (images.xml({1: [(0, images.NR_DATA, 1, 0)]}), "mapping beyond end of data device"),
    "a block twice": (images.xml({1: [(5, 0, 2, 0), (6, 0, 1, 0)]}), "block 6 after block 6"),
    "a device twice": (images.xml({1: []}).replace("</device>", "</device>" + images.xml({1: []}).split("\n")[1] + "</device>"),
                       "Device already exists: 1"),
    "broken": (images.xml({1: [(0, 0, 5, 0)]})[:-20], "too early"),
    "empty": ("", "too early"),
    "unknown": (images.xml({1: []}).replace("</superblock>", '<def name="x"/></superblock>'), "line 4: unknown element"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_text_leaves_no_pool_and_no_blank_device(scratch, case):
    text, words = WRONG[case]
    path = restored(images.xml({9: []}), blank(scratch))
    with pytest.raises(FormatError, match=words):
        restored(text, path)
    if case == "empty":
        return
    with pytest.raises(MetadataError, match="block 0"):
        Metadata.open(path)
    assert any(path.read_bytes()[:4096])  # the kernel would make a new pool on zeros


def test_a_device_that_is_too_small(scratch):
    text = images.xml({0: [(0, 0, 300, 0), (400, 0, 300, 1)], 5: [(9, 9, 9, 0)]})
    need = next(n for n in range(10, 40) if _fits(text, scratch, n))
    assert need > 10
    for n in (10, need - 1):
        path = blank(scratch, n)
        with pytest.raises(PoolFullError, match="too small") as caught:
            restored(text, path)
        assert caught.value.what == "metadata"
        with pytest.raises(MetadataError):
            Metadata.open(path)
    assert_counts_hold(restored(text, blank(scratch, need)))
    tiny = blank(scratch, 9)
    with pytest.raises(PoolFullError):
        restored(text, tiny)
    assert tiny.read_bytes() == b"\xa5" * (9 * 4096)
    with pytest.raises(PoolFullError):
        restored(text.replace(f'"{images.NR_DATA}"', f'"{2**62}"'), blank(scratch))


def _fits(text: str, folder: Path, nblocks: int) -> bool:
    try:
        restored(text, blank(folder, nblocks))
    except PoolFullError:
        return False
    return True


def test_the_superblock_is_written_last_and_all_else_is_on_disk_before(scratch, monkeypatch):
    calls: list[tuple[str, int]] = []
    pwrite, fsync = os.pwrite, os.fsync
    monkeypatch.setattr(os, "pwrite", lambda fd, b, at: calls.append(("write", at)) or pwrite(fd, b, at))
    monkeypatch.setattr(building.os, "fsync", lambda fd: calls.append(("sync", 0)) or fsync(fd))
    path = restored(images.xml({1: [(0, 0, 600, 0)]}), blank(scratch))
    assert calls[:2] == [("write", 0), ("sync", 0)]
    assert calls[-3:] == [("sync", 0), ("write", 0), ("sync", 0)]
    offsets = [at for what, at in calls[2:-3] if what == "write"]
    assert offsets == sorted(offsets)
    assert 0 not in offsets
    assert_counts_hold(path)


def test_writes_that_do_not_write_all(scratch, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, b, at: pwrite(fd, bytes(b)[:1500], at))
    assert_counts_hold(restored(images.xml({1: [(0, 0, 600, 0)]}), blank(scratch)))


def test_an_output_that_is_no_device(scratch):
    with pytest.raises(FileNotFoundError), output_device(scratch / "absent"):
        pass
    with pytest.raises(IsADirectoryError), output_device(scratch):
        pass
    reading, writing = os.pipe()
    try:
        with pytest.raises(OSError, match="neither a regular file nor a block device"):
            Builder(writing, nr_data_blocks=1)
    finally:
        os.close(reading)
        os.close(writing)
