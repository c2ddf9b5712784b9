"""Where a store is and who works in it: its folders, its graph, its driver, and this process's owner."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from lamella.drivers._run import detach, mounts_below
from lamella.drivers.registry import choose, driver_class
from lamella.errors import StoreError
from lamella.image.writer import LayoutWriter
from lamella.model import Choice
from lamella.store.database import Database
from lamella.store.graph import Graph
from lamella.store.owners import Owner
from lamella.tree.root import Root
from lamella.tree.scan import directory

__all__ = ["Site"]

_FOLDERS = ("images", "mnt", "owners")
_DATABASE = "store.db"
_TRIAL = "trial"


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time make what is not there yet."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


class Site:
    """An open store's parts.

    ``images`` is an OCI image layout with the blobs of its layers and the manifests of its images, each tagged with its
    chain_id; ``mnt`` has a mount point for each snapshot that is mounted, by number, and a folder for each owner's own.
    """

    def __init__(
        self, root: str | os.PathLike[str], driver: str, backend: str, options: Mapping[str, str] | None
    ) -> None:
        self.root = Path(os.path.abspath(root))
        self.images, self.mnt, self._owners = (self.root / name for name in _FOLDERS)
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(self.root):
            self._make_folders()
            self.database = Database(self.root / _DATABASE)
        try:
            self.graph = Graph(self.database)
            self.choice, chosen = self._chosen(driver, backend, options)
            self.owner = Owner(self._owners)
            folder = self.root / self.choice.driver
            folder.mkdir(mode=0o700, exist_ok=True)
            kind = driver_class(self.choice.driver, self.choice.backend)
            try:
                self.driver = kind(folder, chosen, mount_points=self.mnt / self.owner.name)
            except BaseException:
                self.owner.close()
                raise
        except BaseException:
            self.database.close()
            raise

    @property
    def owners(self) -> Path:
        """The folder of the owners' locks."""
        return self._owners

    def close(self) -> None:
        """Close the store, with nothing of this process left in it."""
        self.owner.close()
        self.database.close()

    def step(self, what: str, key: str) -> None:
        """Tell audit hooks (sys.addaudithook, event "lamella.store") that ``what`` is recorded or done of ``key``."""
        sys.audit("lamella.store", what, key)

    def now(self) -> str:
        """Return the time as RFC 3339 has it, to the microsecond."""
        return datetime.now(UTC).isoformat().replace("+00:00", "Z")

    def layout(self) -> LayoutWriter:
        """Return a writer of the blobs, which one process at a time has; others wait."""
        return LayoutWriter(self.images)

    def _make_folders(self) -> None:
        if not (self.root / _DATABASE).exists() and set(os.listdir(self.root)) - {*_FOLDERS, _DATABASE}:
            raise StoreError(f"neither a store nor empty: {str(self.root)!r}")
        for folder in _FOLDERS:
            (self.root / folder).mkdir(mode=0o700, exist_ok=True)

    @contextlib.contextmanager
    def _trial(self) -> Iterator[Path]:
        """Lend a folder to try drivers in; what a process that died while it tried them left mounted there goes first."""
        folder = self.root / _TRIAL
        for path in mounts_below(folder):
            detach(path, lazy=True)
        with directory(self.root) as fd:
            Root(fd).remove(fd, os.fsencode(_TRIAL), os.fsencode(_TRIAL))
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            folder.rmdir()

    def _chosen(self, driver: str, backend: str, options: Mapping[str, str] | None) -> tuple[Choice, dict[str, str]]:
        """Return driver and options as recorded; of a new store, choose and record them."""
        with self.graph.change():
            facts = self.graph.facts()
            if facts is None:
                with self._trial() as folder:
                    choice = choose(folder, driver, backend)
                given = dict(options or {})
                driver_class(choice.driver, choice.backend)(self.root, given)  # options that it does not know
                self.graph.record_facts({
                    "driver": choice.driver, "backend": choice.backend, "reasons": choice.reasons, "options": given,
                })  # fmt: skip
                return choice, given
        choice = Choice(facts["driver"], facts["backend"], tuple(facts["reasons"]))
        if driver not in ("auto", choice.driver) or backend not in ("auto", choice.backend):
            has = f"{choice.driver}/{choice.backend}"
            raise StoreError(f"{str(self.root)!r} is a store of driver {has}, not {driver}/{backend}")
        if options is not None and dict(options) != facts["options"]:
            raise StoreError(f"{str(self.root)!r} is a store with the options {facts['options']}, not {dict(options)}")
        return choice, facts["options"]
