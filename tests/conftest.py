"""One home for a test session, on tmpfs, which is gone afterwards; parts a test requires; Hypothesis profiles.

Everything that the suite writes (``scratch``, ``ext4``, ``tmp_path``, TMPDIR of child processes) lies below one folder,
so what is left behind at the end (a mount, a loop device, a file in shared memory) is seen and is a failure.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests import parts

SLOW_DATA = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("quick", max_examples=25, deadline=None, suppress_health_check=SLOW_DATA)
hypothesis.settings.register_profile(
    "ci", max_examples=100, deadline=None, suppress_health_check=SLOW_DATA, derandomize=True, print_blob=True
)
hypothesis.settings.register_profile(
    "fuzz", max_examples=3_000, deadline=None, suppress_health_check=SLOW_DATA, print_blob=True
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

HOME_PREFIX = "lamella-test-"
HOME_VARIABLE = "LAMELLA_TEST_HOME"  # how xdist's workers learn it
HOME = pytest.StashKey[Path]()
LOCK = pytest.StashKey[int]()
BEFORE = pytest.StashKey[set[str]]()
LEFT = pytest.StashKey[list[str]]()
COUNTER = itertools.count()


def is_worker(config: pytest.Config) -> bool:
    """Tell a worker of xdist from the process that was started by hand."""
    return hasattr(config, "workerinput")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Make the session's home, or find it in a worker, before pytest chooses its own temporary folder."""
    if is_worker(config):
        config.stash[HOME] = Path(os.environ[HOME_VARIABLE])
        return
    if os.environ.get("LAMELLA_TRACE") == "1" and config.pluginmanager.hasplugin("xdist"):
        from xdist.workermanage import NodeManager

        NodeManager.EXIT_TIMEOUT = 300  # gcc's counts are written at a worker's very end, which may take long
    sweep()
    config.stash[BEFORE] = machine_state()
    home = Path(tempfile.mkdtemp(prefix=HOME_PREFIX, dir=parts.TMPFS))
    config.stash[HOME] = home
    config.stash[LOCK] = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(config.stash[LOCK], fcntl.LOCK_EX)
    home.chmod(0o711)  # a test that became an ordinary user finds its way to its scratch
    (home / "tmp").mkdir()
    os.environ[HOME_VARIABLE] = str(home)
    os.environ["TMPDIR"] = str(home / "tmp")
    tempfile.tempdir = None
    if config.option.basetemp is None:
        config.option.basetemp = home / "pytest"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Look for what the tests left, take it away, and fail the session for it."""
    config = session.config
    if is_worker(config) or HOME not in config.stash:
        return
    home = config.stash[HOME]
    left = [f"folder: {path}" for path in sorted(home.iterdir()) if path.name not in {"lock", "tmp", "pytest"}]
    left += remove(home)
    os.close(config.stash[LOCK])
    if os.environ.get("CI") == "true":  # elsewhere another program may mount and write at the same time
        left += [f"new on this machine: {what}" for what in sorted(machine_state() - config.stash[BEFORE])]
    config.stash[LEFT] = left
    if left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Name what was left behind."""
    for line in config.stash.get(LEFT, []):
        terminalreporter.write_line(f"LEFT BEHIND by the tests: {line}", red=True)


def machine_state() -> set[str]:
    """Return the machine's mount points, loop devices and names in shared memory."""
    state = {f"mount {point}" for point in parts.mounts_below(Path("/"))}
    state |= {f"loop {device}" for device in parts.loops_of(Path("/"))}
    return state | {f"shared memory {path}" for path in parts.TMPFS.iterdir()}


def sweep() -> None:
    """Remove the homes of sessions that were killed: nobody holds their lock."""
    for home in parts.TMPFS.glob(f"{HOME_PREFIX}*"):
        with contextlib.suppress(OSError):
            lock = os.open(home / "lock", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(home)
            finally:
                os.close(lock)


def remove(folder: Path) -> list[str]:
    """Remove a tree whatever is in it: mounts, closed directories, paths deeper than a recursion can follow.

    Returns what had to be unmounted and detached first.
    """
    points, devices = parts.mounts_below(folder), parts.loops_of(folder)
    for point in points:
        parts.run("umount", "-l", point)
    for device in devices:
        parts.run("losetup", "-d", device)
    argv = ["rm", "-rf", "--one-file-system", str(folder)]
    if subprocess.run(argv, stderr=subprocess.DEVNULL, check=False).returncode != 0:
        subprocess.run(["chmod", "-R", "u+rwx", str(folder)], check=False)
        subprocess.run(argv, check=True)
    return [f"mounted: {point}" for point in points] + [f"loop device: {device}" for device in devices]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Honour ``@pytest.mark.requires(...)``."""
    for mark in item.iter_markers("requires"):
        parts.requires(*mark.args)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Any:
    """Turn a skip into a failure where every part was promised."""
    return no_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Any:
    """Turn a whole module's skip into a failure where every part was promised."""
    return no_skip((yield))


def no_skip(report: Any) -> Any:
    """Fail a skipped report under LAMELLA_REQUIRE_ALL=1; an expected failure stays what it is."""
    if parts.REQUIRE_ALL and report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{reason} (LAMELLA_REQUIRE_ALL=1: a skip is a failure)"
    return report


@pytest.fixture
def requires() -> Callable[..., None]:
    """Give ``requires(*parts)``: skip this test unless all of them are there."""
    return parts.requires


@pytest.fixture(scope="session")
def home(pytestconfig: pytest.Config) -> Path:
    """Give the session's folder on tmpfs (shared by xdist's workers: make names unique)."""
    return pytestconfig.stash[HOME]


@pytest.fixture
def scratch(home: Path) -> Iterator[Path]:
    """Give a fresh directory on tmpfs; it is removed whatever the test left in it."""
    yield from fresh(home)


@pytest.fixture(scope="session")
def ext4(home: Path, worker: str) -> Iterator[Path]:
    """Give the root of a fresh loop ext4 of 512 MiB; it holds ``lost+found``, which an ``ext4_scratch`` does not."""
    parts.requires("loop", "mkfs.ext4")
    with contextlib.ExitStack() as undo:
        where = home / f"ext4-{worker}"
        reason = parts.mount_ext4(where.with_suffix(".img"), where, 512 << 20, undo)
        assert reason is None, reason
        yield where


@pytest.fixture
def ext4_scratch(ext4: Path) -> Iterator[Path]:
    """Give a fresh directory on ext4; it is removed whatever the test left in it."""
    yield from fresh(ext4)


@pytest.fixture(scope="session")
def worker(pytestconfig: pytest.Config) -> str:
    """Give this process's name among xdist's workers, ``main`` without them."""
    return pytestconfig.workerinput["workerid"] if is_worker(pytestconfig) else "main"


def fresh(below: Path) -> Iterator[Path]:
    """Lend a new directory below ``below``."""
    folder = below / f"scratch-{os.getpid()}-{next(COUNTER)}"
    folder.mkdir()
    left: list[str] = []
    try:
        yield folder
    finally:
        left += remove(folder)
    assert not left, f"left behind by the test: {left}"
