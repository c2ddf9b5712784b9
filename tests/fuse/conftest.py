"""Fixtures of tests/sandbox.py."""

from tests.sandbox import box, nobody_box, user_box

__all__ = ["box", "nobody_box", "user_box"]
