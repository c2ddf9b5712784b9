"""What snapshots cost, by driver, and unions as mounts beside the kernel's overlay."""

from __future__ import annotations

import pytest

from lamella.bench import driver_costs, snapshots
from lamella.bench.ground import Ext4
from tests import parts

pytestmark = pytest.mark.slow
ALONE = ("root", "unshare", "mount", "overlay", "loop")


def test_snapshot_diff(measured, btrfs):
    parts.requires(*ALONE)
    measured(snapshots.snapshot_diff(btrfs, quick=True))


def test_union_find(measured, tmpfs):
    parts.requires(*ALONE, "fuse")
    measured(snapshots.union_find(tmpfs, quick=True))


def test_union_read(measured, tmpfs):
    parts.requires(*ALONE, "fuse")
    measured(snapshots.union_read(tmpfs, quick=True))


def test_drivers(measured, home):
    parts.requires(*ALONE, "fuse", "mkfs.ext4")
    measured(driver_costs.driver_costs(Ext4(home, 256 << 20, 20_000), quick=True))


def test_drivers_on_btrfs(measured, btrfs):
    parts.requires(*ALONE)
    measured(driver_costs.driver_costs(btrfs, quick=True))
