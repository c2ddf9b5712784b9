"""The names that a row of layers makes, upon a lower tree that is known, empty or unknown: no file system, no bytes.

A :class:`Names` tree holds what the layers say of each place: a :class:`Folder` (a directory, or one that is only passed,
so that what is lower shows), a :class:`Leaf` (a name of any other inode) or GONE (whited out). The rules are those of an
apply with policy "spec"; numbers are of tests/contract.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple

from lamella.errors import ConflictError, UnsafePathError
from lamella.tree.root import join

__all__ = ["GONE", "UNKNOWN", "Folder", "Inode", "Leaf", "Name", "Names", "Stack", "Step", "visible"]

_FILE, _SYMLINK = ord("0"), ord("2")
_MAX_LINKS = 40


class Inode:
    """What several names stand for: the row that made it, or (``at``) a place of the lower tree where it stands."""

    __slots__ = ("at", "flag", "layer", "row")

    def __init__(self, flag: int, layer: int, row: int, at: bytes | None = None) -> None:
        self.flag, self.layer, self.row, self.at = flag, layer, row, at


class Leaf:
    """A name of what is no directory: the row that made the name, and what other names it shares (None: none)."""

    __slots__ = ("flag", "layer", "link", "row")

    def __init__(self, flag: int, layer: int, row: int) -> None:
        self.flag, self.layer, self.row = flag, layer, row
        self.link: Inode | None = None


class Folder:
    """A directory: the last row that gave it metadata (-1: none did), ``born`` when it became one; -1: it is only passed.

    ``shut``: nothing lower shows in it. ``loose``: made through a name that may be a symlink of the lower tree.
    """

    __slots__ = ("born", "layer", "loose", "names", "row", "shut")

    def __init__(self, layer: int = -1, row: int = -1, born: int = -1, *, shut: bool = False) -> None:
        self.layer, self.row, self.born, self.shut = layer, row, born, shut
        self.loose = False
        self.names: dict[bytes, Name] = {}


class Gone:
    """The name of what was whited out."""

    layer: ClassVar[int] = -1


Name = Folder | Leaf | Gone
GONE = Gone()
UNKNOWN = Folder()  # a lower tree of which nothing is known, and every place in it


class Step(NamedTuple):
    """A directory on the way from the root: what the layers have there, if anything, and what is lower."""

    name: bytes
    node: Folder | None
    low: Name | None


Stack = list[Step]


def visible(node: Name | None, low: Name | None) -> Folder | Leaf | None:
    """Return what a place shows: the layers' own, else what is lower; None for nothing."""
    seen = low if node is None or (isinstance(node, Folder) and node.born < 0) else node
    return None if isinstance(seen, Gone) else seen


def lower_of(node: Folder | None, low: Name | None, part: bytes) -> Name | None:
    """Return what the lower tree shows as ``part`` of a directory."""
    if low is None or (node is not None and node.shut) or not isinstance(low, Folder):
        return None
    below = UNKNOWN if low is UNKNOWN else low.names.get(part)
    return None if below is GONE else below


class Names:
    """The tree of names, changed by one layer at a time; ``text`` gives the target of a symlink's row.

    ``strict``: the lower tree is not known and may have symlinks anywhere. What goes through such a place sets
    ``passed``, so that the caller can refuse what would depend on it.
    """

    def __init__(self, lower: Folder | None, text: Callable[[int, int], bytes], *, strict: bool) -> None:
        self.root = Folder()
        self.lower, self.text, self.strict = lower, text, strict
        self.layer = 0
        self.now = 0  # born of what is made next
        self.passed: bytes | None = None  # a place on the last way of which only the lower tree knows what it is
        self.lost: tuple[Stack, bytes] | None = None  # the last place at which a row became void by another row
        self.folders: dict[bytes, Stack] = {}  # ways to directories, while no name on them changes
        self.stripped: set[Folder] = set()  # by a marker of the current layer: what is in them since then is its own
        self._inodes: dict[object, Inode] = {}

    # -- finding --------------------------------------------------------------------------------------------------

    def look(self, stack: Stack, part: bytes) -> tuple[Name | None, Name | None]:
        """Return what the layers have as ``part`` of a directory, and what is lower there."""
        _, node, low = stack[-1]
        return None if node is None else node.names.get(part), lower_of(node, low, part)

    def enter(self, stack: Stack, part: bytes, *, lower_only: bool = False) -> Stack | None:
        """Step into the directory ``part``, through symlinks inside the root; None where there is no directory.

        ``lower_only`` refuses a symlink that the current layer made (103).
        """
        todo, links = [part], 0
        while todo:
            part = todo.pop()
            if part == b"..":
                if self.strict and len(stack) > 1 and visible(*stack[-1][1:]) is UNKNOWN:
                    raise ConflictError(place(stack), "a symlink leads up from what may be a symlink in the lower tree")
                stack = stack[:-1] or stack
                continue
            node, low = self.look(stack, part)
            seen = visible(node, low)
            if isinstance(seen, Folder):
                if seen is UNKNOWN and self.strict:
                    self.passed = place(stack, part)
                    if links:
                        raise ConflictError(self.passed, "a symlink leads to what the lower tree may not have")
                stack = [*stack, Step(part, node if isinstance(node, Folder) else None, low)]
                continue
            links += 1
            if seen is None or seen.flag != _SYMLINK or links > _MAX_LINKS:
                return None
            if lower_only and seen is node and seen.layer == self.layer:
                return None
            target = self._target(seen)
            stack = stack[:1] if target.startswith(b"/") else stack
            todo += [piece for piece in reversed(target.split(b"/")) if piece not in (b"", b".")]
        return stack

    def _target(self, leaf: Leaf) -> bytes:
        origin = leaf.link or leaf
        return self.text(origin.layer, origin.row)

    def top(self) -> Stack:
        """Return the way to the root."""
        return [Step(b"", self.root, self.lower)]

    def lookup(self, path: bytes) -> tuple[Stack, Folder | Leaf | None] | None:
        """Return the directory of ``path`` and what it shows there; None where there is no such directory."""
        self.passed = None
        stack: Stack | None = self.top()
        *parents, name = parts_of(path)
        for part in parents:
            stack = self.enter(stack, part) if stack else None
        return None if stack is None else (stack, visible(*self.look(stack, name)))

    # -- entries --------------------------------------------------------------------------------------------------

    def folder(self, path: bytes) -> Stack:
        """Return the way to the directory ``path``; what is missing, or no directory, is made (31, 32, 105)."""
        self.passed = None
        return self.folders.get(path) or self._way(path)

    def _way(self, path: bytes) -> Stack:
        stack = self.top()
        for part in parts_of(path):
            stack = self.enter(stack, part) or self._make(stack, part)
        own(stack)
        if self.passed is None and place(stack) == path:  # else a name that is not on it could change the way
            self.folders[path] = stack
        return stack

    def _make(self, stack: Stack, part: bytes) -> Stack:
        own(stack)
        node, low = self.look(stack, part)
        # over a leaf or GONE what is lower is hidden
        made = Folder(self.layer, -1, self.now, shut=node is not None and not isinstance(node, Folder))
        self._put(stack, part, node, made)
        return [*stack, Step(part, made, low)]

    def _put(self, stack: Stack, part: bytes, old: Name | None, new: Folder | Leaf) -> None:
        if isinstance(old, Leaf):
            if old.flag != _FILE:
                self.folders.clear()
            self.lost = stack, part
        elif isinstance(old, Folder):
            self.folders.clear()
            if old.born >= 0 or old.names:
                self.lost = stack, part
        names_in(stack)[part] = new

    def directory(self, stack: Stack, part: bytes, row: int, *, loose: bool) -> None:
        """Place a directory's row: over a directory it gives the metadata, all else it replaces (28-30)."""
        old = names_in(stack).get(part)
        if not isinstance(old, Folder):
            new = Folder(self.layer, row, self.now, shut=old is not None)
            new.loose = loose
            self._put(stack, part, old, new)
            return
        if old.born < 0:
            old.born = self.now
            self.folders.clear()
        elif old.loose or (loose and old.row >= 0):
            raise ConflictError(place(stack, part), "a directory with two rows, where the lower tree may have a symlink")
        old.loose, old.layer, old.row = old.loose or loose, self.layer, row

    def leaf(self, stack: Stack, part: bytes, flag: int, row: int) -> Leaf:
        """Place any other row: it replaces what is there (29, 37)."""
        new = Leaf(flag, self.layer, row)
        self._put(stack, part, names_in(stack).get(part), new)
        return new

    def source(self, path: bytes, target: bytes) -> Inode:
        """Return the inode at ``target`` for a hard link ``path`` to it (41-45)."""
        found = self.lookup(target) if target else None
        stack, seen = found or (self.top(), self.root)
        if found is None or seen is None or (isinstance(seen, Folder) and seen is not UNKNOWN):
            what = "missing" if found is None or seen is None else "a directory"
            raise ConflictError(path, f"hard link to {target!r}, which is {what}")
        name = target.rpartition(b"/")[2]
        where = place(stack, name)
        if isinstance(seen, Folder):
            return self._inodes.setdefault(where, Inode(0, -1, -1, where))
        if seen is self.look(stack, name)[0]:
            seen.link = seen.link or Inode(seen.flag, seen.layer, seen.row)
            return seen.link
        known = seen.link or seen
        return self._inodes.setdefault(known, Inode(seen.flag, known.layer, known.row, where))

    def link(self, path: bytes, stack: Stack, part: bytes, inode: Inode, row: int) -> None:
        """Give ``inode`` a further name."""
        old, low = self.look(stack, part)
        where = place(stack, part)
        below = inode.at is not None and inode.at != where and (inode.at + b"/").startswith(where + b"/")
        if (isinstance(old, Folder) and holds(old, inode)) or (below and old is None and low is not None):
            raise ConflictError(path, "a hard link takes the place of a directory that holds its target")
        self.leaf(stack, part, inode.flag, row).link = inode


def names_in(stack: Stack) -> dict[bytes, Name]:
    """Return the layers' own names in a directory; ValueError for a way that own() has not seen."""
    folder = stack[-1].node
    if folder is None:
        raise ValueError("a directory that only the lower tree has")
    return folder.names


def own(stack: Stack) -> None:
    """Give the layers' tree a folder for each directory on the way that only the lower tree has."""
    for i, (name, node, low) in enumerate(stack):
        if node is None:
            made = Folder()
            names_in(stack[:i])[name] = made
            stack[i] = Step(name, made, low)


def place(stack: Stack, part: bytes = b"") -> bytes:
    """Return the real path of a directory, or of ``part`` in it."""
    where = b"/".join([step.name for step in stack[1:]])
    return join(where, part) if part else where


def holds(folder: Folder, inode: Inode) -> bool:
    """Tell whether a name of ``inode`` is below ``folder``."""
    todo = [folder]
    while todo:
        for child in todo.pop().names.values():
            if isinstance(child, Folder):
                todo.append(child)
            elif isinstance(child, Leaf) and child.link is inode:
                return True
    return False


def parts_of(path: bytes) -> list[bytes]:
    """Split a table's path; UnsafePathError for ``..``."""
    parts = path.split(b"/") if path else []
    if b".." in parts:
        raise UnsafePathError(path, "a '..' component")
    return parts
