"""Layers as values of the algebra: a table, and where its content comes from, read forward only."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lamella._kernels import changes as kernel
from lamella.columns import ARENA, AT, COLUMNS, F_ATIME, F_SPARSE
from lamella.errors import LimitExceededError
from lamella.layer.spelling import MADE, MARKER, Spelled
from lamella.table import Entry, EntryTable
from lamella.tar.reader import LayerReader, read_layer
from lamella.tar.splicing import Source, write_spliced
from lamella.tar.writer import LayerInfo, TarOptions, write_layer

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["AnyLayer", "Composed", "TarLayer", "composed", "layer_of", "rows_of"]

_HARDLINK, _FILE, _DIR = ord("1"), ord("0"), ord("5")
_MAX_PATH = 0xFFFF
_DIGITS = 9


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
        plan = _plan(self)
        if plan is None:
            return write_layer(self.table, out, payload=_Stream(self), **options)
        named = {key: options.pop(key) for key in ("compression", "level", "progress") if key in options}
        return write_spliced(self.table, out, *plan, options=TarOptions(**options), **named)


AnyLayer = TarLayer | Composed


def _leaves(layer: AnyLayer, rows: NDArray[np.int64]) -> tuple[list[TarLayer], NDArray[np.int64], NDArray[np.int64]]:
    """Return of ``rows`` the tar layers that have their content: those, the place of each row's among them, its row there."""
    if isinstance(layer, TarLayer):
        return [layer], np.zeros(len(rows), np.int64), rows
    found: list[TarLayer] = []
    which, own = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    origin = layer.origin[rows]
    for number in np.unique(origin).tolist():
        at = np.flatnonzero(origin == number)
        leaves, places, inside = _leaves(layer.layers[number], layer.origin_row[rows[at]])
        which[at], own[at] = places + len(found), inside
        found += leaves
    return found, which, own


def _plan(layer: Composed) -> tuple[NDArray[np.int64], list[Source]] | None:
    """Return where in which tars the content is, as :func:`write_spliced` wants it; None where one is no tar."""
    table = layer.table
    rows = np.flatnonzero((table.type == _FILE) & (table.size > 0))
    leaves, which, own = _leaves(layer, rows)
    if any(leaf.open is None or leaf.read is not None for leaf in leaves):
        return None
    offs = np.full(len(table), -1, np.int64)
    for number, leaf in enumerate(leaves):
        at = which == number
        offs[rows[at]] = leaf.table.data_off[own[at]]
    sources: list[Source] = []
    begins = np.flatnonzero(np.diff(which, prepend=-1)).tolist()
    for begin, after in itertools.pairwise([*begins, len(rows)]):
        end = int(rows[after]) if after < len(rows) else len(table)
        sources.append((end, partial(_raw, leaves[int(which[begin])])))
    return offs, sources or [(len(table), partial(_raw, None))]


@contextmanager
def _raw(layer: TarLayer | None) -> Iterator[Iterator[memoryview]]:
    if layer is None or layer.open is None:
        yield iter(())
        return
    with layer.open() as reader:
        yield reader.raw()


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
    numbers = gather.numbers(used, origin, row)
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


def rows_of(layers: Sequence[AnyLayer], origins: Sequence[tuple[int, int]]) -> EntryTable:
    """Return rows of ``layers``, given as (layer, row), in path order: the n-th under the name of its number.

    A hard link's row is what it says, not what it links to; layer MADE is a directory that an apply would imply.
    """
    pairs = np.array(origins, np.int64).reshape(-1, 2)
    used = np.unique(pairs[pairs[:, 0] >= 0, 0]).tolist()
    gather = _Gather([layers[i].table for i in used])
    return gather.numbered(gather.numbers(used, pairs[:, 0], pairs[:, 1]))


class _Gather:
    """Rows of several tables, and behind them one marker and one directory to copy."""

    def __init__(self, tables: list[EntryTable]) -> None:
        self._tables = tables
        lengths = np.array([len(t) for t in tables], np.int64)
        self.begins = np.cumsum(lengths) - lengths
        self.n_rows = int(lengths.sum())

    def numbers(self, used: list[int], origin: NDArray[Any], row: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows' numbers here; ``used`` are the layers of the tables, ``origin`` may be MARKER or MADE."""
        begins = np.zeros(max(used, default=-1) + 3, np.int64)
        begins[used] = self.begins
        begins[MARKER], begins[MADE] = self.n_rows, self.n_rows + 1  # the last two items
        return np.asarray(begins[origin] + np.where(origin >= 0, row, 0), np.int64)

    def table(self, numbers: NDArray[np.int64], renamed: list[tuple[int, bytes, bytes | None]]) -> EntryTable:
        """Return the rows ``numbers``; ``renamed``: (row, path, target of a hard link or None)."""
        columns, arenas = self._columns(numbers)
        text, end = [], sum(map(len, arenas))
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
        return _compacted([*columns, np.concatenate([*arenas, np.frombuffer(b"".join(text), np.uint8)])])

    def numbered(self, numbers: NDArray[np.int64]) -> EntryTable:
        """Return the rows ``numbers`` in path order, each under the name of its place, nine digits."""
        columns, arenas = self._columns(numbers)
        n, end = len(numbers), sum(map(len, arenas))
        digits = (np.arange(n)[:, None] // 10 ** np.arange(_DIGITS - 1, -1, -1) % 10 + ord("0")).astype(np.uint8)
        linked = np.flatnonzero(columns[AT["link_len"]]).tolist()
        columns[AT["name_off"]], columns[AT["path_len"]][:] = end + _DIGITS * np.arange(n), _DIGITS
        text, end = [], end + _DIGITS * n
        for at in linked:  # the text of a symlink stands behind its name
            text.append(digits[at].tobytes() + self._symlink(int(numbers[at])))
            columns[AT["name_off"]][at] = end
            end += len(text[-1])
        arena = np.concatenate([*arenas, digits.reshape(-1), np.frombuffer(b"".join(text), np.uint8)])
        return EntryTable((*columns, arena), "path")

    def _columns(self, numbers: NDArray[np.int64]) -> tuple[list[Any], list[NDArray[np.uint8]]]:
        """Return the columns of the rows ``numbers``, offsets into all arenas one behind the other; and the arenas."""
        columns = [self._column(i, numbers) for i in range(ARENA)]
        arenas = [t.columns[ARENA] for t in self._tables]
        sizes = np.array([len(a) for a in arenas], np.int64)
        shift = np.repeat(np.cumsum(sizes) - sizes, [len(t) for t in self._tables])
        shift = np.concatenate([shift, [0, 0]]).astype(np.int64)[numbers]
        columns[AT["name_off"]] += shift
        columns[AT["ext_off"]] += shift
        columns[AT["flags"]] &= F_ATIME | F_SPARSE
        columns[AT["link_group"]][:] = -1
        return columns, arenas

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
