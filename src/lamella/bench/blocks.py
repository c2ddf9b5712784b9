"""What comparing two images costs: in memory beside the C library's comparison, and as files beside ``cmp``."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lamella.bench.ground import Ground
from lamella.bench.measure import MeasureError, Sample, in_python, programs
from lamella.bench.panel import Contender, Panel

__all__ = ["JOBS", "compare_buffers", "compare_files"]

OURS = "lamella"
_NBYTES, _QUICK_NBYTES = 512 << 20, 16 << 20
_BLOCK = 1 << 16
_TIMES = 5


def compare_buffers(ground: Ground, *, quick: bool) -> Panel:
    """Find the one block that differs, the last, in two buffers that are in memory."""
    nbytes = _QUICK_NBYTES if quick else _NBYTES
    title = f"compare twice {nbytes >> 20} MiB in memory, {_TIMES} times, blocks of 64 KiB"
    how = "in a fresh interpreter, its start left out"
    ours = _by_job(OURS, "compare-blocks", nbytes, how="lamella.block.compare.differing(), " + how)
    limit = _by_job("memcmp", "compare-memcmp", nbytes, how="memcmp() through ctypes, " + how, leaves_out="which blocks")
    return Panel("compare blocks", title, ground, (ours, limit))


def compare_files(ground: Ground, *, quick: bool) -> Panel:
    """Find the same in two files that are in the page cache."""
    nbytes = _QUICK_NBYTES if quick else _NBYTES

    def prepare(folder: Path) -> None:
        for name, content in zip("ab", _pair(nbytes), strict=True):
            content.tofile(folder / name)

    def ours(folder: Path) -> Sample:
        return _checked(in_python("compare-files", folder / "a", folder / "b"))

    def cmp(folder: Path) -> Sample:
        return programs(["cmp", "-n", str(nbytes - _BLOCK), str(folder / "a"), str(folder / "b")])

    contenders = (
        Contender(OURS, ours, "lamella.block.compare.differing_files(), start left out"),
        Contender("cmp", cmp, "cmp -n, up to the block that differs", "which blocks: cmp -l would print every byte"),
    )
    return Panel("compare files", f"compare two files of {nbytes >> 20} MiB", ground, contenders, prepare)


def _by_job(name: str, job: str, nbytes: int, *, how: str, leaves_out: str = "") -> Contender:
    return Contender(name, lambda _: _checked(in_python(job, nbytes)), how, leaves_out)


def _checked(sample: Sample) -> Sample:
    if sample.facts["differing"] != 1:
        raise MeasureError(f"{sample.facts['differing']} blocks differ, not one")
    return sample


def _pair(nbytes: int) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], np.ndarray[Any, np.dtype[np.uint8]]]:
    one = np.random.default_rng(1).integers(0, 256, nbytes, np.uint8)
    two = one.copy()
    two[-1] ^= 1
    return one, two


def _compare_blocks(nbytes: str) -> Callable[[], dict[str, Any]]:
    from lamella.block.compare import differing  # noqa: PLC0415  (a job imports its own things)

    one, two = _pair(int(nbytes))
    return lambda: {"differing": [differing(one, two, _BLOCK).nblocks for _ in range(_TIMES)][-1]}


def _compare_memcmp(nbytes: str) -> Callable[[], dict[str, Any]]:
    one, two = _pair(int(nbytes))
    memcmp = ctypes.CDLL(None).memcmp
    memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    return lambda: {"differing": [int(memcmp(one.ctypes.data, two.ctypes.data, one.nbytes) != 0) for _ in range(_TIMES)][-1]}


def _compare_files(one: str, two: str) -> Callable[[], dict[str, Any]]:
    from lamella.block.compare import differing_files  # noqa: PLC0415

    left, right = os.open(one, os.O_RDONLY), os.open(two, os.O_RDONLY)
    return lambda: {"differing": differing_files(left, right, _BLOCK).nblocks}


JOBS: dict[str, Callable[..., Callable[[], dict[str, Any]]]] = {
    "compare-blocks": _compare_blocks,
    "compare-files": _compare_files,
    "compare-memcmp": _compare_memcmp,
}
