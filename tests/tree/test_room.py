"""The room that a directory takes: blocks and inodes, each once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamella.model import Usage
from lamella.testing.trees import Dir, Fifo, File, Hardlink, Symlink, build
from lamella.tree.room import room_of


def test_inodes_and_blocks_are_counted_once(scratch: Path) -> None:
    root = build(scratch / "r", File("a", b"x" * 70_000), Hardlink("b", "a"), Dir("d"), Hardlink("d/c", "a"), Symlink("l", "a"),
                 Fifo("d/p"))  # fmt: skip
    with open(root / "holes", "wb") as file:
        file.truncate(1 << 30)
    blocks = sum(os.lstat(root / name).st_blocks for name in ("", "a", "d", "l", "d/p", "holes"))
    assert room_of(root) == Usage(512 * blocks, 6)


def test_a_path_may_be_longer_than_a_call_takes(scratch: Path) -> None:
    fd = os.open(scratch, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("n" * 200, dir_fd=fd)
        deeper = os.open("n" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(fd)
    assert room_of(scratch).n_inodes == 31


def test_nothing_is_followed(scratch: Path) -> None:
    root = build(scratch / "r", Symlink("up", ".."))
    assert room_of(root).n_inodes == 2
    with pytest.raises(NotADirectoryError):
        room_of(build(scratch / "f", File("f")) / "f")
