"""Run code that may try to leave its root where it can do no harm: hostile layers, as root too.

A :class:`Sandbox` is a child process in a mount namespace of its own, in which the whole machine is read-only and
without devices but two; one fresh tmpfs, or a btrfs on a loop device, is the only place to write. :func:`in_moat` lays treasures around the root of a call
(files, links, a pipe that stops who opens it), listed before and after. What leaves the root but stays near is seen as
a difference; what would go further meets a read-only machine.

The parent sends a function of an importable module and its arguments (pickled), and gets its result or its error.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import importlib
import os
import pickle
import resource
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, NoReturn, Self

import pytest

import lamella
from lamella.drivers._btrfs_calls import nested
from lamella.drivers.btrfs import remove_subvolume
from lamella.drivers.registry import driver_class, installed
from lamella.testing.listing import Found, compare, listing
from lamella.testing.tars import layer_tar
from lamella.testing.trees import Dir, Edit, Fifo, File, Hardlink, Symlink, build
from lamella.tree.scan import directory
from tests import parts

REPOSITORY = Path(__file__).resolve().parent.parent
NOBODY = 65534
TMPFS_BYTES, TMPFS_INODES = 256 << 20, 60_000
MEMORY_BYTES = 4 << 30
SECRET = b"a treasure of the moat"
SECRET_SHA256 = hashlib.sha256(SECRET).hexdigest()
MOAT_PATH, ROOT_PATH = b"land/moat", b"land/moat/root"
TREASURES: tuple[Edit, ...] = (
    File("secret", SECRET, mode=0o640, mtime_ns=7),
    File("moat/passwd", SECRET),
    Hardlink("moat/linked", "moat/passwd"),
    Dir("moat/treasure", mode=0o751),
    File("moat/treasure/secret", SECRET, mode=0o640, mtime_ns=7),
    Dir("moat/treasure/empty"),
    Fifo("moat/treasure/trap"),  # who opens it waits for ever
    Symlink("moat/into", "treasure"),
)

CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MS_NOSUID, MS_NODEV = 2, 4
MS_BIND, MS_PRIVATE = 4096, 1 << 18
DEVICES = (b"/dev/null", b"/dev/fuse")  # what is served by the second is a mount in the sandbox
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NODEV = 1, 4
SYS_MOUNT_SETATTR = 442
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
PR_SET_PDEATHSIG = 1


@dataclass
class Died(Exception):
    """The child ended, or took too long: what it wrote to stderr."""

    status: int
    stderr: str


@dataclass
class Outcome:
    """What a call in the moat did: ``result``, or the error's ``kind`` (its classes' names), ``text``, attributes."""

    result: Any = None
    kind: tuple[str, ...] = ()
    text: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)
    trace: str = ""
    tree: dict[bytes, Found] = field(default_factory=dict)
    escaped: list[str] = field(default_factory=list)
    leaked: list[bytes] = field(default_factory=list)


class Sandbox:
    """The child process; ``where`` is an existing empty directory for the tmpfs, ``uid`` whom it becomes (None: stays).

    Used as a context manager. A caller who is not root gets a user namespace and is root in there. ``through``: a
    program, with its options, that starts the child. ``mounted``: it has mounted something at ``where`` itself, which
    takes the place of the tmpfs.
    """

    def __init__(
        self, where: Path, *, uid: int | None = None, through: tuple[str, ...] = (), mounted: bool = False
    ) -> None:  # fmt: skip
        self.where, self.uid, self.through, self.mounted = where, uid, through, mounted
        self.child: subprocess.Popen[bytes] | None = None
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _start(self) -> subprocess.Popen[bytes]:
        code = f"from tests import sandbox; sandbox.serve({os.fspath(self.where)!r}, {self.uid!r}, {self.mounted!r})"
        path = os.pathsep.join([str(REPOSITORY), *filter(None, sys.path)])
        env = {k: v for k, v in os.environ.items() if not k.startswith("COV")} | {"PYTHONPATH": path}
        argv = [*self.through, sys.executable, "-B", "-c", code]
        pipe = subprocess.PIPE
        self.stderr.seek(0)
        self.stderr.truncate()
        return subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=self.stderr, env=env, cwd=REPOSITORY)

    def call(self, function: Callable[..., Any], *args: Any, timeout: int = 60, **kwargs: Any) -> Any:
        """Return ``function(directory, *args, **kwargs)``, run in the child with a fresh writable directory.

        RuntimeError with the child's traceback for an error, Died when the child does not answer.
        """
        if self.child is None or self.child.poll() is not None:
            self._end_child()  # one that is found dead still has its pipes
            self.child = self._start()
        child = self.child
        request = pickle.dumps((function, args, kwargs, timeout))
        try:
            child.stdin.write(struct.pack("<Q", len(request)) + request)
            child.stdin.flush()
            header = child.stdout.read(8)
            answer = child.stdout.read(struct.unpack("<Q", header)[0]) if len(header) == 8 else b""
        except BrokenPipeError:
            answer = b""
        if not answer:
            status = child.wait()
            self._end_child()
            self.stderr.seek(0)
            raise Died(status, self.stderr.read()[-4000:].decode(errors="replace"))
        ok, value = pickle.loads(answer)
        if not ok:
            raise RuntimeError(value)
        return value

    def _end_child(self) -> None:
        child, self.child = self.child, None
        if child is not None:
            child.kill()
            child.wait()
            with contextlib.suppress(BrokenPipeError):  # what it was not told any more
                child.stdin.close()
            child.stdout.close()

    def close(self) -> None:
        """End the child, whose tmpfs goes with its namespace, and forget what it wrote. No call may follow."""
        self._end_child()
        self.stderr.close()


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _enter(where: str, uid: int | None, mounted: bool) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    outer = (os.getuid(), os.getgid())
    flags = CLONE_NEWNS | (CLONE_NEWUSER if outer[0] != 0 else 0)
    _checked(libc.unshare(flags), "unshare")
    if flags & CLONE_NEWUSER:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {outer[0]} 1"), ("gid_map", f"0 {outer[1]} 1")):
            Path("/proc/self", name).write_text(text)
    # one call takes the write permission from every mount, and from those the kernel has locked the flags stay
    attributes = struct.pack("<QQQQ", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV, 0, MS_PRIVATE, 0)
    _checked(libc.mount(None, b"/", None, MS_PRIVATE | 0x4000, None), "mount --make-rprivate")
    _checked(libc.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, attributes, len(attributes)), "mount_setattr")
    if mounted:
        attributes = struct.pack("<QQQQ", 0, MOUNT_ATTR_RDONLY, 0, 0)
        _checked(libc.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, os.fsencode(where), 0, attributes, len(attributes)), "mount_setattr")
    else:
        options = f"mode=0755,size={TMPFS_BYTES},nr_inodes={TMPFS_INODES}".encode()
        _checked(libc.mount(b"sandbox", os.fsencode(where), b"tmpfs", MS_NOSUID | MS_NODEV, options), "mount tmpfs")
    for device in filter(os.path.exists, DEVICES):
        _show_device(libc, device, os.fsencode(where) if uid is not None else None)
    os.chdir(where)
    if "ASAN_OPTIONS" not in os.environ:  # a sanitizer takes terabytes of addresses
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if uid is not None:
        os.chown(where, uid, uid)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    if _can_write(Path(__file__)):
        raise RuntimeError("the sandbox does not hold")


def _show_device(libc: ctypes.CDLL, device: bytes, where: bytes | None) -> None:
    """Let a device be opened, by an ordinary user too with a node of his own, made in ``where``."""
    source = device
    if where is not None:
        source = os.path.join(where, b"device")
        os.mknod(source, stat.S_IFCHR, os.stat(device).st_rdev)
        os.chmod(source, 0o666)
    _checked(libc.mount(source, device, None, MS_BIND, None), "mount --bind")
    if where is not None:
        os.unlink(source)
    attributes = struct.pack("<QQQQ", 0, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV, 0, 0)
    _checked(libc.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, device, 0, attributes, len(attributes)), "mount_setattr")


def _can_write(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_WRONLY))
    except OSError as error:
        if error.errno not in {errno.EROFS, errno.EACCES}:
            raise
        return False
    return True


def _load() -> None:
    for name in lamella.__all__:
        getattr(lamella, name)
    for key in installed():
        driver_class(*key)


def serve(where: str, uid: int | None, mounted: bool) -> None:
    """Be the child: enter the sandbox, answer calls until stdin ends. Never returns."""
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a call prints does not disturb the answers
    if os.geteuid() == 0:
        _load()  # later, an ordinary user may not be allowed to read it
    if uid is not None:
        importlib.import_module("lamella.testing.suite")
        if parts.missing("fuse") is None:
            importlib.import_module("lamella.fuse.server")
            importlib.import_module("lamella.fuse.binding").load()
    _enter(where, uid, mounted)
    _load()  # a user namespace is entered by one thread alone, and libraries start their own
    answer_calls(source, sink, where, _remove)


def answer_calls(source: IO[bytes], sink: IO[bytes], where: str, clean: Callable[[Path], None]) -> NoReturn:
    """Answer calls until ``source`` ends, each in a folder of its own that is cleaned then."""
    number = 0
    while len(header := source.read(8)) == 8:
        function, args, kwargs, timeout = pickle.loads(source.read(struct.unpack("<Q", header)[0]))
        signal.alarm(timeout)  # the default action ends the process: Died
        number += 1
        folder = Path(where, f"{number}")
        folder.mkdir()
        try:
            answer = pickle.dumps((True, function(folder, *args, **kwargs)))
        except BaseException:  # noqa: BLE001
            answer = pickle.dumps((False, traceback.format_exc()))
        signal.alarm(0)
        sink.write(struct.pack("<Q", len(answer)) + answer)
        sink.flush()
        clean(folder)
    os._exit(0)


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except (OSError, RecursionError):  # closed directories, or a path deeper than a recursion
        subprocess.run(["rm", "-rf", folder], check=False, stdin=subprocess.PIPE, stderr=subprocess.PIPE)


def in_moat(folder: Path, lower: tuple[Edit, ...], action: Callable[..., Any], *args: Any, **kwargs: Any) -> Outcome:
    """Build ``lower`` as a root inside a moat, run ``action(root, *args, **kwargs)``, and see what changed around it.

    Where the target of a symlink of ``lower`` starts with ``MOAT``, the moat's own path comes in its place.
    """
    moat = folder / "land" / "moat"
    build(folder / "land", Dir("moat"), *TREASURES)
    root = build(moat / "root", *(aimed(edit, os.fsencode(moat)) for edit in lower))
    before = _around(folder)
    outcome = Outcome()
    try:
        outcome.result = action(root, *args, **kwargs)
    except Exception as error:  # noqa: BLE001
        outcome.kind = tuple(c.__name__ for c in type(error).__mro__)
        outcome.text, outcome.trace = str(error), traceback.format_exc()
        outcome.attributes = {k: v for k, v in vars(error).items() if isinstance(v, int | str | bytes)}
    outcome.escaped = compare(before, _around(folder))
    if root.exists():
        outcome.tree = listing(root)
        outcome.leaked = [path for path, found in outcome.tree.items() if found.sha256 == SECRET_SHA256]
    return outcome


def _around(folder: Path) -> dict[bytes, Found]:
    # all but the root; a root may be staged beside itself, so the moat's own time says nothing
    try:
        everything = listing(folder)  # with the root: a link out of it shows in ``links``
    except PermissionError:
        everything = listing(folder, skip=ROOT_PATH)  # an ordinary user who closed a directory
    around = {p: f for p, f in everything.items() if p != ROOT_PATH and not p.startswith(ROOT_PATH + b"/")}
    around[MOAT_PATH] = around[MOAT_PATH]._replace(mtime_ns=0)
    return around


def aimed(thing: Any, moat: bytes) -> Any:
    """Put the moat's path in the place of ``MOAT`` in an edit's or a member's path and target."""
    changes = {}
    for name in ("path", "target", "link"):
        value = getattr(thing, name, None)
        if isinstance(value, str | bytes) and b"MOAT" in (raw := os.fsencode(value)):
            changes[name] = raw.replace(b"MOAT", moat)
    return replace(thing, **changes) if changes else thing


def apply_members(root: Path, members: list[Any], **options: Any) -> Any:
    """Apply the layer of ``members`` to ``root`` and return the facts of the result; for :func:`in_moat`."""
    moat = os.fsencode(root.parent)
    data = layer_tar([m if isinstance(m, bytes) else aimed(m, moat) for m in members])
    result = lamella.apply(data, root, **options)
    return {"entries": result.entries, "warnings": [str(w) for w in result.warnings]}


@pytest.fixture(scope="session")
def box() -> Iterator[Sandbox]:
    """Give the session's sandbox; in it the caller stays root, or is root of a user namespace."""
    if os.geteuid() != 0:
        parts.requires("userns")
    with tempfile.TemporaryDirectory(prefix="sandbox-") as where, Sandbox(Path(where)) as child:
        yield child


@pytest.fixture(scope="session")
def user_box() -> Iterator[Sandbox]:
    """Give a sandbox in which the caller is root of a user namespace that has no other user."""
    parts.requires("userns")
    through = ("unshare", "--user", "--map-root-user")
    with tempfile.TemporaryDirectory(prefix="sandbox-") as where, Sandbox(Path(where), through=through) as child:
        yield child


@pytest.fixture(scope="session")
def nobody_box() -> Iterator[Sandbox]:
    """Give a sandbox in which the caller is an ordinary user."""
    parts.requires("root")
    with tempfile.TemporaryDirectory(prefix="lamella-sandbox-", dir=parts.TMPFS) as where:
        os.chmod(where, 0o755)  # the session's home is for its owner alone
        with Sandbox(Path(where), uid=NOBODY) as child:
            yield child


# -- on btrfs ---------------------------------------------------------------------------------------------------------

BTRFS_NBYTES = 4 << 30  # of which few are used
_MOUNT = 'mount -o loop "$0" "$1" && shift && exec "$@"'


@contextlib.contextmanager
def on_btrfs(home: Path, *, uid: int | None = None, user: bool = False, nbytes: int = BTRFS_NBYTES) -> Iterator[Sandbox]:
    """Lend a sandbox whose place to write is a fresh btrfs, mounted in there alone: the loop device goes when it ends.

    Its disk is a file in the directory ``home``.
    """
    parts.requires("btrfs")
    folder = Path(tempfile.mkdtemp(prefix="btrfs-", dir=home))
    folder.chmod(0o755)  # for who is an ordinary user
    disk, where = folder / "disk", folder / "where"
    where.mkdir()
    with disk.open("wb") as file:
        file.truncate(nbytes)
    through = ("unshare", "--mount", "--propagation", "private", "sh", "-c", _MOUNT, str(disk), str(where))
    more = ("unshare", "--user", "--map-root-user") if user else ()
    try:
        reason = parts.run(*parts.MKFS["btrfs"], str(disk))
        assert reason is None, reason
        with Sandbox(where, uid=uid, through=(*through, *more), mounted=True) as child:
            yield child
    finally:
        until = time.monotonic() + 10
        while parts.loops_of(disk) and time.monotonic() < until:
            time.sleep(0.01)  # a namespace goes after its last process
        parts.release(disk, where)
        shutil.rmtree(folder)


def without_subvolumes(folder: Path, check: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return ``check(folder, ...)``, and remove all subvolumes that it left anywhere: nothing else can."""
    try:
        return check(folder, *args, **kwargs)
    finally:
        with directory(folder.parent) as top:
            for path in nested(top):
                parent, _, name = os.fsdecode(path).rpartition("/")
                with directory(folder.parent / parent) as fd:
                    remove_subvolume(fd, name)


@pytest.fixture(scope="session")
def btrfs_box(home: Path) -> Iterator[Sandbox]:
    """Give a sandbox on btrfs, in which root stays root."""
    with on_btrfs(home) as child:
        yield child


@pytest.fixture(scope="session")
def btrfs_user_box(home: Path) -> Iterator[Sandbox]:
    """Give a sandbox on btrfs, in which the caller is root of a user namespace."""
    parts.requires("userns")
    with on_btrfs(home, user=True) as child:
        yield child


@pytest.fixture(scope="session")
def btrfs_nobody_box(home: Path) -> Iterator[Sandbox]:
    """Give a sandbox on btrfs, in which the caller is an ordinary user."""
    with on_btrfs(home, uid=NOBODY) as child:
        yield child
