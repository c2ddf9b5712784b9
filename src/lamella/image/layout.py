"""A directory in the OCI image layout, for reading: its index, and its blobs by digest."""

from __future__ import annotations

import errno
import io
import os
import platform
import stat
from typing import Any

from lamella.errors import (
    BlobNotFound,
    DigestMismatchError,
    ImageError,
    LimitExceededError,
    ManifestError,
    ReferenceNotFound,
    UnsupportedMediaType,
)
from lamella.image.documents import (
    CONFIG_TYPES,
    INDEX_TYPES,
    MANIFEST_TYPES,
    REF_NAME,
    Config,
    Descriptor,
    Index,
    LayoutFile,
    Manifest,
    check_types,
    decode,
)
from lamella.model import Digest
from lamella.stream.digest import VerifiedReader

__all__ = ["ALGORITHMS", "MAX_DOCUMENT_NBYTES", "Layout", "StoredBlob", "goarch"]

MAX_DOCUMENT_NBYTES = 4 << 20  # the size that registries accept (distribution-spec, "Pushing Manifests")
VERSION = "1.0.0"
ALGORITHMS = ("sha256", "sha384", "sha512")

# Names of machines as Go spells them (config.md, "architecture")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm"}


class StoredBlob(VerifiedReader):
    """A blob open for reading; size and digest are checked at its end (DigestMismatchError). Closes its file."""

    def __init__(self, file: io.FileIO, digest: Digest, size: int) -> None:
        super().__init__(file, digest, size)
        self._blob = file

    def close(self) -> None:
        """Close the blob."""
        self._blob.close()
        super().close()


class Layout:
    """The layout in the directory ``path`` (OCI image-spec, image-layout.md).

    ReferenceNotFound where there is none, ManifestError where ``oci-layout`` or ``index.json`` is malformed,
    LimitExceededError where one is above 4 MiB.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self.closed = False
        _, layout = decode(self._read_file("oci-layout"), LayoutFile, "oci-layout")
        if layout.version != VERSION:
            raise ManifestError(f"oci-layout: imageLayoutVersion is {layout.version!r}, not {VERSION!r}")
        self.index, typed = decode(self._read_file("index.json"), Index, "index.json")
        check_types(typed, None, "index.json")
        self.manifests = typed.manifests or ()

    def _read_file(self, name: str) -> bytes:
        try:
            with open_regular(os.path.join(self.path, name)) as file:
                data = file.read(MAX_DOCUMENT_NBYTES + 1)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ReferenceNotFound(f"no OCI image layout in {self.path!r}: no file {name!r}") from error
        if len(data) > MAX_DOCUMENT_NBYTES:
            raise LimitExceededError("document_bytes", len(data), entry=name.encode())
        return data

    def blob_path(self, digest: Digest) -> str:
        """Return where ``digest`` lies. A Digest was checked: it holds no slash, and no part of it is ``..``."""
        return os.path.join(self.path, "blobs", digest.algorithm, digest.hex)

    def open_blob(self, descriptor: Descriptor) -> StoredBlob:
        """Open a blob, verified at its end; errors as for :meth:`open_file`."""
        return StoredBlob(self.open_file(descriptor), descriptor.digest, descriptor.size)

    def open_file(self, descriptor: Descriptor) -> io.FileIO:
        """Open the file of a blob, for a reader that verifies it.

        BlobNotFound (with the descriptor's urls) where it is missing, ImageError for a digest of an unknown algorithm.
        """
        if self.closed:
            raise ValueError("the image is closed")
        digest = descriptor.digest
        if digest.algorithm not in ALGORITHMS:
            raise ImageError(f"digest algorithm {digest.algorithm!r} is not supported")
        try:
            return open_regular(self.blob_path(digest))
        except (FileNotFoundError, NotADirectoryError) as error:
            urls = descriptor.urls or ()
            elsewhere = f", its publisher keeps it at {', '.join(urls)}" if urls else ""
            raise BlobNotFound(f"blob {digest} is not in {self.path!r}{elsewhere}", urls=urls) from error

    def read_document(self, descriptor: Descriptor, what: str) -> bytes:
        """Return a whole JSON blob, verified. LimitExceededError above 4 MiB; ``what`` names it in errors."""
        if descriptor.size > MAX_DOCUMENT_NBYTES:
            raise LimitExceededError("document_bytes", descriptor.size, entry=what.encode())
        with self.open_blob(descriptor) as blob:
            try:
                return blob.readall()
            except DigestMismatchError as error:
                where = f"{what} {descriptor.digest}"
                raise DigestMismatchError(where, expected=error.expected, actual=error.actual) from error

    def find(self, tag: str | None) -> Descriptor:
        """Return the manifest that ``tag`` names, or the only one there is for None (ReferenceNotFound).

        An index in the layout's index is followed: to its only image, else to the first for this machine.
        """
        images = [m for m in self.manifests if m.media_type in MANIFEST_TYPES | INDEX_TYPES]
        found = images if tag is None else [m for m in images if _tag(m) == tag]
        if len({m.digest for m in found}) != 1:
            known = ", ".join(sorted({repr(_tag(m)) for m in images if _tag(m)})) or "none"
            asked = f"tag {tag!r}" if tag is not None else "no tag"
            raise ReferenceNotFound(f"{asked} names {len(found)} of {len(images)} images in {self.path!r}; tags: {known}")
        descriptor = found[0]
        while descriptor.media_type in INDEX_TYPES:
            what = f"index {descriptor.digest}"
            _, index = decode(self.read_document(descriptor, "index"), Index, what)
            check_types(index, descriptor.media_type, what)
            descriptor = _for_this_machine(index, what)
        return descriptor

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

    def close(self) -> None:
        """Refuse to open further blobs."""
        self.closed = True


def open_regular(path: str) -> io.FileIO:
    """Open a regular file for reading; OSError for anything else, without waiting for a pipe's other end."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return io.FileIO(fd, "r")


def goarch() -> str:
    """Return this machine's architecture as image documents spell it."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def _tag(descriptor: Descriptor) -> str | None:
    return (descriptor.annotations or {}).get(REF_NAME)


def _for_this_machine(index: Index, what: str) -> Descriptor:
    known = [m for m in index.manifests or () if m.media_type in MANIFEST_TYPES | INDEX_TYPES]
    # builders list attestations as manifests for an unknown platform
    images = [m for m in known if m.platform is None or m.platform.os != "unknown"]
    fitting = [m for m in images if m.platform and (m.platform.os, m.platform.architecture) == ("linux", goarch())]
    if len(images) == 1 or fitting:
        return (fitting or images)[0]
    if not images:
        raise UnsupportedMediaType(f"{what} lists no image")
    platforms = ", ".join(f"{m.platform.os}/{m.platform.architecture}" if m.platform else "any" for m in images)
    raise ReferenceNotFound(f"{what} has no image for linux/{goarch()}, only for {platforms}")
