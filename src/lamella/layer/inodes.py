"""Inodes of a merged view changed, in the nearest branch, where they are copied up first."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from threading import RLock

from lamella._kernels import confine
from lamella.layer.copyup import copy_up, finish_links
from lamella.layer.linked import LinkedNames
from lamella.layer.merged import Merged, failure
from lamella.layer.own import BranchDialect
from lamella.layer.resolving import through
from lamella.layer.upperform import AufsForm, UpperForm
from lamella.layer.workdir import work_of
from lamella.tree.root import split

__all__ = ["Inodes"]


class Inodes(Merged):
    """The merged view of ``branches``, the first of which is changed unless ``writable`` is False (see union.py)."""

    def __init__(
        self, branches: Sequence[str | os.PathLike[str]], *, dialect: BranchDialect = "overlay", writable: bool = True,
        redirect_dir: bool = False, plink: bool = True, work: str | os.PathLike[str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(branches, dialect=dialect)
        self.redirect_dir = redirect_dir
        self._lock = RLock()
        self._upper: UpperForm | None = None
        self._ground = contextlib.ExitStack()
        if writable and branches:
            try:
                self._upper = self._ground.enter_context(work_of(self.branches.roots[0], branches[0], dialect, work))
                if plink and isinstance(self._upper, AufsForm):
                    self._upper.linked = LinkedNames(self.branches)
                    finish_links(self, self._upper)
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Close the branches and the work directory."""
        self._ground.close()
        super().close()

    @property
    def joins_names(self) -> bool:
        """Whether a file that is copied up keeps all the names it has in its branch."""
        return isinstance(self._upper, AufsForm) and self._upper.linked is not None

    def copy_up(self, path: bytes) -> None:
        """Make the first branch have the inode at ``path``, directories and metadata included; nothing else changes."""
        with self._change(path):
            pass

    def chmod(self, path: bytes, mode: int) -> None:
        """Set the mode; OSError EOPNOTSUPP for a symlink."""
        with self._lock:
            self._form(path)
            if stat.S_ISLNK(self.node(path).status.st_mode):
                raise failure(errno.EOPNOTSUPP, path)
            with self._change(path) as (fd, name):
                confine.chmod(fd, name, mode)

    def chown(self, path: bytes, uid: int, gid: int) -> None:
        """Set the owner, a symlink's own; -1 keeps it."""
        with self._change(path) as (fd, name):
            os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)

    def utimens(self, path: bytes, ns: tuple[int, int] | None = None) -> None:
        """Set access and modification time in nanoseconds, to now by default; a symlink's own."""
        with self._change(path) as (fd, name):
            if ns is None:
                os.utime(name, dir_fd=fd, follow_symlinks=False)
            else:
                os.utime(name, ns=ns, dir_fd=fd, follow_symlinks=False)

    def setxattr(self, path: bytes, key: bytes, value: bytes, flags: int = 0) -> None:
        """Set an extended attribute; one of overlay's own is kept under its nested name (27)."""
        with self._lock:
            self._form(path)
            self._may_have(path, key)
            with self._change(path) as (fd, name):
                os.setxattr(through(fd, name), self.escaped(key), value, flags, follow_symlinks=False)

    def removexattr(self, path: bytes, key: bytes) -> None:
        """Remove an extended attribute; OSError ENODATA."""
        with self._lock:
            self._form(path)
            self._may_have(path, key)
            if key not in self.xattrs(path):
                raise failure(errno.ENODATA, path)
            with self._change(path) as (fd, name):
                os.removexattr(through(fd, name), self.escaped(key), follow_symlinks=False)

    # -- steps ----------------------------------------------------------------------------------------------------

    def _form(self, path: bytes) -> UpperForm:
        if self._upper is None:
            raise failure(errno.EROFS, path)
        return self._upper

    def _may_have(self, path: bytes, key: bytes) -> None:
        """OSError EPERM for an attribute of the user's on what is neither a file nor a directory (xattr(7))."""
        mode = self.node(path).status.st_mode
        if key.startswith(b"user.") and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise failure(errno.EPERM, path)

    @contextlib.contextmanager
    def _change(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """Copy up, and lend the directory and the name there."""
        with self._lock:
            form = self._form(path)
            self.node(path)
            copy_up(self, form, path)
            parent, name = split(path)
            with form.root.dir(parent) as fd:
                yield fd, name or b"."
