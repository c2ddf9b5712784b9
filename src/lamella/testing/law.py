"""Law L8: every driver gives the tree and the layer that vfs gives, whatever is done in its snapshots."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import HealthCheck, given, settings

from lamella.drivers.base import Driver, Place, parent_of
from lamella.layer.apply import apply
from lamella.layer.changeset import Changeset
from lamella.layer.diff import diff
from lamella.model import SnapshotKind, Why
from lamella.testing.copying import Parting
from lamella.testing.editors import play
from lamella.testing.histories import histories
from lamella.testing.listing import Found, listing
from lamella.testing.trees import Script
from lamella.testing.trial import Trial, equal, same_layer, same_tree

__all__ = ["Law"]

Fact = tuple[str, bytes, int]


class Law(Trial):
    """The law, over ``max_examples`` histories of two or three snapshots."""

    max_examples: ClassVar[int] = 200

    def test_law_l8_every_history_leaves_what_it_leaves_in_the_reference(self, trial: Callable[..., Any]) -> None:
        """Law L8, for random histories."""

        @settings(max_examples=self.max_examples, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
        @given(histories(privileged=self.privileged, sockets=self.keeps_sockets))
        def law(history: tuple[Script, ...]) -> None:
            trial(self.agrees, history)

        law()

    def agrees(self, folder: Path, history: Sequence[Script]) -> None:
        """Check one history: each snapshot answers, shows and is written as in the reference."""
        ours, theirs = self.make(folder / "ours"), self.make_reference(folder / "theirs")
        parents: tuple[int, ...] = ()
        tree: Mapping[bytes, Found] = {}
        loose = False  # whether a file was parted from a name that it had, in this snapshot or below
        for number, script in enumerate(history, 1):
            place = Place(number, parents)
            parted = self._played(ours, theirs, place, script)
            place = Place(number, parents, SnapshotKind.COMMITTED)
            before, tree = tree, self.tree(theirs, place)
            same_tree(self.tree(ours, place), tree, f"what snapshot {number} shows")
            loose = loose or parted or _names_went(before, tree)
            if self.breaks_hard_links and loose:
                self._agree_but_for_links(folder, ours, theirs, place)
            else:
                equal(_facts_of(ours, place), _facts_of(theirs, place), f"what snapshot {number} changes")
                for form in ("explicit", "opaque"):
                    mine, wanted = (self.layer(driver, place, whiteouts=form) for driver in (ours, theirs))
                    same_layer(mine, wanted, f"the layer of snapshot {number}, {form} whiteouts")
            parents = (number, *parents)

    def _played(self, ours: Driver, theirs: Driver, place: Place, script: Script) -> bool:
        """Play a script in both; True where hard links broke, which the reference's editor then did too."""
        for driver in (ours, theirs):
            driver.create(place)
        answers = self.edit(ours, place, script)
        copied = {number for number, answer in enumerate(answers) if answer.endswith(": copied")}
        with self.opened(theirs, place, parting=self.breaks_hard_links) as calls:
            wanted = play(calls, script, copied)  # a copy is another inode, whatever became of links
            parted = isinstance(calls, Parting) and bool(calls.parted)
        plain = [answer.replace(": copied", ": done") for answer in answers]
        equal(plain, [answer.replace(": copied", ": done") for answer in wanted], f"what edits of snapshot {place.id} answer")
        for driver in (ours, theirs):
            driver.commit(place)
        return parted

    def _agree_but_for_links(self, folder: Path, ours: Driver, theirs: Driver, place: Place) -> None:
        """Check the layer of a snapshot in which hard links broke, or a file lost one of its names, or that stands upon one.

        What was touched is known to have had other names, but not what became of these: it may be told of for its LINKS
        where a look at both trees names another, or none. Everything else is as in the reference, and the two layers
        make one tree; but of a renamed directory's files that are linked with others, of which the changeset warns
        (tests/contract 49). So does the layer with opaque markers.
        """
        with ours.changes(place) as found:
            warned, facts = bool(found.warnings), _facts(found)
        equal(_unlinked(facts), _unlinked(_facts_of(theirs, place)), f"what snapshot {place.id} changes")
        made = []
        for driver, form in ((theirs, "explicit"), (ours, "explicit"), (ours, "opaque")):
            with tempfile.TemporaryDirectory(dir=folder) as root:
                for layer in (self._below(theirs, place), self.layer(driver, place, whiteouts=form)):
                    apply(layer, root)
                made.append(listing(root))
        ignored = {"dir_mtime", "root", *(["links"] if warned else [])}
        for tree in made[1:]:
            same_tree(tree, made[0], f"what the layer of snapshot {place.id} makes", ignored)

    def _below(self, driver: Driver, place: Place) -> bytes:
        """Return a layer of the whole tree that the snapshot stands upon."""
        out = io.BytesIO()
        with driver.seen(parent_of(place)) as path:
            diff(None, path, out, compression="none")
        return out.getvalue()


def _facts_of(driver: Driver, place: Place) -> list[Fact]:
    with driver.changes(place) as found:
        return _facts(found)


def _facts(found: Changeset) -> list[Fact]:
    return [(change.kind.value, change.path, change.why.value) for change in found]


def _unlinked(facts: list[Fact]) -> list[Fact]:
    links = Why.LINKS.value
    return [(kind, path, why & ~links) for kind, path, why in facts if why != links]


def _names_went(before: Mapping[bytes, Found], after: Mapping[bytes, Found]) -> bool:
    """Tell whether one of several names of a file is gone, or another file's."""
    return any(set(found.links) - set(after[path].links if path in after else ()) for path, found in before.items())
