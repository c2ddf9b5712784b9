"""A stack as one job: what is written and what is not, repairs, roads, and what failures leave behind.

That the outcome is that of one layer after another is law L11 (tests/laws/test_l11_stacks.py).
"""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

import lamella
from lamella.errors import ConflictError, DigestMismatchError, TruncatedError, UnsafePathError, WhiteoutError
from lamella.layer import stack
from lamella.layer.options import Options
from lamella.layer.policy import policy_of
from lamella.layer.stack import StackLayer, apply_stack
from lamella.model import IdMap
from lamella.testing.listing import compare, listing
from lamella.testing.tars import Member, directory, file, hardlink, layer_tar, opaque, symlink, whiteout

AS_ROOT = os.geteuid() == 0
Layer = list[Member]


def options(**changed: Any) -> Options:
    return Options(**({"rootless": not AS_ROOT} | changed))


def blob(layer: Layer | bytes) -> StackLayer:
    data = layer if isinstance(layer, bytes) else layer_tar(layer)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return StackLayer(lambda: data, digest=digest, size=len(data))


def unpack(root: Path, *layers: Layer | bytes, **changed: Any) -> list[lamella.ApplyResult]:
    return apply_stack([blob(layer) for layer in layers], root, options(**changed))


@pytest.fixture
def roads(monkeypatch) -> list[str]:
    """Every time a stack is applied from the bottom."""
    taken: list[str] = []
    bottom_up = stack._bottom_up
    monkeypatch.setattr(stack, "_bottom_up", lambda *args: taken.append("bottom") or bottom_up(*args))
    return taken


def agree(scratch: Path, *layers: Layer) -> None:
    """The stack is what its layers are, one by one."""
    unpack(scratch / "stack", *layers)
    for layer in layers:
        lamella.apply(layer_tar(layer), scratch / "one-by-one", rootless=not AS_ROOT)
    assert compare(scratch / "stack", scratch / "one-by-one", ignore=["root"]) == []


BIG = bytes(range(256)) * 5000  # over several chunks


# -- what is written ------------------------------------------------------------------------------------------------


def test_what_is_hidden_is_never_written(scratch, roads):
    results = unpack(
        scratch / "r",
        [file("gone", BIG), file("replaced", BIG), directory("d"), file("d/lower", BIG), file("kept", b"1")],
        [whiteout("gone"), file("replaced", b"2"), directory("d"), opaque("d"), file("d/upper", b"3")],
    )
    assert [(r.entries, r.files, r.bytes_written, r.whiteouts, r.opaques) for r in results] == [(5, 1, 1, 0, 0), (5, 2, 2, 1, 1)]
    assert sorted(p for p in listing(scratch / "r") if p) == [b"d", b"d/upper", b"kept", b"replaced"]
    assert roads == []


def test_every_layer_is_digested_whatever_is_hidden(scratch):
    layers = [[file("a", BIG)], [file("a", b"x" * 70_000)], [whiteout("a")]]
    for result, layer in zip(unpack(scratch / "r", *layers), layers, strict=True):
        data = layer_tar(layer)
        assert result.diff_id == f"sha256:{hashlib.sha256(data).hexdigest()}"
        assert result.uncompressed_size == len(data)


def test_one_layer_and_none(scratch):
    assert [r.files for r in unpack(scratch / "one", [file("a")])] == [1]
    assert unpack(scratch / "none") == []
    assert list((scratch / "none").iterdir()) == []


def test_layers_in_any_codec(scratch, roads):
    data = layer_tar([file("a", BIG), file("b", b"lower")])
    members = gzip.compress(data[:5000]) + gzip.compress(data[5000:]) + bytes(700)  # two members, and a drive's padding
    unpack(scratch / "r", members, [file("b", b"upper")])
    assert ((scratch / "r/a").read_bytes(), (scratch / "r/b").read_bytes(), roads) == (BIG, b"upper", [])


# -- repairs --------------------------------------------------------------------------------------------------------


def test_links_to_a_hidden_file_are_made_from_its_layer(scratch, roads):
    lower = [
        file("first", b"1" * 300), file("perl", BIG, mode=0o755, mtime_ns=5), hardlink("perl5", "perl"), hardlink("perl6", "perl5"),
        file("z", b"2"), hardlink("z2", "z"), symlink("s", "t", mtime_ns=3), hardlink("s2", "s"),
    ]  # fmt: skip
    agree(scratch, lower, [file("perl", b"new"), whiteout("z"), whiteout("s")])
    made = listing(scratch / "stack")
    assert made[b"perl5"].links == (b"perl5", b"perl6")
    assert (made[b"z2"].links, made[b"s2"].target, (scratch / "stack/perl5").read_bytes()) == ((), b"t", BIG)
    assert roads == []


def test_a_link_by_a_hidden_name_finds_the_inode(scratch, roads):
    agree(scratch, [file("a", b"1"), hardlink("b", "a"), hardlink("c", "b")], [file("b", b"2")])
    assert listing(scratch / "stack")[b"c"].links == (b"a", b"c")
    assert roads == []


def test_a_directory_that_only_hidden_entries_implied_is_there(scratch, roads):
    agree(scratch, [file("a/b/c"), file("d/e")], [whiteout("a/b/c"), opaque("d")])
    assert roads == []


FROM_THE_BOTTOM = {
    "a symlinked parent": ([symlink("lib", "usr/lib"), directory("usr"), directory("usr/lib")], [file("lib/x", b"1")]),
    "a link into a lower layer": ([file("a", b"1")], [hardlink("b", "a")]),
    "a path twice": ([file("a", b"1"), file("a", b"2")], [file("b")]),
    "below a link of its own layer": ([directory("d"), symlink("l", "d"), file("l/x", b"1")], [file("b")]),
    "aufs": ([file(".wh..wh.aufs"), directory(".wh..wh.plnk"), file(".wh..wh.plnk/9.1", b"1"), hardlink("a", ".wh..wh.plnk/9.1")], []),
}  # fmt: skip


@pytest.mark.parametrize("case", FROM_THE_BOTTOM)
def test_what_the_top_cannot_know_is_applied_from_the_bottom(scratch, roads, case):
    agree(scratch, *FROM_THE_BOTTOM[case])
    assert roads == ["bottom"]


@pytest.mark.parametrize(
    "changed",
    [{"policy": policy_of("umoci")}, {"policy": policy_of("moby")}, {"keep_dirlinks": True}, {"dialect": "overlay:user"},
     {"idmap": IdMap.parse("0:0:65536")}],
)  # fmt: skip
def test_other_policies_and_dialects_go_one_by_one(scratch, roads, changed):
    unpack(scratch / "r", [file("a", b"1")], [file("a", b"2")], **changed)
    assert (scratch / "r/a").read_bytes() == b"2"
    # a preset that chooses as the default does is the default
    assert roads == ([] if changed.get("policy") == policy_of("spec") else ["bottom"])


# -- failures -------------------------------------------------------------------------------------------------------

BAD = {
    "a dangling link": ([file("a")], [hardlink("b", "nowhere")], ConflictError),
    "dots": ([file("a")], [file("../b")], UnsafePathError),
    "a whiteout of nothing": ([file("a")], [whiteout("")], WhiteoutError),
    "cut short": ([file("a")], layer_tar([file("b", BIG)])[:4000], TruncatedError),
    "a hidden dangling link": ([hardlink("b", "nowhere")], [file("b")], ConflictError),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_failure_leaves_nothing(scratch, case):
    lower, upper, error = BAD[case]
    with pytest.raises(error):
        unpack(scratch / "r", lower, upper)
    with pytest.raises(error):
        unpack(scratch / "r", upper, lower) if case != "a hidden dangling link" else unpack(scratch / "r", lower, upper)
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_a_wrong_digest_in_any_layer_leaves_nothing(scratch, wrong):
    layers = [blob([file(f"{i}", BIG)]) for i in range(3)]
    other = layer_tar([file("other", BIG)])
    layers[wrong] = StackLayer(lambda: other, digest=layers[wrong].digest, size=len(other))
    with pytest.raises(DigestMismatchError):
        apply_stack(layers, scratch / "r", options())
    assert list(scratch.iterdir()) == []


def test_the_second_reading_of_a_layer_is_verified(scratch):
    """What is decoded once more for a hidden link may have changed meanwhile."""
    first, second = layer_tar([file("a", BIG), hardlink("b", "a")]), layer_tar([file("a", BIG[::-1]), hardlink("b", "a")])
    given = iter([first, second])
    lower = StackLayer(lambda: next(given), digest=blob(first).digest, size=len(first))
    with pytest.raises(DigestMismatchError):
        apply_stack([lower, blob([file("a")])], scratch / "r", options())
    assert list(scratch.iterdir()) == []


def test_a_living_tree_is_verified_first_and_merged(scratch):
    (scratch / "r").mkdir()
    (scratch / "r/mine").write_bytes(b"1")
    bad = StackLayer(lambda: layer_tar([file("b")]), digest="sha256:" + "0" * 64)
    with pytest.raises(DigestMismatchError):
        apply_stack([blob([file("a")]), bad], scratch / "r", options())
    assert os.listdir(scratch / "r") == ["mine"]
    unpack(scratch / "r", [file("a")], [whiteout("a"), file("b")])
    assert sorted(os.listdir(scratch / "r")) == ["b", "mine"]
    with pytest.raises(ConflictError) as caught:
        unpack(scratch / "r", [file("c")], [file("d"), hardlink("e", "nowhere")])
    assert caught.value.partial.files == 1


@pytest.mark.requires("root")
def test_a_full_disk_leaves_nothing(scratch, box):
    assert box.call(fill) == (28, [])


def fill(folder: Path) -> tuple[int, list[str]]:
    small = folder / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], check=True)
    try:
        unpack(small / "r", [file("a", BIG)], [file("b", BIG)])
    except OSError as error:
        return error.errno or 0, os.listdir(small)
    finally:
        subprocess.run(["umount", small], check=True)
    return 0, []


def test_progress_counts_the_bytes_of_all_blobs(scratch):
    layers = [blob([file(f"{i}", BIG * 4)]) for i in range(3)]
    seen: list[Any] = []
    apply_stack(layers, scratch / "r", options(), progress=seen.append)
    total = sum(layer.size or 0 for layer in layers)
    assert seen
    assert all((p.stage, p.total, p.unit) == ("unpack", total, "bytes") for p in seen)
    assert [p.done for p in seen] == sorted(p.done for p in seen)


def test_an_interrupt_leaves_nothing_and_no_thread(scratch):
    def interrupt(progress: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apply_stack([blob([file(f"{i}", BIG * 20)]) for i in range(4)], scratch / "r", options(), progress=interrupt)
    assert list(scratch.iterdir()) == []
    assert [t.name for t in threading.enumerate() if t.name.startswith("lamella")] == []
