"""A layer's blob where it lies, and the content of one of its files."""

from __future__ import annotations

import errno
import os
import re
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import Self

from lamella.columns import TableBuilder
from lamella.fuse.spool import Spool
from lamella.model import DiffID, Limits
from lamella.stream.region import HeldFile, RegionSource
from lamella.table import EntryTable
from lamella.tar.reader import read_layer
from lamella.tar.scanner import Scanner

__all__ = ["OpenContent", "StoredLayer"]

_WORD = re.compile(r"(\d+):(\d+):(sha256:[0-9a-f]{64})?:(.*)", re.ASCII | re.DOTALL)


@dataclass(slots=True)
class StoredLayer:
    """A layer's blob: ``size`` bytes of ``file`` from ``begin`` on."""

    file: HeldFile
    begin: int
    size: int
    diff_id: DiffID | None
    name: str
    plain: HeldFile | None = None  # the tar
    offset: int = 0  # and where it begins there

    @classmethod
    def of(cls, word: str) -> Self:
        """Open one as an option names it: BEGIN:SIZE:[DIFF_ID]:FILE, or a whole file by its path. OSError."""
        place = _WORD.fullmatch(word)
        if place is None:
            held = HeldFile.open(word)
            return cls(held, 0, held.size, None, word)
        begin, size, diff_id, path = place.groups()
        return cls(HeldFile.open(path), int(begin), int(size), DiffID(diff_id) if diff_id else None, path)

    def source(self) -> RegionSource:
        """Return the blob's bytes."""
        return RegionSource(self.file, self.begin, self.size, self.name)

    def table(self, spool: Spool) -> EntryTable:
        """Read the headers: of an unpacked tar those alone. The reader's errors."""
        self.plain = spool.find(self.diff_id)
        if self.plain is None:
            with self.source() as source, read_layer(source, digests=False) as reader:
                if reader.codec != "none":
                    return reader.table()
            self.plain, self.offset = self.file, self.begin
        scanner = Scanner(Limits(), TableBuilder("tar"))
        scanner.scan_fd(self.plain.fd, base=self.offset)
        return EntryTable(scanner.builder.finish(), "archive")

    def tar(self, spool: Spool) -> HeldFile:
        """Return the file that has the tar from byte ``offset`` on; errors of Spool.fill()."""
        if self.plain is None:
            self.plain = spool.find(self.diff_id) or spool.fill(self.source(), self.diff_id)
        return self.plain


@dataclass(frozen=True, slots=True)
class OpenContent:
    """Content that is open: where it begins in a file, its size, and the regions of a sparse one with data: offset, size."""

    file: HeldFile
    begin: int
    size: int
    regions: list[tuple[int, int]] | None
    packed: list[int]  # where each region's data is from begin on

    @classmethod
    def of(cls, tar: HeldFile, offset: int, table: EntryTable, row: int) -> Self:
        """Open the content of a row of the layer whose tar begins at ``offset`` of a file."""
        found = table.sparse(row)
        regions = None if found is None else [(int(begin), int(size)) for begin, size in found.tolist()]
        packed = [0, *accumulate(size for _, size in regions or ())][:-1]
        return cls(tar, offset + int(table.data_off[row]), int(table.size[row]), regions, packed)

    def read(self, nbytes: int, offset: int) -> bytes:
        """Return bytes from ``offset`` on, fewer at the end alone; OSError EIO where the layer was cut short."""
        nbytes = min(nbytes, self.size - offset)
        if nbytes <= 0:
            return b""
        if self.regions is None:
            return _pread(self.file.fd, nbytes, self.begin + offset)
        out = bytearray(nbytes)
        at = max(0, bisect_right(self.regions, (offset, 1 << 63)) - 1)
        for (begin, size), place in zip(self.regions[at:], self.packed[at:], strict=True):
            first, last = max(begin, offset), min(begin + size, offset + nbytes)
            if begin >= offset + nbytes:
                break
            if first < last:
                out[first - offset : last - offset] = _pread(self.file.fd, last - first, self.begin + place + first - begin)
        return bytes(out)

    def seek(self, offset: int, whence: int) -> int:
        """Return where the next data or hole (SEEK_DATA, SEEK_HOLE) is; OSError ENXIO."""
        if offset >= self.size:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        regions = [(0, self.size)] if self.regions is None else [region for region in self.regions if region[1]]
        for begin, size in regions:
            if offset < begin + size:
                if whence == os.SEEK_DATA:
                    return max(begin, offset)
                if offset < begin:
                    return offset
                offset = begin + size
        if whence == os.SEEK_DATA:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        return min(offset, self.size)


def _pread(fd: int, nbytes: int, offset: int) -> bytes:
    data = os.pread(fd, nbytes, offset)
    if len(data) < nbytes:
        raise OSError(errno.EIO, "the layer was cut short")
    return data
