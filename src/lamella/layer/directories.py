"""What is known of the directories of a merged view: which branches make each up, and the names it shows.

It stays true as long as nobody but the view's owner changes the branches, who says of each change what is no longer known.
Names are bounded by ``limit``: what was not asked for longest is forgotten, and found out again when it is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

from lamella.layer.search import Place

__all__ = ["Directories", "Directory", "Entry", "Listing"]

_LIMIT = 1 << 19
_NUMBER = itemgetter(0)


class Entry(NamedTuple):
    """One name of a directory: S_IFMT of its inode, the inode's number, and the number of the branch that has it."""

    name: bytes
    kind: int
    ino: int
    branch: int


class Listing:
    """The names that a directory shows, each with a number that it keeps; what is new comes last."""

    __slots__ = ("_next", "_numbers", "_order")

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._order: list[tuple[int, Entry]] = list(enumerate(entries, 1))
        self._numbers = {entry.name: number for number, entry in self._order}
        self._next = len(self._order) + 1

    def __len__(self) -> int:
        return len(self._order)

    def get(self, name: bytes) -> Entry | None:
        """Return what the directory shows at ``name``."""
        number = self._numbers.get(name)
        return None if number is None else self._order[self._at(number) - 1][1]

    def after(self, number: int, limit: int | None = None) -> list[tuple[int, Entry]]:
        """Return the names with a higher number than ``number``, in order, at most ``limit`` of them."""
        begin = self._at(number) if number else 0
        return self._order[begin : None if limit is None else begin + limit]

    def put(self, entry: Entry) -> None:
        """Show a name, or another inode at one that is shown."""
        number = self._numbers.get(entry.name)
        if number is None:
            self._numbers[entry.name] = self._next
            self._order.append((self._next, entry))
            self._next += 1
        else:
            self._order[self._at(number) - 1] = (number, entry)

    def remove(self, name: bytes) -> None:
        """Show ``name`` no longer."""
        number = self._numbers.pop(name, None)
        if number is not None:
            del self._order[self._at(number) - 1]

    def _at(self, number: int) -> int:
        """Return the position after the name with ``number``, or where it was."""
        return bisect_right(self._order, number, key=_NUMBER)


@dataclass(slots=True, eq=False)
class Directory:
    """The branches that make up a directory, nearest first, and its names where they were listed."""

    stack: list[Place]
    listing: Listing | None = None
    weight: int = 0  # what it counts for among those that are remembered


class Directories:
    """Directories by their paths, those that were asked for last."""

    def __init__(self, limit: int = _LIMIT) -> None:
        self.limit = limit
        self._known: OrderedDict[bytes, Directory] = OrderedDict()
        self._size = 0

    def __contains__(self, path: bytes) -> bool:
        return path in self._known

    def get(self, path: bytes) -> Directory | None:
        """Return what is known of the directory at ``path``."""
        found = self._known.get(path)
        if found is not None:
            try:
                self._known.move_to_end(path)
            except KeyError:  # another thread forgot it
                return None
        return found

    def put(self, path: bytes, directory: Directory) -> None:
        """Remember a directory, with its names where it has some."""
        self._drop(path)
        directory.weight = 1 + (len(directory.listing) if directory.listing is not None else 0)
        self._known[path] = directory
        self._size += directory.weight
        while self._size > self.limit and len(self._known) > 1:
            self._drop(next(iter(self._known)))

    def forget(self, path: bytes) -> None:
        """Forget the directory at ``path``, and all below it."""
        within = path + b"/"
        for known in [known for known in self._known if known == path or known.startswith(within)]:
            self._drop(known)

    def _drop(self, path: bytes) -> None:
        directory = self._known.pop(path, None)
        if directory is not None:
            self._size -= directory.weight
