"""Every exception of the package.

One root, attributes instead of parsed messages. An error that ends a half-done apply carries ``.partial``
(the :class:`~lamella.ApplyResult` so far); ``OSError`` from the kernel passes through with its path.
"""

from __future__ import annotations

from errno import ENOSPC
from typing import Any

__all__ = [
    "BlobNotFound",
    "CodecError",
    "ConflictError",
    "DigestMismatchError",
    "DriverError",
    "DriverUnavailable",
    "FilesystemError",
    "FormatError",
    "ImageError",
    "LamellaError",
    "LimitExceededError",
    "ManifestError",
    "MetadataError",
    "PoolFullError",
    "ReferenceNotFound",
    "SnapshotError",
    "SnapshotExists",
    "SnapshotInUse",
    "SnapshotNotFound",
    "StoreError",
    "TarFormatError",
    "TruncatedError",
    "UnknownDriver",
    "UnrecoveredJournal",
    "UnsafePathError",
    "UnsupportedFilesystem",
    "UnsupportedMediaType",
    "WhiteoutError",
    "WrongSnapshotKind",
]


class LamellaError(Exception):
    """Root of the package's exceptions."""

    partial: Any = None


def _shown(entry: bytes | str | None) -> str:
    if entry is None:
        return ""
    return entry.decode("utf-8", "backslashreplace") if isinstance(entry, bytes) else entry


class FormatError(LamellaError, ValueError):
    """Bytes are wrong.

    ``offset`` is the byte offset in the stream the message speaks of (None where no single byte is to blame);
    ``entry`` the path of the entry concerned, as bytes, where one is known.
    """

    def __init__(self, message: str, *, offset: int | None = None, entry: bytes | None = None) -> None:
        where = "" if entry is None else f" in entry {_shown(entry)!r}"
        where += "" if offset is None else f" at byte {offset}"
        super().__init__(message + where)
        self.offset = offset
        self.entry = entry


class TarFormatError(FormatError):
    """A tar record is malformed."""


class TruncatedError(FormatError):
    """Input ended in the middle of a stream, record or payload."""


class WhiteoutError(FormatError):
    """A whiteout name that cannot be meant (``.wh.`` alone, ``.wh..``), or a tree name that would become one."""


class CodecError(FormatError):
    """Compressed bytes are corrupt, or disagree with the declared media type."""


class ManifestError(FormatError):
    """An image's JSON document is malformed or inconsistent."""


class MetadataError(FormatError):
    """Metadata of a thin pool is damaged: ``block`` is the block at fault, ``offset`` its first byte."""

    def __init__(self, message: str, *, block: int) -> None:
        super().__init__(message, offset=block * 4096)
        self.block = block


class FilesystemError(FormatError):
    """A file system's bytes are damaged: ``block`` is the block at fault, ``inode`` the inode, None where none is known."""

    def __init__(self, message: str, *, block: int = -1, inode: int = 0) -> None:
        where = f" in block {block}" if block >= 0 else ""
        super().__init__(message + where + (f" of inode {inode}" if inode else ""))
        self.block = block if block >= 0 else None
        self.inode = inode or None


class DigestMismatchError(FormatError):
    """Content does not have the digest (or size) it was said to have: ``expected`` against ``actual``."""

    def __init__(self, what: str, *, expected: object, actual: object) -> None:
        super().__init__(f"{what}: expected {expected}, got {actual}")
        self.expected = expected
        self.actual = actual


class ImageError(LamellaError):
    """An image cannot be used as asked."""


class ReferenceNotFound(ImageError, LookupError):
    """No image has this reference."""


class BlobNotFound(ImageError, LookupError):
    """A blob that a manifest names is not there; ``urls`` says where its publisher keeps it, if anywhere."""

    def __init__(self, message: str, *, urls: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.urls = urls


class UnsupportedMediaType(ImageError):
    """A media type that this operation does not handle."""


class PoolFullError(LamellaError, OSError):
    """A thin pool has no free block left (``errno`` is ENOSPC); ``what`` is ``"data"`` or ``"metadata"``."""

    def __init__(self, message: str, *, what: str) -> None:
        super().__init__(ENOSPC, message)
        self.what = what


class UnsupportedFilesystem(LamellaError):
    """A file system that is not read directly, whole as it may be: ``reason`` is a short phrase. Mount it, and walk."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class UnrecoveredJournal(UnsupportedFilesystem):
    """A file system whose journal is still to be replayed, which mounting it read-write does."""


class UnsafePathError(LamellaError):
    """An entry would reach outside the root: ``entry`` and ``target`` are bytes, ``reason`` a short phrase."""

    def __init__(self, entry: bytes, reason: str, *, target: bytes | None = None) -> None:
        to = "" if target is None else f" -> {_shown(target)!r}"
        super().__init__(f"unsafe entry {_shown(entry)!r}{to}: {reason}")
        self.entry = entry
        self.target = target
        self.reason = reason


class LimitExceededError(LamellaError):
    """A budget of :class:`~lamella.Limits` is spent: ``limit`` names it, ``value`` is what was met."""

    def __init__(self, limit: str, value: int, *, entry: bytes | None = None) -> None:
        where = "" if entry is None else f" at entry {_shown(entry)!r}"
        super().__init__(f"limit {limit} exceeded: {value}{where}")
        self.limit = limit
        self.value = value
        self.entry = entry


class ConflictError(LamellaError):
    """The changeset does not fit this lower: ``path`` (bytes) is where."""

    def __init__(self, path: bytes, reason: str) -> None:
        super().__init__(f"conflict at {_shown(path)!r}: {reason}")
        self.path = path
        self.reason = reason


class StoreError(LamellaError):
    """A store cannot be used as asked: another driver's, a newer format, damaged."""


class SnapshotError(StoreError):
    """A snapshot cannot be used as asked: ``key`` names it."""

    def __init__(self, message: str, key: str) -> None:
        super().__init__(f"{message}: {key}")
        self.key = key


class SnapshotNotFound(SnapshotError, LookupError):
    """No snapshot has this key or name."""


class SnapshotExists(SnapshotError):
    """A snapshot has this key or name already."""


class SnapshotInUse(SnapshotError):
    """Something stands upon the snapshot, ``children``, or it is mounted."""

    def __init__(self, message: str, key: str, *, children: tuple[str, ...] = ()) -> None:
        super().__init__(message, key)
        self.children = children


class WrongSnapshotKind(SnapshotError):
    """The snapshot is not of the kind that this needs: active, view or committed."""


class DriverError(LamellaError):
    """A driver failed."""


class UnknownDriver(DriverError, LookupError):
    """No driver of this name is installed."""


class DriverUnavailable(DriverError):
    """A driver cannot work here; ``reasons`` say why, a phrase each."""

    def __init__(self, message: str, reasons: tuple[str, ...] = ()) -> None:
        super().__init__(": ".join([message, *(["; ".join(reasons)] if reasons else [])]))
        self.reasons = reasons
