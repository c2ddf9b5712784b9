"""Commands that write images: copy one in another form, put a layer on top, make one layer of several."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import click

import lamella
from lamella.cli.options import COMPRESSION, PLATFORM
from lamella.cli.output import Output, Report, Reporter, command_options
from lamella.cli.text import columns, human, path_fields, shown
from lamella.image.reference import ARCHIVE

if TYPE_CHECKING:
    from lamella.image.image import Image
    from lamella.image.save import SavedImage
    from lamella.layer.algebra import Conflict

__all__ = ["append", "convert", "rebase", "squash"]

_COMPRESSION = click.option(
    "--compression",
    type=COMPRESSION,
    metavar="C[:LEVEL]",
    help="none, gzip or zstd, and a level. Without it blobs stay as they are, and an archive's layers uncompressed.",
)


@click.command(short_help="Copy an image into another form.")
@click.argument("ref")
@click.argument("dest")
@_COMPRESSION
@PLATFORM
@command_options
def convert(output: Output, ref: str, dest: str, *, compression: tuple[str, int | None] | None, platform: str | None) -> Report:
    """Copy the image REF to DEST, oci:DIR[:TAG] or docker-archive:FILE[:TAG], every layer verified on the way."""
    with lamella.open_image(ref, platform=platform) as image, output.progress() as progress:
        saved = save(image, dest, compression, progress)
    return saved_report(ref, saved)


@click.command(short_help="Put a layer on top of an image.")
@click.argument("ref")
@click.argument("layer")
@click.argument("dest")
@click.option("--created-by", metavar="TEXT", help="What the history says made the layer.")
@click.option("--comment", metavar="TEXT", help="What else the history says of it.")
@_COMPRESSION
@PLATFORM
@command_options
def append(
    output: Output,
    ref: str,
    layer: str,
    dest: str,
    *,
    created_by: str | None,
    comment: str | None,
    compression: tuple[str, int | None] | None,
    platform: str | None,
) -> Report:
    """Save the image REF with the layer tar LAYER (a file, or - for stdin) on top as DEST.

    DEST is oci:DIR[:TAG] or docker-archive:FILE[:TAG]. The step in the history is made now, or at SOURCE_DATE_EPOCH.
    """
    source: Any = sys.stdin.buffer if layer == "-" else layer
    words = created_by or f"lamella append {'-' if layer == '-' else os.path.basename(layer)}"
    with lamella.open_image(ref, platform=platform) as image, output.progress() as progress:
        step = {"created": now(), "created_by": words, "comment": comment}
        with image.append(source, **step, progress=progress) as edited:
            saved = save(edited, dest, compression, progress)
    return saved_report(ref, saved)


@click.command(short_help="Make one layer of several.")
@click.argument("ref")
@click.argument("dest")
@click.option("--start", type=int, default=0, show_default=True, metavar="N", help="The lowest layer to squash, from 0.")
@click.option("--stop", type=int, metavar="N", help="The layer to stop before; none unless given.")
@click.option("--comment", metavar="TEXT", help="What the history says of the new layer.")
@_COMPRESSION
@PLATFORM
@command_options
def squash(
    output: Output,
    ref: str,
    dest: str,
    *,
    start: int,
    stop: int | None,
    comment: str | None,
    compression: tuple[str, int | None] | None,
    platform: str | None,
) -> Report:
    """Save the image REF with its layers, or those from --start to --stop, as one. DEST as for convert."""
    codec = compression[0] if compression is not None else "none" if dest.startswith(f"{ARCHIVE}:") else None
    with lamella.open_image(ref, platform=platform) as image, output.progress() as progress:
        options = {"created": now(), "comment": comment, "compression": codec}
        with image.squash(start=start, stop=stop, **options, progress=progress) as edited:
            saved = save(edited, dest, compression, progress)
    return saved_report(ref, saved)


@click.command(short_help="Move an image onto another base.")
@click.argument("ref")
@click.argument("old")
@click.argument("new")
@click.argument("dest")
@click.option("--keep-conflicts", is_flag=True, help="Where the image and NEW changed the same, keep the image's, and say so.")
@_COMPRESSION
@PLATFORM
@command_options
def rebase(
    output: Output,
    ref: str,
    old: str,
    new: str,
    dest: str,
    *,
    keep_conflicts: bool,
    compression: tuple[str, int | None] | None,
    platform: str | None,
) -> Report:
    """Save the image REF, which stands on the image OLD, upon the image NEW instead. DEST as for convert."""
    with (
        lamella.open_image(ref, platform=platform) as image,
        lamella.open_image(old, platform=platform) as old_base,
        lamella.open_image(new, platform=platform) as new_base,
        output.progress() as progress,
    ):
        conflicts: Literal["keep", "error"] = "keep" if keep_conflicts else "error"
        with image.rebase(old_base, new_base, conflicts=conflicts, created=now(), progress=progress) as edited:
            saved = save(edited, dest, compression, progress)
            return _rebased_report(saved_report(ref, saved), edited.conflicts)


def _rebased_report(report: Report, conflicts: Sequence[Conflict]) -> Report:
    def document() -> dict[str, Any]:
        found = [{**path_fields(c.path), "kind": c.kind, "layer": c.layer, "reason": c.reason} for c in conflicts]
        return {**report.document(), "conflicts": found}

    def lines() -> Iterator[str]:
        yield from report.lines()
        yield from (f"  conflict: {shown(c.path)}: {c.reason}" for c in conflicts)

    return Report(document, lines)


def now() -> str:
    """Return the time that a step of a history gets: SOURCE_DATE_EPOCH where it is set (reproducible-builds.org)."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is not None and not given.isdigit():
        raise click.UsageError(f"SOURCE_DATE_EPOCH is no number of seconds: {given!r}")
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(given) if given is not None else time.time()))


def save(image: Image, dest: str, compression: tuple[str, int | None] | None, progress: Reporter | None) -> SavedImage:
    """Save an image as the options say."""
    codec, level = compression or (None, None)
    return image.save(dest, compression=codec, level=level, progress=progress)


def saved_report(ref: str, saved: SavedImage) -> Report:
    """Return what was written, for programs and for people."""

    def document() -> dict[str, Any]:
        return {
            **path_fields(ref, "source"),
            **path_fields(saved.reference, "reference"),
            "id": saved.id,
            "digest": saved.digest,
            "layers": saved.n_layers,
            "written": saved.n_written,
            "bytes": saved.nbytes,
        }

    def lines() -> Iterator[str]:
        yield f"wrote {shown(saved.reference)}"
        yield f"  {saved.n_layers} layers, {saved.n_written} of them written, {human(saved.nbytes)}"
        facts = [("id", str(saved.id))] + ([("manifest", str(saved.digest))] if saved.digest is not None else [])
        yield from ("  " + line for line in columns(facts))

    return Report(document, lines)
