"""AUFS's notes of inodes with several names that are being copied up (pseudo-links).

AUFS copies a file up under one name, and notes it in ``.wh..wh.plnk`` under the number of its inode; ``auplink flush``
makes real names of the notes before a branch is unmounted. Here the other names are made at once: a note is there only
as long as that lasts, for who opens the branch after a crash.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from lamella.layer.merged import Merged, Node
from lamella.layer.resolving import through
from lamella.layer.upperform import AufsForm, UpperForm, set_times
from lamella.layer.whiteout import PLINKS
from lamella.tree.root import join, lstat

__all__ = ["forget", "is_noted", "link", "note_of", "noted", "remember", "shown"]

_HIDDEN = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)  # what a nearer branch, or AUFS, leaves of a name
_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def _folder(form: UpperForm) -> Iterator[int]:
    fd = os.open(PLINKS, _DIR, dir_fd=form.root.fd)
    try:
        yield fd
    finally:
        os.close(fd)


def note_of(node: Node) -> bytes:
    """Return under which name the copy of a lower inode is noted: its number, and that of its branch."""
    return b"%d.%d" % (node.status.st_ino, node.branch)


def is_noted(form: UpperForm, note: bytes) -> bool:
    """Tell whether there is such a note."""
    return lstat(form.root.fd, join(PLINKS, note)) is not None


def remember(form: UpperForm, work: int, name: bytes, note: bytes) -> None:
    """Note the copy that is at ``name`` of the directory ``work``."""
    if lstat(form.root.fd, PLINKS) is None:
        before = os.fstat(form.root.fd)
        os.mkdir(PLINKS, 0o700, dir_fd=form.root.fd)
        set_times(form.root.fd, before)
    with _folder(form) as fd:
        os.link(name, note, src_dir_fd=work, dst_dir_fd=fd, follow_symlinks=False)


def link(form: UpperForm, note: bytes, fd: int, name: bytes) -> None:
    """Give the copy that is noted the further name ``name`` of the directory ``fd``, whose times stay."""
    before = os.fstat(fd)
    with _folder(form) as notes:
        os.link(note, name, src_dir_fd=notes, dst_dir_fd=fd, follow_symlinks=False)
    with contextlib.suppress(PermissionError):  # who may write there need not be the owner
        set_times(fd, before)


def forget(form: UpperForm, note: bytes) -> None:
    """Take a note back: all names are made."""
    with _folder(form) as fd:
        os.unlink(note, dir_fd=fd)


def noted(merged: Merged, form: AufsForm) -> Iterator[tuple[bytes, list[Node]]]:
    """Iterate over the notes, and the names that the inode of each still shows in its branch.

    What is no note of a branch here, as those of an AUFS mount are, is left alone.
    """
    if form.linked is None or lstat(form.root.fd, PLINKS) is None:
        return
    with _folder(form) as fd:
        for note in sorted(map(os.fsencode, os.listdir(fd))):
            number, _, branch = note.partition(b".")
            if not (number.isdigit() and branch.isdigit() and 0 < int(branch) < len(merged.branches)):
                continue
            found = form.linked.of(int(branch), int(number), stat.S_IFMT(os.lstat(through(fd, note)).st_mode))
            if found:
                yield note, list(shown(merged, found, int(branch)))


def shown(merged: Merged, names: list[bytes], branch: int) -> Iterator[Node]:
    """Iterate over those of ``names`` of a lower branch that are to be seen."""
    for path in names:
        try:
            node = merged.find(path)
        except OSError as error:
            if error.errno not in _HIDDEN:
                raise
            continue
        if node is not None and (node.branch, node.place) == (branch, path):
            yield node
