"""One path at a time found in the merged view of branches, by what is known of its directory.

What was found out about directories is remembered (directories.py), and what they show is looked up there (resolving.py), or
from the root where redirects and metacopy files take that (lowers.py). Errno is that which the kernel's overlayfs answers.
Paths are a table's: bytes without a leading slash, the root is empty. No symlink is followed anywhere.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from threading import Lock
from types import TracebackType
from typing import Self

from lamella.layer.directories import Directories, Directory
from lamella.layer.listing import Listing
from lamella.layer.lowers import Branches
from lamella.layer.own import BranchDialect
from lamella.layer.pathtable import path_table
from lamella.layer.resolving import Elsewhere, Resolved, Resolver
from lamella.layer.search import Place, Shown
from lamella.layer.whiteout import PREFIX
from lamella.tree.root import ancestors, join, lstat, split

__all__ = ["Finder", "Node", "failure"]

_NAME_MAX = 255



def failure(number: int, path: bytes) -> OSError:
    """Return the OSError of ``number``, whose filename is ``path``."""
    return OSError(number, os.strerror(number), path)


@dataclass(frozen=True, slots=True)
class Node:
    """What a merged view shows at ``path``: the inode at ``place`` of the branch number ``branch``.

    ``stack``: the branches that make up a directory, nearest first. ``content``: where a file's bytes are, None nowhere.
    """

    path: bytes
    branch: int
    place: bytes
    status: os.stat_result
    stack: list[Place] = field(default_factory=list)
    content: Place | None = None

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.status.st_mode)


class Finder:
    """Finds what ``branches`` show, nearest first, in a dialect of layer/own.py; a context manager.

    OSError for a directory that cannot be opened. Nobody may change the branches meanwhile, but who says so: changed() and
    copied_up().
    """

    def __init__(self, branches: Sequence[str | os.PathLike[str]], *, dialect: BranchDialect = "overlay") -> None:
        self.branches = Branches(branches, dialect)
        self.dialect = dialect
        self.resolver = Resolver(self.branches)
        self.directories = Directories()
        self._known = Lock()  # held while something comes to be known, or not to be
        self._changes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the branches."""
        self.branches.__exit__(None, None, None)

    # -- looking up -----------------------------------------------------------------------------------------------

    def find(self, path: bytes) -> Node | None:
        """Return what is shown at ``path``, None for nothing.

        OSError: ENOENT or ENOTDIR where a directory on the way is none, ELOOP where it is a symlink, ENAMETOOLONG, EINVAL
        for a path that is none of a table.
        """
        return self._find(path, content=True)

    def node(self, path: bytes) -> Node:
        """Return what is shown at ``path``; OSError as find(), and ENOENT for nothing."""
        return _there(self.find(path), path)

    def stat(self, path: bytes) -> os.stat_result:
        """Return the status of what is shown at ``path``, as lstat() does; OSError as node()."""
        return self._inode(path).status

    def find_inode(self, path: bytes) -> Node | None:
        """Return what find() does, which may not tell the truth about where content is; it costs less."""
        return self._find(path, content=False)

    def _inode(self, path: bytes) -> Node:
        return _there(self._find(path, content=False), path)

    def lower(self, path: bytes) -> Node | None:
        """Return what would be shown at ``path``, whose directory is there, if the nearest branch had nothing there."""
        parent, name = split(path)
        places = [place for place in self._directory(parent, path).stack if place[0] > 0]
        if not places or not path:
            return None
        try:
            return _node(path, self.resolver.child(places, name, content=False))
        except Elsewhere:
            first, at = places[0]
            return self._search(join(at, name), first)

    def listing(self, path: bytes) -> Listing:
        """Return the names that directory ``path`` shows, which stay what they are; OSError as node(), and ENOTDIR."""
        before = self._changes
        directory = self._directory(path, path)
        if directory.listing is not None:
            return directory.listing
        listing = self.resolver.names(directory.stack)
        self._remember(path, Directory(directory.stack, listing), before)
        return listing

    def find_inodes(self, path: bytes, names: Iterable[bytes]) -> dict[bytes, Node]:
        """Return what is shown at ``names`` of directory ``path``, as find_inode() does, but what is redirected."""
        before = self._changes
        shown = self.resolver.children(self._directory(path, path).stack, names)
        nodes = {name: Node(join(path, name), *found.place, found.status, found.stack) for name, found in shown.items()}
        for node in nodes.values():
            if node.is_dir and node.path not in self.directories:
                self._remember(node.path, Directory(node.stack), before)
        return nodes

    def _find(self, path: bytes, *, content: bool) -> Node | None:
        parent, name = split(path)
        directory = self.directories.get(parent) if path else None
        if directory is None:
            self._check(path.split(b"/") if path else (), path)
            if not path:
                return _node(path, self.resolver.root())
            directory = self._directory(parent, path)
        else:
            self._check((name,), path)
        return self._child(directory, path, name, content=content)

    def _child(self, directory: Directory, path: bytes, name: bytes, *, content: bool) -> Node | None:
        stack = directory.stack
        if directory.listing is not None:
            entry = directory.listing.get(name)
            if entry is None:
                return None
            branch = entry[-1]
            if branch != stack[0][0]:
                stack = [place for place in stack if place[0] >= branch]
        try:
            return _node(path, self.resolver.child(stack, name, content=content))
        except Elsewhere:
            return self._search(path, 0)

    def _directory(self, path: bytes, asked: bytes) -> Directory:
        """Return what is known of directory ``path``; OSError, of the path ``asked``, where there is none."""
        found = self.directories.get(path)
        if found is not None:
            return found
        before = self._changes
        up = ancestors(path)
        at = len(up)
        while at and (found := self.directories.get(up[at - 1])) is None:
            at -= 1
        if found is None:
            root = self.resolver.root()
            found = Directory(root.stack if root is not None else [])
            self._remember(b"", found, before)
        for below in up[at:]:
            node = self._child(found, below, split(below)[1], content=False)
            if node is None:
                raise failure(errno.ENOENT, asked)
            if not node.is_dir:
                raise failure(errno.ELOOP if stat.S_ISLNK(node.status.st_mode) else errno.ENOTDIR, asked)
            found = Directory(node.stack)
            self._remember(below, found, before)
        return found

    # -- changes --------------------------------------------------------------------------------------------------

    def changed(self, path: bytes) -> None:
        """Find out anew what is shown at ``path``: it is new, gone, or another inode."""
        with self._known:
            self._changes += 1
            self.directories.forget(path)
        parent, name = split(path)
        above = self.directories.get(parent)
        if above is None or above.listing is None:
            return
        node = self._child(Directory(above.stack), path, name, content=False)
        if node is None:
            above.listing.remove(name)
        else:
            above.listing.put(name, stat.S_IFMT(node.status.st_mode), node.status.st_ino, node.branch)

    def added(self, path: bytes) -> None:
        """Know that an inode was made at ``path``."""
        self.changed(path)

    def copied_up(self, node: Node) -> None:
        """Know that the nearest branch has what was ``node`` now; a directory goes on showing the same names."""
        path = node.path
        with self._known:
            self._changes += 1
            directory = self.directories.get(path)
            if directory is not None and directory.stack[0] != (0, path):
                directory.stack = [(0, path), *directory.stack]
        parent, name = split(path)
        above = self.directories.get(parent)
        if above is not None and above.listing is not None:
            status = self._status(0, path)
            if status is not None:
                above.listing.put(name, stat.S_IFMT(status.st_mode), status.st_ino, 0)

    def _remember(self, path: bytes, directory: Directory, before: int) -> None:
        """Keep what was found out about a directory, if nothing changed since it was begun to be."""
        with self._known:
            if self._changes == before:
                self.directories.put(path, directory)

    def _check(self, parts: Iterable[bytes], path: bytes) -> None:
        for part in parts:
            if part in (b"", b".", b"..") or b"\0" in part:
                raise failure(errno.EINVAL, path)
            if len(part) > _NAME_MAX - (len(PREFIX) if self.dialect == "aufs" else 0):
                raise failure(errno.ENAMETOOLONG, path)
            if self.dialect == "aufs" and part.startswith(PREFIX):
                raise failure(errno.ENOENT, path)  # the branch's own

    def _search(self, path: bytes, first: int) -> Node | None:
        """Search branches from number ``first`` on, from their roots: what redirects and metacopy files take."""
        shown = self.branches.find(path_table([path]), first=first, stacks=True, data=True)
        row = shown.paths.find(path)
        if shown.branch[row] < 0:
            return self._socket(shown, split(path)[0], path)
        branch, place = shown.place(row)
        status = self._status(branch, place)
        if status is None:
            return None  # removed since
        content = shown.content(row) if stat.S_ISREG(status.st_mode) else None
        return Node(path, branch, place, status, shown.stacks.get(row, []), content)

    def _status(self, branch: int, place: bytes) -> os.stat_result | None:
        parent, name = split(place)
        with self.branches.roots[branch].dir(parent) as fd:
            return lstat(fd, name or b".")

    def _socket(self, shown: Shown, parent: bytes, path: bytes) -> Node | None:
        """Return the socket at ``path``: a table has no row for it."""
        name = split(path)[1]
        for branch, at in shown.stacks.get(shown.paths.find(parent), ()):
            status = self._status(branch, join(at, name))
            if status is not None:
                return Node(path, branch, join(at, name), status) if stat.S_ISSOCK(status.st_mode) else None
        return None


def _there(node: Node | None, path: bytes) -> Node:
    if node is None:
        raise failure(errno.ENOENT, path)
    return node


def _node(path: bytes, found: Resolved | None) -> Node | None:
    if found is None:
        return None
    content = found.place if stat.S_ISREG(found.status.st_mode) else None
    return Node(path, *found.place, found.status, found.stack, content)
