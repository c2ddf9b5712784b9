"""DriverSuite over AUFS in user space, by its calls and by FUSE; no kernel here has the other (test_aufs.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamella.drivers.aufs import AufsUnion
from lamella.testing.suite import DriverSuite
from tests.drivers.places import Boxed


class Applied(DriverSuite):
    """A layer is applied with no union, so with no pseudo-links: a link to a lower file parts the name that it names."""

    driver = AufsUnion
    breaks_hard_links = True


class TestAufsUnion(Boxed, DriverSuite):
    driver = AufsUnion
    by_calls = True

    def joins(self, folder: Path) -> None:
        Applied().joins(folder)


class TestAufsUnionInAUserNamespace(TestAufsUnion):
    where = "user_box"
    privileged = False


@pytest.mark.requires("fuse")
class TestAufsByFuse(TestAufsUnion):
    by_calls = False
    max_examples = 15  # each look is a mount, and a mount starts a process
