"""A driver that somebody else might write (docs/drivers.md): a committed snapshot is one layer's tar."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import lamella
from lamella.drivers.base import Driver, Place
from lamella.model import Mount, SnapshotKind, Usage


class Tarballs(Driver):
    """ROOT/<number>/all.tar is a committed snapshot as a layer; ROOT/<number>/fs is its tree, to be looked at."""

    name = "tarballs"
    backend = "kernel"

    @classmethod
    def refusals(cls, root: Path) -> Iterator[str]:
        if not os.access(root, os.W_OK) or not root.is_dir():
            yield f"{root} is no directory that can be written"

    def create(self, place: Place) -> None:
        (self.root / place.name).mkdir()
        fs = self.root / place.name / "fs"
        fs.mkdir(mode=0o755)
        if place.parents:
            lamella.apply(self.root / str(place.parents[0]) / "all.tar", fs)

    def mounts(self, place: Place) -> tuple[Mount, ...]:
        return (Mount("bind", str(self.root / place.name / "fs"), () if place.kind is SnapshotKind.ACTIVE else ("ro",)),)

    def commit(self, place: Place) -> None:
        lamella.diff(None, self.root / place.name / "fs", self.root / place.name / "all.tar", compression="none")

    def remove(self, id_: int) -> None:
        shutil.rmtree(self.root / str(id_), ignore_errors=True)

    def usage(self, place: Place) -> Usage:
        files = [self.root / place.name, *(self.root / place.name).rglob("*")]
        return Usage(sum(512 * os.lstat(path).st_blocks for path in files), len(files))
