"""Somebody else's driver: installed by its entry point, found by name, and put through the suite by two lines."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import lamella
from lamella.drivers import registry
from lamella.errors import UnknownDriver
from lamella.testing.suite import DriverSuite
from tests.drivers.places import Boxed
from tests.drivers.tarballs import Tarballs


class TestTarballs(Boxed, DriverSuite):
    driver = Tarballs
    keeps_sockets = False
    child_nbytes = None


@pytest.fixture
def installed(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the driver as pip would install it."""
    info = scratch / "lamella_tarballs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lamella-tarballs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[lamella.drivers]\ntarballs.kernel = tests.drivers.tarballs:Tarballs\n")
    monkeypatch.syspath_prepend(str(scratch))
    registry.installed.cache_clear()
    yield
    registry.installed.cache_clear()


def test_an_installed_driver_is_found(installed, scratch):
    assert ("tarballs", "kernel") in registry.installed()
    assert registry.driver_class("tarballs", "kernel") is Tarballs
    root = scratch / "root"
    root.mkdir()
    assert ("tarballs", "kernel", True) in [(p.name, p.backend, p.available) for p in lamella.probe_drivers(root)]
    choice = registry.choose(root, "tarballs", "auto")
    assert (choice.driver, choice.backend) == ("tarballs", "kernel")
    assert registry.choose(root, "auto", "auto").driver != "tarballs"


def test_one_that_is_not_installed_is_not(scratch):
    registry.installed.cache_clear()
    with pytest.raises(UnknownDriver, match=r"tarballs/kernel .*vfs/kernel"):
        registry.driver_class("tarballs", "kernel")


def test_a_store_keeps_its_snapshots_with_it(installed, scratch):
    with lamella.Store(scratch / "store", driver="tarballs") as store:
        assert (store.choice.driver, store.choice.backend) == ("tarballs", "kernel")


def test_the_page_shows_it_whole():
    page = (Path(__file__).parents[2] / "docs" / "drivers.md").read_text()
    assert inspect.getsource(Tarballs) in page
    assert len(Path(inspect.getsourcefile(Tarballs)).read_text().splitlines()) <= 60
