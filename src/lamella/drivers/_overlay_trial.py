"""Overlay mounts and unions tried where a store would have them: what refuses, and which features work."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lamella.drivers._overlay_options import mount_words, writable_namespace
from lamella.drivers._run import mounted
from lamella.layer.own import BranchDialect
from lamella.layer.union import Union
from lamella.model import Mount
from lamella.tree.root import Root
from lamella.tree.scan import directory

__all__ = ["OverlayFeatures", "features", "has_index", "kernel_refusals", "union_refusals"]

_NO_ATTRIBUTES = "the file system keeps no attributes that an overlay could write, neither trusted nor user ones"


@dataclass(frozen=True, slots=True)
class OverlayFeatures:
    """What overlayfs can do at some place: the attributes' ``namespace``, and whether each feature has its effect there.

    ``redirect_dir``: a directory of a lower layer can be renamed. ``metacopy``: a chmod copies no content. ``index``: a
    file of a lower layer keeps its names when it is written. ``xino``: inode numbers of several file systems can be one
    mount's.
    """

    namespace: str
    redirect_dir: bool = False
    metacopy: bool = False
    index: bool = False
    xino: bool = False


@dataclass(frozen=True, slots=True)
class _Trial:
    """A folder with a lower directory, and an upper one with its work directory, both empty."""

    folder: Path
    namespace: str

    @property
    def upper(self) -> Path:
        return self.folder / "upper"

    @contextlib.contextmanager
    def mount(self, *words: str) -> Iterator[Path]:
        """Lend the mounted view, with ``words`` in the place of the usual options where there are any."""
        options = (f"lowerdir+={self.folder}/lower", f"upperdir={self.upper}", f"workdir={self.folder}/work")
        how = words or tuple(mount_words({}, self.namespace, upper=True))
        with mounted((Mount("overlay", "overlay", (*options, *how)),), self.folder / "mnt") as path:
            yield Path(path)


@contextlib.contextmanager
def _trial(root: Path) -> Iterator[_Trial | None]:
    """Lend a trial below ``root``, None where no attribute can be written. Nothing is left of it."""
    folder = tempfile.mkdtemp(prefix=".probe-", dir=root)
    try:
        namespace = writable_namespace(folder)
        if namespace is None:
            yield None
            return
        for name in ("lower", "lower/dir", "upper", "work"):
            os.mkdir(os.path.join(folder, name))
        for name in ("lower/file", "lower/other", "lower/dir/file"):
            Path(folder, name).write_bytes(b"lower")
        os.link(os.path.join(folder, "lower/file"), os.path.join(folder, "lower/link"))
        yield _Trial(Path(folder), namespace)
    finally:
        with directory(root) as fd:
            Root(fd).remove(fd, os.fsencode(os.path.basename(folder)), b"")


# -- what refuses -----------------------------------------------------------------------------------------------------


def kernel_refusals(root: Path) -> Iterator[str]:
    """Yield why the kernel's overlay cannot work below ``root``: nothing where a mount was written through."""
    with _trial(root) as trial:
        if trial is None:
            yield _NO_ATTRIBUTES
            return
        failed = ""
        try:
            with trial.mount() as view:
                try:
                    _change(view)
                except OSError as error:
                    failed = f"an overlay cannot be changed here: {error.strerror}"
        except OSError as error:
            failed = _reason(error)
        if failed:
            yield failed
        else:
            yield from _wrong(trial)


def _reason(error: OSError) -> str:
    if error.errno in (errno.EPERM, errno.EACCES):
        return "mounting needs CAP_SYS_ADMIN: run as root or under `unshare -rm`"
    if error.errno == errno.ENODEV:
        return "this kernel has no overlay file system"
    return f"an overlay cannot be mounted here: {error.strerror}"


def _change(view: Path) -> None:
    """Do what leaves a copy, a whiteout and an opaque directory."""
    (view / "other").write_bytes(b"upper")
    (view / "file").unlink()
    (view / "dir" / "file").unlink()
    (view / "dir").rmdir()
    (view / "dir").mkdir()


def _wrong(trial: _Trial) -> Iterator[str]:
    """Say what of the changes is not to be seen in the upper directory."""
    if (trial.upper / "other").read_bytes() != b"upper":
        yield "what is written through an overlay is not in its upper directory"
    if not _is_whiteout(trial.upper / "file", trial.namespace):
        yield "the file system takes no whiteouts"
    if _attribute(trial.upper / "dir", trial.namespace, "opaque") != b"y":
        yield "the file system keeps no attributes of directories"


def _is_whiteout(path: Path, namespace: str) -> bool:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    if stat.S_ISCHR(status.st_mode):
        return status.st_rdev == 0
    return status.st_size == 0 and _attribute(path, namespace, "whiteout") is not None


def _attribute(path: Path, namespace: str, name: str) -> bytes | None:
    try:
        return os.getxattr(path, f"{namespace}.overlay.{name}", follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP, errno.ENOENT):
            raise
        return None


def union_refusals(root: Path) -> Iterator[str]:
    """Yield why a union in user space cannot work below ``root``: nothing where one was changed."""
    with _trial(root) as trial:
        if trial is None:
            yield _NO_ATTRIBUTES
            return
        branches = [trial.upper, trial.folder / "lower"]
        dialect: BranchDialect = "overlay:trusted" if trial.namespace == "trusted" else "overlay:user"
        try:
            with Union(branches, dialect=dialect, work=trial.folder / "work") as union:
                os.close(union.open(b"other", os.O_WRONLY | os.O_TRUNC))
                (trial.upper / "other").write_bytes(b"upper")
                union.unlink(b"file")
                union.unlink(b"dir/file")
                union.rmdir(b"dir")
                union.mkdir(b"dir")
        except OSError as error:
            yield f"a union cannot be changed here: {error.strerror}"
            return
        yield from _wrong(trial)


# -- features ---------------------------------------------------------------------------------------------------------


def features(root: str | os.PathLike[str]) -> OverlayFeatures:
    """Try the features of the kernel's overlay below the directory ``root``, and leave nothing there.

    OSError where no overlay can be mounted at all.
    """
    tries = {"redirect_dir": _redirects, "metacopy": _copies_no_content, "index": _keeps_links, "xino": _has_xino}
    found = {}
    namespace = ""
    for name, try_ in tries.items():
        with _trial(Path(root)) as trial:
            if trial is None:
                raise OSError(errno.ENOTSUP, _NO_ATTRIBUTES, os.fspath(root))
            namespace = trial.namespace
            found[name] = try_(trial)
    return OverlayFeatures(namespace, **found)


def has_index(root: str | os.PathLike[str]) -> bool:
    """Tell whether ``index`` of features() works below the directory ``root``. OSError as there."""
    with _trial(Path(root)) as trial:
        return trial is not None and _keeps_links(trial)


def _redirects(trial: _Trial) -> bool:
    if trial.namespace == "user":  # not asked for: an overlay of user attributes follows no redirect
        return False
    with trial.mount("redirect_dir=on") as view:
        try:
            os.rename(view / "dir", view / "renamed")
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            return False
    return _attribute(trial.upper / "renamed", trial.namespace, "redirect") is not None


def _copies_no_content(trial: _Trial) -> bool:
    if trial.namespace == "user":
        return False
    with trial.mount("redirect_dir=on", "metacopy=on") as view:
        os.chmod(view / "other", 0o600)
    return _attribute(trial.upper / "other", trial.namespace, "metacopy") is not None


def _keeps_links(trial: _Trial) -> bool:
    own = ("userxattr",) if trial.namespace == "user" else ()
    with trial.mount("index=on", *own) as view:
        (view / "file").write_bytes(b"upper")
        return (view / "link").read_bytes() == b"upper"


def _has_xino(trial: _Trial) -> bool:
    own = ("userxattr",) if trial.namespace == "user" else ()
    try:
        with trial.mount("xino=on", *own) as view:
            return os.stat(view / "other").st_dev == os.stat(view).st_dev
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
