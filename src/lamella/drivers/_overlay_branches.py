"""Snapshots as overlay's upper directories: in whose attributes it writes, and what a machine that went down leaves."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from lamella.drivers._branches import BranchDriver
from lamella.drivers._overlay_index import indexed
from lamella.drivers._overlay_options import MAX_LAYERS, OPTIONS, check_options, writable_namespace
from lamella.drivers.base import Place
from lamella.errors import DriverError, DriverUnavailable
from lamella.layer.apply import ApplyResult, apply
from lamella.layer.own import BranchDialect
from lamella.model import EntryType, SnapshotKind
from lamella.tree.root import Root
from lamella.tree.scan import directory, scan_fd

__all__ = ["OverlayBranches"]

_ATTRIBUTES = "attributes"
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class OverlayBranches(BranchDriver):
    """As long as a snapshot is active there is ROOT/<number>/work beside its upper directory.

    ROOT/attributes says in which namespace overlay's own attributes are, which what is there decides for what comes.
    """

    name = "overlay"
    known_options: ClassVar[frozenset[str]] = frozenset(OPTIONS)
    max_layers = MAX_LAYERS
    file_system = "overlayfs"

    def __init__(
        self, root: str | os.PathLike[str], options: Mapping[str, str] | None = None, *,
        mount_points: str | os.PathLike[str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(root, options, mount_points=mount_points)
        check_options(self.options)

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
            new = self.root / f"{_ATTRIBUTES}.{os.getpid()}.new"
            new.write_text(namespace + "\n")
            os.rename(new, self.root / _ATTRIBUTES)

    @property
    def dialect(self) -> BranchDialect:
        """Overlay with attributes of this namespace."""
        return "overlay:trusted" if self.namespace == "trusted" else "overlay:user"

    def prepare(self) -> None:
        """Record the namespace."""
        self.namespace  # noqa: B018 - recorded when it is asked for

    def furnish(self, new: Path, place: Place) -> None:
        """Make a work directory."""
        if place.kind is SnapshotKind.VIEW and place.parents:
            return
        os.mkdir(new / "work", 0o700)
        if self.options.get("volatile") == "on":
            (new / "boot").write_bytes(Path(_BOOT_ID).read_bytes())

    def work(self, place: Place) -> Path:
        """Return the work directory."""
        return self.root / place.name / "work"

    def is_own(self, key: str) -> bool:
        """Tell overlay's own attributes from those of a nested one, which come along."""
        own = f"{self.namespace}.overlay."
        return key.startswith(own) and not key.startswith(f"{own}overlay.")

    def apply_first(self, place: Place, source: Any, **how: Any) -> ApplyResult:
        """Apply a layer where nothing is lower, and leave no mark that hides nothing."""
        # what a tar has of overlay's own attributes is escaped all the same (tests/contract 27), since no layer is to say
        # where a lower one looks
        fs = self.fs(place.id)
        made = apply(source, fs, dialect=self.dialect, parents=[self.work(place)], **how)
        if made.opaques:
            _unmark(fs, f"{self.namespace}.overlay.opaque")
        return made

    def commit(self, place: Place) -> None:
        """Drop all that is not the upper directory.

        DriverError where a machine that went down may have lost some of it, or only the kernel's index knows some of it.
        """
        folder = self.root / place.name
        if indexed(folder / "work", self.namespace):
            raise DriverError(f"{folder} has names in an index: open the store with driver overlay/kernel and index 'on'")
        _check_volatile(folder)
        super().commit(place)


def _check_volatile(folder: Path) -> None:
    boot = folder / "boot"
    if not boot.exists() or boot.read_bytes() == Path(_BOOT_ID).read_bytes():
        return  # whatever was written is in memory, if not on disk yet
    if (folder / "work" / "work" / "incompat" / "volatile").exists():
        raise DriverError(f"{folder} was mounted volatile and the machine went down since: content may be lost")


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
