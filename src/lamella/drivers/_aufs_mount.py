"""What mount(2) is told of a union of AUFS: the first page of options, and what is appended by remounts (aufs.5)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from lamella.errors import DriverError
from lamella.model import Mount

__all__ = ["MAX_BRANCHES", "OPTIONS", "check_options", "mount_argv", "mount_data", "mount_of"]

MAX_BRANCHES = 127  # CONFIG_AUFS_BRANCH_MAX_127, the least that there is
_PAGE_MAX = 4095  # bytes of options that mount(2) takes
_XINO = "/dev/shm/aufs.xino"  # noqa: S108 - where the file is made that has no name from then on
_SPECIAL = ":,"  # between branches and between options: AUFS escapes neither
OPTIONS = ("dirperm1", "xino")


def check_options(options: Mapping[str, str]) -> None:
    """Check the values of options that are known. ValueError."""
    if options.get("dirperm1", "on") not in {"on", "off"}:
        raise ValueError(f"option dirperm1 is {options['dirperm1']!r}; one of off, on")
    xino = options.get("xino", _XINO)
    if not xino.startswith("/") or not _is_plain(xino):
        raise ValueError(f"option xino is {xino!r}, which is no absolute path without a colon or a comma")


def mount_of(branches: Sequence[str], options: Mapping[str, str], *, writable: bool) -> Mount:
    """Return the union of ``branches``, nearest first, as AUFS is told of it.

    DriverError for more than it takes, and for a path that it could not read.
    """
    if len(branches) > MAX_BRANCHES:
        raise DriverError(f"{len(branches)} branches, of which AUFS takes {MAX_BRANCHES}")
    for path in branches:
        if not _is_plain(path):
            raise DriverError(f"AUFS takes no branch with a colon or a comma in its path: {path}")
    first = "rw" if writable else "ro+wh"
    words = ["br:" + ":".join(f"{path}={'ro+wh' if at else first}" for at, path in enumerate(branches)), "dio"]
    words.append(f"xino={options.get('xino', _XINO)}")
    if options.get("dirperm1", "on") == "on":
        words.append("dirperm1")
    return Mount("aufs", "none", tuple(words) if writable else ("ro", *words))


def _is_plain(path: str) -> bool:
    return not any(character in path for character in _SPECIAL)


def mount_data(mount: Mount) -> list[str]:
    """Return the options of each call: as many branches as fit into a page, and one more by each remount that follows.

    DriverError where a page has no room for the first branch, or for one that is appended.
    """
    branches = next(word for word in mount.options if word.startswith("br:")).removeprefix("br:").split(":")
    others = ",".join(word for word in mount.options if not word.startswith("br:") and word != "ro")
    room = _PAGE_MAX - len(os.fsencode(f"br:,{others}"))
    n_first = 0
    for branch in branches:
        room -= len(os.fsencode(branch)) + (n_first > 0)
        if room < 0:
            break
        n_first += 1
    data = [f"br:{':'.join(branches[:n_first])},{others}", *(f"append:{branch}" for branch in branches[n_first:])]
    if not n_first or any(len(os.fsencode(text)) > _PAGE_MAX for text in data):
        raise DriverError("a branch has a path that does not fit into a page of mount options")
    return data


def mount_argv(mount: Mount, target: str | os.PathLike[str]) -> list[list[str]]:
    """Return the commands that mount the union at ``target``, one after another."""
    first, *appended = mount_data(mount)
    where = [mount.source, os.fspath(target)]
    ro = ["ro"] if mount.read_only else []
    return [_mount([*ro, first], where), *(_mount(["remount", *ro, text], where) for text in appended)]


def _mount(words: Iterable[str], where: Sequence[str]) -> list[str]:
    return ["mount", "-t", "aufs", "-o", ",".join(words), *where]
