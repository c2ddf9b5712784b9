"""Snapshots as branches of a union: the kernel's overlay, and the same directories in user space."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lamella.drivers._overlay_branches import OverlayBranches
from lamella.drivers._overlay_index import indexed, link_all
from lamella.drivers._overlay_options import mount_words
from lamella.drivers._overlay_trial import OverlayFeatures, features, has_index, kernel_refusals, union_refusals
from lamella.drivers._run import mounted, overlays_upon
from lamella.drivers._unions import UnionDriver
from lamella.drivers.base import Place
from lamella.errors import DriverUnavailable
from lamella.layer.changeset import Changeset
from lamella.model import Mount, SnapshotKind

__all__ = ["Overlay", "OverlayFeatures", "OverlayUnion", "features"]


class Overlay(OverlayBranches):
    """The kernel's overlayfs. Options are its own: redirect_dir, metacopy, index, xino, volatile, userxattr.

    A file of a lower layer loses its other names when it is written (overlayfs.rst, "Non-standard behavior"): they go on
    being what they were, and a diff says so. With ``index`` "on" it keeps them; to find them a commit, and a look at an
    active snapshot, then walks the view once after such a file was changed, in a mount of its own or in the one that there
    is: OSError EBUSY where that is in another mount namespace. A ``volatile`` snapshot can be mounted once.
    """

    backend = "kernel"

    @classmethod
    def refusals(cls, root: Path) -> Iterator[str]:
        """Mount and write a small overlay, and look at what that left."""
        return kernel_refusals(root)

    @classmethod
    def features(cls, root: str | os.PathLike[str]) -> dict[str, Any]:
        """Try what OverlayFeatures has."""
        return asdict(features(root))

    def mounts(self, place: Place) -> tuple[Mount, ...]:
        """Return the overlay, or the bind of what is one directory."""
        if place.kind is not SnapshotKind.ACTIVE:
            return self._read_only(place)
        if not place.parents:
            return (Mount("bind", str(self.fs(place.id))),)
        words = mount_words(self.options, self.namespace, upper=True)
        layers = [*(f"lowerdir+={path}" for path in self.parents(place)), f"upperdir={self.fs(place.id)}"]
        return (Mount("overlay", "overlay", (*layers, f"workdir={self.work(place)}", *words)),)

    def _read_only(self, place: Place) -> tuple[Mount, ...]:
        lowers = self.lowers(place)
        if len(lowers) == 1:
            return (Mount("bind", lowers[0], ("ro",)),)
        words = mount_words(self.options, self.namespace, upper=False)
        return (Mount("overlay", "overlay", ("ro", *(f"lowerdir+={path}" for path in lowers), *words)),)

    @contextlib.contextmanager
    def seen(self, place: Place) -> Iterator[str]:
        """Lend a path at which the snapshot can be read: an active one too, which may be mounted elsewhere meanwhile."""
        self._settle(place)
        with mounted(self._read_only(place), self.mount_points, read_only=True) as path:
            yield path

    def commit(self, place: Place) -> None:
        """Drop all that is not the upper directory, as OverlayBranches does, once all names are in it."""
        self._settle(place)
        super().commit(place)

    @contextlib.contextmanager
    def changes(self, place: Place, **how: Any) -> Iterator[Changeset]:
        """Lend what the snapshot changes, as OverlayBranches does, once all names are in its upper directory."""
        self._settle(place)
        with super().changes(place, **how) as found:
            yield found

    def check_new(self) -> None:
        """Check that there is an index where one is asked for: the kernel goes on without."""
        if self.options.get("index") == "on" and not has_index(self.root):
            raise DriverUnavailable("option index is 'on'", ("overlayfs has none here",))

    def _settle(self, place: Place) -> None:
        """Bring what only an index says into the upper directory."""
        if place.kind is not SnapshotKind.ACTIVE or self.options.get("index") != "on":
            return
        inodes = indexed(self.root / place.name / "work", self.namespace)
        if not inodes:
            return
        fs = self.fs(place.id)
        with contextlib.ExitStack() as stack:
            views = overlays_upon(fs) or [stack.enter_context(mounted(self.mounts(place), self.mount_points))]
            link_all(views[0], fs, inodes)


class OverlayUnion(UnionDriver, OverlayBranches):
    """The same directories as a union in user space.

    Options: redirect_dir (with trusted attributes only, as the kernel's), userxattr.
    """

    known_options = frozenset({"redirect_dir", "userxattr"})

    @classmethod
    def refusals(cls, root: Path) -> Iterator[str]:
        """Change a small union, and look at what that left."""
        return union_refusals(root)

    def redirects(self) -> bool:
        """Tell it as the option says."""
        return self.namespace == "trusted" and self.options.get("redirect_dir", "on") == "on"
