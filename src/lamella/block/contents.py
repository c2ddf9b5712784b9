"""The content of files read from an ext4 image by where its blocks lie: nothing is mounted."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lamella._kernels import ext4 as kernel
from lamella.block.ext4 import Ext4Image
from lamella.errors import FilesystemError
from lamella.layer.emission import with_sparse
from lamella.table import Entry, EntryTable

__all__ = ["ImageContent", "ImageFile", "same_files"]

_CHUNK = 1 << 20
_FILE = ord("0")
_N_STATE, _N_OUT, _BUDGET = 10, 2, 5
_OUTPUT_FULL = 2


class ImageFile:
    """A regular file of ``size`` bytes; what is not on disk reads as zeros. FilesystemError; OSError."""

    def __init__(self, image: Ext4Image, inode: int, size: int) -> None:
        self.image, self.inode, self.size = image, inode, size
        self._small: bytes | None = None
        self._runs = self._find()

    def _find(self) -> NDArray[np.int64]:
        """Return byte of the file, byte of the device and number of bytes of each piece that is on disk."""
        image, room = self.image, 64
        while True:
            state, out = np.zeros(_N_STATE, np.int64), np.empty(3 * room, np.int64)
            state[_BUDGET] = image.n_blocks
            if kernel.runs(*image.where, self.inode, state, out, image.scratch) != _OUTPUT_FULL:
                break
            room *= 4
        n = int(state[_N_OUT])
        if n < 0:
            held = np.zeros(image.inode_size, np.uint8)
            self._small = held[: kernel.small(*image.where, self.inode, held)].tobytes()[: self.size]
            n = 0
        runs = out[: 3 * n].reshape(-1, 3) * image.block_size
        runs[:, 1] += image.base
        runs = runs[runs[:, 0] < self.size]
        runs[:, 2] = np.minimum(runs[:, 2], self.size - runs[:, 0])
        return runs

    @property
    def regions(self) -> NDArray[np.int64]:
        """Offset and size of each piece of data, those that touch as one."""
        if self._small is not None:
            return np.array([[0, self.size]], np.int64)[: self.size]
        begins, ends = self._runs[:, 0], self._runs[:, 0] + self._runs[:, 2]
        if not len(begins):
            return np.empty((0, 2), np.int64)
        apart = begins[1:] != ends[:-1]
        begins, ends = begins[np.concatenate([[True], apart])], ends[np.concatenate([apart, [True]])]
        return np.stack([begins, ends - begins], axis=1)

    def data_from(self, offset: int) -> int:
        """Return where the first data at ``offset`` or behind it is, the size for none."""
        if self._small is not None:
            return offset
        at = int(np.searchsorted(self._runs[:, 0] + self._runs[:, 2], offset, "right"))
        return max(int(self._runs[at, 0]), offset) if at < len(self._runs) else self.size

    def read(self, offset: int, buffer: memoryview) -> int:
        """Fill the front of ``buffer`` with what is at ``offset``; how many bytes, 0 at the end."""
        n = min(len(buffer), self.size - offset)
        if n <= 0:
            return 0
        buffer[:n] = bytes(n)
        if self._small is not None:
            part = self._small[offset : offset + n]
            buffer[: len(part)] = part
            return n
        at = max(int(np.searchsorted(self._runs[:, 0], offset, "right")) - 1, 0)
        for begin, place, nbytes in self._runs[at:].tolist():
            first, last = max(begin, offset), min(begin + nbytes, offset + n)
            if begin >= offset + n:
                break
            if first < last:
                piece = buffer[first - offset : last - offset]
                if os.preadv(self.image.fd, [piece], place + first - begin) < len(piece):
                    raise FilesystemError("the file ends early", inode=self.inode)
        return n


def same_files(one: ImageFile, other: ImageFile) -> bool:
    """Compare the content of two files."""
    if one.size != other.size:
        return False
    rooms = [memoryview(bytearray(min(_CHUNK, max(one.size, 1)))) for _ in range(2)]
    offset = 0
    while n := one.read(offset := min(one.data_from(offset), other.data_from(offset)), rooms[0]):
        other.read(offset, rooms[1])
        if rooms[0][:n] != rooms[1][:n]:
            return False
        offset += n
    return True


class ImageContent:
    """What write_layer() asks for content: files of ``table``, whose rows are inodes of ``image``."""

    def __init__(self, image: Ext4Image, table: EntryTable) -> None:
        self.image, self.table = image, table

    def _open(self, path: bytes) -> ImageFile:
        row = self.table.find(path)
        return ImageFile(self.image, int(self.table.ino[row]), int(self.table.size[row]))

    def chunks(self, entry: Entry) -> Iterator[memoryview]:
        """Iterate over a file's content; a chunk is valid until the next is asked for."""
        file, offset = self._open(entry.path), 0
        buffer = memoryview(bytearray(min(_CHUNK, max(file.size, 1))))
        while n := file.read(offset, buffer):
            yield buffer[:n]
            offset += n

    def with_holes(self, table: EntryTable) -> EntryTable:
        """Return ``table``, whose files these are, with the data regions of those that have holes (77)."""
        sparse = {}
        for row in np.flatnonzero((table.type == _FILE) & (table.size > 0)).tolist():
            regions = self._open(table.path(row)).regions
            if int(regions[:, 1].sum()) < int(table.size[row]):
                sparse[row] = regions.astype("<i8").tobytes()
        return with_sparse(table, sparse)
