"""Snapshots out of a store, as the layers of an image: blobs that came in go out bit for bit, what was edited is diffed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from lamella.errors import ReferenceNotFound
from lamella.image.edit import EditedBlobs, rebuilt
from lamella.image.image import Image
from lamella.image.layer import chain_ids
from lamella.image.layout import Layout
from lamella.image.media_types import LayerType
from lamella.image.parts import ImageParts
from lamella.image.save import SavedImage
from lamella.image.writer import LayoutWriter, image_config
from lamella.model import ChainID, DiffID, Progress, SnapshotKind
from lamella.store.graph import LayerRow, Row
from lamella.store.site import Site

__all__ = ["export_image", "layers_of"]

Report = Callable[[Progress], None] | None


def export_image(
    site: Site, name: str, reference: str | os.PathLike[str], *, compression: str | None, progress: Report
) -> SavedImage:
    """Save the image that a committed snapshot and what it stands upon make.

    Its configuration is that of the image it was made from, with a step of history for each snapshot above that.
    """
    row = site.graph.get(name, SnapshotKind.COMMITTED)
    with site.layout() as layout:
        lineage = site.graph.lineage(row)[::-1]
        layers = layers_of(site, layout, row)
        chain = chain_ids(DiffID(layer.diff_id) for layer in layers)
        base, n_base = _base(site, chain)
        if base is None:
            base = _plain(site, layout, layers, chain[-1], lineage)
        elif n_base < len(layers):
            with base:
                base = _edited(base, layers[n_base:], lineage[n_base:])
    with base as image:
        return image.save(reference, compression=compression, progress=progress)


def layers_of(site: Site, layout: LayoutWriter, row: Row) -> list[LayerRow]:
    """Return the layers of a committed snapshot, the lowest first; what is none yet becomes one, written to the layout."""
    found = []
    for each in reversed(site.graph.lineage(row)):
        layer = site.graph.layer(each)
        if layer is None:
            layer = _written(site, layout, each)
        found.append(layer)
    return found


def _written(site: Site, layout: LayoutWriter, row: Row) -> LayerRow:
    with site.driver.changes(site.graph.place(row)) as found:
        info = layout.add_layer(found.write)
    layer = LayerRow(str(info.diff_id), str(info.digest), info.size, info.media_type)
    site.graph.record_layer(row, layer)
    return layer


def _base(site: Site, chain: Sequence[ChainID]) -> tuple[Image | None, int]:
    """Return the image that the most of these layers were imported with, and how many they are."""
    layout = Layout(str(site.images))
    for n in range(len(chain), 0, -1):
        try:
            descriptor = layout.image(str(chain[n - 1]))
        except ReferenceNotFound:
            continue
        return Image(f"oci:{site.images}", layout, descriptor), n
    layout.close()
    return None, 0


def _step(row: Row) -> dict[str, str]:
    return {"created": row.created, "created_by": f"lamella store commit {row.key}"}


def _plain(
    site: Site, layout: LayoutWriter, layers: Sequence[LayerRow], chain_id: ChainID, lineage: Sequence[Row]
) -> Image:
    """Make an image of layers that came without one."""
    config = image_config(
        [layer.diff_id for layer in layers], created=lineage[-1].created, history=[_step(row) for row in lineage]
    )
    layout.add_image(config, [_descriptor(layer, docker=False) for layer in layers], str(chain_id))
    blobs = Layout(str(site.images))
    return Image(f"oci:{site.images}", blobs, blobs.image(str(chain_id)))


def _edited(base: ImageParts, layers: Sequence[LayerRow], lineage: Sequence[Row]) -> Image:
    """Return ``base`` with further layers, whose blobs are in the same layout."""
    blobs = EditedBlobs(base.blobs)
    try:
        listed = [*(base.manifest["layers"] or ()), *(_descriptor(layer, docker=base.docker) for layer in layers)]
        before = base.config.get("history")
        history = [*(before or ()), *map(_step, lineage)] if before or not base.layers else None
        diff_ids = [*base.diff_ids, *(DiffID(layer.diff_id) for layer in layers)]
        changes = {"history": history, "created": lineage[-1].created}
        return Image(base.reference, blobs, rebuilt(base, blobs, listed, diff_ids, changes))
    except BaseException:
        blobs.close()
        raise


def _descriptor(layer: LayerRow, *, docker: bool) -> dict[str, Any]:
    kind = LayerType.of(layer.media_type)
    media_type = LayerType(kind.codec, kind.distributable, docker).media_type
    return {"mediaType": media_type, "digest": layer.digest, "size": layer.size}
