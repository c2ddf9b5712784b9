"""What is known of the directories of a merged view: which branches make each up, and the names it shows.

It stays true as long as nobody but the view's owner changes the branches, who says of each change what is no longer known.
Names are bounded by ``limit``: what was not asked for longest is forgotten, and found out again when it is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from operator import itemgetter

from lamella.layer.search import Place

__all__ = ["Directories", "Directory", "Entry", "Listing"]

_LIMIT = 1 << 19


# a name's number in its directory, the name, S_IFMT and number of its inode, the number of the branch that has it; no class:
# a directory of ten thousand names has ten thousand of these
Entry = tuple[int, bytes, int, int, int]
_NUMBER = itemgetter(0)


class Listing:
    """The names that a directory shows, each with a number that it keeps; what is new comes last."""

    __slots__ = ("_next", "_numbers", "_order")

    def __init__(self, entries: list[Entry]) -> None:
        """``entries`` in the order of their numbers, which are above 0."""
        self._order = entries
        self._numbers: dict[bytes, int] | None = None
        self._next = entries[-1][0] + 1 if entries else 1

    def __len__(self) -> int:
        return len(self._order)

    def get(self, name: bytes) -> Entry | None:
        """Return what the directory shows at ``name``."""
        number = self._by_name().get(name)
        return None if number is None else self._order[self._at(number) - 1]

    def after(self, number: int, limit: int | None = None) -> list[Entry]:
        """Return the names with a higher number than ``number``, in order, at most ``limit`` of them."""
        begin = self._at(number) if number else 0
        return self._order[begin : None if limit is None else begin + limit]

    def put(self, name: bytes, kind: int, ino: int, branch: int) -> None:
        """Show a name, or another inode at one that is shown."""
        numbers = self._by_name()
        number = numbers.get(name)
        if number is None:
            number = numbers[name] = self._next
            self._order.append((number, name, kind, ino, branch))
            self._next += 1
        else:
            self._order[self._at(number) - 1] = (number, name, kind, ino, branch)

    def remove(self, name: bytes) -> None:
        """Show ``name`` no longer."""
        number = self._by_name().pop(name, None)
        if number is not None:
            del self._order[self._at(number) - 1]

    def _by_name(self) -> dict[bytes, int]:
        if self._numbers is None:
            self._numbers = {name: number for number, name, _, _, _ in self._order}
        return self._numbers

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
