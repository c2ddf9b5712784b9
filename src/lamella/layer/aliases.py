"""Directories that a layer's entries reach by another name than their own: through symlinks."""

from __future__ import annotations

from collections.abc import Iterator

from lamella.tree.root import split

__all__ = ["Aliases"]


class Aliases:
    """Pairs of a path as entries spell it and the real path of the directory it led to."""

    def __init__(self) -> None:
        self._reals: dict[bytes, bytes] = {}
        self._names: dict[bytes, list[bytes]] = {}

    def __len__(self) -> int:
        return len(self._reals)

    def add(self, path: bytes, real: bytes) -> None:
        """Note that entries below ``path`` land below ``real``."""
        if self._reals.get(path) != real:
            self._reals[path] = real
            self._names.setdefault(real, []).append(path)

    def real(self, path: bytes) -> bytes:
        """Return where ``path`` lands, by the longest part of it that is known."""
        at = path
        while at and at not in self._reals:
            at = split(at)[0]
        return (self._reals[at] + path[len(at) :]).lstrip(b"/") if at else path

    def other_names(self, path: bytes) -> Iterator[bytes]:
        """Iterate the spellings under which entries may have reached ``path``."""
        at = path
        while at:
            at = split(at)[0]
            rest = path[len(at) :].lstrip(b"/")
            yield from (name + b"/" + rest for name in self._names.get(at, ()))
