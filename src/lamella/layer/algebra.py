"""Layers as values: compose, squash, minimise, rebase, invert; from tables and content, without a file system.

A layer is a table in archive order and a source of content (:class:`TarLayer`: a reader that can be opened again, or a
callable by row); a table alone will do where no content is read. A result (:class:`Composed`) is a layer too: its
``table`` and, for each row, the number of the layer and the row there that it comes from. Content lies in compressed
blobs that are read forward, so rows with content stand in the order of (layer, row): two passes, one over the headers and
one over the content of what survives, and nothing is kept. Rows are folded as an apply takes them into a tree of names
(layer/names.py), where symlinked parents and hard links are resolved when their row comes, never at the end; the tree is
spelled again as rows (layer/spelling.py): directories before what is in them, markers before their siblings, the first
name of an inode with its content.

What is ``lower`` decides what can be known. A sequence of tables: everything (``()``: there is nothing, and no marker is
left). ``"directories"``: the caller vouches that what the layers pass through on their way are directories. None: any
tree; then what could go through a symlink of it must be the same in every order, or it is a ConflictError. One layer
cannot say, and a ConflictError names: a row or marker whose effect hangs on whether a directory without an entry is a
symlink in the lower tree; a symlink of the layers to what the lower tree may not have; a hard link to what is missing, or
a directory, when its row comes; a lower file whose last name is below the directory that has taken its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from lamella.layer.composed import AnyLayer, Composed, TarLayer, composed, layer_of
from lamella.layer.folding import Fold, fold
from lamella.layer.names import UNKNOWN, Folder
from lamella.layer.rebasing import Conflict, Merge
from lamella.layer.redundant import open_up, unchanged
from lamella.layer.sameness import Content
from lamella.layer.spelling import spell
from lamella.layer.undoing import undo
from lamella.table import EntryTable

__all__ = ["Composed", "Conflict", "Rebased", "TarLayer", "compose", "invert", "minimise", "rebase", "squash"]

Layers = Iterable[AnyLayer | EntryTable]
Lower = Sequence[AnyLayer | EntryTable] | Literal["directories"] | None


def compose(*layers: AnyLayer | EntryTable, lower: Lower = None) -> Composed:
    """Return one layer that does what ``layers``, the first of them lowest, do one after another (law L3).

    ``lower`` is what is known of the tree below: its layers or tables, lowest first; ``"directories"``; or None (see the
    module). ConflictError (``.path``) for what one layer cannot say, and for a layer that does not fit; WhiteoutError,
    UnsafePathError as an apply raises them. ``lower`` comes first in the result's ``layers``.
    """
    return _composed(layers, lower)


def squash(layers: Layers) -> Composed:
    """Return ``layers``, lowest first, as the one layer of an image: nothing is below, so it has no markers (115).

    Hard links are resolved when their row comes (45), those of symlinks too. An iterator is asked for a layer when the
    one before it is folded, so that tables can be read meanwhile. Errors as :func:`compose`.
    """
    return _composed(layers, ())


@dataclass(frozen=True, slots=True, eq=False)
class Rebased:
    """Layers for another base, lowest first, and what stood in the way: the layers' own is kept there."""

    layers: tuple[Composed, ...]
    conflicts: tuple[Conflict, ...]


def minimise(layer: AnyLayer | EntryTable, lower: Sequence[AnyLayer | EntryTable], *, content: Content = "auto") -> Composed:
    """Return ``layer`` without what changes nothing upon ``lower`` (layers or tables, lowest first).

    Left out are entries that ``lower`` has already, to the nanosecond, with the same hard links; whiteouts of what is not
    there, or is hidden anyway (14); an opaque marker that hides only what the layer has again. Directories on the way to
    what is left stay (117). ``content`` says how files of equal metadata are compared, as in :func:`lamella.changes`;
    one whose content cannot be read stays. Errors as :func:`compose`.
    """
    every, folded, root = _folded([layer], lower)
    open_up(folded, root)
    return composed(spell(folded, root, same=unchanged(folded, root, every, content)), every, folded.paths)


def invert(layer: AnyLayer | EntryTable, lower: Sequence[AnyLayer | EntryTable]) -> Composed:
    """Return the layer that undoes ``layer`` upon ``lower``: after both, the tree is ``lower`` again.

    Its content comes from ``lower`` (layers or tables, lowest first). Errors as :func:`compose`, and ConflictError where
    ``layer`` has an entry for the root and ``lower`` has none.
    """
    every, folded, root = _folded([layer], lower)
    return composed(undo(folded, root or Folder()), every, folded.paths)


def rebase(
    layers: Layers,
    old_base: Sequence[AnyLayer | EntryTable],
    new_base: Sequence[AnyLayer | EntryTable],
    *,
    content: Content = "auto",
) -> Rebased:
    """Move ``layers``, which were made upon ``old_base``, to ``new_base`` (each lowest first): a three-way merge.

    What a layer has exactly as the old base has it is no change, and the new base's is taken. Where the layer and the new
    base made different changes the result has the layer's, and a :class:`Conflict`. Symlinked parents and hard links are
    resolved in the old base (45); a link whose source the new base changed carries its content. A directory's time is
    never a conflict (58). ``content`` and errors as in :func:`minimise`.
    """
    old, new = ([layer_of(layer) for layer in base] for base in (old_base, new_base))
    every = [*old, *new]
    tables = [each.table for each in every]
    before, after = Fold(tables, None), Fold(tables, None)
    for at in range(len(tables)):
        (before if at < len(old) else after).add(at)
    results: list[Composed] = []
    conflicts: list[Conflict] = []
    for number, layer in enumerate(map(layer_of, layers)):
        every.append(layer)
        tables.append(layer.table)
        folded = Fold(tables, before.names.root)
        folded.add(len(tables) - 1)
        merge = Merge(folded, (before.names.root, after.names.root), every, number, content)
        merge.run()
        made = composed(spell(folded, after.names.root, same=merge.same), list(every), folded.paths)
        results.append(made)
        conflicts += merge.conflicts
        before.add(len(tables) - 1)
        every.append(made)
        tables.append(made.table)
        after.add(len(tables) - 1)
    return Rebased(tuple(results), tuple(conflicts))


def _composed(layers: Layers, lower: Lower) -> Composed:
    every, folded, root = _folded(layers, lower)
    return composed(spell(folded, root), every, folded.paths)


def _folded(layers: Layers, lower: Lower) -> tuple[list[AnyLayer], Fold, Folder | None]:
    every = [] if lower is None or isinstance(lower, str) else [layer_of(layer) for layer in lower]
    tables = [layer.table for layer in every]
    root: Folder | None = UNKNOWN
    if lower is not None and not isinstance(lower, str):
        root = fold(tables).names.root if tables else None
    folded = Fold(tables, root, strict=lower is None)
    for layer in map(layer_of, layers):
        every.append(layer)
        tables.append(layer.table)
        folded.add(len(tables) - 1)
    return every, folded, root
