"""A table and its content written as a layer: canonical tar, compressed, both digests taken on the way.

The tar is the one spelling of the tarform kernel, so that reading what was written here and writing it again gives the
same bytes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from lamella._kernels import content, tarform
from lamella.columns import AT, F_GHOST, F_IMPLIED, F_SPARSE
from lamella.errors import FormatError, LimitExceededError
from lamella.model import IdMap, Limits, Progress
from lamella.stream.blob import BlobWriter
from lamella.table import EntryTable
from lamella.tar.layerinfo import LayerInfo
from lamella.tar.owners import container_owners
from lamella.tar.payload import Chunks

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["LayerInfo", "Payload", "RowWriter", "TarOptions", "write_layer", "write_rows"]

_BLOCK = 512
_HEAD_NBYTES = 1 << 16  # of one entry's headers, more where they need it
_N_REGIONS = 1 << 12
_LARGE, _ROWS_A_REPORT = 1 << 20, 256
_EVENTS = {
    content.VANISHED: "vanished while the layer was written: left out",
    content.SHRANK: "shrank while the layer was written: filled with zeros",
    content.GREW: "grew while the layer was written: cut",
}


Payload = str | os.PathLike[str] | Chunks | Callable[[int], "Buffer"]


@dataclass(frozen=True, slots=True)
class TarOptions:
    """How rows are spelled: see :func:`write_layer`."""

    clamp_mtime: int | None = None
    idmap: IdMap | None = None
    sparse: Literal["pax"] | None = None
    libarchive_xattr: bool = False

    def __post_init__(self) -> None:
        if self.sparse not in (None, "pax"):
            raise ValueError(f"sparse {self.sparse!r} is neither None nor 'pax'")


def write_layer(
    table: EntryTable,
    out: Any,
    *,
    payload: Payload,
    compression: str = "gzip",
    level: int | None = None,
    clamp_mtime: int | None = None,
    idmap: IdMap | None = None,
    sparse: Literal["pax"] | None = None,
    libarchive_xattr: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> LayerInfo:
    """Write ``table``, in its own order, as a layer blob to ``out``: a path or a binary file object.

    ``payload`` has the content of regular files: a directory (each row's path below it), a LayerReader of the layer
    that the table was read from (a compressed one needs the rows in archive order, and a reader that has not passed
    them), or a callable that gets a row number and returns all ``size`` bytes. Rows of a directory that only exist as
    somebody's parent, and names that the directory lists and denies, are left out (tests/contract 107).

    ``compression`` is "gzip", "zstd" or "none", ``level`` its level. ``clamp_mtime``: seconds since the epoch, later
    mtimes become this (61). ``idmap``: the table has ids of the host, the layer gets the container's (70). ``sparse``
    "pax": holes are kept as pax 1.0 sparse entries (76, 77), else written as zeros. ``libarchive_xattr``: extended
    attributes also as ``LIBARCHIVE.xattr.``, the only form that carries an empty value (110).

    FormatError (``.entry``) for an entry that tar or the id map cannot hold, or content that is not of its row's size;
    ValueError for a wrong option or a table that points outside its arena; OSError from reading (with the path) and
    writing. A path is written under another name and renamed at the end.
    """
    options = TarOptions(clamp_mtime, idmap, sparse, libarchive_xattr)
    rows = np.flatnonzero((table.flags & (F_GHOST | F_IMPLIED)) == 0)
    if isinstance(payload, str | os.PathLike):
        return write_rows(
            table,
            out,
            rows=rows,
            root=payload,
            compression=compression,
            level=level,
            options=options,
            progress=progress,
        )
    with BlobWriter(out, compression=compression, level=level) as blob:
        writer = RowWriter(table, rows, blob, options, progress)
        if isinstance(payload, Chunks):
            writer.copy(lambda row: payload.chunks(table[row]))
        else:
            writer.copy(lambda row: iter([memoryview(payload(row)).cast("B")]))
        return writer.info(blob)


def write_rows(
    table: EntryTable,
    out: Any,
    *,
    root: int | str | os.PathLike[str],
    rows: Iterable[int] | NDArray[Any] | None = None,
    compression: str = "gzip",
    level: int | None = None,
    options: TarOptions = TarOptions(),
    progress: Callable[[Progress], None] | None = None,
) -> LayerInfo:
    """Write ``rows`` of ``table`` (row numbers, in this order; all unless given), content from below ``root``.

    ``root`` is a directory, as a descriptor or a path; no symlink below it is followed, and an OSError's path is
    relative to a descriptor. The first row of a hard-link
    set that is written carries the content, the others become links to it. Everything else as :func:`write_layer`.
    """
    numbers = np.arange(len(table)) if rows is None else np.asarray(list(rows) if not hasattr(rows, "dtype") else rows)
    with BlobWriter(out, compression=compression, level=level) as blob:
        writer = RowWriter(table, np.ascontiguousarray(numbers, np.int64), blob, options, progress)
        with contextlib.nullcontext(root) if isinstance(root, int) else _directory(root) as fd:
            writer.pack(fd)
        return writer.info(blob)


@contextlib.contextmanager
def _directory(path: str | os.PathLike[str]) -> Iterator[int]:
    """Lend a descriptor; an OSError from below it gets the whole path."""
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    except OSError as error:
        if isinstance(error.filename, bytes):
            error.filename = os.path.join(os.fspath(path), os.fsdecode(error.filename))
        raise
    finally:
        os.close(fd)


class RowWriter:
    """One tar on its way into a blob."""

    def __init__(
        self,
        table: EntryTable,
        rows: NDArray[np.int64],
        blob: BlobWriter,
        options: TarOptions,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= len(table)):
            raise ValueError(f"row numbers outside the table's {len(table)} rows")
        self._table = table
        self._rows = rows
        self._columns = container_owners(table, rows, options.idmap)
        self._blob = blob
        self._options = options
        self._progress = progress
        grouped = bool((table.columns[AT["link_group"]] >= 0).any())
        self._links = np.full(len(table), -1, np.int32) if grouped else None
        self._head = bytearray(_HEAD_NBYTES)
        self._regions = np.empty(2 * _N_REGIONS, np.int64) if options.sparse else None
        self._n_entries = 0
        self._n_uncarried = 0
        self._warnings: list[str] = []

    def pack(self, root_fd: int) -> None:
        """Write headers and content of files below ``root_fd``, and the end marker."""
        state = bytearray(content.STATE_NBYTES)
        event = content.FULL
        try:
            while event != content.DONE:
                nbytes, event, row = content.pack(
                    root_fd,
                    self._columns,
                    self._rows,
                    state,
                    self._blob.buffer(),
                    self._head,
                    self._regions,
                    self._links,
                    self._options.clamp_mtime,
                    self._options.libarchive_xattr,
                )
                self._blob.commit(nbytes)
                self._n_entries, self._n_uncarried = content.counts(state)
                if event == content.FULL:
                    self._report()
                elif event != content.DONE:
                    self._serve(event, row)
        finally:
            content.release(state)

    def _serve(self, event: int, row: int) -> None:
        path = self._table.path(row)
        if event == content.HEAD:
            self._head = bytearray(4 * len(self._head))
        elif event == content.REGIONS and self._regions is not None:
            n_regions, limit = len(self._regions) // 2, Limits().sparse_entries
            if n_regions >= limit:
                raise LimitExceededError("sparse_entries", n_regions + 1, entry=path)
            self._regions = np.empty(2 * min(4 * n_regions, limit), np.int64)
        else:
            self._warnings.append(f"{os.fsdecode(path)!r} {_EVENTS[event]}")

    def copy(self, payload: Callable[[int], Iterator[memoryview]]) -> None:
        """Write headers, and the content that ``payload`` gives by row in pieces, and the end marker."""
        at = due = 0
        while at < len(self._rows):
            n_rows, n_payload = self._form(at)
            at += n_rows
            self._n_entries = at
            if n_payload:
                row = int(self._rows[at - 1])
                self._copy_content(row, payload(row))
                self._blob.write(bytes(-n_payload % _BLOCK))
            if at >= due or n_payload >= _LARGE:
                self._report()
                due = at + _ROWS_A_REPORT
        self._blob.write(bytes(2 * _BLOCK))

    def _form(self, at: int) -> tuple[int, int]:
        """Write headers of rows from ``at`` on, one at least: how many, and the bytes of content behind the last."""
        options = (
            self._links,
            self._options.clamp_mtime,
            self._options.libarchive_xattr,
            self._options.sparse is not None,
        )
        n_rows, nbytes, n_payload, n_lost = tarform.form(self._columns, self._rows, self._blob.buffer(), at, *options)
        self._blob.commit(nbytes)
        one = self._rows[at : at + 1]
        while n_rows == 0:  # the rest of the buffer cannot hold it
            n_rows, nbytes, n_payload, n_lost = tarform.form(self._columns, one, self._head, 0, *options)
            if n_rows:
                self._blob.write(memoryview(self._head)[:nbytes])
            else:
                self._head = bytearray(4 * len(self._head))
        self._n_uncarried += n_lost
        return n_rows, n_payload

    def _copy_content(self, row: int, pieces: Iterator[memoryview]) -> None:
        """Write what of the content is in the row's data regions: all of it, unless it is kept sparse."""
        size = int(self._table.size[row])
        sparse = self._options.sparse and int(self._table.flags[row]) & F_SPARSE
        found = self._table.sparse(row) if sparse else None
        regions = [(0, size)] if found is None else found.tolist()
        at = i = 0
        for piece in pieces:
            end = at + len(piece)
            while i < len(regions) and regions[i][0] < end:
                off, nbytes = regions[i]
                self._blob.write(piece[max(off - at, 0) : off + nbytes - at])
                if off + nbytes > end:
                    break
                i += 1
            at = end
        if at != size:
            raise FormatError(f"the payload has {at} bytes, its row says {size}", entry=self._table.path(row))

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(Progress("write", self._n_entries, len(self._rows), "entries"))

    def _uncarried(self) -> str:
        found = (n for row in self._rows for n, v in self._table.xattrs(int(row)).items() if not v or b"=" in n)
        return os.fsdecode(next(found, b""))

    def info(self, blob: BlobWriter) -> LayerInfo:
        """Finish the blob and say what it is."""
        result = blob.finish()
        self._report()
        if self._n_uncarried:
            self._warnings.append(
                f"{self._n_uncarried} extended attributes left out, {self._uncarried()} the first: "
                "pax cannot carry an empty value, or a name with '='"
            )
        if result.digest is None or result.diff_id is None:
            raise RuntimeError("the blob was written without digests")
        return LayerInfo(
            media_type=result.media_type,
            digest=result.digest,
            diff_id=result.diff_id,
            size=result.size,
            uncompressed_size=result.uncompressed_size,
            entries=self._n_entries,
            codec=result.codec_name,
            warnings=tuple(self._warnings),
        )
