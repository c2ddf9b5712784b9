"""DriverSuite over overlay: by the kernel, as root and in a user namespace, and in user space, by calls and by FUSE."""

from __future__ import annotations

import pytest

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
    by_calls = True


class TestOverlayUnionInAUserNamespace(TestOverlayUnion):
    where = "user_box"
    privileged = False


class TestOverlayUnionOfAnOrdinaryUser(TestOverlayUnion):
    where = "nobody_box"
    privileged = False


@pytest.mark.requires("fuse")
class TestOverlayByFuse(TestOverlayUnion):
    by_calls = False
    max_examples = 15  # each look is a mount, and a mount starts a process


@pytest.mark.requires("fuse")
class TestOverlayByFuseInAUserNamespace(TestOverlayByFuse):
    where = "user_box"
    privileged = False
