"""DriverSuite over btrfs: as root, in a user namespace, and as an ordinary user."""

from __future__ import annotations

import pytest

from lamella.drivers.btrfs import Btrfs
from lamella.testing.suite import DriverSuite
from tests.drivers.places import OnBtrfs

pytestmark = pytest.mark.requires("btrfs")


class TestBtrfs(OnBtrfs, DriverSuite):
    driver = Btrfs


class TestBtrfsInAUserNamespace(OnBtrfs, DriverSuite):
    driver = Btrfs
    where = "btrfs_user_box"
    privileged = False
    child_nbytes = None  # the search that tells what is shared is for root of the machine


class TestBtrfsOfAnOrdinaryUser(OnBtrfs, DriverSuite):
    driver = Btrfs
    where = "btrfs_nobody_box"
    privileged = False
    child_nbytes = None
