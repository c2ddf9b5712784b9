"""What follows from L3: a minimised layer does the same, an inverted one undoes it, a rebased one is a three-way merge."""

from __future__ import annotations

from hypothesis import given

from lamella.errors import ConflictError
from lamella.layer import algebra
from lamella.testing import strategies
from lamella.testing.listing import Found, compare
from lamella.testing.stacks import stacks
from tests.laws.composing import fitting, members_of, nothing, stacked, unique, values
from tests.laws.ground import AS_ROOT

LAYER = strategies.layers(privileged=AS_ROOT)
STACK = stacks(max_layers=3)


@given(STACK, LAYER)
def test_l3_a_minimised_layer_does_the_same(lower, layer):
    *lower, layer = fitting(nothing(), [*lower, layer])
    tree = stacked(nothing(), lower)
    (value,) = values([layer])
    small = algebra.minimise(value, values(lower), content="always")
    assert unique(small)
    assert len(small.table) <= len(algebra.compose(value, lower=values(lower)).table)
    want = stacked(tree, [layer])
    assert compare(want.listing(), stacked(tree, [members_of(small)]).listing()) == []


@given(STACK)
def test_l3_nothing_is_left_of_a_layer_that_is_there(layers):
    layers = fitting(nothing(), layers)
    flat = algebra.squash(values(layers))
    assert list(algebra.minimise(flat, values(layers), content="always").table.paths) == []


@given(STACK, LAYER)
def test_l3_an_inverted_layer_undoes_it(lower, layer):
    *lower, layer = fitting(nothing(), [*lower, layer])
    tree = stacked(nothing(), lower)
    try:
        back = algebra.invert(*values([layer]), values(lower))
    except ConflictError as error:
        assert error.path == b""
        return
    assert unique(back)
    undone = stacked(tree, [layer, members_of(back)])
    assert compare(tree.listing(), undone.listing()) == []


@given(STACK, STACK)
def test_l3_rebased_to_the_same_base(base, layers):
    layers = fitting(nothing(), [*base, *layers])[len(base) :]
    base = fitting(nothing(), base)
    moved = algebra.rebase(values(layers), values(base), values(base), content="always")
    assert moved.conflicts == ()
    tree = stacked(nothing(), base)
    again = stacked(tree, [members_of(layer) for layer in moved.layers])
    assert compare(stacked(tree, layers).listing(), again.listing()) == []


def bare(found: Found | None) -> Found | None:
    """Leave out what a merge path by path does not say."""
    return None if found is None else found._replace(links=(), mtime_ns=0 if found.type == "dir" else found.mtime_ns)


@given(STACK, LAYER, LAYER)
def test_l3_a_rebase_without_conflict_is_a_three_way_merge(base, layer, other):
    base = fitting(nothing(), base)
    tree = stacked(nothing(), base)
    (layer,), (other,) = fitting(tree, [layer]), fitting(tree, [other])
    moved = algebra.rebase(values([layer]), values(base), values([*base, other]), content="always")
    if moved.conflicts:
        return
    old, ours, theirs = (t.listing() for t in (tree, stacked(tree, [layer]), stacked(tree, [other])))
    merged = stacked(tree, [other, *(members_of(each) for each in moved.layers)]).listing()
    for path in {*old, *ours, *theirs, *merged} - {b""}:
        sides = [bare(side.get(path)) for side in (old, ours, theirs)]
        want = sides[2] if sides[0] == sides[1] else sides[1]
        assert bare(merged.get(path)) == want, path
