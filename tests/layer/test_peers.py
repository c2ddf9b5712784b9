"""Layers that we write, applied by other programs, make the tree that they were written of.

umoci and containers-storage (by skopeo) take images, whiteouts and all; GNU tar and bsdtar take single layers without.
Trees are compared by lamella.testing.listing, which has no code in common with the engine. Where a program makes
something else by design of its own, ``known`` says what, and why; everything else is equal.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lamella
from lamella.image.writer import LayoutWriter, image_config
from lamella.testing import strategies
from lamella.testing.listing import Found, compare, listing
from lamella.testing.tars import Member, char, directory, file, hardlink, layer_tar, opaque, symlink, whiteout
from lamella.testing.trees import (
    Chmod,
    Chown,
    Device,
    Dir,
    Edit,
    Fifo,
    File,
    Hardlink,
    Remove,
    Rename,
    Script,
    Symlink,
    Utime,
    Write,
    Xattr,
)
from tests.laws.ground import diff, expected, fresh, laid
from tests.layer import engines

pytestmark = pytest.mark.requires("root")
Tree = dict[bytes, Found]
NO_ID = 0xFFFF_FFFF
NS = 10**9


def acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)


ACCESS = {"system.posix_acl_access": acl((1, 6, NO_ID), (2, 4, 7), (4, 4, NO_ID), (16, 4, NO_ID), (32, 0, NO_ID))}
DEFAULT = {"system.posix_acl_default": acl((1, 7, NO_ID), (2, 7, 1000), (4, 5, NO_ID), (16, 7, NO_ID), (32, 0, NO_ID))}
CAPS = {"security.capability": struct.pack("<5I", 0x2000001, 1024, 0, 0, 0)}

EVERYTHING: tuple[Edit, ...] = (
    Dir("d", mode=0o751, uid=1, gid=2**21 + 1, mtime_ns=5 * NS + 3, xattrs={"user.d": b"1"}),
    File("d/f", b"x" * 700, mode=0o4711, uid=7, gid=8, mtime_ns=1_500_000_000_123_456_789, xattrs={"user.a": b"\0=\n", "trusted.t": b"t", **CAPS}),
    File("d/acl", b"1", mode=0o640, xattrs=ACCESS),
    Dir("d/inherit", xattrs=DEFAULT),
    Hardlink("d/hard", "d/f"),
    Hardlink("hard-too", "d/f"),
    Symlink("link", "d/f", uid=5, gid=6, mtime_ns=7 * NS + 1),
    Symlink("long-link", "t" * 200),
    Hardlink("link-too", "link"),
    Fifo("pipe", mode=0o622, mtime_ns=8 * NS + 5),
    Device("null", mode=0o666),
    Device("disk", kind="block", major=259, minor=70_000, mode=0o660, uid=3),
    File("n" * 255, b"long"),
    Dir("deep"), Dir("deep/" + "q" * 120), File("deep/" + "q" * 120 + "/" + "r" * 130, b"deep"),
    File(b"\xff\xfe \n", b"no text"),
    Dir(b"z\xc3"), File(b"z\xc3/" + b"\x80" * 110, b"long, and no text"),
    File("before", b"before", mtime_ns=-1_500_000_000),
    File("far", b"far", mtime_ns=2**33 * NS),
    File("ids", uid=NO_ID - 1, gid=3_000_000),
    File("half-empty", bytes(1 << 20) + b"middle" + bytes(1 << 20)),
    Dir("gone"), File("gone/a"), Dir("gone/b"), File("gone/b/c"),
    Dir("mixed", mtime_ns=11 * NS), File("mixed/kept", b"kept", mtime_ns=12 * NS), File("mixed/lost", b"lost"),
)  # fmt: skip
MORE: tuple[Edit, ...] = (
    Dir("new", mode=0o700, uid=9), File("new/f", b"new", mtime_ns=13 * NS + 7, xattrs=ACCESS), Symlink("new/l", "f"), Fifo("new/p"),
    Hardlink("new/hard", "new/f"), File("mixed/new", b"n", mtime_ns=-3 * NS), Device("new/null"), File("new/" + "w" * 200),
    Write("d/f", b"y" * 701), Chmod("pipe", 0o600), Chown("ids", 4, 5), Utime("link", 21 * NS + 1), Xattr("mixed/kept", "user.k", b"k"),
    Chmod("d", 0o700), Write("far", b"FAR", mtime_ns=None),
)  # fmt: skip
SWAPS: tuple[Edit, ...] = (
    File("deep", b"was a directory"), Symlink("null", "now-a-link"), Dir("long-link"), File("long-link/in", b"in"), Fifo("hard-too"),
    File("disk", b"was a device"), Symlink("gone", "mixed"),
)  # fmt: skip
LESS: tuple[Edit, ...] = (
    Remove("mixed/lost"), Remove("d/hard"), Remove("d/inherit"), Rename("n" * 255, "renamed"), Rename("d/acl", "acl"),
)  # fmt: skip
UNDRESSED = Xattr("d", "user.d")  # a directory that loses an attribute
UPPER = Script((*MORE, *SWAPS, *LESS), dir_mtime_ns=17 * NS + 4)


def image_of(where: Path, *trees: Path, **options: Any) -> Path:
    """Write an image with a layer for each step from nothing through the trees."""
    with LayoutWriter(where) as layout:
        steps = zip((None, *trees), trees, strict=False)
        infos = [layout.add_layer(lambda out, a=a, b=b: lamella.diff(a, b, out, **options)) for a, b in steps]
        layout.add_image(image_config([i.diff_id for i in infos]), [i.descriptor() for i in infos], "latest")
    return where


def wanted(lower: Path, upper: Path, data: bytes) -> Tree:
    """The upper tree, but for times of what a diff leaves as it is (items 55 and 58)."""
    with lamella.read_layer(data) as reader:
        emitted = set(reader.table().paths)
    return expected(listing(lower), listing(upper), emitted)


# -- images ---------------------------------------------------------------------------------------------------------


@pytest.mark.requires("umoci")
@pytest.mark.parametrize("options", [{"compression": "gzip"}, {"compression": "none", "sparse": "pax", "whiteouts": "opaque"}], ids=str)
def test_umoci(scratch, options):
    lower = laid(scratch / "lower", Script(EVERYTHING))
    upper = laid(scratch / "upper", Script(EVERYTHING), UPPER, Script((UNDRESSED,)))
    made = engines.unpacked_by_umoci(scratch, image_of(scratch / "image", lower, upper, **options))
    assert compare(wanted(lower, upper, diff(lower, upper)[1]), made) == []


def known_of_podman(tree: Tree) -> Tree:
    """Its vfs driver copies the lower layer, ACLs and shared inodes of symlinks excepted; times end at 1970 (59).

    And a directory over a directory keeps attributes that its new entry has not (28): no UNDRESSED here.
    """
    out = {}
    for path, row in tree.items():
        kept = tuple((n, v) for n, v in row.xattrs if not n.startswith(b"system.posix_acl_"))
        out[path] = row._replace(mtime_ns=max(row.mtime_ns, 0), xattrs=kept, links=() if row.type == "symlink" else row.links)
    return out


@pytest.mark.requires("skopeo")
def test_podman(scratch):
    lower, upper = laid(scratch / "lower", Script(EVERYTHING)), laid(scratch / "upper", Script(EVERYTHING), UPPER)
    made = engines.stored_by_podman(scratch, image_of(scratch / "image", lower, upper))
    target = wanted(lower, upper, diff(lower, upper)[1])
    # the root has no entry in the layers: 0555 and the clock's time are its own
    assert compare(known_of_podman(target), known_of_podman(listing(made)), ["root"]) == []


# -- archives -------------------------------------------------------------------------------------------------------

Extract = Callable[[Path, bytes], Path]


def known_of_bsdtar(tree: Tree) -> Tree:
    """It makes no ACL of an attribute, and adds the fraction of a time before 1970 instead of taking it away."""
    out = {}
    for path, row in tree.items():
        kept = tuple((n, v) for n, v in row.xattrs if not n.startswith(b"system.posix_acl_"))
        seconds, fraction = divmod(-row.mtime_ns, NS)
        out[path] = row._replace(xattrs=kept, mtime_ns=fraction - seconds * NS if row.mtime_ns < 0 else row.mtime_ns)
    return out


TARS = {"tar": (engines.gnu_tar, dict), "bsdtar": (engines.bsdtar, known_of_bsdtar)}
EACH_TAR = pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.requires(n)) for n in TARS])


@EACH_TAR
@pytest.mark.parametrize("options", [{"compression": "none"}, {"compression": "gzip", "sparse": "pax"}], ids=str)
def test_an_archive_of_a_whole_tree(scratch, name, options):
    extract, known = TARS[name]
    tree = laid(scratch / "tree", Script(EVERYTHING))
    _, data = diff(None, tree, **options)
    made = extract(scratch / "made", data)
    assert compare(known(listing(tree)), made, ["root"]) == []  # the root is as it was made here


@EACH_TAR
def test_an_archive_of_what_was_added_and_changed(scratch, name):
    extract, known = TARS[name]
    lower, upper = laid(scratch / "lower", Script(EVERYTHING)), laid(scratch / "upper", Script(EVERYTHING), Script(MORE, 17 * NS))
    extract(scratch / "made", diff(None, lower)[1])
    _, data = diff(lower, upper)
    assert b".wh." not in data
    made = extract(scratch / "made", data)
    # bsdtar gives a directory that is there its time before it makes the children
    ignored = ["root", "dir_mtime"] if name == "bsdtar" else ["root"]
    assert compare(known(wanted(lower, upper, data)), made, ignored) == []


@pytest.mark.requires("tar")
def test_gnu_tar_swaps_types_too(scratch):
    lower, upper = laid(scratch / "lower", Script(EVERYTHING)), laid(scratch / "upper", Script(EVERYTHING), Script(SWAPS, 17 * NS))
    made = engines.gnu_tar(scratch / "made", diff(None, lower)[1])
    _, data = diff(lower, upper)
    engines.gnu_tar(made, data, ["--recursive-unlink"])  # it empties directories that are merged, too: here are none
    assert compare(wanted(lower, upper, data), made, ["root"]) == []


# -- any trees ------------------------------------------------------------------------------------------------------

FEW = settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


@pytest.mark.requires("umoci")
@FEW
@given(st.data())
def test_any_two_trees_by_umoci(home, data):
    tree = data.draw(strategies.trees(privileged=True))
    edits = data.draw(strategies.edit_scripts(tree, privileged=True))
    with fresh(home) as folder:
        lower, upper = laid(folder / "lower", tree), laid(folder / "upper", tree, edits)
        image = image_of(folder / "image", lower, upper, content="always")
        made = engines.unpacked_by_umoci(folder, image)
        assert compare(wanted(lower, upper, diff(lower, upper, content="always")[1]), made, ["root"]) == []


@EACH_TAR
@FEW
@given(st.data())
def test_any_tree_by_a_tar(home, name, data):
    extract, known = TARS[name]
    with fresh(home) as folder:
        tree = laid(folder / "tree", data.draw(strategies.trees(privileged=True)))
        _, archive = diff(None, tree)
        assert compare(known(listing(tree)), extract(folder / "made", archive), ["root"]) == []



# -- the presets ----------------------------------------------------------------------------------------------------

BASE = [
    directory("real", mtime_ns=5 * NS), file("real/x", b"x"), file("real/v"), symlink("ln", "real"), file("f", b"f"),
    directory("dir", mtime_ns=7 * NS, xattrs={"user.old": b"1"}), file("dir/a"), file("dir/b"),
]  # fmt: skip
AUFS = [file(".wh..wh.aufs"), directory(".wh..wh.plnk"), file(".wh..wh.plnk/1.2", b"p"), hardlink("pl", ".wh..wh.plnk/1.2")]
CASES = {
    "whiteout first": [whiteout("f"), file("f", b"2")],
    "whiteout last": [file("f", b"2"), whiteout("f")],
    "whiteout of a new name": [file("g", b"2"), whiteout("g")],
    "whiteout below nothing": [whiteout("nodir/x")],
    "whiteout through a link": [whiteout("ln/x")],
    "opaque first": [opaque("dir"), file("dir/n")],
    "opaque last": [directory("dir", xattrs={"user.old": b"1"}), file("dir/n"), opaque("dir")],
    "opaque last, no entry": [file("dir/n"), opaque("dir")],
    "opaque last, implied": [file("dir/s/n"), file("dir/n"), opaque("dir")],
    "no parents": [file("p/q/f")],
    "through a link": [file("ln/n", b"n")],
    "directory over a link": [directory("ln"), file("ln/z")],
    "duplicates": [file("n", b"1"), file("n", b"2")],
    "link to a lower file": [hardlink("h", "real/x")],
    "link with metadata": [file("n", b"1", uid=1, mode=0o600), hardlink("m", "n", uid=2, mode=0o640, mtime_ns=9 * NS)],
    "before 1970": [file("n", mtime_ns=-5 * NS)],
    "in 2446": [file("n", mtime_ns=15_000_000_000 * NS)],
    "nanoseconds": [file("n", mtime_ns=1_500_000_000_123_456_789)],
    "trusted": [file("n", xattrs={"trusted.x": b"1", "user.y": b"2"})],
    "default ACL": [directory("ad", xattrs=DEFAULT), file("ad/f"), directory("ad/d")],
    "0:0 device": [char("z", 0, 0)],
    "child added": [file("dir/n")],
    "child deleted": [whiteout("dir/a")],
    "directory again": [directory("dir", mtime_ns=9 * NS, xattrs={"user.new": b"1"})],
    "below a file": [file("f/x/y", b"1")],
    "file to directory": [directory("f"), file("f/x")],
    "directory to file": [file("dir", b"1")],
    "root": [Member("./", "5", mode=0o711, uid=1, mtime_ns=11 * NS)],
    "AUFS": AUFS,
}  # fmt: skip
NEVER_PLNK = "17: metadata of AUFS makes no path"
# what no field of Policy is about, or what the installed version does in another way than the one that was read
KNOWN = {
    "umoci": {
        "no parents": "an implied directory has the clock's time there, ours has none",
        "opaque last, implied": "as before",
        "in 2446": "its time overflows, and wraps",
        "below a file": "0.4.7 refuses; later versions put a directory there, as the preset does",
        "AUFS": NEVER_PLNK,
    },
    "podman": {
        "no parents": "an implied directory has the clock's time there, ours has none",
        "opaque last, implied": "it knows entries by their names alone, and takes away dir/s, which has none, with what is in it (4)",
        "whiteout below nothing": "it makes the directory of the whiteout; ours is a no-op (10)",
        "default ACL": "it lets files inherit the ACL (109)",
        "directory again": "it leaves stale attributes (28)",
        "root": "the root keeps the clock's time",
        "AUFS": NEVER_PLNK,
    },
}


def outcome(make: Callable[[], Path], since: int) -> Tree | str:
    """The tree, with -1 for times of the clock, or that the layer is refused."""
    try:
        tree = listing(make())
    except (engines.Refused, lamella.errors.LamellaError):
        return "refused"
    return {path: row._replace(mtime_ns=-1) if row.mtime_ns >= since and row.type == "dir" else row for path, row in tree.items()}


def ours(where: Path, policy: str, layers: list[bytes]) -> Path:
    for layer in layers:
        lamella.apply(layer, where, policy=policy)
    return where


def preset_cases() -> list[Any]:
    marks = {"umoci": pytest.mark.requires("umoci"), "podman": pytest.mark.requires("skopeo")}
    return [
        pytest.param(preset, case, id=f"{preset}-{case}", marks=marks[preset])
        for preset in marks for case in CASES
    ]  # fmt: skip


@pytest.mark.parametrize(("preset", "case"), preset_cases())
def test_a_preset_is_what_the_engine_does(scratch, preset, case):
    since = time.time_ns()
    layers = [layer_tar(BASE), layer_tar(CASES[case])]
    theirs = outcome(lambda: getattr(engines, preset)(scratch, *layers), since)
    mine = outcome(lambda: ours(scratch / "ours", preset, layers), since)
    if case in KNOWN[preset]:
        assert mine != theirs, f"no difference any more: {KNOWN[preset][case]}"
    elif isinstance(mine, str) or isinstance(theirs, str):
        assert mine == theirs
    else:
        # without an entry the root is 0555 to containers-storage, and its time is the clock's
        assert compare(theirs, mine, ["root"] if case != "root" else []) == []
