"""The names of a file system's inodes: which directories have an inode, and under what names. It is what no inode says.

A scan of all directories finds them. Who keeps what it found can have those of the next layer for the price of the changes:
what the changed directories have lost and won.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lamella._kernels import ext4dirs as kernel
from lamella.block.ext4 import ROOT, Ext4Image
from lamella.errors import FilesystemError, FormatError, UnsupportedFilesystem
from lamella.tree.root import join

__all__ = ["Entries", "Name", "Names", "Paths", "entries"]

_STATE = ("next", "next_entry", "n_out", "arena", "need_out", "need_arena", "budget", "fault", "block", "inode", "error")
_OF = {name: i for i, name in enumerate(_STATE)}
_OUTPUT_FULL = 2
_DEEP = 1
_SCRATCH_BLOCKS, _SCRATCH_ROOM = 8, 131072
_HEAD = struct.Struct("<8sIIQQ32s32s")  # mark, version, nothing, names, bytes of them, identity, digest of what follows
_MARK, _VERSION = b"LMLnames", 1
_BESIDE = 4096  # names that are kept beside the columns at least


Columns = tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint8]]
Name = tuple[int, int, bytes]  # the inode of the directory, the inode that is named, and the name


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
        return _named(self.arena, self.parent, self.inode, self.name_off, self.name_off + self.name_len)


def _named(arena: NDArray[np.uint8], *columns: NDArray[Any]) -> Iterator[Name]:
    """Iterate names of which directory, inode, begin and end are columns."""
    text = memoryview(np.ascontiguousarray(arena))
    for parent, inode, begin, end in zip(*(column.tolist() for column in columns), strict=True):
        yield parent, inode, bytes(text[begin:end])


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
    """All names of one state of a file system, ``identity``, by the inodes that they name; iterates them.

    They are columns, by ascending inode, but for what has changed since those were made, which is kept beside them while it
    is little. Nothing of it changes.
    """

    def __init__(self, columns: Columns, arena: NDArray[np.uint8], identity: bytes) -> None:
        self._inode, self._parent, self._off, self._size = columns
        self._arena, self.identity = arena, identity
        self._gone: set[Name] = set()
        self._new: dict[int, set[Name]] = {}

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
        return len(self._inode) - len(self._gone) + sum(map(len, self._new.values()))

    def __iter__(self) -> Iterator[Name]:
        for name in self._at(np.arange(len(self._inode))):
            if name not in self._gone:
                yield name
        for names in self._new.values():
            yield from names

    def of(self, inodes: Collection[int]) -> list[Name]:
        """Return the names of ``inodes``."""
        found = list(self._at(self._rows(inodes)))
        if self._gone:
            found = [name for name in found if name not in self._gone]
        for inode in self._new.keys() & inodes if self._new else ():
            found += self._new[inode]
        return found

    def _rows(self, inodes: Collection[int]) -> NDArray[np.int64]:
        asked = np.fromiter(inodes, np.uint32, len(inodes))
        begins, ends = (np.searchsorted(self._inode, asked, side) for side in ("left", "right"))
        counts = ends - begins
        rows: NDArray[np.int64] = np.repeat(begins - np.cumsum(counts) + counts, counts) + np.arange(int(counts.sum()))
        return rows

    def _at(self, rows: NDArray[np.int64]) -> Iterator[Name]:
        begins = self._off[rows].astype(np.int64)
        return _named(self._arena, self._parent[rows], self._inode[rows], begins, begins + self._size[rows])

    def updated(self, gone: Collection[Name], new: Collection[Name], identity: bytes) -> Names:
        """Return the names of the next state, in which ``gone`` are gone and ``new`` have come: O(changed).

        FilesystemError for a name to go that is not there.
        """
        known = set(self.of({inode for _, inode, _ in gone}))
        made = Names((self._inode, self._parent, self._off, self._size), self._arena, identity)
        made._gone, made._new = set(self._gone), {inode: set(names) for inode, names in self._new.items()}
        for name in gone:
            if name not in known:
                raise FilesystemError("a directory has a name that the index of names has not", inode=name[0])
            if name in made._new.get(name[1], ()):
                made._new[name[1]].discard(name)
            else:
                made._gone.add(name)
        for name in new:
            if name in made._gone:
                made._gone.discard(name)
            else:
                made._new.setdefault(name[1], set()).add(name)
        beside = len(made._gone) + sum(map(len, made._new.values()))
        return made._flat() if beside > _BESIDE + len(made) // 8 else made

    def _flat(self) -> Names:
        """Return the same names, all in columns, and the text of no others."""
        if not self._gone and not self._new:
            return self
        parents, inodes, names = zip(*sorted(self, key=lambda name: name[1]), strict=True) if len(self) else ((), (), ())
        sizes = np.fromiter(map(len, names), np.int64, len(names))
        columns = (
            np.array(inodes, np.uint32), np.array(parents, np.uint32), (np.cumsum(sizes) - sizes).astype(np.uint32),
            sizes.astype(np.uint8),
        )  # fmt: skip
        return Names(columns, np.frombuffer(b"".join(names), np.uint8), self.identity)

    # -- kept -----------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all of it to one file."""
        flat = self._flat()
        columns = (flat._inode, flat._parent, flat._off, flat._size, flat._arena)
        body = b"".join(column.astype(column.dtype.newbyteorder("<")).tobytes() for column in columns)
        digest = hashlib.sha256(body).digest()
        with open(path, "wb") as file:
            file.write(_HEAD.pack(_MARK, _VERSION, 0, len(flat), len(flat._arena), self.identity, digest) + body)

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


class Paths:
    """Paths of directories, of which each has one name."""

    def __init__(self) -> None:
        self._names: dict[int, tuple[int, bytes]] = {}
        self._paths: dict[int, bytes | None] = {ROOT: b""}

    def add(self, names: Iterable[Name]) -> None:
        """Know names: those of a directory, and of all above it, before its path is asked for."""
        self._names.update((inode, (parent, name)) for parent, inode, name in names)

    def of(self, directory: int) -> bytes | None:
        """Return the path of a directory, None where nothing leads to it. FilesystemError for one that is in itself."""
        way: list[tuple[int, bytes]] = []
        at = directory
        while at not in self._paths:
            if at not in self._names:
                self._paths[at] = None
                break
            if len(way) > len(self._names):
                raise FilesystemError("a directory that is in itself", inode=at)
            above, name = self._names[at]
            way.append((at, name))
            at = above
        path = self._paths[at]
        for inode, name in reversed(way):
            path = self._paths[inode] = None if path is None else join(path, name)
        return path
