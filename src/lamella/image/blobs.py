"""The bytes that an image is made of, by descriptor: what layouts, archives and edited images have in common."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Any, Self

from lamella.errors import (
    BlobNotFound,
    DigestMismatchError,
    ImageError,
    LimitExceededError,
    UnsupportedMediaType,
)
from lamella.image.documents import CONFIG_TYPES, MANIFEST_TYPES, Config, Descriptor, Manifest, check_types, decode
from lamella.model import Digest
from lamella.stream.digest import VerifiedReader
from lamella.stream.region import RegionSource

__all__ = ["ALGORITHMS", "MAX_DOCUMENT_NBYTES", "Blobs", "StoredBlob"]

MAX_DOCUMENT_NBYTES = 4 << 20  # the size that registries accept (distribution-spec, "Pushing Manifests")
ALGORITHMS = ("sha256", "sha384", "sha512")


class StoredBlob(VerifiedReader):
    """A blob open for reading; size and digest are checked at its end (DigestMismatchError). Closes its source."""

    def __init__(self, source: RegionSource, digest: Digest, size: int) -> None:
        super().__init__(source, digest, size)
        self._source = source

    def close(self) -> None:
        """Close the blob."""
        self._source.close()
        super().close()


class Blobs(ABC):
    """Blobs by descriptor, and documents that were made here and lie in no file.

    Images share it: each calls :meth:`share` (the first one has it already), and the last :meth:`close` releases what
    is held. ``where`` names the place in messages. From then on opening is a ValueError.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self._documents: dict[Digest, bytes] = {}
        self._n_users = 1
        self._lock = threading.Lock()

    @abstractmethod
    def find(self, digest: Digest) -> RegionSource | None:
        """Open a blob, None where it is not here."""

    def is_own(self, digest: Digest) -> bool:  # noqa: ARG002
        """Tell whether a blob was written and digested here, so that copying it needs no further look."""
        return False

    def release(self) -> None:  # noqa: B027 - nothing to do for a directory
        """Give back what is held, when no image needs it any more."""

    def share(self) -> Self:
        """Return this object for one more user."""
        with self._lock:
            self._check_open()
            self._n_users += 1
        return self

    def close(self) -> None:
        """End one use; what is held is given back after the last."""
        with self._lock:
            self._n_users -= 1
            last = self._n_users == 0
        if last:
            self.release()

    def _check_open(self) -> None:
        if self._n_users <= 0:
            raise ValueError("the image is closed")

    def document(self, digest: Digest) -> bytes | None:
        """Return a document that was made here, None for one that lies in a file."""
        return self._documents.get(digest)

    def keep_document(self, data: bytes, media_type: str) -> Descriptor:
        """Make a document one of these blobs; return its descriptor."""
        descriptor = Descriptor(media_type, Digest.of(data), len(data))
        self._documents[descriptor.digest] = data
        return descriptor

    def open_source(self, descriptor: Descriptor) -> RegionSource:
        """Open a blob for a reader that verifies it.

        BlobNotFound (with the descriptor's urls) where it is missing, ImageError for a digest of an unknown algorithm.
        """
        self._check_open()
        if descriptor.digest.algorithm not in ALGORITHMS:
            raise ImageError(f"digest algorithm {descriptor.digest.algorithm!r} is not supported")
        source = self.find(descriptor.digest)
        if source is None:
            urls = descriptor.urls or ()
            elsewhere = f", its publisher keeps it at {', '.join(urls)}" if urls else ""
            raise BlobNotFound(f"blob {descriptor.digest} is not in {self.where!r}{elsewhere}", urls=urls)
        return source

    def open_blob(self, descriptor: Descriptor) -> StoredBlob:
        """Open a blob, verified at its end; errors as for :meth:`open_source`."""
        return StoredBlob(self.open_source(descriptor), descriptor.digest, descriptor.size)

    def read_document(self, descriptor: Descriptor, what: str) -> bytes:
        """Return a whole JSON blob, verified. LimitExceededError above 4 MiB; ``what`` names it in errors."""
        if descriptor.size > MAX_DOCUMENT_NBYTES:
            raise LimitExceededError("document_bytes", descriptor.size, entry=what.encode())
        self._check_open()
        if (made := self.document(descriptor.digest)) is not None:
            return made
        with self.open_blob(descriptor) as blob:
            try:
                return blob.readall()
            except DigestMismatchError as error:
                where = f"{what} {descriptor.digest}"
                raise DigestMismatchError(where, expected=error.expected, actual=error.actual) from error

    def read_manifest(self, descriptor: Descriptor) -> tuple[dict[str, Any], Manifest]:
        """Return an image's manifest, plain and typed. UnsupportedMediaType for something else."""
        if descriptor.media_type not in MANIFEST_TYPES:
            raise UnsupportedMediaType(f"not an image manifest: {descriptor.media_type!r}")
        what = f"manifest {descriptor.digest}"
        plain, typed = decode(self.read_document(descriptor, "manifest"), Manifest, what)
        check_types(typed, descriptor.media_type, what)
        return plain, typed

    def read_config(self, descriptor: Descriptor) -> tuple[dict[str, Any], Config]:
        """Return an image's configuration, plain and typed. UnsupportedMediaType for that of another artifact."""
        if descriptor.media_type not in CONFIG_TYPES:
            raise UnsupportedMediaType(f"not an image configuration: {descriptor.media_type!r}")
        return decode(self.read_document(descriptor, "config"), Config, f"config {descriptor.digest}")
