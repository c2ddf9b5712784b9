"""One measurement in an interpreter of its own: ``python -m lamella.bench.child JOB ARGUMENT ...``.

A job first imports what it needs, so that the start of the interpreter is not measured, and then runs once. One line of
JSON tells ``wall`` and ``cpu`` seconds (all threads, and children), ``rss`` and ``floor`` (the peak in bytes, and what
it was before the job ran), and ``facts`` that the job has to tell.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lamella.bench.blocks import JOBS as BLOCK_JOBS
from lamella.bench.driver_costs import JOBS as DRIVER_JOBS
from lamella.bench.file_deltas import JOBS as DELTA_JOBS
from lamella.bench.image_jobs import IMAGE_JOBS
from lamella.bench.machine import high_water
from lamella.bench.pool import JOBS as POOL_JOBS
from lamella.bench.snapshots import JOBS as SNAPSHOT_JOBS
from lamella.bench.thin import THIN_JOBS
from lamella.bench.thin_text import JOBS as THIN_TEXT_JOBS

__all__ = ["JOBS", "main"]

Facts = dict[str, Any]
Call = Callable[[], Facts]


def _apply(layer: str, root: str) -> Call:
    from lamella import apply  # noqa: PLC0415  (each job imports its own things, and no other's)

    def call() -> Facts:
        done = apply(layer, root)
        return {"entries": done.entries, "diff_id": done.diff_id, "warnings": len(done.warnings)}

    return call


def _tarfile_apply(layer: str, root: str, mode: str) -> Call:
    import tarfile  # noqa: PLC0415

    def call() -> Facts:
        with tarfile.open(layer, mode) as tar:  # type: ignore[call-overload]
            tar.extractall(root, numeric_owner=True, filter="fully_trusted")  # noqa: S202  (a layer of our own)
        return {}

    return call


def _fastar_apply(layer: str, root: str) -> Call:
    import fastar  # noqa: PLC0415

    def call() -> Facts:
        with fastar.open(layer, "r:gz") as tar:
            tar.unpack(root)
        return {}

    return call


def _decode(layer: str) -> Call:
    from lamella.stream.blob_reader import BlobReader  # noqa: PLC0415

    def call() -> Facts:
        with BlobReader(layer, digests=False) as reader:
            reader.drain()
            return {"nbytes": reader.uncompressed_size, "codec": reader.codec}

    return call


def _list(layer: str) -> Call:
    from lamella import read_layer  # noqa: PLC0415

    def call() -> Facts:
        with read_layer(layer, digests=False) as reader:
            return {"entries": len(reader.table())}

    return call


def _list_entries(layer: str) -> Call:
    from lamella import read_layer  # noqa: PLC0415

    def call() -> Facts:
        with read_layer(layer, digests=False) as reader:
            return {"entries": sum(1 for entry in reader if entry.path is not None)}

    return call


def _tarfile_list(layer: str) -> Call:
    import tarfile  # noqa: PLC0415

    def call() -> Facts:
        with tarfile.open(layer, "r:") as tar:
            return {"entries": sum(1 for _ in tar)}

    return call


def _changes(lower: str, upper: str, content: Any, xattrs: Any) -> Call:
    from lamella import changes  # noqa: PLC0415

    def call() -> Facts:
        found = changes(lower, upper, content=content, xattrs=xattrs)
        return {"changes": len(found)}

    return call


def _write(tree: str, out: str, compression: str) -> Call:
    from lamella import diff  # noqa: PLC0415

    def call() -> Facts:
        info = diff(None, tree, out, compression=compression)
        return {"diff_id": info.diff_id, "nbytes": os.stat(out).st_size}

    return call


def _tarfile_write(tree: str, out: str, mode: str) -> Call:
    import tarfile  # noqa: PLC0415

    level = {"compresslevel": 6} if mode == "w:gz" else {}

    def call() -> Facts:
        with tarfile.open(out, mode, **level) as tar:  # type: ignore[call-overload]
            for path in sorted(Path(tree).iterdir()):
                tar.add(path, path.name)
        return {"nbytes": os.stat(out).st_size}

    return call


def _zlib(tar: str, out: str) -> Call:
    import zlib  # noqa: PLC0415

    def call() -> Facts:
        packer = zlib.compressobj(6, zlib.DEFLATED, 31)
        with open(tar, "rb") as source, open(out, "wb") as target:
            while piece := source.read(1 << 20):
                target.write(packer.compress(piece))
            target.write(packer.flush())
        return {"nbytes": os.stat(out).st_size}

    return call


def _of(job: Callable[..., Facts]) -> Callable[..., Call]:
    return lambda *arguments: lambda: job(*arguments)


JOBS: dict[str, Callable[..., Call]] = {
    "apply": _apply,
    "changes": _changes,
    "decode": _decode,
    "fastar-apply": _fastar_apply,
    "list": _list,
    "list-entries": _list_entries,
    "tarfile-apply": _tarfile_apply,
    "tarfile-list": _tarfile_list,
    "tarfile-write": _tarfile_write,
    "write": _write,
    "zlib": _zlib,
    **BLOCK_JOBS,
    **IMAGE_JOBS,
    **THIN_JOBS,
    **POOL_JOBS,
    **THIN_TEXT_JOBS,
    **{name: _of(job) for name, job in (SNAPSHOT_JOBS | DRIVER_JOBS | DELTA_JOBS).items()},
}


# NumPy's OpenBLAS starts threads, which wait for work on a processor each for a tenth of a second: that is start-up too
_SETTLED = 0.3


def _cpu() -> float:
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def main(argv: list[str]) -> None:
    """Run the job ``argv[0]`` with the arguments behind it and print what it took."""
    call = JOBS[argv[0]](*argv[1:])
    time.sleep(_SETTLED)
    floor = high_water()
    cpu, wall = _cpu(), time.perf_counter()
    facts = call()
    wall, cpu = time.perf_counter() - wall, _cpu() - cpu
    print(json.dumps({"wall": wall, "cpu": cpu, "rss": high_water(), "floor": floor, "facts": facts}))


if __name__ == "__main__":
    main(sys.argv[1:])
