"""Requests about names that change nothing. Each is a method, named as libfuse names it, that returns the answer; OSError.

The kernel locks a directory while it asks about its names, and a file's content is locked by it too. What is left is a path
that changes while it is used: an answer that was begun before a change is found again when that is done.
"""

from __future__ import annotations

import contextlib
import errno
import stat
from collections.abc import Callable
from threading import Lock, RLock
from typing import TypeVar

from lamella.errors import LamellaError
from lamella.fuse import wire
from lamella.fuse.binding import ForgetOne, Library
from lamella.fuse.eagerness import Eagerness
from lamella.fuse.foresight import Foresight
from lamella.fuse.nodes import Node, Nodes
from lamella.fuse.tree import Seen, Tree

__all__ = ["Answer", "Looking"]

T = TypeVar("T")
Answer = bytes | tuple[bytes, Callable[[], None]] | None  # with what to undo where nobody waits for it any more

_DOTS = 2  # offsets of "." and ".."
_NO_KIND = 0


class Looking:
    """Answers the kernel's questions about names of ``tree``."""

    def __init__(self, library: Library, tree: Tree) -> None:
        self.library, self.tree = library, tree
        self.nodes = Nodes()
        root = tree.look(b"")
        self.nodes.root.number = root.number if root is not None else 0
        self.eager = Eagerness()
        self._foresight = Foresight()
        self._ahead: int | None = None
        self.open_files: dict[int, Node] = {}
        self.lock = RLock()  # held by who changes the tree, or opens a file
        self.files = Lock()  # held by who closes a descriptor, or makes it another file
        self.generation = 0  # odd while something changes

    def close(self) -> None:
        """Close what is open, and the tree."""
        for fd in list(self.open_files):
            self.tree.release(fd)
        self.open_files.clear()
        self.tree.close()

    def calm(self, work: Callable[[], T]) -> T:
        """Return what ``work`` does while nothing changes."""
        before = self.generation
        if not before & 1:
            try:
                result = work()
            except OSError:
                if self.generation == before:
                    raise
            else:
                if self.generation == before:
                    return result
        with self.lock:
            return work()

    # -- names ----------------------------------------------------------------------------------------------------

    def lookup(self, _: int, parent: int, name: bytes) -> Answer:
        """Tell what a name leads to."""
        above = self.nodes[parent]
        seen = self.calm(lambda: self.tree.look(self.nodes.join(above, name)))
        if seen is None:
            return wire.negative()
        if not stat.S_ISDIR(seen.status.st_mode):
            self.eager.asked(above)
        return self.known(above, name, seen)

    def known(self, parent: Node, name: bytes, seen: Seen) -> tuple[bytes, Callable[[], None]]:
        """Return the entry of a node that the kernel gets to know."""
        node = self.nodes.learn(parent, name, seen)
        return wire.entry(node.id, seen), lambda: self.nodes.forget(node.id, 1)

    def forget(self, _: int, ino: int, lookups: int) -> None:
        """Note that the kernel forgot a node."""
        self.nodes.forget(ino, lookups)

    def forget_multi(self, _: int, count: int, forgotten: int) -> None:
        """Note that the kernel forgot nodes."""
        for one in (ForgetOne * count).from_address(forgotten):
            self.nodes.forget(one.ino, one.nlookup)

    def opendir(self, _: int, ino: int, info: int) -> Answer:
        """Say that directories need no handle."""
        raise OSError(errno.ENOSYS, "")

    def readdir(self, _: int, ino: int, size: int, offset: int, info: int) -> Answer:
        """List names."""
        reply, _found = self._names(self.nodes[ino], size, offset, _NO_KIND, plus=False)
        return bytes(reply)

    def readdirplus(self, _: int, ino: int, size: int, offset: int, info: int) -> Answer:
        """List names, with the status of directories, for which who walks a tree asks next; or of all (see eagerness.py)."""
        node = self.nodes[ino]
        whole = self.eager.listed(node) or offset > _DOTS
        reply, found = self._names(node, size, offset, None if whole else stat.S_IFDIR, plus=True)
        if not found:
            return bytes(reply)
        wanted = {wire.name_at(reply, at, plus=True)[2]: at for at in found}
        learnt: list[int] = []
        folders: list[int] = []
        for name, seen in self.calm(lambda: self.tree.look_in(self.nodes.path(node), wanted)).items():
            child = self.nodes.learn(node, name, seen)
            learnt.append(child.id)
            reply[wanted[name] : wanted[name] + wire.ENTRY_SIZE] = wire.entry(child.id, seen)
            if stat.S_ISDIR(seen.status.st_mode):
                folders.append(child.id)
        self._foresight.found(ino, folders)

        def forget() -> None:
            for one in learnt:
                self.nodes.forget(one, 1)

        return bytes(reply), forget

    def _names(self, node: Node, size: int, offset: int, kind: int | None, *, plus: bool) -> tuple[bytearray, list[int]]:
        """Return names after an offset, and where those of ``kind`` stand; "." and ".." come first, and stand nowhere."""
        if node is not self.nodes.root and not node.names:
            return bytearray(), []
        listing = self.calm(lambda: self.tree.listing(self.nodes.path(node)))
        after = max(offset - _DOTS, 0)
        if offset >= _DOTS and listing.ends(after):
            self._ahead = self._foresight.listed(node.id)
            return bytearray(), []
        reply, used = bytearray(size), 0
        for dot in range(offset, _DOTS):
            at = node.names[0][0] if dot and node.names else node
            one = wire.dirent(at.number, dot + 1, stat.S_IFDIR, b".." if dot else b".", plus=plus)
            reply[used : used + len(one)] = one
            used += len(one)
        flips, kept = self.tree.flips, self.tree.kept
        used, found = listing.spell(
            after, reply, used, skipped=_DOTS, flips=flips, kind=None if kept else kind, plus=plus
        )
        if kept:
            found = self._renumber(reply, found, kind, plus=plus)
        del reply[used:]
        return reply, found

    def look_ahead(self) -> None:
        """Read what is likely to be asked for next, if that can be guessed: nobody waits for it."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            with contextlib.suppress(OSError, LamellaError):
                node = self.nodes[ahead]
                self.calm(lambda: self.tree.listing(self.nodes.path(node)))

    def _renumber(self, reply: bytearray, found: list[int], kind: int | None, *, plus: bool) -> list[int]:
        """Show the numbers that the tree keeps; return which of the names are of a kind."""
        left = []
        for at in found:
            number, its_kind, _name = wire.name_at(reply, at, plus=plus)
            wire.renumber(reply, at, self.tree.kept.get(number, number), plus=plus)
            if kind is None or kind == its_kind:
                left.append(at)
        return left
