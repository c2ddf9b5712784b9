"""block/files.py: what two states of an ext4 differ in, beside a walk of both."""

from __future__ import annotations

import os

import pytest

from tests.block import deltas

N_SCRIPTS = int(os.environ.get("LAMELLA_EXT4_SCRIPTS", "240"))  # random edit scripts, on all file systems together


@pytest.mark.parametrize("options", deltas.OPTIONS.values(), ids=list(deltas.OPTIONS))
def test_random_scripts(workshop, options):
    seed = list(deltas.OPTIONS.values()).index(options)
    n = -(-N_SCRIPTS // len(deltas.OPTIONS))
    assert workshop.call(deltas.campaign, options, seed, n, timeout=60 + 2 * n) > 0
