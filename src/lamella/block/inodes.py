"""Inodes of ext4 images: which differ in what two devices have changed, and rows of a table of those of some paths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamella._kernels import ext4 as kernel
from lamella._kernels import walk
from lamella.block.ext4 import ROOT, Ext4Image
from lamella.columns import ARENA, AT
from lamella.errors import UnsupportedFilesystem
from lamella.layer.pathtable import named
from lamella.table import EntryTable
from lamella.tree.scan import Xattrs

__all__ = ["Changed", "Decoded", "changed_inodes", "decoded"]

_IFMT, _IFDIR, _IFSOCK = 0o170000, 0o040000, 0o140000
Ranges = NDArray[np.int64]

_STATE = ("next", "done", "n_out", "arena", "need", "budget", "fault", "block", "inode", "error")
_OF = {name: i for i, name in enumerate(_STATE)}
_OUTPUT_FULL = 2
_OPTIONS = {"all": 0, "all+selinux": 1, "none": 2}
_LINK_PENDING = -2
_OUT = 4096


@dataclass(frozen=True, slots=True)
class Changed:
    """Numbers of inodes that differ, ascending, and what mode each has below and above: 0 for one that nothing names."""

    numbers: NDArray[np.uint32]
    lower: NDArray[np.uint16]
    upper: NDArray[np.uint16]

    def directories(self, modes: NDArray[np.uint16]) -> NDArray[np.uint32]:
        """Return those that have one of ``modes``, which are either side's, of a directory."""
        found: NDArray[np.uint32] = self.numbers[modes & _IFMT == _IFDIR]
        return found


def changed_inodes(lower: Ext4Image, upper: Ext4Image, ranges: Ranges) -> Changed:
    """Compare the inodes that lie in byte ``ranges``, the half-open ones that may differ, an (n, 2) array.

    Access times do not count. Where inodes have times in seconds only, a file may be written and its inode stay the same:
    there the files are added that have blocks in ``ranges``. UnsupportedFilesystem for images of different geometry.
    """
    if not np.array_equal(lower.shape[1:], upper.shape[1:]) or not np.array_equal(lower.tables, upper.tables):
        raise UnsupportedFilesystem("the two are not of one geometry: it was resized, or it is another file system")
    ranges = _merged(ranges)
    found = _compared(lower, upper, _inodes_in(upper, ranges))
    kept = (found.numbers >= upper.first_inode) | (found.numbers == ROOT)
    found = Changed(found.numbers[kept], found.lower[kept], found.upper[kept])
    if upper.inode_size > 128 or not len(ranges):
        return found
    owners = np.setdiff1d(_owners(upper, ranges), found.numbers)
    numbers = np.concatenate([found.numbers, owners])
    order = np.argsort(numbers)
    regular = np.full(len(owners), 0o100000, np.uint16)
    modes = (np.concatenate([side, regular])[order] for side in (found.lower, found.upper))
    return Changed(numbers[order], *modes)


def _merged(ranges: Ranges) -> Ranges:
    """Return the ranges ascending, none of which meets another."""
    ranges = np.asarray(ranges, np.int64).reshape(-1, 2)
    ranges = ranges[ranges[:, 1] > ranges[:, 0]]
    if not len(ranges):
        return ranges
    ranges = ranges[np.argsort(ranges[:, 0], kind="stable")]
    ends = np.maximum.accumulate(ranges[:, 1])
    first = np.concatenate([[True], ranges[1:, 0] > ends[:-1]])
    last = np.concatenate([first[1:], [True]])
    return np.stack([ranges[first, 0], ends[last]], axis=1)


def _inodes_in(image: Ext4Image, ranges: Ranges) -> NDArray[np.int64]:
    """Return pairs (first inode, number of inodes) of the parts of the inode tables that lie in ``ranges``."""
    per_group = int(image.shape[3])
    begins = image.tables * image.block_size
    order = np.argsort(begins, kind="stable")
    begins = begins[order]
    ends = begins + per_group * image.inode_size
    low = np.searchsorted(ends, ranges[:, 0], "right")
    high = np.searchsorted(begins, ranges[:, 1], "left")
    counts = np.maximum(high - low, 0)
    of = np.repeat(np.arange(len(ranges)), counts)
    at = np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts) + low[of]
    begin = (np.maximum(ranges[of, 0], begins[at]) - begins[at]) // image.inode_size
    end = -(-(np.minimum(ranges[of, 1], ends[at]) - begins[at]) // image.inode_size)
    first = order[at] * per_group + begin + 1
    count = np.minimum(end - begin, image.n_inodes - first + 1)
    pairs: NDArray[np.int64] = np.stack([first, count], axis=1)[count > 0]
    return pairs[np.argsort(pairs[:, 0], kind="stable")].reshape(-1)


def _compared(lower: Ext4Image, upper: Ext4Image, pairs: NDArray[np.int64]) -> Changed:
    state = np.zeros(len(_STATE), np.int64)
    parts = []
    full = _OUTPUT_FULL
    while full == _OUTPUT_FULL:
        out, low, up = np.empty(_OUT, np.uint32), np.empty(_OUT, np.uint16), np.empty(_OUT, np.uint16)
        state[_OF["n_out"]] = 0
        full = kernel.changed(
            lower.fd, lower.tables, lower.used, upper.fd, upper.tables, upper.used, upper.shape, pairs, state, out, low, up,
            upper.scratch,
        )  # fmt: skip
        n = int(state[_OF["n_out"]])
        parts.append((out[:n], low[:n], up[:n]))
    numbers, low, up = (np.concatenate(side) for side in zip(*parts, strict=True))
    numbers, first = np.unique(numbers, return_index=True)  # ranges may begin and end within one inode
    return Changed(numbers, low[first], up[first])


def _owners(image: Ext4Image, ranges: Ranges) -> NDArray[np.uint32]:
    state = np.zeros(len(_STATE), np.int64)
    state[_OF["next"]], state[_OF["budget"]] = image.first_inode, image.n_blocks
    blocks = _merged(np.stack([ranges[:, 0] // image.block_size, -(-ranges[:, 1] // image.block_size)], axis=1))
    parts = [np.empty(0, np.uint32)]
    full = _OUTPUT_FULL
    while full == _OUTPUT_FULL:
        out = np.empty(_OUT, np.uint32)
        state[_OF["n_out"]] = 0
        before = int(state[_OF["budget"]])
        full = kernel.owners(*image.where, blocks.reshape(-1), state, out, image.scratch)
        parts.append(out[: int(state[_OF["n_out"]])])
        if full == _OUTPUT_FULL:  # the inode that found no room is looked at again
            state[_OF["budget"]] = before
    return np.concatenate(parts)


@dataclass(frozen=True, slots=True)
class Decoded:
    """Rows of inodes: ``table`` as a walk would give them, and of each path that was asked for its mode and link count."""

    table: EntryTable
    paths: EntryTable
    inodes: NDArray[np.uint32]
    modes: NDArray[np.uint16]
    nlink: NDArray[np.uint32]

    @property
    def is_dir(self) -> NDArray[np.bool_]:
        """Which paths are directories."""
        dirs: NDArray[np.bool_] = self.modes & _IFMT == _IFDIR
        return dirs

    @property
    def sockets(self) -> list[bytes]:
        """The paths that have no row."""
        return [self.paths.path(row) for row in np.flatnonzero(self.modes & _IFMT == _IFSOCK).tolist()]


def decoded(image: Ext4Image, inodes: Mapping[bytes, int], xattrs: Xattrs, dev: int) -> Decoded:
    """Return the rows of ``inodes``, which are in use, by their paths; ``dev`` stands in their dev column.

    FilesystemError; OSError.
    """
    paths = named(inodes)
    n = len(paths)
    numbers = np.fromiter((inodes[path] for path in paths.paths), np.uint32, n)
    columns: list[Any] = list(paths.columns)
    columns[AT["name_off"]] = columns[AT["name_off"]].copy()  # symlinks get theirs anew
    used = len(columns[ARENA])
    columns[ARENA] = np.concatenate([columns[ARENA], np.empty(256 * n + 4096, np.uint8)])
    modes, nlink = np.zeros(n, np.uint16), np.zeros(n, np.uint32)
    state = np.zeros(len(_STATE), np.int64)
    state[_OF["arena"]], state[_OF["budget"]] = used, image.n_blocks
    while kernel.rows(
        *image.where, numbers, tuple(columns), modes, nlink, dev, state, image.scratch, _OPTIONS[xattrs]
    ) == _OUTPUT_FULL:  # fmt: skip
        used = int(state[_OF["arena"]])
        columns[ARENA] = np.concatenate([columns[ARENA][:used], np.empty(2 * used + int(state[_OF["need"]]), np.uint8)])
    rows = np.flatnonzero(modes & _IFMT != _IFSOCK)
    if len(rows) < n:
        columns = [c if c is None or i == ARENA else c[rows] for i, c in enumerate(columns)]
    n_linked = int(np.count_nonzero(columns[AT["link_group"]] == _LINK_PENDING))
    if n_linked:
        slots = np.zeros(1 << (n_linked * 4 // 3).bit_length(), np.uint32)
        walk.link(tuple(columns), len(rows), slots, 0)
    return Decoded(EntryTable(tuple(columns), "path"), paths, numbers, modes, nlink)
