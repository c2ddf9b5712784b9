"""What a machine does to one pool: operations as values, and the pool they begin with.

Sectors are of 512 bytes, blocks are the pool's. Each operation is answered by ``ok`` or by the name of an errno.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECTOR = 512


@dataclass(frozen=True)
class CreateThin:
    """An empty device."""

    device: int


@dataclass(frozen=True)
class CreateSnapshot:
    """A device that begins as what ``origin`` is; an open origin is suspended meanwhile."""

    device: int
    origin: int


@dataclass(frozen=True)
class Delete:
    """Remove a device, which must not be open."""

    device: int


@dataclass(frozen=True)
class Write:
    """Write a pattern (``tests.vm.guest.pattern``); opens the device if it is not open."""

    device: int
    sector: int
    nsectors: int
    seed: int


@dataclass(frozen=True)
class Discard:
    """Discard the whole blocks in a range; opens the device if it is not open."""

    device: int
    sector: int
    nsectors: int


@dataclass(frozen=True)
class Close:
    """Close an open device."""

    device: int


@dataclass(frozen=True)
class SetTransactionId:
    """Replace the pool's transaction id, which must be ``old``."""

    old: int
    new: int


@dataclass(frozen=True)
class ReserveSnapshot:
    """Hold a snapshot of the metadata."""


@dataclass(frozen=True)
class ReleaseSnapshot:
    """Let go of the metadata snapshot."""


@dataclass(frozen=True)
class Commit:
    """Flush every open device; messages commit by themselves."""


@dataclass(frozen=True)
class Reopen:
    """Close every device and the pool, and open the pool again."""


@dataclass(frozen=True)
class Digests:
    """Read blocks; the answer is the list of their SHA-256. Opens the device if it is not open."""

    device: int
    begin: int
    nblocks: int


@dataclass(frozen=True)
class BreakMetadata:
    """Let every write to the metadata device fail."""


@dataclass(frozen=True)
class HealMetadata:
    """Let writes to the metadata device pass again."""


Operation = (
    CreateThin | CreateSnapshot | Delete | Write | Discard | Close | SetTransactionId | ReserveSnapshot | ReleaseSnapshot
    | Commit | Reopen | Digests | BreakMetadata | HealMetadata
)  # fmt: skip


@dataclass(frozen=True)
class Script:
    """Operations on one pool: a fresh one, or the one that two images hold."""

    operations: tuple[Operation, ...]
    metadata_image: Path | None = None
    data_image: Path | None = None
    block_nsectors: int = 128
    metadata_nbytes: int = 2 << 20
    data_nbytes: int = 64 << 20
    data_kind: str = "linear"  # "zero": what is written is not kept
    device_nsectors: int = 1 << 16

    def rendered(self) -> dict[str, Any]:
        """Return what the machine needs to know, for JSON."""
        return {
            "block_nsectors": self.block_nsectors,
            "data_kind": self.data_kind,
            "device_nsectors": self.device_nsectors,
            "operations": [[verb(each), *dataclasses.astuple(each)] for each in self.operations],
        }


def verb(operation: Operation) -> str:
    """Return the name of the method that does it, in the machine and in what it is compared with."""
    return re.sub(r"(?<=.)(?=[A-Z])", "_", type(operation).__name__).lower()
