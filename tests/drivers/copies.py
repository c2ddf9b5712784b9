"""A driver that copies with cp(1): slow, and what others are compared with."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from lamella.drivers.base import Driver, Place
from lamella.model import Mount, SnapshotKind, Usage
from lamella.tree.room import room_of


class Copies(Driver):
    """Snapshots are ROOT/<number>."""

    name = "copies"
    backend = "kernel"

    @classmethod
    def refusals(cls, root: Path) -> Iterator[str]:
        if not os.access(root, os.W_OK):
            yield f"{root} cannot be written"

    def create(self, place: Place) -> None:
        where = self.root / place.name
        if place.parents:
            subprocess.run(["cp", "-a", "-T", self.root / str(place.parents[0]), where], check=True)
        else:
            where.mkdir(mode=0o755)

    def mounts(self, place: Place) -> tuple[Mount, ...]:
        return (Mount("bind", str(self.root / place.name), () if place.kind is SnapshotKind.ACTIVE else ("ro",)),)

    def commit(self, place: Place) -> None:
        pass

    def remove(self, id_: int) -> None:
        subprocess.run(["rm", "-rf", self.root / str(id_)], check=True)

    def usage(self, place: Place) -> Usage:
        return room_of(self.root / place.name)
