"""One path at a time in the merged view of branches: status, names, content, attributes.

lowers.py has the rules and looks the paths up; this adds what a table has no row for (sockets), and errno as the kernel's
overlayfs answers. Paths are a table's: bytes without a leading slash, the root is empty. No symlink is followed anywhere.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from lamella.columns import AT
from lamella.layer.lowers import Branches
from lamella.layer.own import BranchDialect
from lamella.layer.pathtable import path_table
from lamella.layer.search import Place, Shown
from lamella.layer.whiteout import OPAQUE, PREFIX
from lamella.tree.root import ancestors, join, lstat, split

__all__ = ["Merged", "Node", "failure", "through"]

_KINDS = {ord("0"): stat.S_IFREG, ord("2"): stat.S_IFLNK, ord("3"): stat.S_IFCHR, ord("4"): stat.S_IFBLK,
          ord("5"): stat.S_IFDIR, ord("6"): stat.S_IFIFO}  # fmt: skip
_NAMESPACES = {"overlay": (b"trusted", b"user"), "overlay:trusted": (b"trusted",), "overlay:user": (b"user",), "aufs": ()}
_NAME_MAX = 255
_TYPE = AT["type"]


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


class Merged:
    """The merged view of ``branches`` (nearest first) in a dialect of layer/own.py; a context manager.

    OSError for a directory that cannot be opened. It reads with the rights of the process and checks none of its own:
    what a caller may do is for the mount to say.
    """

    def __init__(self, branches: Sequence[str | os.PathLike[str]], *, dialect: BranchDialect = "overlay") -> None:
        self.branches = Branches(branches, dialect)
        self.dialect = dialect
        self._own = tuple(namespace + b".overlay." for namespace in _NAMESPACES[dialect])

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
        self._check(path)
        node, above = self._search(path, 0)
        if node is None and above is not None:
            raise failure(above, path)
        return node

    def node(self, path: bytes) -> Node:
        """Return what is shown at ``path``; OSError as find(), and ENOENT for nothing."""
        node = self.find(path)
        if node is None:
            raise failure(errno.ENOENT, path)
        return node

    def stat(self, path: bytes) -> os.stat_result:
        """Return the status of what is shown at ``path``, as lstat() does; OSError as node()."""
        return self.node(path).status

    def lower(self, path: bytes) -> Node | None:
        """Return what would be shown at ``path``, whose directory is there, if the nearest branch had nothing there."""
        parent, name = split(path)
        places = [place for place in self.node(parent).stack if place[0] > 0]
        if not places or not path:
            return None
        first, at = places[0]
        return self._search(join(at, name), first)[0]

    def _check(self, path: bytes) -> None:
        for part in path.split(b"/") if path else ():
            if part in (b"", b".", b"..") or b"\0" in part:
                raise failure(errno.EINVAL, path)
            if len(part) > _NAME_MAX - (len(PREFIX) if self.dialect == "aufs" else 0):
                raise failure(errno.ENAMETOOLONG, path)
            if self.dialect == "aufs" and part.startswith(PREFIX):
                raise failure(errno.ENOENT, path)  # the branch's own

    def _search(self, path: bytes, first: int) -> tuple[Node | None, int | None]:
        """Search branches from number ``first`` on; with nothing found, errno if a directory on the way is none."""
        # whether an AUFS directory is opaque is found out by who looks for something in it
        asked = [path, join(path, OPAQUE)] if self.dialect == "aufs" else [path]
        shown = self.branches.find(path_table(asked), first=first, stacks=True, data=True)
        row = shown.paths.find(path)
        for above in ancestors(path)[:-1]:
            at = shown.paths.find(above)
            if shown.branch[at] < 0:
                is_socket = self._socket(shown, split(above)[0], above) is not None
                return None, errno.ENOTDIR if is_socket else errno.ENOENT
            kind = chr(int(shown.columns[_TYPE][at]))
            if kind != "5":
                return None, errno.ELOOP if kind == "2" else errno.ENOTDIR
        if shown.branch[row] < 0:
            return self._socket(shown, split(path)[0], path), None
        branch, place = shown.place(row)
        status = self._status(branch, place)
        if status is None:
            return None, None  # removed since
        content = shown.content(row) if stat.S_ISREG(status.st_mode) else None
        return Node(path, branch, place, status, shown.stacks.get(row, []), content), None

    def _status(self, branch: int, place: bytes) -> os.stat_result | None:
        parent, name = split(place)
        with self.branches.roots[branch].dir(parent) as fd:
            return lstat(fd, name or b".")

    def _socket(self, shown: Shown, parent: bytes, path: bytes) -> Node | None:
        """Return the socket at ``path``: a table has no row for it."""
        name = split(path)[1]
        for branch, at in shown.stacks.get(shown.paths.find(parent), ()):
            if self.dialect == "aufs" and self._status(branch, join(at, PREFIX + name)) is not None:
                return None
            status = self._status(branch, join(at, name))
            if status is not None:
                is_socket = stat.S_ISSOCK(status.st_mode)
                return Node(path, branch, join(at, name), status) if is_socket else None
        return None

    # -- reading --------------------------------------------------------------------------------------------------

    def readdir(self, path: bytes) -> dict[bytes, int]:
        """Return the names that directory ``path`` shows, in byte order, and the S_IFMT of each; OSError ENOTDIR."""
        node = self.node(path)
        if not node.is_dir:
            raise failure(errno.ENOTDIR, path)
        return dict(sorted(self._listed(node)))

    def _listed(self, node: Node) -> Iterator[tuple[bytes, int]]:
        names: set[bytes] = set()
        for branch, at in node.stack:
            with self.branches.roots[branch].dir(at) as fd:
                names.update(map(os.fsencode, os.listdir(fd)))
        if self.dialect == "aufs":
            names = {name for name in names if not name.startswith(PREFIX)}
        shown = self.branches.find(path_table(join(node.path, name) for name in names), stacks=True)
        for name in names:
            path = join(node.path, name)
            row = shown.paths.find(path)
            if shown.branch[row] >= 0:
                yield name, _KINDS[int(shown.columns[_TYPE][row])]
            elif self._socket(shown, node.path, path) is not None:
                yield name, stat.S_IFSOCK

    def readlink(self, path: bytes) -> bytes:
        """Return a symlink's text; OSError EINVAL for what is none."""
        node = self.node(path)
        if not stat.S_ISLNK(node.status.st_mode):
            raise failure(errno.EINVAL, path)
        parent, name = split(node.place)
        with self.branches.roots[node.branch].dir(parent) as fd:
            return os.readlink(name, dir_fd=fd)

    def open(self, path: bytes) -> int:
        """Open a regular file for reading: the descriptor of its content, which is the caller's to close.

        OSError: EISDIR, ELOOP for a symlink, ENXIO for what else is no file, EIO for content that no branch has.
        """
        node = self.regular(path)
        if node.content is None:
            raise failure(errno.EIO, path)
        return self.branches.open_file(*node.content)

    def regular(self, path: bytes) -> Node:
        """Return the node of a regular file; OSError as open()."""
        node = self.node(path)
        mode = node.status.st_mode
        if not stat.S_ISREG(mode):
            raise failure(errno.EISDIR if node.is_dir else errno.ELOOP if stat.S_ISLNK(mode) else errno.ENXIO, path)
        return node

    # -- attributes -----------------------------------------------------------------------------------------------

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        """Return the extended attributes, without overlay's own; those of a nested overlay under their own names (27)."""
        node = self.node(path)
        found = {}
        parent, name = split(node.place)
        with self.branches.roots[node.branch].dir(parent) as fd:
            where = through(fd, name)
            for key in map(os.fsencode, os.listxattr(where, follow_symlinks=False)):
                shown = self._unescaped(key)
                if shown is not None:
                    found[shown] = os.getxattr(where, key, follow_symlinks=False)
        return found

    def _unescaped(self, key: bytes) -> bytes | None:
        """Return under which name an attribute is shown; None for overlay's own."""
        for own in self._own:
            if key.startswith(own):
                nested = own + b"overlay."
                return own + key[len(nested) :] if key.startswith(nested) else None
        return key

    def own_keys(self, *names: bytes) -> list[bytes]:
        """Return the whole names of overlay's own attributes ``names``."""
        return [own + name for own in self._own for name in names]

    def escaped(self, key: bytes) -> bytes:
        """Return under which name the attribute that is shown as ``key`` is kept."""
        for own in self._own:
            if key.startswith(own):
                return own + b"overlay." + key[len(own) :]
        return key


def through(fd: int, name: bytes) -> bytes:
    """Return a path of ``name`` in directory ``fd``, for the calls on attributes: they take no directory.

    What follows the kernel's own link to the directory is one name, which these calls do not follow.
    """
    return b"/proc/self/fd/%d/%s" % (fd, name or b".")
