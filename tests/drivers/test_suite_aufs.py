"""DriverSuite over AUFS in user space, as root and as root of a user namespace; no kernel here has the other (test_aufs.py)."""

from __future__ import annotations

from pathlib import Path

from lamella.drivers.aufs import AufsUnion
from lamella.testing.suite import DriverSuite
from tests.drivers.places import Boxed


class Applied(DriverSuite):
    """A layer is applied with no union, so with no pseudo-links: a link to a lower file parts the name that it names."""

    driver = AufsUnion
    breaks_hard_links = True


class TestAufsUnion(Boxed, DriverSuite):
    driver = AufsUnion

    def joins(self, folder: Path) -> None:
        Applied().joins(folder)


class TestAufsUnionInAUserNamespace(TestAufsUnion):
    where = "user_box"
    privileged = False
