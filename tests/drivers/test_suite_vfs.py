"""DriverSuite over vfs, which is what all others are compared with; it is compared with cp(1)."""

from __future__ import annotations

from lamella.drivers.vfs import Vfs
from lamella.testing.suite import DriverSuite
from tests.drivers.copies import Copies
from tests.drivers.places import Boxed


class TestVfs(Boxed, DriverSuite):
    driver = Vfs
    reference = Copies
    child_nbytes = None
