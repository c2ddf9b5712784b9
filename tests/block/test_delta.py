"""A delta says of each block what the slow reader says, prints what thin_delta prints, and does not read what is shared."""

from __future__ import annotations

import errno
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella.block.delta import BATCH, compare_roots, delta, delta_xml
from lamella.block.metadata import Metadata
from tests.block import images
from tests.reference import thinread

NO_SAME = 3


def blocks_of(tables) -> list[tuple[int, int, int, int]]:
    """Spell runs out, block by block."""
    found = []
    for table in tables:
        for kind, begin, length, left, right in table:
            found += [
                (int(kind), begin + i, left if left < 0 else left + i, right if right < 0 else right + i) for i in range(length)
            ]
    return found


def assert_compared_alike(metadata: Metadata, image: thinread.Image, left: int, right: int) -> None:
    roots = image.roots()
    wanted = thinread.compare(image.mappings(roots[left]), image.mappings(roots[right]))
    assert blocks_of(delta(metadata, left, right, same=True)) == wanted
    assert blocks_of(delta(metadata, left, right)) == [row for row in wanted if row[0] != NO_SAME]


@pytest.mark.parametrize("name", images.NAMES)
def test_images_of_the_kernel(scratch, name):
    image = thinread.Image(images.golden(f"{name}.img"))
    with Metadata.open(images.golden_image(name, scratch)) as metadata:
        for left, right in list(combinations(image.roots(), 2))[:30]:
            assert_compared_alike(metadata, image, left, right)
            assert_compared_alike(metadata, image, right, left)
        assert_compared_alike(metadata, image, left, left)


@pytest.mark.parametrize("name", images.NAMES)
def test_golden_xml(scratch, name):
    with Metadata.open(images.golden_image(name, scratch)) as metadata:
        assert "".join(delta_xml(metadata, 1, 2)).encode() == images.golden(f"{name}.delta-1-2.xml")


@given(found=images.devices(), verbose=st.booleans())
def test_what_thin_delta_prints(found, verbose, home):
    with images.folder(home) as folder:
        path = images.restored(found, folder)
        with Metadata.open(path) as metadata:
            for left, right in [*combinations(found, 2), *((dev_id, dev_id) for dev_id in list(found)[:1])]:
                ours = "".join(delta_xml(metadata, left, right, verbose=verbose)).encode()
                argv = ["--snap1", left, "--snap2", right, *(["--verbose"] if verbose else []), path]
                assert ours == images.tool("thin_delta", *argv).stdout
                assert_compared_alike(metadata, thinread.Image(path.read_bytes(), check=False), left, right)


def test_trees_of_unlike_heights(scratch):
    """Three levels against one, and against two: whatever is opened first, every block is compared."""
    high = [(10 * i, (7 * i) % images.NR_DATA, 1, 0) for i in range(20_000)]
    found = {1: high, 2: high[:100], 3: [*high[:5000], (900_001, 5, 1, 0)], 4: [], 5: [(2**40, 1, 1, 0)]}
    path = images.restored(found, scratch)
    image = thinread.Image(path.read_bytes(), check=False)
    with Metadata.open(path) as metadata:
        for left in found:
            for right in found:
                assert_compared_alike(metadata, image, left, right)


def test_more_rows_than_a_batch(scratch):
    rows = [(2 * i, i % images.NR_DATA, 1, 0) for i in range(2 * BATCH)]
    with Metadata.open(images.restored({1: rows, 2: []}, scratch, 4096)) as metadata:
        tables = list(delta(metadata, 1, 2))
        assert [len(table) for table in tables] == [BATCH, BATCH]
        assert np.array_equal(np.concatenate([table.left_begin for table in tables]), np.arange(2 * BATCH) % images.NR_DATA)


def nodes_of(image: thinread.Image, root: int) -> set[int]:
    leaf, entries = image.node(root)
    below = [] if leaf else [nodes_of(image, int.from_bytes(value, "little")) for _, value in entries]
    return {root}.union(*below)


def test_a_snapshot_costs_what_it_changed(scratch):
    """Devices of 61,440 blocks that share most nodes: what is read is nodes that only one of them has, and a path to each."""
    image = thinread.Image(images.golden("deep.img"))
    roots = image.roots()
    left, right = nodes_of(image, roots[1]), nodes_of(image, roots[2])
    with Metadata.open(images.golden_image("deep", scratch)) as metadata:
        assert sum(table.nblocks for table in delta(metadata, 1, 2)) == 341
        own = left ^ right
        assert len(left | right) > 10 * len(own)
        heights = 3
        assert metadata.n_reads <= len(own) + 2 * heights
        before = metadata.n_reads
        assert list(delta(metadata, 1, 1)) == []
        assert metadata.n_reads == before


def test_shared_nodes_are_read_once_where_they_are_wanted(scratch):
    image = thinread.Image(images.golden("deep.img"))
    nodes = nodes_of(image, image.roots()[1]) | nodes_of(image, image.roots()[2])
    with Metadata.open(images.golden_image("deep", scratch)) as metadata:
        assert sum(table.nblocks for table in delta(metadata, 1, 2, same=True)) >= 61440
        assert metadata.n_reads <= len(nodes) + 6


def test_there_is_no_such_device(scratch):
    with Metadata.open(images.golden_image("shared", scratch)) as metadata, pytest.raises(OSError, match="no thin device 77") as caught:
        delta(metadata, 1, 77)
    assert caught.value.errno == errno.ENODATA


def test_an_own_memory_is_enough(scratch):
    with Metadata.open(images.golden_image("shared", scratch)) as metadata:
        roots = metadata.roots()
        tables = compare_roots(metadata.memory, metadata.fd, roots[1], roots[2], nr_data_blocks=metadata.nr_data_blocks)
        assert blocks_of(tables) == blocks_of(delta(metadata, 1, 2))
