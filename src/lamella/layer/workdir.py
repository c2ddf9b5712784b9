"""Where a union keeps what is not finished, and in which form its nearest branch is written."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from lamella.layer.own import BranchDialect
from lamella.layer.upperform import TEMPORARY, AufsForm, OverlayForm, UpperForm, set_times
from lamella.layer.whiteout import ORPHANS, PLINKS
from lamella.tree.root import Root

__all__ = ["work_of"]

_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@contextlib.contextmanager
def work_of(
    root: Root, branch: str | os.PathLike[str], dialect: BranchDialect, work: str | os.PathLike[str] | None
) -> Iterator[UpperForm]:
    """Lend the form of ``branch``, whose ``root`` is open, with a work directory: ``work``, or one for this time.

    What a crash left in it is removed: nobody else works on the branch.
    """
    place = os.path.abspath(work) if work is not None else _made(root, branch, dialect)
    fd = -1
    try:
        fd = os.open(place, _DIR, dir_fd=root.fd)
        if os.fstat(fd).st_dev != os.fstat(root.fd).st_dev:
            raise OSError(errno.EXDEV, "the work directory is on another file system", place)
        for name in map(os.fsencode, os.listdir(fd)):
            if name.startswith(TEMPORARY):
                root.remove(fd, name, name)
        yield AufsForm(root, fd) if dialect == "aufs" else OverlayForm(root, fd, _namespace(fd, dialect))
    finally:
        if fd >= 0:
            os.close(fd)
        if work is None:
            before = os.fstat(root.fd)
            with contextlib.suppress(OSError):  # a mount's own may be in it
                os.rmdir(place, dir_fd=root.fd)
            if dialect == "aufs":
                with contextlib.suppress(OSError):  # none there, or one of a mount's own in it
                    os.rmdir(PLINKS, dir_fd=root.fd)
            set_times(root.fd, before)


def _made(root: Root, branch: str | os.PathLike[str], dialect: BranchDialect) -> str | bytes:
    place: str | bytes = ORPHANS if dialect == "aufs" else os.path.realpath(branch) + ".work"
    before = os.fstat(root.fd)
    with contextlib.suppress(FileExistsError):
        os.mkdir(place, 0o700, dir_fd=root.fd)
    set_times(root.fd, before)
    return place


def _namespace(work: int, dialect: BranchDialect) -> str:
    """Return whose attributes to write: in a user namespace nobody may set trusted ones."""
    if dialect != "overlay":
        return dialect.partition(":")[2]
    try:
        os.setxattr(work, "trusted.overlay.lamella", b"y")
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP):
            raise
        return "user"
    os.removexattr(work, "trusted.overlay.lamella")
    return "trusted"
