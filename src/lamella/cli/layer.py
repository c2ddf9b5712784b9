"""Commands for one layer: apply it, compare two trees, write the difference."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import click

import lamella
from lamella.cli.options import COMPRESSION, id_map, placing_options
from lamella.cli.output import Output, Report, command_options
from lamella.cli.text import columns, human, one_line, path_fields, shown
from lamella.model import ChangeKind

if TYPE_CHECKING:
    from lamella.layer.apply import ApplyResult
    from lamella.layer.changeset import Change, Changeset
    from lamella.tar.layerinfo import LayerInfo

__all__ = ["apply", "changes", "diff"]

MARKS = {ChangeKind.ADD: "A", ChangeKind.MODIFY: "M", ChangeKind.DELETE: "D"}
COLOURS = {ChangeKind.ADD: "green", ChangeKind.MODIFY: "yellow", ChangeKind.DELETE: "red"}


@click.command(short_help="Apply a layer to a directory.")
@click.argument("layer")
@click.argument("root")
@placing_options
@click.option("--expected-diff-id", metavar="DIGEST", help="Fail unless the uncompressed tar has it.")
@click.option("--expected-digest", metavar="DIGEST", help="Fail unless the file LAYER has it.")
@command_options
def apply(
    output: Output,
    layer: str,
    root: str,
    map_uid: str | None,
    map_gid: str | None,
    *,
    map_squash: bool,
    **options: Any,
) -> Report:
    """Apply the layer tar LAYER (a file, or - for stdin) to the directory ROOT."""
    source: Any = sys.stdin.buffer if layer == "-" else layer
    idmap = id_map(map_uid, map_gid, squash=map_squash)
    with output.progress() as progress:
        result = lamella.apply(source, root, idmap=idmap, progress=progress, **options)

    def document() -> dict[str, Any]:
        return {**path_fields(layer, "layer"), **path_fields(root, "root"), **apply_document(result)}

    return Report(document, lambda: _applied(layer, root, result))


def apply_document(result: ApplyResult) -> dict[str, Any]:
    """Return what an apply did, as JSON has it."""
    return {
        "digest": result.digest,
        "diff_id": result.diff_id,
        "media_type": result.media_type,
        "compressed_size": result.compressed_size,
        "uncompressed_size": result.uncompressed_size,
        "entries": result.entries,
        "files": result.files,
        "bytes_written": result.bytes_written,
        "whiteouts": result.whiteouts,
        "opaques": result.opaques,
        "warnings": list(result.warnings),
    }


def _applied(layer: str, root: str, result: ApplyResult) -> Iterator[str]:
    yield f"applied {shown(layer)} to {shown(root)}"
    yield (
        f"  {result.entries:,} entries, {result.files:,} files, {human(result.bytes_written)} written, "
        f"{result.whiteouts:,} whiteouts, {result.opaques:,} opaque"
    )
    yield f"  digest   {result.digest}"
    yield f"  diff_id  {result.diff_id}"
    yield from _warnings(result.warnings)


@click.command(short_help="List what one directory changes against another.")
@click.argument("lower")
@click.argument("upper")
@click.option(
    "--content",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Compare bytes where metadata cannot decide, always, or never.",
)
@click.option("--xattrs", type=click.Choice(["all", "all+selinux", "none"]), default="all", show_default=True)
@click.option("--dir-mtime", is_flag=True, help="A directory's time alone is a change.")
@command_options
def changes(output: Output, lower: str, upper: str, **options: Any) -> Report:
    """List what UPPER adds (A), modifies (M) and deletes (D) against LOWER, two directories."""
    found: Changeset = lamella.changes(lower, upper, **options)
    return Report(
        lambda: {
            **path_fields(lower, "lower"),
            **path_fields(upper, "upper"),
            "changes": [change_document(change) for change in found],
            "warnings": list(found.warnings),
        },
        lambda: itertools.chain((_change_line(output, change) for change in found), _warnings(found.warnings)),
    )


def change_document(change: Change) -> dict[str, Any]:
    """Return one change, as JSON has it."""
    entry = change.after or change.before
    return {
        "kind": change.kind.value,
        **path_fields(change.path),
        "type": entry.type.name.lower() if entry is not None else None,
        "why": [flag.name.lower() for flag in change.why if flag.name],
    }


def _change_line(output: Output, change: Change) -> str:
    why = f"  ({', '.join(change_document(change)['why'])})" if change.why else ""
    line = f"{MARKS[change.kind]} {shown(change.path) or '.'}"
    return output.style(line, fg=COLOURS[change.kind]) + why


@click.command(short_help="Write the difference of two directories as a layer.")
@click.argument("lower", required=False)
@click.argument("upper", required=False)
@click.option("--upper", "branch", metavar="DIR", help="An overlay upper directory, or an AUFS branch, instead of LOWER UPPER.")
@click.option("--parent", "parents", multiple=True, metavar="DIR", help="What is below it, the nearest first; repeatable.")
@click.option(
    "--dialect",
    type=click.Choice(["overlay", "overlay:trusted", "overlay:user", "aufs"]),
    default="overlay",
    show_default=True,
    help="What --upper and --parent are.",
)
@click.option("-o", "--out", required=True, metavar="OUT", help="The layer to write; - for stdout.")
@click.option(
    "--compression",
    type=COMPRESSION,
    default="gzip",
    show_default=True,
    metavar="C[:LEVEL]",
    help="none, gzip or zstd, and a level.",
)
@click.option(
    "--clamp-mtime",
    type=int,
    envvar="SOURCE_DATE_EPOCH",
    show_envvar=True,
    metavar="N",
    help="Make every later time this second since the epoch.",
)
@click.option(
    "--whiteouts",
    type=click.Choice(["explicit", "opaque"]),
    default="explicit",
    show_default=True,
    help="How a replaced directory says what is gone.",
)
@click.option("--map-uid", metavar="C:H:N", help="Owner ids as container:host:count[,...].")
@click.option("--map-gid", metavar="C:H:N", help="Group ids; as --map-uid unless given.")
@click.option(
    "--content",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Compare bytes where metadata cannot decide, always, or never.",
)
@click.option("--xattrs", type=click.Choice(["all", "all+selinux", "none"]), default="all", show_default=True)
@click.option("--dir-mtime", is_flag=True, help="A directory's time alone is a change.")
@click.option("--sparse", type=click.Choice(["pax"]), help="Write files with holes as pax 1.0 sparse entries.")
@click.option("--libarchive-xattr", is_flag=True, help="Write attributes as LIBARCHIVE.xattr. as well.")
@command_options
def diff(
    output: Output,
    *,
    lower: str | None,
    upper: str | None,
    branch: str | None,
    parents: tuple[str, ...],
    dialect: str,
    out: str,
    compression: tuple[str, int | None],
    map_uid: str | None,
    map_gid: str | None,
    **options: Any,
) -> Report:
    """Write the layer that turns the directory LOWER into UPPER, or what an overlay upper directory changes."""
    codec, level = compression
    if out == "-":
        if output.json or sys.stdout.isatty():
            raise click.UsageError("the layer itself goes to stdout: no --json, and not a terminal")
        output.stream = sys.stderr
    target: Any = sys.stdout.buffer if out == "-" else out
    options |= {"compression": codec, "level": level, "idmap": id_map(map_uid, map_gid)}
    made: Callable[..., LayerInfo]
    if branch is not None:
        if lower is not None or options.pop("content") != "auto" or options.pop("dir_mtime"):
            raise click.UsageError("--upper takes no LOWER and UPPER, --content or --dir-mtime")
        made = partial(lamella.diff_from_upper, branch, target, parents, dialect=dialect)  # type: ignore[arg-type]
        inputs = path_fields(branch, "upper")
    else:
        if lower is None or upper is None or parents:
            raise click.UsageError("LOWER and UPPER, or --upper and perhaps --parent")
        made = partial(lamella.diff, lower, upper, target)
        inputs = {**path_fields(lower, "lower"), **path_fields(upper, "upper")}
    with output.progress() as progress:
        info = made(progress=progress, **options)
    return Report(lambda: {**inputs, **path_fields(out, "out"), **layer_document(info)}, lambda: _written(out, info))


def layer_document(info: LayerInfo) -> dict[str, Any]:
    """Return what was written, as JSON has it."""
    return {
        "media_type": info.media_type,
        "digest": info.digest,
        "diff_id": info.diff_id,
        "size": info.size,
        "uncompressed_size": info.uncompressed_size,
        "entries": info.entries,
        "codec": info.codec,
        "warnings": list(info.warnings),
    }


def _written(out: str, info: LayerInfo) -> Iterator[str]:
    yield f"wrote {shown(out)}"
    yield f"  {info.entries:,} entries, {human(info.uncompressed_size)}, {human(info.size)} by {info.codec}"
    facts = [("digest", info.digest), ("diff_id", info.diff_id), ("type", info.media_type)]
    yield from ("  " + line for line in columns(facts))
    yield from _warnings(info.warnings)


def _warnings(warnings: Iterable[str]) -> Iterator[str]:
    return (f"  warning: {one_line(warning)}" for warning in warnings)
