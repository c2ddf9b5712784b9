"""The driver btrfs: what the kernel makes, what a diff finds and looks at, limits, and what an ordinary user has."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import stat
import struct
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lamella.drivers import _btrfs_calls as calls
from lamella.drivers._run import mounted
from lamella.drivers.base import Driver, Place
from lamella.drivers.btrfs import Btrfs
from lamella.errors import DriverUnavailable
from lamella.model import Mount, SnapshotKind, Usage
from lamella.testing.listing import compare, listing
from lamella.testing.tars import directory, file, layer_tar
from lamella.testing.trees import (
    Append,
    Chmod,
    Device,
    Dir,
    File,
    Hardlink,
    Hole,
    Remove,
    Rename,
    Script,
    Socket,
    Symlink,
    Utime,
    Write,
    Xattr,
    build,
)
from lamella.tree.room import room_of
from tests import parts
from tests.sandbox import on_btrfs, without_subvolumes

pytestmark = pytest.mark.requires("btrfs")

ACTIVE, COMMITTED, VIEW = SnapshotKind.ACTIVE, SnapshotKind.COMMITTED, SnapshotKind.VIEW
MIB = 1 << 20
LONG = "n" * 200
BASE = Script((
    Dir("a", mode=0o750), File("a/one", b"1" * 700, mtime_ns=1_000_000_000), File("a/two", b"2", xattrs={"user.k": b"v"}),
    Dir("a/deep"), Dir("a/deep/er"), File("a/deep/er/f", b"deep"), Dir("b"), File("b/x", b"x"), Hardlink("a/x", "b/x"),
    Hardlink("c", "b/x"), Dir("d"), *(File(f"d/{i:03}", b"%d" % i) for i in range(200)), File("top", b"top"), Symlink("ln", "top"),
    Dir("many"), File("many/0", b"0"), *(Hardlink(f"many/{LONG}{i}", "many/0") for i in range(40)), Hardlink("b/0", "many/0"),
    Dir("f"), File("f/1", b"1"), File("f/2", b"2"), Hardlink("f/3", "f/2"),
))  # fmt: skip
SCENES: dict[str, tuple[Any, ...]] = {
    "nothing": (),
    "one of many goes": (Remove("d/100"),),
    "all in a directory go": tuple(Remove(f"d/{i:03}") for i in range(200)),
    "all but one go": tuple(Remove(f"d/{i:03}") for i in range(199)),
    "a directory goes": (Remove("d"),),
    "a directory is renamed": (Rename("a", "z"),),
    "a directory is renamed, and what is in it changed": (Rename("a", "z"), Write("z/deep/er/f", b"other"), Chmod("z/deep", 0o700)),
    "a directory is moved into another": (Rename("a/deep", "b/deep"),),
    "a directory is moved over another": (Rename("b", "f"),),
    "a directory moves there and back": (Rename("a", "z"), Rename("z", "a")),
    "directories are exchanged": (Rename("a", "t"), Rename("f", "a"), Rename("t", "f")),
    "a directory is made again, with an old one in it": (Dir("n"), Rename("a/deep", "n/deep"), Remove("a"), Rename("n", "a")),
    "a directory for a file": (Remove("top"), Dir("top"), File("top/f", b"f")),
    "a renamed directory for a file": (Rename("f", "top"),),
    "a file for a directory": (Remove("d"), File("d", b"d")),
    "a renamed file for a directory": (Rename("top", "d"),),
    "a symlink for a directory": (Rename("ln", "d"),),
    "content of one size and time": (Write("a/one", b"2" * 700, mtime_ns=1_000_000_000),),
    "another file of one size and time": (Remove("a/one"), File("a/one", b"2" * 700, mtime_ns=1_000_000_000)),
    "the same file, made again": (Remove("a/one"), File("a/one", b"1" * 700, mtime_ns=1_000_000_000)),
    "content": (Append("top", b"++"), Hole("a/two", 100, 200_000)),
    "an attribute": (Xattr("a/one", "user.n", b"1"), Xattr("a/two", "user.k", None), Xattr("a", "user.d", b"1")),
    "a mode": (Chmod("a/two", 0o600), Chmod("b", 0o700)),
    "times": (Utime("top", 5), Utime("a", 6), Utime("ln", 7), Utime("", 8)),
    "the root": (Chmod("", 0o711),),
    "one name of a file goes": (Remove("a/x"),),
    "a name more, elsewhere": (Hardlink("d/x", "b/x"),),
    "a file of one name gets another": (Hardlink("a/uno", "f/1"),),
    "one name is another file": (Remove("c"), File("c", b"x")),
    "a name moves with its directory": (Rename("b", "z"),),
    "names part": (Remove("a/x"), Remove("c"), File("a/x", b"x"), Hardlink("c", "a/x")),
    "names in a directory that goes": (Remove("f"), Remove("a")),
    "very many names": (Hardlink("a/0", "many/0"), Remove(f"many/{LONG}7")),
    "very many names move": (Rename("many", "more"),),
    "a chain of new directories": (Dir("p"), Dir("p/q"), File("p/q/r", b"r"), Rename("p/q", "s"), File("s/t", b"t")),
    "devices": (Device("null"), Device("white", 0, 0), Device("d/000", 0, 0)),
    "sockets": (Socket("sock"), Socket("d/000"), Dir("n"), Socket("n/sock")),
    "overlay's own": (Xattr("a", "trusted.overlay.opaque", b"y"), Xattr("b", "user.overlay.opaque", b"y"), File("d/.wh..x")),
}  # fmt: skip
HOWS: dict[str, dict[str, Any]] = {
    "plain": {}, "all contents": {"content": "always"}, "no content": {"content": "never"}, "no attributes": {"xattrs": "none"},
    "directories' times": {"dir_mtime": True},
}  # fmt: skip


def in_box(box: Any, scene: Any, *args: Any, **kwargs: Any) -> Any:
    return box.call(without_subvolumes, scene, *args, **kwargs)


@pytest.fixture(params=["btrfs_box", "btrfs_user_box", "btrfs_nobody_box"])
def any_box(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def driver(folder: Path, **options: str) -> Btrfs:
    root = folder / "root"
    root.mkdir(exist_ok=True)
    return Btrfs(root, options, mount_points=folder / "mnt")


def place(id_: int, *parents: int, kind: SnapshotKind = ACTIVE) -> Place:
    return Place(id_, parents, kind)


def based(of: Btrfs, script: Script = BASE) -> Place:
    """Make snapshot 1 and one upon it, which is active."""
    of.create(place(1))
    script.apply(of.root / "1")
    of.commit(place(1))
    of.create(place(2, 1))
    return place(2, 1)


def facts(found: Any) -> list[tuple[str, bytes, int, Any, Any]]:
    def entry(of: Any) -> Any:
        return None if of is None else (of.path, of.type, of.mode, of.size, of.mtime_ns, of.link_target, of.xattrs)

    return [(c.kind.value, c.path, c.why.value, entry(c.before), entry(c.after)) for c in found]


def layer(found: Any, **how: Any) -> bytes:
    out = io.BytesIO()
    found.write(out, compression="none", **how)
    return out.getvalue()


def is_subvolume(path: Path) -> bool:
    return path.stat().st_ino == calls.ROOT


# -- what is made -----------------------------------------------------------------------------------------------------


def made(folder: Path) -> None:
    of = driver(folder)
    where = based(of)
    of.create(place(3, 1, kind=VIEW))
    of.create(place(4, kind=VIEW))
    assert sorted(os.listdir(of.root)) == ["1", "2", "3", "4"]
    assert all(is_subvolume(path) for path in of.root.iterdir())
    for path in ("1", "3", "4"):
        with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
            (of.root / path / "new").mkdir()  # whoever it is, and wherever it is mounted
    (of.root / "2" / "new").mkdir()
    for _ in range(2):
        of.commit(where)
        with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
            (of.root / "2" / "newer").mkdir()
    assert of.mounts(where) == (Mount("bind", str(of.root / "2")),)
    for kind in (VIEW, COMMITTED):
        assert of.mounts(place(3, 1, kind=kind)) == (Mount("bind", str(of.root / "3"), ("ro",)),)
    for id_ in (4, 3, 2, 1):
        of.remove(id_)
    assert os.listdir(of.root) == []


def test_a_snapshot_is_a_subvolume_and_read_only_unless_it_is_active(any_box):
    in_box(any_box, made)


def applied(folder: Path) -> None:
    of = driver(folder)
    of.create(place(1))
    rootless = os.geteuid() != 0
    of.apply(place(1), layer_tar([directory("d"), file("d/f", b"f")]), rootless=rootless)
    assert is_subvolume(of.root / "1")  # it was not put in its place by a rename
    assert os.listdir(of.root) == ["1"]
    of.commit(place(1))
    of.create(place(2, 1))
    of.apply(place(2, 1), layer_tar([file("d/g", b"g"), file("d/.wh.f")]), rootless=rootless)
    assert sorted(listing(of.root / "2")) == [b"", b"d", b"d/g"]


def test_a_layer_is_applied_in_place(any_box):
    in_box(any_box, applied)


def removed(folder: Path, first: int) -> None:
    """Remove what has subvolumes in it, one of them closed, and snapshots of snapshots; and things of other kinds."""
    of = driver(folder)
    based(of, Script((Dir("a"), File("a/f"), Dir("shut", mode=0))))
    for parent, name in (("", "one"), ("a", "two"), ("a/two", "three"), ("one", "four")):
        with open_dir(of.root / "2" / parent) as fd:
            calls.create(fd, name)
    build(of.root / "2" / "a" / "two" / "three", Dir("d"), File("d/f", b"f"))
    for i in range(first):
        with open_dir(of.root / "2" / "one") as fd:
            calls.create(fd, f"s{i}")
    with open_dir(of.root / "2" / "one" / "four") as fd:
        calls.set_read_only(fd, True)
    of.commit(place(2, 1))
    (of.root / "3").mkdir()
    build(of.root / "3", Dir("d"), File("d/f"))
    (of.root / "4").write_bytes(b"")
    (of.root / "5").symlink_to("1")
    for id_ in (2, 2, 3, 4, 5, 77):
        of.remove(id_)
    assert os.listdir(of.root) == ["1"]
    assert sorted(os.listdir(of.root / "1")) == ["a", "shut"]


@contextlib.contextmanager
def open_dir(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.mark.parametrize("n", [3, 300])  # more than the kernel tells of at a time
def test_a_removal_takes_the_subvolumes_in_it_too(any_box, n):
    in_box(any_box, removed, n)


def probed(folder: Path) -> tuple[tuple[str, ...], list[str], tuple[str, ...]]:
    (folder / "root").mkdir()
    (folder / "closed").mkdir(mode=0o500)
    return Btrfs.probe(folder / "root").reasons, os.listdir(folder / "root"), Btrfs.probe(folder / "closed").reasons


def test_a_probe_makes_and_removes_a_subvolume(any_box):
    good, left, closed = in_box(any_box, probed)
    assert (good, left) == ((), [])
    assert closed == () or closed[0].endswith("closed: Permission denied")


def test_elsewhere_it_says_what_is_there(scratch):
    (reason,) = Btrfs.probe(scratch).reasons
    assert reason == f"{scratch} is on tmpfs, not on btrfs"
    assert os.listdir(scratch) == []


# -- what a diff finds ------------------------------------------------------------------------------------------------


def told(folder: Path, edits: tuple[Any, ...]) -> dict[str, list[str]]:
    """Compare what the driver says of edits with a look at both trees: active and committed, and each way of looking."""
    of = driver(folder)
    where = based(of)
    Script(edits).apply(of.root / "2")
    wrong = {}
    with of.changes(where) as found:  # nothing is on disk yet
        first = facts(found)
    of.commit(where)
    where = place(2, 1, kind=COMMITTED)
    for name, how in HOWS.items():
        with of.changes(where, **how) as found, Driver.changes(of, where, **how) as walked:
            assert (found.road, found.reasons, walked.road) == ("search", (), "walk")
            assert set(found.warnings) == set(walked.warnings)
            if facts(found) != facts(walked):
                wrong[name] = [f"{facts(found)} != {facts(walked)}"]
            if name == "plain" and facts(walked) != first:
                wrong["active"] = [f"{first} != {facts(walked)}"]
            for whiteouts in ("explicit", "opaque"):
                try:
                    same = layer(found, whiteouts=whiteouts) == layer(walked, whiteouts=whiteouts)
                except ValueError:  # a name that a layer cannot hold
                    with pytest.raises(ValueError, match="cannot hold"):
                        layer(walked, whiteouts=whiteouts)
                    continue
                if not same:
                    wrong[f"{name}, {whiteouts}"] = ["the bytes differ"]
    return wrong


@pytest.mark.parametrize("name", SCENES)
def test_what_was_touched_tells_what_a_look_at_all_tells(btrfs_box, name):
    assert in_box(btrfs_box, told, SCENES[name]) == {}


def beside_sockets(folder: Path) -> list[str]:
    """Remove a file that has sockets beside it, and nothing or one file more: what the layers with markers hold."""
    of = driver(folder)
    sockets = tuple(Socket(f"{where}/{i}") for where in ("s", "t") for i in range(9))
    based(of, Script((Dir("s"), Dir("t"), *sockets, File("s/x", b"x"), File("s/y", b"y"), File("t/x", b"x"), File("z"))))
    Script((Remove("s/x"), Remove("t/x"), Remove("z"))).apply(of.root / "2")
    of.commit(place(2, 1))
    where = place(2, 1, kind=COMMITTED)
    with of.changes(where) as found, Driver.changes(of, where) as walked:
        assert (found.road, walked.road) == ("search", "walk")
        assert layer(found, whiteouts="opaque") == layer(walked, whiteouts="opaque")
        return [os.fsdecode(path) for path in found.table("opaque").paths]


def test_019_a_socket_is_nothing_that_a_layer_keeps(btrfs_box):
    assert in_box(btrfs_box, beside_sockets) == [".wh.z", "s", "s/.wh.x", "t", "t/.wh..wh..opq"]


def chained(folder: Path) -> None:
    """Take the changes of each of a chain, of a snapshot that has children, and of a view."""
    of = driver(folder)
    based(of)
    Script((Rename("a", "z"), Remove("d/100"))).apply(of.root / "2")
    of.commit(place(2, 1))
    of.create(place(3, 2, 1))
    Script((Rename("z", "a"), Chmod("top", 0o600))).apply(of.root / "3")
    of.create(place(4, 2, 1, kind=VIEW))
    for where in (place(2, 1, kind=COMMITTED), place(3, 2, 1)):
        with of.changes(where) as found, Driver.changes(of, where) as walked:
            assert found.road == "search"
            assert (facts(found), layer(found)) == (facts(walked), layer(walked))
    with of.changes(place(4, 2, 1, kind=VIEW)) as found:
        assert len(found) == 0


def test_a_chain_is_told_link_by_link(btrfs_box):
    in_box(btrfs_box, chained)


def deep(folder: Path) -> None:
    """Change what is deeper than a path can be long."""
    of = driver(folder)
    of.create(place(1))
    fds = [os.open(of.root / "1", os.O_RDONLY)]
    for _ in range(40):
        os.mkdir(LONG, dir_fd=fds[-1])
        fds.append(os.open(LONG, os.O_RDONLY, dir_fd=fds[-1]))
        os.close(fds[-2])
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fds[-1]))
    os.close(fds[-1])
    of.commit(place(1))
    of.create(place(2, 1))
    fd = os.open(of.root / "2", os.O_RDONLY)
    for _ in range(40):
        deeper = os.open(LONG, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.chmod("file", 0o600, dir_fd=fd)
    os.close(os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    with of.changes(place(2, 1)) as found, Driver.changes(of, place(2, 1)) as walked:
        assert found.road == "search"
        assert len(found) == 2
        assert facts(found) == facts(walked)


def test_what_is_deeper_than_a_path_is_found(btrfs_box):
    in_box(btrfs_box, deep)


def thousands(folder: Path) -> None:
    """Change very many files, of which some are linked."""
    of = driver(folder)
    edits = [Dir(f"d{i}") for i in range(20)] + [File(f"d{i % 20}/f{i}", b"%d" % i) for i in range(3000)]
    where = based(of, Script((*edits, *(Hardlink(f"d0/l{i}", f"d{i % 20}/f{i}") for i in range(0, 3000, 10)))))
    for i in range(0, 3000, 2):
        path = of.root / "2" / f"d{i % 20}" / f"f{i}"
        path.write_bytes(b"other")
        if i % 3 == 0:
            path.unlink()
    Rename("d3", "e3").apply(of.root / "2")
    with of.changes(where) as found, Driver.changes(of, where) as walked:
        assert found.road == "search"
        assert len(found) > 1500
        assert (facts(found), layer(found)) == (facts(walked), layer(walked))


def test_thousands_of_changes(btrfs_box):
    in_box(btrfs_box, thousands)


def most(folder: Path, n: int) -> tuple[str, tuple[str, ...], int]:
    """Change ``n`` of 5000 files."""
    of = driver(folder)
    where = based(of, Script(tuple(File(f"f{i}") for i in range(5000))))
    for i in range(n):
        os.chmod(of.root / "2" / f"f{i}", 0o600)
    road, reasons, paths = walked(of, where)
    return road, reasons, len(paths)


def test_where_very_much_was_touched_both_trees_are_walked_and_it_is_said(btrfs_box):
    assert in_box(btrfs_box, most, 1000) == ("search", (), 1000)
    assert in_box(btrfs_box, most, 2500) == ("walk", ("so much was touched that to walk is faster",), 2500)


def only_read(folder: Path) -> tuple[int, int]:
    """Have access times written, and nothing else."""
    of = driver(folder)
    where = based(of)
    for path in (of.root / "2" / "d").iterdir():
        os.utime(path, ns=(5, path.stat().st_mtime_ns))
    with of.changes(where) as found:
        assert found.road == "search"
        return len(found), len(found.upper)


def test_to_read_is_no_change(btrfs_box):
    changed, looked = in_box(btrfs_box, only_read)
    assert changed == 0
    assert looked > 200  # they were touched


def in_use(folder: Path) -> None:
    of = driver(folder)
    where = based(of)
    twice = [*of.mounts(where), *of.mounts(where)]
    with mounted(twice, of.mount_points) as path, open(f"{path}/top", "ab") as opened:
        opened.write(b"more")
        opened.flush()
        with of.changes(where) as found:
            assert [c.path for c in found] == [b"top"]
            assert layer(found).count(b"topmore") == 1


def test_what_is_being_written_is_seen(btrfs_box):
    in_box(btrfs_box, in_use)


# -- what a diff costs ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def counted(counts: Counter[str]) -> Iterator[None]:
    """Count calls of btrfs, and Python's own of the file system."""
    ioctl, listdir, opened = fcntl.ioctl, os.listdir, os.open

    def count(what: str, call: Any) -> Any:
        def counting(*args: Any, **kwargs: Any) -> Any:
            counts[what] += 1
            return call(*args, **kwargs)

        return counting

    fcntl.ioctl, os.listdir, os.open = count("ioctl", ioctl), count("listdir", listdir), count("open", opened)
    try:
        yield
    finally:
        fcntl.ioctl, os.listdir, os.open = ioctl, listdir, opened


def costs(folder: Path, n: int) -> dict[str, Any]:
    """Make a tree of ``n`` directories of 20 files, a snapshot of it, and three changes; return what each step called."""
    of = driver(folder)
    of.create(place(1))
    build(of.root / "1", *(edit for i in range(n) for edit in (Dir(f"d{i}"), *(File(f"d{i}/f{k}") for k in range(20)))))
    of.commit(place(1))
    made, told, gone = Counter[str](), Counter[str](), Counter[str]()
    with counted(made):
        of.create(place(2, 1))
        of.commit(place(2, 1))
        of.create(place(3, 2, 1))
    Script((Write("d1/f1", b"other"), Remove("d2/f2"), File("d3/new"))).apply(of.root / "3")
    with counted(told), of.changes(place(3, 2, 1)) as found:
        rows = len(found.lower), len(found.upper), [c.path for c in found]
    with counted(gone):
        of.remove(3)
    return {"made": dict(made), "told": dict(told), "gone": dict(gone), "rows": rows}


def test_the_cost_is_that_of_the_changes(btrfs_box):
    few, many = (in_box(btrfs_box, costs, n) for n in (10, 150))
    assert few == many
    assert few["made"]["ioctl"] <= 6
    assert few["gone"]["ioctl"] == 1
    assert few["rows"][2] == [b"d1/f1", b"d2/f2", b"d3/new"]
    assert max(few["rows"][:2]) <= 12


# -- where both trees are walked --------------------------------------------------------------------------------------


def with_subvolume(folder: Path, id_: int) -> tuple[str, tuple[str, ...], list[bytes]]:
    of = driver(folder)
    where = based(of)
    path = of.root / str(id_)
    with open_dir(path) as fd:
        calls.set_read_only(fd, False)
        with open_dir(path / "a") as inner:
            calls.create(inner, "sub")
        build(path / "a" / "sub", File("f", b"f"))
        calls.set_read_only(fd, id_ == 1)
    return walked(of, where)


def walked(of: Btrfs, where: Place) -> tuple[str, tuple[str, ...], list[bytes]]:
    with of.changes(where) as found, Driver.changes(of, where) as wanted:
        assert facts(found) == facts(wanted)
        return found.road, found.reasons, [c.path for c in found]


def test_subvolumes_in_it_are_walked_and_it_is_said(btrfs_box):
    reason = "there are subvolumes in it, or in its parent"
    assert in_box(btrfs_box, with_subvolume, 2) == ("walk", (reason,), [b"a/sub", b"a/sub/f"])
    road, reasons, paths = in_box(btrfs_box, with_subvolume, 1)
    assert (road, paths) == ("walk", [b"a/sub"])
    assert reasons[0] in (reason, "the parent was changed since")


def parent_changed(folder: Path) -> tuple[str, tuple[str, ...], list[bytes]]:
    of = driver(folder)
    where = based(of)
    with open_dir(of.root / "1") as fd:
        calls.set_read_only(fd, False)
        Write("top", b"changed below").apply(of.root / "1")
        calls.set_read_only(fd, True)
    return walked(of, where)


def test_a_parent_that_was_changed_since_is_walked_and_it_is_said(btrfs_box):
    assert in_box(btrfs_box, parent_changed) == ("walk", ("the parent was changed since",), [b"top"])


def made_read_write_and_back(folder: Path) -> str:
    of = driver(folder)
    where = based(of)
    with open_dir(of.root / "1") as fd:
        calls.set_read_only(fd, False)
        calls.set_read_only(fd, True)
    return walked(of, where)[0]


def test_one_that_only_could_have_been_is_not(btrfs_box):
    assert in_box(btrfs_box, made_read_write_and_back) == "search"


def of_another(folder: Path) -> tuple[str, tuple[str, ...], list[bytes]]:
    of = driver(folder)
    based(of)
    of.create(place(3))
    File("other").apply(of.root / "3")
    of.commit(place(3))
    return walked(of, place(2, 3))


def test_another_parent_is_walked_and_it_is_said(btrfs_box):
    road, reasons, paths = in_box(btrfs_box, of_another)
    assert (road, reasons) == ("walk", ("the subvolume is no snapshot of its parent",))
    assert b"other" in paths


def refused(folder: Path) -> tuple[str, tuple[str, ...], list[bytes]]:
    of = driver(folder)
    where = based(of, Script((File("top"), File("other"), Dir("d"))))
    Script((Write("top", b"changed"), Remove("other"))).apply(of.root / "2")
    assert of.usage(where) == room_of(of.root / "2")
    return walked(of, where)


@pytest.mark.parametrize("box", ["btrfs_user_box", "btrfs_nobody_box"])
def test_an_ordinary_user_walks_and_it_is_said(request, box):
    reason = "the kernel refuses to search a tree: Operation not permitted"
    assert in_box(request.getfixturevalue(box), refused) == ("walk", (reason,), [b"other", b"top"])


# -- room and limits --------------------------------------------------------------------------------------------------


def room(folder: Path) -> None:
    """Count extents of a snapshot's own, once each."""
    of = driver(folder)
    where = based(of, Script((File("big", os.urandom(MIB)), File("small", b"s" * 100), Dir("d"))))
    assert of.usage(place(1, kind=COMMITTED)) == Usage(MIB + 100, 4)
    assert of.usage(where).nbytes == 0
    top = of.root / "2"
    (top / "own").write_bytes(os.urandom(MIB))
    (top / "inline").write_bytes(b"i" * 50)
    assert of.usage(where).nbytes == MIB + 50
    with open(top / "own", "rb") as source, open(top / "clone", "wb") as clone:
        fcntl.ioctl(clone, 0x40049409, source.fileno())
    with open(top / "big", "rb") as source, open(top / "shared", "wb") as clone:
        fcntl.ioctl(clone, 0x40049409, source.fileno())
    with open(top / "hole", "wb") as holey:
        holey.truncate(10 * MIB)
    os.chmod(top / "small", 0o600)
    assert of.usage(where) == Usage(MIB + 50, 7)  # those five, one that was changed, and their directory
    of.commit(where)
    of.create(place(3, 2, 1))
    assert of.usage(place(2, 1, kind=COMMITTED)) == Usage(MIB + 50, 7)
    assert of.usage(place(3, 2, 1)).nbytes == 0


def test_usage_is_what_was_written(btrfs_box):
    in_box(btrfs_box, room)


def accounted(root: Path) -> list[int]:
    """Return the numbers of the subvolumes that are accounted for, by the items of the quota tree."""
    info, tree = 242, 8
    found = bytearray(112 + (1 << 16))
    struct.pack_into("<QQQQQQQIIIxxxx32xQ", found, 0, tree, 0, 0, 256, 1 << 47, 0, (1 << 64) - 1, info, info, 1 << 31, 1 << 16)
    with open_dir(root) as fd:
        fcntl.ioctl(fd, 0xC0709411, found)
    at, numbers = 112, []
    for _ in range(struct.unpack_from("<I", found, 64)[0]):
        _, _, offset, _, nbytes = struct.unpack_from("<QQQII", found, at)
        numbers.append(offset)
        at += 32 + nbytes
    return numbers


def limited(folder: Path) -> None:
    """Write more than may be in a snapshot, in one upon another."""
    of = driver(folder, size="8M")
    try:
        of.create(place(1))
        (of.root / "1" / "f").write_bytes(os.urandom(4 * MIB))
        of.commit(place(1))
        of.create(place(2, 1))
        of.create(place(3, 1, kind=VIEW))
        with pytest.raises(OSError, match=os.strerror(errno.EDQUOT)):
            filled(of.root / "2" / "g", 8)
        with of.changes(place(2, 1)) as found:
            assert [c.path for c in found] == [b"g"]
        with open_dir(of.root / "2") as fd:
            number = calls.described(fd).id
        assert number in accounted(of.root)
        for id_ in (3, 2, 1):
            of.remove(id_)
        until = time.monotonic() + 20
        while number in accounted(of.root):  # newer kernels forget it when all is freed
            assert time.monotonic() < until
            of.sync()
            time.sleep(0.05)
        of.create(place(4))
        filled(of.root / "4" / "h", 4)
    finally:
        with open_dir(folder) as fd:
            fcntl.ioctl(fd, 0xC0109428, bytearray(struct.pack("<QQ", 2, 0)))  # quotas off


def filled(path: Path, n: int) -> None:
    with path.open("wb") as file:
        for _ in range(n):
            file.write(os.urandom(MIB))
            file.flush()
            os.fsync(file.fileno())


def test_a_snapshot_has_the_size_that_it_may_have(btrfs_box):
    in_box(btrfs_box, limited)


def full(folder: Path) -> None:
    """Fill the disk, and go on with what is left when the snapshot that did it is gone."""
    of = driver(folder)
    where = based(of)
    before = listing(of.root / "1")
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        filled(of.root / "2" / "much", 200)
    with of.changes(where) as found:
        assert (found.road, [c.path for c in found]) == ("search", [b"much"])
    of.remove(2)
    assert os.listdir(of.root) == ["1"]
    until = time.monotonic() + 20
    while True:  # the kernel frees it later
        try:
            of.create(place(3, 1))
            filled(of.root / "3" / "some", 20)
            break
        except OSError as error:
            assert (error.errno, time.monotonic() < until) == (errno.ENOSPC, True)
            of.remove(3)
            of.sync()
    with of.changes(place(3, 1)) as found:
        assert [c.path for c in found] == [b"some"]
    assert compare(before, listing(of.root / "1")) == []


def test_a_full_disk_is_an_error_and_its_cause_can_be_removed(home):
    with on_btrfs(home, nbytes=parts.BTRFS_NBYTES) as box:
        in_box(box, full)


def unlimited(folder: Path) -> tuple[str, list[str]]:
    of = driver(folder, size="8M")
    with pytest.raises(DriverUnavailable) as info:
        of.create(place(1))
    return str(info.value), os.listdir(of.root)


@pytest.mark.parametrize("box", ["btrfs_user_box", "btrfs_nobody_box"])
def test_an_ordinary_user_has_no_limits_and_is_told(request, box):
    said, left = in_box(request.getfixturevalue(box), unlimited)
    assert "there are no quotas to be had: Operation not permitted" in said
    assert left == []


@pytest.mark.parametrize("size", ["", "0", "-1", "1.5G", "10 G", "ten", "1E"])
def test_a_size_that_is_none_is_refused(scratch, size):
    with pytest.raises(ValueError, match="size"):
        Btrfs(scratch, {"size": size})


def test_a_size_is_bytes_or_has_a_unit(scratch):
    found = {size: Btrfs(scratch, {"size": size}).size for size in ("1", "2K", "3M", "4G", "5T", "6GiB")}
    assert found == {"1": 1, "2K": 2 << 10, "3M": 3 << 20, "4G": 4 << 30, "5T": 5 << 40, "6GiB": 6 << 30}
    with pytest.raises(ValueError, match="it takes: size"):
        Btrfs(scratch, {"quota": "1"})


def errors(folder: Path) -> list[str]:
    """Do what cannot be done; return which file or directory each error names."""
    of = driver(folder)
    based(of)
    said = []
    tried = [lambda: of.create(place(1)), lambda: of.create(place(5, 4))]
    for call in (*tried, lambda: of.commit(place(6)), lambda: of.usage(place(6))):
        with pytest.raises(OSError) as info:  # noqa: PT011
            call()
        said.append(f"{errno.errorcode[info.value.errno]} {os.path.basename(info.value.filename)}")
    assert compare(listing(of.root / "1"), listing(of.root / "2")) == []
    return said


def test_an_error_names_what_it_is_about(any_box):
    assert in_box(any_box, errors) == ["EEXIST 1", "ENOENT 4", "ENOENT 6", "ENOENT 6"]


def test_modes_of_the_root_are_plain(any_box):
    assert in_box(any_box, root_mode) == (0o755, True)


def root_mode(folder: Path) -> tuple[int, bool]:
    os.chmod(folder, 0o2777)
    of = driver(folder)
    old = os.umask(0o077)
    try:
        of.create(place(1))
    finally:
        os.umask(old)
    status = (of.root / "1").stat()
    return stat.S_IMODE(status.st_mode), status.st_gid == os.getegid()
