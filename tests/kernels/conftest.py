"""Fixtures of tests/sandbox.py."""

from tests.sandbox import box

__all__ = ["box"]
