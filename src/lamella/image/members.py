"""The members of an archive by name: a tar on disk, its headers read once, its files read where they lie."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass

from lamella.errors import LimitExceededError, ManifestError, UnsafePathError
from lamella.image.blobs import MAX_DOCUMENT_NBYTES
from lamella.model import EntryType, Limits
from lamella.stream.blob import BlobReader
from lamella.stream.codec import SNIFF_NBYTES, sniff
from lamella.stream.region import HeldFile, RegionSource
from lamella.table import Entry
from lamella.tar.reader import read_layer

__all__ = ["Member", "Members"]

_LIMITS = Limits(entries=1 << 18)  # an image of 127 layers has some 500 members
_MAX_LINKS = 40  # as a path may meet on Linux


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file of an archive: where its bytes lie."""

    begin: int
    size: int


class Members:
    """The tar at ``path``, which may be compressed: its bytes then go to a temporary file that has no name.

    Of several members of one name the last counts, as extracting the archive would have it (tests/contract 37). No name
    is ever used as a path of the file system. OSError where the file cannot be read, TarFormatError, TruncatedError and
    CodecError where it is no whole tar, LimitExceededError above 262,144 members.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.file: HeldFile | None = _plain(HeldFile.open(path), path)
        with read_layer(self.region(0, self.file.size), digests=False, limits=_LIMITS) as reader:
            self._table = reader.table()

    def region(self, begin: int, size: int) -> RegionSource:
        """Open a part of the archive; ValueError when closed."""
        if self.file is None:
            raise ValueError("the image is closed")
        return RegionSource(self.file, begin, size, self.path)

    def close(self) -> None:
        """Let go of the file; regions that are open keep it."""
        self.file = None

    def find(self, name: str) -> Member | None:
        """Return the file that ``name`` means, through links, or None where it or a link's target is missing.

        UnsafePathError for a name or link that leads out of the archive and for links in a circle, ManifestError for a
        member that is no plain file.
        """
        path = _resolved(name.encode("utf-8", "surrogatepass"), b"")
        for _ in range(_MAX_LINKS):
            row = self._table.find(path)
            if row < 0:
                return None
            entry = self._table[row]
            if entry.type is EntryType.SYMLINK:
                path = _resolved(entry.link_target, path)
            elif entry.type is EntryType.HARDLINK:
                path = _resolved(entry.link_target, path, from_root=True)
            else:
                return _file(entry)
        raise UnsafePathError(entry.path, "links in a circle", target=entry.link_target)

    def read(self, name: str) -> bytes | None:
        """Return a whole small file, None where there is none. LimitExceededError above 4 MiB."""
        member = self.find(name)
        if member is None:
            return None
        if member.size > MAX_DOCUMENT_NBYTES:
            raise LimitExceededError("document_bytes", member.size, entry=name.encode("utf-8", "surrogatepass"))
        with self.region(member.begin, member.size) as source:
            return os.pread(source.fd, member.size, member.begin)


def _plain(file: HeldFile, path: str) -> HeldFile:
    """Return ``file``, or an unnamed one with what it holds uncompressed."""
    if sniff(os.pread(file.fd, SNIFF_NBYTES, 0)) == "none":
        return file
    with (
        RegionSource(file, 0, file.size, path) as source,
        BlobReader(source, digests=False) as reader,
        tempfile.TemporaryFile() as out,
    ):
        for chunk in reader:
            out.write(chunk)
        out.flush()
        return HeldFile(os.dup(out.fileno()))


def _file(entry: Entry) -> Member:
    if entry.type is not EntryType.FILE or entry.sparse is not None:
        kind = "sparse" if entry.type is EntryType.FILE else entry.type.name.lower()
        raise ManifestError(f"member {entry.name!r} is no plain file but {kind}")
    return Member(max(entry.data_off, 0), entry.size)


def _resolved(target: bytes, link: bytes, *, from_root: bool = False) -> bytes:
    """Return the path that ``target`` means where ``link`` says it (empty: a name of its own)."""
    parts = [] if from_root or target.startswith(b"/") else link.split(b"/")[:-1]
    for part in target.split(b"/"):
        if part == b"..":
            if not parts:
                raise UnsafePathError(link or target, "leads out of the archive", target=target if link else None)
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)
