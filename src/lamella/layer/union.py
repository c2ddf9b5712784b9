"""Branches that show as one directory and are changed as one: overlayfs and AUFS in user space.

merged.py reads. Here the nearest branch is changed, as the kernel's overlayfs does: what is lower is copied up before it
is changed, what goes is hidden where something lower would show, a directory that is made again is opaque. What it leaves
is an upper directory that the kernel mounts, or a branch that AUFS does.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from lamella.layer.copyup import copy_up
from lamella.layer.inodes import Inodes
from lamella.layer.merged import Node, failure
from lamella.layer.moving import exchange, move
from lamella.layer.upperform import AufsForm, OverlayForm, Owner, UpperForm, made_for
from lamella.layer.whiteout import PREFIX
from lamella.tree.root import Root, split

__all__ = ["Union"]

_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS


class Union(Inodes):
    """The union of ``branches``, nearest first; the first is changed unless ``writable`` is False. A context manager.

    ``dialect`` as for :func:`lamella.changes_from_upper`; "overlay" writes attributes of the trusted namespace where the
    process may, else of the user's. ``redirect_dir``: rename directories that something lower makes up, which are
    refused with EXDEV otherwise, and always in AUFS. ``plink``, of AUFS: a file of a lower branch that is changed keeps
    its other names, which otherwise, as in an overlay, stay what they were. ``work``: a directory of the first branch's
    file system for what is not finished; by default one beside it, or AUFS's own in it, for as long as the union is open.

    Errors are OSError with the number that overlayfs answers, and EROFS. It acts with the rights of the process and its
    umask, and checks none of a caller. A file that was opened before it was copied up goes on being the lower one. Calls
    may come from several threads, and those that change wait for each other; no other union or mount may change the
    branch meanwhile. A crash leaves a call done or not done at all, its rest in the work directory until the next time;
    but of a directory that replaces an empty one it may leave the old name alone.
    """

    # -- names ----------------------------------------------------------------------------------------------------

    def create(self, path: bytes, mode: int = 0o666, *, owner: Owner | None = None) -> int:
        """Make an empty file and return its descriptor, for reading and writing; OSError EEXIST."""
        made: list[int] = []
        try:
            self._add(path, lambda fd, name: made.append(os.open(name, _NEW, mode, dir_fd=fd)), owner=owner)
        except BaseException:
            if made:
                os.close(made[0])
            raise
        return made[0]

    def mkdir(self, path: bytes, mode: int = 0o777, *, owner: Owner | None = None) -> None:
        """Make a directory, which is opaque where it hides something."""
        self._add(path, lambda fd, name: os.mkdir(name, mode, dir_fd=fd), directory=True, owner=owner)

    def mknod(self, path: bytes, mode: int, device: int = 0, *, owner: Owner | None = None) -> None:
        """Make a device, pipe, socket or file; OSError EPERM for what overlayfs would take for a whiteout."""
        if stat.S_ISCHR(mode) and device == 0 and isinstance(self._form(path), OverlayForm):
            raise failure(errno.EPERM, path)
        self._add(path, lambda fd, name: os.mknod(name, mode, device, dir_fd=fd), owner=owner)

    def symlink(self, target: bytes, path: bytes, *, owner: Owner | None = None) -> None:
        """Make a symlink with the text ``target``."""
        self._add(path, lambda fd, name: os.symlink(target, name, dir_fd=fd), owner=owner)

    def link(self, old: bytes, new: bytes) -> None:
        """Give the inode at ``old`` the further name ``new``; what names of it are lower only, copying it up decides."""
        form = self._form(new)

        def make(fd: int, name: bytes) -> None:
            if node.is_dir:
                raise failure(errno.EPERM, old)
            copy_up(self, form, old)
            parent, old_name = split(old)
            with form.root.dir(parent) as old_fd:
                os.link(old_name, name, src_dir_fd=old_fd, dst_dir_fd=fd, follow_symlinks=False)

        with self._lock:
            node = self.node(old)
            self._add(new, make)

    def unlink(self, path: bytes) -> None:
        """Remove what is no directory: with a whiteout only where something lower would show."""
        with self._lock:
            form, node = self._form(path), self.node(path)
            if node.is_dir:
                raise failure(errno.EISDIR, path)
            self._remove(form, node, os.unlink)

    def rmdir(self, path: bytes) -> None:
        """Remove a directory that shows nothing; OSError ENOTEMPTY, ENOTDIR."""
        with self._lock:
            form, node = self._form(path), self.node(path)
            if not path:
                raise failure(errno.EBUSY, path)
            if self.readdir(path):
                raise failure(errno.ENOTEMPTY, path)
            self._remove(form, node, lambda name, dir_fd: form.take(dir_fd, name))

    def rename(self, old: bytes, new: bytes) -> None:
        """Give what is at ``old`` the name ``new``, in the place of a file or an empty directory; OSError EXDEV too."""
        with self._lock:
            form = self._form(new)
            self._free(new)
            try:
                move(self, form, old, new, redirect_dir=self.redirect_dir)
            finally:
                self.changed(old)
                self.changed(new)

    def exchange(self, old: bytes, new: bytes) -> None:
        """Let what is at ``old`` and at ``new`` change places; OSError ENOENT, and EXDEV as rename()."""
        with self._lock:
            form = self._form(new)
            try:
                exchange(self, form, old, new, redirect_dir=self.redirect_dir)
            finally:
                self.changed(old)
                self.changed(new)

    # -- inodes ---------------------------------------------------------------------------------------------------

    def open(self, path: bytes, flags: int = os.O_RDONLY, mode: int = 0o666) -> int:
        """Open a regular file, as os.open(): the descriptor is the caller's to close. Copied up first to be written.

        OSError: EISDIR, ELOOP for a symlink, ENXIO for what else is no file, EIO for content that no branch has.
        """
        if flags & os.O_ACCMODE == os.O_RDONLY and not flags & (os.O_TRUNC | os.O_CREAT):
            return super().open(path)
        with self._lock:
            form = self._form(path)
            if flags & os.O_CREAT:
                if self.find(path) is None:
                    os.close(self.create(path, mode))
                elif flags & os.O_EXCL:
                    raise failure(errno.EEXIST, path)
            self.regular(path)
            copy_up(self, form, path, data=not flags & os.O_TRUNC)
            parent, name = split(path)
            with form.root.dir(parent) as fd:
                return os.open(name, flags & ~(os.O_CREAT | os.O_EXCL) | _FLAGS, dir_fd=fd)

    def truncate(self, path: bytes, size: int) -> None:
        """Set the size of a file in bytes; OSError EISDIR, EINVAL for what else is no file."""
        with self._lock:
            self._form(path)
            node = self.node(path)
            if size < 0 or not stat.S_ISREG(node.status.st_mode):
                raise failure(errno.EISDIR if node.is_dir else errno.EINVAL, path)
            fd = self.open(path, os.O_WRONLY)
            try:
                if size == node.status.st_size:
                    return  # nor does truncate(2) change the time then
                os.ftruncate(fd, size)
            finally:
                os.close(fd)

    # -- steps ----------------------------------------------------------------------------------------------------

    def _free(self, path: bytes) -> None:
        """OSError EPERM for a name that the branch keeps to itself (8)."""
        if isinstance(self._upper, AufsForm) and split(path)[1].startswith(PREFIX):
            raise failure(errno.EPERM, path)

    def _add(
        self, path: bytes, make: Callable[[int, bytes], None], *, directory: bool = False, owner: Owner | None = None,
    ) -> None:  # fmt: skip
        with self._lock:
            form = self._form(path)
            self._free(path)
            if self.find(path) is not None:
                raise failure(errno.EEXIST, path)
            hides = directory and self.lower(path) is not None
            parent, name = split(path)
            copy_up(self, form, parent)
            try:
                with form.root.dir(parent) as fd:
                    if not form.is_marked(fd, name):
                        made_for(form, make, fd, name, owner)
                        return
                    with form.staged(fd) as stage:
                        made_for(form, make, stage, name, owner)
                        if hides:
                            with Root(stage).dir(name) as made:
                                form.make_opaque(made)
                        form.show(stage, name, fd, name)
            finally:
                self.added(path)

    def _remove(self, form: UpperForm, node: Node, remove: Callable[..., None]) -> None:
        hides = self.lower(node.path) is not None
        parent, name = split(node.path)
        copy_up(self, form, parent)
        try:
            with form.root.dir(parent) as fd:
                if hides:
                    form.hide(fd, name)
                else:
                    remove(name, dir_fd=fd)
        finally:
            self.changed(node.path)
