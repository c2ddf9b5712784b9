"""One boot a session, whichever worker comes first: the others read what it left."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from tests import parts
from tests.vm import cases, job


@pytest.fixture(scope="session")
def machine(home: Path, worker: str) -> dict[str, job.Result]:
    """Give what the machine did with each script of ``tests.vm.cases``."""
    parts.requires("vm", "thin_check", "thin_dump", "thin_restore")
    scripts = cases.scripts(home / "tmp" / f"vm-images-{worker}")
    folder = home / "tmp" / "vm"
    with (home / "tmp" / "vm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        chosen = list(scripts.values())
        results = job.results(chosen, folder) if folder.exists() else job.run(chosen, folder)
    return dict(zip(scripts, results, strict=True))
