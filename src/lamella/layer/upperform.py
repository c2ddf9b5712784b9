"""How the upper directory of a union says that a name is hidden and a directory shows nothing lower, step by step.

Everything is made in a work directory and moved to where it is seen, so that no step shows what was hidden: the overlay
form exchanges names with renameat2(2), the AUFS form has a marker beside the name until the name is there.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

from lamella._kernels import confine
from lamella.layer.linked import LinkedNames
from lamella.layer.whiteout import BASE, OPAQUE, PREFIX
from lamella.tree.root import Root, lstat

__all__ = ["TEMPORARY", "AufsForm", "OverlayForm", "Owner", "UpperForm", "made_for", "set_times"]

Owner = tuple[int, int]  # user and group

_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_EXCHANGE, _WHITEOUT = 2, 4
TEMPORARY = b"#"  # how names in a work directory begin, the kernel's too
_DEFAULT_ACL = "system.posix_acl_default"


def set_times(fd: int, status: os.stat_result, name: bytes = b".") -> None:
    """Give ``name`` of the directory ``fd`` the times of ``status``."""
    os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=fd, follow_symlinks=False)


class UpperForm(ABC):
    """The upper directory ``root``, and ``work``, the descriptor of a directory of the same file system (the caller's)."""

    def __init__(self, root: Root, work: int) -> None:
        self.root, self.work = root, work
        self._numbers = itertools.count()

    def temporary(self) -> bytes:
        """Return a name for the work directory that nobody has."""
        return b"%s%x.%x" % (TEMPORARY, os.getpid(), next(self._numbers))

    @contextlib.contextmanager
    def staged(self, like: int) -> Iterator[int]:
        """Lend a new directory in the work directory, in which what is made inherits as in the directory ``like``."""
        name = self.temporary()
        os.mkdir(name, 0o700, dir_fd=self.work)
        try:
            fd = os.open(name, _DIR, dir_fd=self.work)
            try:
                status = os.fstat(like)
                if status.st_mode & stat.S_ISGID:
                    os.fchown(fd, -1, status.st_gid)
                    os.fchmod(fd, 0o2700)
                _copy_default_acl(like, fd)
                yield fd
            finally:
                os.close(fd)
        finally:
            self.discard(name)

    def discard(self, name: bytes) -> None:
        """Remove what is at ``name`` of the work directory, if anything is."""
        self.root.remove(self.work, name, name)

    def take(self, fd: int, name: bytes) -> None:
        """Remove directory ``name`` of ``fd``, where nothing lower shows, with the markers in it."""
        spare = self.temporary()
        os.rename(name, spare, src_dir_fd=fd, dst_dir_fd=self.work)
        self.discard(spare)

    def exchange(self, from_fd: int, from_name: bytes, fd: int, name: bytes) -> None:
        """Let two names change places in one step."""
        confine.rename(from_fd, from_name, fd, name, _EXCHANGE)

    @abstractmethod
    def is_marked(self, fd: int, name: bytes) -> bool:
        """Tell whether ``fd`` has a marker for ``name``, at which nothing is shown."""

    @abstractmethod
    def show(self, from_fd: int, from_name: bytes, fd: int, name: bytes) -> None:
        """Move an inode to ``name`` of ``fd``, where nothing or a whiteout is, or a file that goes."""

    @abstractmethod
    def leave(self, from_fd: int, from_name: bytes, fd: int, name: bytes) -> None:
        """Move an inode as show(), and put a whiteout where it was: in one step where that can be."""

    @abstractmethod
    def hide(self, fd: int, name: bytes) -> None:
        """Put a whiteout at ``name`` of ``fd``, in the place of what is there: a directory goes with its markers."""

    @abstractmethod
    def make_opaque(self, fd: int) -> None:
        """Make the directory ``fd`` opaque."""


class OverlayForm(UpperForm):
    """The form of overlayfs.rst; ``namespace`` is ``trusted`` or ``user``."""

    def __init__(self, root: Root, work: int, namespace: str) -> None:
        super().__init__(root, work)
        self.namespace = namespace
        self._devices = True

    def is_marked(self, fd: int, name: bytes) -> bool:
        """Tell whether a whiteout stands in the place of the name."""
        return lstat(fd, name) is not None

    def show(self, from_fd: int, from_name: bytes, fd: int, name: bytes) -> None:
        """Rename it; a directory and a whiteout change places."""
        there, comes = lstat(fd, name), lstat(from_fd, from_name)
        if there is None or comes is None or not stat.S_ISDIR(comes.st_mode) or stat.S_ISDIR(there.st_mode):
            os.rename(from_name, name, src_dir_fd=from_fd, dst_dir_fd=fd)
            return
        confine.rename(from_fd, from_name, fd, name, _EXCHANGE)
        os.unlink(from_name, dir_fd=from_fd)

    def leave(self, from_fd: int, from_name: bytes, fd: int, name: bytes) -> None:
        """Let the kernel make the whiteout, or change places with the one that is there; else rename, then hide."""
        there = lstat(fd, name)
        is_whiteout = there is not None and stat.S_ISCHR(there.st_mode) and there.st_rdev == 0
        try:
            confine.rename(from_fd, from_name, fd, name, _EXCHANGE if is_whiteout else _WHITEOUT)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EINVAL, errno.ENOTDIR):
                raise
            self.show(from_fd, from_name, fd, name)
            self.hide(from_fd, from_name)

    def hide(self, fd: int, name: bytes) -> None:
        """Make the whiteout elsewhere and rename it; a directory and it change places."""
        spare = self.temporary()
        there = lstat(fd, name)
        try:
            self._whiteout(fd, spare)
            if there is not None and stat.S_ISDIR(there.st_mode):
                confine.rename(self.work, spare, fd, name, _EXCHANGE)
            else:
                os.rename(spare, name, src_dir_fd=self.work, dst_dir_fd=fd)
        finally:
            self.discard(spare)

    def _whiteout(self, fd: int, spare: bytes) -> None:
        """Make a whiteout for directory ``fd``: a device, or a file where that is not allowed (tests/contract 25)."""
        if self._devices:
            try:
                os.mknod(spare, stat.S_IFCHR, 0, dir_fd=self.work)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EINVAL):
                    raise
                self._devices = False
            else:
                return
        file = os.open(spare, _NEW, 0o600, dir_fd=self.work)
        try:
            os.setxattr(file, f"{self.namespace}.overlay.whiteout", b"")
        finally:
            os.close(file)
        os.setxattr(fd, f"{self.namespace}.overlay.opaque", b"x")

    def make_opaque(self, fd: int) -> None:
        """Set the attribute."""
        os.setxattr(fd, f"{self.namespace}.overlay.opaque", b"y")

    def redirect(self, fd: int) -> bytes:
        """Return the redirect of directory ``fd``, empty for none."""
        try:
            return os.getxattr(fd, f"{self.namespace}.overlay.redirect")
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.ENOTSUP):
                raise
            return b""

    def set_redirect(self, fd: int, text: bytes) -> None:
        """Say where what is lower in directory ``fd`` is."""
        os.setxattr(fd, f"{self.namespace}.overlay.redirect", text)


class AufsForm(UpperForm):
    """The form of an AUFS branch: names of files (aufs design notes). ``linked``: names that are copied up together."""

    linked: LinkedNames | None = None

    def is_marked(self, fd: int, name: bytes) -> bool:
        """Tell whether a whiteout stands beside the name."""
        return lstat(fd, PREFIX + name) is not None

    def show(self, from_fd: int, from_name: bytes, fd: int, name: bytes) -> None:
        """Rename it, then remove the whiteout beside it."""
        os.rename(from_name, name, src_dir_fd=from_fd, dst_dir_fd=fd)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(PREFIX + name, dir_fd=fd)

    def leave(self, from_fd: int, from_name: bytes, fd: int, name: bytes) -> None:
        """Make the whiteout first: what stands beside it is shown."""
        self._mark(from_fd, PREFIX + from_name)
        self.show(from_fd, from_name, fd, name)

    def hide(self, fd: int, name: bytes) -> None:
        """Make the whiteout beside what is then removed."""
        self._mark(fd, PREFIX + name)
        there = lstat(fd, name)
        if there is not None and stat.S_ISDIR(there.st_mode):
            self.take(fd, name)
        elif there is not None:
            os.unlink(name, dir_fd=fd)

    def make_opaque(self, fd: int) -> None:
        """Make the marker in it, and leave its times: it shows what it did."""
        before = os.fstat(fd)
        self._mark(fd, OPAQUE)
        set_times(fd, before)

    def _mark(self, fd: int, name: bytes) -> None:
        """Make a whiteout: a further name of the branch's base, or a file of its own where that can have none."""
        for _ in range(2):
            try:
                os.link(BASE, name, src_dir_fd=self.root.fd, dst_dir_fd=fd, follow_symlinks=False)
            except FileExistsError:
                return
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.EMLINK):
                    break  # no hard links, or none to what is another user's
                self._renew_base()
            else:
                return
        _file(fd, name)

    def _renew_base(self) -> None:
        """Make the base anew: it is not there yet, or has as many names as an inode may have."""
        before = os.fstat(self.root.fd)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(BASE, dir_fd=self.root.fd)
        _file(self.root.fd, BASE)
        set_times(self.root.fd, before)


def made_for(
    form: UpperForm, make: Callable[[int, bytes], None], fd: int, name: bytes, owner: Owner | None
) -> None:  # fmt: skip
    """Make ``name`` in directory ``fd`` and give it to ``owner``; its group is the directory's where that says so."""
    make(fd, name)
    if owner is None:
        return
    made = os.stat(name, dir_fd=fd, follow_symlinks=False)
    uid, gid = owner if not os.fstat(fd).st_mode & stat.S_ISGID else (owner[0], made.st_gid)
    if (uid, gid) == (made.st_uid, made.st_gid):
        return
    try:
        os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)
        if made.st_mode & (stat.S_ISUID | stat.S_ISGID):  # which that takes away
            confine.chmod(fd, name, stat.S_IMODE(made.st_mode))
    except BaseException:
        form.root.remove(fd, name, name)
        raise


def _copy_default_acl(like: int, fd: int) -> None:
    try:
        os.setxattr(fd, _DEFAULT_ACL, os.getxattr(like, _DEFAULT_ACL))
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP):
            raise


def _file(fd: int, name: bytes) -> None:
    with contextlib.suppress(FileExistsError):
        os.close(os.open(name, _NEW | os.O_NOFOLLOW, 0o444, dir_fd=fd))
        os.utime(name, ns=(0, 0), dir_fd=fd, follow_symlinks=False)
