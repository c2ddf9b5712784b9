"""What changed in an ext4, from the blocks that differ, beside a walk of both states."""

from __future__ import annotations

import pytest

from lamella.bench import file_deltas
from tests import parts

pytestmark = pytest.mark.slow


def test_file_delta(measured, tmpfs):
    parts.requires("root", "unshare", "mount", "loop", "mkfs.ext4")
    measured(file_deltas.file_delta(tmpfs, quick=True))
