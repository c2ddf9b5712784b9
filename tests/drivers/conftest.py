"""Fixtures of tests/sandbox.py."""

from tests.sandbox import box, btrfs_box, btrfs_nobody_box, btrfs_user_box, nobody_box, user_box

__all__ = ["box", "btrfs_box", "btrfs_nobody_box", "btrfs_user_box", "nobody_box", "user_box"]
