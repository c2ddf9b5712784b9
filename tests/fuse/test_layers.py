"""Layers of an image mounted with nothing unpacked: what is shown, what is read, what is kept of compressed ones."""

from __future__ import annotations

import errno
import gzip
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import zstandard

import lamella
from lamella.drivers._run import detach, mounted
from lamella.errors import DigestMismatchError, UnsafePathError
from lamella.fuse.layers import LayersTree
from lamella.fuse.spool import Spool
from lamella.fuse.stored import StoredLayer
from lamella.image.writer import LayoutWriter, image_config
from lamella.model import DiffID, Mount
from lamella.testing.listing import compare
from lamella.testing.tars import char, directory, file, hardlink, layer_tar, opaque, symlink, whiteout
from lamella.testing.trees import File, Hole, build

LOWER = layer_tar([
    directory("etc", mode=0o751), file("etc/conf", b"one" * 9000), directory("usr"), file("usr/a", b"a"), hardlink("usr/b", "usr/a"),
    file("gone", b"soon"), symlink("bin", "usr"), directory("old"), file("old/x", b"x"),
])  # fmt: skip
UPPER = layer_tar([whiteout("gone"), file("etc/conf", b"two"), opaque("old"), file("bin/late", b"through the link"), file(b"\xff\n", b"n")])


def written(folder: Path, *blobs: bytes) -> list[str]:
    folder.mkdir(exist_ok=True)
    for number, blob in enumerate(blobs):
        (folder / f"{number}").write_bytes(blob)
    return [f"{folder}/{number}" for number in reversed(range(len(blobs)))]  # nearest first


def mount_of(folder: Path, *words: str) -> Mount:
    return Mount("fuse.lamella", "image", ("ro", *words, f"spool={folder}/spool"))


def shown(folder: Path) -> list[Any]:
    """Mount layers of each codec, and compare with what applying them makes."""
    for layer in (LOWER, UPPER):
        lamella.apply(layer, folder / "root")
    found: list[Any] = []
    for name, pack in (("plain", bytes), ("gzip", gzip.compress), ("zstd", zstandard.ZstdCompressor().compress)):
        words = [f"layer+={word}" for word in written(folder / name, pack(LOWER), pack(UPPER))]
        with mounted([mount_of(folder, *words)], folder / "mnt") as path:
            found += compare(folder / "root", path, ignore=("root",))
            assert Path(path, "bin/late").read_bytes() == b"through the link"
            with pytest.raises(OSError, match="Read-only"):
                Path(path, "new").write_bytes(b"")
    return found


@pytest.mark.requires("fuse")
@pytest.mark.parametrize("where", ["box", "user_box"])
def test_layers_show_what_applying_them_makes(request, where):
    assert request.getfixturevalue(where).call(shown) == []


def placed(folder: Path) -> bytes:
    """Mount layers that lie in the middle of a file, as those of an archive do."""
    (folder / "archive").write_bytes(b"?" * 1000 + LOWER + b"!" * 1000 + UPPER)
    places = (1000, len(LOWER)), (2000 + len(LOWER), len(UPPER))
    words = [f"layer+={begin}:{size}::{folder}/archive" for begin, size in reversed(places)]
    with mounted([mount_of(folder, *words)], folder / "mnt") as path:
        return Path(path, "etc/conf").read_bytes() + Path(path, "usr/b").read_bytes()


@pytest.mark.requires("fuse")
def test_layers_in_the_middle_of_a_file(box):
    assert box.call(placed) == b"twoa"


def holes(folder: Path) -> tuple[bool, list[int], list[int]]:
    build(folder / "tree", File("f", b"x" * 5000), Hole("f", 100_000, 300_000), File("end", b""), Hole("end", 0, 70_000))
    lamella.diff(None, folder / "tree", folder / "layer", compression="none", sparse="pax")
    with mounted([mount_of(folder, f"layer+={folder}/layer")], folder / "mnt") as path:
        same = all(Path(path, name).read_bytes() == (folder / "tree" / name).read_bytes() for name in ("f", "end"))
        with open(f"{path}/f", "rb") as one, open(folder / "tree/f", "rb") as other:
            seeks = [[os.lseek(each.fileno(), 0, how) for how in (os.SEEK_DATA, os.SEEK_HOLE)] for each in (one, other)]
    return same, *seeks


@pytest.mark.requires("fuse")
def test_holes_are_holes(box):
    same, ours, theirs = box.call(holes)
    assert same
    assert ours == theirs


def damaged(folder: Path) -> list[Any]:
    """Mount a layer whose content is not what its diff_id says."""
    (word,) = written(folder / "blobs", gzip.compress(LOWER))
    place = f"0:{os.path.getsize(word)}:sha256:{'0' * 64}:{word}"
    found: list[Any] = []
    with mounted([mount_of(folder, f"layer+={place}")], folder / "mnt") as path:
        found.append(os.path.getsize(f"{path}/etc/conf"))
        for _ in range(2):
            try:
                Path(path, "etc/conf").read_bytes()
            except OSError as error:
                found.append(error.errno)
    return [*found, os.listdir(folder / "spool")]


@pytest.mark.requires("fuse")
def test_a_layer_that_is_another_one_is_not_read(box):
    assert box.call(damaged) == [27_000, errno.EIO, errno.EIO, []]


def test_attributes_of_a_union_are_shown_as_it_keeps_them(scratch):
    layer = layer_tar([directory("d", xattrs={b"trusted.overlay.opaque": b"y", b"user.k": b"v"})])
    (word,) = written(scratch / "blobs", layer)
    for escaped, name in (((), b"trusted.overlay.opaque"), ((b"trusted.overlay.",), b"trusted.overlay.overlay.opaque")):
        tree = LayersTree([StoredLayer.of(word)], Spool(scratch / "spool", 1), escaped=escaped)
        assert sorted(tree.listxattr(b"d")) == sorted([name, b"user.k"])
        assert tree.getxattr(b"d", name) == b"y"
        tree.close()


def test_a_device_that_a_union_would_take_for_a_whiteout(scratch):
    (word,) = written(scratch / "blobs", layer_tar([char("c", 0, 0)]))
    assert LayersTree([StoredLayer.of(word)], Spool(scratch / "spool", 1)).look(b"c") is not None
    with pytest.raises(UnsafePathError, match="whiteout"):
        LayersTree([StoredLayer.of(word)], Spool(scratch / "spool", 1), escaped=[b"user.overlay."])


# -- the spool


def blob(folder: Path, nbytes: int, fill: bytes) -> tuple[StoredLayer, DiffID]:
    layer = layer_tar([file("f", fill * nbytes)])
    (folder / fill.decode()).write_bytes(gzip.compress(layer))
    stored = StoredLayer.of(str(folder / fill.decode()))
    stored.diff_id = DiffID.of(layer)
    return stored, stored.diff_id


def test_what_was_not_used_for_longest_goes_first(scratch):
    spool = Spool(scratch / "spool", 300_000)
    layers = [blob(scratch, 90_000, fill) for fill in (b"a", b"b", b"c")]
    for number, (stored, diff_id) in enumerate(layers):
        assert spool.find(diff_id) is None
        held = spool.fill(stored.source(), diff_id)
        os.utime(scratch / "spool" / f"{diff_id.hex}.tar", (number, number))
        assert os.pread(held.fd, 1, 600) == stored.name[-1:].encode()
    assert spool.find(layers[0][1]) is not None  # used
    stored, diff_id = blob(scratch, 90_000, b"d")
    spool.fill(stored.source(), diff_id)
    assert [spool.find(each) is not None for _, each in layers] == [True, False, True]
    assert len(os.listdir(scratch / "spool")) == 3


def test_what_a_process_that_died_left_in_the_making_goes(scratch):
    spool = Spool(scratch / "spool", 300_000)
    spool.folder.mkdir()
    for name, age in ((".new-old", 2 * 3600), (".new-young", 60)):
        (spool.folder / name).write_bytes(b"part")
        os.utime(spool.folder / name, (time.time() - age,) * 2)
    stored, diff_id = blob(scratch, 90_000, b"a")
    spool.fill(stored.source(), diff_id)
    assert sorted(os.listdir(spool.folder)) == sorted([".new-young", f"{diff_id.hex}.tar"])


def test_a_layer_that_is_too_large_is_not_kept(scratch):
    stored, diff_id = blob(scratch, 90_000, b"a")
    with pytest.raises(OSError, match="more than 50000 bytes"):
        Spool(scratch / "spool", 50_000).fill(stored.source(), diff_id)
    with pytest.raises(DigestMismatchError):
        Spool(scratch / "spool", 500_000).fill(stored.source(), DiffID("sha256:" + "0" * 64))
    assert os.listdir(scratch / "spool") == []


# -- the command


def lamella_(*words: object) -> str:
    done = subprocess.run([sys.executable, "-m", "lamella", *map(str, words)], capture_output=True, text=True, check=False)
    return done.stdout or done.stderr


def commanded(folder: Path) -> dict[str, Any]:
    """Mount an image by the command, read-only and to be changed, and look at what the changes leave."""
    (folder / "mnt").mkdir()
    for layer in (LOWER, UPPER):
        lamella.apply(layer, folder / "root")
    lamella.diff(None, folder / "root", folder / "layer")
    with LayoutWriter(folder / "image") as layout:
        info = layout.add_layer(lambda out: lamella.diff(None, folder / "root", out))
        layout.add_image(image_config([info.diff_id]), [info.descriptor()], "x")
    ref, target, spool = f"oci:{folder}/image:x", folder / "mnt", ("--spool", folder / "spool")
    found: dict[str, Any] = {"said": lamella_("mount", *spool, ref, target).replace(str(folder), "")}
    found["same"] = compare(folder / "root", target, ignore=("root",))
    detach(target)
    lamella_("mount", *spool, "--rw", folder / "upper", ref, target)
    found["before"] = compare(folder / "root", target, ignore=("root",))
    (target / "etc/conf").write_bytes(b"three")
    (target / "usr/a").unlink()
    os.rename(target / "old", target / "moved")
    found["mounts"] = Path("/proc/self/mountinfo").read_text().count(" fuse.lamella ")
    detach(target)
    with lamella.open_image(ref) as image:
        image.unpack(folder / "lower")
    changed = lamella.changes_from_upper(folder / "upper", [folder / "lower"])
    found["changes"] = [(change.kind.name, change.path) for change in changed]
    found["again"] = lamella_("mount", *spool, "--rw", folder / "upper", ref, target).startswith("mounted")
    found["kept"] = (target / "etc/conf").read_bytes(), (target / "moved").is_dir(), (target / "usr/a").exists()
    detach(target)
    return found


@pytest.mark.requires("fuse")
def test_the_command_mounts_an_image(box):
    found = box.call(commanded, timeout=60)
    assert found["said"] == "mounted oci:/image:x at /mnt\n"
    assert (found["same"], found["before"]) == ([], [])
    assert found["mounts"] == 1  # the image's own has no name
    assert found["changes"] == [("MODIFY", b"etc/conf"), ("ADD", b"moved"), ("DELETE", b"old"), ("DELETE", b"usr/a")]
    assert found["again"]
    assert found["kept"] == (b"three", True, False)
