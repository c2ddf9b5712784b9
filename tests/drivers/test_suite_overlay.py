"""DriverSuite over overlay: by the kernel, as root and in a user namespace, and in user space."""

from __future__ import annotations

from lamella.drivers.overlay import Overlay, OverlayUnion
from lamella.testing.suite import DriverSuite
from tests.drivers.places import Boxed


class TestOverlay(Boxed, DriverSuite):
    driver = Overlay
    breaks_hard_links = True


class TestOverlayInAUserNamespace(Boxed, DriverSuite):
    driver = Overlay
    breaks_hard_links = True
    where = "user_box"
    privileged = False


class TestOverlayUnion(Boxed, DriverSuite):
    driver = OverlayUnion
    breaks_hard_links = True
