"""A check finds what is wrong, agrees with thin_check on what is fatal, and reads every used block once."""

from __future__ import annotations

import dataclasses
import os
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella._kernels import thinmeta
from lamella.block.checking import Checker, Depth, Problem, check
from lamella.block.counting import Counts, space_map
from lamella.block.metadata import Metadata
from lamella.block.needs_check import clear_needs_check
from lamella.block.superblock import Superblock
from lamella.errors import MetadataError
from tests.block import images
from tests.reference import thinread

SEALS = (thinread.SUPERBLOCK, thinread.NODE, thinread.BITMAP, thinread.INDEX)


def problems_of(path, **options) -> list[Problem]:
    """Check a file; a superblock that cannot be used is a problem as well."""
    try:
        with Metadata.open(path) as metadata:
            return check(metadata, **options)
    except MetadataError as error:
        return [Problem(str(error))]


def assert_judged_alike(path) -> list[Problem]:
    """Compare with thin_check: the verdict, and the one that lets lost blocks pass. It does not look at some things."""
    problems = problems_of(path)
    seen = [p for p in problems if not p.what.startswith("data reference") and "a value that cannot be" not in str(p)]
    assert images.tool("thin_check", "-q", path).returncode == bool(seen), problems
    lenient = images.tool("thin_check", "-q", "--ignore-non-fatal-errors", path).returncode
    assert lenient == any(problem.fatal for problem in seen), problems
    return problems


def block_of(data: bytearray, number: int) -> memoryview:
    return memoryview(data)[4096 * number : 4096 * (number + 1)]


@pytest.mark.parametrize("name", [*images.NAMES, "empty"])
def test_images_of_the_kernel_are_sound(scratch, name):
    path = images.golden_image(name, scratch)
    assert problems_of(path) == []
    for depth in Depth:
        assert problems_of(path, depth=depth) == []


def test_a_held_snapshot_is_sound(scratch):
    with Metadata.open(images.golden_image("held", scratch), snapshot=True) as metadata:
        names = [name for name, step in Checker(metadata).steps() if list(step()) == []]
    assert names == ["examining devices tree", "examining mapping tree"]


@given(found=images.devices())
def test_what_thin_restore_wrote_is_sound(found, home):
    with images.folder(home) as folder:
        assert problems_of(images.restored(found, folder)) == []


@pytest.mark.parametrize("name", images.NAMES)
def test_counts_are_those_of_the_slow_reader(scratch, name):
    image = thinread.Image(images.golden(f"{name}.img"))
    image.count()
    with Metadata.open(images.golden_image(name, scratch)) as metadata:
        checker = Checker(metadata)
        assert [problem for _, step in checker.steps() for problem in step()] == []
        assert {block: count for block, count in enumerate(checker.counts.uses.tolist()) if count} == image.used
        for is_metadata, root in ((True, metadata.superblock.metadata_sm), (False, metadata.superblock.data_sm)):
            has, damage = space_map(Counts(metadata), root, metadata=is_metadata)
            assert damage == []
            assert has.tolist() == image.counts(metadata=is_metadata)
            wants = image.used if is_metadata else image.data_used
            assert {block: count for block, count in enumerate(has.tolist()) if count} == wants


@pytest.mark.parametrize("name", images.NAMES)
def test_every_used_block_is_read_once(scratch, name):
    image = thinread.Image(images.golden(f"{name}.img"))
    image.count()
    with Metadata.open(images.golden_image(name, scratch)) as metadata:
        assert check(metadata) == []
        assert 0 < metadata.n_reads <= len(image.used)
        before = metadata.n_reads
        assert metadata.memory.state.astype(bool).sum() <= len(image.used)
        again = Checker(metadata)  # what stays in memory is not read again; leaves of mappings are
        assert [problem for _, step in again.steps() for problem in step()] == []
        assert metadata.n_reads - before < before


@pytest.mark.parametrize("name", ["devices", "shared", "held"])
def test_a_flipped_byte_in_any_used_block_is_found(scratch, name):
    image = thinread.Image(images.golden(f"{name}.img"))
    image.count()
    rng = random.Random(name)
    path = scratch / "flipped.bin"
    for number in sorted(image.used):
        data = bytearray(image.data)
        data[4096 * number + rng.randrange(4096)] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        problems = assert_judged_alike(path)
        assert any(f"block {number}:" in str(problem) for problem in problems), (number, problems)


def test_a_flipped_byte_in_a_free_block_is_not_looked_at(scratch):
    image = thinread.Image(images.golden("shared.img"))
    image.count()
    path = scratch / "flipped.bin"
    for number in sorted(set(range(len(image.data) // 4096)) - set(image.used))[::40]:
        data = bytearray(image.data)
        data[4096 * number + 99] ^= 255
        path.write_bytes(data)
        assert assert_judged_alike(path) == []


def counted(data: bytes, *, metadata: bool, block: int, change: int) -> bytes:
    """Return the image with the count of a block, that is at most 2, made another one."""
    image = thinread.Image(data, check=False)
    number = image.index(metadata=metadata)[0]
    changed = bytearray(data)
    bitmap = block_of(changed, number)
    at = 16 + block // 4
    pair = (change & 1) << 1 | change >> 1
    bitmap[at] = bitmap[at] & ~(3 << block % 4 * 2) | pair << block % 4 * 2
    thinmeta.seal(bitmap, number, thinread.BITMAP)
    return bytes(changed)


@pytest.mark.parametrize("metadata", [True, False], ids=["metadata", "data"])
@pytest.mark.parametrize("change", [0, 1, 2])
@pytest.mark.parametrize("block", [3, 300])
def test_a_wrong_count_is_found(scratch, metadata, change, block):
    image = thinread.Image(images.golden("shared.img"))
    has = image.counts(metadata=metadata)[block]
    path = scratch / "counted.bin"
    path.write_bytes(counted(image.data, metadata=metadata, block=block, change=change))
    problems = assert_judged_alike(path)
    if has == change:
        assert problems == []
        return
    kind = "metadata" if metadata else "data"
    what = f"{kind} reference counts differ for block {block}, expected {has}, but got {change}"
    assert problems == [Problem(what, fatal=change < has)]


def with_details(data: bytes, n: int) -> bytes:
    """Return the image with that many entries in its details, which are one leaf."""
    changed = bytearray(data)
    root = Superblock.unpack(data[:4096]).details_root
    struct.pack_into("<I", changed, 4096 * root + 16, n)
    thinmeta.seal(block_of(changed, root), root, thinread.NODE)
    return bytes(changed)


def test_a_device_without_details_is_found(scratch):
    data = images.golden("shared.img")
    n = len(thinread.Image(data).devices())
    path = scratch / "fewer.bin"
    path.write_bytes(with_details(data, n - 1))
    assert [str(problem) for problem in problems_of(path)] == ["thin device 13 has mappings and no details"]


def test_a_mapping_outside_the_pool_is_found(scratch):
    data = bytearray(images.golden("shared.img"))
    found = Superblock.unpack(bytes(data[:4096]))
    image = thinread.Image(bytes(data))
    leaf = next(int.from_bytes(value, "little") for _, value in image.node(image.roots()[0])[1])
    struct.pack_into("<Q", data, 4096 * leaf + 32 + 8 * 252, found.data_sm.nblocks << 24)
    thinmeta.seal(block_of(data, leaf), leaf, thinread.NODE)
    path = scratch / "outside.bin"
    path.write_bytes(data)
    problems = assert_judged_alike(path)
    assert [str(problem) for problem in problems] == [
        f"thin device 0 is missing mappings [0, 126]: metadata block {leaf}: a value that cannot be at byte {4096 * leaf}"
    ]
    with Metadata.open(path) as metadata, pytest.raises(MetadataError, match="a value that cannot be"):
        list(metadata.extents(0))


@given(changes=st.lists(st.tuples(st.integers(0, 27), st.integers(4, 4095), st.integers(0, 255)), min_size=1, max_size=3))
def test_parsers_survive_sealed_nonsense(changes, home):
    """Bytes are changed and checksums made right again, so that it is the parser that is attacked."""
    image = thinread.Image(images.golden("shared.img"), check=False)
    image.count()
    used = sorted(image.used)
    data = bytearray(image.data)
    for which, at, value in changes:
        number = used[which % len(used)]
        kind = next(salt for salt in SEALS if sealed(image.data, number, salt))
        data[4096 * number + (at if at < 400 or which % 2 else at % 400 + 4)] = value
        thinmeta.seal(block_of(data, number), number, kind)
    with images.folder(home) as folder:
        path = folder / "sealed.bin"
        path.write_bytes(data)
        problems_of(path)
        try:
            with Metadata.open(path) as metadata:
                for dev_id in metadata.roots():
                    assert sum(table.nblocks for table in metadata.extents(dev_id)) < 1 << 20
        except MetadataError:
            pass


def sealed(data: bytes, number: int, salt: int) -> bool:
    block = bytearray(data[4096 * number : 4096 * (number + 1)])
    thinmeta.seal(block, number, salt)
    return bytes(block) == data[4096 * number : 4096 * (number + 1)]


def test_the_flag_is_cleared(scratch):
    path = images.golden_image("needs-check", scratch)
    before = path.read_bytes()
    ours, theirs = scratch / "ours.bin", scratch / "theirs.bin"
    for copy in (ours, theirs):
        copy.write_bytes(before)
    assert clear_needs_check(ours)
    assert not clear_needs_check(ours)
    assert images.tool("thin_check", "-q", "--clear-needs-check-flag", theirs).returncode == 0
    assert ours.read_bytes() == theirs.read_bytes() != before


def test_a_smaller_device_than_is_counted(scratch):
    path = images.golden_image("shared", scratch)
    os.truncate(path, 4096 * 400)
    assert assert_judged_alike(path) == []
    os.truncate(path, 4096 * 100)
    assert assert_judged_alike(path) != []


def test_space_maps_that_claim_too_much_are_refused(scratch):
    data = bytearray(images.golden("shared.img"))
    found = Superblock.unpack(bytes(data[:4096]))
    for name in ("data_sm", "metadata_sm"):
        root = dataclasses.replace(getattr(found, name), nblocks=1 << 50)
        block = bytearray(dataclasses.replace(found, **{name: root}).pack())
        thinmeta.seal(block, 0, thinmeta.SALT_SUPERBLOCK)
        path = scratch / "claims.bin"
        path.write_bytes(block + data[4096:])
        assert any(problem.fatal for problem in problems_of(path))
