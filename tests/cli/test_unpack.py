"""lamella unpack."""

from __future__ import annotations

import os

import pytest

import lamella as package
from lamella.image.unpack import UnpackResult
from tests.image.test_unpack import layout


@pytest.fixture
def made(scratch):
    return layout(scratch / "image").reference


def test_unpack(lamella, made, scratch):
    ran = lamella("unpack", made, scratch / "root", *([] if os.geteuid() == 0 else ["--rootless"]))
    assert ran.out.splitlines()[0] == f"unpacked {made} to {scratch / 'root'}"
    assert "3 layers, 21 entries, 5 files" in ran.out
    assert (scratch / "root/etc/conf").read_bytes() == b"new"


def test_unpack_json(lamella, made, scratch):
    document = lamella("unpack", made, scratch / "root", "--rootless", "--json").document
    assert (document["reference"], document["root"]) == (made, str(scratch / "root"))
    assert (document["entries"], document["files"], len(document["layers"])) == (21, 5, 3)
    assert document["layers"][1]["whiteouts"] == 1


def test_a_root_that_is_not_empty(lamella, failed, made, scratch):
    (scratch / "root").mkdir()
    (scratch / "root/mine").write_bytes(b"1")
    assert "not empty" in failed("unpack", made, scratch / "root").err
    lamella("unpack", made, scratch / "root", "--force", "--rootless")
    assert sorted(os.listdir(scratch / "root")) == ["etc", "lib", "mine", "usr"]


def test_every_option_reaches_the_engine(lamella, made, scratch, monkeypatch):
    seen = {}
    monkeypatch.setattr("lamella.image.image.Image.unpack", lambda self, root, **options: seen.update(options) or UnpackResult(()))
    argv = (
        "--dialect overlay:user --parent p1 --parent p2 --policy moby --map-uid 0:1000:1 --map-squash --xattrs none "
        "--rootless --keep-dirlinks --holes --sync file --workers 3 --force"
    )
    lamella("unpack", made, scratch / "root", *argv.split())
    del seen["progress"]
    assert seen == {
        "dialect": "overlay:user", "parents": ("p1", "p2"), "policy": "moby", "idmap": package.IdMap.parse("0:1000:1", squash=True),
        "xattrs": "none", "rootless": True, "keep_dirlinks": True, "holes": True, "sync": "file", "workers": 3, "force": True,
    }  # fmt: skip
