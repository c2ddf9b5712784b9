"""What processes that died left undone is finished or undone, by whoever comes next, before anything else."""

from __future__ import annotations

from lamella.store.making import finish_commit, finish_remove
from lamella.store.mounting import drop_owner, sweep
from lamella.store.owners import dead_owners
from lamella.store.site import Site

__all__ = ["recover"]


def recover(site: Site, *, opening: bool = False) -> None:
    """Take over from every dead owner: unmount, drop what was in the making, finish commits and removals.

    A commit goes on instead of back: its caller had written all it wanted. Processes that live are not disturbed.
    """
    found = opening
    for owner in dead_owners(site.owners):
        found = True
        drop_owner(site, owner)
        for row in site.graph.busy(owner):
            if row.state == "committing":
                finish_commit(site, row)
            else:
                finish_remove(site, row)
    if found:
        sweep(site)
