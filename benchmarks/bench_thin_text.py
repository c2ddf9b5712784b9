"""Metadata of thin pools to text and back beside thin-provisioning-tools; maps as extents beside a copy of their columns."""

from __future__ import annotations

import pytest

from lamella.bench import thin_text
from tests import parts

pytestmark = pytest.mark.slow


def test_thin_text(measured, tmpfs):
    parts.requires("thin_dump", "thin_restore")
    measured(thin_text.thin_text(tmpfs, quick=True))


@pytest.mark.parametrize("number", [0, 1])
def test_extents(measured, tmpfs, number):
    measured(thin_text.extents(tmpfs, quick=True)[number])
