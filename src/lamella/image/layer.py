"""One layer of an image: what names it, and how its bytes are reached."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from lamella.image.blobs import Blobs, StoredBlob
from lamella.image.documents import Descriptor
from lamella.model import ChainID, DiffID, Digest, Progress
from lamella.stream.region import RegionSource
from lamella.tar.reader import LayerReader

__all__ = ["Layer", "chain_ids", "layers_of"]


class StoredLayerReader(LayerReader):
    """A reader that closes the blob it was given."""

    _stored: RegionSource

    @classmethod
    def of(cls, layer: Layer, *, verify: bool, progress: Callable[[Progress], None] | None) -> StoredLayerReader:
        """Open ``layer``, verified at its end if so asked."""
        source = layer.source()
        try:
            reader = cls(
                source,
                media_type=layer.media_type,
                digests=verify,
                expected_digest=layer.digest if verify else None,
                expected_diff_id=layer.diff_id if verify else None,
                progress=progress,
            )
        except BaseException:
            source.close()
            raise
        reader._stored = source
        return reader

    def close(self) -> None:
        """Stop reading, wherever it stands."""
        super().close()
        self._stored.close()


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One layer of an image. ``id`` is its chain_id, ``diff_id`` that of its tar, ``digest`` that of its blob."""

    id: ChainID
    diff_id: DiffID
    digest: Digest
    size: int
    media_type: str
    urls: tuple[str, ...]
    blobs: Blobs = field(repr=False)
    descriptor: Descriptor = field(repr=False)

    def __str__(self) -> str:
        return f"layer {self.diff_id.hex[:12]}"

    def open(self) -> StoredBlob:
        """Open the blob as stored: a raw binary file, size and digest checked when its last byte is read.

        BlobNotFound where it is not there, DigestMismatchError from a read at its end.
        """
        return self.blobs.open_blob(self.descriptor)

    def source(self) -> RegionSource:
        """Open the blob for a reader that verifies it itself, as :class:`lamella.stream.blob.BlobReader` does.

        A Source of the floor below: seekable, and read by pread at ``begin`` of its descriptor ``fd``, a file in a
        layout or a member inside an archive. To be closed by the caller. BlobNotFound where it is not there.
        """
        return self.blobs.open_source(self.descriptor)

    def reader(self, *, verify: bool = True, progress: Callable[[Progress], None] | None = None) -> LayerReader:
        """Open the layer's entries, see :func:`lamella.read_layer`; digest and diff_id are checked at the end.

        ``verify=False`` leaves that out, for who has read all of it before.

        CodecError where the media type and the blob's magic disagree (tests/contract 88), UnsupportedMediaType for
        a type that is no layer's; else errors as :meth:`open`.
        """
        return StoredLayerReader.of(self, verify=verify, progress=progress)


def chain_ids(diff_ids: Iterable[DiffID]) -> tuple[ChainID, ...]:
    """Return the chain_id of every layer of a stack, the lowest first (config.md, "Layer ChainID")."""
    chain: list[ChainID] = []
    for diff_id in diff_ids:
        chain.append(ChainID.chain(chain[-1] if chain else None, diff_id))
    return tuple(chain)


def layers_of(blobs: Blobs, descriptors: Iterable[Descriptor], diff_ids: tuple[DiffID, ...]) -> tuple[Layer, ...]:
    """Return the layers that a manifest lists, as many as there are ``diff_ids``, the lowest first."""
    return tuple(
        Layer(chain_id, diff_id, blob.digest, blob.size, blob.media_type, blob.urls or (), blobs, blob)
        for chain_id, diff_id, blob in zip(chain_ids(diff_ids), diff_ids, descriptors, strict=True)
    )
