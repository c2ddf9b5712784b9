"""Layers that want out, want too much, or fail half way: items 96 to 102. All of it runs in a sandbox."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import lzma
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

import lamella
from lamella.errors import LamellaError, LimitExceededError, UnsafePathError
from lamella.model import Limits
from lamella.testing.tars import Member, char, directory, fifo, file, hardlink, layer_tar, opaque, symlink, whiteout
from lamella.testing.trees import Dir, File, Hardlink, Remove, Symlink, build
from tests.contract.workbench import AS_ROOT, attempt, entries, shape, tree

LINKS = (
    Dir("d"), File("d/f", b"f"), Symlink("out", "MOAT"), Symlink("up", "../.."), Symlink("deep", "d/../../treasure"),
    Symlink("proc", "/proc/self/root"), Symlink("cwd", "/proc/self/cwd"), Symlink("chain", "out/treasure"),
)  # fmt: skip
WAYS = ["out/treasure", "up/moat/treasure", "deep", "chain", "out", "up", "proc/MOAT/treasure", "cwd"]
ACTS = {
    "file": lambda way: [file(f"{way}/new", b"escaped", mode=0o777)],
    "overwrite": lambda way: [file(f"{way}/secret", b"escaped"), file(f"{way}/passwd", b"escaped")],
    "directory": lambda way: [directory(f"{way}/new", mode=0o777, mtime_ns=5), directory(way + "/", mode=0o777)],
    "symlink": lambda way: [symlink(f"{way}/new", "x"), file(f"{way}/new/y")],
    "whiteout": lambda way: [whiteout(f"{way}/secret"), whiteout(f"{way}/passwd"), whiteout(f"{way}/treasure")],
    "opaque": lambda way: [opaque(way), opaque(f"{way}/treasure")],
    "link from": lambda way: [hardlink("mine", f"{way}/secret")],
    "link to": lambda way: [file("own", b"own"), hardlink(f"{way}/new", "own"), hardlink(f"{way}/secret", "own")],
    "fifo": lambda way: [fifo(f"{way}/new"), fifo(f"{way}/trap")],
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("way", WAYS)
def test_096_nothing_goes_through_a_link_of_the_lower_tree(box, way, act):
    attempt(box, LINKS, *ACTS[act](way))


@pytest.mark.parametrize("act", ACTS)
def test_096_nothing_goes_through_a_link_of_the_layer(box, act):
    links = [symlink(os.fsencode(e.path), e.target) for e in LINKS if isinstance(e, Symlink)]
    for way in WAYS:
        attempt(box, LINKS[:2], *links, *ACTS[act](way))


@pytest.mark.parametrize("keep_dirlinks", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_096_nor_a_directory_entry(box, way, keep_dirlinks):
    members = [directory(way, mode=0o777, mtime_ns=5), file(f"{way}/new"), directory(way, mode=0o700, mtime_ns=6)]
    attempt(box, LINKS, *members, keep_dirlinks=keep_dirlinks)


@pytest.mark.parametrize(
    "path", ["../passwd", "d/../../passwd", "..", "d/..", "./../secret", "/..", "a/b/../c", "../root", b"d/../\xff"]
)
@pytest.mark.parametrize("kind", ["file", "dir", "whiteout", "link"])
def test_096_dots_in_a_path_are_refused(box, path, kind):
    make = {
        "file": file, "dir": directory, "whiteout": opaque, "link": lambda p: hardlink(p, "d/f"),
    }[kind]  # fmt: skip
    outcome = attempt(box, LINKS[:2], make(path))
    assert UnsafePathError.__name__ in outcome.kind
    assert b".." in outcome.attributes["entry"]
    assert shape(outcome.tree) == {"d": "dir", "d/f": "file"}


@pytest.mark.parametrize("path", ["/MOAT/passwd", "//d/new", "/d//./new", "./d/new", "MOAT/treasure/secret"])
def test_096_absolute_paths_start_at_the_root(box, path):
    outcome = attempt(box, LINKS[:2], file(path, b"x"))
    assert outcome.kind == (), outcome.trace
    assert len(outcome.tree) > 3


def test_096_deferred_times_do_not_follow_a_later_link(box):
    members = [directory("d", mode=0o700, mtime_ns=5), directory("d/e", mtime_ns=6), file("d/e/f", b"1")]
    outcome = attempt(box, (), *members, symlink("d", "MOAT/treasure"), directory("x", mtime_ns=7), symlink("x", "MOAT"))
    assert outcome.kind == (), outcome.trace
    assert shape(outcome.tree) == {"d": "symlink", "x": "symlink"}


def test_096_deferred_times_of_parents_neither(box):
    lower = (Dir("d"), Dir("d/e"), File("d/e/f"))
    members = [file("d/e/new"), whiteout("d/e/f"), symlink("d/e", "MOAT/treasure"), symlink("d", "MOAT/treasure")]
    for order in itertools.permutations(members, 3):
        attempt(box, lower, *order)


def test_096_links_do_not_follow_a_later_link(box):
    members = [directory("d"), file("d/secret", b"own"), symlink("d", "MOAT/treasure"), hardlink("mine", "d/secret")]
    attempt(box, (), *members)
    outcome = attempt(box, (), file("passwd", b"own"), symlink("s", "../passwd"), hardlink("h", "s"))
    assert outcome.tree[b"h"].type == "symlink"


ESCAPED = b"escaped"
SWAPS = {
    "same name": [directory("a"), file("a/x", b"1"), symlink("a", "MOAT/treasure"), file("a/y", ESCAPED)],
    "dot name": [directory("a"), file("a/x", b"1"), symlink("./a/", "MOAT/treasure"), file("a/./secret", ESCAPED)],
    "ancestor": [file("a/b/c/x"), symlink("a/b", "MOAT"), file("a/b/c/y"), file("a/b/passwd", ESCAPED)],
    "twice": [file("a/b/x"), symlink("a", "MOAT"), file("a/treasure/secret", ESCAPED), directory("a"), file("a/b/y")],
    "whiteout": [
        file("a/x"), symlink("b", "a"), file("b/y"), symlink("a", "MOAT/treasure"), whiteout("b/secret"), file("b/z"),
    ],
    "hard link to a link": [
        symlink("l", "MOAT/treasure"), directory("a"), file("a/x"), hardlink("a", "l"), file("a/secret", ESCAPED),
    ],
    "links in a chain": [
        symlink("c", "b"), symlink("b", "a"), file("a/x"), file("c/x"), symlink("a", "MOAT"), file("c/passwd", ESCAPED),
    ],
    "file": [file("a/b/x"), file("a", b"1"), symlink("a", "MOAT/treasure"), file("a/b/secret", ESCAPED)],
    "whiteout and link": [file("d/x"), whiteout("d"), symlink("d", "MOAT/treasure"), file("d/secret", ESCAPED)],
    "link made good": [file("d/e/x"), symlink("d", "e2"), symlink("e2", "MOAT/treasure"), file("d/secret", ESCAPED)],
}  # fmt: skip


@pytest.mark.parametrize("swap", SWAPS)
def test_097_what_is_known_of_a_folder_is_forgotten_when_it_is_replaced(box, swap):
    for lower in ((), (Dir("a"), Dir("a/b"), File("a/b/f"), Dir("d"), Dir("d/e"))):
        attempt(box, lower, *SWAPS[swap])


def test_097_a_cache_of_folders_is_not_filled_with_the_wrong_one(box):
    # the pattern of CVE-2025-47290, over more folders than any cache holds
    many = [file(f"dir{i}/sub/file", b"1") for i in range(3000)]
    swaps = [symlink(f"dir{i}/sub", "MOAT/treasure") for i in range(0, 3000, 7)]
    outcome = attempt(box, (), *many, *swaps, *(file(f"dir{i}/sub/secret", b"escaped") for i in range(3000)))
    assert outcome.kind == (), outcome.trace


def test_098_mode_owner_and_times_stay_with_the_link(box):
    for target in ("MOAT/passwd", "MOAT/treasure", "../passwd", "MOAT/treasure/secret"):
        dressed = {"mode": 0o4777, "uid": 0, "gid": 0, "mtime_ns": 3, "xattrs": {"user.x": b"1"}}
        members = [
            symlink("s", target, **dressed),
            hardlink("h", "s", **dressed),
            directory("d"),
            hardlink("d/h", "h", **dressed),
        ]
        outcome = attempt(box, (), *members)
        assert outcome.kind == (), outcome.trace
        assert {outcome.tree[p].type for p in (b"s", b"h", b"d/h")} == {"symlink"}


@pytest.mark.parametrize("policy", ["spec", "moby", "containerd", "podman", "umoci"])
def test_098_under_every_policy(box, policy):
    # a policy that dresses an inode with a link's metadata must not follow it (CVE-2021-32760)
    lower = (Symlink("s", "MOAT/passwd"), Hardlink("t", "s"), Symlink("dir", "MOAT/treasure"))
    members = [
        hardlink("h", "s", mode=0o777, uid=7, gid=7, mtime_ns=3, xattrs={"user.x": b"1"}),
        symlink("s", "MOAT/secret"),
    ]
    attempt(box, lower, *members, directory("./", mode=0o711), hardlink("g", "t", mode=0o777, uid=7), policy=policy)


LIMITS = {
    "total_bytes": ({"total_bytes": 10_000}, [file("f", bytes(20_000))]),
    "entries": ({"entries": 3}, [file(f"f{i}") for i in range(4)]),
    "path": ({"path": 100}, [file("p" * 101)]),
    "path of a link": ({"path": 100}, [symlink("s", "t" * 101)]),
    "pax_bytes": ({"pax_bytes": 1000}, [file("f", pax={"comment": "x" * 1001})]),
    "pax_bytes global": ({"pax_bytes": 1000}, [Member("g", "g", b"1015 comment=" + b"x" * 1001 + b"\n"), file("f")]),
    "pax_bytes long name": ({"pax_bytes": 1000, "path": 9000}, [Member("././@LongLink", "L", b"n" * 5000), file("f")]),
    "xattrs": ({"xattrs": 3}, [file("f", xattrs={f"user.{i}": b"1" for i in range(4)})]),
}


@pytest.mark.parametrize("name", LIMITS)
def test_099_budgets_are_kept(box, name):
    limits, members = LIMITS[name]
    outcome = attempt(box, (File("living"),), *members, limits=Limits(**limits))
    assert LimitExceededError.__name__ in outcome.kind, outcome.trace
    assert outcome.attributes["limit"] in limits
    assert outcome.attributes["value"] > limits[outcome.attributes["limit"]]


def test_099_a_layer_within_its_budgets_is_fine(box):
    limits = Limits(total_bytes=10_240, entries=3, path=100, pax_bytes=1000, xattrs=3)
    members = [
        file("f" * 100, bytes(5000), xattrs={f"user.{i}": b"1" for i in range(3)}),
        symlink("s", "t" * 100),
        file("x"),
    ]
    assert attempt(box, (), *members, limits=limits).kind == ()


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_099_a_bomb_is_told_by_its_ratio(codec):
    data = layer_tar([file("f", bytes(80 << 20))])
    blob = gzip.compress(data, 9) if codec == "gzip" else zstandard.ZstdCompressor().compress(data)
    with pytest.raises(LimitExceededError) as caught, lamella.read_layer(blob, limits=Limits(ratio=100)) as reader:
        list(reader)
    assert caught.value.limit == "ratio"
    assert caught.value.value > 100


def test_099_a_ratio_below_64_mib_is_no_matter():
    blob = gzip.compress(layer_tar([file("f", bytes(60 << 20))]), 9)
    with lamella.read_layer(blob, limits=Limits(ratio=100)) as reader:
        assert [entry.size for entry in reader] == [60 << 20]


@pytest.mark.parametrize("root", ["absent", "empty"])
def test_100_a_failed_layer_leaves_no_half_tree(scratch, root):
    where = scratch / "r"
    if root == "empty":
        where.mkdir(mode=0o711)
    bad = layer_tar([file("a", b"1"), directory("d"), file("d/f"), file("x", header={"chksum": b"0" * 8})])
    with pytest.raises(LamellaError):
        lamella.apply(bad, where, rootless=not AS_ROOT)
    assert os.listdir(scratch) == (["r"] if root == "empty" else [])
    assert root == "absent" or os.listdir(where) == []


def test_100_into_a_living_tree_the_error_says_how_far_it_came(scratch):
    where = tree(scratch / "r", File("living"))
    many = [file(f"f{i}", bytes(50_000)) for i in range(400)]
    bad = layer_tar([*many, whiteout("living"), file("x", header={"chksum": b"0" * 8})])
    with pytest.raises(LamellaError) as caught:
        lamella.apply(bad, where, rootless=not AS_ROOT)
    partial = caught.value.partial
    made = [name for name in os.listdir(where) if name != "living"]
    assert 0 < len(made) <= partial.files <= 400
    assert partial.bytes_written >= 50_000 * (len(made) - 1)
    assert partial.diff_id is None


DYING = """
import io, os, sys
import lamella
from lamella.testing.tars import file, layer_tar
data = layer_tar([file(f"f{i}", bytes(3000)) for i in range(400)])
class Dying(io.RawIOBase):
    at = 0
    def readable(self): return True
    def readinto(self, b):
        if self.at > len(data) // 2:
            os.kill(os.getpid(), 9)
        n = min(len(b), 65536, len(data) - self.at)
        b[:n] = data[self.at : self.at + n]
        self.at += n
        return n
lamella.apply(Dying(), sys.argv[1], rootless=os.geteuid() != 0)
"""


def test_100_a_process_that_dies_leaves_no_half_tree_under_the_name(scratch):
    done = subprocess.run([sys.executable, "-c", DYING, scratch / "r"], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (scratch / "r").exists()
    lamella.apply(layer_tar([file("f")]), scratch / "r", rootless=not AS_ROOT)
    assert shape(scratch / "r") == {"f": b""}


@pytest.mark.requires("strace")
@pytest.mark.parametrize("sync", ["none", "fs", "file"])
def test_100_data_is_synced_before_the_tree_gets_its_name(scratch, sync):
    code = "import lamella, os, sys; lamella.apply(sys.argv[1], sys.argv[2], sync=sys.argv[3], rootless=os.geteuid() != 0)"
    (scratch / "l.tar").write_bytes(layer_tar([file("a", b"1"), file("b", b"2"), directory("d")]))
    calls = "trace=syncfs,fsync,fdatasync,rename,renameat,renameat2"
    argv = ["strace", "-f", "-qq", "-o", scratch / "log", "-e", calls, sys.executable, "-c", code]
    subprocess.run([*argv, scratch / "l.tar", scratch / "r", sync], check=True)
    names = [line.split()[1].partition("(")[0] for line in (scratch / "log").read_text().splitlines() if "(" in line]
    renamed = next(i for i, name in enumerate(names) if name.startswith("rename"))
    assert ("syncfs" in names[:renamed]) == (sync != "none")
    assert (names[:renamed].count("fdatasync") >= 2) == (sync == "file")


def racing(folder: Path, how: str) -> dict:
    """Diff a tree of three files while the middle one changes between the look and the copy."""
    upper = build(folder / "upper", File("a", b"a" * 5000), File("m", b"m" * 100_000), File("z", b"z" * 5000))
    secret = build(folder / "other", File("secret", b"s" * 100_000)) / "secret"
    changes = lamella.changes(None, upper)
    middle = upper / "m"
    if how in {"shrink", "grow"}:
        os.truncate(middle, 70_000 if how == "shrink" else 200_000)
    else:
        Remove("m").apply(upper)
    if how == "fifo":
        os.mkfifo(middle)
    elif how == "symlink":
        middle.symlink_to(secret)
    elif how == "directory":
        middle.mkdir()
    out = io.BytesIO()
    try:
        changes.write(out, compression="none")
    except (LamellaError, OSError) as error:
        return {"error": type(error).__name__, "text": str(error)}
    found = entries(out.getvalue())
    with_data = {name: m.size for name, m in found.items() if m.isreg()}
    return {"sizes": with_data, "leaked": b"ssss" in out.getvalue()}


@pytest.mark.parametrize("how", ["vanish", "shrink", "grow", "fifo", "symlink", "directory"])
def test_101_a_file_that_changes_during_the_diff_does_not_spoil_the_tar(box, how):
    outcome = box.call(racing, how)
    if how == "vanish":
        assert outcome == {"sizes": {"a": 5000, "z": 5000}, "leaked": False}
    elif how == "grow":
        assert outcome == {"sizes": {"a": 5000, "m": 100_000, "z": 5000}, "leaked": False}
    elif "error" in outcome:
        assert "m" in outcome["text"]
    else:
        assert outcome["leaked"] is False
        assert {"a": 5000, "z": 5000}.items() <= outcome["sizes"].items()


TOOLS = ["unpigz", "pigz", "gzip", "zstd", "xz", "bzip2", "tar", "sh", "igzip", "pbzip2", "setcap"]


def alone(folder: Path, codec: str) -> tuple[list[str], list[str]]:
    """Apply and diff with a PATH full of traps and an audit of every process that would be started."""
    started: list[str] = []
    starts = ("subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.system", "pty.spawn")
    sys.addaudithook(lambda event, args: started.append(event) if event.startswith(starts) else None)
    root = build(folder / "r", Dir("bin"), *(File(f"bin/{t}", b"#!/bin/sh\ntouch /ran\n", mode=0o755) for t in TOOLS))
    before = os.environ["PATH"], os.getcwd()
    os.environ["PATH"] = f"{root}/bin"
    os.chdir(root / "bin")
    compress = {
        "gzip": gzip.compress,
        "zstd": zstandard.ZstdCompressor().compress,
        "xz": lzma.compress,
        "bzip2": bz2.compress,
    }
    data = layer_tar([file("f", bytes(200_000)), file("bin/gzip", b"#!/bin/sh\n", mode=0o755)])
    try:
        lamella.apply(compress[codec](data), root, rootless=not AS_ROOT)
        lamella.diff(None, root, folder / "out", compression="zstd" if codec == "zstd" else "gzip")
    finally:
        os.environ["PATH"] = before[0]
        os.chdir(before[1])
    return started, [str(p) for p in folder.rglob("ran")]


@pytest.mark.parametrize("codec", ["gzip", "zstd", "xz", "bzip2"])
def test_102_no_process_is_started(box, codec):
    assert box.call(alone, codec) == ([], [])


@pytest.mark.requires("root")
def test_096_devices_are_made_but_not_opened(box):
    outcome = attempt(box, (), char("c", 1, 3, xattrs={"trusted.a": b"1"}), fifo("p", xattrs={"trusted.a": b"1"}))
    assert outcome.kind == (), outcome.trace
    assert {outcome.tree[p].type for p in (b"c", b"p")} == {"char", "fifo"}
