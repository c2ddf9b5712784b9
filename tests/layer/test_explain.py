"""Where a path comes from, layer by layer, said from tables alone."""

from __future__ import annotations

import pytest
from hypothesis import given

import lamella
from lamella.errors import ConflictError, UnsafePathError
from lamella.layer.explain import Explanation, explain
from lamella.testing import strategies
from lamella.testing.stacks import stacks
from lamella.testing.tars import Member, directory, file, hardlink, layer_tar, opaque, symlink, whiteout
from tests.laws.composing import fitting, nothing, stacked


def explained(path: str, *layers: list[Member]) -> Explanation:
    tables = []
    for number, layer in enumerate(layers):
        with lamella.read_layer(layer_tar(layer)) as reader:
            tables.append((f"L{number}", reader.table()))
    return explain(tables, path)


def told(explanation: Explanation) -> list[tuple]:
    return [(what.number, what.action, what.by) for what in explanation.layers]


BASE = [directory("d"), file("d/f", b"1"), symlink("ln", "d"), file("g", b"2")]


@pytest.mark.parametrize(
    ("path", "layers", "story", "source"),
    [
        ("d/f", [BASE], [(0, "added", None)], "L0"),
        ("/d/./f", [BASE, [file("d/f", b"2")]], [(0, "added", None), (1, "replaced", None)], "L1"),
        ("d", [BASE, [directory("d", mode=0o700)]], [(0, "added", None), (1, "metadata", None)], "L1"),
        ("d/f", [BASE, [whiteout("d/f")]], [(0, "added", None), (1, "removed", b"d/.wh.f")], None),
        ("d/f", [BASE, [whiteout("d")]], [(0, "added", None), (1, "removed", b".wh.d")], None),
        ("d/f", [BASE, [opaque("d")]], [(0, "added", None), (1, "removed", b"d/.wh..wh..opq")], None),
        ("d/f", [BASE, [opaque()]], [(0, "added", None), (1, "removed", b".wh..wh..opq")], None),
        ("d", [BASE, [opaque("d")]], [(0, "added", None), (1, "opaque", b"d/.wh..wh..opq")], "L0"),
        ("d/f", [BASE, [file("d", b"")]], [(0, "added", None), (1, "removed", b"d")], None),
        ("d/f", [BASE, [file("d/f", b"3"), opaque("d")]],
         [(0, "added", None), (1, "replaced", b"d/.wh..wh..opq")], "L1"),
        ("d", [BASE, [whiteout("d"), file("d/x")]], [(0, "added", None), (1, "replaced", b".wh.d")], None),
        ("x", [BASE, [whiteout("x")]], [(1, "no effect", b".wh.x")], None),
        ("ln/f", [BASE, [file("ln/f", b"new")]], [(0, "added", None), (1, "replaced", None)], "L1"),
        ("ln/f", [BASE, [directory("e"), file("e/f"), symlink("ln", "e")]],
         [(0, "added", None), (1, "moved", b"ln")], "L1"),
        ("d/f", [BASE, [whiteout("ln/f")]], [(0, "added", None), (1, "removed", b"ln/.wh.f")], None),
        ("", [[directory("./", mode=0o700)]], [(0, "metadata", None)], "L0"),
    ],
)  # fmt: skip
def test_what_each_layer_did(path, layers, story, source):
    found = explained(path, *layers)
    assert told(found) == story
    assert found.source == source
    assert [str(what).startswith(f"L{what.number} ") for what in found.layers] == [True] * len(story)


def test_symlinks_on_the_way_are_told_of():
    found = explained("ln/f", BASE)
    assert found.real_path == b"d/f"
    assert [(link.path, link.target) for link in found.through] == [(b"ln", b"d")]
    assert found.entry.path == b"d/f"
    last = explained("ln", BASE)
    assert last.entry.link_target == b"d"
    assert last.through == ()
    assert explained("nowhere/f", BASE).real_path is None


def test_a_hard_link_has_the_content_of_its_first_name():
    found = explained("h", BASE, [hardlink("h", "d/f")], [whiteout("d/f")], [hardlink("i", "h")])
    assert (found.source, found.entry.path) == ("L0", b"d/f")
    assert [(what.action, what.link_of) for what in found.layers] == [("added", b"d/f")]
    assert found.names == (b"h", b"i")


def test_a_directory_without_an_entry_is_said_to_be_one():
    found = explained("a/b", [file("a/b/c")])
    assert found.exists
    assert (found.source, found.entry, found.layers[0].implied) == (None, None, True)


def test_what_cannot_be_explained():
    with pytest.raises(UnsafePathError):
        explained("a/../b", BASE)
    with pytest.raises(ConflictError):
        explained("h", [hardlink("h", "missing")])


@given(stacks(), strategies.paths())
def test_what_is_explained_is_what_is_there(layers, path):
    layers = fitting(nothing(), layers)
    found = explained(path, *layers)
    tree = stacked(nothing(), layers)
    inode = tree.lookup(path.split(b"/"))
    assert found.exists == (inode is not None)
    assert not found.layers or found.exists == (found.layers[-1].action not in {"removed", "no effect"})
    if found.entry is not None:
        assert (found.entry.mode, found.entry.mtime_ns) == (inode.mode, inode.mtime_ns) or inode.kind == "symlink"
    if inode is not None and inode.kind != "dir":
        names = [p for p, i in tree.walk(b"", tree.root) if i is inode]
        assert found.names == (tuple(sorted(names)) if len(names) > 1 else ())
        assert found.real_path in names
