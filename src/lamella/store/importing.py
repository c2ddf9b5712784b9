"""Images and layers into a store: blobs into its layout, a committed snapshot for each layer, recorded all together."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

from lamella.errors import ImageError, UnsupportedMediaType
from lamella.image.image import open_image
from lamella.image.layer import Layer, chain_ids
from lamella.image.layout import Layout
from lamella.image.transfer import copy_blob, copy_bytes, copy_source
from lamella.image.writer import LayoutWriter
from lamella.layer.apply import ApplyResult
from lamella.layer.options import Options
from lamella.layer.stack import StackLayer, readers
from lamella.model import ChainID, DiffID, Digest, Progress, SnapshotKind
from lamella.store.exporting import layers_of
from lamella.store.graph import LayerRow, Row
from lamella.store.making import finish_remove, made
from lamella.store.site import Site
from lamella.stream.blob import BlobReader
from lamella.stream.region import HeldFile, RegionSource
from lamella.stream.source import open_source

__all__ = ["import_image", "import_layer"]

Report = Callable[[Progress], None] | None


@dataclass(frozen=True, slots=True)
class _Blob:
    """A layer's blob on its way: where its bytes are now, and the staged file, None where it is filed already."""

    layer: Layer
    open: Callable[[], RegionSource]
    staged: IO[bytes] | None


def import_image(site: Site, reference: str | os.PathLike[str], *, rootless: bool, progress: Report) -> ChainID:
    """Import an image; return the key of its top layer's snapshot.

    Its blobs are copied first; what is applied, and verified, is the copy. The layout's lock is held: one process imports.
    """
    with open_image(reference) as image, site.layout() as layout, contextlib.ExitStack() as stack:
        if not image.layers:
            raise ImageError(f"an image without layers: {image.reference}")
        there = {layer.id for layer in image.layers if site.graph.find(layer.id) is not None}
        blobs = [_blob(stack, layout, layer, known=layer.id in there) for layer in image.layers]
        todo = [blob for blob in blobs if blob.layer.id not in there]
        rows = _placed(site, stack, image.layers, todo, rootless, progress)
        site.driver.sync()
        for blob in blobs:
            if blob.staged is not None:
                layout.keep(blob.staged, blob.layer.digest)
                site.step("kept", blob.layer.digest)
        layout.add_bytes(image.read_config_bytes(), image.id)
        top = image.layers[-1].id
        layout.add_manifest(image.read_manifest_bytes(), image.descriptor.media_type, top)
        site.step("named", top)
        with site.graph.change():
            for row, blob in zip(rows, todo, strict=True):
                layer = blob.layer
                site.graph.record_layer(row, LayerRow(layer.diff_id, layer.digest, layer.size, layer.media_type))
            site.graph.finish(*rows, committed=True)
            site.graph.pin(top)
    site.step("ready", top)
    return top


def import_layer(site: Site, source: Any, parent: str | None, *, rootless: bool, progress: Report) -> ChainID:
    """Import one layer upon a committed snapshot, or upon nothing; return the key of its snapshot, which may be there."""
    below = None if parent is None else site.graph.get(parent, SnapshotKind.COMMITTED)
    with site.layout() as layout, contextlib.ExitStack() as stack:
        lower = [] if below is None else layers_of(site, layout, below)
        file = stack.enter_context(layout.staged())
        with open_source(source) as bytes_:
            copy_source(bytes_, file)
        each = stack.enter_context(contextlib.closing(readers([StackLayer(partial(_reopened, file))], Options())))
        row = stack.enter_context(made(site, f"layer-{site.owner.name}-{os.urandom(4).hex()}", below))
        layer = _described(_apply(site, row, next(each), rootless, progress))
        chain = chain_ids([*(DiffID(each_.diff_id) for each_ in lower), DiffID(layer.diff_id)])[-1]
        site.driver.sync()
        layout.keep(file, Digest(layer.digest))
        with site.graph.change():
            known = site.graph.find(chain)
            if known is None:
                site.graph.rename(row, chain)
                site.graph.record_layer(row, layer)
                site.graph.finish(row, committed=True)
        if known is not None:
            site.graph.pin(chain)
            finish_remove(site, row)
    site.step("ready", chain)
    return chain


def _placed(  # noqa: PLR0917 - all of an import
    site: Site, stack: contextlib.ExitStack, layers: Sequence[Layer], todo: Sequence[_Blob], rootless: bool, progress: Report
) -> list[Row]:  # fmt: skip
    """Make a snapshot of each of ``layers`` that is to do, in the making still; return them, the lowest first."""
    sources = [StackLayer(b.open, b.layer.media_type, b.layer.digest, b.layer.diff_id, b.layer.size) for b in todo]
    each = stack.enter_context(contextlib.closing(readers(sources, Options())))
    rows: list[Row] = []
    done, total = 0, sum(blob.layer.size for blob in todo)
    below = None if len(todo) == len(layers) else site.graph.get(layers[len(layers) - len(todo) - 1].id)
    for blob in todo:
        below = stack.enter_context(made(site, blob.layer.id, below, pinned=False))
        _apply(site, below, next(each), rootless, _shifted(progress, done, total))
        rows.append(below)
        done += blob.layer.size
    return rows


def _apply(site: Site, row: Row, reader: BlobReader, rootless: bool, progress: Report) -> ApplyResult:
    place = site.graph.place(row)
    result = site.driver.apply(place, reader, rootless=rootless, progress=progress)
    site.step("applied", row.key)
    site.driver.commit(place)
    site.step("committed", row.key)
    return result


def _blob(stack: contextlib.ExitStack, layout: LayoutWriter, layer: Layer, *, known: bool) -> _Blob:
    """Have a layer's blob in the layout, or staged there to be verified; one that nobody will apply is verified now."""
    if layout.holds(layer.digest, layer.size):
        return _Blob(layer, partial(_filed, layout, layer), None)
    if known:
        layout.add_layer(partial(_copied, layer))
        return _Blob(layer, partial(_filed, layout, layer), None)
    file = stack.enter_context(layout.staged())
    with layer.source() as source:
        copy_bytes(source, file)
    return _Blob(layer, partial(_reopened, file), file)


def _copied(layer: Layer, out: IO[bytes]) -> Layer:
    copy_blob(layer, out, _quiet)
    return layer


def _quiet(_n_read: int) -> None:
    pass


def _filed(layout: LayoutWriter, layer: Layer) -> RegionSource:
    return Layout(layout.path).open_source(layer.descriptor)


def _reopened(file: IO[bytes]) -> RegionSource:
    file.flush()
    held = HeldFile.open(file.name)
    return RegionSource(held, 0, held.size, "<layer>")


def _described(result: ApplyResult) -> LayerRow:
    if result.media_type is None:
        raise UnsupportedMediaType("no layer media type stands for this compression: recode it (gzip, zstd or none)")
    return LayerRow(str(result.diff_id), str(result.digest), result.compressed_size, result.media_type)


def _shifted(progress: Report, done: int, total: int) -> Report:
    if progress is None:
        return None
    return lambda made: progress(Progress("import", done + made.done, total, "bytes"))
