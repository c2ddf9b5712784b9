"""One script in a mount of the kernel's overlayfs and in unions of ours: each answers, and leaves, what the others do.

A script is a row of edits (lamella.testing.trees) or of single calls. It is played through an object with the calls of
lamella.layer.union.Union, and what each step answered is noted. For calls in a sandbox.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lamella
from lamella.layer.union import Union
from lamella.model import Why
from lamella.testing.calls import Directory
from lamella.testing.editors import Call, play, tree_of
from lamella.testing.listing import compare, listing
from lamella.testing.trees import MTIME_NS, Edit, Script, build

# seconds; the time of a file is that of the clock's last tick, and what is changed in the tick it was made in looks unchanged
TICK = 0.012


@dataclass
class Outcome:
    """What the kernel answered, and a line for everything that is otherwise in one of ours."""

    answers: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def layer_of(upper: Path, lowers: Sequence[Path], dialect: str) -> bytes:
    out = io.BytesIO()
    lamella.diff_from_upper(upper, out, lowers, dialect=dialect, compression="none")
    return out.getvalue()


def fresh(upper: Path) -> Path:
    upper.mkdir()
    os.utime(upper, ns=(MTIME_NS, MTIME_NS))
    return upper


def differ(what: str, theirs: Any, ours: Any) -> list[str]:
    if theirs == ours:
        return []
    if isinstance(theirs, list):
        return [f"{what}: {a!r} != {b!r}" for a, b in zip([*theirs, None], [*ours, None], strict=False) if a != b]
    return [f"{what} differs"]


def timeless(changes: list[tuple[str, bytes, int]], ignored: set[str]) -> list[tuple[str, bytes, int]]:
    """Leave out that a time differs, where times are not compared: two runs need not see the clock move alike."""
    if "mtime_ns" not in ignored:
        return changes
    return [(kind, path, why & ~Why.MTIME.value) for kind, path, why in changes if kind != "modify" or why != Why.MTIME.value]


def linkless(changes: list[tuple[str, bytes, int]]) -> list[tuple[str, bytes, int]]:
    """Leave out that links differ: a branch of AUFS says so only where one of the other names is still to be seen."""
    return [(kind, path, why & ~Why.LINKS.value) for kind, path, why in changes if kind != "modify" or why != Why.LINKS.value]


def both(
    folder: Path, tree: Script, scripts: Sequence[Script | Sequence[Call]], *, dialects: Sequence[str], userxattr: bool = False,
    redirect_dir: bool = False,
) -> Outcome:  # fmt: skip
    """Run each script over what those before it left: in mounts, and in a union of each dialect. Compare after each."""
    from tests.overlays import facts, overlay  # here: an ordinary user cannot load all that it does

    lower = folder / "lower"
    build(lower)
    tree.apply(lower)
    before = listing(lower)
    options = f"redirect_dir={'on' if redirect_dir else 'off'}" if not userxattr else "userxattr"
    stacks = {who: [lower] for who in ("kernel", *dialects)}
    out = Outcome()
    for number, script in enumerate(scripts):
        time.sleep(TICK)
        ignored = set() if isinstance(script, Script) else {"mtime_ns"}
        upper = fresh(folder / f"kernel{number}")
        with overlay(folder / "mnt", stacks["kernel"], upper, options) as where, Directory(where) as fs:
            answers = play(fs, script)
        with overlay(folder / "mnt", stacks["kernel"], upper, options) as where:
            theirs = listing(where)
        changes = timeless(facts(lamella.changes_from_upper(upper, stacks["kernel"])), ignored)
        layer = layer_of(upper, stacks["kernel"], "overlay")
        out.answers += answers
        for dialect in dialects:
            mine, stack = fresh(folder / f"{dialect}{number}".replace(":", "-")), stacks[dialect]
            ours_says: list[str] = []
            with Union([mine, *stack], dialect=dialect, redirect_dir=redirect_dir, plink=False) as union:  # as index=off
                ours_says += differ("answer", answers, play(union, script))
                ours_says += [f"shown {line}" for line in compare(theirs, tree_of(union), {*ignored, "root"})]
            if dialect != "aufs":
                with overlay(folder / "mnt", [mine, *stack], None, options) as where:
                    ours_says += [f"mounted {line}" for line in compare(theirs, listing(where), {*ignored, "root"})]
            found = timeless(facts(lamella.changes_from_upper(mine, stack, dialect=dialect)), ignored)
            if dialect == "aufs":
                ours_says += differ("change", linkless(changes), linkless(found))
            else:
                ours_says += differ("change", changes, found)
            if isinstance(script, Script) and found == changes and layer != layer_of(mine, stack, dialect):
                ours_says.append("layer differs")
            out.wrong += [f"{dialect} {number}: {line}" for line in ours_says]
            stack.insert(0, mine)
        stacks["kernel"].insert(0, upper)
    out.wrong += [f"lower {line}" for line in compare(before, listing(lower))]
    return out


def goes_on(folder: Path, tree: Script, scripts: Sequence[Script], options: str) -> list[str]:
    """Run a script in a mount and the next in a union over what it wrote; compare with both in one mount."""
    from tests.overlays import overlay

    lower, upper, other = build(folder / "lower"), fresh(folder / "upper"), fresh(folder / "other")
    tree.apply(lower)
    with overlay(folder / "mnt", [lower], other, options) as where, Directory(where) as fs:
        answers = [play(fs, script) for script in scripts]
    with overlay(folder / "mnt", [lower], upper, options) as where, Directory(where) as fs:
        play(fs, scripts[0])
    with Union([upper, lower], redirect_dir=True) as union:
        wrong = differ("answer", answers[1], play(union, scripts[1]))
        shown = tree_of(union)
    with overlay(folder / "mnt", [lower], other, options) as where:
        theirs = listing(where)
    with overlay(folder / "mnt", [lower], upper, options) as where:
        wrong += [f"mounted {line}" for line in compare(theirs, listing(where))]
    return wrong + [f"shown {line}" for line in compare(theirs, shown)]


def alone(folder: Path, lower: Sequence[Edit], calls: Sequence[Call]) -> tuple[list[str], list[str]]:
    """Run calls in a union without a mount to compare with: what was refused, and what a second look sees differently."""
    branches = [build(folder / "upper"), build(folder / "lower", *lower)]
    with Union(branches) as union:
        answers = play(union, calls)
        shown = tree_of(union)
    with Union(branches, writable=False) as union:
        return [answer for answer in answers if not answer.endswith("done")], compare(shown, tree_of(union))
