"""Where the suites of our drivers run: in sandboxes, each a mount namespace of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest


class Boxed:
    """In the sandbox that the fixture ``where`` names."""

    where: ClassVar[str] = "box"

    @pytest.fixture
    def trial(self, request: pytest.FixtureRequest) -> Callable[..., Any]:
        return request.getfixturevalue(self.where).call
