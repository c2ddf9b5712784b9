"""Installed drivers, ours and others', by the entry points of the group ``lamella.drivers``; and the choice among them.

An entry point's name is ``NAME.BACKEND``, its value the driver's class. A driver is loaded when it is asked for.
"""

from __future__ import annotations

import os
import tempfile
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from lamella.drivers.base import Driver
from lamella.errors import DriverUnavailable, UnknownDriver
from lamella.model import Choice, Probe

__all__ = ["PREFERENCE", "choose", "driver_class", "driver_features", "installed", "probe_drivers"]

GROUP = "lamella.drivers"
# what "auto" takes, the first that can work; a driver that is not named here has to be asked for by name
PREFERENCE = (("btrfs", "kernel"), ("overlay", "kernel"), ("overlay", "userspace"), ("vfs", "kernel"))


@cache
def installed() -> dict[tuple[str, str], EntryPoint]:
    """Return the entry point of each driver by name and backend, in this order."""
    found = {}
    for point in entry_points(group=GROUP):
        name, _, backend = point.name.partition(".")
        found[name, backend] = point
    return dict(sorted(found.items()))


def driver_class(name: str, backend: str) -> type[Driver]:
    """Load a driver's class. UnknownDriver names those that there are; DriverUnavailable for one that cannot be loaded."""
    point = installed().get((name, backend))
    if point is None:
        there = ", ".join("/".join(key) for key in installed())
        raise UnknownDriver(f"no driver {name}/{backend} is installed (there are: {there})")
    try:
        kind: type[Driver] = point.load()
    except Exception as error:
        reason = f"{point.value} cannot be loaded: {error}"
        raise DriverUnavailable(f"driver {name}/{backend}", (reason,)) from error
    return kind


def probe_drivers(root: str | os.PathLike[str] | None = None) -> list[Probe]:
    """Try every installed driver below ``root``, or in a temporary folder; in the order of their names. Raises nothing."""
    if root is not None:
        return [_probe(name, backend, root) for name, backend in installed()]
    with tempfile.TemporaryDirectory(prefix="lamella-probe-") as folder:
        return probe_drivers(folder)


def driver_features(name: str, backend: str, root: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Try the features of a driver that can work below ``root``, or in a temporary folder: see Driver.features(). OSError."""
    if root is not None:
        return driver_class(name, backend).features(root)
    with tempfile.TemporaryDirectory(prefix="lamella-probe-") as folder:
        return driver_features(name, backend, folder)


def _probe(name: str, backend: str, root: str | os.PathLike[str]) -> Probe:
    try:
        return driver_class(name, backend).probe(root)
    except DriverUnavailable as error:
        return Probe(name, backend, False, error.reasons)


def choose(root: Path, driver: str, backend: str) -> Choice:
    """Choose by name, or with "auto" the first of PREFERENCE that can work below ``root``; DriverUnavailable says why not.

    A backend "auto" is the kernel's where it can work.
    """
    reasons: list[str] = []
    for name, side in _candidates(driver, backend):
        refused = _probe(name, side, root).reasons
        if not refused and driver == "auto":
            refused = tuple(driver_class(name, side).mount_refusals())
        if not refused:
            return Choice(name, side, tuple(reasons))
        reasons.append(f"{name}/{side}: {'; '.join(refused)}")
    raise DriverUnavailable(f"no driver can work in {root}", tuple(reasons))


def _candidates(driver: str, backend: str) -> list[tuple[str, str]]:
    """Return the drivers to try, in order; UnknownDriver where one was named that is not there."""
    there = installed()
    wanted = PREFERENCE if driver == "auto" else [key for key in there if key[0] == driver]
    found = [key for key in wanted if key in there and backend in ("auto", key[1])]
    if driver != "auto" and not found:
        driver_class(driver, backend)  # says what there is
    return found
