"""Sandboxes for the scenes: on tmpfs, or on the file system that a driver needs."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sandbox import Sandbox, btrfs_box, btrfs_user_box, without_subvolumes
from tests.sandbox import box as plain_box
from tests.sandbox import user_box as plain_user_box

__all__ = ["btrfs_box", "btrfs_user_box", "plain_box", "plain_user_box"]


class OnBtrfs:
    """A sandbox that removes the subvolumes which a scene left."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox

    def call(self, scene: Any, *args: Any, **kwargs: Any) -> Any:
        return self.sandbox.call(without_subvolumes, scene, *args, **kwargs)


@pytest.fixture
def box(request: pytest.FixtureRequest, driver: str) -> Any:
    """Give the sandbox in which root stays root."""
    return _for(request, driver, "box")


@pytest.fixture
def user_box(request: pytest.FixtureRequest, driver: str) -> Any:
    """Give the one of a user namespace."""
    return _for(request, driver, "user_box")


def _for(request: pytest.FixtureRequest, driver: str, name: str) -> Any:
    if driver == "btrfs":
        return OnBtrfs(request.getfixturevalue(f"btrfs_{name}"))
    return request.getfixturevalue(f"plain_{name}")
