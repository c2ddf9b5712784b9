"""Snapshots as branches of a union: what a driver of such directories does with no mount."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from lamella.drivers._overlay_index import indexed
from lamella.drivers._overlay_options import MAX_LAYERS, OPTIONS, check_options, writable_namespace
from lamella.drivers.base import Driver, Place
from lamella.errors import DriverError, DriverUnavailable
from lamella.layer.apply import ApplyResult, apply
from lamella.layer.changeset import Changeset
from lamella.layer.diff import changes
from lamella.layer.own import BranchDialect
from lamella.layer.upper import changes_from_upper
from lamella.model import EntryType, SnapshotKind, Usage
from lamella.tree.room import room_of
from lamella.tree.root import Root, make_plain
from lamella.tree.scan import directory, scan_fd

__all__ = ["BranchDriver"]

_NEW = ".new"
_ATTRIBUTES = "attributes"
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class BranchDriver(Driver):
    """The directories, and all that needs no mount.

    A snapshot is ROOT/<number>/fs, an upper directory, which is a lower one for those that stand upon it; as long as it is
    active there is ROOT/<number>/work beside it. A view is an empty ROOT/<number>. ROOT/attributes says in which namespace
    overlay's own attributes are, which what is there decides for what comes.
    """

    known_options = frozenset(OPTIONS)

    def __init__(
        self, root: str | os.PathLike[str], options: Mapping[str, str] | None = None, *,
        mount_points: str | os.PathLike[str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(root, options, mount_points=mount_points)
        check_options(self.options)

    def fs(self, id_: int) -> Path:
        """Return the directory that holds what snapshot ``id_`` itself has."""
        return self.root / str(id_) / "fs"

    @cached_property
    def namespace(self) -> str:
        """Whose attributes are overlay's own here, "trusted" or "user".

        DriverUnavailable where nobody here may write them; DriverError where the option userxattr says another thing.
        """
        asked = {"on": "user", "off": "trusted"}.get(self.options.get("userxattr", "auto"))
        writable = writable_namespace(self.root)
        try:
            there = (self.root / _ATTRIBUTES).read_text().strip()
        except FileNotFoundError:
            there = asked or writable or ""
            self.check_new()
            self._record(there)
        if asked not in (None, there):
            raise DriverError(f"{self.root} has snapshots with attributes of the namespace {there}, not {asked}")
        if writable is None or (there, writable) == ("trusted", "user"):
            raise DriverUnavailable(f"{self.root} cannot be used", ("overlay's own attributes cannot be written here",))
        asked_for = [name for name in ("metacopy", "redirect_dir") if there == "user" and self.options.get(name) == "on"]
        if asked_for:
            raise DriverUnavailable(f"option {asked_for[0]} is 'on'", ("the kernel has it with trusted attributes only",))
        return there

    def check_new(self) -> None:
        """Check that what the options ask for works here, before there is any snapshot. DriverUnavailable."""

    def _record(self, namespace: str) -> None:
        if namespace:
            new = self.root / f"{_ATTRIBUTES}.{os.getpid()}{_NEW}"
            new.write_text(namespace + "\n")
            os.rename(new, self.root / _ATTRIBUTES)

    @property
    def dialect(self) -> BranchDialect:
        """The dialect of :func:`lamella.changes_from_upper` for these directories."""
        return "overlay:trusted" if self.namespace == "trusted" else "overlay:user"

    def lowers(self, place: Place) -> list[str]:
        """Return the directories that show the snapshot where nothing is written, nearest first."""
        own = () if place.kind is SnapshotKind.VIEW and place.parents else (place.id,)
        return [str(self.fs(id_)) for id_ in (*own, *place.parents)]

    def parents(self, place: Place) -> list[str]:
        """Return the directories of those that the snapshot stands upon, nearest first."""
        return [str(self.fs(id_)) for id_ in place.parents]

    # -- duties -------------------------------------------------------------------------------------------------------

    def create(self, place: Place) -> None:
        """Make the directories, however large what is below. DriverError for more layers than a mount can have."""
        if len(self.lowers(place)) > MAX_LAYERS:
            raise DriverError(f"{len(self.lowers(place))} layers, of which overlayfs takes {MAX_LAYERS}")
        new = self.root / f"{place.name}{_NEW}"
        self._discard(new.name)
        self.namespace  # noqa: B018 - recorded before there is anything
        try:
            os.mkdir(new, 0o700)
            if place.kind is not SnapshotKind.VIEW or not place.parents:
                self._make_upper(new, self.fs(place.parents[0]) if place.parents else None)
            os.rename(new, self.root / place.name)
        except BaseException:
            self._discard(new.name)
            raise

    def _make_upper(self, new: Path, like: Path | None) -> None:
        fs = new / "fs"
        os.mkdir(fs, 0o755)
        with directory(fs) as fd:
            make_plain(fd)
        os.mkdir(new / "work", 0o700)
        if self.options.get("volatile") == "on":
            (new / "boot").write_bytes(Path(_BOOT_ID).read_bytes())
        if like is not None:
            _dress(fs, like, f"{self.namespace}.overlay.")  # it is the root of the view now

    def commit(self, place: Place) -> None:
        """Drop all that is not the upper directory.

        DriverError where a machine that went down may have lost some of it, or only the kernel's index knows some of it.
        """
        folder = self.root / place.name
        if indexed(folder / "work", self.namespace):
            raise DriverError(f"{folder} has names in an index: open the store with driver overlay/kernel and index 'on'")
        self._check_volatile(folder)
        for name in os.listdir(folder):
            if name != "fs":
                self._discard(f"{place.name}/{name}")

    def _check_volatile(self, folder: Path) -> None:
        boot = folder / "boot"
        if not boot.exists() or boot.read_bytes() == Path(_BOOT_ID).read_bytes():
            return  # whatever was written is in memory, if not on disk yet
        if (folder / "work" / "work" / "incompat" / "volatile").exists():
            raise DriverError(f"{folder} was mounted volatile and the machine went down since: content may be lost")

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
        """Return what the upper directory takes; a view takes nothing."""
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
        if not place.parents:  # nothing is hidden: what a layer's marks left there says nothing
            yield changes(None, self.fs(place.id), **how)
        elif place.kind is SnapshotKind.VIEW:
            yield changes(None, None)
        elif how.get("content", "auto") != "auto" or how.get("dir_mtime"):
            with self.walked(place, **how) as found:
                yield found
        else:
            xattrs = how.get("xattrs", "all")
            yield changes_from_upper(self.fs(place.id), self.parents(place), dialect=self.dialect, xattrs=xattrs)

    @abstractmethod
    def walked(self, place: Place, **how: Any) -> contextlib.AbstractContextManager[Changeset]:
        """Lend the changes as changes() does, with both views walked."""

    def apply(self, place: Place, source: Any, **how: Any) -> ApplyResult:
        """Apply a layer to the directory of an active snapshot just made, with no mount."""
        fs = self.fs(place.id)
        if place.parents:
            return apply(source, fs, dialect=self.dialect, parents=self.parents(place), **how)
        # nothing is lower, as in an empty directory: no whiteout is written, and what a tar has of overlay's own attributes
        # is escaped all the same (tests/contract 27), since no layer is to say where a lower one looks
        made = apply(source, fs, dialect=self.dialect, parents=[self.root / place.name / "work"], **how)
        if made.opaques:
            _unmark(fs, f"{self.namespace}.overlay.opaque")
        return made

    def upper_words(self, place: Place) -> list[str]:
        """Return the options that name the layers of an active snapshot."""
        lowers = [f"lowerdir+={path}" for path in self.parents(place)]
        return [*lowers, f"upperdir={self.fs(place.id)}", f"workdir={self.root / place.name / 'work'}"]


def _dress(fs: Path, like: Path, own: str) -> None:
    """Give the directory ``fs`` the metadata of ``like``, but for overlay's ``own`` attributes (nested ones come along)."""
    status = os.stat(like)
    if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()) or os.stat(fs).st_gid != status.st_gid:
        os.chown(fs, status.st_uid, status.st_gid)
    os.chmod(fs, stat.S_IMODE(status.st_mode))
    for key in os.listxattr(like):
        if key != "security.selinux" and (not key.startswith(own) or key.startswith(f"{own}overlay.")):
            os.setxattr(fs, key, os.getxattr(like, key))
    os.utime(fs, ns=(status.st_atime_ns, status.st_mtime_ns))


def _unmark(fs: Path, name: str) -> None:
    """Take the attribute ``name`` from all directories of ``fs``."""
    with directory(fs) as top:
        root = Root(top)
        for entry in scan_fd(top, xattrs="none").table:
            if entry.type is EntryType.DIR:
                with root.dir(entry.path) as fd:
                    try:
                        os.removexattr(fd, name)
                    except OSError as error:
                        if error.errno != errno.ENODATA:
                            raise
