"""Archives of Docker before 1.10: ``repositories``, and for each layer a folder with ``json`` and ``layer.tar``.

Docker's image specification 1.0 and 1.1. There is no configuration and no diff_id: both are made here, as Docker makes
them when it loads such an archive.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lamella.errors import BlobNotFound, ManifestError
from lamella.image.documents import decode_as

if TYPE_CHECKING:
    from lamella.image.members import Members
    from lamella.model import DiffID

__all__ = ["chain", "config", "images"]

REPOSITORIES = "repositories"
_ID = re.compile(r"[0-9a-f]{64}")
# fields of a layer's document that are no part of a configuration
_OF_THE_LAYER = frozenset({"id", "parent", "parent_id", "layer_id", "throwaway", "Size"})


def images(members: Members) -> Mapping[str, Sequence[str]]:
    """Return the ids of the images and their names, ``{}`` for a tar that is no such archive. ManifestError."""
    data = members.read(REPOSITORIES)
    if data is None:
        return {}
    named: dict[str, list[str]] = {}
    for name, tags in decode_as(data, dict[str, dict[str, str]], REPOSITORIES).items():
        for tag, image in tags.items():
            named.setdefault(image, []).append(f"{name}:{tag}")
    return named


def chain(members: Members, image: str) -> list[dict[str, Any]]:
    """Return the documents of an image's layers, the lowest first. BlobNotFound, ManifestError."""
    found: list[dict[str, Any]] = []
    seen: set[str] = set()
    while image:
        if _ID.fullmatch(image) is None or image in seen:
            raise ManifestError(f"{REPOSITORIES}: {image!r} is no layer's id, or its own parent")
        seen.add(image)
        data = members.read(f"{image}/json")
        if data is None:
            raise BlobNotFound(f"'{image}/json' is not in {members.path!r}")
        document = decode_as(data, dict[str, Any], f"{image}/json")
        found.append({**document, "id": image})
        image = document.get("parent") or ""
        if not isinstance(image, str):
            raise ManifestError(f"{found[-1]['id']}/json: parent is no id")
    return found[::-1]


def config(documents: Sequence[Mapping[str, Any]], diff_ids: Sequence[DiffID]) -> dict[str, Any]:
    """Return the configuration of an image whose layers are ``documents``, the lowest first."""
    top = {key: value for key, value in documents[-1].items() if key not in _OF_THE_LAYER}
    made = {**top, "rootfs": {"type": "layers", "diff_ids": list(diff_ids)}, "history": [_step(d) for d in documents]}
    return dict(sorted(made.items()))


def _step(document: Mapping[str, Any]) -> dict[str, Any]:
    container = document.get("container_config")
    words = container.get("Cmd") if isinstance(container, dict) else None
    command = " ".join(map(str, words)) if isinstance(words, list) else ""
    step = {"created_by": command} | {key: document.get(key) for key in ("created", "author", "comment")}
    return {key: value for key, value in step.items() if isinstance(value, str) and value}
