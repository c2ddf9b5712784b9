"""Metadata of thin pools beside thin-provisioning-tools."""

from __future__ import annotations

import pytest

from lamella.bench import thin
from tests import parts

pytestmark = pytest.mark.slow


def test_thin(measured, tmpfs):
    parts.requires("thin_restore", "thin_check", "thin_delta", "thin_ls")
    measured(thin.thin(tmpfs, quick=True))
