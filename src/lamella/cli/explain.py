"""The command that says where a path of an image comes from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

import lamella
from lamella.cli.contents import entry_fields, entry_text
from lamella.cli.options import PLATFORM
from lamella.cli.output import Output, Report, command_options
from lamella.cli.text import columns, path_fields, shown

if TYPE_CHECKING:
    from lamella.image.image import Image
    from lamella.layer.explain import Explanation, What

__all__ = ["explain"]


@click.command(short_help="Say which layer a path comes from, and what hides it.")
@click.argument("ref")
@click.argument("path")
@PLATFORM
@command_options
def explain(output: Output, ref: str, path: str, *, platform: str | None) -> Report:
    """Say where PATH of the image REF comes from: which layer gives it, and what each layer did to it."""
    with lamella.open_image(ref, platform=platform) as image:
        with output.progress() as progress:
            found = image.explain(os.fsencode(path), progress=progress)
        nothing = not found.exists and not found.layers
        return Report(
            lambda: _document(image, found),
            lambda: _lines(image, found),
            f"no layer has anything at {path!r}" if nothing else None,
        )


def _document(image: Image, found: Explanation) -> dict[str, Any]:
    return {
        **path_fields(image.reference, "reference"),
        **path_fields(found.path),
        **({"real_path": None} if found.real_path is None else path_fields(found.real_path, "real_path")),
        "exists": found.exists,
        "layer": None if found.source is None else image.layers.index(found.source),
        "entry": None if found.entry is None else entry_fields(found.entry),
        "through": [{**path_fields(link.path), **path_fields(link.target, "target")} for link in found.through],
        "names": [path_fields(name) for name in found.names],
        "layers": [_step(image, what) for what in found.layers],
    }


def _step(image: Image, what: What) -> dict[str, Any]:
    return {
        "layer": what.number,
        "diff_id": image.layers[what.number].diff_id,
        "action": what.action,
        **path_fields(what.path),
        **({"by": None} if what.by is None else path_fields(what.by, "by")),
        **({"link_of": None} if what.link_of is None else path_fields(what.link_of, "link_of")),
        "implied": what.implied,
        "entry": None if what.entry is None else entry_fields(what.entry),
    }


def _lines(image: Image, found: Explanation) -> Iterator[str]:
    steps = {step.layer: step.created_by for step in image.history if step.layer is not None}
    yield shown(found.path) or "."
    facts = [("through", f"{shown(link.path)} -> {shown(link.target)}") for link in found.through]
    if found.real_path not in (None, found.path):
        facts.append(("is", shown(found.real_path or b"")))
    if found.source is not None and found.entry is not None:
        facts.append(("from", f"layer {image.layers.index(found.source)}"))
        facts.append(("entry", entry_text(found.entry.path, found.entry)))
    else:
        facts.append(("there is", "a directory that no layer has an entry for" if found.exists else "nothing"))
    facts += [("also", shown(name)) for name in found.names if name != found.real_path]
    yield from ("  " + line for line in columns(facts))
    for what in found.layers:
        made = steps.get(image.layers[what.number])
        implied = ", without an entry of its own" if what.implied else ""
        yield f"{replace(what, label=f'layer {what.number}')}{implied}" + (f"  ({shown(made)})" if made else "")
