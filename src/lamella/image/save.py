"""Write an image somewhere else: into a layout beside the images there, or as a docker-archive."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lamella.errors import BlobNotFound, ImageError, UnsupportedMediaType
from lamella.image.archive_writer import ArchiveWriter
from lamella.image.documents import encode
from lamella.image.layer import Layer
from lamella.image.media_types import LayerType, as_oci
from lamella.image.parts import ImageParts
from lamella.image.reference import LAYOUT, Reference, archive_name, check_ref_name, parse_reference
from lamella.image.transfer import copy_blob, recode_blob
from lamella.image.writer import LayoutWriter
from lamella.model import Digest, Progress
from lamella.stream.codec import ENCODINGS, encoder

__all__ = ["SavedImage", "save_image"]

_SUFFIXES = {"none": "", "gzip": ".gz", "zstd": ".zst"}

# annotations of a layer that speak of its blob's bytes, and so not of those of another compression
_OF_THE_BYTES = ("io.github.containers.zstd-chunked.", "containerd.io/snapshot/stargz/", "io.containers.estargz.")


@dataclass(frozen=True, slots=True)
class SavedImage:
    """What was saved: ``id`` of the configuration, ``digest`` of the manifest (None in an archive, which has none).

    ``n_written`` of ``n_layers`` layers, ``nbytes`` of them, were written; the others were there already, or are kept
    by their publisher only.
    """

    reference: str
    id: Digest
    digest: Digest | None
    n_layers: int
    n_written: int
    nbytes: int


def save_image(
    image: ImageParts,
    reference: str | os.PathLike[str],
    *,
    compression: str | None = None,
    level: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> SavedImage:
    """Save ``image``, see :meth:`lamella.image.image.Image.save`."""
    target = parse_reference(reference)
    if not target.transport:
        raise ImageError(f"say in which form: oci:{target.path} or docker-archive:{target.path}")
    if target.transport == LAYOUT and target.tag is not None:
        check_ref_name(target.tag)  # all that can be wrong with the call, before anything is written
    if compression is not None:
        encoder(compression, level)
    elif level is not None:
        raise ValueError("a level without a compression")
    saving = _Saving(image, target, compression, level, progress)
    return saving.to_layout() if target.transport == LAYOUT else saving.to_archive()


class _Saving:
    """One save: the image, where it goes, and what was written so far."""

    def __init__(
        self,
        image: ImageParts,
        target: Reference,
        compression: str | None,
        level: int | None,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._image = image
        self._target = target
        self._compression = compression
        self._level = level
        self._progress = progress
        self._total = sum(layer.size for layer in image.layers)
        self._done = self._n_written = self._nbytes = 0
        self._config = image.read_config_bytes()

    def to_layout(self) -> SavedImage:
        """Add the image to a layout, blobs first."""
        image = self._image
        manifest = dict(image.manifest)
        with LayoutWriter(self._target.path) as layout:
            listed = manifest["layers"] or ()
            manifest["layers"] = [
                self._layer_to_layout(layout, layer, plain) for layer, plain in zip(image.layers, listed, strict=True)
            ]
            manifest["config"] = as_oci(manifest["config"])
            media_type = as_oci({"mediaType": image.descriptor.media_type})["mediaType"]
            if "mediaType" in manifest:
                manifest["mediaType"] = media_type
            same = manifest == {**image.manifest, "layers": list(listed)}
            layout.add_bytes(self._config, image.id)
            data = image.read_manifest_bytes() if same else encode(manifest)
            digest = layout.add_manifest(data, media_type, self._target.tag)
        return self._saved(digest)

    def _layer_to_layout(self, layout: LayoutWriter, layer: Layer, plain: dict[str, Any]) -> dict[str, Any]:
        kind = LayerType.of(layer.media_type)
        codec = self._codec(kind, self._compression)
        if codec is None:
            try:
                if not layout.holds(layer.digest, layer.size):
                    layout.add_layer(lambda out: self._copied(layer, out))
                    self._wrote(layer.size)
            except BlobNotFound:
                if kind.distributable or not layer.urls:  # else it stays where its publisher keeps it (item 94)
                    raise
            self._step(layer)
            return as_oci(plain)
        made = layout.add_layer(lambda out: recode_blob(layer, out, codec, self._level, self._report))
        self._wrote(made.size)
        self._step(layer)
        kept = {key: value for key, value in plain.items() if key not in ("data", "urls", "annotations")}
        notes = {k: v for k, v in (plain.get("annotations") or {}).items() if not k.startswith(_OF_THE_BYTES)}
        recoded = {"mediaType": LayerType(codec, kind.distributable).media_type, "digest": made.digest, "size": made.size}
        return {**kept, **recoded, **({"annotations": notes} if notes else {})}

    def to_archive(self) -> SavedImage:
        """Write an archive that holds this image alone."""
        image = self._image
        tags = [archive_name(self._target.tag)] if self._target.tag is not None else None
        with ArchiveWriter(self._target.path) as archive:
            names = [self._layer_to_archive(archive, layer) for layer in image.layers]
            config = f"{image.id.hex}.json"
            archive.add(config, self._config)
            archive.add("manifest.json", encode([{"Config": config, "RepoTags": tags, "Layers": names}]))
        return self._saved(None)

    def _layer_to_archive(self, archive: ArchiveWriter, layer: Layer) -> str:
        kind = LayerType.of(layer.media_type)
        wanted = self._compression or "none"
        name = f"{layer.diff_id.hex}/layer.tar{_SUFFIXES[wanted]}"
        if not archive.holds(name):
            codec = self._codec(kind, wanted)
            if codec is None:
                archive.write(name, lambda out: copy_blob(layer, out, self._report))
                self._wrote(layer.size)
            else:
                self._wrote(archive.write(name, lambda out: recode_blob(layer, out, codec, self._level, self._report)).size)
        self._step(layer)
        return name

    def _codec(self, kind: LayerType, wanted: str | None) -> str | None:
        """Return the compression to write anew, None where the blob stays as it is."""
        if kind.codec not in ENCODINGS:
            raise UnsupportedMediaType(f"no layer media type stands for {kind.codec}")
        return None if wanted is None or (wanted == kind.codec and self._level is None) else wanted

    def _copied(self, layer: Layer, out: Any) -> Layer:
        copy_blob(layer, out, self._report)
        return layer

    def _wrote(self, nbytes: int) -> None:
        self._n_written += 1
        self._nbytes += nbytes

    def _report(self, n_read: int) -> None:
        if self._progress is not None:
            self._progress(Progress("save", min(self._done + n_read, self._total), self._total, "bytes"))

    def _step(self, layer: Layer) -> None:
        self._done += layer.size
        self._report(0)

    def _saved(self, digest: Digest | None) -> SavedImage:
        image = self._image
        return SavedImage(str(self._target), image.id, digest, len(image.layers), self._n_written, self._nbytes)
