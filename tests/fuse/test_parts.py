"""The parts of a server, without a mount: what the kernel is told, and what becomes of its inodes."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace
from typing import Any

import pytest

from lamella.errors import UnsafePathError
from lamella.fuse.eagerness import Eagerness
from lamella.fuse.nodes import Node, Nodes
from lamella.fuse.session import Session
from lamella.fuse.tree import Seen

STATUS = os.stat("/")


def seen(ino: int = 5, *, shared: bool = False, nlink: int = 1) -> Seen:
    return Seen(os.stat_result((*STATUS[:1], ino, *STATUS[2:])), ino, nlink, shared)


def test_a_node_lives_as_long_as_the_kernel_remembers_it():
    nodes = Nodes()
    top = nodes.learn(nodes.root, b"d", seen())
    child = nodes.learn(top, b"f", seen(6))
    assert nodes.learn(top, b"f", seen(6)) is child
    assert nodes.path(child) == b"d/f"
    nodes.rename(nodes.root, b"d", nodes.root, b"e")
    assert nodes.path(child) == b"e/f"
    nodes.forget(child.id, 1)
    assert nodes[child.id] is child
    nodes.forget(child.id, 1)
    with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
        nodes[child.id]
    assert nodes.learn(top, b"f", seen(6)).id > child.id  # a number is never used again
    nodes.forget(1, 99)
    assert nodes[1] is nodes.root
    assert len(nodes) == 3


def test_names_of_one_inode_are_one_node():
    nodes = Nodes()
    one = nodes.learn(nodes.root, b"a", seen(7, shared=True, nlink=2))
    assert nodes.learn(nodes.root, b"b", seen(7, shared=True, nlink=2)) is one
    assert nodes.unname(nodes.root, b"a", seen(7, nlink=1)) is one
    assert nodes.path(one) == b"b"
    nodes.unname(nodes.root, b"b", seen(7, nlink=0))
    with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
        nodes.path(one)
    assert one.gone is not None
    assert nodes.learn(nodes.root, b"c", seen(7, shared=True, nlink=2)) is not one  # the number was given again
    assert nodes.unname(nodes.root, b"never", None) is None


def test_names_change_places():
    nodes = Nodes()
    top, leaf = nodes.learn(nodes.root, b"d", seen()), nodes.learn(nodes.root, b"f", seen(6))
    nodes.exchange(nodes.root, b"d", nodes.root, b"f")
    assert (nodes.path(top), nodes.path(leaf)) == (b"f", b"d")
    nodes.exchange(nodes.root, b"d", top, b"unknown")
    assert nodes.path(leaf) == b"f/unknown"


def test_files_are_told_with_their_names_while_they_are_asked_for():
    eager, nodes = Eagerness(), [Node(n) for n in range(300)]
    for node in nodes[:9]:
        assert not eager.listed(node)
        eager.asked(node)
    assert [eager.listed(node) for node in nodes[9:]] == [True] * 128 + [False] * 163  # nobody asked any more
    lazy = Eagerness()
    assert not any(lazy.listed(node) for node in nodes)


class Replies:
    """A library that notes what it is to say."""

    def __init__(self, sent: int = 0) -> None:
        self.said: list[Any] = []
        self.sent = sent

    def reply_buf(self, request: int, data: bytes, size: int) -> int:
        self.said.append(data[:size])
        return self.sent

    def reply_err(self, request: int, number: int) -> int:
        self.said.append(number)
        return self.sent

    def reply_none(self, request: int) -> None:
        self.said.append(None)


@pytest.mark.parametrize(
    ("error", "number", "line"),
    [
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC, ""),
        (OSError("without a number"), errno.EIO, ""),
        (UnsafePathError(b"a", "a redirect that leads nowhere"), errno.EIO, ""),
        (KeyError("lost"), errno.EIO, "lamella.fuse: getattr: KeyError: 'lost'\n"),
        (MemoryError(), errno.EIO, "lamella.fuse: getattr: MemoryError: \n"),
    ],
)
def test_whatever_happens_is_an_error_for_who_asked(capsys, error, number, line):
    def getattr_(*args: Any) -> bytes:
        raise error

    library = Replies()
    session = SimpleNamespace(library=library, handler=SimpleNamespace(getattr=getattr_), _complain=Session._complain.__get__(object()))
    Session._callback(session, "getattr")(1, 2, 3)
    assert library.said == [number]
    assert capsys.readouterr().err == line
    assert Session._callback(session, "poll") is None


def test_what_nobody_waits_for_any_more_is_undone():
    undone: list[int] = []
    handler = SimpleNamespace(open=lambda *args: (b"handle", lambda: undone.append(1)), forget=lambda *args: undone.append(2))
    for sent in (0, -errno.ENOENT):
        session = SimpleNamespace(library=Replies(sent), handler=handler)
        Session._callback(session, "open")(1)
    assert undone == [1]
    Session._callback(session, "forget")(1)
    assert (undone, session.library.said[-1]) == ([1, 2], None)
