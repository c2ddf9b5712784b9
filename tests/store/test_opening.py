"""A store that is opened for the first time, and what may go wrong before it has a driver."""

from __future__ import annotations

from typing import Any

import pytest

from tests.store import scenes


@pytest.mark.parametrize("driver", [pytest.param("overlay", marks=pytest.mark.requires("overlay"))])
def test_killed_while_it_tries_a_driver(box: Any, driver: str) -> None:
    found = box.call(scenes.killed_in_a_trial)
    assert found == {"died": True, "before": 1, "wrong": [], "mounted": [], "trial": False}
