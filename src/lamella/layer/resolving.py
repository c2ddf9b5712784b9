"""One name, or all names, of one directory of a merged view whose branches are known: no table, a few system calls.

The rules are those of lowers.py. What needs a search from the root again, a redirect or a file whose content is in another
branch, is said and left to that.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from lamella.layer.directories import Entry
from lamella.layer.lowers import Branches
from lamella.layer.search import Place
from lamella.layer.whiteout import OPAQUE, PREFIX
from lamella.tree.root import join, lstat

__all__ = ["Elsewhere", "Resolved", "Resolver", "through"]

_NAMESPACES = {"overlay": ("trusted", "user"), "overlay:trusted": ("trusted",), "overlay:user": ("user",), "aufs": ()}

_FILE = stat.S_IFREG


class Elsewhere(Exception):
    """What is shown depends on other names than the one that was asked for."""


@dataclass(slots=True, eq=False)
class Resolved:
    """The inode that is shown: where it is, its status, and of a directory the branches that make it up."""

    place: Place
    status: os.stat_result
    stack: list[Place] = field(default_factory=list)


class Resolver:
    """Looks into directories of ``branches``, each given as its stack: where the branches have it, nearest first."""

    def __init__(self, branches: Branches) -> None:
        self.roots = branches.roots
        self._aufs = branches.dialect == "aufs"
        self._last = len(self.roots) - 1
        own = [f"{namespace}.overlay." for namespace in _NAMESPACES[branches.dialect]]
        self._opaque, self._redirect, self._metacopy, self._whiteout = (
            frozenset(name + key for name in own) for key in ("opaque", "redirect", "metacopy", "whiteout")
        )

    def root(self) -> Resolved | None:
        """Return the root, None without branches: of overlay all roots merge, of AUFS down to an opaque one."""
        if not self.roots:
            return None
        stack: list[Place] = []
        for number, root in enumerate(self.roots):
            stack.append((number, b""))
            if self._aufs and lstat(root.fd, OPAQUE) is not None:
                break
        return Resolved((0, b""), os.fstat(self.roots[0].fd), stack)

    def child(self, stack: Sequence[Place], name: bytes, *, content: bool) -> Resolved | None:
        """Return what is shown at ``name``; Elsewhere for a redirect, and with ``content`` for a metacopy file too."""
        found: Resolved | None = None
        for branch, at in stack:
            fd = self.roots[branch].open_dir(at)
            try:
                found, ends = self._see(found, fd, (branch, at), name, content=content)
            finally:
                os.close(fd)
            if ends:
                break
        return found

    def children(self, stack: Sequence[Place], names: Iterable[bytes]) -> dict[bytes, Resolved]:
        """Return what is shown at each of ``names``, but what takes a search Elsewhere."""
        shown: dict[bytes, Resolved] = {}
        left = list(names)
        for branch, at in stack:
            if not left:
                break
            going = []
            with self.roots[branch].dir(at) as fd:
                for name in left:
                    try:
                        found, ends = self._see(shown.get(name), fd, (branch, at), name, content=False)
                    except Elsewhere:
                        shown.pop(name, None)
                        continue
                    if found is not None:
                        shown[name] = found
                    if not ends:
                        going.append(name)
            left = going
        return shown

    def _see(
        self, found: Resolved | None, fd: int, place: Place, name: bytes, *, content: bool
    ) -> tuple[Resolved | None, bool]:  # fmt: skip
        """Return what is shown after a branch was looked at too, and whether that is all."""
        branch, at = place
        status = lstat(fd, name)
        if status is None:
            return found, self._aufs and self._ends(fd, name, branch, is_dir=False)
        is_dir = stat.S_ISDIR(status.st_mode)
        if (not is_dir and found is not None) or self._hides(status, fd, name):
            return found, True
        if found is None:
            found = Resolved((branch, join(at, name)), status)
        if not is_dir:
            self._check_content(found, fd, name, content=content)
            return found, True
        found.stack.append((branch, join(at, name)))
        return found, self._ends(fd, name, branch, is_dir=True)

    def _hides(self, status: os.stat_result, fd: int, name: bytes) -> bool:
        """Tell whether an inode of the branch is a whiteout."""
        if self._aufs:
            return False
        if stat.S_ISCHR(status.st_mode):
            return status.st_rdev == 0
        return bool(
            stat.S_ISREG(status.st_mode)
            and status.st_size == 0
            and self._whiteout.intersection(_keys(through(fd, name)))
            and any(self._value(fd, key) == b"x" for key in self._opaque)
        )

    def _check_content(self, found: Resolved, fd: int, name: bytes, *, content: bool) -> None:
        asked = content and not self._aufs and stat.S_ISREG(found.status.st_mode)
        if asked and self._metacopy.intersection(_keys(through(fd, name))):
            raise Elsewhere

    def _ends(self, fd: int, name: bytes, branch: int, *, is_dir: bool) -> bool:
        """Tell whether a branch lets nothing through at ``name``, but for what it has there itself."""
        if self._aufs:
            return lstat(fd, PREFIX + name) is not None or (is_dir and lstat(fd, join(name, OPAQUE)) is not None)
        if not is_dir or branch == self._last:
            return False
        keys = _keys(through(fd, name))
        if self._redirect.intersection(keys):
            raise Elsewhere
        return any(self._value(through(fd, name), key) == b"y" for key in self._opaque.intersection(keys))

    def _value(self, where: int | bytes, key: str) -> bytes:
        try:
            return os.getxattr(where, key)
        except OSError:
            return b""

    def names(self, stack: Sequence[Place]) -> list[Entry]:
        """Return the names that a directory shows: of each branch in the order that it lists them."""
        out: list[Entry] = []
        seen: set[bytes] = set()
        for branch, place in stack:
            is_last = (branch, place) == stack[-1]
            with self.roots[branch].dir(place) as fd, os.scandir(b"/proc/self/fd/%d" % fd) as entries:
                devices: list[bytes] = []
                listed: list[Entry] = [
                    (
                        n, found.name, _FILE if found.is_file(follow_symlinks=False) else _kind(found, devices),
                        found.inode(), branch,
                    )
                    for n, found in enumerate(entries, len(out) + 1)
                ]
                gone = self._gone(fd, listed, devices, is_last=is_last)
            if not seen and not gone:
                out += listed
            else:
                shown = [entry[1:] for entry in listed if entry[1] not in seen and entry[1] not in gone]
                out += [(number, *entry) for number, entry in enumerate(shown, len(out) + 1)]
            if not is_last:
                seen.update(entry[1] for entry in listed)
                seen |= gone
        return out

    def _gone(self, fd: int, listed: Sequence[Entry], devices: Iterable[bytes], *, is_last: bool) -> set[bytes]:
        """Return which names a branch hides, and those that are its own; whiteouts are among ``devices``, or files."""
        if self._aufs:
            own = [entry[1] for entry in listed if entry[1].startswith(PREFIX)]
            there = {entry[1] for entry in listed} if own else set()
            hidden = {name[len(PREFIX) :] for name in own}
            return {*own, *(hidden - there)}
        if not is_last and any(self._value(fd, key) == b"x" for key in self._opaque):
            devices = [*devices, *(entry[1] for entry in listed if entry[2] == _FILE)]
        return {name for name in devices if self._hidden(fd, name)}

    def _hidden(self, fd: int, name: bytes) -> bool:
        status = lstat(fd, name)
        return status is not None and self._hides(status, fd, name)


def _kind(found: os.DirEntry[bytes], devices: list[bytes]) -> int:
    """Return S_IFMT of what is no file, which most file systems tell with the name, and note character devices."""
    if found.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    if found.is_symlink():
        return stat.S_IFLNK
    kind = stat.S_IFMT(found.stat(follow_symlinks=False).st_mode)
    if kind == stat.S_IFCHR:
        devices.append(found.name)
    return kind


def _keys(where: bytes) -> list[str]:
    try:
        return os.listxattr(where, follow_symlinks=False)
    except OSError:
        return []


def through(fd: int, name: bytes) -> bytes:
    """Return a path of ``name`` in directory ``fd``, for the calls on attributes: they take no directory.

    What follows the kernel's own link to the directory is one name, which these calls do not follow.
    """
    return b"/proc/self/fd/%d/%s" % (fd, name or b".")
