"""A whole tree copied to a fresh directory, every inode with all that it has (tests/contract 114).

Walked into a table first, then made from it by the kernel, on two threads where there are two processors.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lamella._kernels import clone, confine
from lamella.layer.crew import n_placing, run_placing
from lamella.layer.merged import through
from lamella.layer.staging import ground
from lamella.tree.root import Root, clear_acls, split
from lamella.tree.scan import Scan, directory, scan_fd

__all__ = ["CopyResult", "copy_into", "copy_tree"]

Path = str | os.PathLike[str]
_SCRATCH = 1 << 17
_MANY = 512  # rows that a second thread is worth


@dataclass(frozen=True, slots=True)
class CopyResult:
    """What a copy made: ``entries`` in all, regular ``files``, of these ``shared`` whose content is the source's until one
    of them is written, and ``nbytes`` of content that were copied.
    """

    entries: int = 0
    files: int = 0
    shared: int = 0
    nbytes: int = 0


def copy_tree(source: Path, target: Path, *, workers: int | None = None) -> CopyResult:
    """Copy the directory ``source`` to ``target``, which is absent or empty and then appears whole or not at all.

    Kept are inodes of every kind and their further names, owners, modes, nanosecond times (the access time is the
    modification's), holes, and extended attributes, ACLs, capabilities and overlay's own among them, but not
    ``security.selinux``: the system labels what it makes. Content is shared where the file system can (FICLONE), else
    copied. OSError with the path in ``source`` of what cannot be copied as it is; ESTALE for a file that was changed
    meanwhile, ENOENT for one that is gone. ``workers`` threads copy (None: two, where there are two processors).
    """
    with _named(source), directory(source) as source_fd:
        found = scan_fd(source_fd)
        with ground(target) as here:
            if not here.empty:
                raise FileExistsError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), os.fspath(target))
            return _Copy(source_fd, here.root.fd, found, n_placing(workers)).run()


def copy_into(source: Path, target_fd: int, *, workers: int | None = None) -> CopyResult:
    """Copy as copy_tree() into the empty directory open as ``target_fd``; what a failure leaves is the caller's."""
    with _named(source), directory(source) as source_fd:
        return _Copy(source_fd, target_fd, scan_fd(source_fd), n_placing(workers)).run()


@contextlib.contextmanager
def _named(source: Path) -> Iterator[None]:
    # kernels know paths below their descriptors only
    try:
        yield
    except OSError as error:
        if isinstance(error.filename, bytes):
            error.filename = os.fsdecode(os.path.join(os.fsencode(source), error.filename))
        raise


class _Copy:
    """One copy on its way; its threads have a umask of 0."""

    def __init__(self, source: int, target: int, found: Scan, workers: int) -> None:
        if found.ghosts:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), found.ghosts[0])
        self._source, self._target, self._found = source, target, found
        self._columns = found.table.columns
        n_runs = -(-len(found.table) // clone.RUN)
        self._turns = np.array([n_runs], np.uint64)
        self._helpers = workers - 1 if len(found.table) >= _MANY else 0
        self._counts: list[tuple[int, int, int]] = []
        self._errors: list[BaseException] = []

    def run(self) -> CopyResult:
        run_placing(self._work, self._stop, None)
        files, shared, nbytes = map(sum, zip(*self._counts, strict=True))
        return CopyResult(len(self._found.table) + len(self._found.sockets), files, shared, nbytes)

    def _stop(self) -> None:
        self._errors.append(KeyboardInterrupt())
        self._turns[0] = 0

    def _work(self) -> None:
        self._make_ready()
        clone.dirs(self._target, self._columns)
        self._share_out()
        if self._errors:
            raise self._errors[0]
        clone.links(self._target, self._columns)
        self._sockets()
        clone.finish(self._target, self._columns)

    def _make_ready(self) -> None:
        """Have the target be a directory from which nothing is inherited."""
        clear_acls(self._target)
        if os.fstat(self._target).st_gid != os.getegid():
            os.fchown(self._target, -1, os.getegid())
        os.fchmod(self._target, 0o700)

    def _share_out(self) -> None:
        helpers = [threading.Thread(target=self._help, name=f"lamella-copy-{i + 2}") for i in range(self._helpers)]
        for thread in helpers:
            thread.start()
        self._files()
        for thread in helpers:
            thread.join()

    def _help(self) -> None:
        try:
            confine.private_umask()
        except OSError as error:
            self._errors.append(error)
            return
        self._files()

    def _files(self) -> None:
        try:
            scratch = np.empty(_SCRATCH, np.uint8)
            self._counts.append(clone.files(self._source, self._target, self._columns, self._turns, scratch))
        except BaseException as error:  # noqa: BLE001 - raised again by who shares out
            self._errors.append(error)

    def _sockets(self) -> None:
        """Make the sockets, which a table does not hold, one by one."""
        made: dict[tuple[int, int], bytes] = {}
        source, target = Root(self._source), Root(self._target)
        for path in self._found.sockets:
            parent, name = split(path)
            with source.dir(parent) as source_fd, target.dir(parent) as target_fd:
                status = os.stat(name, dir_fd=source_fd, follow_symlinks=False)
                first = made.setdefault((status.st_dev, status.st_ino), path)
                if first != path:
                    _link(target, first, target_fd, name)
                    continue
                if not stat.S_ISSOCK(status.st_mode):
                    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
                os.mknod(name, status.st_mode, dir_fd=target_fd)
                _dress(source_fd, target_fd, name, status)


def _link(target: Root, first: bytes, dir_fd: int, name: bytes) -> None:
    parent, old = split(first)
    with target.dir(parent) as old_fd:
        os.link(old, name, src_dir_fd=old_fd, dst_dir_fd=dir_fd, follow_symlinks=False)


def _dress(source_fd: int, target_fd: int, name: bytes, status: os.stat_result) -> None:
    if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
        os.chown(name, status.st_uid, status.st_gid, dir_fd=target_fd, follow_symlinks=False)
    old, new = through(source_fd, name), through(target_fd, name)
    for key in os.listxattr(old, follow_symlinks=False):
        if key != "security.selinux":
            os.setxattr(new, key, os.getxattr(old, key, follow_symlinks=False), follow_symlinks=False)
    confine.chmod(target_fd, name, stat.S_IMODE(status.st_mode))
    os.utime(name, ns=(status.st_mtime_ns, status.st_mtime_ns), dir_fd=target_fd, follow_symlinks=False)
