"""Copy-up: an inode of a lower branch, with all its metadata, into the nearest one before it is changed there."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from lamella._kernels import confine
from lamella.layer.merged import Merged, Node
from lamella.layer.plinks import forget, is_noted, link, note_of, noted, remember, shown
from lamella.layer.resolving import through
from lamella.layer.upperform import AufsForm, UpperForm, set_times
from lamella.tree.root import ancestors, clear_acls, split

__all__ = ["copy_up", "finish_links"]

_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_PIECE = 1 << 30
_CAPABILITY, _LABEL = b"security.capability", b"security.selinux"


def copy_up(merged: Merged, form: UpperForm, path: bytes, *, data: bool = True) -> None:
    """Make the nearest branch have the inode that is shown at ``path``, its directories first; OSError as node().

    A directory's names stay where they are, and a file's other names but in AUFS. Whole files are copied, holes kept,
    unless ``data`` is False: for who cuts the file to nothing anyway.
    """
    node = merged.node(path)
    if node.branch == 0:
        if stat.S_ISREG(node.status.st_mode) and node.content != (0, path):
            _complete(merged, form, node, data=data)
        return
    for at in ancestors(path):
        node = merged.node(at)
        if node.branch > 0:
            _copy_up_one(merged, form, node, data=data)


def _complete(merged: Merged, form: UpperForm, node: Node, *, data: bool) -> None:
    """Give a metacopy file of the nearest branch its content, in its own inode: it may have other names."""
    parent, name = split(node.path)
    with form.root.dir(parent) as fd:
        target = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            if data:
                kept = merged.xattrs(node.path).get(_CAPABILITY)
                _copy_data(merged, node, target)
                if kept is not None:  # who writes takes them away
                    os.setxattr(target, _CAPABILITY, kept)
                set_times(fd, node.status, name)
            for key in merged.own_keys(b"metacopy", b"redirect"):
                try:
                    os.removexattr(target, key)
                except OSError as error:
                    if error.errno not in (errno.ENODATA, errno.ENOTSUP):
                        raise
        finally:
            os.close(target)


def _copy_up_one(merged: Merged, form: UpperForm, node: Node, *, data: bool) -> None:
    if isinstance(form, AufsForm) and form.linked is not None and node.status.st_nlink > 1 and not node.is_dir:
        names = list(shown(merged, form.linked.at((node.branch, node.place)), node.branch))
        if is_noted(form, note_of(node)):  # an error kept the last copy-up from making this name
            _link_all(merged, form, note_of(node), names)
            return
        if len(names) > 1:
            _copy(merged, form, node, data=data, note=note_of(node))
            _link_all(merged, form, note_of(node), [other for other in names if other.path != node.path])
            return
    _copy(merged, form, node, data=data)


def _copy(merged: Merged, form: UpperForm, node: Node, *, data: bool, note: bytes = b"") -> None:
    parent, name = split(node.path)
    spare = form.temporary()
    with form.root.dir(parent) as fd:
        before = os.fstat(fd)
        try:
            _make(merged, form.work, spare, node, data=data)
            _dress(merged, form.work, spare, node)
            if note:
                remember(form, form.work, spare, note)
            os.rename(spare, name, src_dir_fd=form.work, dst_dir_fd=fd)
        finally:
            form.discard(spare)
        with contextlib.suppress(PermissionError):  # who may write there need not be the owner
            set_times(fd, before)  # the names that it shows are what they were
    merged.copied_up(node)


def _link_all(merged: Merged, form: UpperForm, note: bytes, nodes: list[Node]) -> None:
    for node in nodes:
        parent, name = split(node.path)
        copy_up(merged, form, parent)
        with form.root.dir(parent) as fd:
            link(form, note, fd, name)
        merged.copied_up(node)
    forget(form, note)


def finish_links(merged: Merged, form: AufsForm) -> None:
    """Make the names that a copy-up did not come to."""
    for note, nodes in list(noted(merged, form)):
        _link_all(merged, form, note, nodes)


def _make(merged: Merged, work: int, spare: bytes, node: Node, *, data: bool) -> None:
    mode = node.status.st_mode
    if stat.S_ISDIR(mode):
        os.mkdir(spare, 0o700, dir_fd=work)
        fd = os.open(spare, _DIR, dir_fd=work)
        try:
            clear_acls(fd)
        finally:
            os.close(fd)
    elif stat.S_ISLNK(mode):
        os.symlink(merged.readlink(node.path), spare, dir_fd=work)
    elif stat.S_ISREG(mode):
        target = os.open(spare, _NEW, 0o600, dir_fd=work)
        try:
            if data and node.status.st_size:
                _copy_data(merged, node, target)
        finally:
            os.close(target)
    else:
        os.mknod(spare, mode, node.status.st_rdev, dir_fd=work)


def _copy_data(merged: Merged, node: Node, target: int) -> None:
    source = merged.open(node.path)
    try:
        size = node.status.st_size
        os.ftruncate(target, size)
        end = 0
        while end < size:
            try:
                begin = os.lseek(source, end, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                break
            end = min(os.lseek(source, begin, os.SEEK_HOLE), size)
            _copy_range(source, target, begin, end)
    finally:
        os.close(source)


def _copy_range(source: int, target: int, begin: int, end: int) -> None:
    while begin < end:
        try:
            n = os.copy_file_range(source, target, min(end - begin, _PIECE), begin, begin)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
                raise
            os.lseek(target, begin, os.SEEK_SET)
            n = os.sendfile(target, source, begin, min(end - begin, _PIECE))
        if not n:
            return  # it was cut while it was copied
        begin += n


def _dress(merged: Merged, work: int, spare: bytes, node: Node) -> None:
    """Give the copy owner, mode, attributes and times, in this order: each takes from what came before (62)."""
    status = node.status
    os.chown(spare, status.st_uid, status.st_gid, dir_fd=work, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        confine.chmod(work, spare, stat.S_IMODE(status.st_mode))
    where = through(work, spare)
    for key, value in merged.xattrs(node.path).items():
        if key != _LABEL:  # the system labels what is made
            os.setxattr(where, merged.escaped(key), value, follow_symlinks=False)
    set_times(work, status, spare)
