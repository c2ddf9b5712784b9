"""Where an image is said to be: ``oci:DIR[:TAG]``, or the bare path of something that is told by its content."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from lamella.errors import ImageError, ReferenceNotFound

__all__ = ["Reference", "parse_reference"]

# OCI image-spec, annotations.md: the grammar of org.opencontainers.image.ref.name
_COMPONENT = "[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*"
_REF_NAME = re.compile(f"{_COMPONENT}(?:/{_COMPONENT})*")

# Names that skopeo knows. Each is refused by name: a bare path could not be told from a typing error.
_OTHER_TRANSPORTS = ("containers-storage", "dir", "docker", "docker-archive", "docker-daemon", "oci-archive", "ostree")


@dataclass(frozen=True, slots=True)
class Reference:
    """An image's address: a directory, and the tag that picks one of its images (None: the only one)."""

    path: str
    tag: str | None = None

    def __str__(self) -> str:
        return f"oci:{self.path}" if self.tag is None else f"oci:{self.path}:{self.tag}"


def parse_reference(reference: str | os.PathLike[str]) -> Reference:
    """Read ``oci:DIR[:TAG]`` or a bare path.

    DIR ends at the first colon, as skopeo reads it (containers-transports(5)); a tag may hold further ones. A path
    object is a bare path whatever it begins with. ReferenceNotFound for an empty path or tag, ImageError for another
    transport.
    """
    if not isinstance(reference, str):
        return Reference(os.fspath(reference))
    transport, colon, rest = reference.partition(":")
    if colon and transport in _OTHER_TRANSPORTS:
        raise ImageError(f"transport {transport!r} is not supported, only oci:DIR[:TAG] or a path: {reference!r}")
    if not colon or transport != "oci":
        path, tag = reference, None
    else:
        path, colon, text = rest.partition(":")
        tag = text if colon else None
    if not path or tag == "" or "\0" in reference:
        raise ReferenceNotFound(f"not an image reference: {reference!r}")
    return Reference(path, tag)


def check_ref_name(tag: str) -> str:
    """Return ``tag`` if it may be written as a reference name, else raise ImageError."""
    if _REF_NAME.fullmatch(tag) is None:
        raise ImageError(f"not a reference name by the OCI grammar: {tag!r}")
    return tag
