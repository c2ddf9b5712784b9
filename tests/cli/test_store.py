"""The commands ``drivers`` and ``store``, over vfs, which mounts nothing; and what the drivers say to whom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lamella import open_image
from tests.cli import probing
from tests.image.archives import BASE, UPPER
from tests.image.layouts import HandMade
from tests.sandbox import box, nobody_box, user_box

__all__ = ["box", "nobody_box", "user_box"]


@pytest.fixture
def store(lamella, scratch):
    """Give ``store(*words)``: a command on a vfs store that has an image; the document it printed."""
    reference = HandMade(scratch / "image", tars=[BASE, UPPER]).write().reference

    def run(*words: object) -> Any:
        ran = lamella("store", "--driver", "vfs", scratch / "store", *words, "--json")
        assert ran.status == 0, ran.err
        return json.loads(ran.out)

    run.image = reference
    run.top = run("import", reference)["name"]
    return run


def test_from_an_image_to_an_image(store, scratch):
    assert store("prepare", "work", store.top) == {"key": "work"}
    path = Path(store("mount", "work")["path"])
    (path / "mine").write_text("mine")
    assert store("changes", "work") == {"changes": [{"path": "mine", "kind": "add"}]}
    listed = store("ls")
    assert [s["kind"] for s in listed["snapshots"]] == ["committed", "committed", "active"]
    assert [s["mounted"] for s in listed["snapshots"]] == [False, False, True]
    assert listed["driver"] == "vfs"
    store("umount", "work")
    store("commit", "done", "work")
    written = store("diff", "done", "-o", scratch / "layer.tar.gz")
    store("export", "done", f"oci:{scratch / 'out'}:x")
    with open_image(f"oci:{scratch / 'out'}:x") as out:
        assert (out.verify(), len(out.layers), out.diff_ids[-1]) == ([], 3, written["diff_id"])
    (tree,) = store("ls", "--tree")["snapshots"]
    assert tree["children"][0]["children"][0]["key"] == "done"
    usage = store("usage", "done")
    assert usage["exclusive"]["inodes"] > 0
    assert usage["shared"]["inodes"] > 0
    assert store("check") == {"problems": []}
    store("rm", "done")
    store("rm", store.top)
    assert len(store("gc")["snapshots"]) == 1


def test_a_view_and_the_words_for_people(store, lamella, scratch):
    store("view", "look", store.top)
    for words in (("ls",), ("ls", "--tree"), ("usage", "look"), ("changes", "look"), ("check",), ("gc",)):
        ran = lamella("store", scratch / "store", *words)
        assert (ran.status, ran.err) == (0, "")
    assert "view" in lamella("store", scratch / "store", "ls").out


def test_what_fails_says_so_in_one_line(lamella, store, scratch):
    for words in (("rm", "nothing"), ("prepare", "x", "nothing"), ("commit", "x", store.top), ("rm", store.top[:9])):
        ran = lamella("store", scratch / "store", *words)
        assert ran.status == 1
        assert ran.out == ""
        assert ran.err.count("\n") == 1
    other = lamella("store", "--driver", "overlay", scratch / "store", "ls")
    assert "vfs/kernel" in other.err
    assert lamella("store", "--option", "x", scratch / "store", "ls").status == 2


def test_drivers(lamella, scratch):
    ran = lamella("drivers", scratch, "--json")
    found = {(d["name"], d["backend"]): d for d in ran.document["drivers"]}
    assert {("overlay", "kernel"), ("overlay", "userspace"), ("vfs", "kernel")} <= set(found)
    assert found["vfs", "kernel"] == {"name": "vfs", "backend": "kernel", "available": True, "reasons": [], "features": {}}
    assert "vfs/kernel: available" in lamella("drivers", scratch).out
    assert sorted(scratch.iterdir()) == []


@pytest.mark.requires("overlay", "root")
def test_drivers_tell_the_features_of_those_that_can_work(box):
    told = box.call(probing.featured)
    assert told["overlay/kernel"] == {**told["tried"], "namespace": "trusted"}
    assert set(told["tried"]) == {"namespace", "redirect_dir", "metacopy", "index", "xino"}
    assert told["tried"]["redirect_dir"] is True
    assert told["left"] == []


@pytest.mark.requires("overlay", "root")
def test_a_trial_that_fails_is_told(box):
    told = box.call(probing.unfeatured)
    assert told["features"] == {}
    assert told["reasons"] == ["its features could not be tried: [Errno 5] on purpose"]


@pytest.mark.requires("overlay", "root")
def test_drivers_tell_root_the_truth(box):
    told = box.call(probing.probed)
    assert told["left"] == []
    assert told["found"]["overlay/kernel"] == (True, "")


@pytest.mark.requires("overlay", "userns")
def test_drivers_tell_the_root_of_a_namespace_the_truth(user_box):
    assert user_box.call(probing.probed)["found"]["overlay/kernel"] == (True, "")


@pytest.mark.requires("root")
def test_drivers_tell_an_ordinary_user_what_is_missing(nobody_box):
    told = nobody_box.call(probing.probed)
    available, reasons = told["found"]["overlay/kernel"]
    assert not available
    assert "unshare" in reasons
    assert told["found"]["vfs/kernel"] == (True, "")
    assert told["left"] == []
