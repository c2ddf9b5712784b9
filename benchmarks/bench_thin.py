"""Metadata of thin pools beside thin-provisioning-tools; maps as extents beside the copying of their columns."""

from __future__ import annotations

import pytest

from lamella.bench import thin
from tests import parts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def part(home):
    """Give images of a tenth of the size."""
    parts.requires("thin_check", "thin_delta", "thin_dump", "thin_restore")
    made = thin.Thin(quick=True)
    (home / "thin").mkdir()
    made.make(home / "thin", None)
    return {panel.key: panel for panel in made.panels(home / "thin")}


@pytest.mark.parametrize("shape", thin.SHAPES)
@pytest.mark.parametrize("task", ["check", "delta", "dump", "restore"])
def test_thin(measured, part, task, shape):
    measured(part[f"thin {task} {shape}"])


@pytest.mark.parametrize("number", [0, 1])
def test_extents(measured, tmpfs, number):
    measured(thin.extents(tmpfs, quick=True)[number])
