"""A copy is its source, whatever is in the tree."""

from __future__ import annotations

from hypothesis import given

from lamella.layer.copy import copy_tree
from lamella.testing import strategies
from lamella.testing.listing import compare, listing
from tests.laws.ground import AS_ROOT, fresh, laid


@given(tree=strategies.trees(privileged=AS_ROOT))
def test_a_copy_is_equal(home, tree):
    with fresh(home) as folder:
        source = laid(folder / "source", tree)
        before = listing(source)
        copy_tree(source, folder / "copy")
        assert compare(before, folder / "copy") == []
        assert listing(source) == before
