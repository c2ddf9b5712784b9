"""The names that a directory shows, as records of bytes: no object for each of them until somebody asks for one.

The kernel `dirents` reads, merges and spells them (its header has the layout).
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamella._kernels import dirents

__all__ = ["Entry", "Gathering", "Listing"]

# a name's number in its directory, the name, S_IFMT and number of its inode, the number of the branch that has it
Entry = tuple[int, bytes, int, int, int]

_HEAD = struct.Struct("=QQHHBB2x")
_GONE = 21
_SCRATCH = 1 << 15
_FOUND = 1 << 12
_SMALL = 1 << 12  # bytes of what is gone that are not worth closing up
_FULL = 2
_SEED = int.from_bytes(os.urandom(8), "little")  # hostile names cannot be chosen to collide
_KIND_SHIFT = 12  # from S_IFMT to DT_*


def _record(number: int, name: bytes, kind: int, ino: int, branch: int) -> bytes:
    return _HEAD.pack(ino, number, branch, len(name), kind >> _KIND_SHIFT, 0) + name + bytes(-len(name) % 8)


def _size(n: int) -> int:
    return _HEAD.size + (n + 7 & ~7)


class Listing:
    """The names that a directory shows, each with a number that it keeps; what is new comes last."""

    __slots__ = ("_dead", "_hint", "_n", "_next", "_places", "_records", "_used")

    def __init__(self, records: bytes, n: int) -> None:
        """``n`` ``records`` as dirents.pxd has them, in the order of their numbers, all of which are shown."""
        self._n = n
        self._records: bytes | bytearray = records
        self._used = len(records)
        self._dead = 0  # bytes of records that are gone
        self._places: dict[bytes, int] | None = None
        self._hint = (0, 0)  # a number, and where what comes after it stands
        self._next = 0  # unknown

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Listing:
        """Return the listing of ``entries`` in the order of their numbers, which are above 0."""
        records = [_record(*entry) for entry in entries]
        return cls(b"".join(records), len(records))

    def __len__(self) -> int:
        return self._n

    def get(self, name: bytes) -> Entry | None:
        """Return what the directory shows at ``name``."""
        place = self._by_name().get(name)
        return None if place is None else self._entry(place)

    def after(self, number: int) -> Iterator[Entry]:
        """Iterate over the names with a higher number than ``number``, in order."""
        at = self._at(number)
        while at < self._used:
            entry = self._entry(at)
            if not self._records[at + _GONE]:
                yield entry
            at += _size(len(entry[1]))

    def _entry(self, place: int) -> Entry:
        ino, number, branch, n, kind, _ = _HEAD.unpack_from(self._records, place)
        begin = place + _HEAD.size
        return number, bytes(self._records[begin : begin + n]), kind << _KIND_SHIFT, ino, branch

    # -- changing -------------------------------------------------------------------------------------------------

    def put(self, name: bytes, kind: int, ino: int, branch: int) -> None:
        """Show a name, or another inode at one that is shown."""
        places = self._by_name()
        place = places.get(name)
        if place is not None:
            number = self._entry(place)[0]
            _HEAD.pack_into(self._own(0), place, ino, number, branch, len(name), kind >> _KIND_SHIFT, 0)
            return
        record = _record(self._next, name, kind, ino, branch)
        self._own(len(record))[self._used : self._used + len(record)] = record
        places[name] = self._used
        self._used += len(record)
        self._next += 1
        self._n += 1

    def remove(self, name: bytes) -> None:
        """Show ``name`` no longer."""
        place = self._by_name().pop(name, None)
        if place is None:
            return
        self._own(0)[place + _GONE] = 1
        self._n -= 1
        self._dead += _size(len(name))
        if self._dead > max(_SMALL, self._used // 2):
            records = b"".join([_record(*entry) for entry in self.after(0)])
            self._hint, self._places, self._dead = (0, 0), None, 0
            self._records, self._used = records, len(records)

    def _own(self, more: int) -> bytearray:
        """Return the records with room for ``more`` bytes; who reads meanwhile goes on in what was there."""
        records = self._records
        if not isinstance(records, bytearray) or self._used + more > len(records):
            grown = bytearray(max(2 * (self._used + more), 1024))
            grown[: self._used] = records[: self._used]
            records = self._records = grown
        return records

    def _by_name(self) -> dict[bytes, int]:
        if self._places is None:
            places: dict[bytes, int] = {}
            at, number = 0, 0
            while at < self._used:
                number, name, _, _, _ = self._entry(at)
                if not self._records[at + _GONE]:
                    places[name] = at
                at += _size(len(name))
            self._places, self._next = places, max(self._next, number + 1)
        return self._places

    def _at(self, number: int) -> int:
        """Return where what comes after the name with ``number`` stands."""
        last, place = self._hint
        if last == number and place <= self._used:
            return place
        return dirents.seek(memoryview(self._records)[: self._used], place if last < number else 0, number)

    def ends(self, number: int) -> bool:
        """Tell whether no name has a higher number."""
        return self._at(number) >= self._used

    # -- spelling -------------------------------------------------------------------------------------------------

    def spell(
        self, number: int, out: Any, used: int, *, skipped: int, flips: NDArray[np.uint64], kind: int | None, plus: bool
    ) -> tuple[int, list[int]]:  # fmt: skip
        """Write the names after ``number`` to ``out``, of which ``used`` bytes are in use, as the kernel's FUSE takes them.

        Return how many are in use then, and where in it the names stand whose inodes are of ``kind`` (S_IFMT; None: all).
        An offset is a number + ``skipped``; ``flips`` has for each branch the bits in which inodes are shown as others.
        ``plus``: with room before each for what is said of its inode.
        """
        at = self._at(number)
        if at >= self._used:
            return used, []
        found = _MINE.found
        records = memoryview(self._records)[: self._used]
        wanted = -1 if kind is None else kind >> _KIND_SHIFT
        used, n_found, at, last = dirents.spell(records, at, flips, skipped, out, used, found, plus, wanted)
        if last:
            self._hint = (last, at)
        return used, found[:n_found].tolist()


class _Mine(threading.local):
    """What a thread reads into."""

    def __init__(self) -> None:
        self.scratch = np.empty(_SCRATCH, np.uint8)
        self.records = np.empty(4 * _SCRATCH, np.uint8)
        self.slots = np.empty(1 << 10, np.uint32)
        self.found = np.empty(_FOUND, np.int64)


_MINE = _Mine()


class Gathering:
    """The names of several directories, nearest first, read to be merged; for one thread."""

    def __init__(self) -> None:
        self._state = np.zeros(dirents.N_STATE, np.int64)
        self._ends: list[int] = []

    @property
    def used(self) -> int:
        """Bytes of records so far."""
        return int(self._state[0])

    def read(self, fd: int, branch: int) -> tuple[int, int]:
        """Read directory ``fd`` of a branch; return how many character devices it has, and inodes of an unknown kind."""
        mine, state = _MINE, self._state
        state[2:4] = 0
        while dirents.read(fd, branch, mine.scratch, mine.records, state) == _FULL:
            grown = np.empty(2 * len(mine.records), np.uint8)
            grown[: self.used] = mine.records[: self.used]
            mine.records = grown
        self._ends.append(self.used)
        return int(state[2]), int(state[3])

    def entries(self, begin: int) -> Iterator[tuple[int, bytes, int]]:
        """Iterate over what was read since ``begin`` bytes were in use: where it stands, its name, S_IFMT (0: unknown)."""
        records, at = _MINE.records, begin
        while at < self.used:
            _, _, _, n, kind, _ = _HEAD.unpack_from(records, at)
            yield at, records[at + _HEAD.size : at + _HEAD.size + n].tobytes(), kind << _KIND_SHIFT
            at += _size(n)

    def tell(self, place: int, kind: int) -> None:
        """Say of which kind the inode is that stands at ``place``."""
        _MINE.records[place + _GONE - 1] = kind >> _KIND_SHIFT

    def hide(self, place: int) -> None:
        """Show neither the name at ``place`` nor its like further down."""
        _MINE.records[place + _GONE] = 1

    def merged(self, *, aufs: bool) -> Listing:
        """Return what shows."""
        mine, n_names = _MINE, int(self._state[1])
        size = 1 << max(4, (2 * n_names).bit_length())
        if len(mine.slots) < size:
            mine.slots = np.empty(size, np.uint32)
        slots = mine.slots[:size]
        slots.fill(0)
        records = mine.records[: self.used]
        used, n = dirents.merge(records, np.array(self._ends, np.int64), slots, _SEED, aufs)
        return Listing(records[:used].tobytes(), n)
