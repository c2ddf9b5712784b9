"""Write images into an OCI image layout: blobs first, under their digests, the index last."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import IO, Any, Protocol, Self, TypeVar

from lamella.errors import ImageError
from lamella.image.documents import OCI_CONFIG, OCI_MANIFEST, REF_NAME, encode
from lamella.image.layout import VERSION, Layout
from lamella.image.platforms import goarch
from lamella.image.reference import check_ref_name
from lamella.model import DiffID, Digest

__all__ = ["LayoutWriter", "WrittenBlob", "image_config"]

_STAGING = ".lamella-"  # names no reader of a layout looks for


class WrittenBlob(Protocol):
    """What the writer asks of a blob that it was given: lamella's LayerInfo has it."""

    @property
    def digest(self) -> str | None:
        """Digest of the blob."""


Written = TypeVar("Written", bound=WrittenBlob)


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

    def holds(self, digest: Digest, size: int) -> bool:
        """Tell whether a blob of this digest and size is there already; its content is believed."""
        try:
            status = os.lstat(self._blob_path(digest))
        except (FileNotFoundError, NotADirectoryError):
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size == size

    def add_layer(self, write: Callable[[IO[bytes]], Written]) -> Written:
        """Let ``write`` write a blob into the file it is given, and keep it; return what ``write`` returned.

        ``write`` is most often ``lambda out: lamella.diff(lower, upper, out)``. Its result is believed: the blob is
        filed under the digest that it states.
        """
        with self.staged() as file:
            made = write(file)
            if made.digest is None:
                raise ValueError("a blob without a digest")
            self.keep(file, Digest(made.digest))
        return made

    def add_bytes(self, data: bytes, digest: Digest) -> None:
        """Keep a small blob whose digest is known, unless it is there."""
        if not self.holds(digest, len(data)):
            with self.staged() as file:
                file.write(data)
                self.keep(file, digest)

    def add_document(self, document: Any, media_type: str) -> dict[str, Any]:
        """Keep a JSON document; return its descriptor."""
        data = encode(document)
        digest = Digest.of(data)
        self.add_bytes(data, digest)
        return {"mediaType": media_type, "digest": str(digest), "size": len(data)}

    def add_image(self, config: dict[str, Any], layers: Iterable[dict[str, Any]], tag: str | None) -> Digest:
        """Keep an image of layers given by their descriptors, the lowest first, and name it ``tag``.

        Else as :meth:`add_manifest`.
        """
        self._check_tag(tag)
        stored = self.add_document(config, OCI_CONFIG)
        manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": stored, "layers": list(layers)}
        return self.add_manifest(encode(manifest), OCI_MANIFEST, tag)

    def add_manifest(self, data: bytes, media_type: str, tag: str | None) -> Digest:
        """Keep a manifest whose blobs are there, name it ``tag``, and return its digest.

        An image that had the tag loses it; one without a tag joins the others. ImageError for a tag that is no
        reference name (annotations.md).
        """
        self._check_tag(tag)
        digest = Digest.of(data)
        self.add_bytes(data, digest)
        entry: dict[str, Any] = {"mediaType": media_type, "digest": str(digest), "size": len(data)}
        entry |= {} if tag is None else {"annotations": {REF_NAME: tag}}
        others = []
        for other in self._index.get("manifests") or ():
            named = (other.get("annotations") or {}).get(REF_NAME)
            if named != tag or (tag is None and other["digest"] != digest):
                others.append(other)
        self._index["manifests"] = [*others, entry]
        self._replace("index.json", self._index)
        return digest

    def collect(self, tags: Collection[str], digests: Collection[str]) -> int:
        """Drop images that have a tag not among ``tags``, then blobs that no image names and ``digests`` does not.

        Returns the bytes of the blobs. ManifestError, BlobNotFound for an image that cannot be read: nothing is removed.
        """
        listed = self._index.get("manifests") or []
        kept = [m for m in listed if (tag := (m.get("annotations") or {}).get(REF_NAME)) is None or tag in tags]
        if len(kept) < len(listed):
            self._index["manifests"] = kept
            self._replace("index.json", self._index)
        layout = Layout(self.path)
        named = layout.reachable() | {Digest(digest) for digest in digests}
        return sum(self._dropped(digest) for digest in layout.blobs() if digest not in named)

    def _dropped(self, digest: Digest) -> int:
        path = self._blob_path(digest)
        nbytes = os.lstat(path).st_size
        os.unlink(path)
        return nbytes

    @staticmethod
    def _check_tag(tag: str | None) -> None:
        if tag is not None:
            check_ref_name(tag)

    @contextlib.contextmanager
    def staged(self) -> Iterator[IO[bytes]]:
        """Lend a file for a blob, which goes unless it is kept."""
        with tempfile.NamedTemporaryFile(prefix=_STAGING, dir=self.path, delete=False) as file:
            try:
                yield file
            except BaseException:
                with contextlib.suppress(FileNotFoundError):  # it was renamed already
                    os.unlink(file.name)
                raise

    def keep(self, file: Any, digest: Digest) -> None:
        """File a staged blob under its digest, which is believed; its data is on disk then."""
        path = self._blob_path(digest)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self._rename(file, path)

    def _blob_path(self, digest: Digest) -> str:
        return os.path.join(self.path, "blobs", digest.algorithm, digest.hex)

    def _replace(self, name: str, document: Any) -> None:
        with self.staged() as file:
            file.write(encode(document))
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
