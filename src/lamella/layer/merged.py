"""One path at a time in the merged view of branches: status, names, content, attributes (see finding.py)."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence

from lamella.layer.finding import Finder, Node, failure
from lamella.layer.own import BranchDialect
from lamella.layer.resolving import through
from lamella.tree.root import split

__all__ = ["Merged", "Node", "failure", "through"]

_NAMESPACES = {"overlay": (b"trusted", b"user"), "overlay:trusted": (b"trusted",), "overlay:user": (b"user",), "aufs": ()}


class Merged(Finder):
    """The merged view of ``branches`` (nearest first) in a dialect of layer/own.py; a context manager.

    OSError for a directory that cannot be opened. Nobody may change the branches meanwhile. It reads with the rights of the
    process and checks none of its own: what a caller may do is for the mount to say.
    """

    def __init__(self, branches: Sequence[str | os.PathLike[str]], *, dialect: BranchDialect = "overlay") -> None:
        super().__init__(branches, dialect=dialect)
        self._own = tuple(namespace + b".overlay." for namespace in _NAMESPACES[dialect])

    def readdir(self, path: bytes) -> dict[bytes, int]:
        """Return the names that directory ``path`` shows, in byte order, and the S_IFMT of each; OSError ENOTDIR."""
        if not self._inode(path).is_dir:
            raise failure(errno.ENOTDIR, path)
        return dict(sorted((name, kind) for _, name, kind, _, _ in self.listing(path).after(0)))

    def readlink(self, path: bytes) -> bytes:
        """Return a symlink's text; OSError EINVAL for what is none."""
        node = self._inode(path)
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
        with self._attributes(path) as where:
            return {shown: os.getxattr(where, key, follow_symlinks=False) for shown, key in self._keys(where)}

    def listxattr(self, path: bytes) -> list[bytes]:
        """Return the names of the extended attributes, as xattrs() does."""
        with self._attributes(path) as where:
            return [shown for shown, _ in self._keys(where)]

    def getxattr(self, path: bytes, key: bytes) -> bytes:
        """Return the value of the extended attribute ``key``; OSError ENODATA."""
        with self._attributes(path) as where:
            return os.getxattr(where, self.escaped(key), follow_symlinks=False)

    @contextlib.contextmanager
    def _attributes(self, path: bytes) -> Iterator[bytes]:
        """Lend a path for the calls on attributes."""
        node = self._inode(path)
        parent, name = split(node.place)
        with self.branches.roots[node.branch].dir(parent) as fd:
            yield through(fd, name)

    def _keys(self, where: bytes) -> Iterator[tuple[bytes, bytes]]:
        for key in map(os.fsencode, os.listxattr(where, follow_symlinks=False)):
            shown = self._unescaped(key)
            if shown is not None:
                yield shown, key

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
