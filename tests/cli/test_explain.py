"""Where a path of an image comes from, in words and for programs."""

from __future__ import annotations

import pytest

from lamella import open_image
from lamella.errors import DigestMismatchError, UnsafePathError
from lamella.testing.tars import directory, file, hardlink, layer_tar, opaque, symlink, whiteout
from tests.image.archives import archive
from tests.image.layouts import HandMade, sha256

LAYERS = [
    [directory("usr"), directory("usr/bin"), file("usr/bin/sh", b"1"), symlink("bin", "usr/bin"), file("gone/x"), directory("d"), file("d/a")],
    [file("bin/sh", b"22"), whiteout("gone"), hardlink("ash", "usr/bin/sh"), directory("d", mode=0o700), opaque("d"), file("d/b")],
    [file(b"\x1b", b"")],
]  # fmt: skip
TARS = [layer_tar(entries) for entries in LAYERS]
KEYS = ["reference", "path", "real_path", "exists", "layer", "entry", "through", "names", "layers"]


@pytest.fixture(params=["layout", "archive"])
def reference(request, scratch):
    if request.param == "archive":
        return f"docker-archive:{archive(*TARS).write(scratch / 'x.tar')}"
    history = [{"created_by": f"step {i}"} for i in range(3)]
    return HandMade(scratch / "image", tars=TARS, config={"history": history}).write().reference


def test_explain(reference):
    with open_image(reference) as image:
        found = image.explain("/bin/sh")
        assert (found.path, found.real_path, found.exists) == (b"bin/sh", b"usr/bin/sh", True)
        assert found.source is image.layers[1]
        assert found.names == (b"ash", b"usr/bin/sh")
        assert [(what.label, what.action) for what in found.layers] == [
            (image.layers[0], "added"),
            (image.layers[1], "replaced"),
        ]
        assert str(found.layers[0]) == f"layer {image.diff_ids[0].hex[:12]} adds it"
        gone = image.explain(b"gone/x")
        assert not gone.exists
        assert [(what.number, what.action, what.by) for what in gone.layers][-1] == (1, "removed", b".wh.gone")
        hidden = image.explain("d/a")
        assert [(what.number, what.action) for what in hidden.layers] == [(0, "added"), (1, "removed")]
        with pytest.raises(UnsafePathError):
            image.explain("../x")


def test_layers_are_verified(scratch):
    config = {"rootfs": {"type": "layers", "diff_ids": [sha256(b"another"), *map(sha256, TARS[1:])]}}
    made = HandMade(scratch / "image", tars=TARS, config=config).write()
    with open_image(made.reference) as image, pytest.raises(DigestMismatchError):
        image.explain("usr")


def test_explain_for_programs(lamella, reference):
    ran = lamella("explain", reference, "bin/sh", "--json")
    assert ran.status == 0
    assert list(ran.document) == KEYS
    assert (ran.document["path"], ran.document["real_path"], ran.document["layer"]) == ("bin/sh", "usr/bin/sh", 1)
    assert ran.document["through"] == [{"path": "bin", "target": "usr/bin"}]
    assert ran.document["names"] == [{"path": "ash"}, {"path": "usr/bin/sh"}]
    assert ran.document["entry"]["size"] == 2
    steps = [(step["layer"], step["diff_id"], step["action"]) for step in ran.document["layers"]]
    assert steps == [(0, sha256(TARS[0]), "added"), (1, sha256(TARS[1]), "replaced")]
    gone = lamella("explain", reference, "gone/x", "--json").document
    assert (gone["exists"], gone["layer"], gone["entry"], gone["layers"][-1]["by"]) == (False, None, None, ".wh.gone")


def test_explain_for_people(lamella, failed, reference):
    lines = lamella("explain", reference, "bin/sh").out.splitlines()
    assert lines[0] == "bin/sh"
    assert "  through  bin -> usr/bin" in lines
    assert "  from     layer 1" in lines
    assert lines[-1].startswith("layer 1 replaces it")
    assert "layer 1 removes it, by '.wh.gone'" in lamella("explain", reference, "gone/x").out
    assert "a directory that no layer has an entry for" not in lamella("explain", reference, "gone").out
    assert "\x1b" not in lamella("explain", reference, "\x1b").out
    never = lamella("explain", reference, "nowhere")
    assert (never.status, never.out) == (1, "nowhere\n  there is  nothing\n")
    assert never.err == "lamella: error: no layer has anything at 'nowhere'\n"
    failed("explain", reference, "../x")
