"""Tests of a driver's duties: snapshots are made, changed, committed, looked at, measured and removed."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest

from lamella.drivers._run import attach, detach, mounts_below
from lamella.drivers.base import Driver, Place
from lamella.errors import DriverError
from lamella.model import SnapshotKind
from lamella.testing.editors import play
from lamella.testing.listing import listing
from lamella.testing.trees import (
    Append,
    Chmod,
    Dir,
    File,
    Hole,
    Move,
    Remove,
    Script,
    Truncate,
    Write,
    Xattr,
)
from lamella.testing.trial import Trial, equal, expect, same_tree

__all__ = ["EDITS", "Snapshots"]

ACTIVE, VIEW, COMMITTED = SnapshotKind.ACTIVE, SnapshotKind.VIEW, SnapshotKind.COMMITTED
MIB = 1 << 20
_KILLED = 77
EDITS = Script((
    Write("a/one", b"changed"), Append("top", b"++"), Truncate("a/two", 70_000), Hole(b"\xff \n", 100, 200_000),
    Chmod("a", 0o700), Xattr("a/deep", "user.n", b"1"), Remove("b/ln"), Remove("empty"), Dir("empty", mode=0o711),
    File("empty/new", b"new"), Move("a/deep", "b/deep"), File("pipe", b"a file now"),
), dir_mtime_ns=1_700_000_000_123_456_789)  # fmt: skip


class Snapshots(Trial):
    """The tests. Each is a check with a name for pytest."""

    child_nbytes: ClassVar[int | None] = 64 << 10

    def test_a_snapshot_of_nothing_is_empty(self, trial: Callable[..., Any]) -> None:
        """Nothing but a directory that all may read."""
        trial(self.is_empty)

    def is_empty(self, folder: Path) -> None:
        """Check it."""
        driver = self.make(folder)
        for place in (Place(1), Place(2, (), VIEW)):
            driver.create(place)
            tree = self.tree(driver, place)
            equal(list(tree), [b""], "the paths of an empty snapshot")
            equal(tree[b""][:5], ("dir", 0o755, os.geteuid(), os.getegid(), 0), "the root of an empty snapshot")
            equal(tree[b""].xattrs, (), "its attributes")
        driver.sync()

    def test_a_snapshot_shows_its_parent_and_does_not_change_it(self, trial: Callable[..., Any]) -> None:
        """Active ones, views, committed ones, and through a chain."""
        trial(self.chain)

    def chain(self, folder: Path) -> None:
        """Check it."""
        driver = self.make(folder)
        self.snapshot(driver, self.base)
        base = self.tree(driver, Place(1, (), COMMITTED))
        driver.create(Place(2, (1,)))
        same_tree(self.tree(driver, Place(2, (1,))), base, "a new active snapshot")
        self.edit(driver, Place(2, (1,)), EDITS)
        active = self.tree(driver, Place(2, (1,)))
        same_tree(self.tree(driver, Place(1, (), COMMITTED)), base, "the parent of one that was changed")
        for _ in range(2):  # once more is no error
            driver.commit(Place(2, (1,)))
            same_tree(self.tree(driver, Place(2, (1,), COMMITTED)), active, "a snapshot that was committed")
        parents: tuple[int, ...] = (2, 1)
        for id_ in range(3, 9):
            self.snapshot(driver, Script(()), *parents, id_=id_)
            parents = (id_, *parents)
        for place in (Place(9, parents), Place(10, parents, VIEW)):
            driver.create(place)
            same_tree(self.tree(driver, place), active, f"a snapshot of a chain of {len(parents)}, {place.kind.value}")
        self.edit(driver, Place(9, parents), Script((Remove("a"), Remove("b"), File("top", b"other"))))
        same_tree(self.tree(driver, Place(10, parents, VIEW)), active, "a view while another is changed")
        same_tree(self.tree(driver, Place(1, (), COMMITTED)), base, "the first parent of all")

    def test_a_view_is_read_only(self, trial: Callable[..., Any]) -> None:
        """Its mounts say so and, where they can be done, hold to it."""
        trial(self.read_only)

    def read_only(self, folder: Path) -> None:
        """Check it."""
        driver = self.make(folder)
        self.snapshot(driver, self.base)
        driver.create(Place(2, (1,), VIEW))
        driver.create(Place(3, (1,)))
        for place in (Place(2, (1,), VIEW), Place(1, (), COMMITTED)):
            expect(driver.mounts(place)[-1].read_only, f"the mount of a {place.kind.value} snapshot is read-only")
            if self.by_calls:
                with self.opened(driver, place) as calls:
                    (answer,) = play(calls, [("mkdir", b"new")])
                expect(answer.endswith("EROFS"), f"a {place.kind.value} snapshot is read-only: {answer}")
            elif os.geteuid() == 0:
                _try_to_write(driver, place, folder / "target")
        expect(not any(mount.read_only for mount in driver.mounts(Place(3, (1,)))), "the mounts of an active one are not")

    def test_mounts_are_data(self, trial: Callable[..., Any]) -> None:
        """To ask for them changes nothing and mounts nothing."""
        trial(self.pure_mounts)

    def pure_mounts(self, folder: Path) -> None:
        """Check it."""
        driver = self.make(folder)
        self.snapshot(driver, self.base)
        driver.create(Place(2, (1,)))
        before, mounted = listing(driver.root), mounts_below("/")
        for place in (Place(1, (), COMMITTED), Place(2, (1,)), Place(3, (1,), VIEW)):
            equal(driver.mounts(place), driver.mounts(place), "the mounts, asked for twice")
        equal(listing(driver.root), before, "what is on disk")
        equal(mounts_below("/"), mounted, "what is mounted")

    def test_what_is_removed_is_gone(self, trial: Callable[..., Any]) -> None:
        """Once more is no error; what others stand upon, and others beside it, stay."""
        trial(self.removal)

    def removal(self, folder: Path) -> None:
        """Check it."""
        driver = self.make(folder)
        equal(sorted(driver.ids()), [], "the numbers in an empty root")
        self.snapshot(driver, self.base)
        base = self.tree(driver, Place(1, (), COMMITTED))
        self.snapshot(driver, EDITS, 1)
        driver.create(Place(3, (2, 1)))
        driver.create(Place(12, (1,), VIEW))
        equal(sorted(driver.ids()), [1, 2, 3, 12], "the numbers of what is there")
        for id_ in (3, 3, 2, 12, 77):
            driver.remove(id_)
        equal(sorted(driver.ids()), [1], "the numbers of what is left")
        same_tree(self.tree(driver, Place(1, (), COMMITTED)), base, "what others were removed beside")
        driver.remove(1)
        equal(sorted(driver.ids()), [], "the numbers when all is removed")

    def test_a_create_that_is_killed_can_be_removed(self, trial: Callable[..., Any]) -> None:
        """At whichever of its steps; then it can be made again."""
        trial(self.killed)

    def killed(self, folder: Path) -> None:
        """Check it."""
        driver = self.make(folder)
        self.snapshot(driver, self.base)
        base = self.tree(driver, Place(1, (), COMMITTED))
        step, place = 0, Place(2, (1,))
        while _killed_at(step, lambda: driver.create(place)):
            expect(set(driver.ids()) <= {1, 2}, f"what is left at step {step} has its number")
            driver.remove(2)
            equal(sorted(driver.ids()), [1], f"the numbers after one was removed that died at step {step}")
            step += 1 + step // 8  # soon every step, later some
        expect(step > 0, "a create has steps")
        same_tree(self.tree(driver, place), base, "what is made in the end")

    def test_usage_is_what_a_snapshot_takes_alone(self, trial: Callable[..., Any]) -> None:
        """That of its parents is not counted, where they are not copied."""
        trial(self.room)

    def room(self, folder: Path) -> None:
        """Check it."""
        driver = self.make(folder)
        self.snapshot(driver, Script((File("big", os.urandom(MIB)), Dir("d"), File("d/f", b"x"))))
        parent = driver.usage(Place(1, (), COMMITTED))
        expect(parent.nbytes >= MIB and parent.n_inodes >= 4, f"a file of a MiB takes one: {parent}")
        place = Place(2, (1,))
        driver.create(place)
        child = driver.usage(place)
        if self.child_nbytes is None:
            expect(child.nbytes >= MIB, f"a copy takes what it copies: {child}")
        else:
            expect(child.nbytes <= self.child_nbytes, f"a new snapshot takes next to nothing: {child}")
        self.edit(driver, place, Script((File("more", os.urandom(MIB // 2)),)))
        more = driver.usage(place)
        expect(more.nbytes >= child.nbytes + MIB // 2 and more.n_inodes > child.n_inodes, f"what is new counts: {more}")
        equal(driver.usage(Place(1, (), COMMITTED)), parent, "the usage of the parent")

    def test_snapshots_are_made_at_once(self, trial: Callable[..., Any]) -> None:
        """By several threads, upon one parent."""
        trial(self.at_once)

    def at_once(self, folder: Path) -> None:
        """Check it."""
        driver = self.make(folder)
        self.snapshot(driver, self.base)
        base = self.tree(driver, Place(1, (), COMMITTED))
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda id_: driver.create(Place(id_, (1,))), range(2, 10)))
        for id_ in range(2, 10):
            same_tree(self.tree(driver, Place(id_, (1,))), base, "one of several made at once")
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(driver.remove, range(2, 10)))
        equal(sorted(driver.ids()), [1], "what is left")

    def test_errors_have_their_types(self, trial: Callable[..., Any]) -> None:
        """And nothing that was there is lost by them."""
        trial(self.errors)

    def errors(self, folder: Path) -> None:
        """Check it."""
        driver = self.make(folder)
        self.snapshot(driver, self.base)
        base = self.tree(driver, Place(1, (), COMMITTED))
        with pytest.raises(ValueError, match="no-such-option"):
            type(driver)(driver.root, {"no-such-option": "1"})
        with pytest.raises((OSError, DriverError)):
            driver.create(Place(1))
        same_tree(self.tree(driver, Place(1, (), COMMITTED)), base, "one that was to be made again")
        with pytest.raises((OSError, DriverError)):
            driver.create(Place(5, (4,)))  # upon nothing
        with pytest.raises((OSError, DriverError)):
            self.tree(driver, Place(7, (6,)))
        driver.remove(5)
        equal(sorted(driver.ids()), [1], "what is left")

    def test_a_probe_raises_nothing(self, trial: Callable[..., Any]) -> None:
        """It leaves nothing either, and says why not where it is so."""
        trial(self.probes)

    def probes(self, folder: Path) -> None:
        """Check it."""
        good = self.make(folder).root
        before, mounted = listing(good), mounts_below("/")
        equal(self.driver.probe(good).reasons, (), "the reasons against a root that is good")
        same_tree(listing(good), before, "what a probe leaves", {"root"})
        equal(mounts_below("/"), mounted, "what is mounted after it")
        (folder / "file").write_bytes(b"")
        for bad in (folder / "absent", folder / "file", Path("/proc")):
            probe = self.driver.probe(bad)
            equal((probe.name, probe.backend), (self.driver.name, self.driver.backend), "whose probe it is")
            expect(not probe.available and any(probe.reasons), f"{bad} is refused, and why is said: {probe}")


def _try_to_write(driver: Driver, place: Place, target: Path) -> None:
    target.mkdir(exist_ok=True)
    attach(driver.mounts(place), target)
    try:
        with pytest.raises(OSError, match="Read-only"):
            (target / "new").mkdir()
    finally:
        detach(target)


def _killed_at(step: int, call: Callable[[], Any]) -> bool:
    """Call in a child process that is killed at its audit event number ``step``; False where it comes to its end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a process with threads is forked: none of them is needed
        child = os.fork()
    if child == 0:
        status = 1
        try:
            _die_at(step)
            call()
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    expect(status in (0, _KILLED), f"it dies when it is killed, or comes to its end: exit status {status}")
    return status == _KILLED


def _die_at(step: int) -> None:
    left = step

    def hook(event: str, _: tuple[Any, ...]) -> None:
        nonlocal left
        if event.startswith(("os.", "open")):
            left -= 1
            if left < 0:
                os._exit(_KILLED)  # nothing is cleaned up

    sys.addaudithook(hook)
