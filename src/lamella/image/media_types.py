"""The media types of layers taken apart, and those of Docker and OCI as each other (OCI image-spec, media-types.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lamella.errors import UnsupportedMediaType
from lamella.image.documents import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST
from lamella.stream.codec import ENCODINGS, codec_of_media_type

__all__ = ["DOCKER_CONFIG", "DOCKER_MANIFEST", "LayerType", "as_oci"]

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"

_OCI_OF = {DOCKER_MANIFEST: OCI_MANIFEST, DOCKER_CONFIG: OCI_CONFIG}
_OCI_OF["application/vnd.docker.distribution.manifest.list.v2+json"] = OCI_INDEX


@dataclass(frozen=True, slots=True)
class LayerType:
    """What a layer's media type says: its compression, whether it may be distributed, and whose name it bears."""

    codec: str
    distributable: bool = True
    docker: bool = False

    @classmethod
    def of(cls, media_type: str) -> LayerType:
        """Take a layer's type apart; UnsupportedMediaType for one that is no known layer."""
        codec = codec_of_media_type(media_type)
        if codec is None:
            raise UnsupportedMediaType(f"not a layer's media type: {media_type!r}")
        free = ".nondistributable." not in media_type and ".foreign." not in media_type
        return cls(codec, free, media_type.startswith("application/vnd.docker."))

    @property
    def media_type(self) -> str:
        """The type's name; UnsupportedMediaType for a compression that has none."""
        if self.codec not in ENCODINGS:
            raise UnsupportedMediaType(f"no layer media type stands for {self.codec}")
        if self.docker:
            name = f"application/vnd.docker.image.rootfs.{'' if self.distributable else 'foreign.'}diff.tar"
        else:
            name = f"application/vnd.oci.image.layer.{'' if self.distributable else 'nondistributable.'}v1.tar"
        return name if self.codec == "none" else f"{name}{'.' if self.docker else '+'}{self.codec}"


def as_oci(descriptor: dict[str, Any]) -> dict[str, Any]:
    """Return a plain descriptor with Docker's media type replaced by OCI's; another one as it is."""
    media_type = descriptor["mediaType"]
    if media_type in _OCI_OF:
        return {**descriptor, "mediaType": _OCI_OF[media_type]}
    if codec_of_media_type(media_type) is None or not (kind := LayerType.of(media_type)).docker:
        return descriptor
    return {**descriptor, "mediaType": LayerType(kind.codec, kind.distributable).media_type}
