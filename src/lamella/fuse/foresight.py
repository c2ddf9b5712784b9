"""Which directory is listed next: who walks a tree goes into the directories of a directory in the order that it lists them.

So while he looks at the names that he has, those of the next directory can be read. It is done only after one guess was right.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Foresight"]

_LIMIT = 1 << 14  # directories of which the next is known


class Foresight:
    """The order of a walk, as far as it is known: nodes by their numbers."""

    def __init__(self) -> None:
        self._next: dict[int, int] = {}
        self._expected = 0

    def found(self, directory: int, below: Sequence[int]) -> None:
        """Know which directories a directory lists, after those that are known already."""
        if len(self._next) + len(below) > _LIMIT:
            self._next.clear()
        if not below:
            return
        following = self._next.get(directory)
        for one, other in zip((directory, *below), below, strict=False):
            self._next[one] = other
        if following is not None:
            self._next[below[-1]] = following

    def listed(self, directory: int) -> int | None:
        """Know that all names of a directory were told; return the directory that is likely to be asked for now."""
        was_right = self._expected == directory
        following = self._next.pop(directory, None)
        self._expected = following or 0
        return following if was_right else None
