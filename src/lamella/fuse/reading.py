"""Requests about inodes and content that change nothing (see looking.py)."""

from __future__ import annotations

import errno
import os

from lamella.fuse import wire
from lamella.fuse.looking import Answer, Looking
from lamella.fuse.nodes import Node
from lamella.fuse.tree import Content, Seen

__all__ = ["Answer", "Reading"]

_CAPABILITY = b"security.capability"


class Reading(Looking):
    """Answers the kernel's questions about a tree."""

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
