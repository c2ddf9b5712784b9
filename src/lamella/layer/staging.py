"""Where an apply works so that a failure leaves nothing behind: beside the root, or inside a mount point."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

from lamella.tree.root import Root, clear_acls
from lamella.tree.scan import directory

__all__ = ["Ground", "ground"]


@dataclass(frozen=True, slots=True)
class Ground:
    """The directory that an apply writes to.

    ``empty``: nothing was in it, so a failure leaves nothing. ``fresh``: nor has it extended attributes, a default ACL
    among them, or a set-group-id bit, so nothing in it need be asked.
    """

    root: Root
    fresh: bool
    empty: bool
    mtime_ns: int


@contextlib.contextmanager
def ground(path: str | os.PathLike[str]) -> Iterator[Ground]:
    """Lend the ground for an apply into ``path``.

    An absent or empty root is staged beside it and renamed into place at the end; a mount point, and the working
    directory, are written inside and cleared on failure; a living tree is changed where it is.
    """
    target = os.path.realpath(path)
    try:
        status = os.stat(target)
    except FileNotFoundError:
        status = None
    if status is not None and not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), target)
    empty = status is None or not os.listdir(target)
    if not empty:
        with directory(target) as fd:
            yield Ground(Root(fd), False, False, os.fstat(fd).st_mtime_ns)
    elif status is not None and (os.path.ismount(target) or target == os.getcwd()):
        with directory(target) as fd, _cleared(fd):
            yield Ground(Root(fd), False, True, status.st_mtime_ns)
    else:
        with _staged(target, status) as lent:
            yield lent


@contextlib.contextmanager
def _cleared(fd: int) -> Iterator[None]:
    try:
        yield
    except BaseException:
        Root(fd).empty(os.dup(fd), b"")
        raise


@contextlib.contextmanager
def _staged(target: str, status: os.stat_result | None) -> Iterator[Ground]:
    parent, name = os.path.split(target)
    stage = tempfile.mkdtemp(prefix=f".{os.fsdecode(os.fsencode(name)[:200])}.", dir=parent)
    try:
        clear_acls(stage)
        if os.stat(stage).st_gid != os.getegid():
            os.chown(stage, -1, os.getegid())  # made in a set-group-id directory
        os.chmod(stage, 0o755 if status is None else stat.S_IMODE(status.st_mode))
        if status is not None and os.geteuid() == 0:
            os.chown(stage, status.st_uid, status.st_gid)
        kept = {} if status is None else _xattrs(target)
        for name, value in kept.items():
            os.setxattr(stage, name, value)
        with directory(stage) as fd:
            fresh = not kept and not os.fstat(fd).st_mode & stat.S_ISGID
            yield Ground(Root(fd), fresh, True, 0 if status is None else status.st_mtime_ns)
        os.rename(stage, target)
    except BaseException:
        _remove(stage)
        raise


def _xattrs(folder: str) -> dict[str, bytes]:
    try:
        names = [name for name in os.listxattr(folder) if name != "security.selinux"]
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return {}
    return {name: os.getxattr(folder, name) for name in names}


def _remove(stage: str) -> None:
    parent, name = os.path.split(stage)
    with directory(parent) as fd:
        try:
            Root(fd).remove(fd, os.fsencode(name), os.fsencode(name))
        except PermissionError:  # an unprivileged apply may have made directories it cannot enter
            for folder, _, _ in os.walk(stage):
                os.chmod(folder, 0o700)
            shutil.rmtree(stage)
