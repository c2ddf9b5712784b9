"""The block level: panels and targets of the modules that have one each."""

from __future__ import annotations

from lamella.bench import blocks, file_deltas, pool, thin, thin_text
from lamella.bench.gate import Target
from lamella.bench.ground import Tmpfs
from lamella.bench.panel import Panel

__all__ = ["TARGETS", "panels"]

TARGETS: tuple[Target, ...] = (*thin_text.TARGETS, *pool.TARGETS)


def panels(ground: Tmpfs, *, quick: bool) -> list[Panel]:
    """List them."""
    return [
        blocks.compare_buffers(ground, quick=quick),
        blocks.compare_files(ground, quick=quick),
        file_deltas.file_delta(ground, quick=quick),
        thin.thin(ground, quick=quick),
        thin_text.thin_text(ground, quick=quick),
        *thin_text.extents(ground, quick=quick),
        pool.pool_map(ground, quick=quick),
    ]
