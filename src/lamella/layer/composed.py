"""Layers as values of the algebra: a table, and where its content comes from, read forward only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lamella._kernels import changes as kernel
from lamella.columns import ARENA, AT, COLUMNS, F_ATIME, F_SPARSE
from lamella.errors import LimitExceededError
from lamella.layer.spelling import MADE, MARKER, Spelled
from lamella.table import Entry, EntryTable
from lamella.tar.reader import LayerReader, read_layer
from lamella.tar.writer import LayerInfo, write_layer

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["AnyLayer", "Composed", "TarLayer", "composed", "layer_of", "rows_of"]

_HARDLINK, _FILE, _DIR = ord("1"), ord("0"), ord("5")
_MAX_PATH = 0xFFFF


@dataclass(frozen=True, slots=True, eq=False)
class TarLayer:
    """A layer: its table in archive order, and its content by ``open`` (a new reader each time) or by ``read`` (a row)."""

    table: EntryTable
    open: Callable[[], LayerReader] | None = None
    read: Callable[[int], Buffer] | None = None

    @classmethod
    def of(cls, source: Any) -> TarLayer:
        """Read the table of ``source``: a path or a buffer, which is opened again for content. Errors of the reader."""
        with read_layer(source) as reader:
            table = reader.table()
        return cls(table, lambda: read_layer(source, digests=False))

    @property
    def readable(self) -> bool:
        """Whether there is content to read."""
        return self.open is not None or self.read is not None

    def contents(self, rows: Iterable[int]) -> Iterator[Iterator[memoryview]]:
        """Iterate over the content of ``rows`` (ascending), each in pieces; read one before asking for the next.

        ValueError for a layer that is a table alone.
        """
        if self.read is not None:
            yield from (iter([memoryview(self.read(row)).cast("B")]) for row in rows)
        elif self.open is not None:
            with self.open() as reader:
                yield from (reader.chunks(self.table[row]) for row in rows)
        elif next(iter(rows), None) is not None:
            raise ValueError("a layer that is only a table has no content")


@dataclass(frozen=True, slots=True, eq=False)
class Composed:
    """What the algebra makes: ``table``, and for each row the number of its layer in ``layers`` (-1: none) and row there."""

    table: EntryTable
    layers: Sequence[AnyLayer]
    origin: NDArray[np.int32]
    origin_row: NDArray[np.int64]

    @property
    def readable(self) -> bool:
        """Whether there is content to read, in every layer that has a part in this."""
        return all(self.layers[number].readable for number in np.unique(self.origin[self.origin >= 0]).tolist())

    def contents(self, rows: Iterable[int]) -> Iterator[Iterator[memoryview]]:
        """Iterate over the content of ``rows`` (ascending): each layer is read once, and only if something is wanted."""
        numbers = np.fromiter(rows, np.int64)
        origins = self.origin[numbers]
        for begin in np.flatnonzero(np.diff(origins, prepend=-2)).tolist():
            layer = int(origins[begin])
            more = np.flatnonzero(origins[begin:] != layer)
            end = begin + int(more[0]) if len(more) else len(numbers)
            yield from self.layers[layer].contents(self.origin_row[numbers[begin:end]].tolist())

    def write(self, out: Any, **options: Any) -> LayerInfo:
        """Write it as a layer to ``out``, a path or binary file object; ``options`` and errors of :func:`lamella.write_layer`.

        Content streams from the layers; memory does not grow with it.
        """
        return write_layer(self.table, out, payload=_Stream(self), **options)


AnyLayer = TarLayer | Composed


class _Stream:
    """The content of a composed layer, for a writer that asks in the table's order."""

    def __init__(self, layer: Composed) -> None:
        table = layer.table
        self._rows = iter(np.flatnonzero((table.type == _FILE) & (table.size > 0)).tolist())
        self._table = table
        self._contents = layer.contents(np.flatnonzero((table.type == _FILE) & (table.size > 0)).tolist())

    def chunks(self, entry: Entry) -> Iterator[memoryview]:
        row = next(self._rows)
        if self._table.path(row) != entry.path:
            raise ValueError(f"content is asked for out of order: {entry!r}")
        return next(self._contents)


def layer_of(layer: AnyLayer | EntryTable) -> AnyLayer:
    """Return a table as a layer without content, a layer as it is."""
    return TarLayer(layer) if isinstance(layer, EntryTable) else layer


def composed(spelled: Spelled, layers: Sequence[AnyLayer], paths: dict[int, list[bytes]]) -> Composed:
    """Gather ``spelled`` rows of ``layers`` into one table; ``paths`` has the names of those that were folded."""
    order = spelled.finish()
    origin = np.array(spelled.layer, np.int32)[order]
    row = np.array(spelled.row, np.int64)[order]
    used = np.unique(origin[origin >= 0]).tolist()
    gather = _Gather([layers[i].table for i in used])
    begins = np.zeros(len(layers) + 2, np.int64)
    begins[used] = gather.begins
    begins[MARKER], begins[MADE] = gather.n_rows, gather.n_rows + 1  # the last two items
    numbers = begins[origin] + np.where(origin >= 0, row, 0)
    paths = paths | {i: list(layers[i].table.paths) for i in used if i not in paths}
    renamed: list[tuple[int, bytes, bytes | None]] = []
    links, names = spelled.links, spelled.path
    for at, (number, layer, source) in enumerate(zip(order.tolist(), origin.tolist(), row.tolist(), strict=True)):
        path = names[number]
        if number in links:
            renamed.append((at, path, links[number]))
        elif layer < 0 or paths[layer][source] != path:
            renamed.append((at, path, None))
    table = gather.table(numbers, renamed)
    return Composed(table, layers, np.where(origin >= 0, origin, -1).astype(np.int32), row)


def rows_of(layers: Sequence[AnyLayer], origins: Sequence[tuple[int, int]], names: list[bytes]) -> EntryTable:
    """Return rows of ``layers``, given as (layer, row), under other names, in path order if the names are.

    A hard link's row is what it says, not what it links to; layer MADE is a directory that an apply would imply.
    """
    used = sorted({layer for layer, _ in origins if layer >= 0})
    gather = _Gather([layers[i].table for i in used])
    begins = dict(zip(used, gather.begins.tolist(), strict=True)) | {MARKER: gather.n_rows, MADE: gather.n_rows + 1}
    numbers = np.array([begins[layer] + (row if layer >= 0 else 0) for layer, row in origins], np.int64)
    table = gather.table(numbers, [(at, name, None) for at, name in enumerate(names)])
    table.order = "path"
    return table


class _Gather:
    """Rows of several tables, and behind them one marker and one directory to copy."""

    def __init__(self, tables: list[EntryTable]) -> None:
        self._tables = tables
        lengths = np.array([len(t) for t in tables], np.int64)
        self.begins = np.cumsum(lengths) - lengths
        self.n_rows = int(lengths.sum())

    def table(self, numbers: NDArray[np.int64], renamed: list[tuple[int, bytes, bytes | None]]) -> EntryTable:
        """Return the rows ``numbers``; ``renamed``: (row, path, target of a hard link or None)."""
        columns = [self._column(i, numbers) for i in range(ARENA)]
        arenas = [t.columns[ARENA] for t in self._tables]
        sizes = np.array([len(a) for a in arenas], np.int64)
        shift = np.repeat(np.cumsum(sizes) - sizes, [len(t) for t in self._tables])
        shift = np.concatenate([shift, [0, 0]])[numbers]
        columns[AT["name_off"]] += shift
        columns[AT["ext_off"]] += shift
        columns[AT["flags"]] &= F_ATIME | F_SPARSE
        columns[AT["link_group"]][:] = -1
        text, end = [], int(sizes.sum())
        texts = {at: self._symlink(int(numbers[at])) for at, _, target in renamed if target is None}
        for at, path, target in renamed:
            if len(path) > _MAX_PATH:
                raise LimitExceededError("path", len(path), entry=path)
            tail = texts[at] if target is None else target
            columns[AT["name_off"]][at], columns[AT["path_len"]][at], columns[AT["link_len"]][at] = end, len(path), len(tail)
            text.append(path + tail)
            end += len(path) + len(tail)
        links = np.array([at for at, _, target in renamed if target is not None], np.int64)
        columns[AT["type"]][links] = _HARDLINK
        columns[AT["size"]][links] = 0
        columns[AT["flags"]][links] &= ~np.uint8(F_SPARSE)
        whole = np.concatenate([*arenas, np.frombuffer(b"".join(text), np.uint8)])
        return _compacted([*columns, whole])

    def _column(self, i: int, numbers: NDArray[np.int64]) -> Any:
        name, kind = COLUMNS[i]
        if name in ("data_off", "dev", "ino"):
            return None
        last = {"type": (_FILE, _DIR), "mode": (0, 0o755)}.get(name, (0, 0))
        parts = [t.columns[i] for t in self._tables] + [np.array(last, kind)]
        return np.concatenate(parts)[numbers]

    def _symlink(self, number: int) -> bytes:
        """Return the link text of a row, for a name elsewhere."""
        if number >= self.n_rows:
            return b""
        at = int(np.searchsorted(self.begins, number, "right")) - 1
        return self._tables[at].link_target(number - int(self.begins[at]))


def _compacted(columns: list[Any]) -> EntryTable:
    arena = np.empty(max(kernel.compact(tuple(columns)), 1), np.uint8)
    kernel.compact(tuple(columns), arena)
    columns[ARENA] = arena
    return EntryTable(tuple(columns), "archive")
