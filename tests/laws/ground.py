"""What the laws share: fresh trees for every example, and the words of the tar format's equality."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lamella
from lamella.testing.listing import Found
from lamella.testing.tars import Member, layer_tar
from lamella.testing.trees import Hardlink, Script, build

AS_ROOT = os.geteuid() == 0


@contextlib.contextmanager
def fresh(home: Path) -> Iterator[Path]:
    """Lend a directory for one example."""
    with tempfile.TemporaryDirectory(dir=home / "tmp") as folder:
        yield Path(folder)


def laid(where: Path, *scripts: Script) -> Path:
    """Build a tree by scripts one after another."""
    build(where)
    for script in scripts:
        script.apply(where)
    return where


def without_links(script: Script) -> Script:
    """Leave the hard links out of a script that builds a tree."""
    return Script(tuple(edit for edit in script.edits if not isinstance(edit, Hardlink)), script.dir_mtime_ns)


def diff(lower: Path | None, upper: Path | None, **options: Any) -> tuple[Any, bytes]:
    """Diff into memory, uncompressed."""
    out = io.BytesIO()
    info = lamella.diff(lower, upper, out, **{"compression": "none", **options})
    return info, out.getvalue()


def apply(layer: bytes | list[Member], root: Path, **options: Any) -> Any:
    """Apply bytes or members."""
    data = layer if isinstance(layer, bytes) else layer_tar(layer)
    return lamella.apply(data, root, **{"rootless": not AS_ROOT, **options})


def expected(lower: dict[bytes, Found], upper: dict[bytes, Found], emitted: set[bytes]) -> dict[bytes, Found]:
    """Return ``upper`` with the time of every directory that the diff did not emit as ``lower`` has it."""
    out = dict(upper)
    for path, row in upper.items():
        below = lower.get(path)
        if row.type == "dir" and path not in emitted and below is not None:
            out[path] = row._replace(mtime_ns=below.mtime_ns)
    return out
