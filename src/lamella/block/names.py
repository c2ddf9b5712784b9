"""The names of a file system's inodes: which directories have an inode, and under what names. It is what no inode says.

A scan of all directories finds them. Who keeps what it found can have those of the next layer for the price of the changes:
what the changed directories have lost and won.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from lamella._kernels import ext4dirs as kernel
from lamella.block.ext4 import ROOT, Ext4Image
from lamella.errors import FilesystemError, FormatError, UnsupportedFilesystem
from lamella.tree.root import join

__all__ = ["Entries", "Name", "Names", "entries"]

_STATE = ("next", "next_entry", "n_out", "arena", "need_out", "need_arena", "budget", "fault", "block", "inode", "error")
_OF = {name: i for i, name in enumerate(_STATE)}
_OUTPUT_FULL = 2
_DEEP = 1
_SCRATCH_BLOCKS, _SCRATCH_ROOM = 8, 131072
_HEAD = struct.Struct("<8sIIQQ32s32s")  # mark, version, nothing, names, bytes of them, identity, digest of what follows
_MARK, _VERSION = b"LMLnames", 1
_WASTE = 1 << 16  # bytes of names that are gone


class Name(NamedTuple):
    """One name: the inode of its directory, the inode it names, and what it is there."""

    parent: int
    inode: int
    name: bytes


@dataclass(frozen=True, slots=True)
class Entries:
    """Entries of directories as columns: a name is name_off, name_len of ``arena``; ``kind`` is the format's file type."""

    parent: NDArray[np.uint32]
    inode: NDArray[np.uint32]
    kind: NDArray[np.uint8]
    name_off: NDArray[np.int64]
    name_len: NDArray[np.uint8]
    arena: NDArray[np.uint8]

    def __iter__(self) -> Iterator[Name]:
        arena = self.arena.tobytes()
        columns = (self.parent, self.inode, self.name_off, self.name_len)
        for parent, inode, at, n in zip(*(column.tolist() for column in columns), strict=True):
            yield Name(parent, inode, arena[at : at + n])


def entries(image: Ext4Image, dirs: Collection[int] | NDArray[np.uint32], *, deep: bool = False) -> Entries:
    """List directories, with ``deep`` all that is below them too, a directory before what is in it.

    FilesystemError, for a directory that comes twice too; OSError.
    """
    asked = np.array(list(dirs), np.uint32)
    kinds = (np.uint32, np.uint32, np.uint8, np.int64, np.uint8)
    room = [image.n_inodes + 64 if deep else 1024, 1 << 20 if deep else 1 << 15]
    columns: list[Any] = [np.empty(room[0], kind) for kind in kinds]
    arena = np.empty(room[1], np.uint8)
    seen = np.zeros(image.n_inodes // 8 + 1, np.uint8)
    scratch = np.empty(_SCRATCH_BLOCKS * image.block_size + _SCRATCH_ROOM, np.uint8)
    state = np.zeros(len(_STATE), np.int64)
    state[_OF["budget"]] = image.n_blocks
    while kernel.entries(*image.where, asked, (*columns, arena), seen, state, scratch, _DEEP * deep) == _OUTPUT_FULL:
        n, used = int(state[_OF["n_out"]]), int(state[_OF["arena"]])
        wanted = n + int(state[_OF["need_out"]]), used + int(state[_OF["need_arena"]])
        if wanted[0] > room[0]:
            room[0] = 2 * wanted[0]
            columns = [np.concatenate([column[:n], np.empty(room[0] - n, column.dtype)]) for column in columns]
        if wanted[1] > room[1]:
            room[1] = 2 * wanted[1]
            arena = np.concatenate([arena[:used], np.empty(room[1] - used, np.uint8)])
    n, used = int(state[_OF["n_out"]]), int(state[_OF["arena"]])
    parent, inode, kind, name_off, name_len = (column[:n] for column in columns)
    return Entries(parent, inode, kind, name_off, name_len, arena[:used])


class Names:
    """All names of one state of a file system, ``identity``, by the inodes that they name.

    ``inode parent off size`` are columns by ascending inode, ``arena`` the names. Nothing of it changes.
    """

    def __init__(
        self, columns: tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint8]],
        arena: NDArray[np.uint8], identity: bytes,
    ) -> None:  # fmt: skip
        self.inode, self.parent, self.off, self.size = columns
        self.arena, self.identity = arena, identity
        self._paths: dict[int, bytes | None] = {ROOT: b""}

    @classmethod
    def scan(cls, image: Ext4Image) -> Self:
        """Read every directory. FilesystemError; OSError."""
        found = entries(image, [ROOT], deep=True)
        if len(found.arena) >= 1 << 32:
            raise UnsupportedFilesystem("it has names of more than 4 GiB")
        order = np.argsort(found.inode, kind="stable")
        columns = (found.inode[order], found.parent[order], found.name_off[order].astype(np.uint32), found.name_len[order])
        return cls(columns, found.arena, image.identity)

    def __len__(self) -> int:
        return len(self.inode)

    def of(self, inode: int) -> list[Name]:
        """Return the names of an inode."""
        begin, end = (int(np.searchsorted(self.inode, np.uint32(inode), side)) for side in ("left", "right"))
        return [self._name(row) for row in range(begin, end)]

    def _name(self, row: int) -> Name:
        at = int(self.off[row])
        return Name(int(self.parent[row]), int(self.inode[row]), self.arena[at : at + int(self.size[row])].tobytes())

    def path(self, directory: int) -> bytes | None:
        """Return the path of a directory, None where nothing leads to it. FilesystemError for a circle."""
        way: list[tuple[int, bytes]] = []
        at = directory
        while at not in self._paths:
            names = self.of(at)
            if not names:
                self._paths[at] = None
                break
            way.append((at, names[0].name))
            at = names[0].parent
            if len(names) > 1 or len(way) > len(self):
                raise FilesystemError("a directory that has two names, or is in itself", inode=way[-1][0])
        path = self._paths[at]
        for inode, name in reversed(way):
            path = self._paths[inode] = None if path is None else join(path, name)
        return path

    def updated(self, gone: Collection[Name], new: Collection[Name], identity: bytes) -> Names:
        """Return the names of the next state, in which ``gone`` are gone and ``new`` have come; FilesystemError for others."""
        rows = [self._row(name) for name in gone]
        added = sorted(new, key=lambda name: name.inode)
        text = b"".join(name.name for name in added)
        sizes = np.array([len(name.name) for name in added], np.int64)
        fresh: tuple[NDArray[Any], ...] = (
            np.array([name.inode for name in added], np.uint32), np.array([name.parent for name in added], np.uint32),
            (np.cumsum(sizes) - sizes + len(self.arena)).astype(np.uint32), sizes.astype(np.uint8),
        )  # fmt: skip
        kept = np.ones(len(self), bool)
        kept[rows] = False
        left: tuple[NDArray[Any], ...] = tuple(column[kept] for column in (self.inode, self.parent, self.off, self.size))
        at = np.searchsorted(left[0], fresh[0])
        columns = tuple(np.insert(old, at, more) for old, more in zip(left, fresh, strict=True))
        arena = np.concatenate([self.arena, np.frombuffer(text, np.uint8)])
        inode, parent, off, size = columns
        return Names((inode, parent, off, size), arena, identity)._packed()

    def _row(self, name: Name) -> int:
        begin, end = (int(np.searchsorted(self.inode, np.uint32(name.inode), side)) for side in ("left", "right"))
        for row in range(begin, end):
            if self._name(row) == name:
                return row
        raise FilesystemError("a directory has a name that the index of names has not", inode=name.parent)

    def _packed(self) -> Names:
        """Drop the text of names that are gone, if it is much."""
        used = int(self.size.sum(dtype=np.int64))
        if len(self.arena) - used <= _WASTE + used // 2:
            return self
        lengths = self.size.astype(np.int64)
        off = np.cumsum(lengths) - lengths
        source = np.repeat(self.off.astype(np.int64) - off, lengths) + np.arange(used)
        return Names((self.inode, self.parent, off.astype(np.uint32), self.size), self.arena[source], self.identity)

    # -- kept -----------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all of it to one file."""
        packed = [column.astype(column.dtype.newbyteorder("<")).tobytes() for column in (self.inode, self.parent, self.off)]
        body = b"".join([*packed, self.size.tobytes(), self.arena.tobytes()])
        digest = hashlib.sha256(body).digest()
        with open(path, "wb") as file:
            file.write(_HEAD.pack(_MARK, _VERSION, 0, len(self), len(self.arena), self.identity, digest) + body)

    @classmethod
    def load(cls, path: str | os.PathLike[str], image: Ext4Image) -> Self:
        """Read what was saved of this state of ``image``. FormatError where it is damaged, or of another state."""
        with open(path, "rb") as file:
            data = file.read()
        if len(data) < _HEAD.size:
            raise FormatError("an index of names that ends early")
        mark, version, _, n, n_arena, identity, digest = _HEAD.unpack_from(data)
        body = memoryview(data)[_HEAD.size :]
        if (mark, version) != (_MARK, _VERSION) or len(body) != 13 * n + n_arena or hashlib.sha256(body).digest() != digest:
            raise FormatError("no index of names, or a damaged one")
        if identity != image.identity:
            raise FormatError("an index of names of another state of the file system")
        inode, parent, off = (np.frombuffer(body, "<u4", n, 4 * n * k) for k in range(3))
        size, arena = np.frombuffer(body, np.uint8, n, 12 * n), np.frombuffer(body, np.uint8, n_arena, 13 * n)
        return cls((inode, parent, off, size), arena, identity)
