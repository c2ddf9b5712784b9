"""The road image -> tree, -> one layer, and -> store, beside umoci, skopeo, containerd, tar, bsdtar, tarfile and oci-squash."""

from __future__ import annotations

import dataclasses

import pytest

from lamella.bench import image_corpus, image_tasks, snapshots, uppers
from lamella.bench.stacks import Synthetic
from tests import parts

pytestmark = pytest.mark.slow
ALONE = ("root", "unshare", "mount", "overlay")
HEAVY = {"docker-squash", "oci-squash"}  # they come with the extra that `make bench` installs, not with the tests'


@pytest.fixture(scope="session")
def image(home, enabled):
    """Give a small image, as `--quick` makes it, or a tiny one."""
    folder = home / "image"
    folder.mkdir()
    if enabled:
        return image_corpus.image_corpus(folder, quick=True)
    tiny = image_corpus.synthetic_base(Synthetic(600, 2_000))
    return image_corpus.ImageCorpus(**image_corpus.make_image(folder, quick=True, base=tiny))


def test_unpack_gzip(measured, image, ground):
    parts.requires(*ALONE, "igzip", "bsdtar", "umoci", "skopeo", "containerd", "ctr")
    measured(image_tasks.unpack_gzip(image, ground))


def test_unpack_zstd(measured, image, tmpfs):
    parts.requires(*ALONE, "zstd")
    measured(image_tasks.unpack_zstd(image, tmpfs))


def test_squash(measured, image, tmpfs):
    panel = image_tasks.squash(image, tmpfs)
    measured(dataclasses.replace(panel, contenders=tuple(c for c in panel.contenders if c.name not in HEAVY)))


def test_import(measured, image, ground):
    parts.requires(*ALONE, "skopeo", "containerd", "ctr")
    measured(image_tasks.imports(image, ground))


def test_import_on_btrfs(measured, image, btrfs):
    parts.requires(*ALONE, "skopeo")
    measured(image_tasks.imports(image, btrfs))


def test_mount(measured, image, tmpfs):
    parts.requires(*ALONE, "fuse")
    measured(snapshots.mount_image(image, tmpfs))


def test_upper(measured, tmpfs):
    parts.requires(*ALONE)
    measured(uppers.upper_diff(tmpfs, quick=True))
