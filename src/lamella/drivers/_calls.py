"""The mount calls of Linux, through the C library: one function a step, and OSError with what the kernel says of it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from collections.abc import Iterator, Sequence

__all__ = ["Missing", "bind", "mount_new", "mount_old", "own_directory", "unmount"]

_LIBC = ctypes.CDLL(None, use_errno=True)

# numbers of system calls, which every architecture but one (alpha) shares since there are any of these
_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _MOUNT_SETATTR = 428, 429, 430, 431, 432, 442
_SET_FLAG, _SET_STRING, _CREATE = 0, 1, 6  # fsconfig(2)
_CLOEXEC = 1  # fsopen(2), fsmount(2), open_tree(2) has O_CLOEXEC
_TREE_CLONE, _FROM_FD, _TO_LINK = 1, 4, 0x10  # open_tree(2); move_mount(2): an empty source path, a symlink as target
_EMPTY_PATH, _AT_FDCWD = 0x1000, -100
_ATTR_RDONLY = 1
_MS_RDONLY, _MS_REMOUNT, _MS_BIND = 1, 32, 4096
_MS_KEPT = 2 | 4 | 8 | 1024 | 2048  # nosuid nodev noexec noatime nodiratime: a remount that left one out would take it away
_MS_RELATIME, _ST_RELATIME = 1 << 21, 4096
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_CLONE_FS = 0x200
_MESSAGE_MAX = 8192
_ABSENT = (errno.ENOSYS, errno.EOPNOTSUPP)  # a kernel without the call, or a filter that hides it


class Missing(Exception):
    """The kernel has no such call, or does not know a parameter of it."""


def _call(number: int, *args: int | bytes | None) -> int:
    """Make a system call; OSError."""
    converted = [ctypes.c_long(arg) if isinstance(arg, int) else ctypes.c_char_p(arg) for arg in args]
    result: int = _LIBC.syscall(ctypes.c_long(number), *converted)
    if result < 0:
        raise _failure()
    return result


def _failure() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


@contextlib.contextmanager
def _open(number: int, *args: int | bytes | None) -> Iterator[int]:
    """Lend the descriptor that a system call returns. Missing where there is no such call."""
    try:
        fd = _call(number, *args)
    except OSError as error:
        if error.errno in _ABSENT:
            raise Missing from None
        raise
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _named(what: str, target: str) -> Iterator[None]:
    """Give an OSError of a system call the name of what failed, and the path."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise OSError(error.errno, f"{what}: {error.strerror}", target) from None
        raise


def mount_new(
    kind: str, source: str, options: Sequence[tuple[str, str | None]], target: str, *, read_only: bool
) -> None:  # fmt: skip
    """Mount a file system by descriptors. Missing where the kernel cannot, or may not know a parameter for one layer."""
    with _named(f"mount {kind}", target), _open(_FSOPEN, os.fsencode(kind), _CLOEXEC) as fs:
        try:
            _call(_FSCONFIG, fs, _SET_STRING, b"source", os.fsencode(source), 0)
            for key, value in options:
                if value is None:
                    _call(_FSCONFIG, fs, _SET_FLAG, os.fsencode(key), None, 0)
                else:
                    _call(_FSCONFIG, fs, _SET_STRING, os.fsencode(key), os.fsencode(value), 0)
            if read_only:
                _call(_FSCONFIG, fs, _SET_FLAG, b"ro", None, 0)
            _call(_FSCONFIG, fs, _CREATE, None, None, 0)
        except OSError as error:
            said = _messages(fs)
            if error.errno == errno.EINVAL and _knows_no_layers(options, said):
                raise Missing from None
            raise OSError(error.errno, ": ".join([str(error.strerror), *said])) from None
        with _open(_FSMOUNT, fs, _CLOEXEC, _ATTR_RDONLY if read_only else 0) as made:
            _call(_MOVE_MOUNT, made, b"", _AT_FDCWD, os.fsencode(target), _FROM_FD | _TO_LINK)


def _knows_no_layers(options: Sequence[tuple[str, str | None]], said: Sequence[str]) -> bool:
    """Tell whether it may be ``lowerdir+`` that the kernel refused.

    From Linux 6.5 it says so of a parameter that it does not know; before, it says nothing in the context of a mount.
    """
    return any(key == "lowerdir+" for key, _ in options) and (not said or any("lowerdir" in line for line in said))


def _messages(fs: int) -> list[str]:
    """Return what the kernel has to say of a file system that it did not make, a line each."""
    found = []
    with contextlib.suppress(OSError):
        while line := os.read(fs, _MESSAGE_MAX):
            found.append(os.fsdecode(line).strip().partition(" ")[2])  # "e text", "w text" or "i text"
    return found


def mount_old(kind: str, source: str, data: bytes, target: str, *, read_only: bool) -> None:
    """Mount a file system by mount(2), its options as it takes them."""
    flags = _MS_RDONLY if read_only else 0
    with _named(f"mount {kind}", target):
        _mount(os.fsencode(source), os.fsencode(target), os.fsencode(kind), flags, data)


def _mount(source: bytes | None, target: bytes, kind: bytes | None, flags: int, data: bytes | None) -> None:
    if _LIBC.mount(source, target, kind, ctypes.c_ulong(flags), data) != 0:
        raise _failure()


def bind(source: str, target: str, *, read_only: bool) -> None:
    """Show the directory ``source`` at ``target`` too, without what is mounted below it."""
    with _named("mount bind", target):
        try:
            _bind_new(os.fsencode(source), os.fsencode(target), read_only)
        except Missing:
            _bind_old(os.fsencode(source), os.fsencode(target), read_only)


def _bind_new(source: bytes, target: bytes, read_only: bool) -> None:
    with _open(_OPEN_TREE, _AT_FDCWD, source, _TREE_CLONE | os.O_CLOEXEC) as tree:
        if read_only:
            attributes = struct.pack("=QQQQ", _ATTR_RDONLY, 0, 0, 0)
            try:
                _call(_MOUNT_SETATTR, tree, b"", _EMPTY_PATH, attributes, len(attributes))
            except OSError as error:
                if error.errno in _ABSENT:
                    raise Missing from None
                raise
        _call(_MOVE_MOUNT, tree, b"", _AT_FDCWD, target, _FROM_FD | _TO_LINK)


def _bind_old(source: bytes, target: bytes, read_only: bool) -> None:
    _mount(source, target, None, _MS_BIND, None)
    if not read_only:
        return
    try:
        now = os.statvfs(target).f_flag
        kept = now & _MS_KEPT | (_MS_RELATIME if now & _ST_RELATIME else 0)
        _mount(None, target, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | kept, None)
    except OSError:
        unmount(os.fsdecode(target), lazy=True)
        raise


def unmount(target: str, *, lazy: bool) -> None:
    """Undo the last mount at ``target``; ``lazy``: from sight now, for good when nobody uses it."""
    with _named("umount", target):
        if _LIBC.umount2(os.fsencode(target), _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)) != 0:
            raise _failure()


def own_directory() -> None:
    """Give the calling thread a working directory that no other thread shares, for as long as it lives."""
    if _LIBC.unshare(_CLONE_FS) != 0:
        raise _failure()
