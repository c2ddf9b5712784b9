"""What applying layers means, on a tree in memory: slow, obvious, no system call. The oracle of the engine's ``apply``.

It follows our choices at the top of the layer semantics page (policy "spec", dialect plain). A layer is a row of
``lamella.testing.tars.Member`` values without ``pax`` records or ``header`` overrides. What the rules leave open raises
:class:`Unspecified`. After any other error the tree is in no particular state.

In three steps, which make the order of markers not matter: markers whose folder the lower has as real directories act
first; then the entries in their order; then markers that go through a lower symlink, if that link is still there. Only
the sources of hard links depend on the order of the stream: they are looked up in ``seen``, where each member acts in
its turn.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lamella.errors import ConflictError, TarFormatError, UnsafePathError, WhiteoutError
from lamella.testing.listing import Found, listing
from lamella.testing.tars import Member

KINDS = {"0": "file", "\0": "file", "7": "file", "2": "symlink", "3": "char", "4": "block", "5": "dir", "6": "fifo"}
OPAQUE, MARK, METADATA, PLNK = b".wh..wh..opq", b".wh.", b".wh..wh.", b".wh..wh.plnk"
MAX_LINKS = 40
IMPLIED_MODE = 0o755

Parts = list[bytes]


class Unspecified(Exception):
    """The rules do not say what happens."""


@dataclass(eq=False)
class Inode:
    """What a name stands for; ``names`` are a directory's children."""

    kind: str
    mode: int = IMPLIED_MODE
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    content: bytes = b""
    target: bytes = b""
    rdev: tuple[int, int] = (0, 0)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    names: dict[bytes, Name] = field(default_factory=dict)


@dataclass(eq=False)
class Name:
    """One name of an inode; ``layer`` is the number of the layer that made it, or gave the directory its metadata."""

    inode: Inode
    layer: int


Stack = list[Inode]  # the directories from the root to where we stand


def parts_of(path: str | bytes) -> Parts:
    """Split a path below the root; UnsafePathError for ``..``."""
    raw = os.fsencode(path)
    parts = [part for part in raw.split(b"/") if part not in {b"", b"."}]
    if b".." in parts:
        raise UnsafePathError(raw, "'..' in its path")
    return parts


class Tree:
    """A tree and the number of the layer that is being applied to it."""

    def __init__(self, root: Inode, layer: int = 0) -> None:
        self.root, self.layer = root, layer
        self.n_renewed = 0  # directories that a layer hides and, without an entry for them, makes again
        self._hidden: set[tuple[int, bytes, int]] = set()  # of them so far: folder, name, layer

    def copy(self) -> Tree:
        """Copy the directories and names; files are shared."""
        return Tree(_copied(self.root), self.layer)

    # --- finding

    def enter(self, stack: Stack, part: bytes, *, lower_only: bool = False, depth: int = 0) -> Stack | None:
        """Step into the directory ``part``, through symlinks inside the root; None where there is no directory.

        ``lower_only`` refuses a name that this layer made as anything but a directory.
        """
        name = stack[-1].names.get(part)
        if name is None:
            return None
        if name.inode.kind == "dir":
            return [*stack, name.inode]
        if name.inode.kind != "symlink" or depth >= MAX_LINKS or (lower_only and name.layer == self.layer):
            return None
        target = name.inode.target
        found: Stack | None = [self.root] if target.startswith(b"/") else stack
        for piece in target.split(b"/"):
            if found is None:
                return None
            if piece == b"..":
                found = found[:-1] or found
            elif piece not in {b"", b"."}:
                found = self.enter(found, piece, lower_only=lower_only, depth=depth + 1)
        return found

    def lookup(self, parts: Parts) -> Inode | None:
        """Return what ``parts`` names, the last component not followed."""
        stack: Stack | None = [self.root]
        for part in parts[:-1]:
            stack = self.enter(stack, part) if stack else None
        name = stack[-1].names.get(parts[-1]) if stack and parts else None
        return None if name is None else name.inode

    # --- entries

    def folder(self, parts: Parts) -> Stack:
        """Return the way to the directory ``parts``; what is missing or no directory is made (items 31, 32, 105)."""
        stack = [self.root]
        for part in parts:
            deeper = self.enter(stack, part)
            if deeper is None:
                made = Inode("dir")
                self.n_renewed += (id(stack[-1]), part, self.layer) in self._hidden
                stack[-1].names[part] = Name(made, self.layer)
                deeper = [*stack, made]
            stack = deeper
        return stack

    def put(self, parts: Parts, inode: Inode, *, keep_dirlinks: bool = False) -> Parts:
        """Place an entry: a directory over a directory gives it its metadata, all else replaces (items 28-30, 37).

        Returns the real path of the folder that it went to.
        """
        stack = self.folder(parts[:-1])
        folder, place = stack[-1], self.names_of(stack)
        old = folder.names.get(parts[-1])
        if old is not None and inode.kind == "dir":
            there = old.inode if old.inode.kind == "dir" else None
            if keep_dirlinks and old.inode.kind == "symlink":
                target = self.enter(stack, parts[-1])
                there = target[-1] if target else None
            if there is not None:
                dress(there, inode)
                old.layer = self.layer if there is old.inode else old.layer
                return place
        fresh = Inode(**{**vars(inode), "names": {}}) if inode.kind == "dir" else inode
        folder.names[parts[-1]] = Name(fresh, self.layer)
        return place

    def names_of(self, stack: Stack) -> Parts:
        """Return the names that lead from the root along ``stack``."""
        pairs = itertools.pairwise(stack)
        return [next(part for part, name in upper.names.items() if name.inode is lower) for upper, lower in pairs]

    # --- markers

    def mark(self, parts: Parts, *, through_links: bool) -> bool:
        """Carry out a marker; False where it goes through a symlink and ``through_links`` does not allow that."""
        stack: Stack | None = [self.root]
        for part in parts[:-1]:
            name = stack[-1].names.get(part)
            if name is not None and name.inode.kind == "symlink" and not through_links:
                return False
            stack = self.enter(stack, part, lower_only=True)
            if stack is None:
                return True  # nothing of the lower is there to hide (items 10, 11, 103)
        if parts[-1] == OPAQUE:
            self.strip(stack[-1])
        else:
            self.hide(stack[-1], parts[-1].removeprefix(MARK))
        return True

    def hide(self, folder: Inode, part: bytes) -> None:
        """Remove what the lower has at ``part``; what this layer made survives, and the directories above it."""
        name = folder.names.get(part)
        if name is None:
            return
        if not self.has_new(name):
            if name.inode.kind == "dir":
                self._hidden.add((id(folder), part, self.layer))
            del folder.names[part]
        elif name.inode.kind == "dir":
            if name.layer != self.layer:  # it is there for the sake of its children: an implied parent
                dress(name.inode, Inode("dir"))
                name.layer = self.layer
                self.n_renewed += 1
            self.strip(name.inode)

    def strip(self, folder: Inode) -> None:
        """Remove all that the lower has in ``folder``."""
        for part in list(folder.names):
            self.hide(folder, part)

    def has_new(self, name: Name) -> bool:
        """Tell whether this layer made ``name`` or something below it."""
        return name.layer == self.layer or any(map(self.has_new, name.inode.names.values()))

    # --- the whole

    def listing(self) -> dict[bytes, Found]:
        """Return what ``lamella.testing.listing`` would say of it."""
        rows = sorted(self.walk(b"", self.root))
        paths: dict[int, list[bytes]] = {}
        for path, inode in rows:
            paths.setdefault(id(inode), []).append(path)
        return {path: _found(inode, tuple(paths[id(inode)])) for path, inode in rows}

    def walk(self, path: bytes, inode: Inode) -> Iterator[tuple[bytes, Inode]]:
        """Iterate paths and inodes."""
        yield path, inode
        for part, name in inode.names.items():
            yield from self.walk(path + b"/" + part if path else part, name.inode)


def _copied(inode: Inode) -> Inode:
    if inode.kind != "dir":
        return inode
    names = {part: Name(_copied(name.inode), name.layer) for part, name in inode.names.items()}
    return Inode(**{**vars(inode), "names": names, "xattrs": dict(inode.xattrs)})


def _found(inode: Inode, paths: tuple[bytes, ...]) -> Found:
    size = {"file": len(inode.content), "symlink": len(inode.target)}.get(inode.kind, 0)
    digest = hashlib.sha256(inode.content).hexdigest() if inode.kind == "file" else ""
    links = paths if len(paths) > 1 else ()
    xattrs = tuple(sorted(inode.xattrs.items()))
    owner = (inode.uid, inode.gid)
    return Found(inode.kind, inode.mode, *owner, size, inode.mtime_ns, inode.rdev, links, inode.target, xattrs, digest)


def dress(inode: Inode, other: Inode) -> None:
    """Give ``inode`` the metadata of ``other``."""
    for attribute in ("mode", "uid", "gid", "mtime_ns"):
        setattr(inode, attribute, getattr(other, attribute))
    inode.xattrs = dict(other.xattrs)


def inode_of(member: Member) -> Inode:
    """Return the inode that an entry describes; what a file system cannot hold of its attributes is left out."""
    kind = KINDS.get(member.type)
    if kind is None:
        raise TarFormatError(f"unknown type flag {member.type!r}", entry=os.fsencode(member.path))
    xattrs = {os.fsencode(name): value for name, value in member.xattrs.items() if value}
    no_user = kind not in {"file", "dir"}
    dropped = (b"trusted.overlay.", b"user.overlay.", b"security.selinux", *((b"user.",) if no_user else ()))
    mode = (IMPLIED_MODE if kind == "dir" else 0o644) if member.mode is None else member.mode & 0o7777
    return Inode(
        kind,
        mode=0o777 if kind == "symlink" else mode,
        uid=member.uid,
        gid=member.gid,
        mtime_ns=member.mtime_ns,
        content=member.content if kind == "file" else b"",
        target=os.fsencode(member.link) if kind == "symlink" else b"",
        rdev=(member.major, member.minor) if kind in {"char", "block"} else (0, 0),
        xattrs={name: value for name, value in xattrs.items() if not name.startswith(dropped)},
    )


def is_marker(parts: Parts) -> bool:
    """Tell a marker from an entry; WhiteoutError for one that cannot be meant (items 6, 7)."""
    if any(part.startswith(MARK) for part in parts[:-1]):
        raise Unspecified("a folder with a marker's name")
    if not parts or not parts[-1].startswith(MARK):
        return False
    if parts[-1].removeprefix(MARK) in {b"", b".", b".."}:
        raise WhiteoutError("names nothing", entry=b"/".join(parts))
    return True


@dataclass
class Layer:
    """One layer on its way into ``tree``."""

    tree: Tree
    keep_dirlinks: bool
    seen: Tree
    plnk: dict[bytes, Inode] = field(default_factory=dict)

    def run(self, members: list[Member]) -> None:
        """Apply all of it."""
        rows = [(m, p) for m in members if not self.metadata(m, p := parts_of(m.path))]
        markers = [is_marker(parts) for _, parts in rows]
        late = [
            p for (_, p), marker in zip(rows, markers, strict=True) if marker and not self.tree.mark(p, through_links=False)
        ]
        for (member, parts), marker in zip(rows, markers, strict=True):
            if marker:
                self.seen.mark(parts, through_links=True)
            else:
                self.entry(member, parts)
        for parts in late:
            self.tree.mark(parts, through_links=True)

    def metadata(self, member: Member, parts: Parts) -> bool:
        """Tell AUFS's own entries, which make no path; keep the files that links may name (item 17)."""
        if not parts or not parts[0].startswith(METADATA) or parts == [OPAQUE]:
            return False
        if len(parts) == 2 and parts[0] == PLNK and KINDS.get(member.type) == "file":
            self.plnk[parts[1]] = inode_of(member)
        return True

    def entry(self, member: Member, parts: Parts) -> None:
        """Place one entry in both trees."""
        if member.type == "1":
            self.link(member, parts)
            return
        inode = inode_of(member)
        if not parts:
            if inode.kind != "dir":
                raise ConflictError(b"", "the root is a directory")
            dress(self.tree.root, inode)
            dress(self.seen.root, inode)
            return
        self.put(parts, inode)

    def put(self, parts: Parts, inode: Inode) -> None:
        """Place an inode in both trees; where it goes must not hang on a marker that comes later in the stream."""
        places = [tree.put(parts, inode, keep_dirlinks=self.keep_dirlinks) for tree in (self.tree, self.seen)]
        if places[0] != places[1]:
            raise Unspecified("an entry through a lower symlink that a later marker hides")

    def link(self, member: Member, parts: Parts) -> None:
        """Give the inode at the target a further name; its own metadata stays (items 41-46)."""
        target = parts_of(member.link)
        raw = os.fsencode(member.path)
        if not parts:
            raise ConflictError(b"", "the root is a directory")
        inode = self.plnk.get(target[1]) if target[:1] == [PLNK] and len(target) == 2 else self.seen.lookup(target)
        if inode is None or inode.kind == "dir":
            raise ConflictError(raw, "no such link target")
        there = self.seen.lookup(parts)
        if there is not None and there.kind == "dir" and any(i is inode for _, i in self.seen.walk(b"", there)):
            raise Unspecified("a link over a directory that holds its target")
        self.put(parts, inode)
        if target[0] != PLNK and self.seen.lookup(target) is not inode:
            raise Unspecified("a link whose parents take the place of its target")


def apply(tree: Tree, members: Iterable[Member], *, keep_dirlinks: bool = False) -> None:
    """Apply one layer to ``tree``."""
    tree.layer += 1
    Layer(tree, keep_dirlinks, tree.copy()).run(list(members))


def read_tree(root: Path) -> Tree:
    """Read a directory into memory; a socket is an entry like others."""
    inodes: dict[bytes, Inode] = {}
    for path, found in listing(root).items():
        first = next((inodes[p] for p in found.links if p in inodes), None)
        inode = first or Inode(
            *(found.type, found.mode, found.uid, found.gid, found.mtime_ns),
            content=(root / os.fsdecode(path)).read_bytes() if found.type == "file" else b"",
            target=found.target,
            rdev=found.rdev,
            xattrs=dict(found.xattrs),
        )
        inodes[path] = inode
        if path:
            folder, _, name = path.rpartition(b"/")
            inodes[folder].names[name] = Name(inode, 0)
    return Tree(inodes[b""])
