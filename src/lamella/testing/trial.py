"""What every test of a storage driver does: make one, make snapshots in it, change them, and look at what that left."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import pytest

from lamella.drivers._run import mounted
from lamella.drivers.base import Driver, Place
from lamella.drivers.vfs import Vfs
from lamella.layer.union import Union
from lamella.model import SnapshotKind
from lamella.tar.reader import read_layer
from lamella.testing.calls import Calls, Directory
from lamella.testing.copying import Parting
from lamella.testing.editors import play, tree_of
from lamella.testing.listing import Found, compare, listing
from lamella.testing.trees import Dir, Fifo, File, Hardlink, Script, Socket, Symlink

__all__ = ["Trial", "Unmounted", "equal", "expect", "same_layer", "same_tree"]

BASE = Script((
    Dir(b"", mode=0o751, xattrs={"user.root": b"1"}), Dir("a", mode=0o2750, xattrs={"user.d": b"1"}),
    File("a/one", b"1" * 700, mode=0o4755, mtime_ns=1), File("a/two", b"2", xattrs={"user.k": b"v"}), Dir("a/deep"),
    File("a/deep/f", b"deep"), Dir("b"), File("b/x", b"x"), Hardlink("b/y", "b/x"), Symlink("b/ln", "x", mtime_ns=7),
    File("top", b"top"), Dir("empty", mode=0o700), Fifo("pipe"), Socket("sock"), File(b"\xff \n", b""),
))  # fmt: skip


@runtime_checkable
class Unmounted(Protocol):
    """A driver that lends its snapshots as unions."""

    def union(self, place: Place) -> contextlib.AbstractContextManager[Union]:
        """Lend the snapshot."""
        ...


class Trial:
    """How a driver is tried. A check is a method that takes an empty folder; ``trial(check, ...)`` runs one.

    ``driver`` is made in the folder's own "root". ``reference`` is a driver that is believed. ``privileged``: whether
    owners, devices and ``trusted.`` attributes are tried; by default that is whether root runs the tests. For the others
    see :class:`lamella.testing.suite.DriverSuite`.
    """

    driver: ClassVar[type[Driver]]
    options: ClassVar[Mapping[str, str]] = {}
    reference: ClassVar[type[Driver]] = Vfs
    privileged: ClassVar[bool] = os.geteuid() == 0
    breaks_hard_links: ClassVar[bool] = False
    keeps_sockets: ClassVar[bool] = True
    by_calls: ClassVar[bool] = False

    @pytest.fixture
    def trial(self, tmp_path: Path) -> Callable[..., Any]:
        """Give what runs a check: here, in a fresh folder. Override it to run them elsewhere (a sandbox, a device)."""

        def run(check: Callable[..., Any], *args: Any) -> Any:
            with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
                return check(Path(folder), *args)

        return run

    @property
    def base(self) -> Script:
        """What builds a tree with something of everything."""
        return Script(tuple(edit for edit in BASE.edits if self.keeps_sockets or not isinstance(edit, Socket)))

    def make(self, folder: Path) -> Driver:
        """Make the driver for the directory ``folder``, which is absent."""
        return _made(self.driver, folder, self.options)

    def make_reference(self, folder: Path) -> Driver:
        """Make the driver that is believed."""
        return _made(self.reference, folder, {})

    def snapshot(self, driver: Driver, script: Script, *parents: int, id_: int = 0) -> Place:
        """Make, change and commit a snapshot upon ``parents``, nearest first; its number follows theirs by default."""
        place = Place(id_ or max(parents, default=0) + 1, parents)
        driver.create(place)
        answers = self.edit(driver, place, script)
        expect(all(answer.endswith(("done", "copied")) for answer in answers), f"every edit is done: {answers}")
        driver.commit(place)
        return Place(place.id, parents, SnapshotKind.COMMITTED)

    @contextlib.contextmanager
    def opened(self, driver: Driver, place: Place, *, parting: bool = False) -> Iterator[Calls]:
        """Lend the calls on an active snapshot; ``parting``: hard links break as they do where files are copied up."""
        if self.by_calls and isinstance(driver, Unmounted):
            with driver.union(place) as union:
                yield union
            return
        with mounted(driver.mounts(place), driver.mount_points) as path, (Parting if parting else Directory)(path) as calls:
            yield calls

    def edit(self, driver: Driver, place: Place, script: Script, copying: Collection[int] = ()) -> list[str]:
        """Run a script in an active snapshot; answers as of :func:`lamella.testing.editors.play`."""
        with self.opened(driver, place) as calls:
            return play(calls, script, copying)

    def tree(self, driver: Driver, place: Place) -> dict[bytes, Found]:
        """List what the snapshot shows, to somebody who comes anew."""
        if self.by_calls and isinstance(driver, Unmounted):
            with driver.union(place) as union:
                return tree_of(union)
        with driver.seen(place) as path:
            return listing(path)

    def layer(self, driver: Driver, place: Place, **how: Any) -> bytes:
        """Return the uncompressed layer of what the snapshot changes; ``how`` is that of ``Changeset.write``."""
        out = io.BytesIO()
        with driver.changes(place) as found:
            found.write(out, compression="none", **how)
        return out.getvalue()


def _made(kind: type[Driver], folder: Path, options: Mapping[str, str]) -> Driver:
    root = folder / "root"
    root.mkdir(parents=True)
    return kind(root, options, mount_points=folder / "mnt")


# -- verdicts: tests that live in a package are not rewritten by pytest, so they say what they found --------------------


def expect(holds: bool, what: str) -> None:
    """AssertionError unless it ``holds``."""
    if not holds:
        raise AssertionError(f"it is not so that {what}")


def equal(found: Any, wanted: Any, what: str) -> None:
    """AssertionError unless the two are equal."""
    if found != wanted:
        raise AssertionError(f"{what}: {found!r}, not {wanted!r}")


def same_tree(found: Mapping[bytes, Found], wanted: Mapping[bytes, Found], what: str, ignore: Collection[str] = ()) -> None:
    """AssertionError with the differences unless the two trees are one."""
    differences = compare(wanted, found, ignore)
    if differences:
        raise AssertionError("\n".join([f"{what}: wanted != found", *differences]))


def same_layer(found: bytes, wanted: bytes, what: str) -> None:
    """AssertionError with the rows that differ unless two layers are the same bytes."""
    if found != wanted:
        rows, others = ([f"{entry!r}" for entry in read_layer(layer)] for layer in (wanted, found))
        lines = [f"{a} != {b}" for a, b in zip_longest(rows, others) if a != b] or ["the rows are the same, the bytes are not"]
        raise AssertionError("\n".join([f"{what}: wanted != found", *lines]))
