"""Snapshots made, committed and removed: first recorded as begun, then done by the driver, then recorded as done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lamella.model import SnapshotKind
from lamella.store.graph import Row
from lamella.store.site import Site

__all__ = ["commit", "create", "finish_commit", "finish_remove", "made", "remove"]


@contextlib.contextmanager
def made(
    site: Site, key: str, parent: Row | None, kind: SnapshotKind = SnapshotKind.ACTIVE, *, pinned: bool = True
) -> Iterator[Row]:
    """Lend a snapshot in the making, which goes if the context fails. Who asks for it says that it is finished."""
    row = site.graph.begin(key, kind, parent, site.owner.name, site.now(), pinned=pinned)
    site.step("begun", key)
    try:
        site.driver.create(site.graph.place(row))
        site.step("created", key)
        yield row
    except BaseException:
        finish_remove(site, row)
        raise


def create(site: Site, key: str, kind: SnapshotKind, parent: str | None) -> None:
    """Make an active snapshot or a view; SnapshotExists, SnapshotNotFound, WrongSnapshotKind."""
    below = None if parent is None else site.graph.get(parent, SnapshotKind.COMMITTED)
    with made(site, key, below, kind) as row:
        site.driver.sync()
        site.graph.finish(row)
    site.step("ready", key)


def commit(site: Site, name: str, key: str) -> None:
    """Make the active snapshot ``key`` a committed one of the name ``name``."""
    row = site.graph.get(key, SnapshotKind.ACTIVE)
    site.graph.begin_commit(row, name, site.owner.name)
    site.step("begun", key)
    finish_commit(site, row)


def finish_commit(site: Site, row: Row) -> None:
    """Do what is left of a commit. What is done already does no harm twice."""
    site.driver.commit(site.graph.place(row))
    site.step("committed", row.key)
    site.driver.sync()
    site.graph.finish(row, committed=True)
    site.step("ready", row.key)


def remove(site: Site, key: str) -> None:
    """Remove a snapshot that nothing stands upon and nobody has mounted."""
    row = site.graph.get(key)
    site.graph.begin_remove(row, site.owner.name)
    site.step("begun", key)
    finish_remove(site, row)


def finish_remove(site: Site, row: Row) -> None:
    """Do what is left of a removal."""
    site.driver.remove(row.id)
    site.step("removed", row.key)
    site.graph.forget(row)
    site.step("forgotten", row.key)
