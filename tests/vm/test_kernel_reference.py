"""The reference of a thin pool is right: the kernel's own does the same, operation by operation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reference.thin import Pool, PoolState, differences
from tests.vm import cases, dump
from tests.vm.job import Result
from tests.vm.replay import replay
from tests.vm.script import SECTOR

HELD = 5  # its place among the words of a pool's status
BLOCK_NBYTES = cases.BLOCK * SECTOR

pytestmark = pytest.mark.slow


def compare(result: Result, pool: Pool, folder: Path) -> list[str]:
    """Say what differs between what the machine did and what ``pool`` does with the same operations."""
    expected = replay(result.script.operations, pool)
    wrong = [
        f"{number}. {operation}: {got}, not {want}"
        for number, (operation, got, want) in enumerate(zip(result.script.operations, result.outcomes, expected, strict=True))
        if got != want
    ]
    image = result.metadata.save(folder / "metadata")
    dump.tool("thin_check", "-q", image)
    pairs: dict[int, int] = {}
    wrong += differences(dump.read(image), pool.state, pairs)
    if pool.held is not None:
        wrong += [f"held: {each}" for each in differences(held(result, image), pool.held, pairs)]
    wrong += [
        f"data block {there} is not {here}"
        for there, here in pairs.items()
        if result.data.read(there * BLOCK_NBYTES, BLOCK_NBYTES) != pool.contents[here]
    ]
    return wrong


def held(result: Result, image: Path) -> PoolState:
    assert result.pool_status.split()[HELD - 2] != "-", result.pool_status
    return dump.read(image, "-m")


@pytest.mark.parametrize("seed", cases.SEEDS)
def test_random_operations(machine, scratch, seed):
    result = machine[f"random-{seed}"]
    assert result.opened == "ok"
    assert compare(result, Pool(BLOCK_NBYTES), scratch) == []


@pytest.mark.parametrize("seed", cases.OFFLINE_SEEDS)
def test_a_pool_that_was_written_offline(machine, scratch, seed):
    result = machine[f"offline-{seed}"]
    assert result.opened == "ok"
    pool, _ = cases.offline_start(seed)
    assert compare(result, pool, scratch) == []


def test_scripts_reach_what_they_are_for(machine):
    """Each kind of refusal, copies of shared blocks, trees of several leaves, and a held snapshot occur."""
    outcomes = [outcome for result in machine.values() for outcome in result.outcomes if isinstance(outcome, str)]
    assert set(outcomes) >= {"ok", "EEXIST", "ENODATA", "EBUSY", "EINVAL"}
    states = [cases.final_state(result.script) for name, result in machine.items() if name.startswith("random-")]
    assert any(len(device.blocks) > 252 for pool in states for device in pool.state.devices.values())
    assert sum(pool.held is not None for pool in states) > 2
