"""A directory as a table."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lamella._kernels import walk
from lamella.columns import ARENA, TableBuilder
from lamella.stream.worker import on_own_thread
from lamella.table import EntryTable

__all__ = ["Scan", "directory", "scan", "scan_fd", "scan_pair"]

Path = str | os.PathLike[str]
Xattrs = Literal["all", "all+selinux", "none"]
Road = Literal["auto", "at", "cwd"]
Capacity = tuple[int, int, int]

# items of the kernel's WalkState and the numbers of walk.pxd and _status.pxd
_STATE = (
    "rows", "arena", "need_rows", "need_arena", "need_scratch", "special", "error", "path_off", "path_len", "linked",
    "holes", "max_fds", "top", "frame", "low", "n_open", "bits", "ext_off", "ext_len",
)  # fmt: skip
_AT = {name: i for i, name in enumerate(_STATE)}
_OUTPUT_FULL, _AT_END = 2, 3
_GHOST = 1
_XATTR_AT, _XATTR_CWD, _KEEP_SELINUX, _DROP_KEPT = 1, 2, 4, 8
_MAX_FDS = 64
_CAPACITY = (4096, 1 << 18, 1 << 18)
_SEED = int.from_bytes(os.urandom(8), "little")


@dataclass(frozen=True, slots=True)
class Scan:
    """A walked directory: its ``table``, and the names that have no row in it.

    ``sockets`` cannot be in a layer (tests/contract 116). ``ghosts`` are listed by their directory and denied by the
    file system (107), or were removed during the walk. ``holes``: bytes that files have in their size but not on disk.
    ``linked``: names of inodes that have more than one, here or elsewhere.
    """

    table: EntryTable
    sockets: tuple[bytes, ...] = ()
    ghosts: tuple[bytes, ...] = ()
    holes: int = 0
    linked: int = 0


@contextlib.contextmanager
def directory(path: Path) -> Iterator[int]:
    """Lend a descriptor of the directory ``path`` (a symlink to one is followed). OSError with the path."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def scan(path: Path, *, xattrs: Xattrs = "all") -> EntryTable:
    """Read the directory ``path`` into a table in path order, its root included as the empty path.

    Regular files that share an inode are a link group; sockets have no row. OSError with the path of whatever
    cannot be read.
    """
    with _below(path), directory(path) as fd:
        return scan_fd(fd, xattrs=xattrs).table


def scan_pair(a: Path, b: Path, *, xattrs: Xattrs = "all") -> tuple[Scan, Scan]:
    """Read two directories at a time, on two threads."""

    def one(path: Path) -> Scan:
        with _below(path), directory(path) as fd:
            return scan_fd(fd, xattrs=xattrs)

    with ThreadPoolExecutor(2, "lamella-scan") as pool:
        first, second = pool.submit(one, a), pool.submit(one, b)
        return first.result(), second.result()


def scan_fd(
    fd: int, *, xattrs: Xattrs = "all", road: Road = "auto", max_fds: int = _MAX_FDS, capacity: Capacity = _CAPACITY,
    drop_kept: bool = False,
) -> Scan:  # fmt: skip
    """Read the directory open as ``fd`` (O_PATH will do); OSError carries the path below it, as bytes.

    ``road``: extended attributes by ``listxattrat`` ("at") where the kernel has it, else by the name in a working
    directory ("cwd", on a thread of its own). ``max_fds`` directories are open at a time. ``capacity``: rows, arena
    and scratch bytes to begin with. ``drop_kept``: without the attributes that overlayfs keeps for itself.
    """
    if xattrs not in ("all", "all+selinux", "none"):
        raise ValueError(f"xattrs is 'all', 'all+selinux' or 'none', not {xattrs!r}")
    options = (_KEEP_SELINUX if xattrs == "all+selinux" else 0) | (_DROP_KEPT if drop_kept else 0)
    if xattrs == "none":
        return _Walker(fd, options, max_fds, capacity).run()
    if road == "at" or (road == "auto" and walk.has_xattrat()):
        return _Walker(fd, options | _XATTR_AT, max_fds, capacity).run()
    walker = _Walker(fd, options | _XATTR_CWD, max_fds, capacity)

    def run() -> Scan:
        walk.own_cwd()
        return walker.run()

    return on_own_thread("scan", run)


class _Walker:
    """The caller of the kernel: owns its memory and makes room."""

    def __init__(self, fd: int, options: int, max_fds: int, capacity: Capacity) -> None:
        self.fd, self.options = fd, options
        self.builder = TableBuilder("tree", *capacity[:2])
        self.scratch = np.empty(capacity[2], np.uint8)
        self.state = np.zeros(len(_STATE), np.int64)
        self.state[_AT["max_fds"]] = max_fds
        self.odd: tuple[list[bytes], list[bytes]] = ([], [])  # sockets, ghosts

    def get(self, item: str) -> int:
        return int(self.state[_AT[item]])

    def run(self) -> Scan:
        try:
            while (status := self.step()) != _AT_END:
                if status == _OUTPUT_FULL:
                    self.make_room()
                else:
                    self.note()
        finally:
            walk.release(self.state, self.scratch)
        n_linked = self.get("linked")
        if n_linked:
            slots = np.zeros(1 << (n_linked * 4 // 3).bit_length(), np.uint32)
            walk.link(self.builder.columns, self.get("rows"), slots, _SEED)
        self.builder.n_rows, self.builder.arena_used = self.get("rows"), self.get("arena")
        sockets, ghosts = self.odd
        return Scan(EntryTable(self.builder.finish(), "path"), tuple(sockets), tuple(ghosts), self.get("holes"), n_linked)

    def step(self) -> int:
        return walk.rows(self.fd, self.builder.columns, self.state, self.scratch, self.options)

    def make_room(self) -> None:
        self.builder.n_rows, self.builder.arena_used = self.get("rows"), self.get("arena")
        self.builder.grow(self.get("need_rows"), self.get("need_arena"))
        wanted = self.get("need_scratch")
        if wanted > len(self.scratch):
            self.scratch.resize(max(wanted, len(self.scratch) * 2), refcheck=False)

    def note(self) -> None:
        begin = self.get("path_off")
        path = bytes(self.builder.columns[ARENA][begin : begin + self.get("path_len")])
        self.odd[self.get("special") == _GHOST].append(path)



@contextlib.contextmanager
def _below(root: Path) -> Iterator[None]:
    # the kernel knows paths below its descriptor only
    try:
        yield
    except OSError as error:
        if isinstance(error.filename, bytes):
            error.filename = os.fsdecode(os.path.join(os.fsencode(root), error.filename) if error.filename else root)
        raise
