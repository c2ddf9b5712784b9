"""The command that turns an image into a directory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

import lamella
from lamella.cli.layer import apply_document
from lamella.cli.options import PLATFORM, id_map, placing_options
from lamella.cli.output import Output, Report, command_options
from lamella.cli.text import human, one_line, path_fields, shown

if TYPE_CHECKING:
    from lamella.image.unpack import UnpackResult

__all__ = ["unpack"]


@click.command(short_help="Unpack an image into a directory.")
@click.argument("ref")
@click.argument("root")
@placing_options
@click.option("--force", is_flag=True, help="Merge into a ROOT that is not empty.")
@PLATFORM
@command_options
def unpack(
    output: Output,
    ref: str,
    root: str,
    map_uid: str | None,
    map_gid: str | None,
    *,
    map_squash: bool,
    platform: str | None,
    **options: Any,
) -> Report:
    """Unpack the image REF into the new or empty directory ROOT, every layer verified: it appears whole or not at all."""
    idmap = id_map(map_uid, map_gid, squash=map_squash)
    with lamella.open_image(ref, platform=platform) as image, output.progress() as progress:
        result = image.unpack(root, idmap=idmap, progress=progress, **options)

    def document() -> dict[str, Any]:
        return {
            **path_fields(ref, "reference"),
            **path_fields(root, "root"),
            "entries": result.entries,
            "files": result.files,
            "bytes_written": result.bytes_written,
            "layers": [apply_document(layer) for layer in result.layers],
        }

    return Report(document, lambda: _unpacked(ref, root, result))


def _unpacked(ref: str, root: str, result: UnpackResult) -> Iterator[str]:
    yield f"unpacked {shown(ref)} to {shown(root)}"
    yield (
        f"  {len(result.layers):,} layers, {result.entries:,} entries, {result.files:,} files, "
        f"{human(result.bytes_written)} written"
    )
    yield from (f"warning: {one_line(line)}" for line in result.warnings)
