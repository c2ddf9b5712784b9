"""The graph of a store's snapshots: who stands upon whom, and what is being done to whom.

A snapshot that is being made, committed or removed has a state and an owner, written before the first step and taken away
after the last. What has none is whole. Numbers are never used again, so what a removed snapshot leaves on disk can never be
taken for another's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

from lamella.drivers.base import Place
from lamella.errors import SnapshotExists, SnapshotInUse, SnapshotNotFound, WrongSnapshotKind
from lamella.model import SnapshotKind, Usage
from lamella.store.database import Database

__all__ = ["Graph", "LayerRow", "Row"]

_READY = "ready"


class Row(NamedTuple):
    """A snapshot as the graph has it. ``state`` "ready", or what ``owner`` does to it: "making" "committing" "removing"."""

    id: int
    key: str
    kind: SnapshotKind
    parent: int | None
    pinned: bool
    created: str
    state: str
    owner: str | None
    becomes: str | None
    usage: Usage | None


@dataclass(frozen=True, slots=True)
class LayerRow:
    """The layer that a committed snapshot is, and the blob that says the same."""

    diff_id: str
    digest: str
    size: int
    media_type: str


def _row(values: tuple[Any, ...]) -> Row:  # as store/database.py declares the table
    id_, key, kind, parent, pinned, created, state, owner, becomes, nbytes, n_inodes = values
    usage = None if nbytes is None else Usage(nbytes, n_inodes)
    return Row(id_, key, SnapshotKind(kind), parent, bool(pinned), created, state, owner, becomes, usage)


class Graph:
    """The snapshots in ``database``. Every call is one transaction, or part of the one of :meth:`change`."""

    def __init__(self, database: Database) -> None:
        self.change = database.change
        self._ask = database.ask

    # -- what is there ----------------------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any] | None:
        """Return what was recorded of the store itself, None of a new one."""
        found = self._ask("SELECT facts FROM store")
        return dict(json.loads(found[0][0])) if found else None

    def record_facts(self, facts: dict[str, Any]) -> None:
        """Record what the store is."""
        with self.change():
            self._ask("DELETE FROM store")
            self._ask("INSERT INTO store VALUES (?)", json.dumps(facts))

    def find(self, key: str) -> Row | None:
        """Return the snapshot of this key, None where there is none that is whole."""
        found = self._ask("SELECT * FROM snapshot WHERE key = ? AND state != 'making'", key)
        return _row(found[0]) if found else None

    def get(self, key: str, *kinds: SnapshotKind) -> Row:
        """Return the snapshot of this key; SnapshotNotFound, and WrongSnapshotKind unless it is of one of ``kinds``.

        SnapshotInUse while somebody commits or removes it.
        """
        row = self.find(key)
        if row is None:
            raise SnapshotNotFound("no such snapshot", key)
        if kinds and row.kind not in kinds:
            wanted = " or ".join(kind.value for kind in kinds)
            raise WrongSnapshotKind(f"a snapshot that is {row.kind.value}, not {wanted}", key)
        if row.state != _READY:
            raise SnapshotInUse(f"{row.state} by process {(row.owner or '').partition('-')[0]}", key)
        return row

    def by_id(self, id_: int) -> Row:
        """Return a snapshot by number."""
        return _row(self._ask("SELECT * FROM snapshot WHERE id = ?", id_)[0])

    def rows(self) -> list[Row]:
        """Return every snapshot, those in the making too, in the order they came."""
        return [_row(values) for values in self._ask("SELECT * FROM snapshot ORDER BY id")]

    def lineage(self, row: Row) -> list[Row]:
        """Return the snapshot and what it stands upon, down to the lowest."""
        sql = """WITH RECURSIVE up (at, next, depth) AS (
                SELECT id, parent, 0 FROM snapshot WHERE id = ?
                UNION ALL SELECT id, parent, depth + 1 FROM snapshot JOIN up ON id = next)
            SELECT snapshot.* FROM up JOIN snapshot ON id = at ORDER BY depth"""
        return [_row(values) for values in self._ask(sql, row.id)]

    def place(self, row: Row) -> Place:
        """Return the snapshot as its driver sees it."""
        return Place(row.id, tuple(above.id for above in self.lineage(row)[1:]), row.kind)

    def children(self, row: Row) -> tuple[str, ...]:
        """Return the keys of what stands upon the snapshot."""
        return tuple(key for (key,) in self._ask("SELECT key FROM snapshot WHERE parent = ? ORDER BY id", row.id))

    def layer(self, row: Row) -> LayerRow | None:
        """Return the layer that a snapshot is, None where no blob says it."""
        found = self._ask("SELECT diff_id, digest, size, media_type FROM layer WHERE snapshot = ?", row.id)
        return LayerRow(*found[0]) if found else None

    def layers(self) -> dict[int, LayerRow]:
        """Return the layers of all snapshots that have one, by number."""
        found = self._ask("SELECT snapshot, diff_id, digest, size, media_type FROM layer")
        return {id_: LayerRow(*values) for id_, *values in found}

    # -- changes ------------------------------------------------------------------------------------------------------

    def begin(
        self, key: str, kind: SnapshotKind, parent: Row | None, owner: str, created: str, *, pinned: bool
    ) -> Row:
        """Take a key for a snapshot in the making; SnapshotExists."""
        with self.change():
            self._free(key)
            if parent is not None:  # which nobody may have begun to remove meanwhile
                sql = "SELECT 1 FROM snapshot WHERE id = ? AND (state = 'ready' OR owner = ?)"
                if not self._ask(sql, parent.id, owner):
                    raise SnapshotNotFound("no such snapshot", parent.key)
            self._ask(
                "INSERT INTO snapshot (key, kind, parent, pinned, created, state, owner) VALUES (?, ?, ?, ?, ?, 'making', ?)",
                key, kind.value, None if parent is None else parent.id, int(pinned), created, owner,
            )  # fmt: skip
            return self.by_id(self._ask("SELECT last_insert_rowid()")[0][0])

    def begin_commit(self, row: Row, name: str, owner: str) -> None:
        """Say that ``row`` is about to be committed as ``name``; SnapshotExists, SnapshotInUse."""
        with self.change():
            if name != row.key:
                self._free(name)
            self._check_idle(row, "mounted")
            self._ask("UPDATE snapshot SET state = 'committing', owner = ?, becomes = ? WHERE id = ?", owner, name, row.id)

    def begin_remove(self, row: Row, owner: str) -> None:
        """Say that ``row`` is about to go; SnapshotInUse where it is mounted or something stands upon it."""
        with self.change():
            self._check_idle(row, "mounted")
            if children := self.children(row):
                raise SnapshotInUse(f"{len(children)} snapshots stand upon it ({', '.join(children[:3])})", row.key,
                                    children=children)  # fmt: skip
            self._ask("UPDATE snapshot SET state = 'removing', owner = ? WHERE id = ?", owner, row.id)

    def finish(self, *rows: Row, committed: bool = False) -> None:
        """Say that snapshots in the making, or being committed, are whole: all of them together."""
        with self.change():
            for row in rows:
                self._ask(
                    """UPDATE snapshot SET state = 'ready', owner = NULL, key = coalesce(becomes, key), becomes = NULL,
                    kind = CASE WHEN ? THEN 'committed' ELSE kind END WHERE id = ?""", int(committed), row.id,
                )  # fmt: skip

    def forget(self, row: Row) -> None:
        """Delete a row whose snapshot is gone from disk."""
        with self.change():
            self._ask("DELETE FROM mount WHERE snapshot = ?", row.id)
            self._ask("DELETE FROM snapshot WHERE id = ?", row.id)

    def rename(self, row: Row, key: str) -> None:
        """Give a snapshot in the making another key; SnapshotExists."""
        with self.change():
            self._free(key)
            self._ask("UPDATE snapshot SET key = ? WHERE id = ?", key, row.id)

    def pin(self, key: str) -> None:
        """Say that somebody asked for this snapshot by name, so that gc keeps it."""
        self._ask("UPDATE snapshot SET pinned = 1 WHERE key = ?", key)

    def record_layer(self, row: Row, layer: LayerRow) -> None:
        """Record which layer a snapshot is."""
        values = (row.id, layer.diff_id, layer.digest, layer.size, layer.media_type)
        self._ask("INSERT OR REPLACE INTO layer VALUES (?, ?, ?, ?, ?)", *values)

    def record_usage(self, row: Row, usage: Usage) -> None:
        """Record what a committed snapshot takes."""
        self._ask("UPDATE snapshot SET nbytes = ?, n_inodes = ? WHERE id = ?", usage.nbytes, usage.n_inodes, row.id)

    def busy(self, owner: str) -> list[Row]:
        """Return the snapshots that ``owner`` is at, what stands upon others first."""
        found = self._ask("SELECT * FROM snapshot WHERE owner = ? ORDER BY id DESC", owner)
        return [_row(values) for values in found]

    # -- mounts -------------------------------------------------------------------------------------------------------

    def mounted_by(self, row: Row) -> dict[str, int]:
        """Return who has the snapshot mounted, and how often."""
        return dict(self._ask("SELECT owner, n FROM mount WHERE snapshot = ?", row.id))

    def mounted(self) -> set[int]:
        """Return the numbers of all snapshots that somebody has mounted."""
        return {id_ for (id_,) in self._ask("SELECT DISTINCT snapshot FROM mount")}

    def count_mount(self, row: Row, owner: str, by: int) -> int:
        """Add to the mounts of ``owner``; return how many of all owners there are now."""
        with self.change():
            self._ask(
                "INSERT INTO mount VALUES (?, ?, ?) ON CONFLICT (snapshot, owner) DO UPDATE SET n = n + excluded.n",
                row.id, owner, by,
            )  # fmt: skip
            self._ask("DELETE FROM mount WHERE n <= 0")
            return sum(self.mounted_by(row).values())

    def mount_owners(self) -> set[str]:
        """Return all who have something mounted."""
        return {owner for (owner,) in self._ask("SELECT DISTINCT owner FROM mount")}

    def drop_mounts(self, owner: str) -> None:
        """Forget the mounts of ``owner``."""
        self._ask("DELETE FROM mount WHERE owner = ?", owner)

    def _free(self, key: str) -> None:
        if not key:
            raise ValueError("an empty key")
        if self._ask("SELECT 1 FROM snapshot WHERE key = ? OR becomes = ?", key, key):
            raise SnapshotExists("there is a snapshot of this name", key)

    def _check_idle(self, row: Row, what: str) -> None:
        self.get(row.key)
        if self.mounted_by(row):
            raise SnapshotInUse(what, row.key)
