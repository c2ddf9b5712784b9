"""Snapshots as subvolumes of a btrfs file system, made, limited and removed by ioctl: no program is run.

A snapshot is the subvolume ROOT/<number>, which the kernel makes as a snapshot of its nearest parent, whole or not at all,
in a time that does not depend on what is in it. A view and what is committed are read-only subvolumes. What a snapshot
changed is found by a search of its tree that passes over what it shares with its parent (_btrfs_search.py).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lamella.drivers import _btrfs_calls as calls
from lamella.drivers._btrfs_search import Tree
from lamella.drivers._run import type_of
from lamella.drivers.base import Driver, Place, parent_of
from lamella.errors import DriverUnavailable
from lamella.layer.changeset import Changeset
from lamella.layer.diff import changes
from lamella.layer.touched import changes_of_touched
from lamella.model import Mount, SnapshotKind, Usage
from lamella.tree.room import room_of
from lamella.tree.root import Root, lstat, make_plain, split
from lamella.tree.scan import directory

__all__ = ["Btrfs", "remove_subvolume"]

_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_REFUSED = (errno.EPERM, errno.EACCES)
_NO_SUBVOLUME = (errno.EINVAL, errno.ENOTTY)


class _NotSaid(Exception):
    """Why nobody but a look at both trees says what differs."""


class Btrfs(Driver):
    """Subvolumes. Option: size, the bytes (or "10G") that an active snapshot may show, those of its parents included.

    Who writes more gets EDQUOT. Where quotas are off they are switched on for the whole file system, which takes root, a
    look at all that is there, and some speed from then on: DriverUnavailable where they cannot be had.
    """

    name = "btrfs"
    backend = "kernel"
    known_options = frozenset({"size"})

    def __init__(
        self, root: str | os.PathLike[str], options: Mapping[str, str] | None = None, *,
        mount_points: str | os.PathLike[str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(root, options, mount_points=mount_points)
        self.size = _nbytes(self.options["size"]) if "size" in self.options else None

    @classmethod
    def refusals(cls, root: Path) -> Iterator[str]:
        """Make a subvolume, a read-only snapshot of it, and remove both."""
        name = f".probe-{secrets.token_hex(8)}"
        try:
            with directory(root) as folder:
                try:
                    calls.create(folder, name)
                    with directory(root / name) as made:
                        calls.snapshot(made, folder, f"{name}-2", read_only=True)
                finally:
                    for each in (f"{name}-2", name):
                        remove_subvolume(folder, each)
        except OSError as error:
            if error.errno in _NO_SUBVOLUME:
                yield f"{root} is on {type_of(root)}, not on btrfs"
            else:
                yield f"no subvolume can be made and removed in {root}: {error.strerror}"

    # -- duties -------------------------------------------------------------------------------------------------------

    def create(self, place: Place) -> None:
        """Have the kernel make a snapshot of the nearest parent, or an empty subvolume of mode 0755."""
        is_view = place.kind is SnapshotKind.VIEW
        with directory(self.root) as folder, calls.about("make subvolume", self.root / place.name):
            if place.parents:
                with directory(self.root / str(place.parents[0])) as parent:
                    calls.snapshot(parent, folder, place.name, read_only=is_view)
            else:
                calls.create(folder, place.name)
        try:
            if not place.parents:
                with directory(self.root / place.name) as made:
                    make_plain(made)
                    calls.set_read_only(made, is_view)
            if self.size is not None and not is_view:
                self._limit(self.root / place.name, self.size)
        except BaseException:
            self.remove(place.id)
            raise

    def _limit(self, path: Path, nbytes: int) -> None:
        with directory(path) as fd:
            try:
                try:
                    calls.limit(fd, nbytes)
                except OSError as error:
                    if error.errno != errno.ENOTCONN:
                        raise
                    calls.enable_quotas(fd)
                    calls.limit(fd, nbytes)
            except OSError as error:
                reason = f"there are no quotas to be had: {error.strerror}"
                raise DriverUnavailable(f"option size is {self.options['size']!r}", (reason,)) from error

    def mounts(self, place: Place) -> tuple[Mount, ...]:
        """Return one bind mount, of the subvolume."""
        options = () if place.kind is SnapshotKind.ACTIVE else ("ro",)
        return (Mount("bind", str(self.root / place.name), options),)

    def commit(self, place: Place) -> None:
        """Make the subvolume read-only, for everybody."""
        path = self.root / place.name
        with directory(path) as fd, calls.about("make subvolume read-only", path):
            calls.set_read_only(fd, True)

    def remove(self, id_: int) -> None:
        """Remove the subvolume and those that somebody made in it.

        The kernel frees what they hold later; sync() has it begin. An ordinary user empties them first, unless the file
        system is mounted with user_subvol_rm_allowed.
        """
        where = self.root / str(id_)
        with directory(self.root) as folder, calls.about("remove subvolume", where):
            number = self._number(where) if self.size is not None else 0
            remove_subvolume(folder, where.name)
            if number:
                with contextlib.suppress(OSError):  # newer kernels do that themselves, and not before all is freed
                    calls.forget_quota(folder, number)

    def _number(self, path: Path) -> int:
        """Return the number that the file system itself knows a subvolume by, 0 for nothing there."""
        try:
            with directory(path) as fd:
                return calls.described(fd).id if os.fstat(fd).st_ino == calls.ROOT else 0
        except (FileNotFoundError, NotADirectoryError):
            return 0

    def usage(self, place: Place) -> Usage:
        """Return what was written in the subvolume since it was made: inodes, and the extents of their content.

        Extents are counted as they are on disk, once, and whole if a part of one is in use; content that stands in the
        tree, as it is; the tree itself is not. The cost is that of what was written. Where the kernel refuses the search,
        all that the subvolume shows is counted, what it shares with its parent too.
        """
        path = self.root / place.name
        with directory(path) as fd:
            calls.sync(fd)  # what is not written has no extents yet
            made = calls.described(fd)
            try:
                return Tree(fd).room(made.made if made.is_snapshot else 0)
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
        return room_of(path)

    def sync(self) -> None:
        """Have all on disk when this returns, and what was removed begin to be freed."""
        with directory(self.root) as fd, calls.about("sync", self.root):
            calls.sync(fd)

    # -- faster -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def changes(self, place: Place, **how: Any) -> Iterator[Changeset]:
        """Lend what the snapshot changes, of what was touched in it alone: O(changed), and ``road`` is "search".

        Both trees are walked, and ``reasons`` says why, where the kernel refuses the search of a tree (it is for root of
        the machine), where subvolumes were made in either, where the parent was changed since, or is another one, and where
        a quarter of all inodes was touched and they are thousands, which the search takes longer to look at.
        """
        if not place.parents:
            yield changes(None, self.root / place.name, **how)
        elif place.kind is SnapshotKind.VIEW:
            yield changes(None, None)
        else:
            with self._searched(place, **how) as found:
                yield found

    @contextlib.contextmanager
    def _searched(self, place: Place, **how: Any) -> Iterator[Changeset]:
        upper, lower = self.root / place.name, self.root / parent_of(place).name
        found = None
        try:
            with directory(lower) as low, directory(upper) as up:
                calls.sync(up)  # an inode is in the tree when it is written
                touched = _touched(low, up)
                found = changes_of_touched(lower, upper, touched, Tree(low).names, Tree(up).names, **how)
        except _NotSaid as error:
            reason = str(error)
        if found is not None:
            yield found
            return
        with super().changes(place, **how) as found:
            found.reasons = (reason,)
            yield found


def _touched(lower: int, upper: int) -> set[bytes]:
    """Return what was touched in a subvolume since it was made of ``lower``; _NotSaid where the kernel cannot say."""
    below, above = calls.described(lower), calls.described(upper)
    if above.origin != below.uuid:
        raise _NotSaid("the subvolume is no snapshot of its parent")
    if below.changed > above.made:
        raise _NotSaid("the parent was changed since")
    if calls.nested(lower) or calls.nested(upper):
        raise _NotSaid("there are subvolumes in it, or in its parent")
    try:
        touched = Tree(upper).touched(above.made)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        raise _NotSaid(f"the kernel refuses to search a tree: {error.strerror}") from error
    if touched is None:
        raise _NotSaid("so much was touched that to walk is faster")
    return touched


def remove_subvolume(folder: int, name: str) -> None:
    """Remove the subvolume ``name`` of a directory, or whatever there is of that name; nothing there is no error."""
    try:
        calls.destroy(folder, name)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return
        if error.errno in (errno.ENOTEMPTY, *_REFUSED):  # there are subvolumes in it, or nobody but root may do this
            _clear(folder, name)
            with contextlib.suppress(OSError):
                calls.destroy(folder, name)
        Root(folder).remove(folder, os.fsencode(name), os.fsencode(name))


def _clear(folder: int, name: str) -> None:
    """Remove the subvolumes in a subvolume, and let it be written."""
    status = lstat(folder, os.fsencode(name))
    if status is None or not stat.S_ISDIR(status.st_mode) or status.st_ino != calls.ROOT:
        return
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        calls.set_read_only(fd, False)
        for path in calls.nested(fd):
            parent, inner = split(path)
            with Root(fd).dir(parent) as within:
                remove_subvolume(within, os.fsdecode(inner))
    finally:
        os.close(fd)


def _nbytes(text: str) -> int:
    """Read a size; ValueError."""
    match = re.fullmatch(r"([0-9]+)([KMGT]?)(?:iB)?", text)
    if match is None or not int(match[1]):
        raise ValueError(f"size {text!r}: bytes, or a number with K, M, G or T")
    return int(match[1]) << _UNITS[match[2]]
