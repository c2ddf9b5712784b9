"""The commands for images."""

from __future__ import annotations

import pytest

from lamella.testing.tars import char, directory, file, hardlink, layer_tar, opaque, symlink, whiteout
from tests.image.layouts import LAYER, HandMade, sha256

IMAGE_KEYS = ["kind", "reference", "id", "digest", "size", "layers", "manifest", "config"]
LAYER_KEYS = ["id", "diff_id", "digest", "size", "media_type", "created_by"]
TAR_KEYS = ["kind", "source", "media_type", "digest", "diff_id", "size", "uncompressed_size", "contents"]
CONTENT_KEYS = [
    "entries", "added", "changed", "repeated", "whiteouts", "opaques", "hidden", "bytes", "added_bytes",
    "changed_bytes", "hidden_bytes", "types",
]  # fmt: skip
LOWER = [
    directory("d"), file("d/a", b"1"), file("d/b", b"22"), directory("e"), directory("e/f"), file("e/f/g"),
    file("swap"), symlink("ln", "d"),
]  # fmt: skip
UPPER = [
    directory("d"), file("d/a", b"333"), file(b"d/new-\xff", b""), whiteout("d/b"), directory("e", mode=0o700),
    opaque("e"), file("e/mine"), directory("swap"), hardlink("hl", "d/a"), char("null", 1, 3), whiteout("nowhere"),
    file(b"\x1b[31m"), directory(".wh..wh.plnk"),
]  # fmt: skip


@pytest.fixture
def made(scratch):
    history = [{"created_by": "base"}, {"created_by": "ENV X", "empty_layer": True}, {"created_by": "\x1b[2Jtop"}]
    tars = [layer_tar(LOWER), layer_tar(UPPER)]
    return HandMade(scratch / "image", tars=tars, config={"history": history}).write()


def test_inspect(lamella, made):
    ran = lamella("inspect", made.reference)
    assert ran.status == 0
    assert ran.out.splitlines()[0] == made.reference
    for tar, blob in zip(made.tars, made.blobs, strict=True):
        assert sha256(tar) in ran.out
        assert sha256(blob) in ran.out
    assert "\x1b" not in ran.out
    assert "\\x1b[2Jtop" in ran.out


def test_inspect_json(lamella, made):
    ran = lamella("inspect", made.path, "--json")
    assert list(ran.document) == IMAGE_KEYS
    assert ran.document["kind"] == "image"
    assert [list(layer) for layer in ran.document["layers"]] == [LAYER_KEYS] * 2
    assert [layer["diff_id"] for layer in ran.document["layers"]] == [sha256(tar) for tar in made.tars]
    assert [layer["created_by"] for layer in ran.document["layers"]] == ["base", "\x1b[2Jtop"]
    assert ran.document["config"]["history"][1]["empty_layer"] is True


def test_inspect_layers(lamella, made):
    document = lamella("inspect", made.reference, "--layers", "--json").document
    lower, upper = (layer["contents"] for layer in document["layers"])
    assert list(lower) == CONTENT_KEYS
    assert (lower["entries"], lower["added"], lower["changed"], lower["bytes"]) == (8, 8, 0, 3)
    types = {kind: n for kind, n in lower["types"].items() if n}
    assert types == {"file": 4, "dir": 3, "symlink": 1}
    assert upper["entries"] == len(UPPER)
    assert (upper["added"], upper["changed"], upper["repeated"]) == (6, 3, 1)  # changed: d/a, e, swap
    assert (upper["whiteouts"], upper["opaques"]) == (2, 1)
    assert upper["hidden"] == 3  # d/b, e/f, e/f/g
    assert (upper["bytes"], upper["added_bytes"], upper["changed_bytes"], upper["hidden_bytes"]) == (3, 0, 3, 3)
    ran = lamella("inspect", made.reference, "--layers")
    assert (
        "6 added, 3 changed (3 B), 1 repeated, 2 whiteouts, 1 opaque, 3 lower names gone, 3 B of lower files hidden" in ran.out
    )


def test_inspect_entries(lamella, made):
    ran = lamella("inspect", made.reference, "--entries")
    lines = [line.strip() for line in ran.out.splitlines()]
    assert "D d/b" in lines
    assert "O e" in lines
    assert [line for line in lines if line.startswith("= d")]
    assert [line for line in lines if line.endswith("ln -> d")]
    assert [line for line in lines if line.endswith("hl == d/a")]
    assert [line for line in lines if "1,3 null" in line]
    assert "\x1b" not in ran.out
    entries = lamella("inspect", made.reference, "--entries", "--json").document["layers"][1]["entries"]
    assert {"mark": "D", "path": "d/b"} in entries
    [odd] = [entry for entry in entries if "path_b64" in entry]
    assert odd["path"] == "d/new-\ufffd"
    assert (odd["mark"], odd["type"], odd["size"]) == ("A", "file", 0)


def test_inspect_tree(lamella, made):
    document = lamella("inspect", made.reference, "--tree", "--json").document
    assert list(document) == [*IMAGE_KEYS[:6], "tree", *IMAGE_KEYS[6:]]
    shown = [(line["path"], line["layer"]) for line in document["tree"]]
    assert shown == [
        ("\x1b[31m", 1), ("d", 1), ("d/a", 1), ("d/new-\ufffd", 1), ("e", 1), ("e/mine", 1), ("hl", 1), ("ln", 0), ("null", 1),
        ("swap", 1),
    ]  # fmt: skip
    assert [line["type"] for line in document["tree"]][-4:] == ["hardlink", "symlink", "char", "dir"]
    ran = lamella("inspect", made.reference, "--tree")
    lines = [line.split() for line in ran.out.splitlines()]
    assert ["0", "lrwxrwxrwx", "0:0", "0", "ln", "->", "d"] in lines
    assert ["1", "-rw-r--r--", "0:0", "3", "d/a"] in lines
    assert "\x1b" not in ran.out


def test_inspect_tree_with_a_directory_that_no_layer_names(lamella, scratch):
    made = HandMade(scratch / "image", tars=[layer_tar([file("a/b", b"x")])]).write()
    tree = lamella("inspect", made.reference, "--tree", "--json").document["tree"]
    assert [(line["path"], line["layer"], line["type"]) for line in tree] == [("a", None, "dir"), ("a/b", 0, "file")]
    assert "no entry of its own" in lamella("inspect", made.reference, "--tree").out


def test_inspect_a_layer(lamella, made):
    path = made.stored(sha256(made.blobs[1]))
    ran = lamella("inspect", path, "--json")
    assert list(ran.document) == TAR_KEYS
    assert ran.document["kind"] == "layer"
    assert ran.document["digest"] == sha256(made.blobs[1])
    assert ran.document["diff_id"] == sha256(made.tars[1])
    assert ran.document["media_type"] == LAYER + "+gzip"
    assert ran.document["size"] == len(made.blobs[1])
    assert ran.document["uncompressed_size"] == len(made.tars[1])
    assert ran.document["contents"]["whiteouts"] == 2
    assert "entries" in lamella("inspect", path, "--json", "--entries").document
    ran = lamella("inspect", path, "--tree")
    assert "D d/b" in [line.strip() for line in ran.out.splitlines()]
    assert "\x1b" not in ran.out


def test_verify(lamella, made):
    ran = lamella("verify", made.reference)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out == f"{made.reference}: nothing wrong\n"
    ran = lamella("verify", made.reference, "--json")
    assert list(ran.document) == ["reference", "digest", "ok", "problems"]
    assert ran.document["ok"] is True


def test_verify_names_every_problem_and_fails(lamella, made):
    for blob in made.blobs:
        made.stored(sha256(blob)).write_bytes(b"damaged")
    ran = lamella("verify", made.reference)
    assert ran.status == 1
    assert ran.err == f"lamella: error: {len(ran.out.splitlines())} problems in '{made.reference}'\n"
    assert {sha256(blob) for blob in made.blobs} <= set(ran.out.replace(":", " :").replace(" :", ":").split(" ")) | {
        word.rstrip(":") for word in ran.out.split()
    }
    ran = lamella("verify", made.reference, "--json")
    assert ran.status == 1
    assert ran.document["ok"] is False
    assert {"kind", "subject", "message"} == set(ran.document["problems"][0])
    quiet = lamella("verify", made.reference, "--quiet")
    assert (quiet.status, quiet.out) == (1, "")
    assert quiet.err.count("\n") == 1


@pytest.mark.parametrize("command", ["inspect", "verify"])
@pytest.mark.parametrize("ref", ["oci:nowhere", "nowhere", "docker://alpine", "oci:", "/", "oci:{}:no-such-tag"])
def test_what_is_no_image_is_one_line(failed, made, command, ref):
    failed(command, ref.format(made.path))


def test_what_is_no_layer_is_one_line(failed, scratch):
    (scratch / "text").write_bytes(b"not a tar at all" * 100)
    failed("inspect", scratch / "text")
