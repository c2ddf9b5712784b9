"""Requests that change inodes and content: see reading.py and naming.py."""

from __future__ import annotations

import ctypes
import errno
import os
import time
from collections.abc import Callable

from lamella.fuse import wire
from lamella.fuse.naming import Naming
from lamella.fuse.nodes import Node
from lamella.fuse.reading import Answer
from lamella.fuse.tree import Seen

__all__ = ["Writing"]

_MODE, _UID, _GID, _SIZE, _ATIME, _MTIME, _ATIME_NOW, _MTIME_NOW = 1, 2, 4, 8, 16, 32, 128, 256
_BILLION = 10**9


class Writing(Naming):
    """Answers all that the kernel asks of a tree that can be changed."""

    def setattr(self, _: int, ino: int, status: int, what: int, info: int | None) -> Answer:
        """Set what can be set of an inode."""
        node, asked = self.nodes[ino], self.library.status.from_address(status)
        with self.change():
            if node.names or node is self.nodes.root:
                self._set(self.nodes.path(node), asked, what, self.fh(info) if info else None)
                self.settle(node)
                return wire.attr(self.shown(self.nodes.path(node)))
            self._set_unnamed(node, asked, what)
            return wire.attr(self.unnamed(node))

    def _set(self, path: bytes, asked: ctypes.Structure, what: int, fd: int | None) -> None:
        tree = self.changing
        if what & _SIZE:
            if fd is not None:
                os.ftruncate(fd, asked.st_size)
            else:
                tree.truncate(path, asked.st_size)
        if what & (_UID | _GID):
            tree.chown(path, *_owner(asked, what))
        if what & _MODE:
            tree.chmod(path, asked.st_mode & 0o7777)
        if what & (_ATIME | _MTIME | _ATIME_NOW | _MTIME_NOW):
            tree.utimens(path, _times(asked, what, self.shown(path)))

    def _set_unnamed(self, node: Node, asked: ctypes.Structure, what: int) -> None:
        fd = self._own(node)
        if what & _SIZE:
            os.truncate(b"/proc/self/fd/%d" % fd, asked.st_size)
        if what & (_UID | _GID):
            os.chown(fd, *_owner(asked, what))
        if what & _MODE:
            os.chmod(fd, asked.st_mode & 0o7777)
        if what & (_ATIME | _MTIME | _ATIME_NOW | _MTIME_NOW):
            times = _times(asked, what, self.unnamed(node))
            os.utime(fd, ns=times) if times is not None else os.utime(fd)

    def _own(self, node: Node) -> int:
        """Return a descriptor of a node without a name that may be changed; OSError ESTALE for a lower file."""
        fd = self.handle_of(node)
        if node.handles[fd][0] != 0:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return fd

    def setxattr(self, _: int, ino: int, key: bytes, value: int, size: int, flags: int) -> Answer:
        """Set an attribute."""
        data = ctypes.string_at(value, size)
        return self._attribute(
            ino,
            lambda path: self.changing.setxattr(path, key, data, flags),
            lambda fd: os.setxattr(fd, self.changing.escaped(key), data, flags),
        )

    def removexattr(self, _: int, ino: int, key: bytes) -> Answer:
        """Remove an attribute."""
        return self._attribute(
            ino,
            lambda path: self.changing.removexattr(path, key),
            lambda fd: os.removexattr(fd, self.changing.escaped(key)),
        )

    def _attribute(self, ino: int, named: Callable[[bytes], None], unnamed: Callable[[int], None]) -> Answer:
        node = self.nodes[ino]
        with self.change():
            node.bare, node.acl = False, None
            if node.names or node is self.nodes.root:
                named(self.nodes.path(node))
                self.settle(node)
            else:
                unnamed(self._own(node))
        return None

    # -- content --------------------------------------------------------------------------------------------------

    def open(self, _: int, ino: int, info: int) -> Answer:
        """Open a file, which is copied up first to be written."""
        node, flags = self.nodes[ino], self.flags(info)
        if flags & os.O_ACCMODE == os.O_RDONLY and not flags & os.O_TRUNC:
            return self.opened(node, os.O_RDONLY)
        with self.change():
            answer = self.opened(node, flags)
            self.settle(node)
        return answer

    def write(self, _: int, ino: int, data: int, size: int, offset: int, info: int) -> Answer:
        """Write content."""
        view = memoryview((ctypes.c_char * size).from_address(data))
        fd, done = self.fh(info), 0
        while done < size:
            n = os.pwrite(fd, view[done:], offset + done)
            if not n:
                break
            done += n
        return wire.written(done)

    def fallocate(self, _: int, ino: int, mode: int, offset: int, length: int, info: int) -> Answer:
        """Allocate room, or give it back."""
        if _FALLOCATE(self.fh(info), mode, offset, length) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return None

    def copy_file_range(
        self, _: int, ino: int, offset: int, info: int, to_ino: int, to_offset: int, to_info: int, size: int, flags: int
    ) -> Answer:  # fmt: skip
        """Copy content, or share it where the file system can."""
        return wire.written(os.copy_file_range(self.fh(info), self.fh(to_info), size, offset, to_offset))


def _owner(asked: ctypes.Structure, what: int) -> tuple[int, int]:
    return asked.st_uid if what & _UID else -1, asked.st_gid if what & _GID else -1


def _times(asked: ctypes.Structure, what: int, seen: Seen) -> tuple[int, int] | None:
    """Return access and modification time in nanoseconds; None for now."""
    if what & _ATIME_NOW and what & _MTIME_NOW:
        return None
    now = time.clock_gettime_ns(time.CLOCK_REALTIME)
    times = [seen.status.st_atime_ns, seen.status.st_mtime_ns]
    for at, (set_it, to_now, field) in enumerate(((_ATIME, _ATIME_NOW, "st_atimespec"), (_MTIME, _MTIME_NOW, "st_mtimespec"))):
        if what & to_now:
            times[at] = now
        elif what & set_it:
            spec = getattr(asked, field)
            times[at] = spec.tv_sec * _BILLION + spec.tv_nsec
    return times[0], times[1]


_FALLOCATE = ctypes.CDLL(None, use_errno=True).fallocate64
_FALLOCATE.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
