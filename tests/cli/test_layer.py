"""The commands for one layer."""

from __future__ import annotations

import base64
import io
import os
import subprocess
import sys
import tarfile

import pytest

import lamella as package
from lamella.testing.listing import compare, listing
from lamella.testing.tars import directory, file, layer_tar, whiteout
from lamella.testing.trees import Dir, File, build

APPLY_KEYS = [
    "layer", "root", "digest", "diff_id", "media_type", "compressed_size", "uncompressed_size", "entries", "files",
    "bytes_written", "whiteouts", "opaques", "warnings",
]  # fmt: skip
DIFF_KEYS = [
    "lower", "upper", "out", "media_type", "digest", "diff_id", "size", "uncompressed_size", "entries", "codec",
    "warnings",
]  # fmt: skip
ROOTLESS = ["--rootless"] if os.geteuid() else []


@pytest.fixture
def layer(scratch):
    """Give a layer tar with odd names."""
    members = [directory("d"), file("d/a", b"one"), file(b"latin1-\xe9", b""), file(b"esc\x1b]0;x\x07", b"")]
    path = scratch / "layer.tar"
    path.write_bytes(layer_tar([*members, whiteout("gone")]))
    return path


def test_apply(lamella, layer, scratch):
    ran = lamella("apply", layer, scratch / "root", *ROOTLESS)
    assert ran.status == 0
    assert ran.err == ""
    assert ran.out.startswith(f"applied {layer} to {scratch / 'root'}\n")
    assert "sha256:" in ran.out
    assert (scratch / "root/d/a").read_bytes() == b"one"


def test_apply_json(lamella, layer, scratch):
    ran = lamella("apply", layer, scratch / "root", "--json", *ROOTLESS)
    assert ran.status == 0
    assert list(ran.document) == APPLY_KEYS
    assert ran.document["digest"] == ran.document["diff_id"]  # not compressed
    assert ran.document["files"] == 3
    assert ran.document["whiteouts"] == 1


def test_quiet_says_nothing(lamella, layer, scratch):
    ran = lamella("apply", layer, scratch / "root", "--quiet", *ROOTLESS)
    assert (ran.status, ran.out, ran.err) == (0, "", "")


def test_apply_takes_a_stream(layer, scratch):
    argv = [sys.executable, "-m", "lamella", "apply", "-", str(scratch / "root"), *ROOTLESS]
    with layer.open("rb") as stdin:
        subprocess.run(argv, stdin=stdin, check=True, capture_output=True)
    assert (scratch / "root/d/a").read_bytes() == b"one"


def test_every_option_of_apply_reaches_the_engine(lamella, layer, scratch, monkeypatch):
    seen = {}

    def spy(source, root, **options):
        seen.update(options, source=source, root=root)
        raise package.errors.ConflictError(b"x", "enough")

    monkeypatch.setattr(package, "apply", spy)
    words = "--dialect overlay:user --parent p1 --parent p2 --policy umoci --map-uid 0:1000:10 --map-gid 0:5:1"
    words += " --map-squash --xattrs none --rootless --keep-dirlinks --holes --sync file --workers 3"
    words += " --expected-diff-id sha256:a --expected-digest sha256:b"
    assert lamella("apply", layer, scratch / "root", *words.split()).status == 1
    assert seen == {
        "source": str(layer), "root": str(scratch / "root"), "dialect": "overlay:user", "parents": ("p1", "p2"),
        "policy": "umoci", "idmap": package.IdMap(((0, 1000, 10),), ((0, 5, 1),), squash=True), "xattrs": "none",
        "rootless": True, "keep_dirlinks": True, "holes": True, "sync": "file", "workers": 3, "progress": None,
        "expected_diff_id": "sha256:a", "expected_digest": "sha256:b",
    }  # fmt: skip


def test_a_wrong_diff_id_is_one_line(failed, layer, scratch):
    ran = failed("apply", layer, scratch / "root", "--expected-diff-id", "sha256:" + "0" * 64, *ROOTLESS)
    assert "sha256:" + "0" * 64 in ran.err


@pytest.mark.parametrize("words", [["apply", "no-such-layer", "root"], ["changes", "no-such-a", "no-such-b"]])
def test_what_is_not_there_is_one_line(failed, words):
    assert "no-such" in failed(*words).err


def test_an_error_cannot_paint_the_terminal(failed, scratch):
    members = [file(b"\x1b[31mred\n", b""), file(b"\x1b[31mred\n/below/..", b"")]
    (scratch / "bad.tar").write_bytes(layer_tar([*members, file(b".wh.", b"")]))
    failed("apply", scratch / "bad.tar", scratch / "root", *ROOTLESS)


def test_debug_shows_where(lamella, scratch):
    ran = lamella("apply", "no-such-layer", scratch / "root", "--debug")
    assert ran.status == 1
    assert "Traceback" in ran.err
    assert ran.err.splitlines()[-1].startswith("lamella: error: ")


def test_changes(lamella, trees):
    ran = lamella("changes", *trees)
    assert ran.status == 0
    lines = ran.out.splitlines()
    assert [line for line in lines if "esc" in line] == ["A esc\\x1b[31m\\n"]
    assert [line for line in lines if "latin" in line] == ["A latin1-\\xe9"]
    assert "D etc/old" in lines
    assert [line for line in lines if line.startswith("M swap  (")]
    assert not [line for line in lines if "same" in line]


def test_changes_json(lamella, trees):
    lower, upper = trees
    ran = lamella("changes", *trees, "--json")
    assert list(ran.document) == ["lower", "upper", "changes", "warnings"]
    changes = ran.document["changes"]
    assert {"kind": "delete", "path": "etc/old", "type": "file", "why": []} in changes
    [odd] = [change for change in changes if "path_b64" in change]
    assert odd["path"] == "latin1-\ufffd"
    assert base64.b64decode(odd["path_b64"]) == b"latin1-\xe9"
    [swap] = [change for change in changes if change["path"] == "swap"]
    assert swap["type"] == "dir"
    assert "type" in swap["why"]
    assert [(c.kind.value, c.path) for c in package.changes(lower, upper)] == [
        (c["kind"], base64.b64decode(c["path_b64"]) if "path_b64" in c else c["path"].encode()) for c in changes
    ]


def test_no_changes_is_no_output(lamella, trees):
    assert lamella("changes", trees[0], trees[0]).out == ""
    assert lamella("changes", trees[0], trees[0], "--json").document["changes"] == []


@pytest.mark.parametrize("compression", ["none", "gzip", "gzip:1", "zstd", "zstd:5"])
def test_diff_and_apply_give_the_upper_tree(lamella, trees, scratch, compression):
    lower, upper = trees
    out = scratch / "out"
    ran = lamella("diff", lower, upper, "-o", out, "--compression", compression, "--json")
    assert ran.status == 0
    assert list(ran.document) == DIFF_KEYS
    assert ran.document["size"] == out.stat().st_size
    assert lamella("apply", out, lower, "--expected-diff-id", ran.document["diff_id"], *ROOTLESS).status == 0
    assert compare(listing(lower), listing(upper)) == []


def test_diff_for_people(lamella, trees, scratch):
    ran = lamella("diff", *trees, "-o", scratch / "out")
    assert ran.status == 0
    assert ran.out.startswith(f"wrote {scratch / 'out'}\n")
    assert "gzip" in ran.out


def test_diff_to_stdout(trees):
    argv = [sys.executable, "-m", "lamella", "diff", *map(str, trees), "-o", "-", "--compression", "none"]
    done = subprocess.run(argv, check=True, capture_output=True)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        assert "etc/.wh.old" in tar.getnames()
    assert b"wrote -" in done.stderr


def test_diff_to_stdout_leaves_no_room_for_json(lamella, trees):
    ran = lamella("diff", *trees, "-o", "-", "--json")
    assert (ran.status, ran.out) == (2, "")


def test_source_date_epoch_is_read_here(lamella, trees, scratch, monkeypatch):
    def newest(*words):
        out = scratch / "out.tar"
        assert lamella("diff", *trees, "-o", out, "--compression", "none", *words).status == 0
        with tarfile.open(out) as tar:
            return max(int(member.mtime) for member in tar)

    assert newest() == 1_600_000_000
    assert newest("--clamp-mtime", 7) == 7
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "5")  # the fixture took it away before
    assert newest() == 5
    assert newest("--clamp-mtime", 7) == 7
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    assert lamella("diff", *trees, "-o", scratch / "out").status == 2


def test_every_option_of_diff_reaches_the_engine(lamella, scratch, monkeypatch):
    seen = {}

    def spy(lower, upper, out, **options):
        seen.update(options, lower=lower, upper=upper, out=out)
        raise package.errors.ConflictError(b"x", "enough")

    monkeypatch.setattr(package, "diff", spy)
    words = "--compression zstd:9 --clamp-mtime 3 --whiteouts opaque --map-uid 0:1:2 --content always --xattrs none"
    words += " --dir-mtime --sparse pax --libarchive-xattr"
    assert lamella("diff", "a", "b", "-o", "c", *words.split()).status == 1
    assert seen == {
        "lower": "a", "upper": "b", "out": "c", "compression": "zstd", "level": 9, "clamp_mtime": 3,
        "whiteouts": "opaque", "idmap": package.IdMap(((0, 1, 2),), ((0, 1, 2),)), "content": "always",
        "xattrs": "none", "dir_mtime": True, "sparse": "pax", "libarchive_xattr": True, "progress": None,
    }  # fmt: skip


def test_diff_of_an_upper_directory(lamella, trees, scratch):
    lower, _ = trees
    upper, out = build(scratch / "above", Dir("etc"), File("etc/new", b"n"), File(".wh.x")), scratch / "out"
    words = ["--upper", upper, "--parent", lower, "-o", out, "--compression", "none"]
    ran = lamella("diff", *words, "--dialect", "aufs", "--json")
    assert (ran.status, ran.document["upper"], "lower" in ran.document) == (0, str(upper), False)
    with tarfile.open(out) as tar:
        assert "etc/new" in tar.getnames()


@pytest.mark.parametrize(
    "words",
    [
        ["a", "-o", "c"], ["-o", "c"], ["a", "b", "--parent", "d", "-o", "c"], ["a", "b", "--upper", "d", "-o", "c"],
        ["--upper", "d", "--content", "always", "-o", "c"], ["--upper", "d", "--dir-mtime", "-o", "c"],
    ],
)  # fmt: skip
def test_diff_wants_two_trees_or_an_upper_directory(lamella, words):
    assert lamella("diff", *words).status == 2


def test_every_option_of_diff_upper_reaches_the_engine(lamella, monkeypatch):
    seen = {}

    def spy(upper, out, parents, **options):
        seen.update(options, upper=upper, out=out, parents=parents)
        raise package.errors.ConflictError(b"x", "enough")

    monkeypatch.setattr(package, "diff_from_upper", spy)
    words = "--upper u --parent a --parent b --dialect overlay:user -o c --compression none --xattrs none --sparse pax"
    assert lamella("diff", *words.split()).status == 1
    assert seen == {
        "upper": "u", "parents": ("a", "b"), "out": "c", "dialect": "overlay:user", "compression": "none", "level": None,
        "clamp_mtime": None, "whiteouts": "explicit", "idmap": None, "xattrs": "none", "sparse": "pax",
        "libarchive_xattr": False, "progress": None,
    }  # fmt: skip


def test_a_failed_diff_leaves_no_file(failed, scratch):
    failed("diff", scratch / "nowhere", scratch / "neither", "-o", scratch / "out")
    assert not (scratch / "out").exists()
