"""Snapshots as branches of a union: what every driver of such directories does, with no mount."""

from __future__ import annotations

import contextlib
import os
import stat
from abc import abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from lamella.drivers.base import Driver, Place
from lamella.errors import DriverError
from lamella.layer.apply import ApplyResult, apply
from lamella.layer.changeset import Changeset
from lamella.layer.diff import changes
from lamella.layer.own import BranchDialect
from lamella.layer.upper import changes_from_upper
from lamella.model import SnapshotKind, Usage
from lamella.tree.room import room_of
from lamella.tree.root import Root, make_plain
from lamella.tree.scan import directory

__all__ = ["BranchDriver", "dress"]

_NEW = ".new"


class BranchDriver(Driver):
    """The directories, and all that needs no mount.

    A snapshot is ROOT/<number>/fs, a branch, which is a lower one for those that stand upon it. What else there is in
    ROOT/<number> is for the subclass to say: :meth:`furnish` makes it, :meth:`commit` leaves only ``kept`` of it. A view
    of something has no branch of its own.
    """

    max_layers: ClassVar[int]
    file_system: ClassVar[str]  # whose limit that is
    kept: ClassVar[frozenset[str]] = frozenset({"fs"})

    def fs(self, id_: int) -> Path:
        """Return the directory that holds what snapshot ``id_`` itself has."""
        return self.root / str(id_) / "fs"

    @property
    @abstractmethod
    def dialect(self) -> BranchDialect:
        """The dialect of :func:`lamella.changes_from_upper` for these directories."""

    def lowers(self, place: Place) -> list[str]:
        """Return the directories that show the snapshot where nothing is written, nearest first."""
        own = () if place.kind is SnapshotKind.VIEW and place.parents else (place.id,)
        return [str(self.fs(id_)) for id_ in (*own, *place.parents)]

    def parents(self, place: Place) -> list[str]:
        """Return the directories of those that the snapshot stands upon, nearest first."""
        return [str(self.fs(id_)) for id_ in place.parents]

    # -- what a subclass adds -----------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Write down what has to be known before there is any snapshot, or say why there can be none. DriverError."""

    @abstractmethod
    def furnish(self, new: Path, place: Place) -> None:
        """Make what is beside the branch of a snapshot in the making, and in it; ``new`` is its directory."""

    def work(self, place: Place) -> Path | None:  # noqa: ARG002 - it may be in the branch
        """Return the work directory of an active snapshot, None where a union makes it in the branch."""
        return None

    def is_own(self, key: str) -> bool:  # noqa: ARG002 - a dialect without attributes
        """Tell whether an attribute of a branch's root is the union's, and not shown."""
        return False

    # -- duties -------------------------------------------------------------------------------------------------------

    def create(self, place: Place) -> None:
        """Make the directories, however large what is below. DriverError for more layers than a mount can have."""
        self.check_depth(place)
        new = self.root / f"{place.name}{_NEW}"
        self._discard(new.name)
        self.prepare()
        try:
            os.mkdir(new, 0o700)
            if place.kind is not SnapshotKind.VIEW or not place.parents:
                os.mkdir(new / "fs", 0o755)
                with directory(new / "fs") as fd:
                    make_plain(fd)
                self.furnish(new, place)
                if place.parents:
                    dress(new / "fs", self.fs(place.parents[0]), self.is_own)  # it is the root of the view now
            else:
                self.furnish(new, place)
            os.rename(new, self.root / place.name)
        except BaseException:
            self._discard(new.name)
            raise

    def check_depth(self, place: Place) -> None:
        """DriverError for more layers than a mount can have."""
        n_layers = len(self.lowers(place))
        if n_layers > self.max_layers:
            raise DriverError(f"{n_layers} layers, of which {self.file_system} takes {self.max_layers}")

    def commit(self, place: Place) -> None:
        """Drop all that is not ``kept``."""
        for name in os.listdir(self.root / place.name):
            if name not in self.kept:
                self._discard(f"{place.name}/{name}")

    def remove(self, id_: int) -> None:
        """Remove the directories, and those of a create() that did not come to its end."""
        self._discard(str(id_))
        self._discard(f"{id_}{_NEW}")

    def _discard(self, path: str) -> None:
        parent, _, name = os.fsencode(path).rpartition(b"/")
        with directory(self.root) as fd:
            root = Root(fd)
            with root.dir(parent) as parent_fd:
                root.remove(parent_fd, name, name)

    def usage(self, place: Place) -> Usage:
        """Return what the branch takes; a view takes nothing."""
        fs = self.fs(place.id)
        return room_of(fs) if fs.exists() else Usage()

    def ids(self) -> Iterator[int]:
        """Iterate over the numbers of all that is there, what a create() left in the making too."""
        names = {name.removesuffix(_NEW) for name in os.listdir(self.root)}
        yield from (int(name) for name in names if name.isdecimal())

    # -- faster -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def changes(self, place: Place, **how: Any) -> Iterator[Changeset]:
        """Lend what the snapshot changes, of its own directory alone (:func:`lamella.changes_from_upper`): O(changed).

        Options of :func:`lamella.changes` that ask for more than that tells have both views walked: ``content`` other
        than "auto", and ``dir_mtime``.
        """
        if not place.parents:
            yield self.all_of(place, **how)
        elif place.kind is SnapshotKind.VIEW:
            yield changes(None, None)
        elif how.get("content", "auto") != "auto" or how.get("dir_mtime"):
            with self.walked(place, **how) as found:
                yield found
        else:
            xattrs = how.get("xattrs", "all")
            yield changes_from_upper(self.fs(place.id), self.parents(place), dialect=self.dialect, xattrs=xattrs)

    def all_of(self, place: Place, **how: Any) -> Changeset:
        """Return what a snapshot that stands upon nothing adds: nothing is hidden, so marks that a layer left say nothing."""
        return changes(None, self.fs(place.id), **how)

    def walked(self, place: Place, **how: Any) -> contextlib.AbstractContextManager[Changeset]:
        """Lend the changes as changes() does, with both views walked."""
        return Driver.changes(self, place, **how)

    def apply(self, place: Place, source: Any, **how: Any) -> ApplyResult:
        """Apply a layer to the directory of an active snapshot just made, with no mount."""
        if not place.parents:
            return self.apply_first(place, source, **how)
        return apply(source, self.fs(place.id), dialect=self.dialect, parents=self.parents(place), **how)

    @abstractmethod
    def apply_first(self, place: Place, source: Any, **how: Any) -> ApplyResult:
        """Apply a layer where nothing is lower, as to an empty directory: no whiteout is written."""


def dress(fs: Path, like: Path, is_own: Callable[[str], bool] = lambda _: False) -> None:
    """Give the directory ``fs`` the metadata of ``like``, but for the union's own attributes."""
    status = os.stat(like)
    if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()) or os.stat(fs).st_gid != status.st_gid:
        os.chown(fs, status.st_uid, status.st_gid)
    os.chmod(fs, stat.S_IMODE(status.st_mode))
    for key in os.listxattr(like):
        if key != "security.selinux" and not is_own(key):
            os.setxattr(fs, key, os.getxattr(like, key))
    os.utime(fs, ns=(status.st_atime_ns, status.st_mtime_ns))
