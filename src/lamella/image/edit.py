"""Images made from images: what is new is held here, all else stays where it lies until the result is saved."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO, TypeVar

from lamella.image.blobs import Blobs
from lamella.image.documents import OCI_MANIFEST, Descriptor, encode
from lamella.image.media_types import LayerType, as_oci
from lamella.image.parts import ImageParts
from lamella.image.transfer import copy_source
from lamella.model import DiffID, Digest, Progress
from lamella.stream.blob import BlobReader, BlobWriter
from lamella.stream.codec import ENCODINGS
from lamella.stream.region import HeldFile, RegionSource
from lamella.stream.source import open_source
from lamella.tar.reader import read_layer

__all__ = ["EditedBlobs", "append_layer", "known", "known_fields", "rebuilt", "taken"]

_BASE_DIGEST, _BASE_NAME = "org.opencontainers.image.base.digest", "org.opencontainers.image.base.name"

AnyDigest = TypeVar("AnyDigest", bound=Digest)
Report = Callable[[Progress], None] | None


class EditedBlobs(Blobs):
    """The blobs of other images, shared with them, and files that hold new ones, gone with the last image that needs them."""

    def __init__(self, *parents: Blobs) -> None:
        super().__init__(parents[0].where)
        self._parents = [parent.share() for parent in parents]
        self._held: dict[Digest, HeldFile] = {}
        self._own: set[Digest] = set()

    def find(self, digest: Digest) -> RegionSource | None:
        """Open a blob, new or of a parent."""
        held = self._held.get(digest)
        if held is not None:
            return RegionSource(held, 0, held.size, self.where)
        parents = sorted(self._parents, key=lambda parent: not parent.is_own(digest))
        return next((source for parent in parents if (source := parent.find(digest)) is not None), None)

    def document(self, digest: Digest) -> bytes | None:
        """Return a document that lies in no file."""
        found = (parent.document(digest) for parent in self._parents)
        return super().document(digest) or next((data for data in found if data is not None), None)

    def release(self) -> None:
        """Let go of the new files and of the parents."""
        self._held.clear()
        for parent in self._parents:
            parent.close()

    def hold(
        self, file: HeldFile, digest: Digest | None, codec: str, *, docker: bool = False, own: bool = False
    ) -> dict[str, Any]:
        """Keep the file of a new layer; return its descriptor, of Docker's types if ``docker``.

        ``own`` says that nobody else can have changed the file since it was digested.
        """
        digest = known(digest)
        self._held[digest] = file
        if own:
            self._own.add(digest)
        return {"mediaType": LayerType(codec, docker=docker).media_type, "digest": digest, "size": file.size}

    def is_own(self, digest: Digest) -> bool:
        """Tell whether a blob was written and digested here."""
        return digest in self._own or any(parent.is_own(digest) for parent in self._parents)


def append_layer(image: ImageParts, layer: Any, step: dict[str, str], progress: Report) -> tuple[EditedBlobs, Descriptor]:
    """Return blobs and manifest of ``image`` with one more layer on top, see :meth:`lamella.image.image.Image.append`."""
    blobs = EditedBlobs(image.blobs)
    try:
        file = _held(layer)
        with (
            RegionSource(file, 0, file.size, _name_of(layer)) as source,
            read_layer(source, progress=progress) as reader,
        ):
            for _ in reader:  # it is a tar from end to end
                pass
            codec, digest, diff_id = reader.codec, reader.digest, reader.diff_id
        if codec not in ENCODINGS:
            file, digest, codec = _recoded(file)
        layers = [*(image.manifest["layers"] or ()), blobs.hold(file, digest, codec, docker=image.docker)]
        changes = {"history": _history(image, step), "created": step.get("created")}
        return blobs, rebuilt(image, blobs, layers, [*image.diff_ids, known(diff_id)], changes)
    except BaseException:
        blobs.close()
        raise


def rebuilt(
    image: ImageParts,
    blobs: EditedBlobs,
    layers: Sequence[dict[str, Any]],
    diff_ids: Sequence[DiffID],
    changes: Mapping[str, Any],
    *,
    oci: bool = False,
    base: ImageParts | None = None,
) -> Descriptor:
    """Return the manifest of an image of ``layers`` (descriptors, the lowest first) that else is as ``image``.

    ``changes`` are members of the configuration to replace; those that are None stay as they are. What is new is kept in
    ``blobs``. ``oci`` makes Docker's types OCI's. ``base`` is what the annotations that name a base, if there are any,
    name from now on (OCI image-spec, annotations.md).
    """
    config = {**image.config, "rootfs": {**image.config["rootfs"], "diff_ids": list(diff_ids)}}
    config |= {key: value for key, value in changes.items() if value is not None}
    before = image.manifest["config"]
    stored = blobs.keep_document(encode(config), before["mediaType"])
    facts = {key: value for key, value in before.items() if key != "data"}
    manifest = {
        **image.manifest,
        "config": {**facts, "digest": stored.digest, "size": stored.size},
        "layers": list(layers),
    }
    if base is not None and _BASE_DIGEST in (notes := manifest.get("annotations") or {}):
        others = {key: value for key, value in notes.items() if key != _BASE_NAME}
        manifest["annotations"] = {**others, _BASE_DIGEST: str(base.digest)}
    if oci:
        manifest |= {"mediaType": OCI_MANIFEST, "config": as_oci(manifest["config"])}
        manifest["layers"] = [as_oci(layer) for layer in layers]
        return blobs.keep_document(encode(manifest), OCI_MANIFEST)
    return blobs.keep_document(encode(manifest), image.descriptor.media_type)


def known(digest: AnyDigest | None) -> AnyDigest:
    """Return what a reader or writer knows at its end."""
    if digest is None:
        raise ValueError("a layer that was not read to its end has no digest")
    return digest


def known_fields(step: Mapping[str, str | None]) -> dict[str, str]:
    """Return the fields of a step of a history that have a value."""
    return {key: value for key, value in step.items() if value is not None}


def _history(image: ImageParts, step: dict[str, str]) -> list[dict[str, Any]] | None:
    """Return the history with one more step; None where there is none although there are layers: it cannot begin amid."""
    before = image.config.get("history")
    return None if not before and image.layers else [*(before or ()), step]


def _name_of(layer: Any) -> str:
    return os.fspath(layer) if isinstance(layer, (str, os.PathLike)) else str(getattr(layer, "name", "<layer>"))


def _held(layer: Any) -> HeldFile:
    """Open the layer's file; what is no path goes to a temporary file that has no name."""
    if isinstance(layer, (str, os.PathLike)):
        return HeldFile.open(layer)
    with tempfile.TemporaryFile() as out, open_source(layer) as source:
        copy_source(source, out)
        return taken(out)


def _recoded(file: HeldFile) -> tuple[HeldFile, Digest | None, str]:
    """Return a layer that no media type stands for, in gzip."""
    with (
        tempfile.TemporaryFile() as out,
        RegionSource(file, 0, file.size, "<layer>") as source,
        BlobReader(source, digests=False) as reader,
        BlobWriter(out, compression="gzip") as writer,
    ):
        for chunk in reader:
            writer.write(chunk)
        made = writer.finish()
        return taken(out), made.digest, "gzip"


def taken(out: BinaryIO) -> HeldFile:
    """Hold the file of a temporary file object, which may then be closed."""
    out.flush()
    return HeldFile(os.dup(out.fileno()))
