"""What Docker makes of a branch of ours, packed as it lies on disk, and of the metadata that AUFS leaves in layers.

Its aufs driver applies a layer by untarring it, and tells one by packing the branch: the form on disk is the layer's.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import lamella
from lamella.drivers.aufs import AufsUnion
from lamella.drivers.base import Place
from lamella.model import SnapshotKind
from lamella.testing.editors import play, tree_of
from lamella.testing.listing import Found, compare, listing, subtree
from lamella.testing.tars import Member, directory, file, hardlink, layer_tar, opaque, whiteout
from lamella.testing.trees import Chmod, Dir, File, Hardlink, Remove, Script, Symlink, Write, build
from tests.image import dockerd
from tests.image.archives import archive

pytestmark = pytest.mark.requires("root", "dockerd", "tar")
NS = 10**9
# all below t/: a container's file system has files of the daemon's own beside it
BASE = Script((
    Dir("t"), Dir("t/d", mode=0o750), File("t/d/f", b"f" * 700, mtime_ns=3 * NS), Hardlink("t/d/g", "t/d/f"), Dir("t/e"), Hardlink("t/e/h", "t/d/f"),
    Symlink("t/ln", "d/f", mtime_ns=5 * NS), Dir("t/gone"), File("t/gone/x"), Dir("t/again"), File("t/again/old"), File("t/swap"), Dir("t/pawl"), File("t/pawl/p"),
), dir_mtime_ns=7 * NS)  # fmt: skip
UPPER = Script((
    Write("t/d/g", b"written", mtime_ns=9 * NS), Remove("t/ln"), Remove("t/gone"), Remove("t/again"), Dir("t/again", mode=0o711), File("t/again/new", b"n"),
    Remove("t/swap"), Dir("t/swap"), File("t/swap/in"), Remove("t/pawl"), File("t/pawl", b"file"), Chmod("t/e", 0o700),
), dir_mtime_ns=11 * NS)  # fmt: skip
METADATA: list[Member] = [
    Member(".wh..wh.aufs", "0", mode=0o444), directory(".wh..wh.orph", mode=0o700), directory(".wh..wh.plnk", mode=0o700),
    file(".wh..wh.plnk/12.34", b"pseudo link", mode=0o4711, uid=5, mtime_ns=13 * NS),
]  # fmt: skip


@pytest.fixture(scope="module")
def daemon(home: Path, worker: str) -> Iterator[dockerd.Daemon]:
    folder = home / f"docker-aufs-{worker}"
    folder.mkdir()
    try:
        with dockerd.running(folder, "vfs") as running:
            yield running
    finally:
        subprocess.run(["rm", "-rf", "--one-file-system", str(folder)], check=True)


def packed(branch: Path) -> bytes:
    """Pack a directory, whatever is in it, as GNU tar does."""
    argv = ["tar", "--format=posix", "--xattrs", "--numeric-owner", "-C", branch, "-cf", "-", "t", *sorted(p.name for p in branch.glob(".wh.*"))]
    return subprocess.run(argv, check=True, capture_output=True).stdout


def exported(daemon: dockerd.Daemon, folder: Path, *layers: bytes) -> dict[bytes, Found]:
    """Return what Docker makes of an image of these layers, below t/."""
    image = archive(*layers).write(folder / "image.tar")
    name = daemon.load(image).rpartition("sha256:")[2].partition('"')[0].partition("\\n")[0]
    (folder / "export.tar").write_bytes(daemon.export(f"sha256:{name}"))
    lamella.apply(folder / "export.tar", folder / "exported")
    return subtree(listing(folder / "exported"), b"t")


@pytest.mark.parametrize("state", ["active", "committed"])
def test_docker_reads_a_branch_as_we_do(scratch, daemon, state):
    (scratch / "root").mkdir()
    of, branches = AufsUnion(scratch / "root"), []
    for place, script in ((Place(1), BASE), (Place(2, (1,)), UPPER)):
        of.create(place)
        with of.union(place) as union:
            assert [answer for answer in play(union, script) if not answer.endswith("done")] == []
            if state == "active":  # with all that AUFS keeps in a branch
                (of.fs(place.id) / ".wh..wh.plnk").mkdir(exist_ok=True)
                branches.append(packed(of.fs(place.id)))
            tree = tree_of(union)
        of.commit(place)
        if state == "committed":
            branches.append(packed(of.fs(place.id)))
    assert (b".wh..wh.orph" in branches[1]) == (b".wh..wh.aufs" in branches[1]) == (state == "active")
    with of.union(Place(2, (1,), SnapshotKind.COMMITTED)) as union:
        assert compare(tree, tree_of(union)) == []
    assert compare(subtree(tree, b"t"), exported(daemon, scratch, *branches)) == []


def test_docker_reads_the_metadata_of_aufs_as_we_do(scratch, daemon):
    upper = [
        *METADATA, directory("t", mtime_ns=15 * NS), hardlink("t/p", ".wh..wh.plnk/12.34"), hardlink("t/q", ".wh..wh.plnk/12.34"), whiteout("t/swap"),
        directory("t/d", mtime_ns=16 * NS), opaque("t/d"), file("t/d/n", mtime_ns=17 * NS),
    ]  # fmt: skip
    base = build(scratch / "base")
    BASE.apply(base)
    layers = [packed(base), layer_tar(upper)]
    for layer in layers:
        lamella.apply(layer, scratch / "ours")
    ours = subtree(listing(scratch / "ours"), b"t")
    assert ours[b"t/p"].links == (b"t/p", b"t/q")
    theirs = exported(daemon, scratch, *layers)
    assert compare(ours, theirs, {"links"}) == []
    assert theirs[b"t/p"].links == ()  # Docker copies a pseudo-link for each name of it; they were names of one file
