"""What ``index=on`` leaves in a work directory, brought into the upper directory, which is all that stays of a snapshot.

With it a file of a lower layer keeps its names when it is written through one of them: the kernel notes in
``work/index`` which inode they all are now. Names that nobody touched are not in the upper directory (overlayfs.rst,
"Inodes index"), so a lower directory, or whoever reads it alone, knows nothing of what was written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

import numpy as np

from lamella.tree.root import Root, lstat, split
from lamella.tree.scan import directory, scan_fd

__all__ = ["indexed", "link_all"]

_SECOND = 1_000_000_000


def indexed(work: Path, namespace: str) -> list[os.stat_result]:
    """Return the status of the inodes that have an index in ``work``, a work directory, and names which are nowhere else."""
    found = []
    with contextlib.suppress(FileNotFoundError), os.scandir(work / "index") as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            is_whiteout = stat.S_ISCHR(status.st_mode) and status.st_rdev == 0  # of what has no name left
            if not stat.S_ISDIR(status.st_mode) and not is_whiteout and not _is_whole(entry.path, namespace):
                found.append(status)
    return found


def _is_whole(path: str, namespace: str) -> bool:
    """Tell whether all names of an inode are in the upper directory: the index itself is one more than are shown."""
    try:
        return os.getxattr(path, f"{namespace}.overlay.nlink", follow_symlinks=False) == b"U-1"
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
        return False


def link_all(view: str, fs: Path, inodes: list[os.stat_result]) -> None:
    """Have all names of indexed ``inodes`` that the mounted ``view`` shows in its upper directory ``fs``. OSError.

    The kernel makes them, when a time is set that is what it was. A lower file that cannot be told from an indexed one is
    copied up with them, which changes nothing that is shown.
    """
    wanted = {_facts(status) for status in inodes}
    with directory(view) as view_fd, directory(fs) as fs_fd:
        shown, upper = Root(view_fd), Root(fs_fd)
        scan = scan_fd(view_fd, xattrs="none")
        sizes, seconds = ({getter(status) for status in inodes} for getter in (_size, _seconds))
        rows = np.flatnonzero(np.isin(scan.table.size, list(sizes)) & np.isin(scan.table.mtime, list(seconds)))
        asked = [path for path in (*map(scan.table.path, rows.tolist()), *scan.sockets) if path]
        missing = []
        for path in asked:  # all of them first: a time that is set changes that of all names
            parent, name = split(path)
            with shown.dir(parent) as fd:
                status = lstat(fd, name)
            if status is not None and _facts(status) in wanted and not _is_in(upper, path):
                missing.append((parent, name, status))
        for parent, name, status in missing:
            with shown.dir(parent) as fd:
                os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=fd, follow_symlinks=False)


def _size(status: os.stat_result) -> int:
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _seconds(status: os.stat_result) -> int:
    return status.st_mtime_ns // _SECOND


def _facts(status: os.stat_result) -> tuple[int, ...]:
    return status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_uid, status.st_gid


def _is_in(upper: Root, path: bytes) -> bool:
    parent, name = split(path)
    try:
        with upper.dir(parent) as fd:
            return lstat(fd, name) is not None
    except (FileNotFoundError, NotADirectoryError):
        return False
