"""Sandboxes for the scenes."""

from tests.sandbox import box, user_box

__all__ = ["box", "user_box"]
