"""What is made of the tables of an image's layers: other layers, and explanations."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from lamella.errors import ConflictError, ImageError
from lamella.image.documents import Descriptor
from lamella.image.edit import EditedBlobs, rebuilt, taken
from lamella.image.layer import Layer
from lamella.image.media_types import LayerType
from lamella.image.parts import ImageParts
from lamella.layer.algebra import Composed, Conflict, TarLayer, compose, rebase, squash
from lamella.layer.explain import Explanation, explain
from lamella.model import Progress
from lamella.tar.layerinfo import LayerInfo

__all__ = ["RebasedImage", "explain_path", "rebase_layers", "squash_layers"]

Report = Callable[[Progress], None] | None
Step = dict[str, str]

# what a configuration says of the machine that the lowest files were made for (config.md)
_OF_THE_PLATFORM = ("architecture", "os", "os.version", "os.features", "variant")


def squash_layers(
    image: ImageParts, chosen: slice, step: Step, compression: str | None, progress: Report
) -> tuple[EditedBlobs, Descriptor]:
    """Return blobs and manifest of ``image`` with some layers as one, see :meth:`lamella.image.image.Image.squash`."""
    first, stop, _ = chosen.indices(len(image.layers))
    if first >= stop:
        raise ValueError(f"no layers to squash: {first} to {stop} of {len(image.layers)}")
    layers = iter(_tables(image.layers[:stop], progress))
    if first:
        lower = [next(layers) for _ in range(first)]
        made = compose(*layers, lower=lower)
    else:
        made = squash(layers)
    blobs = EditedBlobs(image.blobs)
    try:
        codec = compression or LayerType.of(image.layers[stop - 1].media_type).codec
        info, described = _written(made, blobs, codec, docker=image.docker, progress=progress)
        listed = image.manifest["layers"]
        changes = {"history": _merged_history(image.config.get("history"), first, stop, step), "created": step.get("created")}
        diff_ids = [*image.diff_ids[:first], info.diff_id, *image.diff_ids[stop:]]
        return blobs, rebuilt(image, blobs, [*listed[:first], described, *listed[stop:]], diff_ids, changes)
    except BaseException:
        blobs.close()
        raise


@dataclass(frozen=True, slots=True)
class RebasedImage:
    """Blobs and manifest of an image upon another base, and where its layers and the new base changed the same names."""

    blobs: EditedBlobs
    descriptor: Descriptor
    conflicts: tuple[Conflict, ...]


def rebase_layers(
    image: ImageParts, old: ImageParts, new: ImageParts, step: Step, *, keep: bool, progress: Report
) -> RebasedImage:
    """Return ``image``, which stands on ``old``, upon ``new``; see :meth:`lamella.image.image.Image.rebase`."""
    n_old = len(old.layers)
    if image.diff_ids[:n_old] != old.diff_ids:
        raise ImageError(f"{image.reference} does not stand on {old.reference}: its lowest layers are others")
    tables = list(_tables([*image.layers, *new.layers], progress))
    base, own = tables[len(image.layers) :], tables[n_old : len(image.layers)]
    made = rebase(own, tables[:n_old], base)
    if made.conflicts and not keep:
        raise ConflictError(made.conflicts[0].path, _told(made.conflicts))
    blobs = EditedBlobs(image.blobs, new.blobs)
    try:
        listed, diff_ids = list(new.manifest["layers"] or ()), list(new.diff_ids)
        for layer, before, stored, plain in zip(
            made.layers, own, image.layers[n_old:], (image.manifest["layers"] or ())[n_old:], strict=True
        ):
            if _is_same(layer, before):
                listed.append(plain)
                diff_ids.append(stored.diff_id)
                continue
            codec = LayerType.of(stored.media_type).codec
            info, described = _written(layer, blobs, codec, docker=image.docker, progress=progress)
            listed.append(described)
            diff_ids.append(info.diff_id)
        changes = {key: new.config[key] for key in _OF_THE_PLATFORM if key in new.config}
        changes |= {"history": _joined_history(image, old, new), "created": step.get("created")}
        descriptor = rebuilt(image, blobs, listed, diff_ids, changes, oci=image.docker != new.docker, base=new)
    except BaseException:
        blobs.close()
        raise
    return RebasedImage(blobs, descriptor, made.conflicts)


def explain_path(image: ImageParts, path: str | bytes | os.PathLike[str], progress: Report) -> Explanation:
    """Explain ``path``, see :meth:`lamella.image.image.Image.explain`."""
    tables = (layer.table for layer in _tables(image.layers, progress))
    return explain(zip(image.layers, tables, strict=True), path)


def _told(conflicts: Sequence[Conflict]) -> str:
    more = f", and {len(conflicts) - 1} more" if len(conflicts) > 1 else ""
    return conflicts[0].reason + more


def _is_same(layer: Composed, before: TarLayer) -> bool:
    """Tell whether a rebased layer says what it said before, so that its blob can stay: a row for each row, in any order."""
    table, old = layer.table, before.table
    if len(table) != len(old):
        return False
    own = len(layer.layers) - 1
    rows = set()
    for i, (origin, row) in enumerate(zip(layer.origin.tolist(), layer.origin_row.tolist(), strict=True)):
        found = row if origin == own else old.find(table.path(i)) if origin < 0 else -1  # a marker is made anew
        if found < 0 or table.path(i) != old.path(found) or table.link_target(i) != old.link_target(found):
            return False
        rows.add(found)
    return len(rows) == len(old)


def _joined_history(image: ImageParts, old: ImageParts, new: ImageParts) -> list[dict[str, Any]]:
    """Return the new base's steps and those of ``image`` that are not the old base's; none where a part has none."""
    steps, below, base = (each.config.get("history") or [] for each in (image, old, new))
    made = [i for i, each in enumerate(steps) if not each.get("empty_layer")]
    if len(made) != len(image.layers) or (not base and new.layers):
        return []
    at = len(below)
    if not below or steps[:at] != below:  # the old base says it in other words: count the layers
        at = made[len(old.layers) - 1] + 1 if old.layers else 0
    return [*base, *steps[at:]]


def _written(
    layer: Composed, blobs: EditedBlobs, codec: str, *, docker: bool, progress: Report
) -> tuple[LayerInfo, dict[str, Any]]:
    """Write ``layer`` into a temporary file that ``blobs`` keep; return what it is, and its descriptor."""
    with tempfile.TemporaryFile() as out:
        info = layer.write(out, compression=codec, progress=progress)
        return info, blobs.hold(taken(out), info.digest, codec, docker=docker, own=True)


def _tables(layers: Sequence[Layer], progress: Report) -> Iterator[TarLayer]:
    """Read the tables of ``layers``, verified, one ahead of what was asked for."""
    total = sum(layer.size for layer in layers)
    with ThreadPoolExecutor(1, "lamella-tables") as pool:
        ahead: list[Future[TarLayer]] = [pool.submit(_table, layer) for layer in layers[:2]]
        done = 0
        for i, layer in enumerate(layers):
            found = ahead.pop(0).result()
            ahead += [pool.submit(_table, later) for later in layers[i + 2 : i + 3]]
            done += layer.size
            if progress is not None:
                progress(Progress("read", done, total, "bytes"))
            yield found


def _table(layer: Layer) -> TarLayer:
    with layer.reader() as reader:
        table = reader.table()
    return TarLayer(table, lambda: layer.reader(verify=False))


def _merged_history(history: Sequence[dict[str, Any]] | None, first: int, stop: int, step: Step) -> list[dict[str, Any]] | None:
    """Return the history with the steps of layers [first, stop) made empty, and behind them the step that made one of them."""
    if not history:
        return None
    steps: list[dict[str, Any]] = []
    n_layers = at = 0
    for old in history:
        made = not old.get("empty_layer")
        merged = made and first <= n_layers < stop
        n_layers += made
        steps.append({**old, "empty_layer": True} if merged else old)
        at = len(steps) if merged else at
    steps.insert(at or len(steps), step)
    return steps
