"""Confinement below one directory descriptor: what policy needs to look at, make and remove inside a root.

Nothing here resolves a path but through the root's descriptor (contract rule 8, tests/contract 96-98).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator

from lamella._kernels import confine

__all__ = ["Below", "Root", "ancestors", "clear_acls", "join", "lstat", "make_plain", "open_roots", "split", "sync_tree"]

_DIR = os.O_RDONLY | os.O_DIRECTORY
_MAX_LINKS = 40
_PATH_MAX = 4096  # of what the kernel takes at a time, its NUL included


Below = Callable[[bytes], "tuple[int, bytes] | None"]  # path -> mode and symlink text, None for nothing there


def _parts(path: bytes) -> list[bytes]:
    return [part for part in reversed(path.split(b"/")) if part not in (b"", b".")]


def split(path: bytes) -> tuple[bytes, bytes]:
    """Return the directory part and the last component of a table's path."""
    parent, _, name = path.rpartition(b"/")
    return parent, name


def join(parent: bytes, name: bytes) -> bytes:
    """Return the path of ``name`` in ``parent``, which is empty for the root; the inverse of split()."""
    return parent + b"/" + name if parent else name


def ancestors(path: bytes) -> list[bytes]:
    """Return the paths of the directories on the way to ``path``, the root not among them, and ``path`` itself."""
    return [path[:i] for i, byte in enumerate(path) if byte == ord("/")] + ([path] if path else [])


def lstat(dir_fd: int, name: bytes) -> os.stat_result | None:
    """Return the status of ``name``, None where there is none."""
    try:
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def sync_tree(path: str | os.PathLike[str]) -> None:
    """Have the file system of the directory ``path`` write all it holds to disk (syncfs)."""
    fd = os.open(path, _DIR | os.O_CLOEXEC)
    try:
        confine.sync_fs(fd)
    finally:
        os.close(fd)


def clear_acls(directory: int | str) -> None:
    """Remove the ACLs that a new directory inherited from its parent's default (tests/contract 109)."""
    for name in ("system.posix_acl_default", "system.posix_acl_access"):
        try:
            os.removexattr(directory, name)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.ENOTSUP):
                raise


def make_plain(fd: int) -> None:
    """Give a new directory mode 0755 and nothing that it inherited."""
    clear_acls(fd)
    if os.fstat(fd).st_gid != os.getegid():
        os.fchown(fd, -1, os.getegid())
    os.fchmod(fd, 0o755)


def open_roots(directories: Iterable[str | os.PathLike[str]]) -> tuple[list[Root], contextlib.ExitStack]:
    """Open each of ``directories``; the stack that is returned closes them all. OSError, with none left open."""
    roots = []
    with contextlib.ExitStack() as stack:
        for directory in directories:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            roots.append(Root(fd))
        return roots, stack.pop_all()


class Root:
    """A directory that nothing gets out of. ``fd`` is the caller's to close."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def open_dir(self, path: bytes) -> int:
        """Open directory ``path``, of any length, following no symlink: OSError ELOOP or ENOTDIR where something else is."""
        half = path.rfind(b"/", 0, _PATH_MAX) if len(path) >= _PATH_MAX else -1
        if half < 0:
            return confine.open_beneath(self.fd, path or b".", _DIR)
        with self.dir(path[:half]) as fd:
            return Root(fd).open_dir(path[half + 1 :])

    @contextlib.contextmanager
    def dir(self, path: bytes) -> Iterator[int]:
        """Lend a descriptor of open_dir()."""
        fd = self.open_dir(path)
        try:
            yield fd
        finally:
            os.close(fd)

    def real_path(
        self,
        path: bytes,
        below: Below | None = None,
        barred: Callable[[bytes], bool] | None = None,
        passed: set[bytes] | None = None,
    ) -> bytes | None:
        """Return where directory ``path`` is when symlinks are followed as if this root were ``/``; None for nowhere.

        ``below`` says what directories under this one have where it has nothing itself, ``barred`` which symlinks
        lead nowhere; ``passed`` receives every path that was looked at.
        """
        done: list[bytes] = []
        todo = _parts(path)
        links = 0
        while todo:
            part = todo.pop()
            if part == b"..":
                done[-1:] = []
                continue
            at = b"/".join([*done, part])
            if passed is not None:
                passed.add(at)
            found = self._peek(b"/".join(done), part) or (below and below(at))
            if not found:
                return None
            mode, target = found
            if stat.S_ISDIR(mode):
                done.append(part)
                continue
            links += 1
            if not stat.S_ISLNK(mode) or links > _MAX_LINKS or (barred and barred(at)):
                return None
            done = [] if target.startswith(b"/") else done
            todo += _parts(target)
        return b"/".join(done)

    def _peek(self, folder: bytes, name: bytes) -> tuple[int, bytes] | None:
        try:
            with self.dir(folder) as fd:
                found = lstat(fd, name)
                if found is None:
                    return None
                return found.st_mode, os.readlink(name, dir_fd=fd) if stat.S_ISLNK(found.st_mode) else b""
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return None
            raise

    def remove(self, dir_fd: int, name: bytes, path: bytes, keep: Callable[[bytes], bool] | None = None) -> bool:
        """Remove ``name`` of ``dir_fd`` and all below it, except what ``keep`` (asked by path) wants; True when it is gone.

        A directory of any depth with two descriptors at a time; on the way up ``..`` is checked to be what it was.
        """
        found = lstat(dir_fd, name)
        if found is None:
            return True
        if not stat.S_ISDIR(found.st_mode):
            if keep is not None and keep(path):
                return False
            os.unlink(name, dir_fd=dir_fd)
            return True
        gone = self.empty(_open_closed(dir_fd, name), path, keep)
        own = keep is not None and keep(path)  # asked in any case: who keeps may want to note it
        if own or not gone:
            return False
        os.rmdir(name, dir_fd=dir_fd)
        return True

    def empty(self, fd: int, path: bytes, keep: Callable[[bytes], bool] | None = None) -> bool:
        """Remove everything below the directory ``fd`` (closed here) but what ``keep`` wants; True when all is gone."""
        # a frame a level: its path, the subdirectories still to visit, its status, whether something stayed
        frames: list[tuple[bytes, list[bytes], os.stat_result]] = []
        stayed: list[bool] = []
        try:
            frames.append(_unlink_files(fd, path, keep, stayed))
            while True:
                at, todo, _ = frames[-1]
                if todo:
                    child = _open_closed(fd, todo[-1])
                    os.close(fd)
                    fd = child
                    frames.append(_unlink_files(fd, join(at, todo[-1]), keep, stayed))
                    continue
                _, _, was = frames.pop()
                kept = stayed.pop()
                parent = os.open(b"..", _DIR, dir_fd=fd) if frames else -1
                if _closed(was):
                    os.fchmod(fd, stat.S_IMODE(was.st_mode))
                if not frames:
                    return not kept
                os.close(fd)
                fd = parent
                info = os.fstat(fd)
                if (info.st_dev, info.st_ino) != (frames[-1][2].st_dev, frames[-1][2].st_ino):
                    raise OSError(errno.ESTALE, "directory was moved while it was removed", at)
                own = keep is not None and keep(at)
                if own or kept:
                    stayed[-1] = True
                else:
                    os.rmdir(frames[-1][1][-1], dir_fd=fd)
                frames[-1][1].pop()
        finally:
            os.close(fd)


def _closed(info: os.stat_result) -> bool:
    """Tell whether a directory keeps its own owner from changing it."""
    return info.st_mode & 0o700 != 0o700 and 0 != os.geteuid() == info.st_uid


def _open_closed(dir_fd: int, name: bytes) -> int:
    """Open a directory to remove what is in it, though its mode may forbid that to its owner (tests/contract 23)."""
    try:
        return os.open(name, _DIR | os.O_NOFOLLOW, dir_fd=dir_fd)
    except PermissionError:
        info = lstat(dir_fd, name)
        if info is None or not _closed(info):
            raise
    confine.chmod(dir_fd, name, stat.S_IMODE(info.st_mode) | 0o500)
    try:
        return os.open(name, _DIR | os.O_NOFOLLOW, dir_fd=dir_fd)
    finally:
        confine.chmod(dir_fd, name, stat.S_IMODE(info.st_mode))


def _unlink_files(
    fd: int, path: bytes, keep: Callable[[bytes], bool] | None, stayed: list[bool]
) -> tuple[bytes, list[bytes], os.stat_result]:
    dirs = []
    stayed.append(False)
    info = os.fstat(fd)
    if _closed(info):
        os.fchmod(fd, stat.S_IMODE(info.st_mode) | 0o700)
    with os.scandir(fd) as entries:
        listed = [(os.fsencode(e.name), e.is_dir(follow_symlinks=False)) for e in entries]
    for name, is_dir in listed:
        if is_dir:
            dirs.append(name)
        elif keep is not None and keep(join(path, name)):
            stayed[-1] = True
        else:
            os.unlink(name, dir_fd=fd)
    return path, dirs, info
