"""The sandbox holds: what is tried in it changes nothing outside, and is reported."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from lamella.testing.trees import File, Symlink
from tests.sandbox import NOBODY, SECRET, Died, Sandbox, in_moat


def write(folder: Path, path: str) -> str:
    try:
        Path(path).write_text("escaped")
    except OSError as error:
        return type(error).__name__ + f" {error.errno}"
    return "written"


def look(folder: Path) -> list[str]:
    (folder / "f").write_text("x")
    return sorted(os.listdir(folder))


def device(folder: Path) -> str:
    os.mknod(folder / "disk", 0o60600, os.makedev(7, 0))
    try:
        os.open(folder / "disk", os.O_RDONLY)
    except OSError as error:
        return os.strerror(error.errno)
    return "opened"


def die(folder: Path, how: str) -> None:
    if how == "kill":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif how == "hang":
        time.sleep(60)
    else:
        raise LookupError("as asked")


def test_the_machine_is_read_only(box, scratch):
    canary = scratch / "canary"
    canary.write_text("alive")
    assert box.call(write, str(canary)) == "OSError 30"
    assert box.call(write, "/etc/hostname") == "OSError 30"
    assert canary.read_text() == "alive"
    assert box.call(look) == ["f"]
    assert not list(box.where.iterdir())


@pytest.mark.requires("root")
def test_devices_cannot_be_opened(box):
    assert box.call(device) == "Permission denied"


@pytest.mark.requires("root")
def test_an_ordinary_user_is_one(nobody_box):
    assert nobody_box.call(os.stat).st_uid == NOBODY


def test_errors_and_ends_are_told(box):
    with pytest.raises(RuntimeError, match="as asked"):
        box.call(die, "raise")
    with pytest.raises(Died) as caught:
        box.call(die, "kill")
    assert caught.value.status == -signal.SIGSEGV
    with pytest.raises(Died) as caught:
        box.call(die, "hang", timeout=1)
    assert caught.value.status == -signal.SIGALRM
    assert box.call(look) == ["f"]


def escape(root: Path, how: str) -> str:
    near = root.parent
    if how == "write":
        (root / ".." / ".." / "new").write_text("x")
    elif how == "link":
        os.link(near / "passwd", root / "mine")
    elif how == "chmod":
        (near / "treasure").chmod(0o700)
    elif how == "copy":
        (root / "copy").write_bytes((near / "treasure" / "secret").read_bytes())
    elif how == "through":
        (root / "ln" / "f").write_text("x")
    elif how == "fail":
        raise FileNotFoundError(2, "gone")
    return how


@pytest.mark.parametrize(
    ("how", "differences"),
    [("none", 0), ("write", 2), ("link", 2), ("chmod", 1), ("copy", 0), ("through", 2), ("fail", 0)],
)
def test_the_moat_sees_it(box, how, differences):
    outcome = box.call(in_moat, (File("own", b"1"), Symlink("ln", "MOAT/treasure")), escape, how)
    assert len(outcome.escaped) == differences, outcome.escaped
    assert outcome.leaked == {"link": [b"mine"], "copy": [b"copy"]}.get(how, [])
    assert outcome.kind[:1] == (("FileNotFoundError",) if how == "fail" else ())
    assert outcome.result == (None if how == "fail" else how)
    assert outcome.tree[b"own"].size == 1
    assert SECRET not in outcome.trace.encode()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_no_descriptor_outlives_a_child(scratch):
    """Children that end, die at work or are found dead leave none of their pipes behind."""
    (scratch / "box").mkdir()
    before = open_files()
    box = Sandbox(scratch / "box")
    dead = []
    for _ in range(3):
        assert box.call(look) == ["f"]
        dead.append(box.child)  # held, so that the collector does not close what was forgotten
        box.child.kill()
        box.child.wait()
    with pytest.raises(Died):
        box.call(die, "kill")
    box.close()
    assert open_files() == before
    assert all(child.stdin.closed and child.stdout.closed for child in dead)
