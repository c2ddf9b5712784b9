"""Image and Layer: what a reference names, for reading."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Self

from lamella.errors import ManifestError
from lamella.image.documents import Descriptor
from lamella.image.layout import Layout, StoredBlob
from lamella.image.reference import Reference, parse_reference
from lamella.image.verify import Problem, verify_image
from lamella.model import ChainID, DiffID, Digest, Progress
from lamella.tar.reader import LayerReader, read_layer

__all__ = ["HistoryEntry", "Image", "Layer", "chain_ids", "open_image"]


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One layer of an image. ``id`` is its chain_id, ``diff_id`` that of its tar, ``digest`` that of its blob."""

    id: ChainID
    diff_id: DiffID
    digest: Digest
    size: int
    media_type: str
    urls: tuple[str, ...]
    layout: Layout = field(repr=False)
    descriptor: Descriptor = field(repr=False)

    def open(self) -> StoredBlob:
        """Open the blob as stored: a raw binary file, size and digest checked when its last byte is read.

        BlobNotFound where the layout does not hold it, DigestMismatchError from a read at its end.
        """
        return self.layout.open_blob(self.descriptor)

    def reader(self, *, progress: Callable[[Progress], None] | None = None) -> LayerReader:
        """Open the layer's entries, see :func:`lamella.read_layer`; digest and diff_id are checked at the end.

        CodecError where the media type and the blob's magic disagree (tests/contract 88), UnsupportedMediaType for
        a type that is no layer's; else errors as :meth:`open`.
        """
        self.layout.open_file(self.descriptor).close()  # BlobNotFound here; the reader owns what it opens itself
        return read_layer(
            self.layout.blob_path(self.digest),
            media_type=self.media_type,
            expected_digest=self.digest,
            expected_diff_id=self.diff_id,
            progress=progress,
        )


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One step of an image's history; ``layer`` is what it made, None for an empty one."""

    created: str | None
    created_by: str | None
    author: str | None
    comment: str | None
    empty_layer: bool
    layer: Layer | None


class Image:
    """An image in a layout: manifest, configuration and layers. A context manager.

    ``manifest`` and ``config`` are the JSON documents as stored, unknown fields included. ``id`` is the configuration's
    digest, ``digest`` the manifest's. ``layers``, ``diff_ids`` and ``chain_ids`` are tuples, the lowest layer first.
    """

    def __init__(self, reference: Reference, layout: Layout, descriptor: Descriptor) -> None:
        self.reference = str(reference)
        self.layout = layout
        self.descriptor = descriptor
        self.digest = descriptor.digest
        self.manifest, manifest = layout.read_manifest(descriptor)
        self.config, self._config = layout.read_config(manifest.config)
        self.id = manifest.config.digest
        self.diff_ids: tuple[DiffID, ...] = self._config.rootfs.diff_ids or ()
        self.chain_ids = chain_ids(self.diff_ids)
        blobs = manifest.layers or ()
        if len(blobs) != len(self.diff_ids):
            raise ManifestError(f"manifest {self.digest} has {len(blobs)} layers, its config {len(self.diff_ids)} diff_ids")
        self.layers: tuple[Layer, ...] = tuple(
            Layer(chain_id, diff_id, blob.digest, blob.size, blob.media_type, blob.urls or (), layout, blob)
            for chain_id, diff_id, blob in zip(self.chain_ids, self.diff_ids, blobs, strict=True)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Image {self.reference} {self.digest}>"

    def close(self) -> None:
        """Release the image; its layers cannot be opened any more."""
        self.layout.close()

    @property
    def history(self) -> tuple[HistoryEntry, ...]:
        """The steps of the history, each with the layer it made.

        Empty layers are stepped over, so the two are never matched by number (tests/contract 92). Steps beyond the
        last layer have None; :meth:`verify` reports that.
        """
        layers = iter(self.layers)
        return tuple(
            HistoryEntry(
                step.created, step.created_by, step.author, step.comment, bool(step.empty_layer),
                None if step.empty_layer else next(layers, None),
            )
            for step in self._config.history or ()
        )  # fmt: skip

    def verify(self, *, progress: Callable[[Progress], None] | None = None) -> list[Problem]:
        """Read everything the image is made of and return what is wrong with it: nothing, an empty list.

        See :func:`lamella.image.verify.verify_image`.
        """
        return verify_image(self.layout, self.descriptor, progress=progress)


def open_image(reference: str | os.PathLike[str]) -> Image:
    """Open ``oci:DIR[:TAG]``, or the path of a directory that holds an OCI image layout.

    Without a tag the layout's only image is meant. Manifest and configuration are read and verified here, layers when
    they are used. ReferenceNotFound, BlobNotFound, ManifestError, DigestMismatchError, UnsupportedMediaType.
    """
    parsed = parse_reference(reference)
    layout = Layout(parsed.path)
    return Image(parsed, layout, layout.find(parsed.tag))


def chain_ids(diff_ids: Iterable[DiffID]) -> tuple[ChainID, ...]:
    """Return the chain_id of every layer of a stack, the lowest first (config.md, "Layer ChainID")."""
    chain: list[ChainID] = []
    for diff_id in diff_ids:
        chain.append(ChainID.chain(chain[-1] if chain else None, diff_id))
    return tuple(chain)
