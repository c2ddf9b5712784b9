"""Commands for an image: look at it, verify it."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import click

import lamella
from lamella.cli.contents import Contents, Stack, lines_of, tree_document, tree_lines
from lamella.cli.options import PLATFORM
from lamella.cli.output import Output, Report, command_options
from lamella.cli.text import columns, human, one_line, path_fields, shown
from lamella.errors import FormatError, ImageError, ReferenceNotFound, TarFormatError
from lamella.image.image import Image, Layer, locate
from lamella.image.platforms import parse_platform
from lamella.image.verify import verify_image
from lamella.model import Progress

__all__ = ["inspect", "verify"]


# blobs/, ID/layer.tar, DIGEST.tar.gz and the like
_ARCHIVE_NAME = re.compile(rb"(blobs|manifest\.json|repositories|index\.json|oci-layout|(sha256:)?[0-9a-f]{64})(?![a-z_])")


@click.command(short_help="Show an image, or a layer tar.")
@click.argument("ref")
@click.option("--layers", is_flag=True, help="Read each layer: what it adds, changes and deletes.")
@click.option("--entries", is_flag=True, help="List every entry of each layer.")
@click.option("--tree", is_flag=True, help="List what the layers together show, and which layer each path comes from.")
@PLATFORM
@command_options
def inspect(output: Output, ref: str, *, layers: bool, entries: bool, tree: bool, platform: str | None) -> Report:
    """Show the image REF (oci:DIR[:TAG], docker-archive:FILE[:TAG], or the path of either) or a layer tar.

    A layer is a file, or - for stdin; it is told from an archive of images by its content.
    """
    if (ref == "-" or os.path.isfile(ref)) and not _is_archive(ref):
        return _inspect_layer(output, ref, entries=entries or tree)
    with lamella.open_image(ref, platform=platform) as image:
        found: list[Contents] = []
        stack = Stack()
        if layers or entries or tree:
            with output.progress() as progress:
                found = list(_contents(image, stack, progress))
        shows = _Shows(image, found if layers else [], found if entries else [], stack if tree else None)
        return Report(lambda: _image_document(shows), lambda: _image_lines(shows))


def _is_archive(ref: str) -> bool:
    """Tell a file with images from a layer: a layer may have a manifest.json too, but not one that lists images."""
    try:
        if ref == "-" or not _named_as_archive(ref):
            return False
        with contextlib.closing(locate(ref)[1]):
            return True
    except ReferenceNotFound as error:
        return not isinstance(error.__cause__, ReferenceNotFound | TarFormatError)
    except (FormatError, ImageError):
        return False


def _named_as_archive(ref: str) -> bool:
    """Tell whether all names are such as archives of images have: a layer's first one seldom is, and ends the reading."""
    with lamella.read_layer(ref, digests=False) as reader:
        return all(_ARCHIVE_NAME.match(entry.path) for entry in reader)


@dataclass
class _Shows:
    """What of an image is shown; empty or None for what was not asked for."""

    image: Image
    contents: list[Contents]
    entries: list[Contents]
    tree: Stack | None

    def steps(self) -> Iterator[tuple[int, Layer, str | None]]:
        """Iterate over the layers, with the words that the history has for each."""
        steps = {step.layer: step.created_by for step in self.image.history if step.layer is not None}
        return ((i, layer, steps.get(layer)) for i, layer in enumerate(self.image.layers))


def _contents(image: Image, stack: Stack, progress: Callable[[Progress], None] | None) -> Iterator[Contents]:
    total = sum(layer.size for layer in image.layers)
    done = 0
    for layer in image.layers:
        with layer.reader() as reader:
            yield stack.push(reader.table())
        done += layer.size
        if progress is not None:
            progress(Progress("read", done, total, "bytes"))


def _image_document(shows: _Shows) -> dict[str, Any]:
    image = shows.image
    documents = []
    for i, layer, created_by in shows.steps():
        document: dict[str, Any] = {
            "id": layer.id,
            "diff_id": layer.diff_id,
            "digest": layer.digest,
            "size": layer.size,
            "media_type": layer.media_type,
            "created_by": created_by,
        }
        if shows.contents:
            document["contents"] = shows.contents[i].document()
        if shows.entries:
            document["entries"] = [line.document() for line in shows.entries[i].lines]
        documents.append(document)
    return {
        "kind": "image",
        **path_fields(image.reference, "reference"),
        "id": image.id,
        "digest": image.digest,
        "size": sum(layer.size for layer in image.layers),
        "layers": documents,
        **({} if shows.tree is None else {"tree": tree_document(shows.tree)}),
        "manifest": image.manifest,
        "config": image.config,
    }


def _image_lines(shows: _Shows) -> Iterator[str]:
    image, config = shows.image, shows.image.config
    yield shown(image.reference)
    facts: list[tuple[str, ...]] = [("id", image.id), ("manifest", image.digest)]
    facts += [("platform", f"{shown(str(config.get('os')))}/{shown(str(config.get('architecture')))}")]
    facts += [("created", shown(str(config["created"])))] if config.get("created") else []
    facts += [("layers", f"{len(image.layers)}, {human(sum(layer.size for layer in image.layers))}")]
    yield from ("  " + line for line in columns(facts))
    for i, layer, created_by in shows.steps():
        yield ""
        yield f"layer {i}  {human(layer.size)}" + (f"  {shown(created_by)}" if created_by else "")
        yield from ("  " + line for line in _layer_lines(layer))
        if shows.contents:
            yield "  " + shows.contents[i].text()
        if shows.entries:
            yield from lines_of(shows.entries[i], "  ")
    if shows.tree is not None:
        yield ""
        yield "tree (layer, entry)"
        yield from tree_lines(shows.tree)


def _layer_lines(layer: Layer) -> Iterator[str]:
    facts = [("id", layer.id), ("diff_id", layer.diff_id), ("digest", layer.digest), ("type", shown(layer.media_type))]
    return columns([(name, str(value)) for name, value in facts])


def _inspect_layer(output: Output, ref: str, *, entries: bool) -> Report:
    source: Any = sys.stdin.buffer if ref == "-" else ref
    with output.progress() as progress, lamella.read_layer(source, progress=progress) as reader:
        contents = Stack().push(reader.table())
        facts = {"media_type": reader.media_type, "digest": reader.digest, "diff_id": reader.diff_id}
        sizes = {"size": reader.compressed_size or 0, "uncompressed_size": reader.uncompressed_size or 0}

    def document() -> dict[str, Any]:
        lines = {"entries": [line.document() for line in contents.lines]} if entries else {}
        return {"kind": "layer", **path_fields(ref, "source"), **facts, **sizes, "contents": contents.document(), **lines}

    def text() -> Iterator[str]:
        yield shown(ref)
        size = f"{human(sizes['size'])}, {human(sizes['uncompressed_size'])} uncompressed, {reader.codec}"
        rows = [("digest", str(facts["digest"])), ("diff_id", str(facts["diff_id"])), ("size", size)]
        yield from ("  " + line for line in columns(rows))
        yield "  " + contents.text()
        if entries:
            yield from lines_of(contents, "  ")

    return Report(document, text)


@click.command(short_help="Read all of an image and say what is wrong.")
@click.argument("ref")
@PLATFORM
@command_options
def verify(output: Output, ref: str, *, platform: str | None) -> Report:
    """Read all of the image REF: every digest, size and diff_id, every tar. Exit 1 if anything is wrong."""
    reference, blobs, descriptor = locate(ref, None if platform is None else parse_platform(platform))
    with contextlib.closing(blobs), output.progress() as progress:
        problems = verify_image(blobs, descriptor, progress=progress)

    def lines() -> Iterator[str]:
        for problem in problems:
            yield f"{problem.kind}: {one_line(problem.subject)}: {one_line(problem.message)}"
        if not problems:
            yield f"{shown(ref)}: nothing wrong"

    return Report(
        lambda: {
            **path_fields(str(reference), "reference"),
            "digest": descriptor.digest,
            "ok": not problems,
            "problems": [asdict(problem) for problem in problems],
        },
        lines,
        f"{len(problems)} problem{'s' * (len(problems) != 1)} in {ref!r}" if problems else None,
    )
