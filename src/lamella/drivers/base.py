"""What a storage driver is: five duties, a probe, and what it may know to do faster than any driver can.

A driver keeps snapshots in a directory of its own, ``root``, each in whatever it makes there under the snapshot's number.
It remembers nothing: all that it has to know of a snapshot comes with each call as a :class:`Place`. Who stands upon whom,
names, and what an interrupted call left are the store's (lamella/store).
"""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lamella.drivers._run import mounted
from lamella.layer.apply import ApplyResult, apply
from lamella.layer.changeset import Changeset
from lamella.layer.diff import changes
from lamella.model import Mount, Probe, SnapshotKind, Usage
from lamella.tree.root import sync_tree

__all__ = ["Driver", "Place"]


@dataclass(frozen=True, slots=True)
class Place:
    """A snapshot as its driver sees it: its number, those it stands upon, nearest first, and what it is for."""

    id: int
    parents: tuple[int, ...] = ()
    kind: SnapshotKind = SnapshotKind.ACTIVE

    @property
    def name(self) -> str:
        """Its number as a file name, short since hundreds of them go into one mount."""
        return str(self.id)


class Driver(ABC):
    """One way to keep snapshots, for one backend: "kernel" (a real file system) or "userspace" (no privilege).

    A driver is made for a directory of its own, which exists, and its options; ``known_options`` are all that it takes.
    Duties may be called from several processes and threads at once, never for the same snapshot. They raise OSError and
    :class:`~lamella.errors.DriverError`.
    """

    name: ClassVar[str]
    backend: ClassVar[str]
    known_options: ClassVar[frozenset[str]] = frozenset()
    name_max: ClassVar[int] = 255  # bytes of a name; a longer one in a layer is kept, and shown nowhere

    def __init__(
        self, root: str | os.PathLike[str], options: Mapping[str, str] | None = None, *,
        mount_points: str | os.PathLike[str] | None = None,
    ) -> None:  # fmt: skip
        self.root = Path(root)
        self.mount_points = Path(mount_points or self.root / "mnt")  # where seen() and apply() make theirs
        self.options = dict(options or {})
        unknown = sorted(set(self.options) - self.known_options)
        if unknown:
            takes = ", ".join(sorted(self.known_options)) or "none"
            raise ValueError(f"driver {self.name} has no option {', '.join(unknown)} (it takes: {takes})")

    @classmethod
    def probe(cls, root: str | os.PathLike[str]) -> Probe:
        """Try whether this can work below ``root``, an existing directory, and leave nothing there. Raises nothing."""
        try:
            reasons = tuple(cls.refusals(Path(root)))
        except Exception as error:  # noqa: BLE001 - a probe that fails is an answer
            reasons = (f"the probe failed: {error}",)
        return Probe(cls.name, cls.backend, not reasons, reasons)

    @classmethod
    def mount_refusals(cls) -> Iterator[str]:
        """Yield why snapshots cannot be mounted on this machine, where the driver can work without; nothing by default."""
        yield from ()

    @classmethod
    def features(cls, root: str | os.PathLike[str]) -> dict[str, Any]:  # noqa: ARG003 - the signature
        """Try what not every place allows a driver that can work below ``root``, and leave nothing there; by default nothing.

        OSError for a trial that fails.
        """
        return {}

    # -- duties ---------------------------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def refusals(cls, root: Path) -> Iterator[str]:
        """Yield why this cannot work below ``root``, a phrase each; nothing where it can."""

    @abstractmethod
    def create(self, place: Place) -> None:
        """Make an active snapshot or a view: what it shows is what its nearest parent does. Of no parent: empty."""

    @abstractmethod
    def mounts(self, place: Place) -> tuple[Mount, ...]:
        """Return what to mount, one over another, to see the snapshot; read-only unless it is active. Touches nothing."""

    @abstractmethod
    def commit(self, place: Place) -> None:
        """Make an active snapshot one that others can stand upon. Doing it once more is no error."""

    @abstractmethod
    def remove(self, id_: int) -> None:
        """Remove all there is of a snapshot, finished or not, mounted by nobody; nothing there is no error."""

    @abstractmethod
    def usage(self, place: Place) -> Usage:
        """Return the room that the snapshot alone takes, that of its parents not counted."""

    def sync(self) -> None:
        """Have all that was made and committed so far on disk when this returns."""
        sync_tree(self.root)

    # -- what a driver may know to do faster -------------------------------------------------------------------------

    @contextlib.contextmanager
    def seen(self, place: Place) -> Iterator[str]:
        """Lend a path at which the snapshot can be read, in this process, as long as the context lasts."""
        with mounted(self.mounts(place), self.mount_points, read_only=True) as path:
            yield path

    @contextlib.contextmanager
    def changes(self, place: Place, **how: Any) -> Iterator[Changeset]:
        """Lend what a snapshot changes of its parent; ``how`` as for :func:`lamella.changes`.

        The changeset reads content, when it is written, only as long as the context lasts. By default both are walked.
        """
        with contextlib.ExitStack() as stack:
            upper = stack.enter_context(self.seen(place))
            lower = stack.enter_context(self.seen(parent_of(place))) if place.parents else None
            yield changes(lower, upper, **how)

    def apply(self, place: Place, source: Any, **how: Any) -> ApplyResult:
        """Apply a layer to an active snapshot just made; ``how`` as for :func:`lamella.apply`. By default in its mount."""
        with mounted(self.mounts(place), self.mount_points) as path:
            return apply(source, path, **how)

    # -- what is there ---------------------------------------------------------------------------------------------

    def ids(self) -> Iterator[int]:
        """Iterate over the numbers of everything under ``root``, snapshots or what is left of them."""
        for name in os.listdir(self.root):
            if name.isdecimal():
                yield int(name)


def parent_of(place: Place) -> Place:
    """Return the place of the nearest parent."""
    return Place(place.parents[0], place.parents[1:], SnapshotKind.COMMITTED)
