"""The JSON documents of an image as typed values: index, manifest, config (OCI image-spec 1.1; Docker schema 2).

What decides which bytes are used is checked strictly; everything else is kept as it is, in the plain document.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec

from lamella.errors import ManifestError
from lamella.model import DiffID, Digest

__all__ = [
    "CONFIG_TYPES",
    "INDEX_TYPES",
    "MANIFEST_TYPES",
    "OCI_CONFIG",
    "OCI_INDEX",
    "OCI_MANIFEST",
    "REF_NAME",
    "Config",
    "Descriptor",
    "History",
    "Index",
    "LayoutFile",
    "Manifest",
    "Platform",
    "check_types",
    "decode",
    "decode_as",
    "encode",
]

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
INDEX_TYPES = frozenset({OCI_INDEX, "application/vnd.docker.distribution.manifest.list.v2+json"})
MANIFEST_TYPES = frozenset({OCI_MANIFEST, "application/vnd.docker.distribution.manifest.v2+json"})
CONFIG_TYPES = frozenset({OCI_CONFIG, "application/vnd.docker.container.image.v1+json"})
REF_NAME = "org.opencontainers.image.ref.name"

Size = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Platform(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a manifest runs on (image-index.md, "platform")."""

    architecture: str
    os: str
    variant: str | None = None


class Descriptor(msgspec.Struct, frozen=True, omit_defaults=True):
    """A blob by digest (descriptor.md). Go programs write an empty list as null, so both are read."""

    media_type: str = msgspec.field(name="mediaType")
    digest: Digest
    size: Size
    urls: tuple[str, ...] | None = None
    annotations: dict[str, str] | None = None
    platform: Platform | None = None


class LayoutFile(msgspec.Struct, frozen=True):
    """The file ``oci-layout`` (image-layout.md)."""

    version: str = msgspec.field(name="imageLayoutVersion")


class Index(msgspec.Struct, frozen=True):
    """An image index; ``index.json`` of a layout is one (image-index.md)."""

    schema_version: int = msgspec.field(name="schemaVersion")
    manifests: tuple[Descriptor, ...] | None
    media_type: str | None = msgspec.field(name="mediaType", default=None)


class Manifest(msgspec.Struct, frozen=True):
    """An image manifest (manifest.md)."""

    schema_version: int = msgspec.field(name="schemaVersion")
    config: Descriptor
    layers: tuple[Descriptor, ...] | None
    media_type: str | None = msgspec.field(name="mediaType", default=None)


class RootFS(msgspec.Struct, frozen=True):
    """The layers' content by diff_id (config.md, "rootfs")."""

    type: str
    diff_ids: tuple[DiffID, ...] | None


class History(msgspec.Struct, frozen=True):
    """How a layer came to be (config.md, "history"); an empty layer has no blob."""

    created: str | None = None
    created_by: str | None = None
    author: str | None = None
    comment: str | None = None
    empty_layer: bool | None = None


class Config(msgspec.Struct, frozen=True):
    """The part of an image's configuration that speaks of layers (config.md)."""

    rootfs: RootFS
    history: tuple[History, ...] | None = None
    architecture: str | None = None
    os: str | None = None
    created: str | None = None


Document = TypeVar("Document", bound=msgspec.Struct)
Value = TypeVar("Value")

# image-spec 1.1 manifest.md and image-index.md: a document that is both could be read in two ways
_FOREIGN = {Index: ("layers", "config"), Manifest: ("manifests",)}


def decode(data: bytes, kind: type[Document], what: str) -> tuple[dict[str, Any], Document]:
    """Return the plain document and the typed one. ManifestError, naming ``what``, where it is not a ``kind``."""
    plain, typed = _decoded(data, kind, what)
    for field in _FOREIGN.get(kind, ()):
        if field in plain:
            raise ManifestError(f"{what}: has {field!r} as well: index and manifest at once")
    return plain, typed


def decode_as(data: bytes, kind: type[Value], what: str) -> Value:
    """Return a document of another shape, checked. ManifestError, naming ``what``."""
    return _decoded(data, kind, what)[1]


def _decoded(data: bytes, kind: type[Value], what: str) -> tuple[Any, Value]:
    try:
        plain = msgspec.json.decode(data)
        return plain, msgspec.convert(plain, kind, dec_hook=_digest)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise ManifestError(f"{what}: {error}") from error


def check_types(document: Index | Manifest, media_type: str | None, what: str) -> None:
    """Check a document's own version and type against the ``media_type`` of the descriptor that named it."""
    if document.schema_version != 2:
        raise ManifestError(f"{what}: schemaVersion is {document.schema_version}, not 2")
    if document.media_type is not None and media_type is not None and document.media_type != media_type:
        raise ManifestError(f"{what}: calls itself {document.media_type!r}, its descriptor says {media_type!r}")


def encode(document: Any) -> bytes:
    """Return a document as JSON: the same bytes for the same content in the same order."""
    return msgspec.json.encode(document, enc_hook=_text)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"not for JSON: {type(value).__name__}")
    return str(value)


def _digest(kind: type[Any], value: object) -> Any:
    if not isinstance(value, str):
        raise TypeError(f"Expected `str`, got `{type(value).__name__}`")
    return kind(value)
