"""The rows that need a decision: symlinked or missing parents, whiteouts, replaced directories, links into lowers."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from lamella._kernels import place
from lamella.columns import F_EXISTED, F_IMPLIED
from lamella.errors import ConflictError, UnsafePathError
from lamella.layer.implied import OPEN_DIR, child_dir, copy_up, ensure_dir, make_dir
from lamella.layer.parents import Parents
from lamella.layer.placement import Placement
from lamella.layer.policy import Policy
from lamella.layer.whiteout import OPAQUE, Dialect, hidden_name, is_metadata
from lamella.tree.root import join, lstat, split

__all__ = ["Decider"]

_DIR, _LINK = ord("5"), ord("1")


class Decider:
    """Decides for one placement. Called with a Special of the place kernel; True: the row is done, False: try again."""

    def __init__(
        self, placement: Placement, policy: Policy, dialect: Dialect, parents: Parents | None, rootless: bool
    ) -> None:
        self.placement, self.policy, self.dialect, self.parents = placement, policy, dialect, parents
        self.rootless = rootless
        self.warnings: list[str] = []
        self._metadata: set[bytes] = set()
        self._passed: set[bytes] = set()  # paths that the last resolution went through
        self._roads = {
            place.WHITEOUT: self._whiteout, place.DOTDOT: self._dotdot, place.ROOT: self._root,
            place.PARENT: self._parent, place.REPLACE_DIR: self._replace_dir, place.DIRLINK: self._dirlink,
            place.LINK: self._link, place.DEVICE: self._device, place.OWNER: self._owner,
            place.DUPLICATE: self._duplicate,
        }  # fmt: skip

    def __call__(self, special: int, row: int) -> bool:
        """Decide for ``row``."""
        return self._roads[special](row)

    def _warn(self, message: str, path: bytes) -> None:
        self.warnings.append(f"{message}: {path.decode('utf-8', 'replace')}")

    # -- refusals ---------------------------------------------------------------------------------------------------

    def _dotdot(self, row: int) -> bool:
        target = self.placement.link_target(row) if self.placement.column("type")[row] == _LINK else None
        raise UnsafePathError(self.placement.path(row), "a '..' component", target=target)

    def _owner(self, row: int) -> bool:
        uid, gid = self.placement.column("uid")[row], self.placement.column("gid")[row]
        idmap = self.placement.idmap
        shown = "" if idmap is None else " ".join(
            ",".join(":".join(map(str, r)) for r in ranges) for ranges in (idmap.uid, idmap.gid)
        )
        raise ConflictError(self.placement.path(row), f"owner {uid}:{gid} is not in the id map {shown}")

    def _duplicate(self, row: int) -> bool:
        raise ConflictError(self.placement.path(row), "the layer has this path twice")

    def _device(self, row: int) -> bool:
        path = self.placement.path(row)
        if self.rootless:
            self._warn("device left out", path)
            return True
        if not int(self.placement.column("rdev_major")[row]) and not int(self.placement.column("rdev_minor")[row]):
            raise UnsafePathError(path, "a 0:0 character device would be a whiteout on an overlay")
        raise PermissionError(errno.EPERM, "making a device needs privilege (rootless=True leaves devices out)", path)

    # -- whiteouts, AUFS metadata -----------------------------------------------------------------------------------

    def _whiteout(self, row: int) -> bool:
        path = self.placement.path(row)
        parent, name = split(path)
        if name == OPAQUE:
            self.dialect.whiteout(parent, None)
        elif is_metadata(path):
            self._aufs_metadata(row, path)
        else:
            self.dialect.whiteout(parent, hidden_name(path))
        return True

    def _aufs_metadata(self, row: int, path: bytes) -> None:
        # 17: a directory of AUFS's lives as long as the apply, so that links into it find their source
        self._metadata.add(path)
        if self.placement.column("type")[row] == _DIR:
            parent, name = split(path)
            fd = ensure_dir(self.placement, parent, self.parents, self.policy.parent_mode)
            try:
                if lstat(fd, name) is None:
                    os.mkdir(name, 0o700, dir_fd=fd)
            finally:
                os.close(fd)
            self.placement.enter(row)

    # -- directories ------------------------------------------------------------------------------------------------

    def _root(self, row: int) -> bool:
        if self.placement.column("type")[row] != _DIR:
            raise UnsafePathError(b"", "the root's own entry is not a directory")
        if self.policy.root_entry == "apply":
            self.placement.column("flags")[row] |= F_EXISTED
            self.placement.enter(row)
        return True

    def _parent(self, row: int) -> bool:
        """Find, follow, make or replace the directory part of a row's path, and hand it to the kernel."""
        parent = split(self.placement.path(row))[0]
        fd, real = os.open(b".", OPEN_DIR, dir_fd=self.placement.root.fd), b""
        self._passed.clear()
        try:
            for part in parent.split(b"/") if parent else []:
                child, real = self._step(fd, part, join(real, part))
                os.close(fd)
                fd = child
            if parent != real:  # so do the rows that follow, until one changes what the way leads through
                on_the_way = {split(path)[1] for path in self._passed if split(path)[0] == real}
                self.placement.move_all(row, parent, real, on_the_way)
            self.placement.push(real, os.dup(fd))
        finally:
            os.close(fd)
        return False

    def _step(self, fd: int, name: bytes, path: bytes) -> tuple[int, bytes]:
        """Open the directory ``name`` of ``fd``; return its descriptor and real path."""
        self._passed.add(path)
        if name.startswith(b".wh..wh.") and name != OPAQUE:
            self._metadata.add(path)
        where = self._lower_symlink(fd, name, path)
        if where is not None:
            return ensure_dir(self.placement, where, self.parents, self.policy.parent_mode), where
        try:
            return child_dir(self.placement, fd, name, path, self.parents, self.policy.parent_mode), path
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
        where = self._real_path(path) if self.policy.through_symlink == "follow" else None
        if where is not None:
            return ensure_dir(self.placement, where, self.parents, self.policy.parent_mode), where
        if self.policy.nondir_ancestor == "error":
            raise ConflictError(path, "an entry below something that is not a directory")
        self._warn("a directory takes the place of what was no directory", path)
        self.placement.reset()
        os.unlink(name, dir_fd=fd)
        return make_dir(self.placement, fd, name, path, None, self.policy.parent_mode), path

    def _lower_symlink(self, fd: int, name: bytes, path: bytes) -> bytes | None:
        # 105: on a branch, the symlink to follow is in a parent
        if self.parents is None or lstat(fd, name) is not None:
            return None
        found = self.parents.peek(path)
        return self._real_path(path) if found is not None and stat.S_ISLNK(found[0]) else None

    def _real_path(self, path: bytes) -> bytes | None:
        below = None if self.parents is None else self.parents.peek
        return self.placement.root.real_path(path, below, passed=self._passed)

    def _remove(self, fd: int, name: bytes, path: bytes) -> None:
        """Remove what stands where ``path`` goes."""
        self.placement.reset()
        found = lstat(fd, name)
        if found is not None and stat.S_ISDIR(found.st_mode):
            self.placement.forget(path)
            self.dialect.forget(path)
        self.placement.root.remove(fd, name, path)

    def _replace_dir(self, row: int) -> bool:
        path = self.placement.path(row)
        parent, name = split(path)
        with self.placement.root.dir(parent) as fd:
            self._remove(fd, name, path)
        return False

    def _dirlink(self, row: int) -> bool:
        path = self.placement.path(row)
        parent, name = split(path)
        real = self._real_path(path)
        if real is None:
            with self.placement.root.dir(parent) as fd:
                os.unlink(name, dir_fd=fd)
            return False
        self.placement.move(row, real)
        self.placement.column("flags")[row] |= F_EXISTED
        self.placement.enter(row)
        return True

    # -- hard links -------------------------------------------------------------------------------------------------

    def _link(self, row: int) -> bool:
        path, target = self.placement.path(row), self.placement.link_target(row)
        source = self._source(path, target)
        parent, name = split(path)
        self.placement.reset()
        root = self.placement.root
        with root.dir(split(source)[0]) as from_fd, root.dir(parent) as to_fd:
            old, new = lstat(from_fd, split(source)[1]), lstat(to_fd, name)
            if old is None or stat.S_ISDIR(old.st_mode):
                raise ConflictError(path, f"hard link to {target!r}, which is {'missing' if old is None else 'a directory'}")
            if new is None or (old.st_dev, old.st_ino) != (new.st_dev, new.st_ino):
                self._remove(to_fd, name, path)
                os.link(split(source)[1], name, src_dir_fd=from_fd, dst_dir_fd=to_fd, follow_symlinks=False)
            if self.policy.link_metadata == "apply":
                self._link_metadata(row, to_fd, name)
        self.placement.enter(row)
        return True

    def _source(self, path: bytes, target: bytes) -> bytes:
        """Return the real path of a hard link's target; on a branch, copy it up from a parent first (43)."""
        parent, name = split(target)
        where = self._real_path(parent)
        if where is None:
            raise ConflictError(path, f"hard link to {target!r}, which is missing")
        source = join(where, name)
        try:
            with self.placement.root.dir(where) as fd:
                if lstat(fd, name) is not None:
                    return source
        except FileNotFoundError:  # so far only parents have the directory
            pass
        found = None if self.parents is None else self.parents.shown(source)
        if found is None or stat.S_ISDIR(found.status.st_mode):
            what = "missing" if found is None else "a directory"
            raise ConflictError(path, f"hard link to {target!r}, which is {what}")
        fd = ensure_dir(self.placement, where, self.parents, self.policy.parent_mode)
        try:
            copy_up(found, fd, name)
        finally:
            os.close(fd)
        return source

    def _link_metadata(self, row: int, fd: int, name: bytes) -> None:
        column = self.placement.column
        if os.geteuid() == 0:
            os.chown(name, int(column("uid")[row]), int(column("gid")[row]), dir_fd=fd, follow_symlinks=False)
        status = lstat(fd, name)
        if status is not None and not stat.S_ISLNK(status.st_mode):
            os.chmod(name, int(column("mode")[row]), dir_fd=fd)
        ns = int(column("mtime")[row]) * 1_000_000_000 + int(column("mtime_nsec")[row])
        os.utime(name, ns=(ns, ns), dir_fd=fd, follow_symlinks=False)

    # -- the end ----------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Write deferred whiteouts, remove AUFS's own, restore the times of directories that were only passed."""
        self.dialect.finish()
        self.placement.reset()
        for path in sorted(self._metadata):
            parent, name = split(path)
            try:
                with self.placement.root.dir(parent) as fd:
                    self.placement.root.remove(fd, name, path)
            except FileNotFoundError:
                continue
        for real, mtime_ns in self.dialect.times() if self.policy.parent_mtime == "restore" else ():
            row = self.placement.find(real)
            if row >= 0 and self.placement.column("flags")[row] & F_IMPLIED:
                self.placement.column("mtime")[row] = mtime_ns // 1_000_000_000
                self.placement.column("mtime_nsec")[row] = mtime_ns % 1_000_000_000
            elif row < 0:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError), self.placement.root.dir(real) as fd:
                    os.utime(fd, ns=(mtime_ns, mtime_ns))
