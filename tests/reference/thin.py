"""What a thin pool does, slow and obvious: the oracle of our pool, itself proved against the kernel's (tests/vm).

Block maps are dictionaries. Data blocks get numbers in the order of allocation and are never used again, so two pools that
did the same are compared by :func:`differences`, up to one renaming of data blocks.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

MAX_DEVICES = 1 << 24


class Mapping(NamedTuple):
    """Where a block of a device lies, and the pool's clock when it was put there."""

    data: int
    time: int


@dataclass
class Device:
    """A device, as ``thin_dump`` shows it; ``mapped`` is the count that the metadata keep of the blocks."""

    transaction_id: int
    created: int
    snapped: int
    mapped: int = 0
    blocks: dict[int, Mapping] = field(default_factory=dict)

    def copy(self) -> Device:
        """Return the same with a block map of its own."""
        return Device(self.transaction_id, self.created, self.snapped, self.mapped, dict(self.blocks))


@dataclass
class PoolState:
    """A pool's metadata: clock (which counts snapshots), transaction id, devices."""

    time: int = 0
    transaction_id: int = 0
    devices: dict[int, Device] = field(default_factory=dict)

    def copy(self) -> PoolState:
        """Return the same with devices of its own."""
        return PoolState(self.time, self.transaction_id, {number: device.copy() for number, device in self.devices.items()})


class Pool:
    """A pool. An operation that is refused raises OSError with the kernel's errno."""

    def __init__(self, block_nbytes: int = 1 << 16) -> None:
        self.block_nbytes = block_nbytes
        self.state = PoolState()
        self.held: PoolState | None = None
        self.contents: list[bytes] = []
        self.opened: set[int] = set()

    def create_thin(self, number: int) -> None:
        """Make an empty device."""
        self._check_new(number)
        time = self.state.time
        self.state.devices[number] = Device(self.state.transaction_id, time, time)

    def create_snapshot(self, number: int, origin: int) -> None:
        """Make a device that shares every block of another."""
        self._check_new(number)
        source = self._device(origin)
        self.state.time += 1
        source.snapped = time = self.state.time
        self.state.devices[number] = Device(self.state.transaction_id, time, time, source.mapped, dict(source.blocks))

    def delete(self, number: int) -> None:
        """Remove a device that is not open."""
        self._device(number)
        if number in self.opened:
            refuse(errno.EBUSY)
        del self.state.devices[number]

    def close(self, number: int) -> None:
        """Close a device; reading, writing and discarding have opened it."""
        self.opened.discard(number)

    def reopen(self) -> None:
        """Close every device."""
        self.opened.clear()

    def commit(self) -> None:
        """Nothing here is ever lost."""

    def set_transaction_id(self, old: int, new: int) -> None:
        """Replace the id."""
        if old != self.state.transaction_id:
            refuse(errno.EINVAL)
        self.state.transaction_id = new

    def reserve_snapshot(self) -> None:
        """Hold the metadata as they are now."""
        if self.held is not None:
            refuse(errno.EBUSY)
        self.held = self.state.copy()

    def release_snapshot(self) -> None:
        """Let go of what is held."""
        if self.held is None:
            refuse(errno.EINVAL)
        self.held = None

    def write(self, number: int, offset: int, content: bytes) -> None:
        """Write into blocks that no other device can have; a block that a snapshot may share is copied first."""
        device = self._open(number)
        for block, begin, end in self._spans(offset, len(content)):
            at = block * self.block_nbytes + begin - offset
            self._write_block(device, block, begin, content[at : at + end - begin])

    def read(self, number: int, offset: int, nbytes: int) -> bytes:
        """Read; a block that is nowhere is zero."""
        device = self._open(number)
        return b"".join(self._content(device, block)[begin:end] for block, begin, end in self._spans(offset, nbytes))

    def discard(self, number: int, offset: int, nbytes: int) -> None:
        """Forget the blocks that lie wholly in a range."""
        device = self._open(number)
        for block, begin, end in self._spans(offset, nbytes):
            if end - begin == self.block_nbytes and device.blocks.pop(block, None) is not None:
                device.mapped -= 1

    def _write_block(self, device: Device, block: int, begin: int, content: bytes) -> None:
        was = self._content(device, block)
        now = was[:begin] + content + was[begin + len(content) :]
        mapping = device.blocks.get(block)
        if mapping is not None and device.snapped <= mapping.time:
            self.contents[mapping.data] = now
            return
        device.mapped += mapping is None
        device.blocks[block] = Mapping(len(self.contents), self.state.time)
        self.contents.append(now)

    def _content(self, device: Device, block: int) -> bytes:
        mapping = device.blocks.get(block)
        return bytes(self.block_nbytes) if mapping is None else self.contents[mapping.data]

    def _spans(self, offset: int, nbytes: int) -> Iterator[tuple[int, int, int]]:
        size = self.block_nbytes
        for block in range(offset // size, -(-(offset + nbytes) // size)):
            yield block, max(offset - block * size, 0), min(offset + nbytes - block * size, size)

    def _check_new(self, number: int) -> None:
        if not 0 <= number < MAX_DEVICES:
            refuse(errno.EINVAL)
        if number in self.state.devices:
            refuse(errno.EEXIST)

    def _device(self, number: int) -> Device:
        device = self.state.devices.get(number)
        return refuse(errno.ENODATA) if device is None else device

    def _open(self, number: int) -> Device:
        device = self._device(number)
        self.opened.add(number)
        return device


def refuse(code: int) -> NoReturn:
    """Raise the errno."""
    raise OSError(code, errno.errorcode[code])


def differences(left: PoolState, right: PoolState, pairs: dict[int, int]) -> list[str]:
    """Say what differs between two pools, data blocks aside, which ``pairs`` comes to map one to one, left to right.

    What ``pairs`` holds already is binding: states of one pool are compared with those of the other through one map.
    """
    found = []
    if (left.time, left.transaction_id) != (right.time, right.transaction_id):
        found.append(f"time and transaction: {left.time} {left.transaction_id}, {right.time} {right.transaction_id}")
    if left.devices.keys() != right.devices.keys():
        return [*found, f"devices: {sorted(left.devices)}, {sorted(right.devices)}"]
    backwards = {there: here for here, there in pairs.items()}
    for number, device in left.devices.items():
        other = right.devices[number]
        facts = [(each.transaction_id, each.created, each.snapped, each.mapped) for each in (device, other)]
        if facts[0] != facts[1]:
            found.append(f"device {number}: transaction, created, snapped, mapped {facts[0]}, {facts[1]}")
        for block in sorted(device.blocks.keys() | other.blocks.keys()):
            one, two = device.blocks.get(block), other.blocks.get(block)
            if one is None or two is None or one.time != two.time:
                found.append(f"device {number} block {block}: {one}, {two}")
            elif pairs.setdefault(one.data, two.data) != two.data or backwards.setdefault(two.data, one.data) != one.data:
                found.append(f"device {number} block {block}: {one} is shared with others than {two}")
    return found
