"""Read everything that an image is made of, and say what is wrong instead of stopping at the first thing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lamella.columns import TableBuilder
from lamella.errors import (
    BlobNotFound,
    CodecError,
    DigestMismatchError,
    LamellaError,
    LimitExceededError,
    ManifestError,
    TarFormatError,
    TruncatedError,
    UnsupportedMediaType,
)
from lamella.image.blobs import ALGORITHMS, Blobs
from lamella.image.documents import Config, Descriptor, Manifest
from lamella.model import DiffID, Progress
from lamella.stream.blob import BlobReader
from lamella.stream.codec import check_media_type
from lamella.tar.scanner import Scanner

__all__ = ["Problem", "verify_image", "verify_layer", "verify_stored"]

_KINDS: tuple[tuple[type[Exception], str], ...] = (
    (BlobNotFound, "missing"),
    (DigestMismatchError, "digest"),
    (UnsupportedMediaType, "media_type"),
    (CodecError, "codec"),
    (TruncatedError, "truncated"),
    (TarFormatError, "tar"),
    (ManifestError, "document"),
    (LimitExceededError, "limit"),
    (OSError, "unreadable"),
)


_MAX_ROWS = 1 << 14  # what was read is for nobody: drop it before it grows


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with an image.

    ``kind`` is one of ``missing digest size diff_id media_type codec truncated tar document history limit unreadable
    other``; ``subject`` says of what (``"layer 3 sha256:..."``), ``message`` is for reading.
    """

    kind: str
    subject: str
    message: str


def problem_of(subject: str, error: LamellaError | OSError) -> Problem:
    """Return ``error`` as a Problem of ``subject``."""
    kind = next((kind for known, kind in _KINDS if isinstance(error, known)), "other")
    if kind == "digest" and isinstance(error, DigestMismatchError) and isinstance(error.expected, int):
        kind = "size"
    return Problem(kind, subject, str(error))


def verify_image(blobs: Blobs, descriptor: Descriptor, *, progress: Callable[[Progress], None] | None = None) -> list[Problem]:
    """Return what is wrong with the image whose manifest ``descriptor`` names; an empty list if nothing is.

    Checked: presence, size and digest of manifest, configuration and every layer's blob; each blob's magic against its
    media type, its compression, its tar and its diff_id; whether diff_ids and history count as many layers as the
    manifest.
    """
    problems: list[Problem] = []
    manifest: Manifest | None = None
    config: Config | None = None
    try:
        _, manifest = blobs.read_manifest(descriptor)
        subject = f"config {manifest.config.digest}"
        _, config = blobs.read_config(manifest.config)
    except (LamellaError, OSError) as error:
        problems.append(problem_of(subject if manifest else f"manifest {descriptor.digest}", error))
    if manifest is None:
        return problems
    layers = manifest.layers or ()
    if config is not None:
        problems += _counts(len(layers), config, subject)
    total = sum(blob.size for blob in layers)
    diff_ids = (config.rootfs.diff_ids or ()) if config is not None else ()
    done = 0

    def report(n_read: int) -> None:
        if progress is not None:
            progress(Progress("verify", min(done + n_read, total), total, "bytes"))

    report(0)
    for i, blob in enumerate(layers):
        diff_id = diff_ids[i] if i < len(diff_ids) else None
        problems += verify_layer(blobs, blob, diff_id, f"layer {i} {blob.digest}", report)
        done += blob.size
        report(0)
    return problems


def _counts(n_blobs: int, config: Config, subject: str) -> Iterator[Problem]:
    n_diff_ids = len(config.rootfs.diff_ids or ())
    if n_blobs != n_diff_ids:
        yield Problem("document", subject, f"{n_diff_ids} diff_ids for {n_blobs} layers in the manifest")
    # config.md: history is optional; where there is one, each entry that is not empty_layer made a layer
    n_made = sum(not step.empty_layer for step in config.history or ())
    if config.history and n_made != n_blobs:
        yield Problem("history", subject, f"history speaks of {n_made} layers, the manifest has {n_blobs}")


def verify_layer(
    blobs: Blobs, blob: Descriptor, diff_id: DiffID | None, subject: str, report: Callable[[int], None]
) -> list[Problem]:
    """Return what is wrong with one layer; ``diff_id`` None skips its check, ``report`` is told the bytes read."""
    problems: list[Problem] = []
    if diff_id is not None and diff_id.algorithm not in ALGORITHMS:
        problems.append(Problem("diff_id", subject, f"digest algorithm {diff_id.algorithm!r} is not supported"))
        diff_id = None
    try:
        with (
            blobs.open_source(blob) as file,
            BlobReader(file, expected_digest=blob.digest, expected_diff_id=diff_id, expected_size=blob.size) as reader,
        ):
            problems += _media_type(blob, reader.codec, subject)
            _scan(reader, subject, problems, report)
    except DigestMismatchError as error:
        problems += verify_stored(blobs, blob, subject) or [Problem("diff_id", subject, str(error))]
    except (LamellaError, OSError) as error:
        problems.append(problem_of(subject, error))
        if not isinstance(error, BlobNotFound | OSError):
            problems += verify_stored(blobs, blob, subject)
    return problems


def _media_type(blob: Descriptor, codec: str, subject: str) -> Iterator[Problem]:
    try:
        if blob.size:  # an empty blob is an empty layer whatever its type (tests/contract 40)
            check_media_type(blob.media_type, codec)
    except (CodecError, UnsupportedMediaType) as error:
        yield Problem("media_type", subject, str(error))


def _scan(reader: BlobReader, subject: str, problems: list[Problem], report: Callable[[int], None]) -> None:
    """Read the tar for its form; a fault in it does not stop the digests, which raise at the blob's end."""
    scanner = Scanner()
    for chunk in reader:
        report(reader.bytes_in)
        fault = _fault(scanner.feed, chunk)
        if fault is not None:
            break
        if scanner.builder.n_rows > _MAX_ROWS:
            scanner.builder = TableBuilder("tar")
    else:
        fault = _fault(scanner.finish)
    if fault is not None:
        problems.append(problem_of(subject, fault))
        reader.drain()


def _fault(scan: Callable[..., object], *chunk: memoryview) -> LamellaError | None:
    try:
        scan(*chunk)
    except LamellaError as error:
        return error
    return None


def verify_stored(blobs: Blobs, blob: Descriptor, subject: str) -> list[Problem]:
    """Return what is wrong with a blob as it is stored, read to its end: not what is in it."""
    buffer = bytearray(1 << 18)
    try:
        with blobs.open_blob(blob) as file:
            while file.readinto(buffer):
                pass
    except (LamellaError, OSError) as error:
        return [problem_of(subject, error)]
    return []
