"""Overlay mounts made by the kernel, as the judge of what reads upper directories. For calls in a sandbox.

A stack grows by scripts: each runs in a mount whose lower directories are the upper directories so far, so that what the
kernel wrote is then read as a lower one.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lamella
from lamella.layer.lowers import Branches
from lamella.testing.listing import compare, listing
from lamella.testing.trees import Script, build
from lamella.tree.scan import scan
from tests.laws.ground import expected, hidden

FIELDS = ("path", "type", "mode", "uid", "gid", "size", "mtime_ns", "rdev_major", "rdev_minor", "link_target", "xattrs")
OPTIONS = ("redirect_dir=off", "redirect_dir=on", "metacopy=on,redirect_dir=on")


@dataclass
class Step:
    """One upper directory: what we say of it, what the two merged views say, and the layer of each."""

    ours: list[tuple[str, bytes, int]]
    theirs: list[tuple[str, bytes, int]]
    layers_equal: bool
    applied: list[str]
    warnings: tuple[str, ...]
    upper: dict[bytes, str]
    wrong: list[bytes]  # where our look at the branches is not the kernel's


@contextlib.contextmanager
def overlay(where: Path, lowers: Sequence[Path], upper: Path | None, options: str = "") -> Iterator[Path]:
    """Mount ``lowers`` (nearest first) under ``upper``, whose work directory is beside it, or read-only without one."""
    libc = ctypes.CDLL(None, use_errno=True)
    where.mkdir(exist_ok=True)
    words = [f"lowerdir={':'.join(map(str, lowers))}", *filter(None, [options])]
    if upper is not None:
        work = upper.with_name(upper.name + ".work")
        work.mkdir(exist_ok=True)
        upper.mkdir(exist_ok=True)
        words += [f"upperdir={upper}", f"workdir={work}"]
    if libc.mount(b"overlay", os.fsencode(where), b"overlay", 0, ",".join(words).encode()) != 0:
        raise OSError(ctypes.get_errno(), "mount", ",".join(words))
    try:
        yield where
    finally:
        if libc.umount2(os.fsencode(where), 0) != 0:
            raise OSError(ctypes.get_errno(), "umount", str(where))


def perform(script: Script, root: Path) -> None:
    """Run a script as far as the mount allows: it refuses to move a lower directory without redirect_dir."""
    failed = set()
    for number, edit in enumerate(script.edits):
        try:
            edit.apply(root)
        except OSError:
            failed.add(number)
    script.settle(root, failed)


def facts(found: Any) -> list[tuple[str, bytes, int]]:
    return [(change.kind.value, change.path, change.why.value) for change in found]


def raw(upper: Path) -> dict[bytes, str]:
    """List an upper directory for a person to read."""
    out = {}
    for path, found in listing(upper).items():
        names = [name.decode() for name, _ in found.xattrs if b"overlay" in name and b"origin" not in name]
        out[path] = " ".join([found.type, *names])
    return out


def step(folder: Path, number: int, lowers: Sequence[Path], script: Script, options: str, **wanted: Any) -> Step:
    """Run ``script`` in a new upper directory over ``lowers`` and compare what we read there with the two views."""
    upper = folder / f"upper{number}"
    extra = {"userxattr"} if options.startswith("userxattr") else set()
    with contextlib.ExitStack() as stack:
        below = lowers[0]
        if len(lowers) > 1:
            mode = ",".join(sorted(extra)) or options
            below = stack.enter_context(overlay(folder / f"view{number}", lowers, None, mode))
        with overlay(folder / f"edited{number}", lowers, upper, options) as edited:
            perform(script, edited)
        # mounted anew: while it lives, an inode that was copied up keeps the number it had
        merged = stack.enter_context(overlay(folder / f"merged{number}", lowers, upper, options))
        ours = lamella.changes_from_upper(upper, lowers)
        theirs = lamella.changes(below, merged)
        before, after = listing(below), listing(merged)
        equal, differ = [], []
        for form in ("explicit", "opaque"):
            first, second, base = io.BytesIO(), io.BytesIO(), io.BytesIO()
            info = lamella.diff_from_upper(upper, first, lowers, compression="none", whiteouts=form, **wanted)
            lamella.diff(below, merged, second, compression="none", whiteouts=form, **wanted)
            lamella.diff(None, below, base, compression="none")
            copy = folder / f"copy{number}.{form}"
            lamella.apply(base.getvalue(), copy)
            lamella.apply(first.getvalue(), copy)
            emitted = {entry.path for entry in lamella.read_layer(first.getvalue())}
            equal.append(first.getvalue() == second.getvalue())
            differ += [] if hidden(before, after) else compare(expected(before, after, emitted), listing(copy))
        return Step(facts(ours), facts(theirs), all(equal), differ, info.warnings, raw(upper), seen(merged, [upper, *lowers]))


def seen(view: Path, stack: Sequence[Path]) -> list[bytes]:
    """Return the paths at which a mounted view is not what our own look at its branches shows, content and all."""
    shown = scan(view)
    paths, theirs = list(shown.paths), list(shown)
    wrong = []
    with Branches(stack) as branches:
        table, _ = branches.tree(b"")
        if list(table.paths) != paths[1:]:
            return sorted(set(table.paths) ^ set(paths[1:]))
        found = branches.find(shown, data=True, stacks=True)
        ours, numbers = found.table()
        for row, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            place = found.content(int(numbers[row])) if a.type.value == "0" else None
            data = b"" if place is None else os.pread(fd := branches.open_file(*place), 1 << 22, 0)
            if place is not None:
                os.close(fd)
            same = data == ((view / os.fsdecode(b.path)).read_bytes() if b.type.value == "0" else b"")
            if not same or any(getattr(a, name) != getattr(b, name) for name in FIELDS):
                wrong.append(a.path)
    return wrong


def grow(folder: Path, tree: Script, scripts: Sequence[Script], options: str, **wanted: Any) -> list[Step]:
    """Build ``tree``, run each script in an upper directory of its own over all before; a step for each."""
    lowers = [folder / "lower"]
    build(lowers[0])
    tree.apply(lowers[0])
    steps = []
    for number, script in enumerate(scripts):
        steps.append(step(folder, number, lowers, script, options, **wanted))
        lowers.insert(0, folder / f"upper{number}")
    return steps
