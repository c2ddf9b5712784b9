"""Where the suites of our drivers run: in sandboxes, each a mount namespace of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from tests.sandbox import without_subvolumes


class Boxed:
    """In the sandbox that the fixture ``where`` names."""

    where: ClassVar[str] = "box"

    @pytest.fixture
    def trial(self, request: pytest.FixtureRequest) -> Callable[..., Any]:
        return request.getfixturevalue(self.where).call


class OnBtrfs(Boxed):
    """In a sandbox on btrfs, where no subvolume stays from one check to the next."""

    where = "btrfs_box"

    @pytest.fixture
    def trial(self, request: pytest.FixtureRequest) -> Callable[..., Any]:
        box = request.getfixturevalue(self.where)
        return lambda check, *args: box.call(without_subvolumes, check, *args)
