"""libfuse 3's interface of inodes (fuse_lowlevel.h), in the library that mfusepy finds: requests in, answers out.

mfusepy itself knows the interface of paths, in which an inode without a name cannot be asked for, and two names of one inode
are two to the kernel. What of libfuse's own structures is read here (a handle, flags, a status) is laid out as mfusepy says.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Callable, Iterator
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any

from lamella.errors import DriverUnavailable

__all__ = ["Buffer", "Library", "Operations", "load", "missing"]

_NAMES = ("libfuse3.so.4", "libfuse3.so.3")
_DEVICE = "/dev/fuse"
_OFF = ctypes.c_int64
_INO = c_uint64
_U32 = ctypes.c_uint32
# name -> arguments after the request; None for what is not served. The order is that of struct fuse_lowlevel_ops
_OPERATIONS: list[tuple[str, tuple[Any, ...] | None]] = [
    ("init", None),
    ("destroy", None),
    ("lookup", (_INO, c_char_p)),
    ("forget", (_INO, c_uint64)),
    ("getattr", (_INO, c_void_p)),
    ("setattr", (_INO, c_void_p, c_int, c_void_p)),
    ("readlink", (_INO,)),
    ("mknod", (_INO, c_char_p, c_uint, c_uint64)),
    ("mkdir", (_INO, c_char_p, c_uint)),
    ("unlink", (_INO, c_char_p)),
    ("rmdir", (_INO, c_char_p)),
    ("symlink", (c_char_p, _INO, c_char_p)),
    ("rename", (_INO, c_char_p, _INO, c_char_p, c_uint)),
    ("link", (_INO, _INO, c_char_p)),
    ("open", (_INO, c_void_p)),
    ("read", (_INO, c_size_t, _OFF, c_void_p)),
    ("write", (_INO, c_void_p, c_size_t, _OFF, c_void_p)),
    ("flush", None),
    ("release", (_INO, c_void_p)),
    ("fsync", (_INO, c_int, c_void_p)),
    ("opendir", (_INO, c_void_p)),
    ("readdir", (_INO, c_size_t, _OFF, c_void_p)),
    ("releasedir", None),
    ("fsyncdir", (_INO, c_int, c_void_p)),
    ("statfs", (_INO,)),
    ("setxattr", (_INO, c_char_p, c_void_p, c_size_t, c_int)),
    ("getxattr", (_INO, c_char_p, c_size_t)),
    ("listxattr", (_INO, c_size_t)),
    ("removexattr", (_INO, c_char_p)),
    ("access", None),
    ("create", (_INO, c_char_p, c_uint, c_void_p)),
    ("getlk", None),
    ("setlk", None),
    ("bmap", None),
    ("ioctl", None),
    ("poll", None),
    ("write_buf", None),
    ("retrieve_reply", None),
    ("forget_multi", (c_size_t, c_void_p)),
    ("flock", None),
    ("fallocate", (_INO, c_int, _OFF, _OFF, c_void_p)),
    ("readdirplus", (_INO, c_size_t, _OFF, c_void_p)),
    ("copy_file_range", (_INO, _OFF, c_void_p, _INO, _OFF, c_void_p, c_size_t, c_int)),
    ("lseek", (_INO, _OFF, c_int, c_void_p)),
]
_INIT = CFUNCTYPE(None, c_void_p, c_void_p)


class Operations(ctypes.Structure):
    """struct fuse_lowlevel_ops."""

    _fields_ = [(name, c_void_p) for name, _ in _OPERATIONS]

    @classmethod
    def of(cls, init: Callable[..., None], handler: Callable[[str], Callable[..., None] | None]) -> Operations:
        """Return the operations for which there is a handler, which they keep alive."""
        made = cls()
        made.kept = [_INIT(init)]
        made.init = ctypes.cast(made.kept[0], c_void_p)
        for name, arguments in _OPERATIONS:
            call = handler(name) if arguments is not None else None
            if call is not None and arguments is not None:
                made.kept.append(CFUNCTYPE(None, c_void_p, *arguments)(call))
                setattr(made, name, ctypes.cast(made.kept[-1], c_void_p))
        return made


class Args(ctypes.Structure):
    """struct fuse_args."""

    _fields_ = [("argc", c_int), ("argv", POINTER(c_char_p)), ("allocated", c_int)]


class Buffer(ctypes.Structure):
    """struct fuse_buf of any version: a request."""

    _fields_ = [("size", c_size_t), ("flags", c_uint), ("mem", c_void_p), ("more", ctypes.c_char * 232)]

    def opcode(self) -> int:
        """Return what is asked for (struct fuse_in_header), 0 where it is not in memory."""
        return 0 if self.flags or not self.mem else int(_U32.from_address(self.mem + 4).value)


class Context(ctypes.Structure):
    """struct fuse_ctx: who asks."""

    _fields_ = [("uid", c_uint), ("gid", c_uint), ("pid", c_int), ("umask", c_uint)]


class ForgetOne(ctypes.Structure):
    """struct fuse_forget_data."""

    _fields_ = [("ino", c_uint64), ("nlookup", c_uint64)]


class Library:
    """The functions of libfuse, and the layouts that depend on its version: ``file_info``, ``connection``, ``status``."""

    def __init__(self, mfusepy: Any) -> None:
        self.version = (mfusepy.fuse_version_major, mfusepy.fuse_version_minor)
        self.file_info, self.connection, self.status = mfusepy.fuse_file_info, mfusepy.fuse_conn_info, mfusepy.c_stat
        library = ctypes.CDLL(mfusepy._libfuse._name, use_errno=True)
        one = c_void_p
        self.session_new = _function(library.fuse_session_new, one, POINTER(Args), POINTER(Operations), c_size_t, one)
        self.session_mount = _function(library.fuse_session_mount, c_int, one, c_char_p)
        self.session_fd = _function(library.fuse_session_fd, c_int, one)
        self.session_exited = _function(library.fuse_session_exited, c_int, one)
        self.receive = _function(library.fuse_session_receive_buf, c_int, one, POINTER(Buffer))
        self.process = _function(library.fuse_session_process_buf, None, one, POINTER(Buffer))
        self.reply_err = _function(library.fuse_reply_err, c_int, one, c_int)
        self.reply_buf = _function(library.fuse_reply_buf, c_int, one, c_char_p, c_size_t)
        self.reply_none = _function(library.fuse_reply_none, None, one)
        self.context = _function(library.fuse_req_ctx, POINTER(Context), one)


def _function(function: Any, result: Any, *arguments: Any) -> Any:
    function.restype, function.argtypes = result, arguments
    return function


def missing() -> Iterator[str]:
    """Yield what is not here of all that a server takes; nothing is loaded for good."""
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        yield f"{_DEVICE} cannot be opened" if os.path.exists(_DEVICE) else f"there is no {_DEVICE}"
    if not any(map(_is_there, _NAMES)):
        yield "libfuse 3 is not installed"
    if importlib.util.find_spec("mfusepy") is None:
        yield "mfusepy is not installed: install lamella[fuse]"


def load() -> Library:
    """Load mfusepy with libfuse 3; DriverUnavailable."""
    if reasons := tuple(missing()):
        raise DriverUnavailable("no FUSE", reasons)
    os.environ["FUSE_LIBRARY_PATH"] = next(filter(_is_there, _NAMES))  # of two versions mfusepy takes the older
    try:
        import mfusepy  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise DriverUnavailable("no FUSE", (f"{error}: install lamella[fuse]",)) from None
    return Library(mfusepy)


def _is_there(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True
