"""Two images, block by block, beside memcmp and cmp."""

from __future__ import annotations

from lamella.bench import blocks
from tests import parts


def test_buffers(measured, tmpfs):
    measured(blocks.compare_buffers(tmpfs, quick=True))


def test_files(measured, tmpfs):
    parts.requires("cmp")
    measured(blocks.compare_files(tmpfs, quick=True))
