"""Small frozen values that every floor shares: digests, kinds, limits, id maps, progress, mounts, usage, probes."""

from __future__ import annotations

import enum
import hashlib
import re
from dataclasses import dataclass
from typing import Self

from lamella.errors import FormatError

__all__ = [
    "ChainID", "ChangeKind", "Choice", "DiffID", "Digest", "EntryType", "IdMap", "Limits", "Mount", "Probe", "Progress",
    "SnapshotKind", "Usage", "Why",
]  # fmt: skip

_HEX_LENGTH = {"sha256": 64, "sha384": 96, "sha512": 128}
_DIGEST = re.compile(r"([a-z0-9]+(?:[.+_-][a-z0-9]+)*):([a-zA-Z0-9=_-]+)\Z")


class Digest(str):
    """``algorithm:hex`` of stored bytes (OCI image-spec, descriptor.md "Digests"). A plain ``str`` that was checked."""

    __slots__ = ()

    def __new__(cls, value: str) -> Self:
        """Check ``value``; FormatError where it is no digest."""
        match = _DIGEST.match(value)
        if match is None:
            raise FormatError(f"not a digest: {value!r}")
        length = _HEX_LENGTH.get(match[1])
        if length is not None and not re.fullmatch(rf"[0-9a-f]{{{length}}}", match[2]):
            raise FormatError(f"not a {match[1]} digest: {value!r}")
        return super().__new__(cls, value)

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Return the sha256 digest of ``data``."""
        return cls("sha256:" + hashlib.sha256(data).hexdigest())

    @property
    def algorithm(self) -> str:
        """The part before the colon."""
        return self.partition(":")[0]

    @property
    def hex(self) -> str:
        """The part after the colon."""
        return self.partition(":")[2]


class DiffID(Digest):
    """Digest of a layer's uncompressed tar (OCI image-spec, config.md "Layer DiffID"): never that of its blob."""

    __slots__ = ()


class ChainID(Digest):
    """Digest of a stack of layers (OCI image-spec, config.md "Layer ChainID")."""

    __slots__ = ()

    @classmethod
    def chain(cls, parent: ChainID | None, diff_id: DiffID) -> ChainID:
        """Return the id of ``diff_id`` on top of ``parent`` (None: the lowest layer)."""
        if parent is None:
            return cls(diff_id)
        return cls("sha256:" + hashlib.sha256(f"{parent} {diff_id}".encode()).hexdigest())


class EntryType(enum.Enum):
    """What an entry is; the value is tar's type flag as text. A table's ``type`` column holds its byte."""

    FILE = "0"
    HARDLINK = "1"
    SYMLINK = "2"
    CHAR = "3"
    BLOCK = "4"
    DIR = "5"
    FIFO = "6"


class ChangeKind(enum.Enum):
    """What a change does to its path."""

    ADD = "add"
    MODIFY = "modify"
    DELETE = "delete"


class Why(enum.Flag):
    """What differs in a MODIFY; ADD and DELETE carry none."""

    TYPE = 1
    MODE = 2
    OWNER = 4
    SIZE = 8
    MTIME = 16
    TARGET = 32
    RDEV = 64
    XATTR = 128
    CONTENT = 256
    LINKS = 512


class SnapshotKind(enum.Enum):
    """What a snapshot is for: to be changed, to be looked at, or to be stood upon."""

    ACTIVE = "active"
    VIEW = "view"
    COMMITTED = "committed"


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount as data: what mount(8) takes, and nobody has done yet.

    ``type`` "bind" for a directory that is there already, else a file system's name. ``options`` are ``key=value`` or a
    flag alone, in order; a key may come several times (``lowerdir+``, nearest first), and values are not escaped.
    """

    type: str
    source: str
    options: tuple[str, ...] = ()

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written through it."""
        return "ro" in self.options


@dataclass(frozen=True, slots=True)
class Usage:
    """Room taken: ``nbytes`` that the file system has allocated, and ``n_inodes``."""

    nbytes: int = 0
    n_inodes: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.nbytes + other.nbytes, self.n_inodes + other.n_inodes)


@dataclass(frozen=True, slots=True)
class Probe:
    """Whether a driver can work with a backend ("kernel" or "userspace") at some place; where not, ``reasons``."""

    name: str
    backend: str
    available: bool
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """A store's driver and backend, and in ``reasons`` why others were not taken, a line each."""

    driver: str
    backend: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """Budgets that hostile input meets; past one, LimitExceededError names it.

    ``total_bytes`` uncompressed bytes; ``entries`` members; ``ratio`` uncompressed to compressed, counted above
    64 MiB; ``pax_bytes`` of one extended header; ``xattrs`` and ``sparse_entries`` of one entry; ``path`` bytes of
    a name or link target (65,535 at most, whatever is asked).
    """

    total_bytes: int = 1 << 40
    entries: int = 20_000_000
    ratio: int = 2_000
    pax_bytes: int = 1 << 20
    xattrs: int = 256
    sparse_entries: int = 1 << 20
    path: int = 4_096


@dataclass(frozen=True, slots=True)
class Progress:
    """One report of a long call: ``stage``, ``done`` of ``total`` (None: unknown) in ``unit`` ("bytes", "entries")."""

    stage: str
    done: int
    total: int | None
    unit: str


Ranges = tuple[tuple[int, int, int], ...]


def _parse_ranges(text: str) -> Ranges:
    ranges = []
    for part in text.split(","):
        numbers = part.split(":")
        if len(numbers) != 3 or not all(n.isascii() and n.isdigit() for n in numbers):
            raise FormatError(f"not an id map (container:host:count): {part!r}")
        ranges.append((int(numbers[0]), int(numbers[1]), int(numbers[2])))
    return tuple(ranges)


@dataclass(frozen=True, slots=True)
class IdMap:
    """Owner ids inside a container and on the host, as ranges ``(container, host, count)``, uid and gid apart.

    ``squash`` maps every id that no range holds to the caller's own; without it such an id is an error.
    """

    uid: Ranges
    gid: Ranges
    squash: bool = False

    @classmethod
    def parse(cls, uid: str, gid: str | None = None, *, squash: bool = False) -> IdMap:
        """Read ``"C:H:N[,C:H:N...]"``; ``gid`` is as ``uid`` unless given. FormatError for anything else."""
        uids = _parse_ranges(uid)
        return cls(uids, uids if gid is None else _parse_ranges(gid), squash)
