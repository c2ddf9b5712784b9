"""The inodes that the kernel knows: by its numbers for them, and by name.

A node lives as long as the kernel remembers it (FORGET), whatever becomes of its names: renamed, it has another path; without
a name, its descriptors are what is left of it.
"""

from __future__ import annotations

import errno
import os
from threading import Lock

from lamella.fuse.tree import Content, Seen

__all__ = ["Node", "Nodes"]

ROOT = 1


class Node:
    """``names``: its directories' nodes and its names there. ``handles``: descriptors, and where they read from.

    ``number``: that of the inode, as it was last shown. ``gone``: what it was when it lost its last name. ``bare``: known
    to have no capability. ``acl``: whether it has a default ACL, if that is known.
    """

    __slots__ = ("acl", "bare", "children", "gone", "handles", "id", "key", "lookups", "names", "number")

    def __init__(self, number: int) -> None:
        self.id = number
        self.lookups = 0
        self.number = 0
        self.names: list[tuple[Node, bytes]] = []
        self.children: dict[bytes, Node] = {}
        self.handles: dict[int, Content] = {}
        self.key: tuple[int, int] | None = None
        self.gone: Seen | None = None
        self.bare = False
        self.acl: bool | None = None


class Nodes:
    """All nodes; any thread may ask."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.root = Node(ROOT)
        self.root.lookups = 1
        self._nodes = {ROOT: self.root}
        self._shared: dict[tuple[int, int], Node] = {}
        self._next = ROOT + 1

    def __getitem__(self, number: int) -> Node:
        try:
            return self._nodes[number]
        except KeyError:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE)) from None

    def __len__(self) -> int:
        return len(self._nodes)

    def path(self, node: Node) -> bytes:
        """Return a path of the node; OSError ESTALE where it has none."""
        parts = []
        while node is not self.root:
            if not node.names:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            node, name = node.names[0]
            parts.append(name)
        parts.reverse()
        return b"/".join(parts)

    def join(self, parent: Node, name: bytes) -> bytes:
        """Return the path of a name in a directory."""
        path = self.path(parent)
        return path + b"/" + name if path else name

    def learn(self, parent: Node, name: bytes, seen: Seen) -> Node:
        """Return the node of what is shown at a name; the kernel will know it once more."""
        key = (seen.status.st_dev, seen.status.st_ino) if seen.shared else None
        with self._lock:
            node = parent.children.get(name)
            if node is None:
                node = self._shared.get(key) if key else None
                if node is None:
                    node = Node(self._next)
                    self._next += 1
                    self._nodes[node.id] = node
                node.names.append((parent, name))
                parent.children[name] = node
            if key and node.key != key:
                self._unshare(node)
                node.key = key
                self._shared.setdefault(key, node)
            node.lookups += 1
            node.number = seen.number
            return node

    def named(self, node: Node, parent: Node, name: bytes, seen: Seen) -> None:
        """Give a node a further name, under which the kernel gets to know it too."""
        with self._lock:
            node.names.append((parent, name))
            parent.children[name] = node
            node.lookups += 1
            if seen.shared and node.key is None:
                node.key = (seen.status.st_dev, seen.status.st_ino)
                self._shared.setdefault(node.key, node)

    def forget(self, number: int, lookups: int) -> None:
        """Know that the kernel forgot a node so many times."""
        with self._lock:
            node = self._nodes.get(number)
            if node is None or node is self.root:
                return
            node.lookups -= lookups
            if node.lookups > 0:
                return
            del self._nodes[number]
            self._unshare(node)
            for parent, name in node.names:
                parent.children.pop(name, None)
            for name, child in node.children.items():
                child.names.remove((node, name))

    def unname(self, parent: Node, name: bytes, gone: Seen | None) -> Node | None:
        """Take a name away; ``gone``: what is left if it was the last."""
        with self._lock:
            node = parent.children.pop(name, None)
            if node is None:
                return None
            node.names.remove((parent, name))
            if not node.names:
                node.gone = gone
                if gone is None or not gone.nlink:
                    self._unshare(node)
            return node

    def rename(self, parent: Node, name: bytes, new_parent: Node, new_name: bytes) -> None:
        """Give a node a name for another, which nobody has."""
        with self._lock:
            node = parent.children.pop(name, None)
            if node is not None:
                node.names[node.names.index((parent, name))] = (new_parent, new_name)
                new_parent.children[new_name] = node

    def exchange(self, parent: Node, name: bytes, new_parent: Node, new_name: bytes) -> None:
        """Let two nodes change names."""
        with self._lock:
            one, other = parent.children.pop(name, None), new_parent.children.pop(new_name, None)
            if one is not None:
                one.names[one.names.index((parent, name))] = (new_parent, new_name)
                new_parent.children[new_name] = one
            if other is not None:
                other.names[other.names.index((new_parent, new_name))] = (parent, name)
                parent.children[name] = other

    def _unshare(self, node: Node) -> None:
        if node.key is not None and self._shared.get(node.key) is node:
            del self._shared[node.key]
        node.key = None
