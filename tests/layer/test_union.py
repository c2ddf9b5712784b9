"""A union in user space against the kernel's overlayfs: the same answers, the same view, the same changes."""

from __future__ import annotations

import os
import stat
import struct
from typing import Any

import pytest

from lamella.testing.trees import (
    Chmod,
    Chown,
    Device,
    Dir,
    Fifo,
    File,
    Hardlink,
    Remove,
    Rename,
    Script,
    Socket,
    Symlink,
    Utime,
    Write,
)  # fmt: skip
from tests.layer.test_upper import CASES, TREE
from tests.unions import Outcome, both

pytestmark = pytest.mark.requires("overlay")

DIALECTS = ["overlay", "aufs"]
FIFO = stat.S_IFIFO | 0o600
ACL = struct.pack("<I" + "HHI" * 5, 2, 1, 7, 2**32 - 1, 2, 7, 0, 4, 5, 2**32 - 1, 16, 7, 2**32 - 1, 32, 4, 2**32 - 1)

CALLS: dict[str, list[list[tuple[Any, ...]]]] = {
    "there already": [[
        ("mkdir", b"a"), ("mkdir", b"top"), ("create", b"top"), ("symlink", b"x", b"b/ln"), ("link", b"top", b"b/x"),
        ("mknod", b"top", FIFO), ("link", b"a", b"top"), ("link", b"a", b"new"), ("mkdir", b""),
    ]],
    "nowhere": [[
        ("mkdir", b"no/d"), ("unlink", b"no"), ("rmdir", b"no"), ("rename", b"no", b"new"), ("rename", b"top", b"no/new"),
        ("link", b"no", b"new"), ("chmod", b"no", 0o600), ("truncate", b"no", 0), ("readlink", b"no"), ("stat", b"no/x"),
        ("setxattr", b"no", b"user.a", b"1"), ("create", b"top/x"), ("stat", b"top/x"), ("unlink", b"top/x"), ("open", b"no"),
    ]],
    "of the wrong kind": [[
        ("unlink", b"a"), ("rmdir", b"top"), ("rmdir", b"a"), ("readlink", b"top"), ("truncate", b"a", 0), ("readdir", b"top"),
        ("rename", b"top", b"a"), ("rename", b"empty", b"top"), ("rename", b"a", b"a/deep/in"), ("rename", b"a/deep/f", b"a/deep"),
        ("open", b"b/ln"), ("open", b"a", os.O_WRONLY), ("removexattr", b"top", b"user.no"), ("chmod", b"b/ln", 0o600), ("setxattr", b"b/ln", b"user.a", b"1"), ("removexattr", b"b/ln", b"user.a"),
        ("setxattr", b"a/two", b"user.k", b"2", os.XATTR_CREATE), ("setxattr", b"a/one", b"user.k", b"2", os.XATTR_REPLACE),
    ]],
    "rename of a lower directory": [[("rename", b"a", b"z"), ("rename", b"a", b"b"), ("rename", b"empty", b"a")]],
    "rename of an upper directory": [[
        ("mkdir", b"u"), ("create", b"u/f"), ("rename", b"u", b"b/u"), ("mkdir", b"v"), ("rename", b"v", b"b/u"),
        ("rename", b"b/u", b"v"), ("rename", b"v", b"empty"), ("rename", b"empty", b"a"),
    ]],
    "over a whiteout": [[
        ("unlink", b"top"), ("mkdir", b"u"), ("rename", b"u", b"top"), ("unlink", b"b/x"), ("rename", b"b/y", b"b/x"),
        ("unlink", b"b/ln"), ("link", b"b/x", b"b/ln"), ("unlink", b"a/one"), ("symlink", b"t", b"a/one"),
        ("unlink", b"a/two"), ("mknod", b"a/two", FIFO),
    ]],
    "empty but for whiteouts": [[
        ("unlink", b"a/deep/er/g"), ("rmdir", b"a/deep/er"), ("unlink", b"a/deep/f"), ("mkdir", b"u"), ("create", b"u/f"),
        ("rename", b"u", b"a/deep"), ("unlink", b"a/deep/f"), ("rmdir", b"a/deep"), ("mkdir", b"a/deep"), ("rmdir", b"a/deep"),
    ]],
    "one inode": [[
        ("link", b"top", b"top2"), ("rename", b"top", b"top2"), ("unlink", b"top"), ("link", b"top2", b"top"),
        ("rename", b"b/x", b"b/y"), ("rename", b"top", b"top"),
    ]],
    "in the name of a directory made again": [[
        ("unlink", b"b/x"), ("unlink", b"b/y"), ("unlink", b"b/ln"), ("rmdir", b"b"), ("mkdir", b"b"), ("create", b"b/x"),
        ("unlink", b"b/x"), ("rename", b"b", b"c"), ("mkdir", b"b"), ("rename", b"c", b"b"), ("rmdir", b"b"), ("mkdir", b"b", 0o700),
    ]],
    "inherited": [[
        ("setxattr", b"a", b"system.posix_acl_default", ACL), ("unlink", b"a/one"), ("create", b"a/one", 0o666), ("mkdir", b"a/new"),
        ("unlink", b"a/two"), ("mkdir", b"a/two"), ("create", b"a/more", 0o640), ("symlink", b"x", b"a/ln"),
        ("chmod", b"b", 0o2777), ("chown", b"b", -1, 0), ("unlink", b"b/x"), ("mkdir", b"b/x"), ("create", b"b/new", 0o2755),
    ]],
    "sizes": [[
        ("truncate", b"a/one", 3), ("truncate", b"a/two", 70_000), ("truncate", b"top", -1), ("write", b"b/x", b"new", 2),
        ("write", b"a/deep/f", b"all", None),
    ]],
}  # fmt: skip

EDITS = (
    Chmod("d/cap", 0o755), Chown("d/pipe", 4), Chown("d/null", 4), Chown("d/disk", 4), Chown("d/sock", 4), Chown("d/ln", 4),
    File("s/new"), Dir("s/sub"), Remove("s/f"), File("s/f", b"again"), Write("big", b"!", 0), Remove("d/sock"), Socket("s/sock"),
    Hardlink("s/link", "big"), Rename("d/null", "null"),
)  # fmt: skip
KINDS = Script((
    Dir("d", xattrs={"user.d": b"1"}, mtime_ns=7), File("d/cap", b"x", mode=0o4755, uid=7, gid=8, xattrs={"trusted.t": b"1"}),
    Fifo("d/pipe", uid=3), Device("d/null", 1, 3), Device("d/disk", 8, 1, "block"), Socket("d/sock"), Symlink("d/ln", "no", uid=9),
    Dir("s", mode=0o2775, gid=50), File("s/f"), File("big", bytes(9000) + b"end"),
))  # fmt: skip


def check(outcome: Outcome) -> None:
    assert outcome.wrong == [], "\n".join(outcome.answers)


@pytest.mark.parametrize("redirect_dir", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_edits_do_what_they_do_in_a_mount(box: Any, case: str, redirect_dir: bool) -> None:
    scripts = [Script(tuple(edits)) for edits in CASES[case]]
    check(box.call(both, TREE, scripts, dialects=DIALECTS[: 1 if redirect_dir else 2], redirect_dir=redirect_dir))


@pytest.mark.requires("root")
def test_every_kind_of_inode_is_copied_up_whole(box: Any) -> None:
    check(box.call(both, KINDS, [Script(EDITS), Script((Utime("", 5), Remove("d"), Dir("d")))], dialects=DIALECTS))


@pytest.mark.parametrize("case", CALLS)
def test_calls_answer_as_in_a_mount(box: Any, case: str) -> None:
    check(box.call(both, TREE, CALLS[case], dialects=DIALECTS))


# with userxattr the kernel answers ESTALE to a rename of one name of an inode over another, which rename(2) lets be
@pytest.mark.parametrize("case", [*CASES, *(case for case in CALLS if case != "one inode")])
def test_so_they_do_in_a_user_namespace(user_box: Any, case: str) -> None:
    scripts = CALLS.get(case) or [Script(tuple(edits)) for edits in CASES[case]]
    check(user_box.call(both, TREE, scripts, dialects=DIALECTS, userxattr=True))
