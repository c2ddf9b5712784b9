"""Where an image is said to be: ``oci:DIR[:TAG]``, ``docker-archive:FILE[:TAG]``, or a bare path, told by its content."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from lamella.errors import ImageError, ReferenceNotFound

__all__ = ["ARCHIVE", "LAYOUT", "Reference", "archive_name", "check_ref_name", "familiar_names", "parse_reference"]

LAYOUT, ARCHIVE = "oci", "docker-archive"

# OCI image-spec, annotations.md: the grammar of org.opencontainers.image.ref.name
_COMPONENT = "[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*"
_REF_NAME = re.compile(f"{_COMPONENT}(?:/{_COMPONENT})*")

# distribution, reference grammar: [HOST[:PORT]/]NAME[:TAG]
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]+)?/)?"
_PATH = "[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPO_TAG = re.compile(rf"(?P<name>{_HOST}{_PATH}(?:/{_PATH})*)(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}))?")
_DEFAULT_HOST, _DEFAULT_FOLDER = "docker.io/", "library/"

# Names that skopeo knows. Each is refused by name: a bare path could not be told from a typing error.
_OTHER_TRANSPORTS = ("containers-storage", "dir", "docker", "docker-daemon", "oci-archive", "ostree")


@dataclass(frozen=True, slots=True)
class Reference:
    """An image's address: a path, the tag that picks one of its images (None: the only one), and what lies there.

    ``transport`` is ``"oci"``, ``"docker-archive"``, or empty for a bare path.
    """

    path: str
    tag: str | None = None
    transport: str = LAYOUT

    def __str__(self) -> str:
        if not self.transport:
            return self.path
        return f"{self.transport}:{self.path}" if self.tag is None else f"{self.transport}:{self.path}:{self.tag}"


def parse_reference(reference: str | os.PathLike[str]) -> Reference:
    """Read ``oci:DIR[:TAG]``, ``docker-archive:FILE[:TAG]`` or a bare path.

    DIR or FILE ends at the first colon, as skopeo reads it (containers-transports(5)); a tag may hold further ones. A
    path object is a bare path whatever it begins with. ReferenceNotFound for an empty path or tag, ImageError for
    another transport.
    """
    if not isinstance(reference, str):
        return Reference(os.fspath(reference), None, "")
    transport, colon, rest = reference.partition(":")
    if colon and transport in _OTHER_TRANSPORTS:
        known = "oci:DIR[:TAG], docker-archive:FILE[:TAG] or a path"
        raise ImageError(f"transport {transport!r} is not supported, only {known}: {reference!r}")
    if not colon or transport not in (LAYOUT, ARCHIVE):
        transport, path, tag = "", reference, None
    else:
        path, colon, text = rest.partition(":")
        tag = text if colon else None
    if not path or tag == "" or "\0" in reference:
        raise ReferenceNotFound(f"not an image reference: {reference!r}")
    return Reference(path, tag, transport)


def check_ref_name(tag: str) -> str:
    """Return ``tag`` if it may be written as a reference name, else raise ImageError."""
    if _REF_NAME.fullmatch(tag) is None:
        raise ImageError(f"not a reference name by the OCI grammar: {tag!r}")
    return tag


def archive_name(tag: str) -> str:
    """Return ``NAME:TAG`` as a docker-archive lists it; ``latest`` where only a name is given, as Docker reads it.

    ImageError for what Docker would not load as a name.
    """
    match = _REPO_TAG.fullmatch(tag)
    if match is None:
        raise ImageError(f"not a name of a Docker image, NAME[:TAG] in lower case: {tag!r}")
    return f"{match['name']}:{match['tag'] or 'latest'}"


def familiar_names(name: str) -> set[str]:
    """Return the spellings under which Docker takes ``name`` for the same image: with and without its defaults."""
    match = _REPO_TAG.fullmatch(name)
    if match is None:
        return {name}
    path, tag = match["name"], match["tag"] or "latest"
    short = path.removeprefix(_DEFAULT_HOST).removeprefix(_DEFAULT_FOLDER)
    host, slash, _ = short.partition("/")
    if slash and ("." in host or ":" in host or host == "localhost"):
        return {f"{path}:{tag}"}
    return {f"{short}:{tag}", f"{_DEFAULT_HOST}{'' if '/' in short else _DEFAULT_FOLDER}{short}:{tag}"}
