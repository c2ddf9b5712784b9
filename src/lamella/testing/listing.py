"""Say what a tree holds, metadata complete, and how two trees differ."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

__all__ = ["Found", "compare", "listing", "subtree"]

Root = str | os.PathLike[str]
KINDS = {
    stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink", stat.S_IFCHR: "char", stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket",
}  # fmt: skip
SYSTEMS_OWN = {b"security.selinux"}  # set by the kernel, whoever makes the file
IGNORABLE = {"dir_mtime", "root"}
PIECE = 1 << 20
SHORT = 2_000  # bytes of path in one system call, well below PATH_MAX


class Found(NamedTuple):
    """What one path is. ``links``: all paths of the inode, sorted, empty when it has one; a directory's size is 0."""

    type: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    rdev: tuple[int, int]
    links: tuple[bytes, ...]
    target: bytes
    xattrs: tuple[tuple[bytes, bytes], ...]
    sha256: str


def _open_dir(root_fd: int, path: bytes) -> int:
    # component by component: a path may be longer than the kernel takes at once
    fd = os.dup(root_fd)
    parts = path.split(b"/") if path else []
    while parts:
        piece = [parts.pop(0)]
        while parts and sum(map(len, piece)) + len(piece) + len(parts[0]) < SHORT:
            piece.append(parts.pop(0))
        try:
            deeper = os.open(b"/".join(piece), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
        finally:
            os.close(fd)
        fd = deeper
    return fd


def _digest(name: bytes, dir_fd: int) -> str:
    # NOATIME so that looking leaves no trace; it is allowed for the owner of the file and for root
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NOATIME, dir_fd=dir_fd)
    digest = hashlib.sha256()
    try:
        while piece := os.read(fd, PIECE):
            digest.update(piece)
    finally:
        os.close(fd)
    return digest.hexdigest()


def _xattrs(name: bytes, dir_fd: int) -> tuple[tuple[bytes, bytes], ...]:
    where = b"/proc/self/fd/%d/%s" % (dir_fd, name)
    names = map(os.fsencode, os.listxattr(where, follow_symlinks=False))
    return tuple((n, os.getxattr(where, n, follow_symlinks=False)) for n in sorted(names) if n not in SYSTEMS_OWN)


def _found(name: bytes, dir_fd: int) -> tuple[Found, tuple[int, int], int]:
    st = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    kind = KINDS[stat.S_IFMT(st.st_mode)]
    found = Found(
        type=kind,
        mode=stat.S_IMODE(st.st_mode),
        uid=st.st_uid,
        gid=st.st_gid,
        size=0 if kind == "dir" else st.st_size,
        mtime_ns=st.st_mtime_ns,
        rdev=(os.major(st.st_rdev), os.minor(st.st_rdev)) if kind in {"char", "block"} else (0, 0),
        links=(),
        target=os.readlink(name, dir_fd=dir_fd) if kind == "symlink" else b"",
        xattrs=_xattrs(name, dir_fd),
        sha256=_digest(name, dir_fd) if kind == "file" else "",
    )
    return found, (st.st_dev, st.st_ino), 1 if kind == "dir" else st.st_nlink


def _walk(root_fd: int, skip: bytes | None) -> Iterator[tuple[bytes, Found, tuple[int, int], int]]:
    yield b"", *_found(b".", root_fd)
    todo = [b""]
    while todo:
        folder = todo.pop()
        fd = _open_dir(root_fd, folder)
        try:
            for name in sorted(map(os.fsencode, os.listdir(fd))):
                path = folder + b"/" + name if folder else name
                if path == skip:
                    continue
                found, inode, n_links = _found(name, fd)
                yield path, found, inode, n_links
                if found.type == "dir":
                    todo.append(path)
        finally:
            os.close(fd)


def listing(root: Root, *, skip: bytes | None = None) -> dict[bytes, Found]:
    """Read the tree below ``root``, the root itself as ``b""``: a Found by path. Follows no link, changes no time.

    ``skip`` is a path that is left out with all below it.
    """
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        rows = list(_walk(root_fd, skip))
    finally:
        os.close(root_fd)
    names: dict[tuple[int, int], list[bytes]] = {}
    for path, _, inode, n_links in rows:
        if n_links > 1:
            names.setdefault(inode, []).append(path)
    sets = {inode: tuple(sorted(paths)) for inode, paths in names.items() if len(paths) > 1}
    return {path: found._replace(links=sets.get(inode, ())) for path, found, inode, _ in sorted(rows)}


def subtree(tree: Mapping[bytes, Found], top: bytes) -> dict[bytes, Found]:
    """Return the rows of ``tree`` at and below ``top``, by their whole paths."""
    return {path: found for path, found in tree.items() if path == top or path.startswith(top + b"/") or not top}


def _shown(field: str, value: object) -> str:
    return oct(value) if field == "mode" and isinstance(value, int) else repr(value)


def compare(a: Root | Mapping[bytes, Found], b: Root | Mapping[bytes, Found], ignore: Collection[str] = ()) -> list[str]:
    """Return one line for each difference of two trees (roots, or listings), empty when they are equal.

    Equal is architecture.md's: everything but access times and the size of a directory. ``ignore`` names fields of
    Found, ``"dir_mtime"`` (the time of directories) and ``"root"`` (the root's own metadata); ValueError for others.
    """
    unknown = set(ignore) - IGNORABLE - set(Found._fields)
    if unknown:
        raise ValueError(f"no such field: {sorted(unknown)}")
    left, right = (dict(t) if isinstance(t, Mapping) else listing(t) for t in (a, b))
    lines = []
    for path in sorted(left.keys() | right.keys()):
        one, two = left.get(path), right.get(path)
        if one is None or two is None:
            lines.append(f"{path!r}: only {'right' if one is None else 'left'}: {one or two}")
            continue
        if not path and "root" in ignore:
            continue
        for field, x, y in zip(Found._fields, one, two, strict=True):
            skipped = field in ignore or (field == "mtime_ns" and one.type == "dir" and "dir_mtime" in ignore)
            if x != y and not skipped:
                lines.append(f"{path!r}: {field} {_shown(field, x)} != {_shown(field, y)}")
    return lines
