"""Overlay with ``index=on``: a file keeps its names, in its view, in the upper directory and in what it says it changed."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import ClassVar

import pytest

import lamella
from lamella.drivers import overlay
from lamella.drivers._run import mounted
from lamella.drivers.overlay import Overlay, OverlayUnion
from lamella.errors import DriverError, DriverUnavailable
from lamella.testing.listing import compare, listing
from lamella.testing.suite import DriverSuite
from lamella.testing.trees import Chmod, Dir, File, Hardlink, Remove, Rename, Script, Symlink, Utime, Write
from tests.drivers.places import Boxed
from tests.drivers.test_overlay import COMMITTED, driver, edit, layer, place, plain, shown

pytestmark = pytest.mark.requires("overlay")

LINKED = Script((
    Dir("d"), File("d/x", b"x" * 900), Hardlink("d/y", "d/x"), Hardlink("z", "d/x"), File("p", b"p"), Hardlink("d/q", "p"),
    Symlink("s", "t"), Hardlink("d/s", "s"), File("u", b"u"), Hardlink("v", "u"), File("w", b"w"), Hardlink("d/w", "w"),
))  # fmt: skip
RELINKED = Script((
    Write("d/x", b"written"), Chmod("p", 0o600), Remove("p"), Utime("s", 5), Rename("d", "e"), Chmod("w", 0o600), Remove("w"),
    Remove("e/w"), Hardlink("n", "u"),
))  # fmt: skip


def indexed(folder: Path, when: str) -> list[str]:
    """Write files through one of several names; compare with a plain tree when mounted, unmounted, or only committed."""
    of = driver(folder, index="on")
    edit(of, place(1), LINKED)
    of.commit(place(1))
    of.create(place(2, 1))
    before, tree = plain(folder / "before", LINKED), plain(folder / "tree", LINKED)
    with contextlib.ExitStack() as mount:
        path = mount.enter_context(mounted(of.mounts(place(2, 1)), of.mount_points))
        for root in (path, tree):
            RELINKED.apply(root)
        if when != "mounted":
            mount.close()
        out = io.BytesIO()
        lamella.diff(before, tree, out, compression="none")
        wrong = []
        if when != "committed":
            wrong = compare(shown(of, place(2, 1)), listing(tree))
            wrong += [] if layer(of, place(2, 1)) == out.getvalue() else ["layers differ"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(overlay, "link_all", None)  # nothing is left to do
            wrong += [] if when == "committed" else compare(shown(of, place(2, 1)), listing(tree))
        wrong += compare(path, listing(tree)) if when == "mounted" else []
    of.commit(place(2, 1))
    wrong += compare(shown(of, place(2, 1, kind=COMMITTED)), listing(tree))
    return wrong + ([] if layer(of, place(2, 1)) == out.getvalue() else ["layers differ"])


@pytest.mark.parametrize("when", ["mounted", "unmounted", "committed"])
def test_with_an_index_a_file_keeps_its_names(box, when):
    assert box.call(indexed, when) == []


def unindexed(folder: Path) -> None:
    of = driver(folder, index="on")
    edit(of, place(1), LINKED)
    of.commit(place(1))
    edit(of, place(2, 1), Script((Write("d/x", b"written"),)))
    with pytest.raises(DriverError, match="names in an index"):
        driver(folder, OverlayUnion).commit(place(2, 1))
    of.commit(place(2, 1))
    tree = shown(driver(folder, OverlayUnion), place(2, 1, kind=COMMITTED))
    assert tree[b"z"].links == (b"d/x", b"d/y", b"z")


def test_an_index_is_not_dropped_with_what_it_says(box):
    box.call(unindexed)


def no_index(folder: Path) -> None:
    with pytest.raises(DriverUnavailable):
        driver(folder, index="on").create(place(1))
    assert os.listdir(folder / "root") == []


def test_an_index_that_the_kernel_has_not_is_refused(user_box):
    user_box.call(no_index)


class Applied(DriverSuite):
    """A layer is applied with no mount, so with no index: a link to a lower file parts the name that it names."""

    driver = Overlay
    options: ClassVar = {"index": "on"}
    breaks_hard_links = True


class TestOverlayWithAnIndex(Boxed, DriverSuite):
    driver = Overlay
    options: ClassVar = {"index": "on"}
    max_examples = 200

    def joins(self, folder: Path) -> None:
        Applied().joins(folder)
