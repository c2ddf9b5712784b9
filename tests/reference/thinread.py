"""A slow reader of dm-thin metadata: dictionaries, recursion, struct. It trusts its input and checks every checksum."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator

SUPERBLOCK, NODE, BITMAP, INDEX = 160774, 121107, 240779, 160478
PER_BITMAP = 16320


def crc_table() -> list[int]:
    """Return the 256 sums of CRC-32C, one for each byte."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)  # noqa: PLW2901
        table.append(byte)
    return table


TABLE = crc_table()


def checksum(block: bytes, salt: int) -> int:
    """Sum a block from its fifth byte on, as the kernel does: begun with ones, not inverted."""
    crc = 0xFFFFFFFF
    for byte in block[4:]:
        crc = TABLE[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ salt


class Image:
    """Metadata as one ``bytes``; ``used`` counts references to metadata blocks once ``count()`` has run."""

    def __init__(self, data: bytes, superblock: int = 0, *, check: bool = True) -> None:
        self.data = data
        self.check = check
        self.used: Counter[int] = Counter()
        self.data_used: Counter[int] = Counter()
        block = self.block(superblock, SUPERBLOCK)
        self.time, self.transaction, self.held = struct.unpack_from("<IQQ", block, 44)
        self.data_sm = struct.unpack_from("<4Q", block, 64)
        self.metadata_sm = struct.unpack_from("<4Q", block, 192)
        self.data_root, self.details_root = struct.unpack_from("<2Q", block, 320)
        (self.data_block_size,) = struct.unpack_from("<I", block, 336)

    def block(self, number: int, salt: int) -> bytes:
        """Return a block of a kind."""
        block = self.data[4096 * number : 4096 * (number + 1)]
        if self.check:
            assert struct.unpack_from("<I", block)[0] == checksum(block, salt)
        assert struct.unpack_from("<Q", block, 8)[0] == number
        return block

    def node(self, number: int) -> tuple[bool, list[tuple[int, bytes]]]:
        """Return whether a node is a leaf, and its keys with the bytes of their values."""
        block = self.block(number, NODE)
        flags, _, n, most, size = struct.unpack_from("<IQIII", block, 4)
        keys = struct.unpack_from(f"<{n}Q", block, 32)
        at = 32 + 8 * most
        return flags == 2, [(key, block[at + i * size : at + (i + 1) * size]) for i, key in enumerate(keys)]

    def walk(self, number: int) -> Iterator[tuple[int, bytes]]:
        """Yield keys and values of a tree."""
        leaf, entries = self.node(number)
        for key, value in entries:
            if leaf:
                yield key, value
            else:
                yield from self.walk(int.from_bytes(value, "little"))

    def roots(self) -> dict[int, int]:
        """Map devices to their trees."""
        return {key: int.from_bytes(value, "little") for key, value in self.walk(self.data_root)}

    def devices(self) -> list[tuple[int, int, int, int, int]]:
        """Return id, mapped blocks, transaction, creation time and snapshot time of each device."""
        return [(key, *struct.unpack("<QQII", value)) for key, value in self.walk(self.details_root)]

    def mappings(self, root: int) -> dict[int, tuple[int, int]]:
        """Map thin blocks to a data block and a time."""
        values = ((key, int.from_bytes(value, "little")) for key, value in self.walk(root))
        return {key: (value >> 24, value & 0xFFFFFF) for key, value in values}

    def index(self, *, metadata: bool) -> list[int]:
        """Return the bitmap blocks of a space map."""
        if metadata:
            nblocks, _, root, _ = self.metadata_sm
            block = self.block(root, INDEX)
            return [struct.unpack_from("<Q", block, 16 + 16 * i)[0] for i in range(-(-nblocks // PER_BITMAP))]
        return [struct.unpack_from("<Q", value)[0] for _, value in self.walk(self.data_sm[2])]

    def counts(self, *, metadata: bool) -> list[int]:
        """Return a space map's count of every block."""
        nblocks, _, _, tree = self.metadata_sm if metadata else self.data_sm
        above = {key: int.from_bytes(value, "little") for key, value in self.walk(tree)}
        found = []
        for number in self.index(metadata=metadata):
            block = self.block(number, BITMAP)
            for i in range(min(PER_BITMAP, nblocks - len(found))):
                pair = block[16 + i // 4] >> i % 4 * 2 & 3
                count = (0, 2, 1, 3)[pair]
                found.append(above[len(found)] if count == 3 else count)
        return found

    def use(self, number: int, *, top: bool = False, mappings: bool = False) -> None:
        """Count a reference to the tree at ``number``, and what it refers to if it is the first one."""
        self.used[number] += 1
        if self.used[number] > 1:
            return
        leaf, entries = self.node(number)
        for _, value in entries:
            if not leaf:
                self.use(int.from_bytes(value, "little"), top=top, mappings=mappings)
            elif top:
                self.use(int.from_bytes(value, "little"), mappings=True)
            elif mappings:
                self.data_used[int.from_bytes(value, "little") >> 24] += 1

    def count(self) -> None:
        """Count all references to metadata blocks and data blocks."""
        self.used[0] += 1
        for image in [self, *([Image(self.data, self.held, check=self.check)] if self.held else [])]:
            self.use(image.details_root)
            self.use(image.data_root, top=True)
        if self.held:
            self.used[self.held] += 1
        self.used[self.metadata_sm[2]] += 1
        self.use(self.data_sm[2])
        for metadata in (True, False):
            self.use((self.metadata_sm if metadata else self.data_sm)[3])
            for number in self.index(metadata=metadata):
                self.used[number] += 1


def runs(mappings: dict[int, tuple[int, int]]) -> list[tuple[int, int, int, int]]:
    """Return mappings as runs: thin begin, data begin, length, time."""
    found: list[tuple[int, int, int, int]] = []
    for block, (data, time) in sorted(mappings.items()):
        if found:
            begin, first, length, when = found[-1]
            if block == begin + length and data == first + length and time == when:
                found[-1] = (begin, first, length + 1, when)
                continue
        found.append((block, data, 1, time))
    return found


def compare(left: dict[int, tuple[int, int]], right: dict[int, tuple[int, int]]) -> list[tuple[int, int, int, int]]:
    """Return (kind, block, left data, right data) for every block that either maps; -1 where one does not."""
    found = []
    for block in sorted(left.keys() | right.keys()):
        a, b = left.get(block, (-1, 0))[0], right.get(block, (-1, 0))[0]
        found.append((1 if a < 0 else 0 if b < 0 else 3 if a == b else 2, block, a, b))
    return found
