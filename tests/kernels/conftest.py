"""The sandbox of tests/sandbox.py, and who helps the placing kernel."""

import pytest

from tests.kernels import placing
from tests.sandbox import box

__all__ = ["box"]


@pytest.fixture(params=[0, 2], ids=["alone", "served"])
def servers(request, monkeypatch):
    """How many threads help the placing one; modules about place use it for every test."""
    monkeypatch.setattr(placing, "SERVERS", request.param)
    return request.param
