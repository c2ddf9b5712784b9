"""Tasks that are counted rather than timed: peak memory, and system calls."""

from __future__ import annotations

import os
from pathlib import Path

from lamella.bench.corpus import synthetic_blob
from lamella.bench.ground import Ground
from lamella.bench.measure import MeasureError, Sample, in_python, traced
from lamella.bench.panel import Contender, Panel
from lamella.bench.stacks import Synthetic

__all__ = ["calls", "memory", "memory_of_diff", "name_of_million", "names_of_calls", "names_of_memory"]

MANY, FEW = 100_000, 20_000  # entries, full and quick
MEAN_NBYTES, LITTLE_NBYTES = 1_000, 200
MILLION, QUICK_MILLION = 1_000_000, 20_000
N_FILES, QUICK_FILES = 3_000, 1_000
_HOW = "apply of a synthetic layer in a fresh interpreter, VmHWM at the end"


def names_of_memory(*, quick: bool) -> tuple[str, str, str, str]:
    """Return the contenders' names: a layer, one of four times its bytes; and uncompressed a layer and one of twice its
    entries, since how full the buffers of a decoder get is chance.
    """
    n = FEW if quick else MANY
    few, many = f"{n:,} entries", f"{2 * n:,} entries"
    return few, f"{few}, 4x the bytes", f"{few}, uncompressed", f"{many}, uncompressed"


def name_of_million(*, quick: bool) -> str:
    """Return the name of the one contender of the diff's memory."""
    return f"{QUICK_MILLION if quick else MILLION:,} entries"


def names_of_calls(*, quick: bool) -> tuple[str, str]:
    """Return the names of the contenders whose system calls are counted: a number of files, and twice as many."""
    n = QUICK_FILES if quick else N_FILES
    return f"{n:,} files", f"{2 * n:,} files"


def memory(home: Path, ground: Ground, *, quick: bool) -> Panel:
    """Measure the peak memory of an apply at two sizes and two numbers of entries."""
    n = FEW if quick else MANY
    layers = (
        (Synthetic(n, MEAN_NBYTES), True),
        (Synthetic(n, 4 * MEAN_NBYTES), True),
        (Synthetic(n, LITTLE_NBYTES), False),
        (Synthetic(2 * n, LITTLE_NBYTES), False),
    )

    def contender(name: str, layer: Synthetic, packed: bool) -> Contender:
        blob = home / f"memory-{layer.n_entries}-{layer.mean_nbytes}"

        def measure(folder: Path) -> Sample:
            if not blob.exists():
                synthetic_blob(blob, layer, packed=packed)
            return in_python("apply", blob, folder / "root")

        return Contender(name, measure, _HOW)

    names = names_of_memory(quick=quick)
    contenders = tuple(contender(name, *layer) for name, layer in zip(names, layers, strict=True))
    return Panel("memory", "peak memory of an apply", ground, contenders, max_rounds=3)


def memory_of_diff(ground: Ground, *, quick: bool) -> Panel:
    """Measure the peak memory of comparing a tree of a million entries with itself, walked twice."""
    n = QUICK_MILLION if quick else MILLION

    def prepare(folder: Path) -> None:
        for at in range(0, n, 1000):
            inside = f"{folder}/d{at // 1000:04}"
            os.mkdir(inside)
            fd = os.open(inside, os.O_RDONLY | os.O_DIRECTORY)
            try:
                for number in range(min(999, n - at - 1)):
                    os.mknod(f"a_file_of_{number:04}.txt", 0o100644, dir_fd=fd)
            finally:
                os.close(fd)

    def measure(folder: Path) -> Sample:
        sample = in_python("changes", folder, folder, "auto", "all")
        if sample.facts["changes"]:
            raise MeasureError(f"{sample.facts['changes']} changes found in one tree")
        return sample

    how = "changes(tree, tree): both sides are walked, neither knows of the other"
    contender = Contender(name_of_million(quick=quick), measure, how)
    return Panel("memory of diff", "peak memory of a diff", ground, (contender,), prepare, max_rounds=1)


def calls(home: Path, ground: Ground, *, quick: bool) -> Panel:
    """Count the system calls of an apply at two numbers of files: the difference is the files'."""
    n = QUICK_FILES if quick else N_FILES

    def contender(n_files: int, name: str) -> Contender:
        layer = Synthetic(n_files + 8, 2_000, files_only=True)
        blob = home / f"calls-{n_files}.tar.gz"

        def measure(folder: Path) -> Sample:
            if not blob.exists():
                synthetic_blob(blob, layer)
            sample = traced("apply", blob, folder / "root")
            sample.facts["files"] = n_files
            return sample

        return Contender(name, measure, "strace -f -c of an apply")

    contenders = tuple(contender(k * n, name) for k, name in zip((1, 2), names_of_calls(quick=quick), strict=True))
    return Panel("system calls", "system calls of an apply", ground, contenders, max_rounds=1)
