"""Store: layers and snapshots on real file systems, several processes at once, safe against a crash at any step."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from lamella.errors import DriverUnavailable
from lamella.image.save import SavedImage
from lamella.image.verify import Problem
from lamella.layer.changeset import Change
from lamella.model import ChainID, Choice, Mount, Progress, SnapshotKind, Usage
from lamella.store import checking, exporting, importing, making, mounting
from lamella.store.graph import Row
from lamella.store.recovery import recover
from lamella.store.site import Site
from lamella.tar.layerinfo import LayerInfo

__all__ = ["Collected", "Snapshot", "Store", "StoreUsage"]

Path = str | os.PathLike[str]
Report = Callable[[Progress], None] | None
Problems = list[Problem]  # a Store has a method of that name
Changes = list[Change]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot as :meth:`Store.list` has it; ``children`` are there in a tree only."""

    key: str
    kind: SnapshotKind
    parent: str | None
    created: str
    mounted: bool
    children: tuple[Snapshot, ...] = ()


Snapshots = list[Snapshot]


@dataclass(frozen=True, slots=True)
class StoreUsage:
    """Room that a snapshot takes: ``exclusive`` is its own, ``shared`` that of what it stands upon."""

    exclusive: Usage
    shared: Usage


@dataclass(frozen=True, slots=True)
class Collected:
    """What a gc removed: ``snapshots`` by key, ``nbytes`` of blobs."""

    snapshots: tuple[str, ...]
    nbytes: int


class Store:
    """The store in the directory ``root``, made if there is none. A context manager.

    A snapshot is active (to be changed), a view (to be looked at) or committed (to be stood upon); an active one and a view
    have a key that the caller chooses, a committed one a name, and an image's layers their chain_id.

    A new store's ``driver`` and ``backend`` are recorded: "auto" takes the first that can work where the store is, and
    ``choice`` says why those before it were refused. Opening it as another driver's, or with other ``options``, is a
    StoreError. What a process left that died, the next one that opens the store finishes or undoes; nothing that a call
    had returned for is lost. Errors: SnapshotNotFound, SnapshotExists, SnapshotInUse, WrongSnapshotKind, StoreError;
    DriverError and OSError of the driver. Threads may share a Store.
    """

    def __init__(
        self, root: Path, *, driver: str = "auto", backend: str = "auto", options: Mapping[str, str] | None = None
    ) -> None:
        self._site = Site(root, driver, backend, options)
        try:
            recover(self._site, opening=True)
        except BaseException:
            self._site.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the store."""
        self._site.close()

    @property
    def choice(self) -> Choice:
        """The store's driver and backend, and why others were not taken."""
        return self._site.choice

    # -- images and layers ------------------------------------------------------------------------------------------

    def import_image(self, reference: Path, *, rootless: bool = False, progress: Report = None) -> ChainID:
        """Import an image (as for :func:`lamella.open_image`); return its chain_id, the key of its top layer.

        Layers that are there are not read. All of it appears, every digest verified, or nothing. ``rootless`` and errors
        as for :func:`lamella.apply`; ImageError for an image without layers.
        """
        recover(self._site)
        return importing.import_image(self._site, reference, rootless=rootless, progress=progress)

    def export_image(
        self, name: str, reference: Path, *, compression: str | None = None, progress: Report = None
    ) -> SavedImage:
        """Save a committed snapshot with all it stands upon as an image; see :meth:`lamella.image.image.Image.save`.

        Layers that were imported are the same blobs, to the bit. The configuration is that of the image they came with.
        """
        return exporting.export_image(self._site, name, reference, compression=compression, progress=progress)

    def apply_layer(
        self, source: Any, parent: str | None = None, *, rootless: bool = False, progress: Report = None
    ) -> ChainID:
        """Apply a layer (a source as for :func:`lamella.apply`) upon a committed snapshot; return its chain_id, its key."""
        recover(self._site)
        return importing.import_layer(self._site, source, parent, rootless=rootless, progress=progress)

    # -- snapshots --------------------------------------------------------------------------------------------------

    def prepare(self, key: str, parent: str | None = None) -> None:
        """Make an active snapshot that shows what the committed snapshot ``parent`` does, or nothing."""
        recover(self._site)
        making.create(self._site, key, SnapshotKind.ACTIVE, parent)

    def view(self, key: str, parent: str) -> None:
        """Make a view of a committed snapshot, which cannot be committed."""
        recover(self._site)
        making.create(self._site, key, SnapshotKind.VIEW, parent)

    def commit(self, name: str, key: str) -> None:
        """Make the active snapshot ``key`` a committed one named ``name``; its data is on disk when this returns."""
        recover(self._site)
        making.commit(self._site, name, key)

    def remove(self, key: str) -> None:
        """Remove a snapshot; SnapshotInUse where it is mounted or something stands upon it."""
        recover(self._site)
        making.remove(self._site, key)

    def mounts(self, key: str) -> tuple[Mount, ...]:
        """Return what to mount to see the snapshot, as data."""
        graph = self._site.graph
        return self._site.driver.mounts(graph.place(graph.get(key)))

    @contextlib.contextmanager
    def mount(self, key: str, *, keep: bool = False) -> Iterator[str]:
        """Lend a path at which the snapshot is, in this mount namespace; read-only unless it is active.

        Several users in several processes share one mount, the last one unmounts it (OSError EBUSY where something in it
        is still open). With ``keep`` it stays, also when the process has ended, until :meth:`umount` is called.
        DriverUnavailable where the driver cannot mount on this machine.
        """
        if reasons := tuple(self._site.driver.mount_refusals()):
            choice = self._site.choice
            raise DriverUnavailable(f"{choice.driver}/{choice.backend} cannot mount", reasons)
        path = mounting.mount(self._site, key, keep=keep)
        try:
            yield path
        finally:
            if not keep:
                mounting.umount(self._site, key)

    def umount(self, key: str) -> None:
        """Take back one use of a mount, of this process or one that was kept, and unmount with the last."""
        mounting.umount(self._site, key)

    # -- what changed -----------------------------------------------------------------------------------------------

    def changes(self, key: str, **how: Any) -> Changes:
        """Return what a snapshot changes of its parent; ``how`` as for :func:`lamella.changes`, where the driver takes it."""
        graph = self._site.graph
        with self._site.driver.changes(graph.place(graph.get(key)), **how) as found:
            return [*found]

    def diff(self, key: str, out: Any, **how: Any) -> LayerInfo:
        """Write what a snapshot changes of its parent as a layer; ``out`` and ``how`` as for :func:`lamella.diff`."""
        graph = self._site.graph
        looked = {name: how.pop(name) for name in ("content", "xattrs", "dir_mtime") if name in how}
        with self._site.driver.changes(graph.place(graph.get(key)), **looked) as found:
            return found.write(out, **how)

    # -- what is there ----------------------------------------------------------------------------------------------

    def list(self, tree: bool = False) -> Snapshots:
        """Return all snapshots in the order they came; in a ``tree``, those that stand upon nothing, with children."""
        rows = [row for row in self._site.graph.rows() if row.state != "making"]
        mounted, keys = self._site.graph.mounted(), {row.id: row.key for row in rows}
        plain = {}
        for row in rows:
            parent = None if row.parent is None else keys[row.parent]
            plain[row.id] = Snapshot(row.key, row.kind, parent, row.created, row.id in mounted)
        if not tree:
            return [*plain.values()]
        below: dict[int | None, list[int]] = {}
        for row in rows:
            below.setdefault(row.parent, []).append(row.id)
        for row in reversed(rows):  # what stands upon a snapshot came after it
            found = plain[row.id]
            children = tuple(plain[id_] for id_ in below.get(row.id, ()))
            plain[row.id] = Snapshot(found.key, found.kind, found.parent, found.created, found.mounted, children)
        return [plain[id_] for id_ in below.get(None, ())]

    def usage(self, key: str) -> StoreUsage:
        """Return the room that a snapshot takes. That of committed ones is measured once."""
        own, *others = self._site.graph.lineage(self._site.graph.get(key))
        shared = Usage()
        for row in others:
            shared += self._usage(row)
        return StoreUsage(self._usage(own), shared)

    def _usage(self, row: Row) -> Usage:
        if row.usage is not None:
            return row.usage
        found = self._site.driver.usage(self._site.graph.place(row))
        if row.kind is SnapshotKind.COMMITTED:
            self._site.graph.record_usage(row, found)
        return found

    def gc(self) -> Collected:
        """Remove layers that no image, snapshot or name needs, and blobs of none. What was asked for by name stays."""
        recover(self._site)
        keys, nbytes = checking.collect(self._site)
        return Collected(tuple(keys), nbytes)

    def check(self, repair: bool = False) -> Problems:
        """Return what is wrong with the store: nothing, an empty list. Every blob is read.

        ``repair`` removes what is on disk and belongs to no snapshot; what cannot be made good is said, and stays.
        """
        recover(self._site)
        return checking.check(self._site, repair=repair)
