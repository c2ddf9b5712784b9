"""AUFS as a driver: what lies on disk, what a mount would be told, what it costs, and what a crash leaves."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import lamella
from lamella.drivers import aufs
from lamella.drivers._aufs_mount import mount_of
from lamella.drivers._run import mounts_below
from lamella.drivers.aufs import Aufs, AufsUnion, mount_argv
from lamella.drivers.base import Place
from lamella.drivers.overlay import OverlayUnion
from lamella.errors import DriverError, DriverUnavailable
from lamella.layer.union import Union
from lamella.model import Mount, SnapshotKind
from lamella.testing.editors import play, tree_of
from lamella.testing.listing import compare, listing
from lamella.testing.tars import directory, file, hardlink, layer_tar, opaque, whiteout
from lamella.testing.trees import Dir, File, Hardlink, Remove, Script, Write, build

ACTIVE, COMMITTED, VIEW = SnapshotKind.ACTIVE, SnapshotKind.COMMITTED, SnapshotKind.VIEW
BASE = Script((
    Dir("a", mode=0o750), File("a/one", b"1" * 700), Hardlink("a/uno", "a/one"), Dir("b"), Hardlink("b/eins", "a/one"),
    File("b/x", b"x"), File("top", b"top"), Dir("", mode=0o711, xattrs={"user.root": b"r"}, mtime_ns=1_000_000_000_000_000_007),
))  # fmt: skip
EDITS = Script((Write("a/uno", b"written"), Remove("b/x"), Remove("top"), Dir("top"), File("new", b"n")))
NEXT = Script((Remove("a/one"), File("b/x", b"again")))
METADATA = [directory(".wh..wh.plnk"), file(".wh..wh.plnk/9.1", b"p"), hardlink("p", ".wh..wh.plnk/9.1"), file(".wh..wh.aufs")]


def driver(folder: Path, kind: type = AufsUnion, **options: str) -> Any:
    root = folder / "root"
    root.mkdir(parents=True, exist_ok=True)
    return kind(root, options, mount_points=folder / "mnt")


def place(id_: int, *parents: int, kind: SnapshotKind = ACTIVE) -> Place:
    return Place(id_, parents, kind)


def change(of: Any, where: Place, script: Script) -> list[str]:
    """Change an active snapshot, and return what the edits answered that is no success."""
    with of.union(where) as union:
        return [answer for answer in play(union, script) if not answer.endswith("done")]


def snapshot(of: Any, where: Place, script: Script) -> None:
    of.create(where)
    assert change(of, where, script) == []
    of.commit(where)


def shown(of: Any, where: Place) -> dict[bytes, Any]:
    with of.union(where) as union:
        return tree_of(union)


def layer(of: Any, where: Place) -> bytes:
    out = io.BytesIO()
    with of.changes(where) as found:
        found.write(out, compression="none")
    return out.getvalue()


def names(root: Path) -> dict[bytes, str]:
    return {path: found.type for path, found in listing(root).items() if path}


def plain(folder: Path, *scripts: Script) -> Path:
    root = build(folder)
    for script in scripts:
        script.apply(root)
    return root


# -- on disk ----------------------------------------------------------------------------------------------------------


def chained(folder: Path) -> list[str]:
    """Make three snapshots; return how they, their layers and what is on disk differ from plain trees."""
    of = driver(folder)
    scripts, wrong, before = (BASE, EDITS, NEXT), [], None
    for id_ in (1, 2, 3):
        where = Place(id_, tuple(range(id_ - 1, 0, -1)))
        of.create(where)
        assert change(of, where, scripts[id_ - 1]) == []
        active, tree = layer(of, where), plain(folder / f"tree{id_}", *scripts[:id_])
        of.commit(where)
        wrong += compare(listing(tree), shown(of, Place(id_, where.parents, COMMITTED)), {"root"} if id_ > 1 else ())
        out = io.BytesIO()
        lamella.diff(before, tree, out, compression="none")
        wrong += [f"layer {id_} of a snapshot that is {what}" for what, made in (("active", active), ("committed", layer(of, where))) if made != out.getvalue()]
        before = tree
    wrong += [] if (of.root / "3" / "layers").read_text() == "2\n1\n" else ["the list of parents"]
    wrong += [] if sorted(os.listdir(of.root / "3")) == ["fs", "layers"] else [str(os.listdir(of.root / "3"))]
    return wrong


@pytest.mark.parametrize("where", ["box", "user_box", "nobody_box"])
def test_snapshots_are_what_plain_trees_are(request, where):
    assert request.getfixturevalue(where).call(chained) == []


def branch(folder: Path) -> tuple[dict[bytes, str], dict[bytes, str], set[int], tuple[int, ...]]:
    of = driver(folder)
    snapshot(of, place(1), BASE)
    of.create(place(2, 1))
    before = os.stat(of.fs(2))
    with of.union(place(2, 1)) as union:
        union.unlink(b"b/x")
        union.unlink(b"a/one")
        union.chmod(b"a/uno", 0o600)
        active = names(of.fs(2))
    inodes = {os.stat(of.fs(2) / name).st_ino for name in (".wh..wh.aufs", "b/.wh.x", "a/.wh.one")}
    of.commit(place(2, 1))
    after = os.stat(of.fs(2))
    return active, names(of.fs(2)), inodes, (before.st_mtime_ns, after.st_mtime_ns)


def test_a_branch_has_the_names_of_aufs(box):
    active, committed, inodes, times = box.call(branch)
    layered = {b"a": "dir", b"a/.wh.one": "file", b"a/uno": "file", b"b": "dir", b"b/.wh.x": "file", b"b/eins": "file"}
    assert active == layered | {b".wh..wh.aufs": "file", b".wh..wh.orph": "dir", b".wh..wh.plnk": "dir"}
    assert committed == layered  # what a tar of it is, is the layer
    assert len(inodes) == 1
    assert times[0] == times[1]


def applied(folder: Path) -> None:
    of, tree = driver(folder), folder / "tree"
    layers = [
        [opaque(""), directory("a"), file("a/one", b"1"), directory("b"), opaque("b"), file("b/x"), whiteout("nothing"), *METADATA],
        [whiteout("a/one"), directory("b"), opaque("b"), file("b/y", b"y"), *METADATA],
    ]  # fmt: skip
    for number, members in enumerate(layers, 1):
        where = place(number, *range(number - 1, 0, -1))
        of.create(where)
        of.apply(where, layer_tar(members))
        of.commit(where)
        lamella.apply(layer_tar(members), tree)
        assert compare(shown(of, Place(number, where.parents, COMMITTED)), listing(tree), ignore={"dir_mtime"}) == []
    assert names(of.fs(1)) == {b"a": "dir", b"a/one": "file", b"b": "dir", b"b/x": "file", b"p": "file"}
    kept = {b"a/.wh.one": "file", b"b/.wh..wh..opq": "file"}
    assert names(of.fs(2)) == kept | {b"a": "dir", b"b": "dir", b"b/y": "file", b"p": "file"}


def test_layers_are_applied_with_no_union_and_aufs_s_own_is_left_out(box):
    box.call(applied)


def linked(folder: Path) -> tuple[Any, ...]:
    """Write a file of three names, through one of them, in a view that has lost another."""
    of = driver(folder)
    snapshot(of, place(1), BASE)
    snapshot(of, place(2, 1), Script((Remove("b/eins"),)))
    snapshot(of, place(3, 2, 1), Script((Write("a/one", b"written"),)))
    tree = shown(of, place(3, 2, 1, kind=COMMITTED))
    with of.changes(place(3, 2, 1)) as found:
        told = [(change.path, change.why.name) for change in found]
    links = [(tree[path].links, tree[path].sha256) for path in (b"a/one", b"a/uno")]
    return links[0] == links[1], tree[b"a/one"].links, told, os.stat(of.fs(3) / "a" / "uno").st_nlink


def test_a_file_keeps_the_names_that_are_to_be_seen(box):
    same, links, told, n_links = box.call(linked)
    assert (same, links, n_links) == (True, (b"a/one", b"a/uno"), 2)
    assert [path for path, _ in told] == [b"a/one", b"a/uno"]
    assert not any("LINKS" in why for _, why in told)


def noted(folder: Path) -> tuple[list[str], dict[bytes, Any], str, list[str]]:
    """Commit a snapshot whose union died between two names, and one with a pseudo-link that only a mount can read."""
    of = driver(folder)
    snapshot(of, place(1), BASE)
    of.create(place(2, 1))
    with pytest.MonkeyPatch.context() as patch, of.union(place(2, 1)) as union:
        patch.setattr("lamella.layer.copyup._link_all", lambda *_: None)
        union.chmod(b"a/one", 0o600)
    left = os.listdir(of.fs(2) / ".wh..wh.plnk")
    of.commit(place(2, 1))
    tree = shown(of, place(2, 1, kind=COMMITTED))
    of.create(place(3, 1))
    (of.fs(3) / ".wh..wh.plnk").mkdir()
    (of.fs(3) / ".wh..wh.plnk" / "70000.70000").write_bytes(b"p")
    said = ""
    try:
        of.commit(place(3, 1))
    except DriverError as error:
        said = str(error)
    return left, tree, said, os.listdir(of.fs(3) / ".wh..wh.plnk")


def test_what_a_crash_left_is_finished_before_a_branch_is_committed(box):
    left, tree, said, kept = box.call(noted)
    assert len(left) == 1
    assert [tree[path].mode for path in (b"a/one", b"a/uno", b"b/eins")] == [0o600] * 3
    assert tree[b"a/one"].links == (b"a/one", b"a/uno", b"b/eins")
    assert "auplink MOUNT flush" in said
    assert kept == ["70000.70000"]


def kernel_commit(folder: Path) -> None:
    of = driver(folder, Aufs)
    of.create(place(1))
    of.create(place(2, 1))
    (of.fs(2) / ".wh..wh.plnk").mkdir()
    (of.fs(2) / ".wh..wh.plnk" / "7.8").write_bytes(b"p")
    with pytest.raises(DriverError, match="pseudo-links"):
        of.commit(place(2, 1))
    (of.fs(2) / ".wh..wh.plnk" / "7.8").unlink()
    (of.fs(2) / ".wh..wh.orph").mkdir()
    (of.fs(2) / ".wh..wh.aufs").write_bytes(b"")
    of.commit(place(2, 1))
    assert os.listdir(of.fs(2)) == []


def test_a_branch_of_the_kernel_s_is_not_committed_with_pseudo_links(box):
    box.call(kernel_commit)


def named(folder: Path) -> list[str]:
    of = driver(folder)
    snapshot(of, place(1), BASE)
    of.create(place(2, 1))
    with of.union(place(2, 1)) as union:
        return play(union, [("mkdir", b".wh.n"), ("mkdir", b"n" * 252), ("mkdir", b"n" * 251), ("rename", b"a", b"c"), ("rename", b"n" * 251, b"m")])


def test_names_that_are_refused(box):
    assert [answer.rpartition(": ")[2] for answer in box.call(named)] == ["EPERM", "ENAMETOOLONG", "done", "EXDEV", "done"]


# -- costs ------------------------------------------------------------------------------------------------------------

CHILD = """
import sys
from lamella.drivers.registry import driver_class
from lamella.drivers.base import Place
of = driver_class(sys.argv[2], "userspace")(sys.argv[1])
with of.changes(Place(2, (1,))) as found:
    print(len(found))
"""


def told(folder: Path, kind: type, n_files: int) -> tuple[int, int]:
    """Count what a child does to tell the changes of a snapshot upon one with ``n_files`` more files."""
    of = driver(folder, kind)
    of.create(place(1))
    of.fs(1).joinpath("many").mkdir()
    for k in range(n_files):
        (of.fs(1) / "many" / f"f{k}").write_bytes(b"1")
    assert change(of, place(1), BASE) == []
    of.commit(place(1))
    of.create(place(2, 1))
    assert change(of, place(2, 1), Script((Write("b/x", b"y"), Remove("top"), File("many/new", b"n"), Remove("many/f3")))) == []
    log = folder / "log"
    argv = ["strace", "-f", "-c", "-o", log, sys.executable, "-B", "-c", CHILD, of.root, of.name]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("COV", "PYTEST"))}
    done = subprocess.run(argv, check=False, capture_output=True, env=env | {"PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split() for line in log.read_text().splitlines()]
    calls = Counter({row[-1]: int(row[3]) for row in rows if len(row) >= 5 and row[3].isdigit() and row[-1] != "total"})
    return int(done.stdout), sum(calls[name] for name in calls if name != "futex")


@pytest.mark.requires("strace")
@pytest.mark.parametrize("kind", [AufsUnion, OverlayUnion])
def test_changes_cost_the_same_whatever_is_below(box, kind):
    few, many = (box.call(told, kind, n) for n in (10, 3_000))
    assert few[0] == many[0] == 4
    assert abs(few[1] - many[1]) <= 10


# -- the kernel's -----------------------------------------------------------------------------------------------------


def stack(n: int, length: int = 60) -> list[str]:
    return ["/" + f"{k:03d}".ljust(length, "x") for k in range(n)]


def parsed(argv: list[list[str]]) -> list[str]:
    """Read the commands as AUFS reads its options: the branches that the mount has in the end."""
    found: list[str] = []
    for number, command in enumerate(argv):
        assert command[:4] == ["mount", "-t", "aufs", "-o"]
        assert command[5:] == ["none", "/target"]
        words = command[4].split(",")
        assert len(command[4].removeprefix("remount,").encode()) <= 4095
        if number == 0:
            assert words[1:] == ["dio", "xino=/dev/shm/aufs.xino", "dirperm1"]
            found += words[0].removeprefix("br:").split(":")
        else:
            assert words[0] == "remount"
            found.append(words[1].removeprefix("append:"))
    return found


@pytest.mark.parametrize(("n", "length", "n_commands"), [(3, 60, 1), (40, 60, 1), (40, 200, 22), (127, 60, 69), (127, 1000, 124)])
def test_a_page_of_branches_is_mounted_and_the_others_are_appended(n, length, n_commands):
    branches = stack(n, length)
    argv = mount_argv(mount_of(branches, {}, writable=True), "/target")
    assert parsed(argv) == [f"{branches[0]}=rw", *(f"{path}=ro+wh" for path in branches[1:])]
    assert len(argv) == n_commands


def test_three_branches_in_words():
    (argv,) = mount_argv(mount_of(["/rw", "/a", "/b"], {"xino": "/x", "dirperm1": "off"}, writable=True), "/target")
    assert argv == ["mount", "-t", "aufs", "-o", "br:/rw=rw:/a=ro+wh:/b=ro+wh,dio,xino=/x", "none", "/target"]
    (argv,) = mount_argv(mount_of(["/a", "/b"], {"dirperm1": "off"}, writable=False), "/target")
    assert argv[4] == "ro,br:/a=ro+wh:/b=ro+wh,dio,xino=/dev/shm/aufs.xino"


def test_what_aufs_does_not_take():
    with pytest.raises(DriverError, match="128 branches, of which AUFS takes 127"):
        mount_of(stack(128), {}, writable=True)
    for path in ("/a:b", "/a,b"):
        with pytest.raises(DriverError, match="a colon or a comma"):
            mount_of(["/rw", path], {}, writable=True)
    with pytest.raises(DriverError, match="a page"):
        mount_argv(mount_of(["/rw", "/" + "x" * 4095], {}, writable=True), "/target")
    with pytest.raises(DriverError, match="a page"):
        mount_argv(mount_of(["/" + "x" * 4095], {}, writable=True), "/target")


@pytest.mark.parametrize(
    ("options", "word"), [({"dirperm1": "yes"}, "dirperm1"), ({"xino": "relative"}, "xino"), ({"xino": "/a,b"}, "xino"), ({"nosuch": "1"}, "nosuch")]
)  # fmt: skip
def test_options_that_cannot_be(scratch, options, word):
    with pytest.raises(ValueError, match=word):
        Aufs(scratch, options)


def test_the_mounts_of_the_kernel_s(scratch):
    of = driver(scratch, Aufs)
    for where in (place(1), place(2, 1), place(3, 2, 1, kind=VIEW), place(4, 1, kind=VIEW)):
        of.create(where)
    fs = [of.fs(id_) for id_ in range(4)]
    assert of.mounts(place(1)) == (Mount("bind", str(fs[1])),)
    assert of.mounts(place(4, 1, kind=VIEW)) == (Mount("bind", str(fs[1]), ("ro",)),)
    common = ("dio", "xino=/dev/shm/aufs.xino", "dirperm1")
    assert of.mounts(place(2, 1)) == (Mount("aufs", "none", (f"br:{fs[2]}=rw:{fs[1]}=ro+wh", *common)),)
    assert of.mounts(place(3, 2, 1, kind=VIEW)) == (Mount("aufs", "none", ("ro", f"br:{fs[2]}=ro+wh:{fs[1]}=ro+wh", *common)),)
    assert (of.root / "3" / "layers").read_text() == "2\n1\n"
    with pytest.raises(DriverError, match="128 layers"):
        of.create(Place(200, tuple(range(127, 0, -1))))
    assert 200 not in set(of.ids())


def probed(folder: Path, kind: type) -> tuple[bool, tuple[str, ...], list[str]]:
    probe = kind.probe(folder)
    assert mounts_below(folder) == []
    return probe.available, probe.reasons, os.listdir(folder)


def without(folder: Path) -> tuple[bool, tuple[str, ...], list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aufs, "has_aufs", lambda: True)
        return probed(folder, Aufs)


def test_this_kernel_says_that_it_has_no_aufs(box, nobody_box):
    """Its suite would run here if there were one: no kernel has had it since it was left out of every distribution's."""
    if aufs.has_aufs():
        available, reasons, left = box.call(probed, Aufs)
        assert (available, reasons, left) == (True, (), [])
        return
    release = os.uname().release
    reason = f"this kernel has no AUFS: not in /proc/filesystems, and no module of it in /lib/modules/{release}"
    assert box.call(probed, Aufs) == nobody_box.call(probed, Aufs) == (False, (reason,), [])
    available, reasons, left = box.call(without)  # so it is where a module is there that cannot be loaded
    assert (available, len(reasons), left) == (False, 1, [])
    assert reasons[0].startswith("an AUFS cannot be mounted here: ")
    assert os.strerror(errno.ENODEV) in reasons[0]


def test_a_union_is_probed_by_changing_one(box, nobody_box):
    assert box.call(probed, AufsUnion) == nobody_box.call(probed, AufsUnion) == (True, (), [])


def refused(folder: Path) -> tuple[bool, tuple[str, ...], list[str]]:
    def unlink(*_: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Union, "unlink", unlink)
        return probed(folder, AufsUnion)


def test_a_union_that_cannot_be_changed_is_refused(box):
    assert box.call(refused) == (False, ("a union cannot be changed here: Read-only file system",), [])


def unseen(folder: Path) -> None:
    of = driver(folder)
    snapshot(of, place(1), BASE)
    of.create(place(2, 1))
    with pytest.raises(DriverUnavailable), of.seen(place(1)):
        pass
    with pytest.raises(DriverUnavailable), of.changes(place(2, 1), content="always"):
        pass
    words = (f"lowerdir+={of.fs(1)}", f"upperdir={of.fs(2)}", "dialect=aufs")
    assert of.mounts(place(2, 1)) == (Mount("fuse.lamella", "lamella", words),)
    assert of.mounts(place(1, kind=COMMITTED)) == (Mount("fuse.lamella", "lamella", ("ro", words[0], "dialect=aufs")),)


def test_a_union_has_no_path_without_fuse(nobody_box):
    nobody_box.call(unseen)
