"""A layer's table as the table of the tree it makes: what can be compared with a directory's."""

from __future__ import annotations

from typing import Any

import numpy as np

from lamella.columns import ARENA, AT
from lamella.table import EntryTable

__all__ = ["as_tree"]

_HARDLINK, _SYMLINK, _DIR = (ord(flag) for flag in "125")
_OF_THE_NAME = (AT["name_off"], AT["path_len"], AT["link_len"], ARENA)


def as_tree(table: EntryTable) -> EntryTable:
    """Return ``table`` in path order, its hard-link entries as further names of the inode they name.

    Such a row takes the metadata of its target (tests/contract 46) and both are in one link group. One whose target is
    not in the table, being in a lower layer, stays a hard-link entry.
    """
    table = table.sorted()
    links = np.flatnonzero(table.type == _HARDLINK)
    if not len(links):
        return table
    columns: list[Any] = [None if c is None else c if i == ARENA else c.copy() for i, c in enumerate(table.columns)]
    names, end = [], len(table.columns[ARENA])
    sets: dict[int, list[int]] = {}
    for row in links.tolist():
        target = _inode(table, row)
        if target < 0:
            continue
        sets.setdefault(target, [target]).append(row)
        for i, column in enumerate(columns):
            if column is not None and i not in _OF_THE_NAME:
                column[row] = column[target]
        text = table.link_target(target) if table.type[target] == _SYMLINK else b""
        columns[AT["link_len"]][row] = len(text)
        if text:  # it stands behind the path
            columns[AT["name_off"]][row] = end
            names.append(table.path(row) + text)
            end += len(names[-1])
    for rows in sets.values():
        columns[AT["link_group"]][rows] = min(rows)
    columns[ARENA] = np.concatenate([columns[ARENA], np.frombuffer(b"".join(names), np.uint8)])
    return EntryTable(tuple(columns), "path")


def _inode(table: EntryTable, row: int) -> int:
    """Follow a hard-link entry to the row that is no such entry, -1 where it leads to none or to a directory."""
    for _ in range(len(table)):
        row = table.find(table.link_target(row))
        if row < 0 or table.type[row] == _DIR:
            return -1
        if table.type[row] != _HARDLINK:
            return row
    return -1
