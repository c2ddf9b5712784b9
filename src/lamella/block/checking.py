"""Check metadata of a thin pool: every used block is read, and all references are counted anew.

What is checked: magic, version and checksum of the superblock; of every node, bitmap and index checksum, number, header,
the order of keys and their bounds, and that it is used for one thing; that mappings lie in the pool; that each device has
details; and that both space maps have the counts that come out of the trees. Lost blocks (counted, but used less) are no
danger and not fatal; blocks that are used and not counted are. thin_check 0.9.0 leaves out the counts of data blocks,
mappings outside the pool, and devices without details.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from lamella.block.counting import U32, Counts, Damage, Part, mismatches, space_map
from lamella.block.metadata import Metadata, load_superblock
from lamella.block.superblock import Superblock
from lamella.errors import MetadataError

__all__ = ["Checker", "Depth", "Problem", "check"]

_LAST = (1 << 63) - 2


class Depth(enum.IntEnum):
    """How much is checked."""

    SUPERBLOCK = 0
    DEVICES = 1  # what the pool knows of its devices, and where their trees begin
    ALL = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and why if a block is the reason; a pool can be used with problems that are not ``fatal``."""

    what: str
    why: str | None = None
    fatal: bool = True

    def __str__(self) -> str:
        return self.what if self.why is None else f"{self.what}: {self.why}"


def check(metadata: Metadata, *, depth: Depth = Depth.ALL) -> list[Problem]:
    """Return what is wrong with a pool's metadata; of a metadata snapshot only devices and mappings are checked."""
    return [problem for _, step in Checker(metadata, depth=depth).steps() for problem in step()]


Step = tuple[str, Callable[[], Iterator[Problem]]]


@dataclass
class Checker:
    """A check in steps, each with its name. ``mapping_root`` stands for the superblock's, if it is given."""

    metadata: Metadata
    depth: Depth = Depth.ALL
    mapping_root: int | None = None
    failed: bool = False
    counts: Counts = field(init=False)
    _data_has: U32 = field(init=False)
    _data_wants: U32 | None = field(init=False, default=None)  # None: they cannot be counted
    _map_damage: list[Damage] = field(init=False)

    def steps(self) -> Iterator[Step]:
        """Yield the steps in order; each is to be run before the next one is asked for."""
        if self.depth is Depth.SUPERBLOCK:
            return
        self.counts = Counts(self.metadata)
        self.counts.refer(0, Part.SUPERBLOCK)
        yield "examining devices tree", self._step(self._details)
        if self.depth is Depth.DEVICES:
            yield "examining top level of mapping tree", self._step(self._devices)
            return
        yield "examining mapping tree", self._step(self._mappings)
        if not self.failed and not self._is_snapshot and self.mapping_root is None:
            yield "checking space map counts", self._step(self._space_maps)

    @property
    def _is_snapshot(self) -> bool:
        return self.metadata.superblock is not self.metadata.live

    def _step(self, run: Callable[[], Iterator[Problem]]) -> Callable[[], Iterator[Problem]]:
        def step() -> Iterator[Problem]:
            for problem in run():
                self.failed |= problem.fatal
                yield problem

        return step

    def _details(self) -> Iterator[Problem]:
        root = self.metadata.superblock.details_root
        for damage in self.counts.tree(root, Part.DETAILS):
            yield Problem(f"missing devices: {_range(damage)}", str(damage))

    def _devices(self) -> Iterator[Problem]:
        root = self.metadata.superblock.data_root if self.mapping_root is None else self.mapping_root
        for damage in self.counts.tree(root, Part.DEVICES):
            yield Problem(f"missing all mappings for devices: {_range(damage)}", str(damage))

    def _mappings(self) -> Iterator[Problem]:
        self._count_data()
        yield from self._devices()
        if self.failed or self.mapping_root is not None:
            return
        roots = self.metadata.roots()
        details = {details.dev_id for details in self.metadata.devices()}
        yield from (Problem(f"thin device {dev_id} has mappings and no details") for dev_id in sorted(roots.keys() - details))
        yield from (Problem(f"thin device {dev_id} has details and no mappings") for dev_id in sorted(details - roots.keys()))
        for dev_id, root in roots.items():
            yield from self._device(dev_id, root)

    def _device(self, dev_id: int, root: int) -> Iterator[Problem]:
        for damage in self.counts.tree(root, Part.MAPPINGS, self._data_wants):
            yield Problem(f"thin device {dev_id} is missing mappings {_range(damage)}", str(damage))

    def _count_data(self) -> None:
        """Read the map of data blocks first: it says how many there are, and has a bitmap for all of them."""
        self._data_has, self._map_damage = np.zeros(0, np.uint32), []
        if self._is_snapshot:
            return
        self._data_has, self._map_damage = space_map(self.counts, self.metadata.superblock.data_sm, metadata=False)
        if not self._map_damage:
            self._data_wants = np.zeros(len(self._data_has), np.uint32)

    def _space_maps(self) -> Iterator[Problem]:
        found = self.metadata.superblock
        if found.held_root:
            yield from self._held(found.held_root)
        has, damage = space_map(self.counts, found.metadata_sm, metadata=True)
        for each in damage + self._map_damage:
            yield Problem(str(each))
        if damage or self._data_wants is None:
            return
        wants = np.zeros(max(len(has), len(self.counts.uses)), np.uint32)
        wants[: len(self.counts.uses)] = self.counts.uses
        if wants[len(has) :].any():
            yield Problem(f"metadata blocks behind the {len(has)} that are counted are used")
        yield from _differences("metadata", has, wants[: len(has)])
        yield from _differences("data", self._data_has, self._data_wants)

    def _held(self, root: int) -> Iterator[Problem]:
        """Count what the metadata snapshot refers to."""
        try:
            self.counts.refer(root, Part.SUPERBLOCK)
            held = load_superblock(self.metadata.memory, self.metadata.fd, root)
        except (Damage, MetadataError, OSError) as error:
            yield Problem("the metadata snapshot cannot be used", str(error))
            return
        yield from self._held_trees(held)

    def _held_trees(self, held: Superblock) -> Iterator[Problem]:
        met = self.counts.uses > 0
        for part, root in ((Part.DETAILS, held.details_root), (Part.DEVICES, held.data_root)):
            for damage in self.counts.tree(root, part):
                yield Problem("the metadata snapshot is damaged", str(damage))
        if not self.failed:
            for dev_id, root in self.counts.entries_not_met(held.data_root, met):
                yield from self._device(dev_id, root)


def _range(damage: Damage) -> str:
    end = "-" if damage.high is None or damage.high >= _LAST else damage.high + 1
    return f"[{damage.low}, {end}]"


def _differences(kind: str, has: U32, wants: U32) -> Iterator[Problem]:
    for first, n, count, wanted in mismatches(has, wants):
        blocks = f"block {first}" if n == 1 else f"blocks {first} to {first + n - 1}"
        what = f"{kind} reference counts differ for {blocks}, expected {wanted}, but got {count}"
        yield Problem(what, fatal=count < wanted)
