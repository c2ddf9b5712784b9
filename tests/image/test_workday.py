"""A working day with an image: verify, unpack, edit, diff, append, save; what is unpacked in the end is the edited tree."""

from __future__ import annotations

import pytest

import lamella
from lamella.image.writer import LayoutWriter, image_config
from lamella.testing.listing import compare, listing
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
    Write,
    Xattr,
)

pytestmark = pytest.mark.requires("root")
NS = 10**9
DAYS: list[tuple[Edit, ...]] = [
    (
        Dir("etc"), File("etc/passwd", b"root"), Dir("usr"), Dir("usr/bin"), File("usr/bin/su", b"su", mode=0o4755),
        Hardlink("usr/bin/sudo", "usr/bin/su"), Symlink("bin", "usr/bin"), Dir("var", xattrs={"user.x": b"1"}), File("var/log", b"l" * 5000),
        Fifo("pipe"), Device("null"), File(b"\xff", b"no text"), Dir("gone"), File("gone/a", b"a"),
    ),
    (
        Write("etc/passwd", b"root me"), Remove("gone"), Chmod("usr/bin/su", 0o755), Dir("new"), File("new/f", b"f", mtime_ns=5 * NS + 7),
        Rename("var/log", "var/old"), Chown("pipe", 4, 5),
    ),
    (
        Remove("bin"), Dir("bin"), File("bin/sh", b"sh"), Hardlink("new/h", "usr/bin/sudo"), Xattr("var", "user.x", None),
        Remove("null"), Symlink("null", "bin"), Remove("new/f"), File("etc/shadow", mode=0o600),
    ),
]  # fmt: skip


def started(folder):
    """Write an image of the first two days; return its reference, and the tree."""
    days = [Script(edits, dir_mtime_ns=(i + 1) * NS) for i, edits in enumerate(DAYS[:2])]
    tree = folder / "tree"
    tree.mkdir()
    with LayoutWriter(folder / "image") as layout:
        infos = []
        for i, day in enumerate(days):
            lower = folder / f"root{i - 1}" if i else None
            day.apply(tree)
            info = layout.add_layer(lambda out, lower=lower: lamella.diff(lower, tree, out, dir_mtime=True))
            infos.append(info)
            for j in range(i + 1):
                blob = folder / "image/blobs/sha256" / infos[j].digest[7:]
                lamella.apply(blob, folder / f"root{i}", expected_diff_id=infos[j].diff_id)
        config = image_config([info.diff_id for info in infos], history=[{"created_by": "day"}] * 2)
        layout.add_image(config, [info.descriptor() for info in infos], "latest")
    return f"oci:{folder}/image:latest", tree


@pytest.mark.parametrize("target", ["oci:{}/again:v2", "docker-archive:{}/again.tar:app:v2"])
@pytest.mark.parametrize("compression", [None, "gzip", "zstd", "none"])
@pytest.mark.parametrize("squashed", [False, True])
def test_a_working_day(scratch, target, compression, squashed):
    reference, tree = started(scratch)
    target = target.format(scratch)
    with lamella.open_image(reference) as image:
        assert image.verify() == []
        image.unpack(scratch / "root")
        assert compare(tree, scratch / "root") == []
        Script(DAYS[2], dir_mtime_ns=9 * NS).apply(tree)
        info = lamella.diff(scratch / "root", tree, scratch / "layer", dir_mtime=True)
        with image.append(scratch / "layer", created_by="a day's work") as edited:
            assert edited.diff_ids[-1] == info.diff_id
            if squashed:
                with edited.squash() as one:
                    one.save(target, compression=compression)
            else:
                edited.save(target, compression=compression)
    with lamella.open_image(target) as again:
        assert again.verify() == []
        assert len(again.layers) == (1 if squashed else 3)
        again.unpack(scratch / "end")
    assert compare(listing(tree), listing(scratch / "end")) == []
