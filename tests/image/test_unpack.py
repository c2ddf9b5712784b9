"""An image unpacks to the tree that umoci makes of it, verified, whole or not at all."""

from __future__ import annotations

import gzip
import os
import subprocess

import pytest
import zstandard

from lamella import open_image
from lamella.errors import BlobNotFound, DigestMismatchError
from lamella.testing.listing import compare, listing
from lamella.testing.tars import directory, file, hardlink, layer_tar, opaque, symlink, whiteout
from tests.image.archives import archive
from tests.image.layouts import LAYER, HandMade

BIG = bytes(range(256)) * 4_000
STACK = [
    [
        directory("usr"), directory("usr/lib", mtime_ns=1_600_000_000_000_000_001), symlink("lib", "usr/lib"),
        file("usr/lib/one", BIG, mode=0o755), hardlink("usr/lib/two", "usr/lib/one"), file("usr/lib/gone", BIG),
        directory("etc"), file("etc/conf", b"old", xattrs={b"user.a": b"1"}), directory("etc/d"), file("etc/d/lower", BIG),
        file("usr/lib/first", b"3"), hardlink("usr/lib/second", "usr/lib/first"),
    ],
    [directory("usr"), directory("usr/lib"), whiteout("usr/lib/gone"), file("usr/lib/first", b"replaced")],
    [directory("etc", mode=0o750), file("etc/conf", b"new"), directory("etc/d"), opaque("etc/d"), file("etc/d/upper", b"1")],
]  # fmt: skip
TARS = [layer_tar(layer) for layer in STACK]
COMPRESS = {"": bytes, "+gzip": gzip.compress, "+zstd": zstandard.compress}
AS_ROOT = os.geteuid() == 0


def layout(path, suffix="+gzip", tars=TARS):
    made = HandMade(path, tars=list(tars))
    layers = [made.blob(COMPRESS[suffix](tar)) | {"mediaType": LAYER + suffix} for tar in tars]
    made.manifest = {"layers": layers}
    return made.write()


@pytest.mark.parametrize("suffix", COMPRESS)
def test_it_is_all_there(scratch, suffix):
    with open_image(layout(scratch / "image", suffix).reference) as image:
        result = image.unpack(scratch / "root", rootless=not AS_ROOT)
        assert [layer.diff_id for layer in result.layers] == list(image.diff_ids)
        assert [layer.digest for layer in result.layers] == [layer.digest for layer in image.layers]
    made = listing(scratch / "root")
    assert (made[b"etc"].mode, made[b"usr/lib"].mtime_ns, made[b"lib"].target) == (0o750, 1_600_000_000 * 10**9, b"usr/lib")
    assert made[b"usr/lib/one"].links == (b"usr/lib/one", b"usr/lib/two")
    assert (scratch / "root/usr/lib/second").read_bytes() == b"3"
    assert not {b"usr/lib/gone", b"etc/d/lower"} & set(made)
    assert (result.entries, result.files, result.warnings) == (21, 5, ())
    assert result.bytes_written == len(BIG) + len(b"replaced" + b"new" + b"1" + b"3")


@pytest.mark.requires("umoci", "root")
def test_umoci_makes_the_same_tree(scratch):
    made = layout(scratch / "image")
    with open_image(made.reference) as image:
        image.unpack(scratch / "root")
    subprocess.run(["umoci", "raw", "unpack", "--image", f"{scratch / 'image'}:latest", scratch / "theirs"], check=True)
    assert compare(scratch / "root", scratch / "theirs", ignore=["root"]) == []


def test_an_archive_unpacks_as_well(scratch):
    path = archive(*TARS).write(scratch / "image.tar")
    with open_image(f"docker-archive:{path}") as image, open_image(layout(scratch / "image").reference) as other:
        image.unpack(scratch / "a", rootless=not AS_ROOT)
        other.unpack(scratch / "b", rootless=not AS_ROOT)
    assert compare(scratch / "a", scratch / "b", ignore=["root"]) == []


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_damaged_blob_leaves_nothing(scratch, which):
    made = layout(scratch / "image")
    with open_image(made.reference) as image:
        stored = made.stored(image.layers[which].digest)
        data = bytearray(stored.read_bytes())
        data[-9] ^= 1  # in the trailer of the gzip member or before: some layer's bytes or digest are wrong
        stored.write_bytes(data)
        with pytest.raises((DigestMismatchError, ValueError)):
            image.unpack(scratch / "root", rootless=not AS_ROOT)
    assert [p.name for p in scratch.iterdir()] == ["image"]


def test_a_diff_id_that_lies_is_refused(scratch):
    """113: skopeo accepts it."""
    made = HandMade(scratch / "image", tars=[TARS[0]])
    made.config = {"rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]}}
    made.write()
    with open_image(made.reference) as image, pytest.raises(DigestMismatchError):
        image.unpack(scratch / "root", rootless=not AS_ROOT)
    assert [p.name for p in scratch.iterdir()] == ["image"]


def test_a_layer_that_is_not_there(scratch):
    made = layout(scratch / "image")
    with open_image(made.reference) as image:
        made.stored(image.layers[1].digest).unlink()
        with pytest.raises(BlobNotFound):
            image.unpack(scratch / "root", rootless=not AS_ROOT)
    assert [p.name for p in scratch.iterdir()] == ["image"]


def test_what_is_there_is_not_touched_unless_forced(scratch):
    (scratch / "root").mkdir()
    (scratch / "root/mine").write_bytes(b"1")
    with open_image(layout(scratch / "image").reference) as image:
        with pytest.raises(FileExistsError):
            image.unpack(scratch / "root", rootless=not AS_ROOT)
        assert os.listdir(scratch / "root") == ["mine"]
        image.unpack(scratch / "root", rootless=not AS_ROOT, force=True)
        assert sorted(os.listdir(scratch / "root")) == ["etc", "lib", "mine", "usr"]
        with pytest.raises(ValueError, match="dialect"):
            image.unpack(scratch / "other", dialect="zfs")
        with pytest.raises(ValueError, match="policy"):
            image.unpack(scratch / "other", policy="nobody's")


def test_an_empty_root_keeps_what_it_is(scratch):
    (scratch / "root").mkdir(mode=0o710)
    os.utime(scratch / "root", ns=(7, 7))
    with open_image(layout(scratch / "image").reference) as image:
        image.unpack(scratch / "root", rootless=not AS_ROOT)
    assert (listing(scratch / "root")[b""].mode, listing(scratch / "root")[b""].mtime_ns) == (0o710, 7)
