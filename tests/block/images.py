"""Metadata images for tests: the kernel's own (golden), and what thin_restore makes of generated mappings."""

from __future__ import annotations

import contextlib
import functools
import lzma
import subprocess
from pathlib import Path

from hypothesis import strategies as st

from tests.conftest import fresh
from tests.parts import program, requires

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "thin"
NAMES = ["devices", "shared", "held", "needs-check", "deep"]
NR_DATA = 3_000
Run = tuple[int, int, int, int]


folder = contextlib.contextmanager(fresh)  # a directory below ``home`` for one example


@functools.cache
def golden(name: str) -> bytes:
    """Return a golden image, or what a tool printed of it (``shared.xml``)."""
    return lzma.decompress((GOLDEN / f"{name}.xz").read_bytes())


def golden_image(name: str, folder: Path) -> Path:
    """Put a golden image into ``folder``."""
    path = folder / f"{name}.bin"
    path.write_bytes(golden(f"{name}.img"))
    return path


def tool(name: str, *argv: object) -> subprocess.CompletedProcess[bytes]:
    """Run one of thin-provisioning-tools."""
    requires(name)
    return subprocess.run([program(name) or name, *map(str, argv)], capture_output=True, check=False)


@st.composite
def devices(draw: st.DrawFn, most: int = 3) -> dict[int, list[Run]]:
    """Draw devices with runs of mappings (thin begin, data begin, length, time) that ascend and do not touch data's end.

    The second device begins as a copy of the first, so that much is the same in both.
    """
    found: dict[int, list[Run]] = {}
    ids = draw(st.lists(st.integers(0, 50) | st.integers(0, 2**24 - 1), unique=True, max_size=most).map(sorted))
    for dev_id in ids:
        runs: list[Run] = []
        at = 0
        for _ in range(draw(st.integers(0, 12))):
            at += draw(st.integers(0, 4) | st.integers(0, 2**40))
            length = draw(st.integers(1, 5) | st.integers(1, 400))
            runs.append((at, draw(st.integers(0, NR_DATA - length)), length, draw(st.integers(0, 3))))
            at += length
        copied = [run for run in next(iter(found.values()), []) if draw(st.integers(0, 9)) < 8]
        found[dev_id] = copied if found and draw(st.booleans()) else runs
    return found


def xml(found: dict[int, list[Run]]) -> str:
    """Spell devices for thin_restore."""
    lines = [f'<superblock uuid="" time="3" transaction="5" data_block_size="128" nr_data_blocks="{NR_DATA}">']
    for dev_id, runs in found.items():
        mapped = sum(run[2] for run in runs)
        lines.append(f'<device dev_id="{dev_id}" mapped_blocks="{mapped}" transaction="2" creation_time="1" snap_time="2">')
        for begin, data, length, time in runs:
            lines.append(f'<range_mapping origin_begin="{begin}" data_begin="{data}" length="{length}" time="{time}"/>')
        lines.append("</device>")
    return "\n".join([*lines, "</superblock>"])


def restored(found: dict[int, list[Run]], folder: Path, nblocks: int = 1024) -> Path:
    """Have thin_restore write devices to a new image."""
    path, text = folder / "restored.bin", folder / "restored.xml"
    text.write_text(xml(found))
    with path.open("wb") as file:
        file.truncate(nblocks * 4096)
    done = tool("thin_restore", "-q", "-i", text, "-o", path)
    assert done.returncode == 0, done.stderr
    return path
