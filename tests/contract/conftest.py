"""Fixtures of tests/sandbox.py; assertions of the workbench that say what differs."""

import pytest

pytest.register_assert_rewrite("tests.contract.workbench")

from tests.sandbox import box, nobody_box  # noqa: E402

__all__ = ["box", "nobody_box"]
