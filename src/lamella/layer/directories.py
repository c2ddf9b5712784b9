"""What is known of the directories of a merged view: which branches make each up, and the names it shows.

It stays true as long as nobody but the view's owner changes the branches, who says of each change what is no longer known.
Names are bounded by ``limit``: what was not asked for longest is forgotten, and found out again when it is.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from lamella.layer.listing import Listing
from lamella.layer.search import Place

__all__ = ["Directories", "Directory"]

_LIMIT = 1 << 19


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
