"""rename(2) in a union: what moves, what has to be said at the old place and at the new one, and what is refused."""

from __future__ import annotations

import errno
import os

from lamella.layer.copyup import copy_up
from lamella.layer.merged import Merged, Node, failure
from lamella.layer.own import lower_path
from lamella.layer.upperform import AufsForm, OverlayForm, UpperForm
from lamella.tree.root import ancestors, join, split

__all__ = ["exchange", "move"]

_REDIRECT_MAX = 256  # bytes of an absolute redirect (overlayfs.rst)


def move(merged: Merged, form: UpperForm, old: bytes, new: bytes, *, redirect_dir: bool) -> None:
    """Move what is shown at ``old`` to ``new``, in the place of a file or an empty directory there.

    OSError: EXDEV for a directory that something lower makes up, unless it may be redirected; else as rename(2).
    """
    source, target = merged.find(old), merged.find(new)
    if source is None:
        raise failure(errno.ENOENT, old)
    together = isinstance(form, AufsForm) and form.linked is not None
    if not _moves(source, target, old, new, together=together):
        return
    is_lower = _may_move(form, source, redirect_dir=redirect_dir)
    if target is not None and target.is_dir and merged.readdir(new):
        raise failure(errno.ENOTEMPTY, new)
    was_hiding, hides = merged.lower(old) is not None, merged.lower(new) is not None
    copy_up(merged, form, old)
    copy_up(merged, form, split(new)[0])
    _prepare(form, source, new, is_lower=is_lower, hides=hides)
    _carry(form, source, target, new, hides=hides, was_hiding=was_hiding)


def exchange(merged: Merged, form: UpperForm, old: bytes, new: bytes, *, redirect_dir: bool) -> None:
    """Let what is shown at ``old`` and at ``new`` change places; OSError as move(), and ENOENT for nothing there."""
    source, target = merged.node(old), merged.node(new)
    if not old or not new:
        raise failure(errno.EBUSY, old)
    if new.startswith(old + b"/") or old.startswith(new + b"/"):
        raise failure(errno.EINVAL, old)
    if old == new:
        return
    lowers = [_may_move(form, node, redirect_dir=redirect_dir) for node in (source, target)]
    hides = [merged.lower(path) is not None for path in (new, old)]
    copy_up(merged, form, old)
    copy_up(merged, form, new)
    _prepare(form, source, new, is_lower=lowers[0], hides=hides[0])
    _prepare(form, target, old, is_lower=lowers[1], hides=hides[1])
    (old_parent, old_name), (parent, name) = split(old), split(new)
    with form.root.dir(old_parent) as old_fd, form.root.dir(parent) as fd:
        form.exchange(old_fd, old_name, fd, name)


def _may_move(form: UpperForm, node: Node, *, redirect_dir: bool) -> bool:
    """Tell whether something lower makes up a directory; OSError EXDEV where it may not be redirected."""
    is_lower = node.is_dir and (node.branch > 0 or len(node.stack) > 1)
    if is_lower and not (redirect_dir and isinstance(form, OverlayForm)):
        raise failure(errno.EXDEV, node.path)
    return is_lower


def _prepare(form: UpperForm, node: Node, new: bytes, *, is_lower: bool, hides: bool) -> None:
    """Have a directory that is about to move to ``new`` say what of the lower branches it shows there."""
    if is_lower and isinstance(form, OverlayForm):
        _redirect(form, node.path, new)
    elif node.is_dir and hides:
        with form.root.dir(node.path) as fd:
            form.make_opaque(fd)


def _moves(source: Node, target: Node | None, old: bytes, new: bytes, *, together: bool) -> bool:
    """Tell whether there is something to do; OSError for what no directory allows. ``together``: lower names are links."""
    if old == new:
        return False
    if not old or not new:
        raise failure(errno.EBUSY, old)
    if new.startswith(old + b"/"):
        raise failure(errno.EINVAL, old)
    if old.startswith(new + b"/"):
        raise failure(errno.ENOTEMPTY, new)
    if target is None:
        return True
    if source.branch == target.branch and (together or source.branch == 0) and os.path.samestat(source.status, target.status):
        return False  # two names of one inode stay both (rename(2))
    if source.is_dir != target.is_dir:
        raise failure(errno.ENOTDIR if source.is_dir else errno.EISDIR, new)
    return True


def _carry(form: UpperForm, source: Node, target: Node | None, new: bytes, *, hides: bool, was_hiding: bool) -> None:
    (old_parent, old_name), (parent, name) = split(source.path), split(new)
    with form.root.dir(old_parent) as old_fd, form.root.dir(parent) as fd:
        if target is not None and target.is_dir and target.branch == 0:
            if hides:
                form.hide(fd, name)
            else:
                form.take(fd, name)
        carry = form.leave if was_hiding else form.show
        carry(old_fd, old_name, fd, name)


def _redirect(form: OverlayForm, old: bytes, new: bytes) -> None:
    """Write down in directory ``old``, which is about to move, where what is lower in it is."""
    with form.root.dir(old) as fd:
        text = form.redirect(fd)
        if text.startswith(b"/"):
            return
        (parent, name), beside = split(old), split(new)[0]
        if parent == beside:
            if not text:
                form.set_redirect(fd, name)
            return
        text = b"/" + _lower_name(form, old)
        if len(text) > _REDIRECT_MAX:
            raise failure(errno.EXDEV, old)
        form.set_redirect(fd, text)


def _lower_name(form: OverlayForm, path: bytes) -> bytes:
    """Return where the branches below look for what directory ``path`` shows of them."""
    within = b""
    for at in ancestors(path):
        with form.root.dir(at) as fd:
            text = form.redirect(fd)
        within = lower_path(at, text, within) if text else join(within, split(at)[1])
    return within
