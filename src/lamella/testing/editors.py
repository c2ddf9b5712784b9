"""Play a script through the calls of a file system, a mounted directory's or a union's, and see what that leaves.

The same script answers, and leaves, the same wherever it is played, or one of the two is wrong.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Collection, Sequence
from typing import Any

from lamella.testing.calls import Calls
from lamella.testing.copying import copy
from lamella.testing.edits import times_of
from lamella.testing.listing import KINDS, Found
from lamella.testing.trees import (
    Append,
    Chmod,
    Chown,
    Device,
    Dir,
    Edit,
    Fifo,
    File,
    Hardlink,
    Hole,
    Move,
    Node,
    Remove,
    Rename,
    Script,
    Socket,
    Symlink,
    Truncate,
    Utime,
    Write,
    Xattr,
)
from lamella.tree.root import join

__all__ = ["Call", "perform", "play", "settle", "tree_of"]

Call = tuple[Any, ...]  # name of a method of Calls, and what to give it; "write" too


# -- scripts ----------------------------------------------------------------------------------------------------------


def play(fs: Calls, script: Script | Sequence[Edit | Call], copying: Collection[int] = ()) -> list[str]:
    """Run a script and return what each step answered: "done", "copied" for a Move by a copy, or the name of an errno.

    ``copying``: the numbers of moves that are to copy, whether or not a rename would do.
    """
    answers = []
    failed = set()
    for number, edit in enumerate(script.edits if isinstance(script, Script) else script):
        try:
            copied = perform(fs, edit, copying=number in copying) if isinstance(edit, Edit) else _call(fs, edit)
            answer = "copied" if copied else "done"
        except OSError as error:
            failed.add(number)
            answer = errno.errorcode[error.errno or 0]
        answers.append(f"{edit!r}: {answer}")
    if isinstance(script, Script):
        settle(fs, script, failed)
    return answers


def settle(fs: Calls, script: Script, failed: Collection[int] = ()) -> None:
    """Set the times of the directories that ``script`` touched, as the script itself does."""
    for path, ns in times_of(script.edits, script.dir_mtime_ns, failed).items():
        if _is_dir(fs, path):
            fs.utimens(path, (ns, ns))


def _call(fs: Calls, call: Call) -> bool:
    name, *args = call
    if name == "write":
        _write(fs, *args)
    elif name in ("create", "open"):
        os.close(getattr(fs, name)(*args))
    else:
        getattr(fs, name)(*args)
    return False


def perform(fs: Calls, edit: Edit, *, copying: bool = False) -> bool:
    """Do an edit by the calls of ``fs``, as its own apply() does it by the kernel's; True for a Move that copied."""
    path = os.fsencode(edit.path)
    match edit:
        case Node():
            _make(fs, edit, path)
        case Remove():
            _remove(fs, path)
        case Rename():
            return _move(fs, path, os.fsencode(edit.to), by_copy=isinstance(edit, Move), copying=copying)
        case Hardlink():
            _remove(fs, path)
            fs.link(os.fsencode(edit.target), path)
        case Chmod():
            fs.chmod(path, edit.mode)
        case Chown():
            fs.chown(path, edit.uid, edit.gid)
        case Xattr(value=None):
            fs.removexattr(path, os.fsencode(edit.name))
        case Xattr():
            fs.setxattr(path, os.fsencode(edit.name), edit.value or b"")
        case Utime():
            fs.utimens(path, (edit.mtime_ns, edit.mtime_ns))
        case Write() | Append() | Truncate() | Hole():
            after = fs.stat(path).st_mtime_ns if edit.mtime_ns is None else edit.mtime_ns
            _fill(fs, path, edit)
            fs.utimens(path, (after, after))
        case _:
            raise TypeError(f"an edit that no file system has a call for: {edit!r}")
    return False


def _fill(fs: Calls, path: bytes, edit: Write | Append | Truncate | Hole) -> None:
    match edit:
        case Write():
            _write(fs, path, edit.content, edit.offset)
        case Append():
            _write(fs, path, edit.content, fs.stat(path).st_size)
        case Truncate():
            fs.truncate(path, edit.size)
        case Hole():
            fs.truncate(path, edit.offset)
            fs.truncate(path, edit.offset + edit.nbytes)


def _write(fs: Calls, path: bytes, content: bytes, offset: int | None) -> None:
    fd = fs.open(path, os.O_WRONLY | (os.O_TRUNC if offset is None else 0))
    try:
        os.pwrite(fd, content, offset or 0)
    finally:
        os.close(fd)


def _make(fs: Calls, edit: Node, path: bytes) -> None:
    if isinstance(edit, Dir) and _is_dir(fs, path):
        for key in sorted(fs.xattrs(path)):
            fs.removexattr(path, key)
        return _dress(fs, edit, path)
    _remove(fs, path)
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
    return _dress(fs, edit, path)


def _dress(fs: Calls, edit: Node, path: bytes) -> None:
    if edit.uid is not None or edit.gid is not None:
        fs.chown(path, -1 if edit.uid is None else edit.uid, -1 if edit.gid is None else edit.gid)
    if not isinstance(edit, Symlink):
        fs.chmod(path, edit.default_mode if edit.mode is None else edit.mode)
    for key, value in edit.xattrs.items():
        fs.setxattr(path, os.fsencode(key), value)
    fs.utimens(path, (edit.mtime_ns, edit.mtime_ns))


def _is_dir(fs: Calls, path: bytes) -> bool:
    try:
        return stat.S_ISDIR(fs.stat(path).st_mode)
    except OSError:
        return False


def _remove(fs: Calls, path: bytes) -> None:
    if _is_dir(fs, path):
        for name in sorted(fs.readdir(path)):
            _remove(fs, join(path, name))
        fs.rmdir(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            fs.unlink(path)


# -- moves ------------------------------------------------------------------------------------------------------------


def _move(fs: Calls, old: bytes, new: bytes, *, by_copy: bool, copying: bool) -> bool:
    _remove(fs, new)
    if not copying:
        try:
            fs.rename(old, new)
        except OSError as error:
            if error.errno != errno.EXDEV or not by_copy:
                raise
        else:
            return False
    copy(fs, old, new, {})
    _remove(fs, old)
    return True


# -- what is left -----------------------------------------------------------------------------------------------------


def tree_of(fs: Calls) -> dict[bytes, Found]:
    """List what a file system shows, as lamella.testing.listing does a directory; AssertionError where calls disagree."""
    rows: dict[bytes, Found] = {}
    inodes: dict[tuple[int, int], list[bytes]] = {}
    todo = [b""]
    while todo:
        path = todo.pop()
        st = fs.stat(path)
        rows[path] = _found(fs, path, st)
        if stat.S_ISDIR(st.st_mode):
            for name, kind in fs.readdir(path).items():
                todo.append(join(path, name))
                if stat.S_IFMT(fs.stat(todo[-1]).st_mode) != kind:
                    raise AssertionError(f"{todo[-1]!r} is not what its directory lists: {kind:o}")
        elif st.st_nlink > 1:
            inodes.setdefault((st.st_dev, st.st_ino), []).append(path)
    for names in inodes.values():
        for path in names if len(names) > 1 else ():
            rows[path] = rows[path]._replace(links=tuple(sorted(names)))
    return dict(sorted(rows.items()))


def _found(fs: Calls, path: bytes, st: os.stat_result) -> Found:
    kind, digest = KINDS[stat.S_IFMT(st.st_mode)], ""
    if kind == "file":
        with open(fs.open(path), "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()
    return Found(
        type=kind, mode=stat.S_IMODE(st.st_mode), uid=st.st_uid, gid=st.st_gid, size=0 if kind == "dir" else st.st_size,
        mtime_ns=st.st_mtime_ns, rdev=(os.major(st.st_rdev), os.minor(st.st_rdev)) if kind in {"char", "block"} else (0, 0),
        links=(), target=fs.readlink(path) if kind == "symlink" else b"",
        xattrs=tuple(sorted(fs.xattrs(path).items())), sha256=digest,
    )  # fmt: skip
