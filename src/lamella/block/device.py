"""A thin device: bytes read and written through a pool's block map."""

from __future__ import annotations

from errno import EBADF, EINVAL, EIO, ENOSPC
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from lamella.block.datafile import DataFile, runs_of
from lamella.block.live import LivePool
from lamella.block.mapping import Mapping, Plan

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["ThinDevice"]

Column = NDArray[np.int64]


class ThinDevice:
    """A device of a pool, open: the pool refuses to delete it until it is closed. A context manager.

    ``nblocks`` is its size in blocks of the pool, which metadata do not keep. Offsets and lengths are bytes.
    """

    def __init__(self, pool: LivePool, mapping: Mapping, nblocks: int) -> None:
        self._pool = pool
        self._mapping: Mapping | None = mapping
        self.dev_id = mapping.dev_id
        self.nblocks = nblocks
        mapping.n_open += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the device. What was written is committed by the pool."""
        if self._mapping is not None:
            self._mapping.n_open -= 1
            self._mapping = None

    @property
    def closed(self) -> bool:
        """Whether the device, or its pool, is closed."""
        return self._mapping is None or self._pool.closed

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.nblocks * self._pool.block_size

    @property
    def mapped_blocks(self) -> int:
        """Blocks that are mapped."""
        return self._open().mapped_blocks

    def _open(self) -> Mapping:
        if self._mapping is None or self._pool.closed:
            raise OSError(EBADF, f"thin device {self.dev_id} is closed")
        return self._mapping

    def _blocks(self, offset: int, nbytes: int) -> Column:
        size = self._pool.block_size
        return np.arange(offset // size, -(-(offset + nbytes) // size), dtype=np.int64)

    def lookup(self, blocks: Column) -> tuple[Column, Column]:
        """Return data block and time of each block, both -1 where it is not mapped. Ascending blocks are found quickest."""
        with self._pool.working():
            return self._open().lookup(np.ascontiguousarray(blocks, np.int64))

    def pread(self, nbytes: int, offset: int) -> bytes:
        """Read up to ``nbytes`` bytes: fewer at the device's end. A block that is not mapped reads as zeros."""
        if nbytes < 0 or offset < 0:
            raise OSError(EINVAL, "a negative offset or length")
        nbytes = max(min(nbytes, self.nbytes - offset), 0)
        with self._pool.working() as data_file:
            mapping = self._open()
            blocks = self._blocks(offset, nbytes) if nbytes else np.empty(0, np.int64)
            data, _ = mapping.lookup(blocks)
            spans = self._spans(data, offset, nbytes)
            return b"".join([data_file.pread(end - begin, at) if at >= 0 else bytes(end - begin) for begin, end, at in spans])

    def _spans(self, data: Column, offset: int, nbytes: int) -> list[tuple[int, int, int]]:
        """Cut ``nbytes`` from ``offset`` on where data blocks do not follow each other: begin, end, data offset or -1."""
        size = self._pool.block_size
        first, spans = offset // size * size, []
        for place, block, length in runs_of(data):
            begin = max(first + place * size, offset)
            end = min(first + (place + length) * size, offset + nbytes)
            at = -1 if block < 0 else block * size + begin - (first + place * size)
            spans.append((begin - offset, end - offset, at))
        return spans

    def pwrite(self, data: Buffer, offset: int) -> int:
        """Write all of ``data`` and return its length.

        A block that is not mapped, or that a snapshot may share, is given a data block of its own; what ``data`` does not
        cover of it is copied, or zeros. ``PoolFullError`` where that many are not free: then nothing was written.
        ``OSError``: ENOSPC beyond the device's end, EIO where the pool is read-only and a block would be needed.
        """
        view = memoryview(data).cast("B")
        if offset < 0:
            raise OSError(EINVAL, "a negative offset")
        if offset + len(view) > self.nbytes:
            raise OSError(ENOSPC, f"thin device {self.dev_id} ends at byte {self.nbytes}")
        if not view:
            return 0
        with self._pool.working() as data_file:
            mapping = self._open()
            plan = self._pool.planned(mapping, self._blocks(offset, len(view)))
            try:
                self._fill(data_file, plan, view, offset)
            except BaseException:
                self._pool.forget(mapping, plan)
                raise
            self._pool.remap(mapping, plan)
        return len(view)

    def _fill(self, data_file: DataFile, plan: Plan, view: memoryview, offset: int) -> None:
        size = self._pool.block_size
        head, tail = offset % size, -(offset + len(view)) % size
        if head:
            self._complete(data_file, plan, 0, 0, head)
        if tail:
            self._complete(data_file, plan, len(plan.blocks) - 1, size - tail, size)
        for begin, end, at in self._spans(plan.target, offset, len(view)):
            if at < 0:
                raise OSError(EIO, "a block has no place")
            data_file.write(view[begin:end], at)

    def _complete(self, data_file: DataFile, plan: Plan, k: int, begin: int, end: int) -> None:
        """Fill bytes [begin, end) of a new block, which are not written, from the old one, or with zeros."""
        size, old, new = self._pool.block_size, int(plan.old[k]), int(plan.new[k])
        if new >= 0 and old >= 0:
            data_file.copy(old * size + begin, new * size + begin, end - begin)
        elif new >= 0:
            data_file.zero(new * size + begin, end - begin)

    def discard(self, offset: int, nbytes: int) -> int:
        """Forget the blocks that lie wholly in a range, and return how many were mapped; they read as zeros then.

        Data blocks that no other device has are given back to the data device. A read-only pool forgets nothing.
        """
        if nbytes < 0 or offset < 0:
            raise OSError(EINVAL, "a negative offset or length")
        size = self._pool.block_size
        begin, end = -(-offset // size), min(offset + nbytes, self.nbytes) // size
        with self._pool.working():
            mapping = self._open()
            return self._pool.cut(mapping, begin, end) if begin < end else 0
