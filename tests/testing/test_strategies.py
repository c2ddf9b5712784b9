"""What the strategies draw can be built, applied in memory, and meets the cases it is meant to meet."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from lamella.errors import LamellaError
from lamella.testing import strategies
from lamella.testing.listing import compare, listing
from lamella.testing.tars import layer_tar
from lamella.testing.trees import Dir, File, Rename, Script, Symlink, build
from tests.reference import apply as reference


def lay(scratch: Path, *scripts: Script) -> Path:
    root = Path(tempfile.mkdtemp(dir=scratch))
    for script in scripts:
        script.apply(root)
    return root


@given(st.data())
def test_a_tree_is_what_its_script_says(home, data):
    with tempfile.TemporaryDirectory(dir=home / "tmp") as folder:
        tree = data.draw(strategies.trees())
        root = lay(Path(folder), tree)
        found = listing(root)
        assert {p: f.type for p, f in found.items() if p} == strategies.known_paths(tree)
        assert compare(reference.read_tree(root).listing(), found) == []
        edits = data.draw(strategies.edit_scripts(tree))
        edits.apply(root)


@pytest.mark.requires("root", "devices")
@given(st.data())
def test_privileged_trees_build_and_change(home, data):
    with tempfile.TemporaryDirectory(dir=home / "tmp") as folder:
        tree = data.draw(strategies.trees(privileged=True))
        root = lay(Path(folder), tree, data.draw(strategies.edit_scripts(tree, privileged=True)))
        assert compare(reference.read_tree(root).listing(), root) == []


@given(strategies.trees(), st.lists(strategies.layers(privileged=True), max_size=3))
def test_layers_apply_in_memory(home, tree, layers):
    with tempfile.TemporaryDirectory(dir=home / "tmp") as folder:
        model = reference.read_tree(lay(Path(folder), tree))
        for layer in layers:
            assert len(layer_tar(layer)) % 512 == 0
            try:
                reference.apply(model, layer)
            except (LamellaError, reference.Unspecified):
                return
            assert not any(b".wh." in path for path in model.listing())


@given(strategies.layers(hostile=True, privileged=True))
def test_hostile_layers_are_written(layer):
    assert len(layer_tar(layer)) % 512 == 0


def meets(layer, *words) -> bool:
    return all(any(word in repr(member) for member in layer) for word in words)


@pytest.mark.parametrize("words", [(".wh..wh..opq", "'2'"), ("MOAT", "passwd")])
def test_the_interesting_is_found_soon(words):
    search = settings(max_examples=3000, phases=[Phase.generate])
    found = find(strategies.layers(hostile=True), lambda layer: meets(layer, *words), settings=search)
    assert meets(found, *words)


def test_a_rename_is_drawn_and_runs(scratch):
    tree = Script((Dir("a"), File("a/b", b"1"), Symlink("c")))
    script = find(strategies.edit_scripts(tree), lambda s: any(isinstance(e, Rename) for e in s.edits))
    root = build(scratch / "t", *tree.edits)
    script.apply(root)
    shutil.rmtree(root)
