"""Random edits of a mounted ext4, from a seed: all kinds of inodes, and all that may be done to them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random

LIBC = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, RENAME_EXCHANGE = -100, 2
PUNCH, KEEP_SIZE = 2, 1
SIZES = (0, 1, 59, 60, 61, 100, 150, 400, 1000, 4096, 5000, 70_000)
SECONDS = (0, 1, -1, -(1 << 31), (1 << 31) - 1, 1 << 31, (1 << 32) + 5, (1 << 33) + 7, (1 << 34) - (1 << 31) - 1, 1_600_000_000)
OWNERS = (0, 1, 1000, 65_536, 4_294_967_294)
MANY = 150


class Scribbler:
    """Edits the tree below ``root``. An edit that the file system refuses is none."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.random, self.n = root, Random(seed), 0
        self.open: list[int] = []  # of files that have no name any more
        self.edits: list[Callable[[], None]] = [
            self.file, self.file, self.file, self.directory, self.directory, self.symlink, self.hardlink, self.hardlink,
            self.node, self.remove, self.remove, self.rename, self.rename, self.exchange, self.write, self.write, self.append,
            self.truncate, self.punch, self.chmod, self.chown, self.utime, self.utime, self.attribute, self.attribute,
            self.acl, self.read, self.orphan, self.swap_kind, self.again,
        ]  # fmt: skip
        self.rare: list[Callable[[], None]] = [self.many, self.few, self.large_attributes, self.deep, self.fragmented]

    def script(self, n_edits: int) -> None:
        """Make so many edits."""
        for _ in range(n_edits):
            edit = self.random.choice(self.rare if self.random.random() < 0.04 else self.edits)
            with contextlib.suppress(OSError):
                edit()
        if self.random.random() < 0.3:
            self.close()
        if sum(1 for _ in self.root.rglob("*")) > 900:
            for _ in range(3):
                self.remove()

    def close(self) -> None:
        """Let go of what is open."""
        while self.open:
            os.close(self.open.pop())

    # -- where ----------------------------------------------------------------------------------------------------

    def paths(self, *kinds: int) -> list[Path]:
        """Return what is there, of some kinds."""
        found = []
        for folder, dirs, files in os.walk(self.root):
            dirs.sort()
            for name in sorted(dirs + files):
                path = Path(folder, name)
                if not kinds or stat.S_IFMT(path.lstat().st_mode) in kinds:
                    found.append(path)
        return [path for path in found if path.name != "lost+found"]

    def some(self, *kinds: int) -> Path:
        """Return one; OSError where there is none."""
        found = self.paths(*kinds)
        if not found:
            raise FileNotFoundError
        return self.random.choice(found)

    def fresh(self) -> Path:
        """Return a path, mostly of nothing."""
        folder = self.random.choice([self.root, *self.paths(stat.S_IFDIR)])
        if self.random.random() < 0.2:
            return self.some()
        self.n += 1
        name = self.random.choice([f"n{self.n % 40}", f"n{self.n}", f"{self.n}" + "x" * self.random.randrange(1, 240), "\u00fc"])
        return folder / name

    # -- edits ----------------------------------------------------------------------------------------------------

    def file(self) -> None:
        self.fresh().write_bytes(self.random.randbytes(self.random.choice(SIZES)))

    def directory(self) -> None:
        self.fresh().mkdir()

    def symlink(self) -> None:
        self.fresh().symlink_to("t" * self.random.choice((1, 30, 59, 60, 61, 150, 600, 1000)))

    def hardlink(self) -> None:
        os.link(self.some(stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO), self.fresh(), follow_symlinks=False)

    def node(self) -> None:
        kind = self.random.choice(["fifo", "socket", "char", "block"])
        path = self.fresh()
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(str(path)[:100])
        else:
            numbers = self.random.choice([(0, 0), (1, 3), (255, 255), (259, 70_000), (4095, 1 << 19)])
            os.mknod(path, 0o600 | (stat.S_IFCHR if kind == "char" else stat.S_IFBLK), os.makedev(*numbers))

    def remove(self) -> None:
        path = self.some()
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()

    def rename(self) -> None:
        self.some().rename(self.fresh())

    def exchange(self) -> None:
        pair = [os.fsencode(self.some()), os.fsencode(self.some())]
        LIBC.renameat2(AT_FDCWD, pair[0], AT_FDCWD, pair[1], RENAME_EXCHANGE)

    def write(self) -> None:
        path = self.some(stat.S_IFREG)
        status = path.stat()
        with path.open("r+b") as file:
            file.seek(self.random.randrange(status.st_size + 1))
            file.write(self.random.randbytes(min(status.st_size - file.tell(), 30)))
        if self.random.random() < 0.5:  # only its content tells, or nothing
            os.utime(path, ns=(0, status.st_mtime_ns // 10**9 * 10**9 if self.random.random() < 0.5 else status.st_mtime_ns))

    def append(self) -> None:
        with self.some(stat.S_IFREG).open("ab") as file:
            file.write(b"a" * self.random.choice(SIZES[1:]))

    def truncate(self) -> None:
        os.truncate(self.some(stat.S_IFREG), self.random.choice((0, 1, 50, 100, 6000, 300_000)))

    def punch(self) -> None:
        with self.some(stat.S_IFREG).open("r+b") as file:
            mode = self.random.choice([0, KEEP_SIZE, PUNCH | KEEP_SIZE])
            at, n = 4096 * self.random.randrange(30), 4096 * self.random.randrange(1, 8)
            LIBC.fallocate(file.fileno(), mode, ctypes.c_long(at), ctypes.c_long(n))

    def chmod(self) -> None:
        self.some(stat.S_IFREG, stat.S_IFDIR, stat.S_IFIFO).chmod(self.random.choice((0o600, 0o644, 0o4755, 0o1777, 0o700)))

    def chown(self) -> None:
        os.chown(self.some(), self.random.choice(OWNERS), self.random.choice(OWNERS), follow_symlinks=False)

    def utime(self) -> None:
        ns = self.random.choice(SECONDS) * 10**9 + self.random.choice((0, 0, 1, 999_999_999))
        os.utime(self.some(), ns=(ns, ns), follow_symlinks=False)

    def attribute(self) -> None:
        path = self.some(stat.S_IFREG, stat.S_IFDIR)
        name = self.random.choice(("user.a", "user.b", "trusted.c", "user." + "n" * 200, "security.test"))
        if self.random.random() < 0.3:
            os.removexattr(path, name)
        else:
            os.setxattr(path, name, self.random.choice((b"", b"1", b"v" * 30, b"same" * 150)))

    def large_attributes(self) -> None:
        path = self.some(stat.S_IFREG, stat.S_IFDIR)
        for n in range(self.random.randrange(1, 12)):
            os.setxattr(path, f"user.large{n}", bytes([n]) * self.random.choice((100, 700, 3000, 9000)))

    def acl(self) -> None:
        path = self.some(stat.S_IFREG, stat.S_IFDIR)
        name = "system.posix_acl_default" if path.is_dir() and self.random.random() < 0.5 else "system.posix_acl_access"
        ids = sorted(self.random.sample(range(1000, 1010), self.random.randrange(1, 4)))
        none = 0xFFFFFFFF
        items = [(1, 7, none), *((2, self.random.randrange(8), n) for n in ids), (4, 5, none), (8, 5, 70_000), (16, 7, none),
                 (32, 4, none)]  # fmt: skip
        os.setxattr(path, name, struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *item) for item in items))

    def read(self) -> None:
        for path in self.paths(stat.S_IFREG, stat.S_IFDIR)[:20]:
            os.utime(path, ns=(self.random.randrange(1 << 40), path.stat().st_mtime_ns))

    def orphan(self) -> None:
        path = self.fresh()
        self.open.append(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        os.write(self.open[-1], b"o" * 5000)
        path.unlink()

    def swap_kind(self) -> None:
        path = self.some()
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
            path.write_bytes(b"was a directory")
        else:
            path.unlink()
            path.mkdir()
            (path / "inside").write_bytes(b"i")

    def again(self) -> None:
        """Have numbers of inodes used again, at other places or the same."""
        paths = [self.some() for _ in range(3)]
        for path in paths:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        self.random.shuffle(paths)
        for path in paths:
            if self.random.random() < 0.5:
                path.write_bytes(b"again")
            else:
                path.mkdir()
                (path / "child").mkdir()

    def many(self) -> None:
        """Fill a directory, so that it gets an index."""
        folder = self.random.choice([self.root, *self.paths(stat.S_IFDIR)])
        for n in range(MANY):
            os.mknod(folder / f"{n}-{'m' * self.random.randrange(60)}", 0o600 | stat.S_IFREG)

    def few(self) -> None:
        """Empty one."""
        for path in self.random.choice([self.root, *self.paths(stat.S_IFDIR)]).iterdir():
            if path.is_file() and not path.is_symlink():
                path.unlink()

    def deep(self) -> None:
        path = self.fresh()
        for n in range(12):
            path.mkdir()
            path /= f"d{n}"
        path.write_bytes(b"deep")

    def fragmented(self) -> None:
        """Make a file of many extents, that have a tree."""
        with open(self.fresh(), "wb") as file:
            for n in range(60):
                os.pwrite(file.fileno(), b"f" * 1000, n * 20_000)
