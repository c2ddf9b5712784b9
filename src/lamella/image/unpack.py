"""An image's layers to a directory, as one job."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lamella.layer.job import ApplyResult
from lamella.layer.options import Options
from lamella.layer.stack import StackLayer, apply_stack
from lamella.model import Progress

if TYPE_CHECKING:
    from lamella.image.layer import Layer

__all__ = ["UnpackResult", "unpack_layers"]


@dataclass(frozen=True, slots=True)
class UnpackResult:
    """What an unpack read and made; ``layers`` has a result for each, the lowest first.

    ``files`` and ``bytes_written`` are what was made: a file that a higher layer hides is read, digested and left out.
    """

    layers: tuple[ApplyResult, ...]

    @property
    def entries(self) -> int:
        """Entries of all layers."""
        return sum(layer.entries for layer in self.layers)

    @property
    def files(self) -> int:
        """Regular files made."""
        return sum(layer.files for layer in self.layers)

    @property
    def bytes_written(self) -> int:
        """Bytes of content written."""
        return sum(layer.bytes_written for layer in self.layers)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings of all layers, the lowest first."""
        return tuple(line for layer in self.layers for line in layer.warnings)


def unpack_layers(
    layers: tuple[Layer, ...],
    root: str | os.PathLike[str],
    options: Options,
    progress: Callable[[Progress], None] | None = None,
) -> UnpackResult:
    """Apply ``layers`` to ``root``, size, digest and diff_id of each verified; see :func:`lamella.layer.stack.apply_stack`."""
    stack = [StackLayer(layer.source, layer.media_type, layer.digest, layer.diff_id, layer.size) for layer in layers]
    return UnpackResult(tuple(apply_stack(stack, root, options, progress)))
