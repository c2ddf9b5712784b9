"""Is a store whole: what the graph says against what is on disk, and what nobody asked for any more."""

from __future__ import annotations

from collections.abc import Iterator

from lamella.image.documents import Descriptor
from lamella.image.layout import Layout
from lamella.image.verify import Problem, verify_stored
from lamella.model import Digest, SnapshotKind
from lamella.store.graph import Row
from lamella.store.making import finish_remove
from lamella.store.site import Site

__all__ = ["check", "collect"]


def check(site: Site, *, repair: bool) -> list[Problem]:
    """Return what is wrong, every blob read and digested; ``repair`` removes what belongs to nobody.

    A snapshot that is gone from disk, and a damaged blob, cannot be made good: they are said, and stay. A problem that was
    mended is not returned.
    """
    problems = [Problem("document", "store.db", message) for message in site.database.faults()]
    with site.layout():  # nobody imports meanwhile
        rows = site.graph.rows()
        problems += _strays(site, {row.id for row in rows}, repair=repair)
        there = set(site.driver.ids())
        for row in rows:
            if row.state == "ready" and row.id not in there:
                problems.append(Problem("missing", f"snapshot {row.key}", f"nothing of it is in {str(site.driver.root)!r}"))
        layers, blobs = site.graph.layers(), Layout(str(site.images))
        for row in rows:
            if (layer := layers.get(row.id)) is not None:
                stored = Descriptor(layer.media_type, Digest(layer.digest), layer.size)
                problems += verify_stored(blobs, stored, f"layer {row.key}")
    return problems


def _strays(site: Site, known: set[int], *, repair: bool) -> Iterator[Problem]:
    # looked for before those that are missing: what is being made now is in the graph before it is on disk
    for id_ in sorted(set(site.driver.ids()) - known - {row.id for row in site.graph.rows()}):
        if repair:
            site.driver.remove(id_)
        else:
            yield Problem("other", f"number {id_}", f"in {str(site.driver.root)!r}, and no snapshot")


def collect(site: Site) -> tuple[list[str], int]:
    """Remove what nobody asked for by name and nothing stands upon, then blobs that nothing names.

    Returns the keys of the snapshots removed, and the bytes of the blobs.
    """
    gone: list[str] = []
    with site.layout() as layout:
        while rows := _unwanted(site):
            for row in rows:
                site.graph.begin_remove(row, site.owner.name)
                site.step("begun", row.key)
                finish_remove(site, row)
                gone.append(row.key)
        rows = site.graph.rows()
        kept = {row.key for row in rows}
        nbytes = layout.collect(kept, {layer.digest for layer in site.graph.layers().values()})
    return gone, nbytes


def _unwanted(site: Site) -> list[Row]:
    rows = site.graph.rows()
    parents, mounted = {row.parent for row in rows}, site.graph.mounted()
    return [
        row for row in rows
        if not row.pinned and row.state == "ready" and row.kind is SnapshotKind.COMMITTED
        and row.id not in parents and row.id not in mounted
    ]  # fmt: skip
