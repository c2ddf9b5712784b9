"""Small images of ext4 that nothing mounts: made of a directory by mkfs, looked into and damaged by field."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np

from lamella.block.ext4 import Ext4Image
from lamella.testing.trees import Dir, File, Hardlink, Symlink, build
from tests import parts

MIB = 1 << 20
N_STATE = 10  # of ext4's functions,
N_LIST = 11  # ... of ext4dirs's
BUDGET, LIST_BUDGET = 5, 6
OUTPUT_FULL, AT_END = 2, 3
ACL = bytes.fromhex("02000000 01000700ffffffff 02000500e8030000 04000500ffffffff 0800040070110100 10000700ffffffff 20000400ffffffff")
TREE = (
    Dir("d", mode=0o2751, mtime_ns=-1_500_000_000),
    Dir("d/e", xattrs={"system.posix_acl_default": ACL}),
    File("d/acl", xattrs={"system.posix_acl_access": ACL, "trusted.t": b"t", "security.s": b"s"}),
    File("d/large", xattrs={"user.large": b"L" * 700, "user.empty": b""}),
    *(File(f"d/{'n' * (k % 60)}{k}", b"%d" % k, mtime_ns=10**18 + k) for k in range(60)),
    File("f", b"f" * 5000, mode=0o4711, uid=70_000, gid=80_000, xattrs={"user.b": b"2", "user.a": b"1" * 300}),
    Hardlink("d/g", "f"),
    Symlink("short", b"s"),
    Symlink("long", b"l" * 500),
    File("e", b"e" * 100, xattrs={"user.a": b"1"}),
    File("empty", mtime_ns=5 * 10**9),
)  # fmt: skip


LARGE = (File("d/larger", xattrs={"user.larger": b"L" * 5000, "user.a": b"1"}),)


class Disk:
    """An image in a file: its bytes, which may be changed, and how kernels are shown it."""

    def __init__(self, path: Path, *options: str, edits: tuple[Any, ...] = TREE, nbytes: int = 8 * MIB) -> None:
        self.path, self.tree = path, build(path.with_suffix(".tree"), *edits)
        with path.open("wb") as file:
            file.truncate(nbytes)
        reason = parts.run("mkfs.ext4", "-q", "-F", "-d", str(self.tree), *options, str(path))
        assert reason is None, reason
        self.fd = os.open(path, os.O_RDWR)
        self.image = Ext4Image(self.fd)

    def close(self) -> None:
        os.close(self.fd)

    @property
    def where(self) -> tuple[Any, ...]:
        return self.image.where

    def place(self, inode: int) -> int:
        """Return the byte at which an inode lies."""
        group, at = divmod(inode - 1, int(self.image.shape[3]))
        return int(self.image.tables[group]) * self.image.block_size + at * self.image.inode_size

    def get(self, at: int, form: str) -> Any:
        return struct.unpack("<" + form, os.pread(self.fd, struct.calcsize("<" + form), at))[0]

    def put(self, at: int, form: str, *values: Any) -> None:
        os.pwrite(self.fd, struct.pack("<" + form, *values), at)


def state(n: int = N_STATE, **items: int) -> Any:
    """Return a state; items are named as in ext4.pxd."""
    names = ("next", "done", "n_out", "arena", "need", "budget", "fault", "block", "inode", "error")
    made = np.zeros(n, np.int64)
    made[BUDGET if n == N_STATE else LIST_BUDGET] = 1 << 30
    for name, value in items.items():
        made[names.index(name)] = value
    return made
