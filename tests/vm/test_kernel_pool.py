"""Our pool and the kernel's: the same answers, the same maps, and each goes on with what the other wrote."""

from __future__ import annotations

import contextlib

import pytest

from tests.reference.thin import Pool, differences
from tests.vm import cases, dump, ours
from tests.vm.ours import BLOCK_NBYTES
from tests.vm.replay import replay
from tests.vm.script import Digests
from tests.vm.test_kernel_reference import compare

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def closing(pool):
    try:
        yield pool
    finally:
        pool.close_pool()


def wrong_answers(operations, got, want) -> list[str]:
    triples = enumerate(zip(operations, got, want, strict=True))
    return [f"{number}. {operation}: {one}, not {two}" for number, (operation, one, two) in triples if one != two]


def wrong_blocks(data, pairs, other) -> list[str]:
    """Say which data blocks of the file ``data`` do not hold what ``other`` gives for the block that they are paired with."""
    with data.open("rb") as file:
        found = []
        for here, there in pairs.items():
            file.seek(here * BLOCK_NBYTES)
            if file.read(BLOCK_NBYTES) != other(there):
                found.append(f"data block {here} is not {there}")
    return found


@pytest.mark.parametrize("seed", cases.SEEDS)
def test_the_same_operations(machine, scratch, seed):
    result = machine[f"random-{seed}"]
    metadata, data = scratch / "metadata", scratch / "data"
    with closing(ours.fresh(metadata, data)) as pool:
        wrong = wrong_answers(result.script.operations, replay(result.script.operations, pool), result.outcomes)
        held = pool.pool.usage().metadata_snap != 0
    kernels = result.metadata.save(scratch / "kernel")
    dump.tool("thin_check", "-q", metadata)
    pairs: dict[int, int] = {}
    wrong += differences(dump.read(metadata), dump.read(kernels), pairs)
    wrong += wrong_blocks(data, pairs, lambda block: result.data.read(block * BLOCK_NBYTES, BLOCK_NBYTES))
    if held:
        wrong += [f"held: {each}" for each in differences(dump.read(metadata, "-m"), dump.read(kernels, "-m"), pairs)]
    assert wrong == []


@pytest.mark.parametrize("seed", cases.OUR_SEEDS)
def test_the_kernel_goes_on_with_a_pool_of_ours(machine, scratch, seed):
    result = machine[f"ours-{seed}"]
    assert result.opened == "ok"
    operations, _ = cases.offline_start(seed)
    assert compare(result, cases.reference(operations), scratch) == []


@pytest.mark.parametrize("seed", cases.SEEDS[::3])
def test_ours_goes_on_with_a_pool_of_the_kernel(machine, scratch, seed):
    result = machine[f"random-{seed}"]
    metadata, data = result.metadata.save(scratch / "metadata"), result.data.save(scratch / "data")
    model = Pool(BLOCK_NBYTES)
    replay(result.script.operations, model)
    model.reopen()
    draw = cases.Draw(seed)
    draw.operations(cases.LENGTH)
    draw.opened.clear()
    reads = [
        Digests(number, block, 1)
        for number, device in model.state.devices.items()
        for block in sorted({near for block in device.blocks for near in (block, block + 1)} - {cases.NBLOCKS})
    ]
    operations = [*reads, *(draw.operation() for _ in range(3 * cases.LENGTH)), *reads]
    with closing(ours.OurPool(metadata, data)) as pool:
        wrong = wrong_answers(operations, replay(operations, pool), replay(operations, model))
    dump.tool("thin_check", "-q", metadata)
    pairs: dict[int, int] = {}
    wrong += differences(dump.read(metadata), model.state, pairs)
    wrong += wrong_blocks(data, pairs, model.contents.__getitem__)
    if model.held is not None:
        wrong += [f"held: {each}" for each in differences(dump.read(metadata, "-m"), model.held, pairs)]
    assert wrong == []
