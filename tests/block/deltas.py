"""Successive states of one ext4 and what the file delta says of them, beside a walk of both, mounted."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import lamella
from lamella.block.ext4 import Ext4Image
from lamella.block.files import file_delta
from lamella.block.names import Names
from lamella.layer.changeset import Changeset
from lamella.table import Entry, EntryTable
from tests.block.scribble import Scribbler
from tests.block.workshop import frozen, make, mounted

MIB = 1 << 20
UNIT = 4096
OPTIONS: dict[str, tuple[str, ...]] = {
    "4k": ("-b", "4096"),
    "2k, inodes of 512": ("-b", "2048", "-I", "512"),
    "inodes of 128": ("-b", "1024", "-I", "128"),
    "inodes of 1024": ("-b", "4096", "-I", "1024"),
    "32 bits": ("-b", "4096", "-O", "^64bit"),
    "block maps": ("-b", "1024", "-O", "^extents,^64bit"),
    "ext2": ("-b", "1024", "-t", "ext2", "-I", "128", "-O", "^filetype"),
    "ext3": ("-b", "4096", "-t", "ext3"),
    "meta_bg": ("-b", "1024", "-g", "512", "-O", "meta_bg,^resize_inode,^flex_bg"),
    "meta_bg, flex_bg": ("-b", "1024", "-g", "256", "-O", "meta_bg,^resize_inode,64bit"),
    "inline data": ("-b", "4096", "-I", "256", "-O", "inline_data"),
    "inline data, inodes of 512": ("-b", "1024", "-I", "512", "-O", "inline_data"),
    "no flex_bg": ("-b", "1024", "-g", "1024", "-O", "^flex_bg"),
    "no checksums": ("-b", "4096", "-O", "^metadata_csum"),
    "no index": ("-b", "1024", "-O", "^dir_index"),
    "no journal": ("-b", "4096", "-O", "^has_journal"),
    "bigalloc": ("-b", "1024", "-C", "16384", "-O", "bigalloc"),
    "attributes as inodes": ("-b", "1024", "-O", "ea_inode"),
    "sparse_super2": ("-b", "1024", "-g", "512", "-O", "sparse_super2,^resize_inode"),
    "lazy, orphan file": ("-b", "1024", "-O", "orphan_file,large_dir", "-E", "lazy_itable_init=1"),
}


def entry(table: EntryTable, row: Entry | None) -> Any:
    """Say all that a row says."""
    if row is None:
        return None
    group = int(table.link_group[row._row])
    names = tuple(sorted(table.path(r) for r in np.flatnonzero(table.link_group == group).tolist())) if group >= 0 else ()
    return (
        row.path, row.type, row.mode, row.uid, row.gid, row.size, row.mtime_ns, row.rdev_major, row.rdev_minor, row.link_target,
        tuple(row.xattrs.items()), names,
    )  # fmt: skip


def facts(found: Changeset) -> list[Any]:
    """Say all that a changeset says."""
    return [(c.kind, c.path, c.why, entry(found.lower, c.before), entry(found.upper, c.after)) for c in found]


def layer(found: Changeset, **how: Any) -> bytes | str:
    """Write the layer, or say why there is none."""
    out = io.BytesIO()
    try:
        found.write(out, compression="none", **how)
    except lamella.errors.WhiteoutError as error:
        return str(error)
    return out.getvalue()


def expanded(data: bytes | str) -> Any:
    """Return a layer's files with their content, holes filled in."""
    if isinstance(data, str):
        return data
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [(m.name, m.size, (tar.extractfile(m) or io.BytesIO()).read()) for m in tar if m.isreg()]


def differing(one: Path, other: Path) -> np.ndarray[Any, Any]:
    """Return the byte ranges of UNIT bytes in which two files differ."""
    a, b = np.fromfile(one, np.uint64), np.fromfile(other, np.uint64)
    at = np.flatnonzero((a != b).reshape(-1, UNIT // 8).any(axis=1))
    return np.stack([at, at + 1], axis=1) * UNIT


def indexed(names: Names) -> list[Any]:
    """Say what an index holds, in an order."""
    found = sorted(names)
    assert sorted(names.of({inode for _, inode, _ in found})) == found
    assert len(names) == len(found)
    return found


class States:
    """A live file system in ``folder`` that is copied, frozen, from time to time; the copies are mounted read-only."""

    def __init__(self, folder: Path, options: Sequence[str], undo: contextlib.ExitStack, nbytes: int = 24 * MIB) -> None:
        self.folder, self.undo = folder, undo
        self.disk = folder / "disk"
        make(self.disk, nbytes, "-N", "1500", *options)
        self.live = undo.enter_context(mounted(self.disk, folder / "live"))
        self.n = 0

    def copy(self, mounts: contextlib.ExitStack) -> tuple[Path, Path]:
        """Copy the state as it is, and mount the copy."""
        self.n += 1
        image = self.folder / f"state-{self.n}"
        with frozen(self.live):
            shutil.copyfile(self.disk, image)
        mounts.callback(image.unlink)
        return image, mounts.enter_context(mounted(image, self.folder / f"mnt-{self.n}", "loop,ro,noload"))


def compare(low: tuple[Path, Path], up: tuple[Path, Path], names: Names | None, how: dict[str, Any]) -> Names:
    """Compare the file delta of two states with the walk, in all they say; return the names of the upper."""
    ranges = differing(low[0], up[0])
    fds = [os.open(path, os.O_RDONLY) for path in (low[0], up[0])]
    try:
        lower, upper = (Ext4Image(fd) for fd in fds)
        delta = file_delta(lower, upper, ranges, lower_names=names, **how)
        wanted = lamella.changes(low[1], up[1], **how)
        assert facts(delta.changeset) == facts(wanted)
        assert indexed(delta.names) == indexed(Names.scan(upper))
        assert delta.changeset.road == "search"
        for more in ({}, {"whiteouts": "opaque"}):
            assert layer(delta.changeset, **more) == layer(wanted, **more), more
        # where it was read, the kernel takes what was never written for data: so the content is compared, not the holes
        assert expanded(layer(delta.changeset, sparse="pax")) == expanded(layer(wanted))
    finally:
        for fd in fds:
            os.close(fd)
    return delta.names


def campaign(folder: Path, options: Sequence[str], seed: int, n_scripts: int) -> int:
    """Play scripts one after another, and compare after each; the number of changes that were found."""
    n_changes = 0
    with contextlib.ExitStack() as undo:
        states = States(folder, options, undo)
        pen = Scribbler(states.live, seed)
        undo.callback(pen.close)
        pen.script(60)
        old = undo.enter_context(contextlib.ExitStack())
        low = states.copy(old)
        names = None
        for number in range(n_scripts):
            try:
                pen.script(pen.random.randrange(1, 14))
                new = undo.enter_context(contextlib.ExitStack())
                up = states.copy(new)
                how = {"dir_mtime": number % 3 == 1, "content": ("auto", "auto", "always")[number % 3]}
                names = compare(low, up, names if number % 4 else None, how)
            except BaseException as error:
                raise AssertionError(f"script {number} of seed {seed} on {' '.join(options)}") from error
            n_changes += len(names)
            old.close()
            old, low = new, up
        old.close()
    return n_changes
