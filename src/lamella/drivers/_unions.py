"""Snapshots as branches of a union in user space: how such a union is lent, and what a program that serves one is told."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from lamella.drivers import _serving
from lamella.drivers._branches import BranchDriver
from lamella.drivers._run import mounted
from lamella.drivers.base import Place
from lamella.layer.union import Union
from lamella.model import Mount, SnapshotKind

__all__ = ["UnionDriver"]


class UnionDriver(BranchDriver):
    """Branches merged in this process (lamella/layer/union.py): :meth:`union` is how a snapshot is seen.

    Needs no privilege but that of its owner.
    """

    backend = "userspace"

    @classmethod
    def mount_refusals(cls) -> Iterator[str]:
        """Yield why nothing can serve a union here."""
        yield from _serving.refusals()

    def redirects(self) -> bool:
        """Tell whether directories that something lower makes up can be renamed."""
        return False

    def mounts(self, place: Place) -> tuple[Mount, ...]:
        """Return what a program that serves the union is to be told."""
        if place.kind is SnapshotKind.ACTIVE:
            words = [f"lowerdir+={path}" for path in self.parents(place)]
            words.append(f"upperdir={self.fs(place.id)}")
            words += [] if self.work(place) is None else [f"workdir={self.work(place)}"]
            words += ["redirect_dir=on"] if self.redirects() else []
            return (Mount(_serving.KIND, "lamella", (*words, f"dialect={self.dialect}")),)
        return (self._read_only(place),)

    def _read_only(self, place: Place) -> Mount:
        lowers = (f"lowerdir+={path}" for path in self.lowers(place))
        return Mount(_serving.KIND, "lamella", ("ro", *lowers, f"dialect={self.dialect}"))

    @contextlib.contextmanager
    def union(self, place: Place) -> Iterator[Union]:
        """Lend the snapshot as a union, which can be changed if it is active."""
        if place.kind is SnapshotKind.ACTIVE:
            how: dict[str, Any] = {"redirect_dir": self.redirects(), "work": self.work(place)}
        else:
            how = {"writable": False}
        with Union(self.lowers(place), dialect=self.dialect, **how) as union:
            yield union

    @contextlib.contextmanager
    def seen(self, place: Place) -> Iterator[str]:
        """Lend a path at which the snapshot can be read: an active one too, which may be mounted elsewhere meanwhile."""
        with mounted((self._read_only(place),), self.mount_points, read_only=True) as path:
            yield path
