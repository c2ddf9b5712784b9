"""Whether the status of files is worth telling with their names.

It saves a request a file where who lists directories then looks at what is in them (``ls -l``, tar, a walk for a diff), and is
lost where names are all that is asked for (``find -type f``). So it is done for a while where most of the directories that
were listed without it were looked into, and then tried without it again.
"""

from __future__ import annotations

from collections import deque

from lamella.fuse.nodes import Node

__all__ = ["Eagerness"]

_TRIED, _ENOUGH, _LASTS = 8, 4, 128  # directories


class Eagerness:
    """Asked at each listing."""

    def __init__(self) -> None:
        self._tried: deque[int] = deque(maxlen=_TRIED)  # directories that were listed without, and not looked into
        self._hits = self._misses = self._left = 0

    def listed(self, node: Node) -> bool:
        """Know that a directory is listed, and tell whether all of it is to be told."""
        if self._left:
            self._left -= 1
            return True
        if len(self._tried) == _TRIED:
            self._tried.popleft()
            self._misses += 1
        if self._hits + self._misses >= _TRIED:
            self._left = _LASTS if self._hits >= _ENOUGH else 0
            self._hits = self._misses = 0
        self._tried.append(node.id)
        return False

    def asked(self, parent: Node) -> None:
        """Know that a file of a directory is asked for."""
        if parent.id in self._tried:
            try:
                self._tried.remove(parent.id)
            except ValueError:  # by another thread
                return
            self._hits += 1
