"""One name, or all names, of one directory of a merged view whose branches are known: no table, a few system calls.

The rules are those of lowers.py. What needs a search from the root again, a redirect or a file whose content is in another
branch, is said and left to that.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from lamella.layer.listing import Gathering, Listing
from lamella.layer.lowers import Branches
from lamella.layer.search import Place
from lamella.layer.whiteout import OPAQUE, PREFIX
from lamella.tree.root import join, lstat

__all__ = ["Elsewhere", "Resolved", "Resolver", "through"]

_NAMESPACES = {"overlay": ("trusted", "user"), "overlay:trusted": ("trusted",), "overlay:user": ("user",), "aufs": ()}


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
            fd, is_last = self.roots[branch].open_dir(at), self._is_last(stack, (branch, at))
            try:
                found, ends = self._see(found, fd, (branch, at), name, content=content, is_last=is_last)
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
            is_last = self._is_last(stack, (branch, at))
            going = []
            with self.roots[branch].dir(at) as fd:
                for name in left:
                    try:
                        found, ends = self._see(shown.get(name), fd, (branch, at), name, content=False, is_last=is_last)
                    except Elsewhere:
                        shown.pop(name, None)
                        continue
                    if found is not None:
                        shown[name] = found
                    if not ends:
                        going.append(name)
            left = going
        return shown

    def _is_last(self, stack: Sequence[Place], place: Place) -> bool:
        """Tell whether no branch after one can show anything: a redirect leads to branches that are not in the stack."""
        return place == stack[-1] if self._aufs else place[0] == self._last

    def _see(
        self, found: Resolved | None, fd: int, place: Place, name: bytes, *, content: bool, is_last: bool
    ) -> tuple[Resolved | None, bool]:  # fmt: skip
        """Return what is shown after a branch was looked at too, and whether that is all."""
        branch, at = place
        status = lstat(fd, name)
        if status is None:
            return found, is_last or (self._aufs and self._ends(fd, name, is_dir=False))
        is_dir = stat.S_ISDIR(status.st_mode)
        if (not is_dir and found is not None) or self._hides(status, fd, name):
            return found, True
        if found is None:
            found = Resolved((branch, join(at, name)), status)
        if not is_dir:
            self._check_content(found, fd, name, content=content)
            return found, True
        found.stack.append((branch, join(at, name)))
        return found, is_last or self._ends(fd, name, is_dir=True)

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

    def _ends(self, fd: int, name: bytes, *, is_dir: bool) -> bool:
        """Tell whether a branch lets nothing through at ``name``, but for what it has there itself."""
        if self._aufs:
            return lstat(fd, PREFIX + name) is not None or (is_dir and lstat(fd, join(name, OPAQUE)) is not None)
        if not is_dir:
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

    def names(self, stack: Sequence[Place]) -> Listing:
        """Return the names that a directory shows: of each branch in the order that it lists them."""
        gathering = Gathering()
        for branch, place in stack:
            begin = gathering.used
            with self.roots[branch].dir(place) as fd:
                n_devices, n_unknown = gathering.read(fd, branch)
                if n_unknown:
                    n_devices += _tell_kinds(gathering, begin, fd)
                if not self._aufs:
                    self._hide(gathering, begin, fd, devices=n_devices > 0, is_last=(branch, place) == stack[-1])
        return gathering.merged(aufs=self._aufs)

    def _hide(self, gathering: Gathering, begin: int, fd: int, *, devices: bool, is_last: bool) -> None:
        """Note which names of a branch are whiteouts: among devices, or files too where the directory says so."""
        files = not is_last and any(self._value(fd, key) == b"x" for key in self._opaque)
        if not (devices or files):
            return
        for place, name, kind in gathering.entries(begin):
            if (kind == stat.S_IFCHR or (files and kind == stat.S_IFREG)) and self._hidden(fd, name):
                gathering.hide(place)

    def _hidden(self, fd: int, name: bytes) -> bool:
        status = lstat(fd, name)
        return status is not None and self._hides(status, fd, name)


def _tell_kinds(gathering: Gathering, begin: int, fd: int) -> int:
    """Find out what a file system does not tell with the names; return how many are character devices."""
    n_devices = 0
    for place, name, kind in gathering.entries(begin):
        status = lstat(fd, name) if kind == 0 else None
        if status is not None:
            gathering.tell(place, stat.S_IFMT(status.st_mode))
            n_devices += stat.S_ISCHR(status.st_mode)
    return n_devices


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
