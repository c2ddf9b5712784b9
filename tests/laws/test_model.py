"""The engine does with random layers what the slow model of tests/reference/apply.py does, to the last attribute."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lamella.errors import LamellaError
from lamella.testing import strategies
from lamella.testing.listing import compare
from tests.laws.ground import apply, fresh, laid
from tests.reference import apply as reference

pytestmark = pytest.mark.requires("root", "devices")
LAYERS = strategies.layers(privileged=True)


def agree(model: reference.Tree, layer: list, root, **options) -> bool:
    """Apply ``layer`` both ways and compare; False where both refuse it."""
    refused = None
    try:
        reference.apply(model, layer, **options)
    except reference.Unspecified:
        assume(False)
    except LamellaError as error:
        refused = error
    if refused is not None:
        with pytest.raises(LamellaError) as caught:
            apply(layer, root, **options)
        assert isinstance(caught.value, type(refused)) or isinstance(refused, type(caught.value))
        return False
    apply(layer, root, **options)
    assert compare(model.listing(), root) == []
    return True


@given(strategies.trees(privileged=True), st.lists(LAYERS, min_size=1, max_size=3))
def test_layers_one_after_another(home, tree, layers):
    with fresh(home) as folder:
        root = laid(folder / "root", tree)
        model = reference.read_tree(root)
        for layer in layers:
            if not agree(model, layer, root):
                break


@given(strategies.trees(privileged=True), LAYERS)
def test_keeping_links_to_directories(home, tree, layer):
    with fresh(home) as folder:
        root = laid(folder / "root", tree)
        agree(reference.read_tree(root), layer, root, keep_dirlinks=True)


@given(st.data())
def test_the_order_of_markers_does_not_matter(home, data):
    tree, layer = data.draw(strategies.trees()), data.draw(strategies.layers())
    is_marker = [b".wh." in bytes(m.path) for m in layer]
    markers = [m for m, marker in zip(layer, is_marker, strict=True) if marker]
    entries = [m for m, marker in zip(layer, is_marker, strict=True) if not marker]
    assume(not any(m.type == "1" for m in entries))  # what a link may name depends on it: item 44
    with fresh(home) as folder:
        places = data.draw(st.lists(st.integers(0, len(entries)), min_size=len(markers), max_size=len(markers)))
        shuffled = list(entries)
        for at, marker in sorted(zip(places, data.draw(st.permutations(markers)), strict=True), key=lambda p: -p[0]):
            shuffled.insert(at, marker)
        one, two = laid(folder / "one", tree), laid(folder / "two", tree)
        apply(layer, one)
        apply(shuffled, two)
        assert compare(one, two) == []
