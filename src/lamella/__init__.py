"""Read, apply, diff and store container image layers.

A layer tar, a directory and a snapshot are one table spelled three ways: :class:`EntryTable`. The calls of this module
go from one spelling to another; each is documented where it lives, and loaded when it is first used.

    info = lamella.diff(None, "tree", "layer.tar.gz")
    lamella.apply("layer.tar.gz", "root", expected_diff_id=info.diff_id)
    assert not list(lamella.changes("root", "tree"))

Exceptions are those of :mod:`lamella.errors`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lamella import errors

if TYPE_CHECKING:
    from lamella.block.pool import ThinPool
    from lamella.drivers.registry import probe_drivers
    from lamella.image.image import open_image
    from lamella.layer import algebra
    from lamella.layer.apply import ApplyResult, apply
    from lamella.layer.changeset import Change, Changeset
    from lamella.layer.diff import changes, diff
    from lamella.layer.policy import Policy
    from lamella.layer.upper import changes_from_upper, diff_from_upper
    from lamella.model import ChangeKind, EntryType, IdMap, Limits, Progress, Why
    from lamella.store.store import Store
    from lamella.table import Entry, EntryTable
    from lamella.tar.reader import LayerReader, read_layer
    from lamella.tar.writer import LayerInfo, write_layer
    from lamella.tree.scan import scan

__version__ = "0.1.0"

__all__ = [
    "ApplyResult",
    "Change",
    "ChangeKind",
    "Changeset",
    "Entry",
    "EntryTable",
    "EntryType",
    "IdMap",
    "LayerInfo",
    "LayerReader",
    "Limits",
    "Policy",
    "Progress",
    "Store",
    "ThinPool",
    "Why",
    "algebra",
    "apply",
    "changes",
    "changes_from_upper",
    "diff",
    "diff_from_upper",
    "errors",
    "open_image",
    "probe_drivers",
    "read_layer",
    "scan",
    "write_layer",
]

_HOMES = {
    "block.pool": ("ThinPool",),
    "drivers.registry": ("probe_drivers",),
    "image.image": ("open_image",),
    "layer.apply": ("ApplyResult", "apply"),
    "layer.changeset": ("Change", "Changeset"),
    "layer.diff": ("changes", "diff"),
    "layer.policy": ("Policy",),
    "layer.upper": ("changes_from_upper", "diff_from_upper"),
    "model": ("ChangeKind", "EntryType", "IdMap", "Limits", "Progress", "Why"),
    "store.store": ("Store",),
    "table": ("Entry", "EntryTable"),
    "tar.reader": ("LayerReader", "read_layer"),
    "tar.writer": ("LayerInfo", "write_layer"),
    "tree.scan": ("scan",),
}
_MODULES = {"algebra": "layer.algebra"}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for (PEP 562)."""
    home = _HOME.get(name) or _MODULES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{home}")
    value = globals()[name] = module if name in _MODULES else getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
