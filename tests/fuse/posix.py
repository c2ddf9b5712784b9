"""A script of a few hundred calls that notes what each answers: what ext4 does, a mount has to do.

``prepare`` makes what is there at first, ``play`` does the rest below a directory and returns a line for each call. Run as
root; what an ordinary user may not do is tried by a child that is one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import mmap
import os
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

USER, GROUP, OTHER = 1234, 2345, 3456
LONG = "n" * 255
KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO_RANGE = 1, 2, 8, 16
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4


def prepare(where: Path) -> None:
    """Make the tree that the script finds."""
    for name in ("dir", "dir/sub", "empty", "old", "sticky", "group", "acl", "closed", "moved", "moved/in"):
        (where / name).mkdir()
    for name, size in (("file", 5), ("big", 300_000), ("dir/a", 1), ("dir/b", 2), ("sticky/his", 3), ("victim", 9), ("moved/in/x", 1)):
        (where / name).write_bytes(bytes(i % 251 for i in range(size)))
    for name in ("suid", "sgid", "cap", "plain", "trunc", "holes", "prog", "xattr", "locked", "attr", "open1", "open2", "open3", "over"):
        (where / name).write_bytes(b"0123456789" * 10)
    os.symlink("file", where / "link")
    os.symlink("nowhere", where / "dangling")
    os.mkfifo(where / "fifo")
    os.mknod(where / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.chmod(where / "null", 0o666)
    os.chmod(where / "sticky", 0o1777)
    os.chown(where / "sticky/his", OTHER, OTHER)
    os.chown(where / "group", 0, GROUP)
    os.chmod(where / "group", 0o2777)
    os.chmod(where / "closed", 0o700)
    for name, mode in (("suid", 0o4755), ("sgid", 0o2755), ("cap", 0o755), ("prog", 0o755)):
        os.chown(where / name, USER, USER)
        os.chmod(where / name, mode)
    (where / "prog").write_text("#!/bin/sh\necho it runs\n")
    for name in ("plain", "trunc", "attr"):
        os.chown(where / name, USER, USER)
    os.setxattr(where / "cap", "security.capability", struct.pack("<IIIII", 0x02000000 | 1, 1 << 10, 0, 0, 0))
    os.setxattr(where / "xattr", "user.one", b"1")
    os.chmod(where, 0o777)


class Script:
    """Calls below ``where``, and what they answered."""

    def __init__(self, where: Path) -> None:
        self.where = where
        self.lines: list[str] = []
        self.fds: list[int] = []

    def p(self, name: str | bytes) -> bytes:
        return os.path.join(os.fsencode(self.where), os.fsencode(name))

    def note(self, label: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            result = call(*args, **kwargs)
        except OSError as error:
            self.lines.append(f"{label}: {errno.errorcode.get(error.errno or 0, error.errno)}")
            return None
        shown = "done" if isinstance(result, int) and label.startswith("open") else repr(result)
        self.lines.append(f"{label}: {shown}")
        return result

    def open(self, name: str, flags: int, mode: int = 0o666) -> int | None:
        fd = self.note(f"open {name} {flags:o}", os.open, self.p(name), flags, mode)
        if fd is not None:
            self.fds.append(fd)
        return fd

    def look(self, name: str) -> None:
        """Note what stat says, but for what differs from run to run."""

        def read() -> tuple[Any, ...]:
            s = os.lstat(self.p(name))
            size = s.st_size if not stat.S_ISDIR(s.st_mode) else 0
            nlink = s.st_nlink if not stat.S_ISDIR(s.st_mode) else 0
            return f"{s.st_mode:o}", s.st_uid, s.st_gid, nlink, size, s.st_rdev

        self.note(f"look {name}", read)

    def as_user(self, label: str, call: Callable[..., Any], *args: Any, uid: int = USER, gid: int = USER, groups: tuple[int, ...] = (), umask: int = 0o022) -> None:
        """Call in a child that is an ordinary user."""
        read, write = os.pipe()
        if (pid := os.fork()) == 0:
            try:
                os.setgroups(groups)
                os.setresgid(gid, gid, gid)
                os.setresuid(uid, uid, uid)
                os.umask(umask)
                try:
                    result = call(*args)
                    answer = repr(result) if not isinstance(result, int) else "done"
                except OSError as error:
                    answer = errno.errorcode.get(error.errno or 0, "?")
                os.write(write, answer.encode())
            finally:
                os._exit(0)
        os.close(write)
        with open(read, "rb") as pipe:
            self.lines.append(f"user {label}: {pipe.read().decode()}")
        os.waitpid(pid, 0)

    def close(self) -> None:
        for fd in self.fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        self.fds.clear()


def make(path: bytes, mode: int = 0o666, flags: int = os.O_WRONLY | os.O_CREAT | os.O_EXCL) -> None:
    os.close(os.open(path, flags, mode))


def write(path: bytes, data: bytes, flags: int = os.O_WRONLY, at: int = 0) -> int:
    fd = os.open(path, flags)
    try:
        return os.pwrite(fd, data, at)
    finally:
        os.close(fd)


def read(path: bytes) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def rename(old: bytes, new: bytes, flags: int) -> None:
    from lamella._kernels import confine

    confine.rename(-100, old, -100, new, flags)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate64(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


# -- parts ------------------------------------------------------------------------------------------------------------


def names(s: Script) -> None:
    for name in ("file", "link", "dangling", "dir", "fifo", "null", "gone", "file/x", "dangling/x", "link/x", "dir/gone/x", LONG, LONG + "x"):
        s.look(name)
    for name in ("new", LONG, LONG + "x", "file", "file/x", "gone/x", "b\\:,\n\t\u00fc", os.fsdecode(b"\xff\xfe")):
        s.note(f"make {name!r}", make, s.p(name))
        s.look(name)
        s.note(f"mkdir {name!r} 2", os.mkdir, s.p(name + "2") if len(name) < 250 else s.p(name), 0o750)
    s.note("listed", lambda: sorted(os.listdir(s.p(""))))
    s.note("mkdir on file", os.mkdir, s.p("file"))
    s.note("mkdir on link", os.mkdir, s.p("dangling"))
    s.note("make through link", make, s.p("dangling"), 0o666, os.O_WRONLY | os.O_CREAT)
    s.look("nowhere")
    s.note("symlink", os.symlink, b"some/where\xff", s.p("sym"))
    s.note("readlink", os.readlink, s.p("sym"))
    s.look("sym")
    s.note("readlink file", os.readlink, s.p("file"))
    s.note("readlink dir", os.readlink, s.p("dir"))
    s.note("symlink long", os.symlink, b"t" * 4000, s.p("symlong"))
    s.note("readlink long", os.readlink, s.p("symlong"))
    s.note("symlink exists", os.symlink, b"x", s.p("file"))
    for kind, name in ((stat.S_IFIFO, "f"), (stat.S_IFSOCK, "s"), (stat.S_IFBLK, "b"), (stat.S_IFCHR, "c"), (stat.S_IFREG, "r")):
        s.note(f"mknod {name}", os.mknod, s.p(f"nod-{name}"), kind | 0o640, os.makedev(7, 300) if name in "bc" else 0)
        s.look(f"nod-{name}")
    s.note("bind", lambda: socket.socket(socket.AF_UNIX).bind(os.path.relpath(s.p("sock"))))
    s.look("sock")
    s.note("null", write, s.p("null"), b"into nothing")


def links(s: Script) -> None:
    s.note("link", os.link, s.p("new"), s.p("new-link"))
    s.look("new")
    s.look("new-link")
    s.note("same", lambda: os.stat(s.p("new")).st_ino == os.stat(s.p("new-link")).st_ino)
    s.note("write one", write, s.p("new-link"), b"both")
    s.note("read other", read, s.p("new"))
    s.look("new")
    s.note("link exists", os.link, s.p("new"), s.p("file"))
    s.note("link dir", os.link, s.p("dir"), s.p("dir-link"))
    s.note("link gone", os.link, s.p("gone"), s.p("gone-link"))
    s.note("link symlink", os.link, s.p("dangling"), s.p("dangling-link"), follow_symlinks=False)
    s.look("dangling-link")
    s.note("link fifo", os.link, s.p("fifo"), s.p("fifo-link"))
    s.note("rename onto own link", os.rename, s.p("new"), s.p("new-link"))
    s.look("new")
    s.note("unlink one", os.unlink, s.p("new"))
    s.look("new-link")
    s.note("read after", read, s.p("new-link"))
    s.note("unlink two", os.unlink, s.p("new-link"))
    s.look("new-link")


def removals(s: Script) -> None:
    for name in ("dir", "file", "gone", "empty", "dir/a", "dir/b", "dir/sub", "dir", "dangling-link", "fifo-link", "nod-c"):
        s.note(f"unlink {name}", os.unlink, s.p(name))
        s.note(f"rmdir {name}", os.rmdir, s.p(name))
        s.look(name)
    s.note("mkdir again", os.mkdir, s.p("dir"))
    s.note("listed", os.listdir, s.p("dir"))
    s.note("make in again", make, s.p("dir/a"))
    s.note("file for dir", os.rmdir, s.p("dir/a"))
    s.note("make file again", make, s.p("file"))
    s.look("file")
    s.note("rmdir dot", os.rmdir, s.p("dir/."))
    s.note("rmdir dotdot", os.rmdir, s.p("dir/.."))


def renames(s: Script) -> None:
    for name in ("r1", "r2", "d1", "d2", "d3", "d3/x"):
        s.note(f"make {name}", make if name[0] == "r" else os.mkdir, s.p(name))
    table = [("r1", "r1"), ("r1", "r2"), ("r1", "r3"), ("r2", "d1"), ("d1", "r2"), ("d1", "d2"), ("d2", "d3"), ("d3", "d3/x/y"), ("d3/x", "d2/x"), ("victim", "victim2"),
             ("gone", "r9"), ("r2", "gone/x"), ("r2", LONG + "x"), ("link", "link2"), ("null", "null2"), ("fifo", "old/fifo"), ("moved", "old/moved"), ("old/moved", "moved"), ("victim2", "over")]  # fmt: skip
    for old, new in table:
        s.note(f"rename {old} {new[:9]}", os.rename, s.p(old), s.p(new))
        for name in (old, new):
            s.look(name)
    for old, new, flags in (("r2", "big", NOREPLACE), ("r2", "r4", NOREPLACE), ("r4", "big", EXCHANGE), ("r4", "moved", EXCHANGE), ("r4", "gone", EXCHANGE), ("moved", "d2", EXCHANGE), ("big", "x", 64)):
        s.note(f"renameat2 {old} {new} {flags}", rename, s.p(old), s.p(new), flags)
        for name in (old, new):
            s.look(name)
    s.note("back", rename, s.p("r4"), s.p("moved"), EXCHANGE)
    s.note("deep", read, s.p("d2/in/x"))
    s.note("tree", lambda: sorted(os.path.relpath(os.path.join(top, name), s.p("")) for top, dirs, files in os.walk(s.p("")) for name in dirs + files))


def content(s: Script) -> None:
    s.note("write", write, s.p("holes"), b"X" * 10, os.O_WRONLY, 5)
    s.note("append", write, s.p("holes"), b"end", os.O_WRONLY | os.O_APPEND, 0)
    s.note("read", read, s.p("holes"))
    s.note("beyond", write, s.p("holes"), b"far", os.O_WRONLY, 200_000)
    s.note("sum", lambda: (len(read(s.p("holes"))), sum(read(s.p("holes")))))
    fd = s.open("holes", os.O_RDWR)
    assert fd is not None
    s.note("data", os.lseek, fd, 0, os.SEEK_DATA)
    s.note("hole", os.lseek, fd, 0, os.SEEK_HOLE)
    s.note("no data", os.lseek, fd, 300_000, os.SEEK_DATA)
    s.note("end", os.lseek, fd, 0, os.SEEK_END)
    for mode, offset, length in ((0, 0, 400_000), (KEEP_SIZE, 0, 500_000), (KEEP_SIZE | PUNCH_HOLE, 0, 8192), (ZERO_RANGE, 196_608, 4096), (PUNCH_HOLE, 0, 1), (0, -1, 4), (0, 0, 0)):
        s.note(f"fallocate {mode} {offset} {length}", fallocate, fd, mode, offset, length)
        s.note("size", lambda: os.fstat(fd).st_size)
    s.note("sum", lambda: (len(read(s.p("holes"))), sum(read(s.p("holes")))))
    for size in (10, 100_000, 0, 5, -1):
        s.note(f"truncate {size}", os.truncate, s.p("trunc"), size)
        s.note("read", lambda: (len(read(s.p("trunc"))), sum(read(s.p("trunc")))))
    s.note("ftruncate", os.ftruncate, fd, 7)
    s.note("pread", os.pread, fd, 100, 0)
    s.note("truncate dir", os.truncate, s.p("old"), 0)
    s.note("truncate gone", os.truncate, s.p("gone"), 0)
    s.note("O_TRUNC", write, s.p("holes"), b"t", os.O_WRONLY | os.O_TRUNC)
    s.note("read", os.pread, fd, 100, 0)
    s.note("fsync", os.fsync, fd)
    s.note("fdatasync", os.fdatasync, fd)
    dir_fd = s.open("old", os.O_RDONLY | os.O_DIRECTORY)
    assert dir_fd is not None
    s.note("fsync dir", os.fsync, dir_fd)
    with mmap.mmap(fd, 1) as mapped:
        mapped[0] = 77
        mapped.flush()
        s.note("mapped", os.pread, fd, 1, 0)
    s.open("old", os.O_WRONLY)
    s.open("gone", os.O_RDONLY)
    s.open("link2", os.O_RDONLY | os.O_NOFOLLOW)
    s.open("holes", os.O_RDONLY | os.O_DIRECTORY)
    s.open("over", os.O_RDONLY | os.O_CREAT | os.O_EXCL)
    direct = s.open("big2", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    if direct is not None:
        with mmap.mmap(-1, 8192) as page:
            page[:] = bytes(range(256)) * 32
            s.note("direct write", os.pwrite, direct, page, 0)
            s.note("direct read", os.preadv, direct, [page], 4096)
    s.note("copy_file_range", lambda: os.copy_file_range(fd, s.open("copied", os.O_RDWR | os.O_CREAT), 1, 0, 1))
    s.note("copied", read, s.p("copied"))
    s.note("runs", lambda: subprocess.run([s.p("prog")], capture_output=True, check=False).stdout)
    one, two = s.open("locked", os.O_RDWR), s.open("locked", os.O_RDWR)
    assert one is not None
    assert two is not None
    s.note("flock", fcntl.flock, one, fcntl.LOCK_EX)
    s.note("flock again", fcntl.flock, two, fcntl.LOCK_EX | fcntl.LOCK_NB)
    s.note("lockf", fcntl.lockf, one, fcntl.LOCK_EX)


def handles(s: Script) -> None:
    one = s.open("open1", os.O_RDWR)
    assert one is not None
    s.note("unlink open", os.unlink, s.p("open1"))
    s.note("write unlinked", os.pwrite, one, b"still", 0)
    s.note("read unlinked", os.pread, one, 10, 0)
    s.note("stat unlinked", lambda: (os.fstat(one).st_size, os.fstat(one).st_nlink))
    s.note("truncate unlinked", os.ftruncate, one, 3)
    s.note("chmod unlinked", os.fchmod, one, 0o600)
    s.note("chown unlinked", os.fchown, one, 5, 6)
    s.note("xattr unlinked", os.setxattr, one, "user.gone", b"1")
    s.note("xattr of it", os.getxattr, one, "user.gone")
    s.note("utime unlinked", os.utime, one, ns=(5, 7))
    s.note("stat unlinked", lambda: (os.fstat(one).st_size, oct(os.fstat(one).st_mode), os.fstat(one).st_uid, os.fstat(one).st_mtime_ns))
    s.note("fsync unlinked", os.fsync, one)
    s.note("reopen", lambda: os.close(os.open(f"/proc/self/fd/{one}", os.O_RDONLY)))
    s.note("hidden", lambda: [name for name in os.listdir(s.p("")) if name.startswith(b".")])
    two = s.open("open2", os.O_RDONLY)
    assert two is not None
    s.note("over open", os.rename, s.p("open3"), s.p("open2"))
    s.note("old one", os.pread, two, 10, 0)
    s.note("nlink", lambda: os.fstat(two).st_nlink)
    reader = s.open("attr", os.O_RDONLY)
    assert reader is not None
    s.note("write beside", write, s.p("attr"), b"new text")
    s.note("reader sees", os.pread, reader, 8, 0)
    s.note("reader size", lambda: os.fstat(reader).st_size)
    s.note("cwd", lambda: os.mkdir(s.p("cwd")))
    where = os.open(s.p("cwd"), os.O_RDONLY | os.O_DIRECTORY)
    s.fds.append(where)
    s.note("rmdir open", os.rmdir, s.p("cwd"))
    s.note("list removed", os.listdir, where)
    s.note("make in removed", lambda: os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=where))
    s.note("nlink removed", lambda: os.fstat(where).st_nlink)


def metadata(s: Script) -> None:
    for mode in (0o600, 0o7777, 0o1644, 0):
        s.note(f"chmod {mode:o}", os.chmod, s.p("plain"), mode)
        s.look("plain")
    s.note("chmod back", os.chmod, s.p("plain"), 0o644)
    s.note("chown", os.chown, s.p("plain"), 7, 8)
    s.look("plain")
    s.note("chown uid", os.chown, s.p("plain"), USER, -1)
    s.note("chown gid", os.chown, s.p("plain"), -1, USER)
    s.look("plain")
    s.note("lchown", os.lchown, s.p("link2"), 9, 9)
    s.look("link2")
    for ns in ((1, 2), (10**18, 10**18 + 7), (-5, -1_000_000_001)):
        s.note(f"utime {ns}", os.utime, s.p("plain"), ns=ns)
        s.note("times", lambda: (os.stat(s.p("plain")).st_atime_ns, os.stat(s.p("plain")).st_mtime_ns))
    s.note("utime link", os.utime, s.p("link2"), ns=(3, 4), follow_symlinks=False)
    s.note("times link", lambda: (os.lstat(s.p("link2")).st_atime_ns, os.lstat(s.p("link2")).st_mtime_ns))
    s.note("utime dir", os.utime, s.p("old"), ns=(3, 4))
    s.note("times dir", lambda: (os.lstat(s.p("old")).st_atime_ns, os.lstat(s.p("old")).st_mtime_ns))
    s.note("touch", lambda: os.utime(s.p("plain")))
    s.note("is now", lambda: abs(os.stat(s.p("plain")).st_mtime - time.time()) < 5)
    s.note("omit", subprocess.call, ["touch", "-a", "-d", "@77", os.fsdecode(s.p("plain"))])
    s.note("omitted", lambda: (os.stat(s.p("plain")).st_atime_ns, abs(os.stat(s.p("plain")).st_mtime - time.time()) < 5))
    before = os.stat(s.p("old")).st_mtime_ns
    s.note("make", make, s.p("old/new"))
    s.note("dir is newer", lambda: os.stat(s.p("old")).st_mtime_ns > before)


def attributes(s: Script) -> None:
    follow = {"follow_symlinks": False}
    for name in ("xattr", "old", "link2", "fifo-x", "prog"):
        if name == "fifo-x":
            s.note("mkfifo", os.mkfifo, s.p(name))
        for key in ("user.one", "user.new", "trusted.one", "security.one", "nothing.one", "system.one", "user." + "k" * 250, "user."):
            s.note(f"set {name} {key[:12]}", os.setxattr, s.p(name), key, b"\0\xff,=\n", **follow)
            s.note("get", os.getxattr, s.p(name), key, **follow)
        s.note("create", os.setxattr, s.p(name), "trusted.one", b"2", os.XATTR_CREATE, **follow)
        s.note("create new", os.setxattr, s.p(name), "trusted.two", b"2", os.XATTR_CREATE, **follow)
        s.note("replace", os.setxattr, s.p(name), "trusted.one", b"3" * 1000, os.XATTR_REPLACE, **follow)
        s.note("replace none", os.setxattr, s.p(name), "trusted.no", b"3", os.XATTR_REPLACE, **follow)
        s.note("get", os.getxattr, s.p(name), "trusted.one", **follow)
        s.note("empty", os.setxattr, s.p(name), "trusted.empty", b"", **follow)
        s.note("get empty", os.getxattr, s.p(name), "trusted.empty", **follow)
        s.note("list", lambda path: sorted(os.listxattr(path, **follow)), s.p(name))
        s.note("remove", os.removexattr, s.p(name), "trusted.one", **follow)
        s.note("remove none", os.removexattr, s.p(name), "trusted.one", **follow)
        s.note("get none", os.getxattr, s.p(name), "trusted.one", **follow)
    s.as_user("list", lambda: sorted(os.listxattr(s.p("xattr"))))
    s.as_user("get trusted", lambda: os.getxattr(s.p("xattr"), "trusted.two"))
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in ((1, 7, -1 & 0xFFFFFFFF), (2, 6, USER), (4, 5, 0xFFFFFFFF), (0x10, 7, 0xFFFFFFFF), (0x20, 0, 0xFFFFFFFF)))
    s.note("default acl", os.setxattr, s.p("acl"), "system.posix_acl_default", acl)
    s.note("get", os.getxattr, s.p("acl"), "system.posix_acl_default")
    s.note("in acl", make, s.p("acl/file"))
    s.look("acl/file")
    s.note("in acl", os.mkdir, s.p("acl/dir"))
    s.look("acl/dir")
    s.note("inherited", lambda: (os.getxattr(s.p("acl/file"), "system.posix_acl_access"), os.listxattr(s.p("acl/dir"))))
    s.note("open the way", os.chmod, s.p("acl"), 0o777)
    s.as_user("writes by acl", write, s.p("acl/file"), b"x")
    s.as_user("may not by acl", write, s.p("acl/file"), b"x", uid=OTHER)
    s.note("mode is the mask", os.chmod, s.p("acl/file"), 0o604)
    s.as_user("masked", write, s.p("acl/file"), b"x")


def users(s: Script) -> None:
    for umask in (0, 0o022, 0o077):
        for name, call in (("file", make), ("dir", os.mkdir), ("fifo", os.mkfifo)):
            s.as_user(f"{name} {umask:o}", call, s.p(f"mine-{name}-{umask:o}"), umask=umask)
            s.look(f"mine-{name}-{umask:o}")
            s.as_user(f"{name} in group {umask:o}", call, s.p(f"group/mine-{name}-{umask:o}"), umask=umask)
            s.look(f"group/mine-{name}-{umask:o}")
    s.as_user("suid file", make, s.p("mine-suid"), 0o6755)
    s.look("mine-suid")
    s.as_user("sgid file in group", make, s.p("group/mine-sgid"), 0o2755)
    s.look("group/mine-sgid")
    s.as_user("sgid file in own group", make, s.p("group/mine-sgid2"), 0o2755, groups=(GROUP,))
    s.look("group/mine-sgid2")
    s.as_user("symlink", os.symlink, "x", s.p("mine-link"))
    s.look("mine-link")
    s.as_user("mknod", os.mknod, s.p("mine-nod"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
    s.as_user("not in closed", make, s.p("closed/x"))
    s.as_user("not list closed", os.listdir, s.p("closed"))
    s.as_user("not unlink his", os.unlink, s.p("sticky/his"))
    s.as_user("not rename his", os.rename, s.p("sticky/his"), s.p("sticky/mine"))
    s.as_user("unlink own", os.unlink, s.p("sticky/his"), uid=OTHER)
    s.as_user("not chmod", os.chmod, s.p("big"), 0o777)
    s.as_user("chmod own", os.chmod, s.p("plain"), 0o640)
    s.as_user("not chown", os.chown, s.p("plain"), OTHER, -1)
    s.as_user("chgrp own", os.chown, s.p("plain"), -1, GROUP, groups=(GROUP,))
    s.as_user("not chgrp", os.chown, s.p("plain"), -1, OTHER)
    s.look("plain")
    s.as_user("not utime", lambda: os.utime(s.p("big"), ns=(1, 1)))
    s.as_user("utime own", lambda: os.utime(s.p("plain"), ns=(1, 1)))
    s.as_user("not write", write, s.p("locked"), b"x")
    s.as_user("access", os.access, s.p("locked"), os.W_OK)
    s.as_user("not xattr", os.setxattr, s.p("locked"), "user.x", b"1")
    s.as_user("trusted", os.setxattr, s.p("plain"), "trusted.x", b"1")
    s.as_user("sgid lost", os.chmod, s.p("sgid"), 0o2755, groups=())
    s.look("sgid")
    for name in ("suid", "sgid"):
        s.as_user(f"write {name}", write, s.p(name), b"x")
        s.look(name)
        os.chown(s.p(name), USER, USER)
        os.chmod(s.p(name), 0o6755)
        s.as_user(f"truncate {name}", os.truncate, s.p(name), 3)
        s.look(name)
        os.chmod(s.p(name), 0o6755)
        s.note(f"root writes {name}", write, s.p(name), b"x")
        s.look(name)
        s.note(f"root chowns {name}", os.chown, s.p(name), USER, GROUP)
        s.look(name)
        os.chown(s.p(name), USER, USER)
        os.chmod(s.p(name), 0o6755)
        s.as_user(f"chgrp {name}", os.chown, s.p(name), -1, GROUP, groups=(GROUP,))
        s.look(name)
    s.note("capability", os.getxattr, s.p("cap"), "security.capability")
    s.note("write", write, s.p("cap"), b"x")
    s.note("capability", os.getxattr, s.p("cap"), "security.capability")


def many(s: Script) -> None:
    s.note("mkdir", os.mkdir, s.p("many"))
    for n in range(11_000):
        os.close(os.open(s.p(f"many/{n:05}"), os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    s.note("count", lambda: (len(os.listdir(s.p("many"))), len(set(os.listdir(s.p("many"))))))
    s.note("numbers", lambda: all(entry.inode() == entry.stat(follow_symlinks=False).st_ino for entry in os.scandir(s.p("many"))))
    s.note("remove all", subprocess.call, ["rm", "-r", os.fsdecode(s.p("many"))])
    s.look("many")
    with os.scandir(s.p("")) as entries:
        s.note("kinds", lambda: sorted((e.name, e.is_dir(follow_symlinks=False), e.is_file(follow_symlinks=False), e.is_symlink(), e.inode() == e.stat(follow_symlinks=False).st_ino) for e in entries))


PARTS = (names, links, renames, removals, content, handles, metadata, attributes, users, many)


def play(where: Path) -> list[str]:
    """Return a line for each call."""
    before, here = os.umask(0o022), os.getcwd()
    os.chdir(where)
    try:
        script = Script(where)
        for part in PARTS:
            script.lines.append(f"-- {part.__name__}")
            part(script)
            script.close()
        return script.lines
    finally:
        os.umask(before)
        os.chdir(here)


if __name__ == "__main__":  # posix.py DIRECTORY [prepare]
    if sys.argv[2:] == ["prepare"]:
        prepare(Path(sys.argv[1]))
    json.dump([line.encode(errors="surrogateescape").decode("latin1") for line in play(Path(sys.argv[1]))], sys.stdout)
