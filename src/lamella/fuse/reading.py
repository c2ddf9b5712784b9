"""Requests that change nothing: each is a method, named as libfuse names it, that returns the answer or raises OSError.

The kernel locks a directory while it asks about its names, and a file's content is locked by it too. What is left is a path
that changes while it is used: an answer that was begun before a change is found again when that is done.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from threading import Lock, RLock
from typing import TypeVar

from lamella.fuse import wire
from lamella.fuse.binding import ForgetOne, Library
from lamella.fuse.eagerness import Eagerness
from lamella.fuse.nodes import Node, Nodes
from lamella.fuse.tree import Content, Seen, Tree

__all__ = ["Answer", "Reading"]

T = TypeVar("T")
Answer = bytes | tuple[bytes, Callable[[], None]] | None  # with what to undo where nobody waits for it any more

_CAPABILITY = b"security.capability"
_DOTS = 2  # offsets of "." and ".."
_NO_KIND = 0


class Reading:
    """Answers the kernel's questions about ``tree``."""

    def __init__(self, library: Library, tree: Tree) -> None:
        self.library, self.tree = library, tree
        self.nodes = Nodes()
        root = tree.look(b"")
        self.nodes.root.number = root.number if root is not None else 0
        self.eager = Eagerness()
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
        learnt = []
        for name, seen in self.calm(lambda: self.tree.look_in(self.nodes.path(node), wanted)).items():
            child = self.nodes.learn(node, name, seen)
            learnt.append(child.id)
            reply[wanted[name] : wanted[name] + wire.ENTRY_SIZE] = wire.entry(child.id, seen)

        def forget() -> None:
            for one in learnt:
                self.nodes.forget(one, 1)

        return bytes(reply), forget

    def _names(self, node: Node, size: int, offset: int, kind: int | None, *, plus: bool) -> tuple[bytearray, list[int]]:
        """Return names after an offset, and where those of ``kind`` stand; "." and ".." come first, and stand nowhere."""
        if node is not self.nodes.root and not node.names:
            return bytearray(), []
        reply = bytearray(size)
        used = 0
        for dot in range(offset, _DOTS):
            at = node.names[0][0] if dot and node.names else node
            one = wire.dirent(at.number, dot + 1, stat.S_IFDIR, b".." if dot else b".", plus=plus)
            reply[used : used + len(one)] = one
            used += len(one)
        listing = self.calm(lambda: self.tree.listing(self.nodes.path(node)))
        flips, kept = self.tree.flips, self.tree.kept
        used, found = listing.spell(
            max(offset - _DOTS, 0), reply, used, skipped=_DOTS, flips=flips, kind=None if kept else kind, plus=plus
        )
        if kept:
            found = self._renumber(reply, found, kind, plus=plus)
        del reply[used:]
        return reply, found

    def _renumber(self, reply: bytearray, found: list[int], kind: int | None, *, plus: bool) -> list[int]:
        """Show the numbers that the tree keeps; return which of the names are of a kind."""
        left = []
        for at in found:
            number, its_kind, _name = wire.name_at(reply, at, plus=plus)
            wire.renumber(reply, at, self.tree.kept.get(number, number), plus=plus)
            if kind is None or kind == its_kind:
                left.append(at)
        return left

    def readlink(self, _: int, ino: int) -> Answer:
        """Return a symlink's text."""
        node = self.nodes[ino]
        return self.calm(lambda: self.tree.readlink(self.nodes.path(node)))

    # -- inodes ---------------------------------------------------------------------------------------------------

    def getattr(self, _: int, ino: int, info: int) -> Answer:
        """Return a status."""
        return wire.attr(self._seen(self.nodes[ino]))

    def _seen(self, node: Node) -> Seen:
        def look() -> Seen:
            if node.names or node is self.nodes.root:
                seen = self.tree.look(self.nodes.path(node))
                if seen is None:
                    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
                return seen
            return self.unnamed(node)

        return self.calm(look)

    def unnamed(self, node: Node) -> Seen:
        """Return the status of a node without a name: that of its handles, or the last that it had."""
        for fd, content in list(node.handles.items()):
            seen = self.tree.look_at(fd)
            return seen if content[0] == 0 else Seen(seen.status, seen.number, 0)  # a lower one keeps its name
        if node.gone is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return node.gone

    def statfs(self, _: int, ino: int) -> Answer:
        """Return the status of the file system."""
        return wire.room(self.tree.room())

    def getxattr(self, request: int, ino: int, key: bytes, size: int) -> Answer:
        """Return an attribute's value, or its length."""
        node = self.nodes[ino]
        if node.bare and key == _CAPABILITY:  # asked before each write
            raise OSError(errno.ENODATA, "")
        try:
            value = self.calm(lambda: self._value(node, key))
        except OSError as error:
            if key == _CAPABILITY and error.errno in (errno.ENODATA, errno.ENOTSUP):
                node.bare = True
            raise
        return _sized(value, size)

    def _value(self, node: Node, key: bytes) -> bytes:
        if node.names or node is self.nodes.root:
            return self.tree.getxattr(self.nodes.path(node), key)
        return os.getxattr(self.handle_of(node), key)

    def listxattr(self, request: int, ino: int, size: int) -> Answer:
        """Return the names of attributes: those of the system to who may see them."""
        node = self.nodes[ino]
        keys = self.calm(lambda: self._keys(node))
        if self.library.context(request).contents.uid != 0:
            keys = [key for key in keys if not key.startswith(b"trusted.")]
        return _sized(b"".join(key + b"\0" for key in keys), size)

    def _keys(self, node: Node) -> list[bytes]:
        if node.names or node is self.nodes.root:
            return self.tree.listxattr(self.nodes.path(node))
        return [os.fsencode(key) for key in os.listxattr(self.handle_of(node))]

    def handle_of(self, node: Node) -> int:
        """Return a descriptor of a node without a name; OSError ESTALE."""
        for fd in list(node.handles):
            return fd
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    # -- content --------------------------------------------------------------------------------------------------

    def flags(self, info: int) -> int:
        """Return the flags of open(2)."""
        return int(self.library.file_info.from_address(info).flags)

    def fh(self, info: int) -> int:
        """Return the descriptor that is the kernel's handle."""
        return int(self.library.file_info.from_address(info).fh)

    def open(self, _: int, ino: int, info: int) -> Answer:
        """Open a file to be read."""
        flags = self.flags(info)
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return self.opened(self.nodes[ino], os.O_RDONLY)

    def opened(self, node: Node, flags: int) -> Answer:
        """Open a node's content and return the handle."""
        with self.lock:
            fd, content = self._open(node, flags)
            node.handles[fd] = content
            self.open_files[fd] = node
        return wire.opened(fd), lambda: self.closed(fd)

    def _open(self, node: Node, flags: int) -> tuple[int, Content]:
        if node.names:
            path = self.nodes.path(node)
            return self.tree.open(path, flags), self.tree.content(path)
        fd = self.handle_of(node)
        content = node.handles[fd]
        if content[0] != 0 and flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return os.open(b"/proc/self/fd/%d" % fd, flags & (os.O_ACCMODE | os.O_TRUNC) | os.O_CLOEXEC), content

    def release(self, _: int, ino: int, info: int) -> Answer:
        """Close a handle."""
        self.closed(self.fh(info))
        return None

    def closed(self, fd: int) -> None:
        """Close a handle's descriptor."""
        with self.files:
            node = self.open_files.pop(fd)
            del node.handles[fd]
            self.tree.release(fd)

    def read(self, _: int, ino: int, size: int, offset: int, info: int) -> Answer:
        """Return content."""
        return self.tree.read(self.fh(info), size, offset)

    def lseek(self, _: int, ino: int, offset: int, whence: int, info: int) -> Answer:
        """Find data or a hole."""
        return wire.position(self.tree.seek(self.fh(info), offset, whence))

    def fsync(self, _: int, ino: int, datasync: int, info: int) -> Answer:
        """Have a file on disk."""
        self.tree.flush(self.fh(info), data=bool(datasync))
        return None

    def fsyncdir(self, _: int, ino: int, datasync: int, info: int) -> Answer:
        """Have a directory on disk."""
        node = self.nodes[ino]
        if node.names or node is self.nodes.root:
            self.calm(lambda: self.tree.sync(self.nodes.path(node)))
        return None


def _sized(value: bytes, size: int) -> bytes:
    """Return a value, or its length where that was asked for; OSError ERANGE."""
    if not size:
        return wire.size(len(value))
    if len(value) > size:
        raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
    return value
