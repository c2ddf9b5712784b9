"""Write images into an OCI image layout: blobs first, under their digests, the index last."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, Protocol, Self, TypeVar

import msgspec

from lamella.errors import ImageError
from lamella.image.documents import OCI_CONFIG, OCI_MANIFEST, REF_NAME
from lamella.image.layout import VERSION, Layout, goarch
from lamella.image.reference import check_ref_name
from lamella.model import DiffID, Digest

__all__ = ["LayoutWriter", "WrittenLayer", "image_config"]

_STAGING = ".lamella-"  # names no reader of a layout looks for


class WrittenLayer(Protocol):
    """What the writer asks of a layer that it was given: lamella's LayerInfo has it."""

    @property
    def digest(self) -> str:
        """Digest of the blob."""

    @property
    def diff_id(self) -> str:
        """Digest of the uncompressed tar."""

    def descriptor(self) -> dict[str, Any]:
        """Return ``mediaType``, ``digest`` and ``size`` (descriptor.md)."""


Written = TypeVar("Written", bound=WrittenLayer)


class LayoutWriter:
    """Adds images to the layout in directory ``path``, which is made if there is none. A context manager.

    A blob is written under a temporary name, flushed to the disk and renamed to its digest; ``index.json`` is replaced
    last, by a rename. Whatever breaks off, the layout holds what it held before, and perhaps blobs that nothing names.
    One writer at a time: another one waits. ImageError where ``path`` is a directory of something else.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(os.fspath(path))

    def __enter__(self) -> Self:
        os.makedirs(self.path, exist_ok=True)
        self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            self._index = self._open_layout()
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def _open_layout(self) -> dict[str, Any]:
        names = set(os.listdir(self.path))
        for name in [name for name in names if name.startswith(_STAGING)]:  # of a writer that was killed
            os.unlink(os.path.join(self.path, name))
            names.remove(name)
        if "oci-layout" in names:
            return Layout(self.path).index
        if names - {"blobs", "index.json"}:
            raise ImageError(f"neither empty nor an OCI image layout: {self.path!r}")
        os.makedirs(os.path.join(self.path, "blobs", "sha256"), exist_ok=True)
        index = {"schemaVersion": 2, "manifests": []}
        self._replace("index.json", index)
        self._replace("oci-layout", {"imageLayoutVersion": VERSION})  # last: its presence says that this is a layout
        return index

    def add_layer(self, write: Callable[[IO[bytes]], Written]) -> Written:
        """Let ``write`` write a layer into the file it is given, and keep it; return what ``write`` returned.

        ``write`` is most often ``lambda out: lamella.diff(lower, upper, out)``. Its result is believed: the blob is
        filed under the digest that it states.
        """
        with self._staged() as file:
            info = write(file)
            self._keep(file, Digest(info.digest))
        return info

    def add_document(self, document: Any, media_type: str) -> dict[str, Any]:
        """Keep a JSON document; return its descriptor."""
        data = _encode(document)
        with self._staged() as file:
            file.write(data)
            self._keep(file, Digest.of(data))
        return {"mediaType": media_type, "digest": str(Digest.of(data)), "size": len(data)}

    def add_image(self, config: dict[str, Any], layers: Iterable[dict[str, Any]], tag: str) -> Digest:
        """Keep an image of layers given by their descriptors, the lowest first, and name it ``tag``.

        An image that had the tag loses it. Returns the digest of the manifest. ImageError for a tag that is no
        reference name (annotations.md).
        """
        check_ref_name(tag)
        stored = self.add_document(config, OCI_CONFIG)
        manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": stored, "layers": list(layers)}
        entry = self.add_document(manifest, OCI_MANIFEST) | {"annotations": {REF_NAME: tag}}
        others = [m for m in self._index.get("manifests") or () if (m.get("annotations") or {}).get(REF_NAME) != tag]
        self._index["manifests"] = [*others, entry]
        self._replace("index.json", self._index)
        return Digest(entry["digest"])

    @contextlib.contextmanager
    def _staged(self) -> Iterator[IO[bytes]]:
        with tempfile.NamedTemporaryFile(prefix=_STAGING, dir=self.path, delete=False) as file:
            try:
                yield file
            except BaseException:
                with contextlib.suppress(FileNotFoundError):  # it was renamed already
                    os.unlink(file.name)
                raise

    def _keep(self, file: Any, digest: Digest) -> None:
        folder = os.path.join(self.path, "blobs", digest.algorithm)
        os.makedirs(folder, exist_ok=True)
        self._rename(file, os.path.join(folder, digest.hex))

    def _replace(self, name: str, document: Any) -> None:
        with self._staged() as file:
            file.write(_encode(document))
            self._rename(file, os.path.join(self.path, name))

    def _rename(self, file: Any, target: str) -> None:
        file.flush()
        os.fchmod(file.fileno(), 0o644)  # a temporary file is its owner's alone; a layout is for reading
        os.fsync(file.fileno())
        os.rename(file.name, target)
        folder = os.open(os.path.dirname(target), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def image_config(
    diff_ids: Iterable[DiffID | str], *, created: str | None = None, history: Iterable[dict[str, Any]] = (), **run: Any
) -> dict[str, Any]:
    """Return an image configuration for this machine's architecture (config.md).

    ``created`` is a time by RFC 3339; ``run`` are the fields of its ``config`` member (``Cmd=[...]``, ``Env=[...]``).
    """
    config: dict[str, Any] = {} if created is None else {"created": created}
    config |= {"architecture": goarch(), "os": "linux", "config": run}
    config["rootfs"] = {"type": "layers", "diff_ids": [str(diff_id) for diff_id in diff_ids]}
    steps = list(history)
    return config | ({"history": steps} if steps else {})


def _encode(document: Any) -> bytes:
    return msgspec.json.encode(document)
