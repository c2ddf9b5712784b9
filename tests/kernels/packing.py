"""What the tests of packing share: trees on disk with their rows, and a stream that is fed to its end."""

from __future__ import annotations

import ctypes
import io
import os
import platform
import tarfile
import threading
from pathlib import Path

import numpy as np

from lamella._kernels import content
from tests.reference.rows import table_of

NOBODY = 65_534
SETRESUID = {"x86_64": 117, "aarch64": 147}
PATTERN = bytes(range(256)) * 40


class Stream:
    """One packing: ``tar`` collects bytes, ``events`` what was reported."""

    def __init__(self, root: Path, rows, *, order=None, head=512, regions=None, links=False, **options):
        self.table = table_of(rows, origin="tree", order="path")
        self.order = np.arange(len(self.table)) if order is None else np.array(order)
        self.state = bytearray(content.STATE_NBYTES)
        self.head = bytearray(head)
        self.regions = None if regions is None else np.zeros(2 * regions, np.int64)
        self.links = np.full(len(self.table), -1, np.int32) if links else None
        self.options = options
        self.tar = b""
        self.events = []
        self.fd = os.open(root, os.O_PATH | os.O_DIRECTORY)

    def step(self, out) -> int:
        """Call the kernel once."""
        nbytes, event, row = content.pack(
            self.fd,
            self.table.columns,
            self.order,
            self.state,
            out,
            self.head,
            self.regions,
            self.links,
            **self.options,
        )
        assert event != content.FULL or nbytes == len(out)
        self.tar += bytes(out[:nbytes])
        if event == content.HEAD:
            self.head = bytearray(4 * len(self.head))
        elif event == content.REGIONS:
            self.regions = np.zeros(4 * len(self.regions), np.int64)
        elif event not in (content.FULL, content.DONE):
            self.events.append((self.table.path(row), event))
        return event

    def run(self, cap: int = 1 << 16) -> bytes:
        """Call it until the archive is complete."""
        try:
            while self.step(memoryview(bytearray(cap))) != content.DONE:
                pass
            return self.tar
        finally:
            self.close()

    def close(self) -> None:
        """Give everything back."""
        content.release(self.state)
        os.close(self.fd)


def lay(root: Path, files: dict[str, bytes]) -> list[dict]:
    """Write files; return rows for them and for the directories above, in path order."""
    rows = {"": {"path": "", "type": "5"}}
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        for parent in path.relative_to(root).parents[:-1]:
            rows[str(parent)] = {"path": str(parent), "type": "5"}
        rows[name] = {"path": name, "size": len(data)}
    return [rows[name] for name in sorted(rows, key=lambda n: n.split("/") if n else [])]


def contents(tar: bytes) -> dict[str, bytes | None]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as file:
        return {m.name: file.extractfile(m).read() if m.isreg() else None for m in file}


def holes(path: Path, size: int, data: dict[int, bytes]) -> dict:
    with path.open("wb") as file:
        file.truncate(size)
        for at, text in data.items():
            file.seek(at)
            file.write(text)
    return {"path": path.name, "size": size}


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def as_nobody(work) -> None:
    """Run ``work`` in a thread of another user: the raw call changes this thread alone."""
    errors = []

    def run() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            assert libc.syscall(SETRESUID[platform.machine()], NOBODY, NOBODY, NOBODY) == 0
            work()
        except BaseException as error:  # noqa: BLE001 - it is raised again below
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
