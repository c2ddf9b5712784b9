"""A docker-archive, as ``docker save`` writes it, for reading: its images, and its layers where they lie in the tar.

Docker's image specification 1.2 ("Combined Image JSON + Filesystem Changeset Format") has manifest.json; archives before
it are read by ``archive_v1``. Since Docker 25 the same tar holds an OCI layout as well, whose blobs manifest.json names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from lamella.errors import BlobNotFound, ManifestError, ReferenceNotFound, UnsupportedMediaType
from lamella.image import archive_v1
from lamella.image.blobs import Blobs
from lamella.image.documents import OCI_CONFIG, OCI_MANIFEST, Config, Descriptor, Platform, decode, decode_as, encode
from lamella.image.media_types import LayerType
from lamella.image.members import Member, Members
from lamella.image.reference import familiar_names
from lamella.model import DiffID, Digest
from lamella.stream.blob import BlobReader
from lamella.stream.codec import ENCODINGS, SNIFF_NBYTES, sniff
from lamella.stream.region import RegionSource

__all__ = ["Archive"]

MANIFEST = "manifest.json"

# Names that state their content's digest: Docker 25's and containerd's blobs; and those of configurations
_BLOB_NAME = re.compile(r"blobs/(sha256|sha384|sha512)/([0-9a-f]+)\Z")
_CONFIG_NAME = re.compile(r"(?:sha256:)?([0-9a-f]{64})(?:\.json)?\Z")


class Item(msgspec.Struct, frozen=True):
    """One image of manifest.json. ``layer_sources`` describes layers that their publisher keeps (Windows images)."""

    config: str = msgspec.field(name="Config")
    layers: tuple[str, ...] | None = msgspec.field(name="Layers")
    repo_tags: tuple[str, ...] | None = msgspec.field(name="RepoTags", default=None)
    layer_sources: dict[str, Descriptor] | None = msgspec.field(name="LayerSources", default=None)


@dataclass(frozen=True)
class _Described:
    """An image's parts as its manifest will state them."""

    config: Descriptor
    layers: list[Descriptor] = field(default_factory=list)


class Archive(Blobs):
    """The images of the docker-archive at ``path``.

    ReferenceNotFound where there is no such file, or a tar without images. Errors of a malformed one:
    :class:`lamella.image.members.Members`, and ManifestError where manifest.json is wrong.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        super().__init__(self.path)
        try:
            self._members = Members(self.path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ReferenceNotFound(f"no such file: {self.path!r}") from error
        self._where: dict[Digest, Member] = {}
        listed = self._members.read(MANIFEST)
        self._items: Sequence[Item] = () if listed is None else decode_as(listed, tuple[Item, ...], MANIFEST)
        self._v1: Mapping[str, Sequence[str]] = {}  # an image's id -> its names
        if listed is None:
            self._v1 = archive_v1.images(self._members)
        if not self._items and not self._v1:
            what = f"it has no {MANIFEST}" if listed is None else f"its {MANIFEST} lists no image"
            raise ReferenceNotFound(f"no docker-archive, {what}: {self.path!r}")

    def find(self, digest: Digest) -> RegionSource | None:
        """Open a blob where it lies, None where it is missing."""
        member = self._where.get(digest)
        return None if member is None else self._members.region(member.begin, member.size)

    def release(self) -> None:
        """Close the file."""
        self._members.close()

    def image(self, tag: str | None, platform: Platform | None = None) -> Descriptor:  # noqa: ARG002  (an archive holds one)
        """Return a manifest, made here, for the image that ``tag`` names, or the only one for None.

        ``tag`` is a name as Docker spells it, or only what stands behind the colon, or ``@N`` for the Nth image.
        ReferenceNotFound; DigestMismatchError, ManifestError and BlobNotFound where its documents are wrong.
        """
        if self._v1:
            ids = list(self._v1)
            described = self._describe_v1(ids[self._choose(tag, list(self._v1.values()))])
        else:
            described = self._describe(self._items[self._choose(tag, [item.repo_tags or () for item in self._items])])
        manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described.config, "layers": described.layers}
        return self.keep_document(encode(manifest), OCI_MANIFEST)

    def _choose(self, tag: str | None, names: Sequence[Sequence[str]]) -> int:
        rows = list(range(len(names)))
        if tag is not None and re.fullmatch("@[0-9]{1,9}", tag):
            rows = rows[int(tag[1:]) : int(tag[1:]) + 1]
        elif tag is not None:
            spelled = familiar_names(tag)
            rows = [i for i, known in enumerate(names) if any(familiar_names(name) & spelled for name in known)]
            rows = rows or [i for i, known in enumerate(names) if any(name.rpartition(":")[2] == tag for name in known)]
        if len(rows) != 1:
            known = ", ".join(repr(name) for group in names for name in group) or "none"
            asked = f"tag {tag!r}" if tag is not None else "no tag"
            raise ReferenceNotFound(f"{asked} names {len(rows)} of {len(names)} images in {self.path!r}; tags: {known}")
        return rows[0]

    def _describe(self, item: Item) -> _Described:
        member = self._members.find(item.config)
        data = self._members.read(item.config)
        if member is None or data is None:
            raise BlobNotFound(f"config {item.config!r} is not in {self.path!r}")
        digest = _stated(item.config) or Digest.of(data)
        self._where[digest] = member
        _, config = decode(data, Config, f"config {item.config!r}")
        described = _Described(Descriptor(OCI_CONFIG, digest, len(data)))
        diff_ids = config.rootfs.diff_ids or ()
        for i, name in enumerate(item.layers or ()):
            diff_id = diff_ids[i] if i < len(diff_ids) else None
            described.layers.append(self._layer(name, diff_id, (item.layer_sources or {}).get(diff_id or "")))
        return described

    def _layer(self, name: str, diff_id: DiffID | None, source: Descriptor | None) -> Descriptor:
        member = self._members.find(name)
        if member is None:
            if source is not None:
                return source
            if diff_id is None:
                raise BlobNotFound(f"layer {name!r} is not in {self.path!r}")
            return Descriptor(LayerType("none").media_type, Digest(diff_id), 0)  # missing, as who reads it will learn
        codec = self._codec(name, member)
        digest = _stated(name, _BLOB_NAME) or (Digest(diff_id) if codec == "none" and diff_id else self._digest(member))
        self._where.setdefault(digest, member)
        kind = LayerType(codec, distributable=source is None or LayerType.of(source.media_type).distributable)
        urls = source.urls if source is not None and source.digest == digest else None  # they lead to other bytes else
        return Descriptor(kind.media_type, digest, member.size, urls)

    def _codec(self, name: str, member: Member) -> str:
        with self._members.region(member.begin, member.size) as source:
            codec = sniff(os.pread(source.fd, min(SNIFF_NBYTES, member.size), member.begin))
        if codec not in ENCODINGS:
            raise UnsupportedMediaType(f"layer {name!r} is compressed with {codec}")
        return codec

    def _digest(self, member: Member) -> Digest:
        return self._read(member)[0]

    def _read(self, member: Member) -> tuple[Digest, DiffID]:
        with self._members.region(member.begin, member.size) as source, BlobReader(source) as reader:
            reader.drain()
            if reader.digest is None or reader.diff_id is None:
                raise ManifestError("a layer without digests")
            return reader.digest, reader.diff_id

    def _describe_v1(self, image: str) -> _Described:
        documents = archive_v1.chain(self._members, image)
        layers: list[Descriptor] = []
        diff_ids: list[DiffID] = []
        for name in (f"{document['id']}/layer.tar" for document in documents):
            member = self._members.find(name)
            if member is None:
                raise BlobNotFound(f"layer {name!r} is not in {self.path!r}")
            digest, diff_id = self._read(member)
            self._where[digest] = member
            layers.append(Descriptor(LayerType(self._codec(name, member)).media_type, digest, member.size))
            diff_ids.append(diff_id)
        config: dict[str, Any] = archive_v1.config(documents, diff_ids)
        return _Described(self.keep_document(encode(config), OCI_CONFIG), layers)


def _stated(name: str, pattern: re.Pattern[str] | None = None) -> Digest | None:
    """Return the digest that a member's name states of its content, None for a name that states none."""
    if (match := _BLOB_NAME.search(name)) is not None:
        return Digest(f"{match[1]}:{match[2]}")
    if pattern is None and (match := _CONFIG_NAME.fullmatch(name)) is not None:
        return Digest(f"sha256:{match[1]}")
    return None
