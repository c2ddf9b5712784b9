"""Overlay as a driver, by the kernel and in user space: what lies on disk, what it costs, and what a crash leaves."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lamella
from lamella.drivers._run import attach, detach, is_mounted, mounted, mounts_below
from lamella.drivers.base import Place
from lamella.drivers.overlay import Overlay, OverlayUnion, features
from lamella.errors import DriverError, DriverUnavailable
from lamella.model import Mount, SnapshotKind, Usage
from lamella.testing.editors import play, tree_of
from lamella.testing.listing import compare, listing
from lamella.testing.tars import directory, file, layer_tar, opaque, whiteout
from lamella.testing.trees import Chmod, Dir, File, Hardlink, Remove, Rename, Script, Write, build

pytestmark = pytest.mark.requires("overlay")

ACTIVE, COMMITTED, VIEW = SnapshotKind.ACTIVE, SnapshotKind.COMMITTED, SnapshotKind.VIEW
BASE = Script((
    Dir("a", mode=0o750), File("a/one", b"1" * 700), File("a/two", b"2", xattrs={"user.k": b"v"}), Dir("b"),
    File("b/x", b"x"), File("top", b"top"), Dir("", mode=0o711, xattrs={"user.root": b"r"}, mtime_ns=1_000_000_000_000_000_007),
))  # fmt: skip
EDITS = Script((
    Rename("a", "z"), Chmod("z/one", 0o600), File("z/new", b"new"), Remove("b"), Dir("b"), Write("top", b"changed"),
))  # fmt: skip
TAR = [
    opaque(""), directory("a"), file("a/one", b"one", xattrs={"user.k": b"v"}), directory("b"), opaque("b"), file("b/x", b"x"),
    whiteout("nothing"),
]  # fmt: skip
NEXT = [whiteout("a/one"), directory("b"), opaque("b"), file("b/y", b"y")]


@pytest.fixture(params=["box", "user_box"])
def any_box(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def driver(folder: Path, kind: type = Overlay, **options: str) -> Any:
    root = folder / "root"
    root.mkdir(parents=True, exist_ok=True)
    return kind(root, options, mount_points=folder / "mnt")


def place(id_: int, *parents: int, kind: SnapshotKind = ACTIVE) -> Place:
    return Place(id_, parents, kind)


def edit(of: Any, where: Place, script: Script) -> list[str]:
    """Make an active snapshot, change it, and return what the edits answered that is no success."""
    of.create(where)
    return change(of, where, script)


def change(of: Any, where: Place, script: Script) -> list[str]:
    if isinstance(of, OverlayUnion):
        with of.union(where) as union:
            return [answer for answer in play(union, script) if not answer.endswith("done")]
    with mounted(of.mounts(where), of.mount_points) as path:
        script.apply(path)
    return []


def shown(of: Any, where: Place) -> dict[bytes, Any]:
    if isinstance(of, OverlayUnion):
        with of.union(where) as union:
            return tree_of(union)
    with of.seen(where) as path:
        return listing(path)


def layer(of: Any, where: Place, **how: Any) -> bytes:
    out = io.BytesIO()
    with of.changes(where, **how) as found:
        found.write(out, compression="none")
    return out.getvalue()


def plain(folder: Path, *scripts: Script) -> Path:
    """Build a tree as any file system has it."""
    root = build(folder)
    for script in scripts:
        script.apply(root)
    return root


@contextlib.contextmanager
def nothing_left(folder: Path) -> Iterator[None]:
    before = mounts_below(folder), len(os.listdir("/proc/self/fd")), sorted(os.listdir(folder))
    yield
    assert (mounts_below(folder), len(os.listdir("/proc/self/fd")), sorted(os.listdir(folder))) == before


# -- snapshots --------------------------------------------------------------------------------------------------------


def renames(of: Any) -> bool:
    return of.namespace == "trusted"


def edits_for(of: Any) -> Script:
    return EDITS if renames(of) else Script(EDITS.edits[3:])


def stack(folder: Path, kind: type, reader: type) -> list[str]:
    """Make three snapshots with one driver, and compare with plain trees what the other sees and says of them."""
    of = driver(folder, kind)
    assert edit(of, place(1), BASE) == []
    of.commit(place(1))
    edits = edits_for(of)
    assert edit(of, place(2, 1), edits) == []
    tree, before = plain(folder / "tree", BASE, edits), plain(folder / "before", BASE)
    wrong = compare(shown(of, place(2, 1)), listing(tree))
    active = layer(of, place(2, 1))
    of.commit(place(2, 1))
    assert os.listdir(folder / "root" / "2") == ["fs"]
    of.commit(place(2, 1))
    other = driver(folder, reader)
    other.create(place(3, 2, 1, kind=VIEW))
    other.create(place(4, 1, kind=VIEW))
    wrong += compare(shown(other, place(3, 2, 1, kind=VIEW)), listing(tree))
    wrong += compare(shown(other, place(2, 1, kind=COMMITTED)), listing(tree))
    wrong += compare(shown(other, place(4, 1, kind=VIEW)), listing(before))
    for where, lower, upper in ((place(2, 1), before, tree), (place(1), None, before)):
        out = io.BytesIO()
        lamella.diff(lower, upper, out, compression="none")
        same = layer(other, where) == out.getvalue()
        wrong += [] if same else [f"the layers of {where} differ: {[c.path for c in lamella.changes(lower, upper)]}"]
    wrong += [] if active == layer(other, place(2, 1)) else ["the layer of an active snapshot differs"]
    with other.changes(place(3, 2, 1, kind=VIEW)) as found:
        assert len(found) == 0
    assert sorted(other.ids()) == [1, 2, 3, 4]
    for id_ in (4, 3, 2, 1, 1, 77):
        other.remove(id_)
    assert list(other.ids()) == []
    assert os.listdir(folder / "root") == ["attributes"]
    return wrong


@pytest.mark.parametrize("reader", [Overlay, OverlayUnion])
@pytest.mark.parametrize("kind", [Overlay, OverlayUnion])
def test_snapshots_are_what_plain_trees_are(any_box, kind, reader):
    assert any_box.call(stack, kind, reader) == []


def test_an_ordinary_user_has_unions(nobody_box):
    assert nobody_box.call(stack, OverlayUnion, OverlayUnion) == []


def applied(folder: Path, kind: type) -> None:
    of = driver(folder, kind)
    tree = folder / "tree"
    for number, members in enumerate((TAR, NEXT), 1):
        where = place(number, *range(number - 1, 0, -1))
        of.create(where)
        with nothing_left(folder / "root"):
            result = of.apply(where, layer_tar(members))
        assert result.entries == len(members)
        of.commit(where)
        lamella.apply(layer_tar(members), tree)
        assert compare(shown(of, Place(number, where.parents, COMMITTED)), listing(tree), ignore={"dir_mtime"}) == []
    with lamella.read_layer(layer(of, place(1))) as reader:  # no mark that hides nothing
        assert [entry.path for entry in reader] == [b"", b"a", b"a/one", b"b", b"b/x"]
    with of.changes(place(2, 1)) as found:
        assert [(c.kind.value, c.path) for c in found if c.path != b"b"] == [
            ("delete", b"a/one"), ("delete", b"b/x"), ("add", b"b/y"),
        ]  # fmt: skip


@pytest.mark.parametrize("kind", [Overlay, OverlayUnion])
def test_layers_are_applied_with_no_mount(any_box, kind):
    any_box.call(applied, kind)


def rooted(folder: Path, kind: type) -> list[dict[bytes, Any]]:
    """Return the roots of a tree, of a snapshot upon it, and of that after a layer that says nothing of its root."""
    of = driver(folder, kind)
    edit(of, place(1), BASE)
    of.commit(place(1))
    found = [shown(of, place(1, kind=COMMITTED))[b""]]
    of.create(place(2, 1))
    found.append(shown(of, place(2, 1))[b""])
    of.apply(place(2, 1), layer_tar([file("a/one", b"other")]))
    return [*found, shown(of, place(2, 1))[b""]]


@pytest.mark.parametrize("kind", [Overlay, OverlayUnion])
def test_the_root_is_that_of_the_parent(any_box, kind):
    lower, made, after = any_box.call(rooted, kind)
    assert (lower.mode, dict(lower.xattrs)) == (0o711, {b"user.root": b"r"})
    assert lower == made == after


def busy(folder: Path) -> None:
    """Look at an active snapshot that is mounted and in use."""
    of = driver(folder)
    edit(of, place(1), BASE)
    of.commit(place(1))
    of.create(place(2, 1))
    target = folder / "target"
    target.mkdir()
    attach(of.mounts(place(2, 1)), target)
    with open(target / "top", "wb") as opened:
        opened.write(b"more")
        opened.flush()
        assert [(c.kind.value, c.path) for c in changes_of(of, place(2, 1))] == [("modify", b"top")]
        with of.seen(place(2, 1)) as path:
            assert Path(path, "top").read_bytes() == b"more"
        with pytest.raises(OSError, match=os.strerror(errno.EBUSY)):
            detach(target)
    detach(target)
    assert not is_mounted(target)


def changes_of(of: Any, where: Place, **how: Any) -> list[Any]:
    with of.changes(where, **how) as found:
        return list(found)


def test_a_mounted_snapshot_is_read_meanwhile(any_box):
    any_box.call(busy)


def parted(folder: Path, kind: type) -> list[Any]:
    """Write a file of two names through one of them."""
    of = driver(folder, kind)
    edit(of, place(1), Script((*BASE.edits, Hardlink("b/y", "b/x"))))
    of.commit(place(1))
    edit(of, place(2, 1), Script((Write("b/x", b"written"),)))
    tree = shown(of, place(2, 1))
    return [tree[b"b/x"].sha256 == tree[b"b/y"].sha256, tree[b"b/x"].links, [c.path for c in changes_of(of, place(2, 1))]]


@pytest.mark.parametrize("kind", [Overlay, OverlayUnion])
def test_a_name_that_is_written_parts_from_the_others(any_box, kind):
    """Non-standard behavior of overlayfs with index=off: asserted, since every overlay does it."""
    same, links, changed = any_box.call(parted, kind)
    assert (same, links) == (False, ())
    assert b"b/x" in changed


def walked(folder: Path) -> None:
    of = driver(folder)
    edit(of, place(1), BASE)
    of.commit(place(1))
    edit(of, place(2, 1), edits_for(of))
    native, always = changes_of(of, place(2, 1)), changes_of(of, place(2, 1), content="always")
    assert [(c.kind, c.path) for c in native] == [(c.kind, c.path) for c in always]
    by_fuse = changes_of(driver(folder, OverlayUnion), place(2, 1), content="always")
    assert [(c.kind, c.path) for c in by_fuse] == [(c.kind, c.path) for c in always]


@pytest.mark.requires("fuse")
def test_what_an_upper_directory_does_not_say_is_walked(any_box):
    any_box.call(walked)


@pytest.mark.requires("root")
@pytest.mark.parametrize("kind", [Overlay, OverlayUnion])
def test_so_it_is_on_ext4(ext4_scratch, kind):
    assert stack(ext4_scratch, kind, Overlay) == []
    assert probed_empty(ext4_scratch / "probe", kind)


def probed_empty(folder: Path, kind: type) -> bool:
    folder.mkdir()
    return probed(folder, kind) == (True, (), [])


# -- depth, names and costs -------------------------------------------------------------------------------------------


def deep(folder: Path) -> None:
    of = driver(folder / "s:t,o\\r e")
    edit(of, place(1), Script((File("bottom", b"bottom"), File("all", b"1"))))
    of.commit(place(1))
    parents = [1]
    for number in range(2, 501):
        where = Place(number, tuple(reversed(parents)), ACTIVE)
        of.create(where)
        (of.fs(number) / f"f{number}").write_bytes(b"%d" % number)
        of.commit(where)
        parents.append(number)
    view = Place(501, tuple(reversed(parents)), VIEW)
    of.create(view)
    with of.seen(view) as path:
        assert Path(path, "bottom").read_bytes() == b"bottom"
        assert Path(path, "f500").read_bytes() == b"500"
        assert len(os.listdir(path)) == 501
    last = Place(502, tuple(reversed(parents[:499])), ACTIVE)
    edit(of, last, Script((Write("bottom", b"changed"),)))
    assert [c.path for c in changes_of(of, last)] == [b"bottom"]
    with pytest.raises(DriverError, match="501 layers"):
        of.create(Place(503, tuple(reversed(parents)), ACTIVE))
    assert 503 not in set(of.ids())


def test_five_hundred_layers_in_a_folder_of_an_odd_name(any_box):
    any_box.call(deep)


CHILD = """
import sys
from lamella.drivers.overlay import Overlay
from lamella.drivers.base import Place
of = Overlay(sys.argv[1])
of.namespace
print(flush=True)
of.create(Place(2, (1,)))
print(of.mounts(Place(2, (1,)))[0].type)
"""


def created(folder: Path, n_files: int) -> int:
    of = driver(folder)
    of.create(place(1))
    for k in range(n_files):
        (of.fs(1) / f"f{k}").write_bytes(b"1")
    of.commit(place(1))
    log = folder / "log"
    argv = ["strace", "-f", "-c", "-o", log, sys.executable, "-B", "-c", CHILD, of.root]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("COV", "PYTEST"))}
    done = subprocess.run(argv, check=False, capture_output=True, env=env | {"PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split() for line in log.read_text().splitlines()]
    calls = Counter({row[-1]: int(row[3]) for row in rows if len(row) >= 5 and row[3].isdigit() and row[-1] != "total"})
    return sum(calls[name] for name in calls if name != "futex")


@pytest.mark.requires("strace")
def test_a_snapshot_costs_the_same_whatever_is_below(box):
    few, many = (box.call(created, n) for n in (1, 3_000))
    assert abs(few - many) <= 5


def sized(folder: Path) -> tuple[Usage, Usage, Usage, int]:
    of = driver(folder)
    edit(of, place(1), Script((File("a", b"x" * 100_000), Hardlink("b", "a"), Dir("d"), File("d/c", b"1"))))
    of.commit(place(1))
    edit(of, place(2, 1), Script((Remove("a"),)))
    of.create(place(3, 2, 1, kind=VIEW))
    blocks = sum(os.lstat(of.fs(1) / name).st_blocks for name in ("", "a", "d", "d/c"))
    view = of.usage(place(3, 2, 1, kind=VIEW))
    return of.usage(place(1)), of.usage(place(2, 1)), view, blocks * 512


def test_usage_is_what_is_allocated(box):
    base, upper, view, nbytes = box.call(sized)
    assert base == Usage(nbytes, 4)
    assert upper.n_inodes == 2
    assert view == Usage()


# -- crashes and leftovers --------------------------------------------------------------------------------------------


def cut(folder: Path) -> None:
    """Kill a create() at every step, so that nothing of it runs any more, and go on as a store does."""
    of = driver(folder)
    edit(of, place(1), BASE)
    of.commit(place(1))
    steps = {"mkdir": os.mkdir, "chmod": os.chmod, "setxattr": os.setxattr, "utime": os.utime, "rename": os.rename}
    for name, call in steps.items():
        for at in range(8):
            count = iter(range(100))

            def stop(*args: Any, _call: Any = call, _at: int = at, _count: Any = count, **kwargs: Any) -> Any:
                if next(_count) == _at:
                    os._exit(9)
                return _call(*args, **kwargs)

            child = os.fork()
            if child == 0:
                setattr(os, name, stop)
                of.create(place(2, 1))
                os._exit(0)
            os.waitpid(child, 0)
            assert set(of.ids()) <= {1, 2}
            if (of.root / "2").exists():  # whole, or not there
                assert compare(shown(of, place(2, 1)), shown(of, place(1, kind=COMMITTED))) == []
            of.remove(2)
            assert set(os.listdir(of.root)) == {"1", "attributes"}


def test_a_create_that_is_cut_short_leaves_what_remove_takes(box):
    box.call(cut)


def failing(folder: Path) -> None:
    of = driver(folder)
    edit(of, place(1), BASE)
    of.commit(place(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "setxattr", full)
        with pytest.raises(OSError, match="No space"):
            of.create(place(2, 1))
    assert set(os.listdir(of.root)) == {"1", "attributes"}


def full(path: Any, name: str, *_args: Any) -> None:
    if name == "user.root":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def test_a_create_that_fails_leaves_nothing(box):
    box.call(failing)


def closed(folder: Path) -> list[str]:
    """Remove what a mount leaves in a work directory, a path longer than a system call takes, and closed directories."""
    of = driver(folder)
    edit(of, place(1), BASE)
    of.commit(place(1))
    edit(of, place(2, 1), edits_for(of))
    assert (of.root / "2" / "work" / "work").stat().st_mode & 0o777 == 0
    fd = os.open(of.fs(2), os.O_RDONLY)
    for _ in range(60):
        os.mkdir("n" * 120, dir_fd=fd)
        deeper = os.open("n" * 120, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.fchmod(fd, 0)
    os.close(fd)
    (of.root / "2" / ".fs.xyz").mkdir()
    (of.root / "2.new").mkdir()
    os.symlink("/", of.root / "2" / "fs" / "root")
    of.remove(2)
    return sorted(os.listdir(of.root))


def test_everything_of_a_snapshot_goes(any_box):
    assert any_box.call(closed) == ["1", "attributes"]


def volatile(folder: Path) -> None:
    of = driver(folder, volatile="on")
    edit(of, place(1), BASE)
    of.commit(place(1))
    edit(of, place(2, 1), Script((Write("top", b"v"),)))
    assert "volatile" in of.mounts(place(2, 1))[0].options
    boot = of.root / "2" / "boot"
    here = boot.read_bytes()
    boot.write_bytes(b"another boot\n")
    with pytest.raises(DriverError, match="may be lost"):
        of.commit(place(2, 1))
    boot.write_bytes(here)
    of.commit(place(2, 1))
    assert [c.path for c in changes_of(of, place(2, 1))] == [b"top"]


def test_a_volatile_snapshot_outlives_no_reboot(box):
    box.call(volatile)


# -- options and probes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"nosuch": "on"}, "nosuch"), ({"metacopy": "yes"}, "metacopy"), ({"index": "auto"}, "index"),
        ({"metacopy": "on", "redirect_dir": "off"}, "redirect_dir"), ({"userxattr": "on", "redirect_dir": "on"}, "userxattr"),
    ],
)  # fmt: skip
def test_options_that_cannot_be(scratch, options, word):
    with pytest.raises(ValueError, match=word):
        Overlay(scratch, options)
    assert os.listdir(scratch) == []


def asked(folder: Path) -> dict[str, tuple[str, ...]]:
    found = {}
    for number, options in enumerate(({}, {"redirect_dir": "off", "xino": "on"}, {"metacopy": "on"}, {"userxattr": "on"})):
        of = driver(folder / str(number), **options)
        edit(of, place(1), BASE)
        of.commit(place(1))
        of.create(place(2, 1))
        words = [w for w in of.mounts(place(2, 1))[0].options if "dir=" not in w.replace("redirect_dir=", "") and "+" not in w]
        with mounted(of.mounts(place(2, 1)), folder / "mnt") as path:
            os.chmod(Path(path, "a", "one"), 0o600)
        found[",".join(options)] = tuple(words)
        copied = os.listxattr(of.fs(2) / "a" / "one")
        assert ("trusted.overlay.metacopy" in copied) == ("metacopy" in options)
        assert [c.path for c in changes_of(of, place(2, 1))] == [b"a/one"]
    return found


def test_options_are_said_to_the_kernel(box):
    assert box.call(asked) == {
        "": ("redirect_dir=on", "metacopy=off", "index=off"),
        "redirect_dir,xino": ("redirect_dir=off", "metacopy=off", "xino=on", "index=off"),
        "metacopy": ("redirect_dir=on", "metacopy=on", "index=off"),
        "userxattr": ("userxattr", "redirect_dir=nofollow", "metacopy=off", "index=off"),
    }


def remembered(folder: Path) -> list[str]:
    of = driver(folder)
    of.create(place(1))
    says = [of.namespace]
    other = "on" if of.namespace == "trusted" else "off"
    with pytest.raises(DriverError) as info:
        driver(folder, userxattr=other).create(place(2))
    says.append(str(info.value))
    (of.root / "attributes").write_text("trusted\n")
    with contextlib.suppress(DriverUnavailable):
        says.append(driver(folder).namespace)
    with contextlib.suppress(DriverUnavailable):
        (of.root / "attributes").write_text("user\n")
        says.append(driver(folder, redirect_dir="on").namespace)
    return says


def test_a_folder_keeps_its_namespace(box, user_box):
    root, user = box.call(remembered), user_box.call(remembered)
    assert (root[0], root[2:]) == ("trusted", ["trusted"])
    assert (user[0], user[2:]) == ("user", [])
    assert root[1].endswith("attributes of the namespace trusted, not user")


def probed(folder: Path, kind: type) -> tuple[bool, tuple[str, ...], list[str]]:
    probe = kind.probe(folder)
    assert mounts_below(folder) == []
    return probe.available, probe.reasons, os.listdir(folder)


@pytest.mark.parametrize("kind", [Overlay, OverlayUnion])
def test_a_probe_passes_and_leaves_nothing(any_box, kind):
    assert any_box.call(probed, kind) == (True, (), [])


def test_an_ordinary_user_is_told_why(nobody_box):
    available, reasons, left = nobody_box.call(probed, Overlay)
    assert (available, left) == (False, [])
    assert reasons == ("mounting needs CAP_SYS_ADMIN: run as root or under `unshare -rm`",)
    assert nobody_box.call(probed, OverlayUnion) == (True, (), [])


def nested(folder: Path) -> tuple[bool, tuple[str, ...], list[str]]:
    """Probe on an overlay, which can be no upper directory of another."""
    for name in ("a", "b", "upper", "work"):
        (folder / name).mkdir()
    options = (f"lowerdir+={folder}/a", f"lowerdir+={folder}/b", f"upperdir={folder}/upper", f"workdir={folder}/work")
    with mounted([Mount("overlay", "overlay", options)], folder / "mnt") as path:
        return probed(Path(path), Overlay)


def test_an_overlay_upon_an_overlay_is_refused(box):
    available, reasons, left = box.call(nested)
    assert (available, len(reasons), left) == (False, 1, [])
    assert reasons[0].startswith("an overlay cannot be mounted here: mount overlay: ")


def had(folder: Path) -> tuple[Any, list[str]]:
    found = features(folder)
    assert mounts_below(folder) == []
    return found, os.listdir(folder)


def test_features_are_tried(box, user_box):
    found, left = box.call(had)
    assert (found.namespace, found.redirect_dir, found.metacopy, found.index, left) == ("trusted", True, True, True, [])
    found, left = user_box.call(had)
    assert (found.namespace, found.redirect_dir, found.metacopy, left) == ("user", False, False, [])


def unseen(folder: Path) -> None:
    of = driver(folder, OverlayUnion)
    edit(of, place(1), BASE)
    with pytest.raises(DriverUnavailable), of.seen(place(1)):
        pass
    mount = of.mounts(place(1))[0]
    assert (mount.type, mount.read_only) == ("fuse.lamella", False)
    assert of.mounts(place(1, kind=COMMITTED))[0].read_only
    with pytest.raises(DriverUnavailable), mounted(of.mounts(place(1)), folder / "mnt"):
        pass
    assert os.listdir(folder / "mnt") == []


def test_a_union_has_no_path_without_fuse(nobody_box):
    nobody_box.call(unseen)
