"""Snapshots as whole trees in plain directories: whatever the file system is, and with no mount but a bind.

A snapshot is ROOT/<number>, the tree itself, a copy of what its nearest parent shows (layer/copy): where the file system
shares content between files a copy costs inodes only, elsewhere all of it. A view is a copy too, since nothing else keeps
the two apart from a process that reaches the directory. What is not finished has a name that begins with a dot and holds
the number: ``.new-<number>`` of a create(), ``.<number>.*`` of an apply() to an empty snapshot (layer/staging).
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lamella.drivers.base import Driver, Place
from lamella.layer.copy import copy_into
from lamella.model import Mount, SnapshotKind, Usage
from lamella.tree.room import room_of
from lamella.tree.root import Root, make_plain
from lamella.tree.scan import directory

__all__ = ["Vfs"]

_NAME = re.compile(r"(?:\.new-)?([0-9]+)|\.([0-9]+)\..*", re.DOTALL)


def _number(name: str) -> int | None:
    """Return whose the name is, None for nobody's."""
    match = _NAME.fullmatch(name)
    return None if match is None else int(match[1] or match[2])


class Vfs(Driver):
    """Directories of the file system that ``root`` is on."""

    name = "vfs"
    backend = "kernel"

    @classmethod
    def refusals(cls, root: Path) -> Iterator[str]:
        """Yield why a directory cannot be made below ``root``: nothing else is asked for."""
        try:
            with tempfile.TemporaryDirectory(prefix=".probe-", dir=root) as folder:
                (Path(folder) / "file").touch()
        except OSError as error:
            yield f"{root} cannot be written: {error.strerror}"

    def create(self, place: Place) -> None:
        """Copy the nearest parent's tree. OSError with the path of what cannot be copied, and then nothing is left."""
        stage = self.root / f".new-{place.name}"
        self._discard(stage.name)
        os.mkdir(stage, 0o755)
        try:
            with directory(stage) as fd:
                if place.parents:
                    copy_into(self.root / str(place.parents[0]), fd)
                else:
                    make_plain(fd)
            os.rename(stage, self.root / place.name)
        except BaseException:
            self._discard(stage.name)
            raise

    def mounts(self, place: Place) -> tuple[Mount, ...]:
        """Return one bind mount, of the directory."""
        options = () if place.kind is SnapshotKind.ACTIVE else ("ro",)
        return (Mount("bind", str(self.root / place.name), options),)

    def commit(self, place: Place) -> None:
        """Do nothing: the directory is what others copy."""

    def remove(self, id_: int) -> None:
        """Remove the directory, however large, deep or closed, and what a create() or apply() left that was killed."""
        for name in os.listdir(self.root):
            if _number(name) == id_:
                self._discard(name)

    def usage(self, place: Place) -> Usage:
        """Return what the directory takes; content that the file system shares is counted in every snapshot that has it."""
        return room_of(self.root / place.name)

    def ids(self) -> Iterator[int]:
        """Iterate over the numbers of all that is there, finished or not."""
        found = {_number(name) for name in os.listdir(self.root)}
        yield from (id_ for id_ in found if id_ is not None)

    def _discard(self, name: str) -> None:
        with directory(self.root) as fd:
            Root(fd).remove(fd, os.fsencode(name), os.fsencode(name))
