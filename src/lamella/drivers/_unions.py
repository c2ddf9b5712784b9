"""Snapshots as branches of a union in user space: how such a union is lent, and what a program that serves one is told."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NoReturn

from lamella.drivers._branches import BranchDriver
from lamella.drivers.base import Place
from lamella.errors import DriverUnavailable
from lamella.layer.union import Union
from lamella.model import Mount, SnapshotKind

__all__ = ["UnionDriver"]


class UnionDriver(BranchDriver):
    """Branches merged in this process (lamella/layer/union.py): :meth:`union` is how a snapshot is seen.

    Needs no privilege but that of its owner.
    """

    backend = "userspace"
    can_mount = False

    def redirects(self) -> bool:
        """Tell whether directories that something lower makes up can be renamed."""
        return False

    def mounts(self, place: Place) -> tuple[Mount, ...]:
        """Return what a program that serves the union is to be told."""
        if place.kind is SnapshotKind.ACTIVE:
            words = [f"lowerdir+={path}" for path in self.parents(place)]
            words.append(f"upperdir={self.fs(place.id)}")
            words += [] if self.work(place) is None else [f"workdir={self.work(place)}"]
        else:
            words = ["ro", *(f"lowerdir+={path}" for path in self.lowers(place))]
        return (Mount("fuse.lamella", "lamella", (*words, f"dialect={self.dialect}")),)

    @contextlib.contextmanager
    def union(self, place: Place) -> Iterator[Union]:
        """Lend the snapshot as a union, which can be changed if it is active."""
        if place.kind is SnapshotKind.ACTIVE:
            how: dict[str, Any] = {"redirect_dir": self.redirects(), "work": self.work(place)}
        else:
            how = {"writable": False}
        with Union(self.lowers(place), dialect=self.dialect, **how) as union:
            yield union

    def seen(self, place: Place) -> NoReturn:
        """Raise DriverUnavailable: nothing serves the union at a path yet."""
        raise DriverUnavailable(f"snapshot {place.name} has no path", ("nothing here serves a union in user space",))

    def walked(self, place: Place, **how: Any) -> NoReturn:  # noqa: ARG002 - a mount's
        """Raise ValueError: only what the directory itself says can be had."""
        asked = ", ".join(f"{name}={value!r}" for name, value in how.items())
        raise ValueError(f"a union in user space cannot be walked to compare with {asked}")
