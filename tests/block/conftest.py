"""Fixtures of block tests: loop devices that are gone after a test, and the workshop."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import parts
from tests.block.workshop import workshop

__all__ = ["loops", "workshop"]


@pytest.fixture
def loops(scratch: Path) -> Iterator[Callable[..., list[int]]]:
    """Give a function that attaches contents to loop devices and opens those."""
    with contextlib.ExitStack() as undo:

        def attach(*contents: bytes) -> list[int]:
            return [one(content) for content in contents]

        def one(content: bytes) -> int:
            path = scratch / f"loop-{len(list(scratch.iterdir()))}"
            path.write_bytes(content)
            argv = [parts.program("losetup"), "--find", "--show", "--read-only", path]
            device = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
            undo.callback(parts.run, "losetup", "-d", device)
            fd = os.open(device, os.O_RDONLY)
            undo.callback(os.close, fd)
            return fd

        yield attach
