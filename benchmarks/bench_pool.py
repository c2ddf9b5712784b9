"""The map of a thin pool: blocks looked up, mapped, given blocks of their own after a snapshot."""

from __future__ import annotations

import pytest

from lamella.bench import pool

pytestmark = pytest.mark.slow


def test_pool(measured, tmpfs):
    measured(pool.pool_map(tmpfs, quick=True))
