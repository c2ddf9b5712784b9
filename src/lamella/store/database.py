"""A store's SQLite file: its tables, and transactions that one process at a time is in."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from threading import RLock
from typing import Any

from lamella.errors import StoreError

__all__ = ["Database"]

_FORMAT = 1
_BUSY_SECONDS = 60.0
_SCHEMA = """
CREATE TABLE snapshot (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
    parent INTEGER REFERENCES snapshot (id), pinned INTEGER NOT NULL, created TEXT NOT NULL,
    state TEXT NOT NULL, owner TEXT, becomes TEXT UNIQUE, nbytes INTEGER, n_inodes INTEGER
) STRICT;
CREATE INDEX child ON snapshot (parent);
CREATE INDEX busy ON snapshot (owner) WHERE owner IS NOT NULL;
CREATE TABLE layer (
    snapshot INTEGER PRIMARY KEY REFERENCES snapshot (id) ON DELETE CASCADE, diff_id TEXT NOT NULL,
    digest TEXT NOT NULL, size INTEGER NOT NULL, media_type TEXT NOT NULL
) STRICT;
CREATE TABLE mount (
    snapshot INTEGER NOT NULL REFERENCES snapshot (id), owner TEXT NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY (snapshot, owner)
) STRICT;
CREATE TABLE store (facts TEXT NOT NULL) STRICT;
"""


class Database:
    """The database at ``path``, made if there is none. StoreError for one of another format, or none at all.

    Threads of one process wait for each other.
    """

    def __init__(self, path: Path) -> None:
        self._lock = RLock()
        self._depth = 0
        self._db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            self._db.execute("PRAGMA foreign_keys = ON")
            self._db.execute("PRAGMA synchronous = FULL")
            self._open(path)
        except BaseException:
            self._db.close()
            raise

    def _open(self, path: Path) -> None:
        try:
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                self._db.execute("PRAGMA journal_mode = WAL")
                with self.change():
                    if self._db.execute("PRAGMA user_version").fetchone() == (0,):
                        for statement in _SCHEMA.split(";"):
                            self._db.execute(statement)
                        self._db.execute(f"PRAGMA user_version = {_FORMAT}")
                version = _FORMAT
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{path}: {error}") from error
        if version != _FORMAT:
            raise StoreError(f"{path} has format {version}, not {_FORMAT}")

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    def faults(self) -> list[str]:
        """Return what SQLite finds wrong with its file."""
        return [line for (line,) in self.ask("PRAGMA integrity_check") if line != "ok"]

    @contextlib.contextmanager
    def change(self) -> Iterator[None]:
        """Hold the database for a change: all that is done meanwhile is recorded together, or not at all."""
        with self._lock:
            self._depth += 1
            try:
                if self._depth > 1:
                    yield
                    return
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield
                except BaseException:
                    self._db.execute("ROLLBACK")
                    raise
                self._db.execute("COMMIT")
            finally:
                self._depth -= 1

    def ask(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows; a transaction of its own unless in :meth:`change`."""
        with self._lock:
            return self._db.execute(sql, values).fetchall()
