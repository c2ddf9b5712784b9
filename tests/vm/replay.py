"""Do a script's operations on a pool that lives in this process, with the answers that the machine gives."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Protocol

from tests.vm.guest import outcome, pattern
from tests.vm.script import (
    SECTOR,
    Close,
    Commit,
    CreateSnapshot,
    CreateThin,
    Delete,
    Digests,
    Discard,
    Operation,
    ReleaseSnapshot,
    Reopen,
    ReserveSnapshot,
    SetTransactionId,
    Write,
)


class Target(Protocol):
    """A pool that operations are done on; it opens a device when it is read, written or discarded, as a script does."""

    block_nbytes: int

    def create_thin(self, number: int) -> None: ...
    def create_snapshot(self, number: int, origin: int) -> None: ...
    def delete(self, number: int) -> None: ...
    def close(self, number: int) -> None: ...
    def reopen(self) -> None: ...
    def commit(self) -> None: ...
    def set_transaction_id(self, old: int, new: int) -> None: ...
    def reserve_snapshot(self) -> None: ...
    def release_snapshot(self) -> None: ...
    def write(self, number: int, offset: int, content: bytes) -> None: ...
    def read(self, number: int, offset: int, nbytes: int) -> bytes: ...
    def discard(self, number: int, offset: int, nbytes: int) -> None: ...


def replay(operations: Iterable[Operation], pool: Target) -> list[Any]:
    """Do the operations; return an answer for each."""
    return [outcome(perform, operation, pool) for operation in operations]


def perform(operation: Operation, pool: Target) -> list[str] | None:
    """Do one."""
    match operation:
        case CreateThin(device):
            pool.create_thin(device)
        case CreateSnapshot(device, origin):
            pool.create_snapshot(device, origin)
        case Delete(device):
            pool.delete(device)
        case Write(device, sector, nsectors, seed):
            pool.write(device, sector * SECTOR, pattern(seed, sector, nsectors))
        case Discard(device, sector, nsectors):
            pool.discard(device, sector * SECTOR, nsectors * SECTOR)
        case Close(device):
            pool.close(device)
        case SetTransactionId(old, new):
            pool.set_transaction_id(old, new)
        case ReserveSnapshot():
            pool.reserve_snapshot()
        case ReleaseSnapshot():
            pool.release_snapshot()
        case Commit():
            pool.commit()
        case Reopen():
            pool.reopen()
        case Digests(device, begin, nblocks):
            content = pool.read(device, begin * pool.block_nbytes, nblocks * pool.block_nbytes)
            return [hashlib.sha256(each).hexdigest() for each in cut(content, pool.block_nbytes)]
        case _:
            raise TypeError(f"no pool in this process can {operation}")
    return None


def cut(content: bytes, nbytes: int) -> list[bytes]:
    """Cut into pieces of a length."""
    return [content[at : at + nbytes] for at in range(0, len(content), nbytes)]
