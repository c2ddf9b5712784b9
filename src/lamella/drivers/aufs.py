"""Snapshots as branches of AUFS: the kernel's, which no current one has, and the same directories in user space."""

from __future__ import annotations

import contextlib
import os
import tempfile
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from lamella.drivers._aufs_mount import MAX_BRANCHES, OPTIONS, check_options, mount_argv, mount_of
from lamella.drivers._branches import BranchDriver
from lamella.drivers._run import mounted
from lamella.drivers._unions import UnionDriver
from lamella.drivers.base import Place
from lamella.errors import DriverError
from lamella.layer.apply import ApplyResult, apply
from lamella.layer.changeset import Changeset
from lamella.layer.own import BranchDialect
from lamella.layer.union import Union
from lamella.layer.upper import changes_from_upper
from lamella.layer.whiteout import BASE, ORPHANS, PLINKS
from lamella.model import Mount, SnapshotKind
from lamella.tree.root import Root
from lamella.tree.scan import directory

__all__ = ["Aufs", "AufsUnion", "mount_argv"]


class AufsBranches(BranchDriver):
    """Beside a snapshot's branch there is ROOT/<number>/layers, the numbers of those that it stands upon, nearest first.

    A committed branch has whiteouts and opaque markers, as a layer has them, and nothing else of AUFS's own.
    """

    name = "aufs"
    max_layers = MAX_BRANCHES
    file_system = "AUFS"
    name_max = 251  # a whiteout has four more
    kept = frozenset({"fs", "layers"})

    @property
    def dialect(self) -> BranchDialect:
        """Names of files."""
        return "aufs"

    def furnish(self, new: Path, place: Place) -> None:
        """Write the list of parents."""
        (new / "layers").write_text("".join(f"{id_}\n" for id_ in place.parents))

    def all_of(self, place: Place, **how: Any) -> Changeset:
        """Return what is in the branch, without what AUFS keeps in one that is written."""
        return changes_from_upper(self.fs(place.id), dialect="aufs", xattrs=how.get("xattrs", "all"), lowest=True)

    def apply_first(self, place: Place, source: Any, **how: Any) -> ApplyResult:
        """Apply a layer as to any directory."""
        return apply(source, self.fs(place.id), **how)

    def commit(self, place: Place) -> None:
        """Take away what AUFS keeps for itself, when all names are made that it has to make.

        DriverError where that was not done, and nobody but AUFS can.
        """
        fs = self.fs(place.id)
        if _plinks(fs):
            self.flush(place)
        left = _plinks(fs)
        if left:
            raise DriverError(f"{fs} has pseudo-links: unmount it with `auplink MOUNT flush` first ({', '.join(left)})")
        with directory(fs) as fd:
            root, before = Root(fd), os.fstat(fd)
            for name in (BASE, PLINKS, ORPHANS):
                root.remove(fd, name, name)
            os.utime(fd, ns=(before.st_atime_ns, before.st_mtime_ns))
        super().commit(place)

    @abstractmethod
    def flush(self, place: Place) -> None:
        """Make names of what pseudo-links a crash left, as far as that can be."""


def _plinks(fs: Path) -> list[str]:
    try:
        return sorted(os.listdir(fs / os.fsdecode(PLINKS)))
    except FileNotFoundError:
        return []


class Aufs(AufsBranches):
    """The kernel's AUFS. Options: dirperm1, xino (where it makes the file of inode numbers).

    With dirperm1, the default, only the nearest branch that has a directory says who may go there. Mounts have more
    options than a page holds: :func:`mount_argv` has the commands that do them.
    """

    backend = "kernel"
    known_options: ClassVar[frozenset[str]] = frozenset(OPTIONS)

    def __init__(
        self, root: str | os.PathLike[str], options: Mapping[str, str] | None = None, *,
        mount_points: str | os.PathLike[str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(root, options, mount_points=mount_points)
        check_options(self.options)

    @classmethod
    def refusals(cls, root: Path) -> Iterator[str]:
        """Look for AUFS in the kernel and among its modules; where it is, mount and write a small union."""
        with tempfile.TemporaryDirectory(prefix=".probe-", dir=root) as folder:
            if not has_aufs():
                release = os.uname().release
                yield f"this kernel has no AUFS: not in /proc/filesystems, and no module of it in /lib/modules/{release}"
                return
            upper, lower = _two(folder)
            try:
                with mounted((mount_of([str(upper), str(lower)], {}, writable=True),), Path(folder, "mnt")) as path:
                    os.unlink(os.path.join(path, "file"))
            except (OSError, DriverError) as error:
                yield f"an AUFS cannot be mounted here: {error}"
                return
            yield from _wrong(upper)

    def mounts(self, place: Place) -> tuple[Mount, ...]:
        """Return the union, or the bind of what is one directory."""
        writable, branches = place.kind is SnapshotKind.ACTIVE, self.lowers(place)
        if len(branches) == 1:
            return (Mount("bind", branches[0], () if writable else ("ro",)),)
        return (mount_of(branches, self.options, writable=writable),)

    def flush(self, place: Place) -> None:
        """Do nothing: the numbers in its pseudo-links are those of a mount that is gone."""


class AufsUnion(UnionDriver, AufsBranches):
    """The same directories as a union in user space. A mode is checked as it is shown, which is what dirperm1 asks for."""

    @classmethod
    def refusals(cls, root: Path) -> Iterator[str]:
        """Change a small union, and look at what that left."""
        with tempfile.TemporaryDirectory(prefix=".probe-", dir=root) as folder:
            upper, lower = _two(folder)
            try:
                with Union([upper, lower], dialect="aufs") as union:
                    union.unlink(b"file")
            except OSError as error:
                yield f"a union cannot be changed here: {error.strerror}"
                return
            yield from _wrong(upper)

    def flush(self, place: Place) -> None:
        """Open the union, which does it."""
        with self.union(place):
            pass


def has_aufs() -> bool:
    """Tell whether this kernel has AUFS, or a module of it."""
    if "aufs" in Path("/proc/filesystems").read_text().split():
        return True
    with contextlib.suppress(OSError):
        return "/aufs.ko" in Path("/lib/modules", os.uname().release, "modules.dep").read_text()
    return False


def _two(folder: str) -> tuple[Path, Path]:
    upper, lower = Path(folder, "upper"), Path(folder, "lower")
    for path in (upper, lower):
        path.mkdir()
    (lower / "file").write_bytes(b"lower")
    return upper, lower


def _wrong(upper: Path) -> Iterator[str]:
    if not (upper / ".wh.file").exists():
        yield "what is removed in a union leaves no whiteout in its branch"
