"""The content of files whose metadata is in one branch and whose content in another."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from lamella.errors import ConflictError, LimitExceededError
from lamella.layer.emission import with_sparse
from lamella.layer.lowers import Branches
from lamella.layer.own import BranchDialect
from lamella.layer.pathtable import path_table
from lamella.layer.search import Place, Shown
from lamella.model import Limits
from lamella.table import Entry, EntryTable

__all__ = ["Content", "content_of", "same_content"]

_CHUNK = 1 << 20
_FILE = ord("0")
_PAIR = struct.Struct("<qq")


class Content:
    """What write_layer() asks for content: files of the nearest branch, but for the ``borrowed`` ones."""

    def __init__(self, branches: Branches, borrowed: Sequence[bytes]) -> None:
        self._branches, self._borrowed = branches, set(borrowed)
        self._places: dict[bytes, Place | None] = {}
        if borrowed:
            shown = branches.find(path_table(borrowed), data=True)
            self._places = {path: _place(shown, path) for path in borrowed}

    def chunks(self, entry: Entry) -> Iterator[memoryview]:
        """Iterate over a file's content. ConflictError where no branch has it; OSError with the path."""
        path = entry.path
        place = self._place_of(path)
        if place is None:
            raise ConflictError(path, "its content is in no parent")
        buffer = memoryview(bytearray(min(_CHUNK, max(entry.size, 1))))
        with _opened(self._branches, place) as fd:
            while n := os.readv(fd, [buffer]):
                yield buffer[:n]

    def with_holes(self, table: EntryTable) -> EntryTable:
        """Return ``table``, whose files these are, with the data regions of those that have holes (77)."""
        sparse = {}
        for row in np.flatnonzero((table.type == _FILE) & (table.size > 0)).tolist():
            place = self._place_of(table.path(row))
            if place is not None:
                with _opened(self._branches, place) as fd:
                    regions = _regions(fd, int(table.size[row]))
                if regions is not None:
                    sparse[row] = regions
        return with_sparse(table, sparse)

    def _place_of(self, path: bytes) -> Place | None:
        return self._places[path] if path in self._borrowed else (0, path)


def _regions(fd: int, size: int) -> bytes | None:
    """Return offset and size of each piece of data as the EXT_SPARSE item has them, None for a file without holes."""
    pieces, end = [], 0
    try:
        if os.lseek(fd, 0, os.SEEK_HOLE) >= size:
            return None
    except OSError:  # this file system cannot say
        return None
    while end < size:
        try:
            begin = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break
        if begin >= size:
            break
        end = min(os.lseek(fd, begin, os.SEEK_HOLE), size)
        pieces.append(_PAIR.pack(begin, end - begin))
        if len(pieces) > Limits().sparse_entries:
            raise LimitExceededError("sparse_entries", len(pieces))
    return b"".join(pieces)


def _place(shown: Shown, path: bytes) -> Place | None:
    row = shown.paths.find(path)
    return shown.content(row) if shown.branch[row] >= 0 else None


@contextlib.contextmanager
def _opened(branches: Branches, place: Place) -> Iterator[int]:
    where = os.path.join(os.fsencode(branches.directories[place[0]]), place[1])
    try:
        fd = branches.open_file(*place)
    except OSError as error:
        error.filename = os.fsdecode(where)
        raise
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def content_of(directories: Sequence[str], dialect: BranchDialect, borrowed: Sequence[bytes]) -> Iterator[Content]:
    """Lend the content of a branch and its parents, opened anew."""
    with Branches(directories, dialect) as branches:
        yield Content(branches, borrowed)


def same_content(branches: Branches, pairs: Sequence[tuple[bytes, bytes]]) -> NDArray[np.bool_]:
    """Compare files of the parents' view with files of the whole view: pairs of paths, of one size each."""
    below = branches.find(path_table(low for low, _ in pairs), first=1, data=True)
    above = branches.find(path_table(up for _, up in pairs), data=True)
    return np.array([_same(branches, _place(below, low), _place(above, up)) for low, up in pairs], bool)


def _same(branches: Branches, a: Place | None, b: Place | None) -> bool:
    if a is None or b is None or a == b:
        return a == b
    try:
        with _opened(branches, a) as one, _opened(branches, b) as other:
            while True:
                left, right = os.read(one, _CHUNK), os.read(other, _CHUNK)
                if left != right or not left:
                    return left == right
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False
