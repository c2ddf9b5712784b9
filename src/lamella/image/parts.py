"""What an image is made of: documents, layers and history, read and compared with each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from lamella.errors import ManifestError
from lamella.image.blobs import Blobs
from lamella.image.documents import Descriptor
from lamella.image.layer import Layer, chain_ids, layers_of
from lamella.image.media_types import DOCKER_MANIFEST
from lamella.model import DiffID

__all__ = ["HistoryEntry", "ImageParts"]


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One step of an image's history; ``layer`` is what it made, None for an empty one."""

    created: str | None
    created_by: str | None
    author: str | None
    comment: str | None
    empty_layer: bool
    layer: Layer | None


class ImageParts:
    """The manifest that ``descriptor`` names in ``blobs``, its configuration, and its layers.

    The documents are read and verified on construction: ManifestError, DigestMismatchError, BlobNotFound,
    UnsupportedMediaType. A context manager; closing ends one use of ``blobs``.
    """

    def __init__(self, reference: str, blobs: Blobs, descriptor: Descriptor) -> None:
        self.reference = reference
        self.descriptor = descriptor
        self.digest = descriptor.digest
        self.blobs = blobs
        self._closed = False
        self.manifest: dict[str, Any]
        self.config: dict[str, Any]
        self.manifest, manifest = blobs.read_manifest(descriptor)
        self.config, self._config = blobs.read_config(manifest.config)
        self._config_descriptor = manifest.config
        self.id = manifest.config.digest
        self.diff_ids: tuple[DiffID, ...] = self._config.rootfs.diff_ids or ()
        self.chain_ids = chain_ids(self.diff_ids)
        found = manifest.layers or ()
        if len(found) != len(self.diff_ids):
            raise ManifestError(f"manifest {self.digest} has {len(found)} layers, its config {len(self.diff_ids)} diff_ids")
        self.layers: tuple[Layer, ...] = layers_of(blobs, found, self.diff_ids)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Image {self.reference} {self.digest}>"

    def close(self) -> None:
        """Release the image; its layers cannot be opened any more, unless an image made from this one still needs them."""
        if not self._closed:
            self._closed = True
            self.blobs.close()

    @property
    def docker(self) -> bool:
        """Whether the manifest is of Docker's types instead of OCI's."""
        return self.descriptor.media_type == DOCKER_MANIFEST

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

    def read_manifest_bytes(self) -> bytes:
        """Return the manifest as stored, to the byte."""
        return self.blobs.read_document(self.descriptor, "manifest")

    def read_config_bytes(self) -> bytes:
        """Return the configuration as stored, to the byte."""
        return self.blobs.read_document(self._config_descriptor, "config")
