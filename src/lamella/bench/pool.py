"""What the map of a thin pool costs, a block: 100 GiB at 64 KiB, in one interpreter each, warm, its commits left out.

``provision`` maps every block of an empty device; ``remap`` gives every block of a device one of its own after a snapshot,
leaves copied and all owners counted. ``random``: in an order that chance gave, in one batch. A snapshot is timed without its
commit, which is two flushes of a device; ``delta`` is of a device and its snapshot after 1,024 blocks were
written all over it, each in another leaf.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lamella.bench.gate import Target
from lamella.bench.ground import Tmpfs
from lamella.bench.measure import Sample, in_python
from lamella.bench.panel import Contender, Panel

__all__ = ["JOBS", "TARGETS", "pool_map"]

_BLOCKS = 1_638_400
_QUICK = 163_840
_CHANGED = 1_024
_ORDERS = ("in order", "random")
_BATCHES = tuple(f"{what}, {order}" for what in ("provision", "lookup", "remap") for order in _ORDERS)
_NAMES = (*_BATCHES, "snapshot", "delta")

TARGETS = (
    *(Target("pool", "tmpfs", "nanos", f"lookup, {order}", "", "<=", 50) for order in _ORDERS),
    *(Target("pool", "tmpfs", "nanos", f"remap, {order}", "", "<=", 100) for order in _ORDERS),
    Target("pool", "tmpfs", "ms", "snapshot", "", "<=", 0.020),
)


def pool_map(ground: Tmpfs, *, quick: bool) -> Panel:
    """Measure each operation on a pool of its own."""

    def contender(name: str) -> Contender:
        def measure(folder: Path) -> Sample:
            sample = in_python("pool", folder, name, _QUICK if quick else _BLOCKS)
            return replace(sample, wall=sample.facts["wall"], cpu=sample.facts["cpu"])

        return Contender(name, measure, "median of several, without commits")

    return Panel("pool", "the map of a thin pool", ground, tuple(contender(name) for name in _NAMES))


class _Pool:
    """A pool in a folder with a device that has ``n`` blocks."""

    def __init__(self, folder: Path, n: int) -> None:
        from lamella.block.pool import ThinPool  # noqa: PLC0415  (jobs import what they measure)

        for name, nbytes in (("metadata", 1 << 30), ("data", n * 16 << 16)):
            with open(folder / name, "wb") as file:
                file.truncate(nbytes)
        self.pool = ThinPool.create(folder / "metadata", folder / "data")
        self.n_snapshots = 0
        self.pool.create_thin(0)
        self.device = self.pool.device(0, nblocks=n)

    def provision(self, blocks: Any) -> None:
        """Map blocks as a write does, without one."""
        mapping = self.pool._mapping(0)
        self.pool.remap(mapping, self.pool.planned(mapping, blocks))

    def snapshot(self) -> None:
        """Make one, without a commit."""
        self.n_snapshots += 1
        self.pool._snapshot(self.n_snapshots, 0)

    def go_on(self) -> None:
        """Commit, and make a snapshot, so that every block may be shared again."""
        self.pool.commit()
        self.snapshot()


def time_pool(folder: str, name: str, n: str) -> dict[str, Any]:
    """Take the median of one operation."""
    made, blocks = _Pool(Path(folder), int(n)), np.arange(int(n), dtype=np.int64)
    if name.endswith("random"):
        np.random.default_rng(3).shuffle(blocks)
    if name.startswith("provision"):
        return _timed(lambda: made.provision(blocks), 1) | {"n": len(blocks)}
    made.provision(np.sort(blocks))
    made.pool.commit()
    if name.startswith("lookup"):
        return _timed(lambda: made.device.lookup(blocks), 5) | {"n": len(blocks)}
    if name == "snapshot":
        return _timed(made.snapshot, 100)
    made.snapshot()
    if name == "delta":
        made.provision(np.sort(blocks[:: len(blocks) // _CHANGED]))
        return _timed(lambda: made.pool.delta(0, 1), 15)
    return _timed(lambda: made.provision(blocks), 3, between=made.go_on) | {"n": len(blocks)}


def _timed(call: Callable[[], object], repeats: int, *, between: Callable[[], object] = int) -> dict[str, Any]:
    walls, cpus = [], []
    for _ in range(repeats):
        cpu, wall = time.process_time(), time.perf_counter()
        call()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
        between()
    return {"wall": float(np.median(walls)), "cpu": float(np.median(cpus))}


JOBS: dict[str, Callable[..., Callable[[], dict[str, Any]]]] = {"pool": lambda *arguments: lambda: time_pool(*arguments)}
