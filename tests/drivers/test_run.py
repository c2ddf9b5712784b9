"""Mounts done, undone and lent: in sandboxes, by root and by the root of a user namespace, on either road of the kernel."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lamella.drivers import _calls
from lamella.drivers._run import attach, detach, is_mounted, mounted, mounts_below, overlays_upon
from lamella.errors import DriverUnavailable
from lamella.model import Mount

pytestmark = pytest.mark.requires("overlay")

HOSTILE = ["a:b", "c,d", "e\\f", "g h", "i\tj\nk", "l=m", "\\", ":", ",", "n::o", "\u00fc", "p\udcff"]
ROADS = ["descriptors", "no such call", "no such parameter"]
NO_CALL = 1 << 20


@pytest.fixture(params=["box", "user_box"])
def any_box(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@contextlib.contextmanager
def on(road: str) -> Iterator[None]:
    """Take away what an older kernel has not: the calls, by numbers that none has, or the name of a parameter."""
    call = _calls._call

    def unknown(number: int, *args: Any) -> int:
        return call(number, *(b"lowerdir-" if arg == b"lowerdir+" else arg for arg in args))

    with pytest.MonkeyPatch.context() as patch:
        if road == "no such call":
            for name in ("_FSOPEN", "_OPEN_TREE"):
                patch.setattr(_calls, name, NO_CALL)
        elif road == "no such parameter":
            patch.setattr(_calls, "_call", unknown)
        yield


def fails(number: int) -> Any:
    return pytest.raises(OSError, match=re.escape(os.strerror(number)))


def make(folder: Path, **files: str) -> str:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return str(folder)


def words(folder: Path, *options: str) -> tuple[str, ...]:
    own = () if can_trust(folder) else ("userxattr",)
    return (*options, *own)


def can_trust(folder: Path) -> bool:
    try:
        os.setxattr(folder, "trusted.t", b"1")
    except PermissionError:
        return False
    os.removexattr(folder, "trusted.t")
    return True


def overlay(folder: Path, *lowers: str, upper: bool = False, more: tuple[str, ...] = ()) -> Mount:
    folder.mkdir(parents=True, exist_ok=True)
    options = [f"lowerdir+={lower}" for lower in lowers]
    if upper:
        options += [f"upperdir={make(folder / 'upper')}", f"workdir={make(folder / 'work')}"]
    return Mount("overlay", "overlay", words(folder, *options, *more))


def state() -> tuple[int, list[str]]:
    return len(os.listdir("/proc/self/fd")), mounts_below(Path("/"))


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    before = state()
    yield
    assert state() == before


# -- overlays ---------------------------------------------------------------------------------------------------------


def layers(folder: Path, road: str) -> None:
    a, b, c = (make(folder / name, one=name, **{name: name}) for name in "abc")
    target = Path(make(folder / "target"))
    with nothing_left(), on(road):
        attach([overlay(folder, a, b, c, upper=True)], target)
        assert is_mounted(target)
        assert sorted(os.listdir(target)) == ["a", "b", "c", "one"]
        assert (target / "one").read_text() == "a"
        (target / "new").write_text("new")
        assert (folder / "upper" / "new").read_text() == "new"
        detach(target)
        assert os.listdir(target) == []
        attach([overlay(folder, a, b)], target)
        with fails(errno.EROFS):
            (target / "new").write_text("new")
        detach(target)


@pytest.mark.parametrize("road", ROADS)
def test_layers_show_the_nearest_first(any_box, road):
    any_box.call(layers, road)


def hostile(folder: Path, road: str) -> None:
    lowers = [make(folder / f"lower{name}" / name, **{f"f{k}": name.encode(errors="surrogateescape").hex()})
              for k, name in enumerate(HOSTILE)]  # fmt: skip
    for k, name in enumerate(HOSTILE):
        home = folder / f"home{name}"
        home.mkdir()
        target = Path(make(home / f"t{name}"))
        with nothing_left(), on(road):
            attach([overlay(home / name, *lowers, upper=True)], target)
            assert sorted(os.listdir(target)) == sorted(f"f{k}" for k in range(len(HOSTILE)))
            (target / f"f{k}").write_text("changed")
            assert mounts_below(home) == [str(target)]
            assert overlays_upon(home / name / "upper") == [str(target)]
            attach([Mount("bind", lowers[0])], target)
            assert overlays_upon(home / name / "upper") == []  # it is not to be seen
            detach(target)
        assert (home / name / "upper" / f"f{k}").read_text() == "changed"


@pytest.mark.parametrize("road", ROADS)
def test_names_mean_nothing(any_box, road):
    any_box.call(hostile, road)


def deep(folder: Path, road: str, n: int, padding: int) -> None:
    top = folder / ("p" * padding) / ("q" * padding) if padding else folder
    top.mkdir(parents=True, exist_ok=True)
    lowers = [make(top / str(k) / "fs", **{"all": str(k), f"of{k}": str(k)}) for k in range(n)]
    target, before = Path(make(folder / "target")), os.getcwd()
    with nothing_left(), on(road):
        attach([overlay(top / "own", *lowers, upper=True)], target)
        assert (target / "all").read_text() == "0"
        assert (target / f"of{n - 1}").read_text() == str(n - 1)
        assert len(os.listdir(target)) == n + 1
        (target / "new").write_text("new")
        detach(target)
    assert os.getcwd() == before


@pytest.mark.parametrize("road", ROADS)
def test_five_hundred_layers_are_mounted_and_read_to_the_bottom(any_box, road):
    any_box.call(deep, road, 500, 0)


@pytest.mark.parametrize("road", ROADS)
def test_paths_longer_than_a_value_may_be(box, road):
    box.call(deep, road, 20, 200)


def too_much(folder: Path) -> None:
    lowers = [make(folder / f"{k:0200}") for k in range(40)]
    target = make(folder / "target")
    with nothing_left(), on("no such call"), pytest.raises(OSError, match="do not fit into a page") as info:
        attach([overlay(folder, *lowers)], target)
    assert (info.value.errno, info.value.filename) == (errno.E2BIG, target)


def test_options_that_fit_no_page_are_an_error_on_the_old_road(box):
    box.call(too_much)


# -- errors -----------------------------------------------------------------------------------------------------------


def refused(folder: Path) -> list[tuple[int, str, Any]]:
    lower, other, target = make(folder / "lower"), make(folder / "other"), make(folder / "target")
    wrong = [
        Mount("overlay", "overlay", (f"lowerdir+={folder}/missing", f"lowerdir+={lower}")),
        Mount("overlay", "overlay", (f"lowerdir+={lower}", f"lowerdir+={other}", "nosuchoption=1")),
        Mount("nosuchfs", "none"),
        Mount("bind", str(folder / "missing")),
    ]
    found = []
    with nothing_left():
        for mount in wrong:
            with pytest.raises(OSError, match="^\\[Errno") as info:
                attach([Mount("bind", lower), mount], target)
            found.append((info.value.errno, info.value.strerror, info.value.filename == target))
            assert not is_mounted(target)
    return found


def test_an_error_says_what_the_kernel_does_and_leaves_nothing(box):
    missing, option, kind, bind = box.call(refused)
    assert missing[0] == errno.ENOENT
    assert option[0] == errno.EINVAL
    assert "Unknown parameter 'nosuchoption'" in option[1]
    assert option[1].startswith("mount overlay: Invalid argument: ")
    assert kind[0] == errno.ENODEV
    assert bind[:2] == (errno.ENOENT, "mount bind: No such file or directory")
    assert all(of_target for *_, of_target in (missing, option, kind, bind))


def unserved(folder: Path) -> None:
    target = make(folder / "target")
    with nothing_left(), pytest.raises(DriverUnavailable) as info:
        attach([Mount("bind", make(folder / "a")), Mount("fuse.other", "lamella")], target)
    assert info.value.reasons == ("nothing here serves mounts of type fuse.other",)


def test_what_nobody_serves_is_unavailable(box):
    box.call(unserved)


def powerless(folder: Path) -> list[int]:
    target, found = make(folder / "target"), []
    for mount in (Mount("bind", make(folder / "a")), overlay(folder, make(folder / "b"), make(folder / "c"))):
        for road in ROADS[:2]:
            with on(road), fails(errno.EPERM) as info:
                attach([mount], target)
            found.append(info.value.errno)
    return found


def test_an_ordinary_user_may_not(nobody_box):
    assert nobody_box.call(powerless) == [errno.EPERM] * 4


# -- binds ------------------------------------------------------------------------------------------------------------


def bound(folder: Path, road: str) -> None:
    source, target = Path(make(folder / "a:b,c", f="f")), Path(make(folder / "target"))
    for read_only in (False, True):
        with nothing_left(), on(road):
            attach([Mount("bind", str(source))], target, read_only=read_only)
            assert (target / "f").read_text() == "f"
            if read_only:
                with fails(errno.EROFS):
                    (target / "new").write_text("new")
            else:
                (target / "new").write_text("new")
            detach(target)
        assert ((source / "new").exists(), (target / "new").exists()) == (True, False)
    with on(road):
        attach([Mount("bind", str(source), ("ro",))], target)
        assert os.statvfs(target).f_flag & os.ST_RDONLY
        assert os.statvfs(target).f_flag & os.ST_NODEV == os.statvfs(source).f_flag & os.ST_NODEV
        detach(target)


@pytest.mark.parametrize("road", ROADS[:2])
def test_a_bind_is_read_only_where_asked(any_box, road):
    any_box.call(bound, road)


# -- undoing ----------------------------------------------------------------------------------------------------------


def busy(folder: Path) -> None:
    target = Path(make(folder / "target"))
    mounts = [Mount("bind", make(folder / "a", f="a")), Mount("bind", make(folder / "b", f="b"))]
    with nothing_left():
        detach(target)
        attach(mounts, target)
        with open(target / "f") as file:
            with fails(errno.EBUSY) as info:
                detach(target)
            assert info.value.filename == str(target)
            assert is_mounted(target)
            detach(target, lazy=True)
            assert not is_mounted(target)
            assert file.read() == "b"


def test_what_is_busy_stays_unless_it_is_to_go(any_box):
    any_box.call(busy)


def listed(folder: Path) -> tuple[list[str], list[str]]:
    source = make(folder / "source")
    names = ["a b", "a b/c\\d", "e\nf", "a b/c\\d/g#h"]
    with nothing_left():
        for name in names:
            (folder / "at" / name).mkdir(parents=True, exist_ok=True)
        for name in ("a b", "e\nf"):
            attach([Mount("bind", source)], folder / "at" / name)
        (folder / "at" / "a b" / "c\\d").mkdir()
        for _ in range(2):
            attach([Mount("bind", source)], folder / "at" / "a b" / "c\\d")
        found = [os.path.relpath(point, folder / "at") for point in mounts_below(folder / "at")]
        below = [os.path.relpath(point, folder / "at") for point in mounts_below(folder / "at" / "a b")]
        assert mounts_below(folder / "a") == []
        for point in mounts_below(folder):
            detach(point)
    return found, below


def test_mount_points_are_listed_from_the_deepest(box):
    found, below = box.call(listed)
    assert found[0] == "a b/c\\d"
    assert sorted(found) == ["a b", "a b/c\\d", "e\nf"]
    assert below == ["a b/c\\d"]


def lent(folder: Path) -> None:
    a, b, mnt = make(folder / "a", f="a"), make(folder / "b", g="b"), folder / "deep" / "mnt"
    with nothing_left():
        with mounted([Mount("bind", a, ("ro",))], mnt) as path:
            assert path == os.path.realpath(a)
        assert not mnt.exists()
        view = overlay(folder, a, b, upper=True)
        with mounted([view], mnt) as path:
            assert (path, Path(path).parent) == (os.path.realpath(path), mnt.resolve())
            assert sorted(os.listdir(path)) == ["f", "g"]
            Path(path, "new").write_text("new")
        assert os.listdir(mnt) == []
        with mounted([view], mnt, read_only=True) as path, fails(errno.EROFS):
            Path(path, "other").write_text("new")
        with pytest.raises(ZeroDivisionError), mounted([view], mnt) as path:
            raise ZeroDivisionError
        with fails(errno.ENODEV), mounted([Mount("nosuchfs", "none")], mnt):
            pass
        with contextlib.ExitStack() as stack:
            with fails(errno.EBUSY), mounted([view], mnt) as path:
                stack.enter_context(open(Path(path, "f")))
            assert os.listdir(mnt) == []
            assert mounts_below(mnt) == []


def test_a_mount_is_lent_and_gone_afterwards(any_box):
    any_box.call(lent)
