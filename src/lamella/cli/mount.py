"""The command that shows an image in a directory, without unpacking it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

import lamella
from lamella.cli.options import PLATFORM
from lamella.cli.output import Output, Report, command_options
from lamella.cli.text import path_fields, shown
from lamella.drivers._serving import Program, server
from lamella.errors import DriverUnavailable
from lamella.model import Mount

if TYPE_CHECKING:
    from lamella.image.image import Image

__all__ = ["mount"]

_TYPE = "fuse.lamella"


@click.command(short_help="Show an image in a directory, without unpacking it.")
@click.argument("ref")
@click.argument("target", metavar="DIR")
@click.option("--rw", "upper", metavar="UPPER", help="Let it be changed; changes go to UPPER, an overlay's upper directory.")
@click.option("--spool", metavar="FOLDER", help="Where compressed layers are unpacked.  [default: the user's cache]")
@PLATFORM
@command_options
def mount(
    output: Output,  # noqa: ARG001 - every command has it
    ref: str,
    target: str,
    *,
    upper: str | None,
    spool: str | None,
    platform: str | None,
) -> Report:
    """Show the image REF at the directory DIR, until it is unmounted (umount, fusermount3 -u).

    What is seen is what `unpack` would make. Layers that are not compressed are read where they lie, the others are unpacked
    when content of them is first read, and checked then.
    """
    with server() as program:
        from lamella.drivers._run import attach  # noqa: PLC0415 - while the server loads what it takes

        with lamella.open_image(ref, platform=platform) as image:
            words = [*_layers(image), *([f"spool={os.path.abspath(spool)}"] if spool else [])]
        if upper is None:
            attach((Mount(_TYPE, ref, ("ro", *words)),), target, program=program)
        else:
            _attach_union(ref, words, Path(upper), target, program)
    return Report(
        lambda: {**path_fields(ref, "reference"), **path_fields(target, "target"), "read_only": upper is None},
        lambda: iter([f"mounted {shown(ref)} at {shown(target)}"]),
    )


def _layers(image: Image) -> list[str]:
    """Return the options that name the image's layers, nearest first."""
    words = []
    for layer in reversed(image.layers):
        with layer.source() as source:
            words.append(f"layer+={source.begin}:{source.size}:{layer.diff_id}:{os.path.abspath(source.name)}")
    return words


def _attach_union(ref: str, words: Sequence[str], upper: Path, target: str, program: Program) -> None:
    """Mount a union of UPPER and the image; the image's own mount has no name once the union has it open."""
    from lamella.drivers._branches import dress  # noqa: PLC0415
    from lamella.drivers._overlay_options import writable_namespace  # noqa: PLC0415
    from lamella.drivers._run import attach, detach  # noqa: PLC0415

    is_new = not upper.exists()
    upper.mkdir(exist_ok=True)
    namespace = writable_namespace(upper)
    if namespace is None:
        raise DriverUnavailable(f"{upper} cannot be an upper directory", ("overlay's own attributes cannot be written there",))
    folder = tempfile.mkdtemp(prefix="lamella-mount-")
    try:
        attach((Mount(_TYPE, ref, ("ro", *words, f"escaped={namespace}")),), folder, program=program)
        try:
            if is_new:
                dress(upper, Path(folder))  # it is the root of what is shown
            union = (f"lowerdir+={folder}", f"upperdir={upper.resolve()}", f"dialect=overlay:{namespace}")
            attach((Mount(_TYPE, ref, (*union, *(["redirect_dir=on"] if namespace == "trusted" else []))),), target)
        finally:
            detach(folder, lazy=True)
    finally:
        os.rmdir(folder)
