"""Requests that make, move and remove names: see reading.py. The kernel has checked permissions before it asks."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator

from lamella.fuse import wire
from lamella.fuse.binding import Library
from lamella.fuse.nodes import Node
from lamella.fuse.reading import Answer, Reading
from lamella.fuse.tree import Changeable, Owner, Seen

__all__ = ["Naming"]

_NOREPLACE, _EXCHANGE = 1, 2
_DEFAULT_ACL = b"system.posix_acl_default"


class Naming(Reading):
    """Answers what the kernel asks about names of a tree that can be changed."""

    def __init__(self, library: Library, tree: Changeable) -> None:
        super().__init__(library, tree)
        self.changing = tree

    @contextlib.contextmanager
    def change(self) -> Iterator[None]:
        """Hold what changes back from who looks meanwhile (see calm())."""
        with self.lock:
            self.generation += 1
            try:
                yield
            finally:
                self.generation += 1

    def _who(self, request: int, parent: Node, path: bytes, mode: int) -> tuple[int, Owner]:
        """Return the mode for something new in ``parent``, and its owner: a default ACL stands in for the umask (acl(5))."""
        context = self.library.context(request).contents
        if parent.acl is None:
            try:
                parent.acl = bool(self.tree.getxattr(path, _DEFAULT_ACL))
            except OSError:
                parent.acl = False
        return mode if parent.acl else mode & ~context.umask, (context.uid, context.gid)

    def _new(self, request: int, parent: int, name: bytes, mode: int, make: Callable[[bytes, int, Owner], None]) -> Answer:
        above = self.nodes[parent]
        with self.change():
            mode, owner = self._who(request, above, self.nodes.path(above), mode)
            path = self.nodes.join(above, name)
            make(path, mode, owner)
            return self.known(above, name, self.shown(path))

    def shown(self, path: bytes) -> Seen:
        """Return the inode at ``path``, which is there."""
        seen = self.tree.look(path)
        if seen is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return seen

    def mknod(self, request: int, parent: int, name: bytes, mode: int, device: int) -> Answer:
        """Make a file, device, pipe or socket."""
        make = self.changing.mknod
        return self._new(request, parent, name, mode, lambda path, mode, owner: make(path, mode, device, owner=owner))

    def mkdir(self, request: int, parent: int, name: bytes, mode: int) -> Answer:
        """Make a directory."""
        make = self.changing.mkdir
        return self._new(request, parent, name, mode, lambda path, mode, owner: make(path, mode, owner=owner))

    def symlink(self, request: int, target: bytes, parent: int, name: bytes) -> Answer:
        """Make a symlink."""
        make = self.changing.symlink
        return self._new(request, parent, name, 0, lambda path, _, owner: make(target, path, owner=owner))

    def create(self, request: int, parent: int, name: bytes, mode: int, info: int) -> Answer:
        """Make a file and open it."""
        above = self.nodes[parent]
        with self.change():
            mode, owner = self._who(request, above, self.nodes.path(above), mode)
            path = self.nodes.join(above, name)
            fd = self.changing.create(path, mode, owner=owner)
            try:
                seen = self.shown(path)
            except BaseException:
                os.close(fd)
                raise
            node = self.nodes.learn(above, name, seen)
            node.handles[fd] = (0, path)
            self.open_files[fd] = node

        def undo() -> None:
            self.closed(fd)
            self.nodes.forget(node.id, 1)

        return wire.entry(node.id, seen) + wire.opened(fd), undo

    def link(self, _: int, ino: int, parent: int, name: bytes) -> Answer:
        """Give an inode a further name."""
        above, node = self.nodes[parent], self.nodes[ino]
        with self.change():
            path = self.nodes.join(above, name)
            self.changing.link(self.nodes.path(node), path)
            self.settle(node)
            seen = self.shown(path)
            self.nodes.named(node, above, name, seen)
        return wire.entry(node.id, seen), lambda: self.nodes.forget(node.id, 1)

    def unlink(self, _: int, parent: int, name: bytes) -> Answer:
        """Remove a name."""
        return self._gone(parent, name, self.changing.unlink)

    def rmdir(self, _: int, parent: int, name: bytes) -> Answer:
        """Remove an empty directory."""
        return self._gone(parent, name, self.changing.rmdir)

    def _gone(self, parent: int, name: bytes, remove: Callable[[bytes], None]) -> Answer:
        above = self.nodes[parent]
        with self.change():
            path = self.nodes.join(above, name)
            last = self._last(above, name, path)
            remove(path)
            self.nodes.unname(above, name, last)
        return None

    def _last(self, parent: Node, name: bytes, path: bytes) -> Seen | None:
        """Return what is left of what is about to lose a name, where the kernel knows it."""
        seen = self.tree.look(path) if name in parent.children else None
        if seen is None:
            return None
        return Seen(seen.status, seen.number, seen.nlink - 1 if seen.shared else 0)

    def rename(self, _: int, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> Answer:
        """Rename; OSError EINVAL for a flag that overlayfs does not take either."""
        if flags & ~(_NOREPLACE | _EXCHANGE):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        above, new_above = self.nodes[parent], self.nodes[new_parent]
        with self.change():
            old, new = self.nodes.join(above, name), self.nodes.join(new_above, new_name)
            if flags & _EXCHANGE:
                self.changing.exchange(old, new)
                self.nodes.exchange(above, name, new_above, new_name)
            else:
                self._rename((above, name, old), (new_above, new_name, new), replace=not flags & _NOREPLACE)
            for at in ((above, name), (new_above, new_name)):
                node = at[0].children.get(at[1])
                if node is not None:
                    self.settle(node)
        return None

    def _rename(self, source: tuple[Node, bytes, bytes], target: tuple[Node, bytes, bytes], *, replace: bool) -> None:
        there = self.tree.look(target[2])
        if there is not None and not replace:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        last = self._last(*target)
        self.changing.rename(source[2], target[2])
        if there is not None and there == self.tree.look(source[2]):
            return  # two names of one inode stay both
        self.nodes.unname(target[0], target[1], last)
        self.nodes.rename(*source[:2], *target[:2])

    def settle(self, node: Node) -> None:
        """Let the handles of a file that was copied up be handles of the copy: who reads sees what is written."""
        if not node.names or all(content[0] == 0 for content in node.handles.values()):
            return
        path = self.nodes.path(node)
        content = self.tree.content(path)
        if content[0] != 0:
            return
        with self.files:
            for fd, was in node.handles.items():
                if was[0] != 0:
                    copy = self.tree.open(path)
                    os.dup2(copy, fd, inheritable=False)
                    os.close(copy)
                    node.handles[fd] = content
