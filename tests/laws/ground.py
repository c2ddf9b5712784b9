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


def expected(
    lower: dict[bytes, Found], upper: dict[bytes, Found], emitted: set[bytes], *, dir_mtime: bool = False
) -> dict[bytes, Found]:
    """Return ``upper`` with the time of what the diff did not emit as ``lower`` has it, where that is no change.

    So it is for a directory's (item 58), unless ``dir_mtime``, and for times of one second of which one has no
    nanoseconds (item 55).
    """
    out = dict(upper)
    for path, row in upper.items():
        below = lower.get(path)
        if below is None or path in emitted:
            continue
        if (row.type == "dir" and not dir_mtime) or same_time(below.mtime_ns, row.mtime_ns):
            out[path] = row._replace(mtime_ns=below.mtime_ns)
    return out


def same_time(a: int, b: int) -> bool:
    """Tell whether two times are equal, or may be, one of them cut to whole seconds."""
    (a_s, a_ns), (b_s, b_ns) = divmod(a, 10**9), divmod(b, 10**9)
    return a_s == b_s and (a_ns == b_ns or 0 in {a_ns, b_ns})


def hidden(lower: dict[bytes, Found], upper: dict[bytes, Found]) -> bool:
    """Tell whether the content of a file changed, and its time, to the nanosecond, says that it did not (item 55)."""
    pairs = [(lower[path], new) for path, new in upper.items() if path in lower and new.mtime_ns % 1_000_000_000]
    return any(a.sha256 != b.sha256 and (a.size, a.mtime_ns) == (b.size, b.mtime_ns) for a, b in pairs)
