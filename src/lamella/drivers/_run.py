"""What touches mounts: a row of :class:`~lamella.model.Mount` done, undone, and lent for a while.

The kernel's file descriptors for mounts are used where it has them (fsopen(2) and its kin, Linux 5.2), since only they
take a layer at a time (overlay's ``lowerdir+``, Linux 6.8); else mount(2), whose options have to fit into a page.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence

from lamella.drivers import _calls, _serving
from lamella.errors import DriverUnavailable
from lamella.model import Mount
from lamella.stream.worker import on_own_thread

__all__ = ["attach", "detach", "is_mounted", "mounted", "mounts_below", "overlays_upon", "type_of"]

Path = str | os.PathLike[str]

_STRING_MAX = 255  # bytes of a value that fsconfig(2) takes
_PAGE_MAX = 4095  # bytes of options that mount(2) takes
_LAYER = "lowerdir+"
_PATHS = (_LAYER, "upperdir", "workdir")
_SPECIAL = str.maketrans({character: "\\" + character for character in "\\:,"})


# -- doing ------------------------------------------------------------------------------------------------------------


def attach(
    mounts: Sequence[Mount], target: Path, *, read_only: bool = False, program: _serving.Program | None = None
) -> None:
    """Do ``mounts`` one over another at the directory ``target``; ``read_only``: so that nothing is written through them.

    ``program``: a server that was started already (see _serving.server()), for the only one that takes one.

    OSError says what the kernel does, and then nothing is left mounted; DriverUnavailable for a type of mount that has
    no program here.
    """
    where = os.path.abspath(target)
    done = 0
    try:
        for mount in mounts:
            _attach(mount, where, read_only or mount.read_only, program)
            done += 1
    except BaseException:
        for mount in reversed(mounts[:done]):
            _serving.unmount(mount.type, where, lazy=True)  # nobody can have opened anything in it for good
        raise


def _attach(mount: Mount, target: str, read_only: bool, program: _serving.Program | None) -> None:
    if mount.type == _serving.KIND:
        _serving.serve(mount, target, read_only=read_only, program=program)
        return
    if mount.type.startswith("fuse."):
        raise DriverUnavailable("cannot be mounted", (f"nothing here serves mounts of type {mount.type}",))
    if mount.type == "bind":
        _calls.bind(os.path.abspath(mount.source), target, read_only=read_only)
        return
    options = [option for option in mount.options if option != "ro"]
    if not _new(mount, options, target, read_only):
        _old(mount, options, target, read_only)


def _new(mount: Mount, options: list[str], target: str, read_only: bool) -> bool:
    """Mount by descriptors; False where the kernel has none, or does not take layers one at a time."""
    pairs = [_pair(option) for option in options]
    common = ""
    if any(len(os.fsencode(value or "")) > _STRING_MAX for _, value in pairs):
        common = _common(pairs)
        pairs = _relative(pairs, common)
        if any(len(os.fsencode(value or "")) > _STRING_MAX for _, value in pairs):
            return False
    # only upperdir and workdir are unescaped here (fs/overlayfs/params.c), as they always were, and commas are nothing special
    pairs = [(key, value.replace("\\", "\\\\") if value and key in _PATHS[1:] else value) for key, value in pairs]
    try:
        _in_directory(common, lambda: _calls.mount_new(mount.type, mount.source, pairs, target, read_only=read_only))
    except _calls.Missing:
        return False
    return True


def _old(mount: Mount, options: list[str], target: str, read_only: bool) -> None:
    """Mount by mount(2); names are those from a directory above all layers where whole ones do not fit into a page."""
    pairs = [_pair(option) for option in options]
    common, data = "", _joined(pairs)
    if len(data) > _PAGE_MAX:
        common = _common(pairs)
        data = _joined(_relative(pairs, common))
    if len(data) > _PAGE_MAX:
        raise OSError(errno.E2BIG, f"mount {mount.type}: {len(data)} bytes of options do not fit into a page", target)
    _in_directory(common, lambda: _calls.mount_old(mount.type, mount.source, data, target, read_only=read_only))


def _pair(option: str) -> tuple[str, str | None]:
    key, equals, value = option.partition("=")
    return key, value if equals else None


def _common(pairs: Sequence[tuple[str, str | None]]) -> str:
    return os.path.commonpath([os.path.abspath(value) for key, value in pairs if value is not None and key in _PATHS] or ["/"])


def _relative(pairs: Sequence[tuple[str, str | None]], common: str) -> list[tuple[str, str | None]]:
    return [(key, os.path.relpath(value, common) if value is not None and key in _PATHS else value) for key, value in pairs]


def _joined(pairs: Sequence[tuple[str, str | None]]) -> bytes:
    """Return the options as mount(2) has them: layers are one list, and what means something in a path is escaped."""
    layers = [value.translate(_SPECIAL) for key, value in pairs if value is not None and key == _LAYER]
    words = ["lowerdir=" + ":".join(layers)] if layers else []
    for key, value in pairs:
        if value is None:
            words.append(key)
        elif key != _LAYER:
            words.append(f"{key}={value.translate(_SPECIAL) if key in _PATHS else value}")
    return os.fsencode(",".join(words))


def _in_directory(path: str, call: Callable[[], None]) -> None:
    """Call in the working directory ``path`` (empty: this one), which is that of a thread of its own."""

    def run() -> None:
        _calls.own_directory()
        os.chdir(path)
        call()

    if path:
        on_own_thread("mount", run)
    else:
        call()


# -- undoing ----------------------------------------------------------------------------------------------------------


def detach(target: Path, *, lazy: bool = False) -> None:
    """Undo every mount at ``target``, the last one first, and wait for who serves it; nothing mounted there is no error.

    OSError EBUSY where something in it is in use, unless ``lazy``: then it goes from sight, and for good when it is free.
    """
    where = os.path.realpath(target)
    while found := [(kind, source) for point, kind, source in _mounts() if point == where]:
        kind, source = found[-1]
        with _serving.awaited(kind, source, lazy=lazy):
            _serving.unmount(kind, where, lazy=lazy)


@contextlib.contextmanager
def mounted(mounts: Sequence[Mount], folder: Path, *, read_only: bool = False) -> Iterator[str]:
    """Lend a path at which ``mounts`` show: a new directory in ``folder``, made where it is absent, that goes at the end.

    A single bind is lent as its source, with nothing mounted (and then ``read_only`` is a promise of the caller). OSError
    EBUSY at the end where something in it is still in use; it is gone from sight then, as it is after any other error.
    """
    if len(mounts) == 1 and mounts[0].type == "bind":
        yield os.path.realpath(mounts[0].source)
        return
    os.makedirs(folder, mode=0o700, exist_ok=True)
    target = os.path.realpath(tempfile.mkdtemp(prefix="view-", dir=folder))
    try:
        attach(mounts, target, read_only=read_only)
        try:
            yield target
        finally:
            _release(target)
    finally:
        os.rmdir(target)


def _release(target: str) -> None:
    try:
        detach(target)
    except OSError:
        detach(target, lazy=True)
        raise


# -- what is there ----------------------------------------------------------------------------------------------------


def is_mounted(path: Path) -> bool:
    """Tell whether something is mounted at ``path``, in this process's mount namespace."""
    return os.path.realpath(path) in [point for point, _, _ in _mounts()]


def mounts_below(folder: Path) -> list[str]:
    """Return the mount points below the directory ``folder``, each once and the deepest first."""
    within = os.path.join(os.path.realpath(folder), "")
    found = dict.fromkeys(point for point, _, _ in _mounts() if point.startswith(within))
    return sorted(found, key=lambda point: point.count("/"), reverse=True)


def type_of(path: Path) -> str:
    """Return the type of the file system that ``path`` is on. OSError."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
            (mount,) = (line.split()[1] for line in file if line.startswith(b"mnt_id:"))
    finally:
        os.close(fd)
    with open("/proc/self/mountinfo", "rb") as file:
        (found,) = (line.split(b" ")[-3] for line in file if line.split(b" ", 1)[0] == mount)
    return os.fsdecode(found)


def overlays_upon(upper: Path) -> list[str]:
    """Return where overlays are mounted whose upper directory is ``upper``, by the name that they were given."""
    found = []
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            fields = line.rstrip(b"\n").split(b" ")
            options = [option for option in fields[-1].split(b",") if option.startswith(b"upperdir=")]
            point = os.fsdecode(_unescaped(fields[4]))
            if fields[-3] == b"overlay" and options and _meant(options[0]) == os.fspath(upper) and _is_at(fields[2], point):
                found.append(point)
    return found


def _meant(option: bytes) -> str:
    """Return the path that an option names, which overlayfs shows as it was written (see _new())."""
    return re.sub(r"\\(.)", r"\1", os.fsdecode(_unescaped(option.partition(b"=")[2])), flags=re.DOTALL)


def _is_at(device: bytes, point: str) -> bool:
    """Tell whether what is to be seen at ``point`` is of the ``device``, and nothing is mounted over it."""
    try:
        number = os.stat(point).st_dev
    except OSError:
        return False
    return device == b"%d:%d" % (os.major(number), os.minor(number))


def _mounts() -> Iterator[tuple[str, str, str]]:
    """Iterate over mount points, with the type and the source of each (proc_pid_mountinfo(5))."""
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            fields = line.split(b" ")
            kind, source = fields[-3:-1]
            yield os.fsdecode(_unescaped(fields[4])), os.fsdecode(_unescaped(kind)), os.fsdecode(_unescaped(source))


def _unescaped(field: bytes) -> bytes:
    r"""Undo the octal escapes of a field of mountinfo (``\040`` and some more, proc_pid_mountinfo(5))."""
    first, *others = field.split(b"\\")
    return first + b"".join(bytes([int(other[:3], 8)]) + other[3:] for other in others)
