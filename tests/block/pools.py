"""A pool on files in a folder, beside the reference that the kernel's own pool has proved (tests/reference/thin.py)."""

from __future__ import annotations

import subprocess
from itertools import combinations
from pathlib import Path

import numpy as np

import lamella
from lamella.block.delta import delta, delta_xml
from lamella.block.device import ThinDevice
from lamella.block.listing import FIELDS, listing
from lamella.block.metadata import Metadata
from lamella.block.pool import ThinPool
from tests import parts
from tests.reference import thin, thinread
from tests.vm import dump

BLOCK = 1 << 16


def sized(path: Path, nbytes: int) -> Path:
    """Make a file of zeros, or change its length."""
    with path.open("ab") as file:
        file.truncate(nbytes)
    return path


def make(folder: Path, *, metadata: int = 256, data: int = 200) -> ThinPool:
    """Make a pool of so many blocks of metadata and data."""
    paths = sized(folder / "metadata", metadata * 4096), sized(folder / "data", data * BLOCK)
    return lamella.ThinPool.create(*paths)


def reopen(folder: Path) -> ThinPool:
    """Open the pool in a folder."""
    return lamella.ThinPool.open(folder / "metadata", folder / "data")


def accept(image: Path) -> None:
    """Let ``thin_check`` read an image."""
    done = subprocess.run([parts.program("thin_check") or "", "-q", image], capture_output=True, text=True, check=False)
    assert done.returncode == 0, subprocess.run([parts.program("thin_check") or "", image], capture_output=True, text=True, check=False)


def recount(image: Path) -> None:
    """Count every reference of an image anew, slowly, and compare with its space maps."""
    read = thinread.Image(image.read_bytes(), check=False)
    read.count()
    for metadata, used in ((True, read.used), (False, read.data_used)):
        counts = read.counts(metadata=metadata)
        assert counts == [used[number] for number in range(len(counts))]
        assert (read.metadata_sm if metadata else read.data_sm)[1] == sum(count > 0 for count in counts)


def provision(device: ThinDevice, blocks: object) -> tuple[np.ndarray, np.ndarray]:
    """Write to blocks without writing data: what pwrite does to the map. Return the blocks, ascending, and where they lie."""
    pool, mapping = device._pool, device._mapping
    with pool.working():
        plan = pool.planned(mapping, np.ascontiguousarray(blocks, np.int64))
        pool.remap(mapping, plan)
    return plan.blocks, plan.target


class Both:
    """Two pools to which the same is done; both must answer alike. Devices are ``nblocks`` long."""

    def __init__(self, folder: Path, nblocks: int = 24, *, metadata: int = 256, data: int = 2000) -> None:
        self.folder, self.nblocks = folder, nblocks
        self.reference = thin.Pool(BLOCK)
        self.pool = make(folder, metadata=metadata, data=data)
        self.opened: dict[int, ThinDevice] = {}

    def message(self, name: str, *arguments: int) -> None:
        """Send a message to both; names are those of ThinPool."""
        theirs = {"reserve_metadata_snap": "reserve_snapshot", "release_metadata_snap": "release_snapshot"}
        expected = answer(getattr(self.reference, theirs.get(name, name)), *arguments)
        assert answer(getattr(self.pool, name), *arguments) == expected

    def device(self, number: int) -> ThinDevice:
        """Open a device that is there."""
        if number not in self.opened:
            self.opened[number] = self.pool.device(number, nblocks=self.nblocks)
        return self.opened[number]

    def write(self, number: int, offset: int, content: bytes) -> None:
        """Write to both."""
        self.reference.write(number, offset, content)
        assert self.device(number).pwrite(content, offset) == len(content)

    def discard(self, number: int, offset: int, nbytes: int) -> None:
        """Discard in both."""
        before = self.reference.state.devices[number].mapped
        self.reference.discard(number, offset, nbytes)
        assert self.device(number).discard(offset, nbytes) == before - self.reference.state.devices[number].mapped

    def close(self, number: int) -> None:
        """Close a device."""
        self.reference.close(number)
        if number in self.opened:
            self.opened.pop(number).close()

    def reopen(self) -> None:
        """Close both and open them again."""
        self.reference.reopen()
        self.pool.close()
        self.opened.clear()
        self.pool = reopen(self.folder)

    def agree(self) -> None:
        """Commit, and compare all: contents, and what the tools find in the metadata."""
        self.pool.commit()
        state = self.reference.state
        assert self.pool.devices() == sorted(state.devices)
        for number, device in state.devices.items():
            opened = self.device(number)
            assert opened.mapped_blocks == device.mapped
            expected = b"".join(self.reference._content(device, block) for block in range(self.nblocks))
            assert opened.pread(len(expected) + 1, 0) == expected
            if number not in self.reference.opened:
                self.opened.pop(number).close()
        image = self.folder / "metadata"
        accept(image)
        recount(image)
        self._look(image)
        assert self.pool.check() == []
        pairs: dict[int, int] = {}
        assert thin.differences(state, dump.read(image), pairs) == []
        if self.reference.held is not None:
            assert thin.differences(self.reference.held, dump.read(image, "-m"), pairs) == []


    def _look(self, image: Path) -> None:
        """Compare what ``thin_ls`` and ``thin_delta`` print of an image with what we do, and with the pool's own delta."""
        fields = ",".join(FIELDS)
        with Metadata.open(image) as metadata:
            assert "".join(listing(metadata, FIELDS)) == dump.tool("thin_ls", "-o", fields, image)
            for left, right in list(combinations(self.pool.devices(), 2))[:2]:
                printed = dump.tool("thin_delta", "--snap1", str(left), "--snap2", str(right), image)
                assert "".join(delta_xml(metadata, left, right)) == printed
                rows = [row for table in delta(metadata, left, right) for row in table]
                assert list(self.pool.delta(left, right)) == rows


def answer(call: object, *arguments: int) -> int | None:
    """Call and return the errno of the refusal, or None."""
    try:
        call(*arguments)
    except OSError as error:
        return error.errno
    return None
