"""Random writes, reads, truncations, holes and maps of one file, beside a plain one that tells what each has to show."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
from pathlib import Path

LENGTH = 300_000
PUNCH = 1 | 2
_LIBC = ctypes.CDLL(None, use_errno=True)


def wrong(path: Path, model: Path, seed: int, steps: int) -> list[str]:
    """Do ``steps`` to both files, and return what differed."""
    draw = random.Random(seed)
    fds = [os.open(one, os.O_RDWR | os.O_CREAT) for one in (path, model)]
    out: list[str] = []
    try:
        for step in range(steps):
            kind = draw.choice(("write", "write", "read", "read", "truncate", "punch", "map", "maps", "reopen", "append", "sync"))
            offset, length = draw.randrange(LENGTH), draw.randrange(1, 40_000)
            data = draw.randbytes(length)
            answers = [_do(fd, one, kind, offset, length, data) for fd, one in zip(fds, (path, model), strict=True)]
            if kind == "reopen":
                for fd in fds:
                    os.close(fd)
                fds = [os.open(one, os.O_RDWR) for one in (path, model)]
            sizes = [(os.fstat(fd).st_size, os.stat(one).st_size) for fd, one in zip(fds, (path, model), strict=True)]
            if answers[0] != answers[1] or sizes[0] != sizes[1]:
                out.append(f"seed {seed} step {step}: {kind} {offset} {length}: sizes {sizes}")
                break
        if path.read_bytes() != model.read_bytes():
            out.append(f"seed {seed}: content at the end")
    finally:
        for fd in fds:
            os.close(fd)
    return out


def _do(fd: int, path: Path, kind: str, offset: int, length: int, data: bytes) -> bytes:
    size = os.fstat(fd).st_size
    if kind == "write":
        os.pwrite(fd, data, offset)
    elif kind == "read":
        return os.pread(fd, length, offset)
    elif kind == "truncate":
        os.ftruncate(fd, offset)
    elif kind == "punch":
        _LIBC.fallocate64(fd, PUNCH, ctypes.c_int64(offset), ctypes.c_int64(length))
    elif kind == "append":
        with path.open("ab") as file:
            file.write(data[:5000])
    elif kind == "sync":
        os.fsync(fd)
    elif kind in ("map", "maps") and size:
        access = mmap.ACCESS_READ if kind == "map" else mmap.ACCESS_WRITE
        begin = offset % size
        with mmap.mmap(fd, size, access=access) as mapped:
            if kind == "map":
                return mapped[begin : begin + length]
            mapped[begin : begin + length] = data[: size - begin][:length]
    return b""
