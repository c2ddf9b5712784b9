"""Snapshots mounted for as long as somebody in some process wants them: counted in the graph, undone with the last."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from lamella.drivers._run import attach, detach, is_mounted, mounts_below
from lamella.errors import SnapshotInUse
from lamella.model import Mount, SnapshotKind
from lamella.store.graph import Row
from lamella.store.site import Site

__all__ = ["drop_owner", "mount", "sweep", "umount"]

_KEPT = "kept-"  # and the boot: the mounts of users that are no process


def mount(site: Site, key: str, *, keep: bool = False) -> str:
    """Mount a snapshot unless it is, count one more user, and return its path; one to ``keep`` outlives this process.

    What is a directory of its own, which no mount makes, is its own path. SnapshotInUse for an active one that another
    process has mounted in a mount namespace that this one does not see: two mounts would write to the same files.
    """
    with site.graph.change():  # one process at a time mounts
        row = site.graph.get(key)
        mounts = site.driver.mounts(site.graph.place(row))
        plain = _plain(site, row, mounts)
        path = plain or str(site.mnt / str(row.id))
        if plain is None and not is_mounted(path):
            others = site.graph.mounted_by(row)
            if others and row.kind is SnapshotKind.ACTIVE:
                who = ", ".join(name.partition("-")[0] for name in others)
                raise SnapshotInUse(f"mounted in another mount namespace (process {who})", key)
            os.makedirs(path, mode=0o700, exist_ok=True)
            attach(mounts, path)
        site.graph.count_mount(row, _kept_owner() if keep else site.owner.name, 1)
    site.step("mounted", key)
    return path


def umount(site: Site, key: str) -> None:
    """Take one use back, this process's own or one that was kept, and unmount with the last; OSError EBUSY.

    SnapshotInUse where only other processes use it.
    """
    with site.graph.change():
        row = site.graph.get(key)
        users = site.graph.mounted_by(row)
        if not users:
            return
        owner = next((name for name in (site.owner.name, _kept_owner()) if name in users), None)
        if owner is None:
            who = ", ".join(name.partition("-")[0] for name in users)
            raise SnapshotInUse(f"mounted by process {who}", key)
        if site.graph.count_mount(row, owner, -1) == 0:
            _unmount(site, row.id)
    site.step("unmounted", key)


def sweep(site: Site) -> None:
    """Unmount what nobody has mounted: of a process that died, before its record or after, or of another boot.

    What is in use stays, and is the snapshot's mount if it is asked for again: a second one would write to the same files.
    """
    with site.graph.change():
        for owner in site.graph.mount_owners():
            if owner.startswith(_KEPT) and owner != _kept_owner():
                site.graph.drop_mounts(owner)
        kept = {str(id_) for id_ in site.graph.mounted()}
        for path in mounts_below(site.mnt):
            name = os.path.relpath(path, site.mnt).partition("/")[0]
            if name.isdecimal() and name not in kept and not _detached(path):
                kept.add(name)
        for name in os.listdir(site.mnt):
            if name.isdecimal() and name not in kept:
                os.rmdir(site.mnt / name)


def drop_owner(site: Site, owner: str) -> None:
    """Forget what a dead process had mounted, and undo its private mounts."""
    with site.graph.change():
        site.graph.drop_mounts(owner)
        private = site.mnt / owner
        for path in mounts_below(private):
            detach(path, lazy=True)  # a view that nobody can ask for any more
        if private.is_dir():
            for name in os.listdir(private):
                os.rmdir(private / name)
            private.rmdir()


def _detached(path: str) -> bool:
    try:
        detach(path)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def _kept_owner() -> str:
    return _KEPT + Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _plain(site: Site, row: Row, mounts: tuple[Mount, ...]) -> str | None:
    """Return the directory that the snapshot simply is; None where a mount makes it, or keeps it from being written."""
    first = mounts[0]
    if len(mounts) > 1 or first.type != "bind":
        return None
    own = Path(first.source).is_relative_to(site.driver.root / str(row.id)) and row.kind is not SnapshotKind.COMMITTED
    return first.source if own or not first.read_only else None  # a view of its own harms nobody when it is written


def _unmount(site: Site, id_: int) -> None:
    point = site.mnt / str(id_)
    if is_mounted(point):
        detach(point)
    if Path(point).is_dir():
        os.rmdir(point)
