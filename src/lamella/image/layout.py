"""A directory in the OCI image layout, for reading: its index, and its blobs by digest."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from lamella.errors import FormatError, LimitExceededError, ManifestError, ReferenceNotFound
from lamella.image.blobs import MAX_DOCUMENT_NBYTES, Blobs
from lamella.image.documents import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    REF_NAME,
    Descriptor,
    Index,
    LayoutFile,
    Platform,
    check_types,
    decode,
)
from lamella.image.platforms import choose
from lamella.model import Digest
from lamella.stream.region import HeldFile, RegionSource

__all__ = ["VERSION", "Layout"]

VERSION = "1.0.0"


class Layout(Blobs):
    """The layout in the directory ``path`` (OCI image-spec, image-layout.md).

    ReferenceNotFound where there is none, ManifestError where ``oci-layout`` or ``index.json`` is malformed,
    LimitExceededError where one is above 4 MiB.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        super().__init__(self.path)
        _, layout = decode(self._read_file("oci-layout"), LayoutFile, "oci-layout")
        if layout.version != VERSION:
            raise ManifestError(f"oci-layout: imageLayoutVersion is {layout.version!r}, not {VERSION!r}")
        self.index, typed = decode(self._read_file("index.json"), Index, "index.json")
        check_types(typed, None, "index.json")
        self.manifests = typed.manifests or ()

    def _read_file(self, name: str) -> bytes:
        try:
            file = HeldFile.open(os.path.join(self.path, name))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ReferenceNotFound(f"no OCI image layout in {self.path!r}: no file {name!r}") from error
        data = os.pread(file.fd, MAX_DOCUMENT_NBYTES + 1, 0)
        if len(data) > MAX_DOCUMENT_NBYTES:
            raise LimitExceededError("document_bytes", len(data), entry=name.encode())
        return data

    def blob_path(self, digest: Digest) -> str:
        """Return where ``digest`` lies. A Digest was checked: it holds no slash, and no part of it is ``..``."""
        return os.path.join(self.path, "blobs", digest.algorithm, digest.hex)

    def find(self, digest: Digest) -> RegionSource | None:
        """Open the file of a blob, None where it is missing."""
        path = self.blob_path(digest)
        try:
            file = HeldFile.open(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return RegionSource(file, 0, file.size, path)

    def blobs(self) -> Iterator[Digest]:
        """Iterate over the digests of all blobs that lie here; files with other names are nobody's."""
        top = os.path.join(self.path, "blobs")
        for algorithm in sorted(os.listdir(top)):
            for name in sorted(os.listdir(os.path.join(top, algorithm))):
                with contextlib.suppress(FormatError):
                    yield Digest(f"{algorithm}:{name}")

    def reachable(self) -> set[Digest]:
        """Return the digests that the index names, and those in turn: of indexes, manifests, configurations, layers."""
        found: set[Digest] = set()
        todo = list(self.manifests)
        while todo:
            descriptor = todo.pop()
            if descriptor.digest in found:
                continue
            found.add(descriptor.digest)
            if descriptor.media_type in INDEX_TYPES:
                _, index = decode(self.read_document(descriptor, "index"), Index, f"index {descriptor.digest}")
                todo += index.manifests or ()
            elif descriptor.media_type in MANIFEST_TYPES:
                _, manifest = self.read_manifest(descriptor)
                found |= {manifest.config.digest, *(layer.digest for layer in manifest.layers or ())}
        return found

    def image(self, tag: str | None, platform: Platform | None = None) -> Descriptor:
        """Return the manifest that ``tag`` names, or the only one there is for None (ReferenceNotFound).

        An index in the layout's index is followed, see :func:`lamella.image.platforms.choose`.
        """
        images = [m for m in self.manifests if m.media_type in MANIFEST_TYPES | INDEX_TYPES]
        found = images if tag is None else [m for m in images if _tag(m) == tag]
        one_of_each = len(found) > 1 and all(m.platform is not None for m in found) and len({_tag(m) for m in found}) == 1
        if one_of_each:  # an image for several platforms, listed here instead of in an index of its own
            descriptor = choose(found, platform, f"{self.path!r}")
        elif len({m.digest for m in found}) == 1:
            descriptor = found[0]
        else:
            known = ", ".join(sorted({repr(_tag(m)) for m in images if _tag(m)})) or "none"
            asked = f"tag {tag!r}" if tag is not None else "no tag"
            raise ReferenceNotFound(f"{asked} names {len(found)} of {len(images)} images in {self.path!r}; tags: {known}")
        while descriptor.media_type in INDEX_TYPES:
            what = f"index {descriptor.digest}"
            _, index = decode(self.read_document(descriptor, "index"), Index, what)
            check_types(index, descriptor.media_type, what)
            descriptor = choose(index.manifests or (), platform, what)
        return descriptor


def _tag(descriptor: Descriptor) -> str | None:
    return (descriptor.annotations or {}).get(REF_NAME)
