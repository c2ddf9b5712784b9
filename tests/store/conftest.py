"""Sandboxes for the scenes."""

from tests.sandbox import box, btrfs_box, btrfs_user_box, user_box

__all__ = ["box", "btrfs_box", "btrfs_user_box", "user_box"]
