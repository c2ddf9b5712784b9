"""Make the golden metadata images of tests/golden/thin: ``python -m tests.vm.golden``.

A machine's dm-thin runs the scripts below; thin-provisioning-tools print what they find in the images it leaves.
"""

from __future__ import annotations

import lzma
import subprocess
import tempfile
from pathlib import Path

from tests import parts
from tests.vm.job import run
from tests.vm.script import (
    BreakMetadata,
    Close,
    Commit,
    CreateSnapshot,
    CreateThin,
    Delete,
    Discard,
    HealMetadata,
    Operation,
    Reopen,
    ReserveSnapshot,
    Script,
    SetTransactionId,
    Write,
)

FOLDER = Path(__file__).parent.parent / "golden" / "thin"
BLOCK = 128  # sectors
CHUNK = 128  # blocks a write of the deep tree
DEEP = 61_440  # blocks: more leaves than a root holds
FIELDS = "DEV,MAPPED_BLOCKS,EXCLUSIVE_BLOCKS,SHARED_BLOCKS,MAPPED_BYTES,EXCLUSIVE_BYTES,SHARED_BYTES,TRANSACTION,CREATE_TIME,SNAP_TIME"
XZ_FILTERS = (
    [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}],
    [{"id": lzma.FILTER_DELTA, "dist": 8}, {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}],  # counting u64
)


def blocks(device: int, begin: int, nblocks: int) -> Write:
    """Write whole blocks."""
    return Write(device, begin * BLOCK, nblocks * BLOCK, 0)


def drop(device: int, begin: int, nblocks: int) -> Discard:
    """Discard whole blocks."""
    return Discard(device, begin * BLOCK, nblocks * BLOCK)


def scripts() -> dict[str, Script]:
    """Return each image's script."""
    return {name: Script(tuple(operations), data_kind="zero") for name, operations in small().items()} | {
        "deep": Script(
            tuple(deep()), metadata_nbytes=8 << 20, data_nbytes=64_000 * BLOCK * 512, data_kind="zero",
            device_nsectors=2 * DEEP * BLOCK,
        )
    }  # fmt: skip


def small() -> dict[str, list[Operation]]:
    """Return the operations of pools of a few leaves."""
    return {
        "empty": [],
        "devices": devices(),
        "shared": shared(),
        "held": [*devices(), ReserveSnapshot(), blocks(1, 300, 20), drop(2, 0, 8), Delete(4), CreateThin(9)],
        "needs-check": [
            *devices(), Commit(), BreakMetadata(), blocks(0, 500, 3), CreateThin(12), HealMetadata(),
        ],
    }  # fmt: skip


def devices() -> list[Operation]:
    """Chains of snapshots, discards, a removed device, an empty one, ids that are far apart."""
    return [
        *(CreateThin(0), blocks(0, 0, 100), blocks(0, 200, 1), blocks(0, 202, 1), blocks(0, 400, 30)),
        *(CreateSnapshot(1, 0), SetTransactionId(0, 1), blocks(1, 50, 10), blocks(0, 90, 20)),
        *(CreateSnapshot(2, 1), CreateSnapshot(3, 1), Delete(3), CreateSnapshot(4, 2), SetTransactionId(1, 7)),
        *(drop(1, 10, 5), drop(0, 0, 3), drop(1, 400, 30), blocks(2, 0, 1), Commit()),
        *(CreateThin(1000), CreateThin((1 << 24) - 1), blocks((1 << 24) - 1, 511, 1)),
    ]


def shared() -> list[Operation]:
    """Leaves that many devices point at, and data blocks that many leaves point at: counts of 1 to 9."""
    operations: list[Operation] = [CreateThin(0), blocks(0, 0, 300)]
    for device in range(1, 9):
        operations += [CreateSnapshot(device, 0), blocks(device, device * 8, 4), Close(device)]
    for device in range(9, 14):
        operations += [CreateSnapshot(device, 4)]
    return [*operations, drop(5, 0, 64), Delete(7), Reopen(), blocks(0, 290, 20)]


def deep() -> list[Operation]:
    """A tree of three levels, filled from both ends, and a snapshot of it that differs in a few places."""
    begins = list(range(0, DEEP, CHUNK))
    half = len(begins) // 2
    inwards = [begin for pair in zip(begins[:half], reversed(begins[half:]), strict=True) for begin in pair]
    return [
        *(CreateThin(1), *(blocks(1, begin, CHUNK) for begin in inwards), Commit()),
        *(CreateSnapshot(2, 1), blocks(2, 7, 1), blocks(2, 20_000, 300), drop(2, 30_000, 40), CreateThin(3), blocks(3, 5, 9)),
    ]


def compressed(content: bytes) -> bytes:
    """Return the smallest xz form."""
    return min((lzma.compress(content, filters=filters) for filters in XZ_FILTERS), key=len)


def printed(program: str, *argv: str | Path) -> bytes:
    """Run a tool of thin-provisioning-tools and return what it prints."""
    return subprocess.run([parts.program(program) or program, *argv], capture_output=True, check=True).stdout


def describe(image: Path, *, held: bool) -> dict[str, bytes]:
    """Return the suffix and the content of each file that says what is in an image."""
    printed("thin_check", "-q", image)
    said = {
        ".xml": printed("thin_dump", image),
        ".txt": printed("thin_dump", "-f", "human_readable", image),
        ".ls": printed("thin_ls", image),
        ".ls-all": printed("thin_ls", "-o", FIELDS, image),
        ".delta-1-2.xml": printed("thin_delta", "--snap1", "1", "--snap2", "2", image),
    }
    if held:
        said[".held.xml"] = printed("thin_dump", "-m", image)
        said[".held.ls-all"] = printed("thin_ls", "-m", "-o", FIELDS, image)
    return said


def main() -> None:
    """Write every file anew."""
    FOLDER.mkdir(exist_ok=True)
    chosen = scripts()
    with tempfile.TemporaryDirectory(dir=parts.TMPFS) as work:
        for name, result in zip(chosen, run(list(chosen.values()), Path(work) / "vm"), strict=True):
            print(name, result.pool_status, [outcome for outcome in result.outcomes if outcome != "ok"])
            image = result.metadata.save(Path(work) / name)
            files = {".img": image.read_bytes()}
            if name != "empty":
                files |= describe(image, held=name == "held")
            for suffix, content in files.items():
                (FOLDER / f"{name}{suffix}.xz").write_bytes(compressed(content))


if __name__ == "__main__":
    main()
