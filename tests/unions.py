"""One script in a mount of the kernel's overlayfs and in unions of ours: each answers, and leaves, what the others do.

A script is a row of edits (lamella.testing.trees) or of single calls. It is played through an object with the calls of
lamella.layer.union.Union, and what each step answered is noted. For calls in a sandbox.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import lamella
from lamella._kernels import confine
from lamella.layer.union import Union
from lamella.model import Why
from lamella.testing.listing import KINDS, Found, compare, listing
from lamella.testing.trees import (
    MTIME_NS,
    Chmod,
    Chown,
    Device,
    Dir,
    Edit,
    Fifo,
    File,
    Hardlink,
    Node,
    Remove,
    Rename,
    Script,
    Socket,
    Symlink,
    Utime,
    Write,
    Xattr,
    build,
    folders,
)  # fmt: skip
from lamella.tree.root import Root, join, split

Call = tuple[Any, ...]  # name of a method, and what to give it
# seconds; the time of a file is that of the clock's last tick, and what is changed in the tick it was made in looks unchanged
TICK = 0.012


class Kernel:
    """The calls of Union on a mounted directory; no symlink is followed."""

    def __init__(self, where: Path) -> None:
        self.root = Root(os.open(where, os.O_RDONLY | os.O_DIRECTORY))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self.root.fd)

    @contextlib.contextmanager
    def at(self, path: bytes) -> Any:
        parent, name = split(path)
        with self.root.dir(parent) as fd:
            yield fd, name or b"."

    def stat(self, path):
        with self.at(path) as (fd, name):
            return os.stat(name, dir_fd=fd, follow_symlinks=False)

    def readdir(self, path):
        with self.at(path) as (fd, name):
            opened = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
        try:
            with os.scandir(opened) as found:
                return {os.fsencode(e.name): stat.S_IFMT(e.stat(follow_symlinks=False).st_mode) for e in found}
        finally:
            os.close(opened)

    def readlink(self, path):
        with self.at(path) as (fd, name):
            return os.readlink(name, dir_fd=fd)

    def open(self, path, flags=os.O_RDONLY):
        with self.at(path) as (fd, name):
            return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=fd)

    def create(self, path, mode=0o666):
        with self.at(path) as (fd, name):
            return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode, dir_fd=fd)

    def mkdir(self, path, mode=0o777):
        with self.at(path) as (fd, name):
            os.mkdir(name, mode, dir_fd=fd)

    def mknod(self, path, mode, device=0):
        with self.at(path) as (fd, name):
            os.mknod(name, mode, device, dir_fd=fd)

    def symlink(self, target, path):
        with self.at(path) as (fd, name):
            os.symlink(target, name, dir_fd=fd)

    def link(self, old, new):
        self.stat(old)  # link(2) looks there first
        with self.at(old) as (fd, name), self.at(new) as (new_fd, new_name):
            os.link(name, new_name, src_dir_fd=fd, dst_dir_fd=new_fd, follow_symlinks=False)

    def unlink(self, path):
        with self.at(path) as (fd, name):
            os.unlink(name, dir_fd=fd)

    def rmdir(self, path):
        with self.at(path) as (fd, name):
            os.rmdir(name, dir_fd=fd)

    def rename(self, old, new):
        with self.at(old) as (fd, name), self.at(new) as (new_fd, new_name):
            os.rename(name, new_name, src_dir_fd=fd, dst_dir_fd=new_fd)

    def truncate(self, path, size):
        with self.at(path) as (fd, name):
            if stat.S_ISLNK(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                raise OSError(errno.EINVAL, "a symlink")
            os.truncate(b"/proc/self/fd/%d/%s" % (fd, name), size)

    def chmod(self, path, mode):
        with self.at(path) as (fd, name):
            confine.chmod(fd, name, mode)

    def chown(self, path, uid, gid):
        with self.at(path) as (fd, name):
            os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)

    def utimens(self, path, ns=None):
        with self.at(path) as (fd, name):
            os.utime(name, ns=ns, dir_fd=fd, follow_symlinks=False)

    def xattrs(self, path):
        with self.at(path) as (fd, name):
            where = b"/proc/self/fd/%d/%s" % (fd, name)
            names = map(os.fsencode, os.listxattr(where, follow_symlinks=False))
            return {key: os.getxattr(where, key, follow_symlinks=False) for key in names}

    def setxattr(self, path, key, value, flags=0):
        with self.at(path) as (fd, name):
            os.setxattr(b"/proc/self/fd/%d/%s" % (fd, name), key, value, flags, follow_symlinks=False)

    def removexattr(self, path, key):
        with self.at(path) as (fd, name):
            os.removexattr(b"/proc/self/fd/%d/%s" % (fd, name), key, follow_symlinks=False)


# -- scripts ----------------------------------------------------------------------------------------------------------


def is_dir(fs: Any, path: bytes) -> bool:
    try:
        return stat.S_ISDIR(fs.stat(path).st_mode)
    except OSError:
        return False


def remove(fs: Any, path: bytes) -> None:
    if is_dir(fs, path):
        for name in sorted(fs.readdir(path)):
            remove(fs, join(path, name))
        fs.rmdir(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            fs.unlink(path)


def write(fs: Any, path: bytes, content: bytes, offset: int | None) -> None:
    fd = fs.open(path, os.O_WRONLY | (os.O_TRUNC if offset is None else 0))
    try:
        os.pwrite(fd, content, offset or 0)
    finally:
        os.close(fd)


def dress(fs: Any, edit: Node, path: bytes) -> None:
    if edit.uid is not None or edit.gid is not None:
        fs.chown(path, -1 if edit.uid is None else edit.uid, -1 if edit.gid is None else edit.gid)
    if not isinstance(edit, Symlink):
        fs.chmod(path, edit.default_mode if edit.mode is None else edit.mode)
    for key, value in edit.xattrs.items():
        fs.setxattr(path, os.fsencode(key), value)
    fs.utimens(path, (edit.mtime_ns, edit.mtime_ns))


def make(fs: Any, edit: Node, path: bytes) -> None:
    if isinstance(edit, Dir) and is_dir(fs, path):
        for key in sorted(fs.xattrs(path)):
            fs.removexattr(path, key)
        return dress(fs, edit, path)
    remove(fs, path)
    match edit:
        case File():
            fd = fs.create(path)
            os.write(fd, edit.content)
            os.close(fd)
        case Dir():
            fs.mkdir(path)
        case Symlink():
            fs.symlink(os.fsencode(edit.target), path)
        case Fifo():
            fs.mknod(path, stat.S_IFIFO | 0o600)
        case Socket():
            fs.mknod(path, stat.S_IFSOCK | 0o600)
        case Device():
            kind = stat.S_IFCHR if edit.kind == "char" else stat.S_IFBLK
            fs.mknod(path, kind | 0o600, os.makedev(edit.major, edit.minor))
    return dress(fs, edit, path)


def perform(fs: Any, edit: Edit) -> None:
    """Do an edit by the calls of ``fs``, as its own apply() does it by the kernel's."""
    path = os.fsencode(edit.path)
    match edit:
        case Node():
            make(fs, edit, path)
        case Remove():
            remove(fs, path)
        case Rename():
            remove(fs, os.fsencode(edit.to))
            fs.rename(path, os.fsencode(edit.to))
        case Hardlink():
            remove(fs, path)
            fs.link(os.fsencode(edit.target), path)
        case Chmod():
            fs.chmod(path, edit.mode)
        case Chown():
            fs.chown(path, edit.uid, edit.gid)
        case Xattr(value=None):
            fs.removexattr(path, os.fsencode(edit.name))
        case Xattr():
            fs.setxattr(path, os.fsencode(edit.name), edit.value)
        case Utime():
            fs.utimens(path, (edit.mtime_ns, edit.mtime_ns))
        case Write():
            after = fs.stat(path).st_mtime_ns if edit.mtime_ns is None else edit.mtime_ns
            write(fs, path, edit.content, edit.offset)
            fs.utimens(path, (after, after))


def step(fs: Any, call: Call) -> None:
    name, *args = call
    if name == "write":
        write(fs, *args)
    elif name in ("create", "open"):
        os.close(getattr(fs, name)(*args))
    else:
        getattr(fs, name)(*args)


def play(fs: Any, script: Script | Sequence[Call]) -> list[str]:
    """Run a script and return what each step answered, the name of an errno or nothing."""
    answers = []
    for edit in script.edits if isinstance(script, Script) else script:
        try:
            if isinstance(edit, Edit):
                perform(fs, edit)
            else:
                step(fs, edit)
            answers.append(f"{edit!r}: done")
        except OSError as error:
            answers.append(f"{edit!r}: {errno.errorcode[error.errno]}")
    if isinstance(script, Script):
        settle(fs, script)
    return answers


def below(fs: Any, path: bytes) -> list[bytes]:
    """Return the directories at and below ``path``."""
    if not is_dir(fs, path):
        return []
    return [path, *(found for name in sorted(fs.readdir(path)) for found in below(fs, join(path, name)))]


def settle(fs: Any, script: Script) -> None:
    times: dict[bytes, int] = {}
    for edit in script.edits:
        times.update({folder: script.dir_mtime_ns for folder in folders(edit) if folder not in times})
        if isinstance(edit, Dir | Utime):
            times[os.fsencode(edit.path)] = edit.mtime_ns
        if isinstance(edit, Rename):  # what was changed before it was moved is known by another name
            times.update({path: script.dir_mtime_ns for path in below(fs, os.fsencode(edit.to)) if path not in times})
    for path, ns in times.items():
        if is_dir(fs, path):
            fs.utimens(path, (ns, ns))


# -- what is left -----------------------------------------------------------------------------------------------------


def tree_of(union: Union) -> dict[bytes, Found]:
    """List what a union shows, as lamella.testing.listing lists a directory."""
    rows, inodes = {}, {}
    todo = [b""]
    while todo:
        path = todo.pop()
        node = union.node(path)
        rows[path] = found(union, path, node.status)
        if node.is_dir:
            kinds = union.readdir(path)
            todo += [join(path, name) for name in kinds]
            assert all(stat.S_IFMT(union.stat(join(path, name)).st_mode) == kind for name, kind in kinds.items())
        elif node.status.st_nlink > 1:
            inodes.setdefault((node.status.st_dev, node.status.st_ino), []).append(path)
    for names in inodes.values():
        for path in names if len(names) > 1 else ():
            rows[path] = rows[path]._replace(links=tuple(sorted(names)))
    return dict(sorted(rows.items()))


def found(union: Union, path: bytes, st: os.stat_result) -> Found:
    kind, digest = KINDS[stat.S_IFMT(st.st_mode)], ""
    if kind == "file":
        with open(union.open(path), "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()
    return Found(
        type=kind, mode=stat.S_IMODE(st.st_mode), uid=st.st_uid, gid=st.st_gid, size=0 if kind == "dir" else st.st_size,
        mtime_ns=st.st_mtime_ns, rdev=(os.major(st.st_rdev), os.minor(st.st_rdev)) if kind in {"char", "block"} else (0, 0),
        links=(), target=union.readlink(path) if kind == "symlink" else b"",
        xattrs=tuple(sorted(union.xattrs(path).items())), sha256=digest,
    )  # fmt: skip


@dataclass
class Outcome:
    """What the kernel answered, and a line for everything that is otherwise in one of ours."""

    answers: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def layer_of(upper: Path, lowers: Sequence[Path], dialect: str) -> bytes:
    out = io.BytesIO()
    lamella.diff_from_upper(upper, out, lowers, dialect=dialect, compression="none")
    return out.getvalue()


def fresh(upper: Path) -> Path:
    upper.mkdir()
    os.utime(upper, ns=(MTIME_NS, MTIME_NS))
    return upper


def differ(what: str, theirs: Any, ours: Any) -> list[str]:
    if theirs == ours:
        return []
    if isinstance(theirs, list):
        return [f"{what}: {a!r} != {b!r}" for a, b in zip([*theirs, None], [*ours, None], strict=False) if a != b]
    return [f"{what} differs"]


def timeless(changes: list[tuple[str, bytes, int]], ignored: set[str]) -> list[tuple[str, bytes, int]]:
    """Leave out that a time differs, where times are not compared: two runs need not see the clock move alike."""
    if "mtime_ns" not in ignored:
        return changes
    return [(kind, path, why & ~Why.MTIME.value) for kind, path, why in changes if kind != "modify" or why != Why.MTIME.value]


def both(
    folder: Path, tree: Script, scripts: Sequence[Script | Sequence[Call]], *, dialects: Sequence[str], userxattr: bool = False,
    redirect_dir: bool = False,
) -> Outcome:  # fmt: skip
    """Run each script over what those before it left: in mounts, and in a union of each dialect. Compare after each."""
    from tests.overlays import facts, overlay  # here: an ordinary user cannot load all that it does

    lower = folder / "lower"
    build(lower)
    tree.apply(lower)
    before = listing(lower)
    options = f"redirect_dir={'on' if redirect_dir else 'off'}" if not userxattr else "userxattr"
    stacks = {who: [lower] for who in ("kernel", *dialects)}
    out = Outcome()
    for number, script in enumerate(scripts):
        time.sleep(TICK)
        ignored = set() if isinstance(script, Script) else {"mtime_ns"}
        upper = fresh(folder / f"kernel{number}")
        with overlay(folder / "mnt", stacks["kernel"], upper, options) as where, Kernel(where) as fs:
            answers = play(fs, script)
        with overlay(folder / "mnt", stacks["kernel"], upper, options) as where:
            theirs = listing(where)
        changes = timeless(facts(lamella.changes_from_upper(upper, stacks["kernel"])), ignored)
        layer = layer_of(upper, stacks["kernel"], "overlay")
        out.answers += answers
        for dialect in dialects:
            mine, stack = fresh(folder / f"{dialect}{number}".replace(":", "-")), stacks[dialect]
            ours_says: list[str] = []
            with Union([mine, *stack], dialect=dialect, redirect_dir=redirect_dir) as union:
                ours_says += differ("answer", answers, play(union, script))
                ours_says += [f"shown {line}" for line in compare(theirs, tree_of(union), {*ignored, "root"})]
            if dialect != "aufs":
                with overlay(folder / "mnt", [mine, *stack], None, options) as where:
                    ours_says += [f"mounted {line}" for line in compare(theirs, listing(where), {*ignored, "root"})]
            found = facts(lamella.changes_from_upper(mine, stack, dialect=dialect))
            ours_says += differ("change", changes, timeless(found, ignored))
            if isinstance(script, Script) and layer != layer_of(mine, stack, dialect):
                ours_says.append("layer differs")
            out.wrong += [f"{dialect} {number}: {line}" for line in ours_says]
            stack.insert(0, mine)
        stacks["kernel"].insert(0, upper)
    out.wrong += [f"lower {line}" for line in compare(before, listing(lower))]
    return out


def goes_on(folder: Path, tree: Script, scripts: Sequence[Script], options: str) -> list[str]:
    """Run a script in a mount and the next in a union over what it wrote; compare with both in one mount."""
    from tests.overlays import overlay

    lower, upper, other = build(folder / "lower"), fresh(folder / "upper"), fresh(folder / "other")
    tree.apply(lower)
    with overlay(folder / "mnt", [lower], other, options) as where, Kernel(where) as fs:
        answers = [play(fs, script) for script in scripts]
    with overlay(folder / "mnt", [lower], upper, options) as where, Kernel(where) as fs:
        play(fs, scripts[0])
    with Union([upper, lower], redirect_dir=True) as union:
        wrong = differ("answer", answers[1], play(union, scripts[1]))
        shown = tree_of(union)
    with overlay(folder / "mnt", [lower], other, options) as where:
        theirs = listing(where)
    with overlay(folder / "mnt", [lower], upper, options) as where:
        wrong += [f"mounted {line}" for line in compare(theirs, listing(where))]
    return wrong + [f"shown {line}" for line in compare(theirs, shown)]


def alone(folder: Path, lower: Sequence[Edit], calls: Sequence[Call]) -> tuple[list[str], list[str]]:
    """Run calls in a union without a mount to compare with: what was refused, and what a second look sees differently."""
    branches = [build(folder / "upper"), build(folder / "lower", *lower)]
    with Union(branches) as union:
        answers = play(union, calls)
        shown = tree_of(union)
    with Union(branches, writable=False) as union:
        return [answer for answer in answers if not answer.endswith("done")], compare(shown, tree_of(union))
