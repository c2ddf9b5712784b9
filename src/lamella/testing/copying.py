"""Copies of an inode made by a file system's calls, and hard links that break by them as in a union."""

from __future__ import annotations

import os
import stat

from lamella.testing.calls import Calls, Directory
from lamella.tree.root import join, split

__all__ = ["Parting", "copy"]


def copy(fs: Calls, old: bytes, new: bytes, made: dict[tuple[int, int], bytes]) -> None:
    """Copy what is at ``old`` with all its metadata; of a file with several names below it one copy is ``made``."""
    st = fs.stat(old)
    inode, kind = (st.st_dev, st.st_ino), stat.S_IFMT(st.st_mode)
    if kind != stat.S_IFDIR and inode in made:
        fs.link(made[inode], new)
        return
    made[inode] = new
    match kind:
        case stat.S_IFDIR:
            fs.mkdir(new)
            for name in sorted(fs.readdir(old)):
                copy(fs, join(old, name), join(new, name), made)
        case stat.S_IFLNK:
            fs.symlink(fs.readlink(old), new)
        case stat.S_IFREG:
            with open(fs.open(old), "rb") as source, open(fs.create(new), "wb") as sink:
                sink.write(source.read())
        case _:
            fs.mknod(new, st.st_mode, st.st_rdev)
    fs.chown(new, st.st_uid, st.st_gid)
    if kind != stat.S_IFLNK:
        fs.chmod(new, stat.S_IMODE(st.st_mode))
    for key, value in fs.xattrs(old).items():
        if key != b"security.selinux":
            fs.setxattr(new, key, value)
    fs.utimens(new, (st.st_atime_ns, st.st_mtime_ns))


class Parting(Directory):
    """A directory in which hard links break as in a union that copies up (overlayfs.rst, "Non-standard behavior").

    A file that had several names when this was made gets an inode of its own under the name by which it is first changed,
    linked or renamed; the others stay what they were. ``parted`` are those names.
    """

    def __init__(self, where: str | os.PathLike[str]) -> None:
        super().__init__(where)
        self.parted: list[bytes] = []
        self._shared: dict[tuple[int, int], int] = {}
        self._hold(b"")

    def __exit__(self, *exc: object) -> None:
        for fd in self._shared.values():
            os.close(fd)
        super().__exit__(*exc)

    def _hold(self, folder: bytes) -> None:
        """Keep files with several names open, so that no other is given the number of one that goes."""
        for name, kind in self.readdir(folder).items():
            path = join(folder, name)
            st = self.stat(path)
            if kind == stat.S_IFDIR:
                self._hold(path)
            elif st.st_nlink > 1 and (st.st_dev, st.st_ino) not in self._shared:
                with self.at(path) as (fd, last):
                    held = os.open(last, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
                self._shared[st.st_dev, st.st_ino] = held

    def _part(self, path: bytes) -> None:
        st = self.stat(path)
        held = self._shared.get((st.st_dev, st.st_ino))
        if stat.S_ISDIR(st.st_mode) or held is None:
            return
        if st.st_nlink == 1:  # whatever names it gets from now on are names of the copy
            os.close(self._shared.pop((st.st_dev, st.st_ino)))
            return
        parent = split(path)[0]
        before, new = self.stat(parent), join(parent, b".parted")
        copy(self, path, new, {})
        super().rename(new, path)
        super().utimens(parent, (before.st_atime_ns, before.st_mtime_ns))
        self.parted.append(path)

    def open(self, path: bytes, flags: int = os.O_RDONLY) -> int:
        """Open a file, parted if it may be written."""
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            self._part(path)
        return super().open(path, flags)

    def link(self, old: bytes, new: bytes) -> None:
        """Give an inode a further name; it is parted from those it had."""
        self._part(old)
        super().link(old, new)

    def rename(self, old: bytes, new: bytes) -> None:
        """Rename; what is no directory is parted."""
        self._part(old)
        super().rename(old, new)

    def truncate(self, path: bytes, size: int) -> None:
        """Part and set the size."""
        self._part(path)
        super().truncate(path, size)

    def chmod(self, path: bytes, mode: int) -> None:
        """Part and set the mode."""
        self._part(path)
        super().chmod(path, mode)

    def chown(self, path: bytes, uid: int, gid: int) -> None:
        """Part and set the owner."""
        self._part(path)
        super().chown(path, uid, gid)

    def utimens(self, path: bytes, ns: tuple[int, int] | None = None) -> None:
        """Part and set the times."""
        self._part(path)
        super().utimens(path, ns)

    def setxattr(self, path: bytes, key: bytes, value: bytes, flags: int = 0) -> None:
        """Part and set an attribute."""
        self._part(path)
        super().setxattr(path, key, value, flags)

    def removexattr(self, path: bytes, key: bytes) -> None:
        """Part and remove an attribute."""
        self._part(path)
        super().removexattr(path, key)
