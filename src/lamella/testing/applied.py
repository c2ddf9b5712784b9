"""Tests of layers: what is applied to a snapshot, and what is told of its changes, is as in the reference."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lamella.drivers.base import Place
from lamella.errors import LamellaError
from lamella.model import SnapshotKind
from lamella.testing import tars
from lamella.testing.law import Law
from lamella.testing.snapshots import EDITS
from lamella.testing.tars import Member, layer_tar
from lamella.testing.trees import Chmod, Chown, Device, Dir, Edit, File, Hardlink, Move, Remove, Rename, Script, Utime, Write
from lamella.testing.trial import equal, same_layer, same_tree

__all__ = ["Applied"]

FIRST = [
    tars.directory("./", mode=0o755), tars.directory("usr", mode=0o755), tars.directory("usr/bin", mode=0o755),
    tars.file("usr/bin/sh", b"#!", mode=0o755), tars.symlink("bin", "usr/bin"), tars.directory("etc", mode=0o700),
    tars.file("etc/passwd", b"root", xattrs={"user.k": b"v"}), tars.hardlink("etc/linked", "etc/passwd"),
    tars.directory("var", mode=0o755), tars.file("var/a", b"a"), tars.directory("var/b", mode=0o755),
    tars.file("var/b/c", b"c"), tars.fifo("var/pipe"),
]  # fmt: skip
SECOND = [
    tars.directory("./", mode=0o755, mtime_ns=1), tars.directory("usr", mode=0o755), tars.directory("usr/bin", mode=0o755),
    tars.directory("etc", mode=0o711, mtime_ns=5), tars.file("etc/group", b"wheel"), tars.whiteout("etc/passwd"),
    tars.opaque("var"), tars.directory("var", mode=0o755), tars.file("var/b", b"a file now"),
    tars.file("bin/new", b"through a symlink"), tars.hardlink("usr/new", "usr/bin/sh"), tars.whiteout("nothing"),
]  # fmt: skip
THIRD = [
    tars.directory("./", mode=0o711), tars.directory("usr", mode=0o755), tars.whiteout("usr/bin"), tars.whiteout("bin"),
    tars.directory("bin", mode=0o755), tars.file("bin/sh", b"other"), tars.directory("var", mode=0o755),
    tars.directory("var/b", mode=0o700),
]  # fmt: skip
LINKED = [tars.directory("d"), tars.file("d/a", b"1"), tars.hardlink("d/b", "d/a"), tars.hardlink("d/c", "d/a")]
CASES: dict[str, tuple[Edit, ...]] = {
    "nothing": (),
    "everything": EDITS.edits,
    "one of several in a directory": (Remove("a/two"), Remove("top")),
    "one name of a file": (Write("b/x", b"other"),),
    "one name of a file, its mode": (Chmod("b/y", 0o600),),
    "one name of a file, moved": (Move("b/y", "a/y"),),
    "one name of a file goes": (Remove("b/x"),),
    "a further name": (Hardlink("a/z", "b/x"),),
    "both names, moved with their directory": (Move("b", "z"), Write("z/x", b"other")),
    "a directory for a file": (Remove("top"), Dir("top"), File("top/f", b"f")),
    "a file for a directory": (File("a", b"f"),),
    "made again, the same": (Remove("a/deep"), Dir("a/deep"), File("a/deep/f", b"deep")),
    "moved there and back": (Move("a", "z"), Move("z", "a"), Chmod("a/two", 0o600)),
    "exchanged": (Move("a", "t"), Move("b", "a"), Move("t", "b")),
    "times alone": (Utime("", 5), Utime("top", 6), Utime("b/ln", 7)),
    "renamed in the same directory": (Rename("a/one", "a/uno"),),
}
OWNED: dict[str, tuple[Edit, ...]] = {
    "owners": (Chown("", 1, 2), Chown("b/ln", 3), Chown("a/one", 4, 5)),
    "devices": (Device("null", 1, 3), Device("pipe", 8, 0, "block")),
}


class Applied(Law):
    """The tests."""

    @property
    def mine(self) -> dict[str, bool]:
        """How a layer is applied by whoever runs the tests: an ordinary user owns all there is."""
        return {"rootless": os.geteuid() != 0}

    def test_layers_make_what_they_make_in_the_reference(self, trial: Callable[..., Any]) -> None:
        """Whiteouts, opaque directories, hard links to what is lower, paths through symlinks."""
        trial(self.applies)

    def applies(self, folder: Path) -> None:
        """Check it, with what is told of each."""
        ours, theirs = self.make(folder / "ours"), self.make_reference(folder / "theirs")
        parents: tuple[int, ...] = ()
        for id_, layer in enumerate((FIRST, SECOND, THIRD), 1):
            for driver in (ours, theirs):
                driver.create(Place(id_, parents))
                driver.apply(Place(id_, parents), layer_tar(layer), **self.mine)
                driver.commit(Place(id_, parents))
            place = Place(id_, parents, SnapshotKind.COMMITTED)
            same_tree(self.tree(ours, place), self.tree(theirs, place), f"after layer {id_}")
            same_layer(self.layer(ours, place), self.layer(theirs, place), f"the layer told of snapshot {id_}")
            parents = (id_, *parents)

    def test_a_link_to_a_lower_file_joins_its_names(self, trial: Callable[..., Any]) -> None:
        """Or parts the one that it names from the others, where hard links break."""
        trial(self.joins)

    def joins(self, folder: Path) -> None:
        """Check it."""
        driver = self.make(folder)
        for place, layer in ((Place(1), LINKED), (Place(2, (1,)), [tars.hardlink("new", "d/a")])):
            driver.create(place)
            driver.apply(place, layer_tar(layer), **self.mine)
            driver.commit(place)
        tree = self.tree(driver, Place(2, (1,), SnapshotKind.COMMITTED))
        together: tuple[bytes, ...] = (b"d/a", b"d/b", b"d/c", b"new")
        joined, others = ((b"d/a", b"new"), (b"d/b", b"d/c")) if self.breaks_hard_links else (together, together)
        equal([tree[path].links for path in (b"new", b"d/a", b"d/b")], [joined, joined, others], "the names of one file")

    def test_a_layer_that_is_refused_is_an_error(self, trial: Callable[..., Any]) -> None:
        """And the snapshot can be removed."""
        trial(self.refuses)

    def refuses(self, folder: Path) -> None:
        """Check it."""
        driver = self.make(folder)
        bad: list[list[Member | bytes]] = [[tars.file("f"), tars.hardlink("g", "absent")], [tars.file("../f", b"out")]]
        for id_, members in enumerate(bad, 1):
            driver.create(Place(id_))
            try:
                driver.apply(Place(id_), layer_tar(members), **self.mine)
            except LamellaError:
                driver.remove(id_)
            else:
                raise AssertionError(f"a layer was applied that cannot be: {members}")
        equal(sorted(driver.ids()), [], "what is left")
        equal(sorted(path.name for path in folder.iterdir() if path.name == "f"), [], "what is outside")

    def test_changes_are_those_of_the_reference(self, trial: Callable[..., Any]) -> None:
        """A history each, so that what random ones seldom meet is always met."""
        for edits in (CASES | OWNED if self.privileged else CASES).values():
            trial(self.agrees, (self.base, Script(edits)))
