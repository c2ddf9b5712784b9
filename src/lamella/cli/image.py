"""Commands for an image: look at it, verify it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import click

import lamella
from lamella.cli.contents import Contents, Stack, lines_of
from lamella.cli.output import Output, Report, command_options
from lamella.cli.text import columns, human, one_line, path_fields, shown
from lamella.image.image import Image, Layer
from lamella.image.layout import Layout
from lamella.image.reference import parse_reference
from lamella.image.verify import verify_image
from lamella.model import Progress

__all__ = ["inspect", "verify"]


@click.command(short_help="Show an image, or a layer tar.")
@click.argument("ref")
@click.option("--layers", is_flag=True, help="Read each layer: what it adds, changes and deletes.")
@click.option("--tree", is_flag=True, help="List every entry of each layer.")
@command_options
def inspect(output: Output, ref: str, *, layers: bool, tree: bool) -> Report:
    """Show the image REF (oci:DIR[:TAG], or a layout's directory) or the layer tar REF (a file, or - for stdin)."""
    if ref == "-" or os.path.isfile(ref):
        return _inspect_layer(output, ref, tree=tree)
    with lamella.open_image(ref) as image:
        found: list[Contents] = []
        if layers or tree:
            with output.progress() as progress:
                found = list(_contents(image, progress))
        return Report(
            lambda: _image_document(image, found, layers=layers, tree=tree),
            lambda: _image_lines(image, found, layers=layers, tree=tree),
        )


def _contents(image: Image, progress: Callable[[Progress], None] | None) -> Iterator[Contents]:
    stack = Stack()
    total = sum(layer.size for layer in image.layers)
    done = 0
    for layer in image.layers:
        with layer.reader() as reader:
            yield stack.push(reader.table())
        done += layer.size
        if progress is not None:
            progress(Progress("read", done, total, "bytes"))


def _image_document(image: Image, found: list[Contents], *, layers: bool, tree: bool) -> dict[str, Any]:
    documents = []
    steps = {step.layer: step for step in image.history if step.layer is not None}
    for i, layer in enumerate(image.layers):
        step = steps.get(layer)
        document: dict[str, Any] = {
            "id": layer.id,
            "diff_id": layer.diff_id,
            "digest": layer.digest,
            "size": layer.size,
            "media_type": layer.media_type,
            "created_by": step.created_by if step else None,
        }
        if layers:
            document["contents"] = found[i].document()
        if tree:
            document["tree"] = [line.document() for line in found[i].lines]
        documents.append(document)
    return {
        "kind": "image",
        **path_fields(image.reference, "reference"),
        "id": image.id,
        "digest": image.digest,
        "size": sum(layer.size for layer in image.layers),
        "layers": documents,
        "manifest": image.manifest,
        "config": image.config,
    }


def _image_lines(image: Image, found: list[Contents], *, layers: bool, tree: bool) -> Iterator[str]:
    config = image.config
    yield shown(image.reference)
    facts: list[tuple[str, ...]] = [("id", image.id), ("manifest", image.digest)]
    facts += [("platform", f"{shown(str(config.get('os')))}/{shown(str(config.get('architecture')))}")]
    facts += [("created", shown(str(config["created"])))] if config.get("created") else []
    facts += [("layers", f"{len(image.layers)}, {human(sum(layer.size for layer in image.layers))}")]
    yield from ("  " + line for line in columns(facts))
    steps = {step.layer: step for step in image.history if step.layer is not None}
    for i, layer in enumerate(image.layers):
        step = steps.get(layer)
        yield ""
        made = f"  {shown(step.created_by)}" if step is not None and step.created_by else ""
        yield f"layer {i}  {human(layer.size)}{made}"
        yield from ("  " + line for line in _layer_lines(layer))
        if layers:
            yield "  " + _counts(found[i])
        if tree:
            yield from lines_of(found[i], "  ")


def _layer_lines(layer: Layer) -> Iterator[str]:
    facts = [("id", layer.id), ("diff_id", layer.diff_id), ("digest", layer.digest), ("type", shown(layer.media_type))]
    return columns([(name, str(value)) for name, value in facts])


def _counts(contents: Contents) -> str:
    counts = contents.document()
    names = {"added": "added", "changed": "changed", "repeated": "repeated", "whiteouts": "whiteouts", "opaques": "opaque"}
    words = [f"{counts[key]:,} {name}" for key, name in names.items() if counts[key]]
    gone = f", {counts['hidden']:,} lower names gone" if counts["hidden"] else ""
    return f"{counts['entries']:,} entries, {human(counts['bytes'])} in files: {', '.join(words) or 'nothing'}{gone}"


def _inspect_layer(output: Output, ref: str, *, tree: bool) -> Report:
    source: Any = sys.stdin.buffer if ref == "-" else ref
    with output.progress() as progress, lamella.read_layer(source, progress=progress) as reader:
        contents = Stack().push(reader.table())
        facts = {"media_type": reader.media_type, "digest": reader.digest, "diff_id": reader.diff_id}
        sizes = {"size": reader.compressed_size or 0, "uncompressed_size": reader.uncompressed_size or 0}

    def document() -> dict[str, Any]:
        lines = {"tree": [line.document() for line in contents.lines]} if tree else {}
        return {"kind": "layer", **path_fields(ref, "source"), **facts, **sizes, "contents": contents.document(), **lines}

    def text() -> Iterator[str]:
        yield shown(ref)
        size = f"{human(sizes['size'])}, {human(sizes['uncompressed_size'])} uncompressed, {reader.codec}"
        rows = [("digest", str(facts["digest"])), ("diff_id", str(facts["diff_id"])), ("size", size)]
        yield from ("  " + line for line in columns(rows))
        yield "  " + _counts(contents)
        if tree:
            yield from lines_of(contents, "  ")

    return Report(document, text)


@click.command(short_help="Read all of an image and say what is wrong.")
@click.argument("ref")
@command_options
def verify(output: Output, ref: str) -> Report:
    """Read all of the image REF: every digest, size and diff_id, every tar. Exit 1 if anything is wrong."""
    reference = parse_reference(ref)
    layout = Layout(reference.path)
    descriptor = layout.find(reference.tag)
    with output.progress() as progress:
        problems = verify_image(layout, descriptor, progress=progress)

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
