"""L3: apply(apply(a, d1), d2) == apply(a, compose(d1, d2)), for every tree a; and squash, which has nothing below."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lamella.errors import ConflictError
from lamella.layer import algebra, folding, spelling
from lamella.testing import strategies
from lamella.testing.listing import compare
from lamella.testing.stacks import stacks
from tests.laws.composing import (
    Layers,
    fitting,
    members_of,
    nothing,
    stacked,
    unique,
    values,
    with_parents,
    written,
)  # fmt: skip
from tests.laws.ground import AS_ROOT, apply, fresh

LAYER = strategies.layers(privileged=AS_ROOT)
STACK = stacks(max_layers=4) | st.lists(LAYER, min_size=2, max_size=4)


def same(model, other) -> list[str]:
    return compare(model.listing(), other.listing())


def squashed(layers: Layers) -> list[str]:
    layers = fitting(nothing(), layers)
    want = stacked(nothing(), layers)
    layer = algebra.squash(values(layers))
    assert unique(layer)
    assert not any(b".wh." in path for path in layer.table.paths)
    return same(want, stacked(nothing(), [members_of(layer)]))


def upon_known(lower: list, layers: Layers) -> list[str]:
    lower, *layers = fitting(nothing(), [lower, *layers])
    tree = stacked(nothing(), [lower])
    want = stacked(tree, layers)
    try:
        layer = algebra.compose(*values(layers), lower=values([lower]))
    except ConflictError as error:
        assert "the last name of" in error.reason  # the one thing that no layer can say
        return []
    assert unique(layer)
    return same(want, stacked(tree, [members_of(layer)]))


@given(STACK)
def test_l3_a_squashed_stack_is_the_stack(layers):
    assert squashed(layers) == []


@given(LAYER, STACK)
def test_l3_composed_upon_a_tree_that_is_known(lower, layers):
    assert upon_known(lower, layers) == []


@pytest.mark.parametrize("parents", [True, False], ids=["parents", "any"])
@given(st.data())
def test_l3_composed_upon_any_tree(parents, data):
    layers = fitting(nothing(), data.draw(STACK))
    layers = [with_parents(layer) for layer in layers] if parents else layers[:2]
    try:
        layer = members_of(algebra.compose(*values(layers)))
    except ConflictError:
        return
    for lower in data.draw(st.lists(LAYER, min_size=1, max_size=4)):
        tree = stacked(nothing(), fitting(nothing(), [lower]))
        if fitting(tree, layers) == layers:
            assert same(stacked(tree, layers), stacked(tree, [layer])) == []


@given(LAYER, STACK)
def test_l3_composition_is_associative(lower, layers):
    lower, *layers = fitting(nothing(), [lower, *layers])
    tree = stacked(nothing(), [lower])
    below, (first, second, *rest) = values([lower]), values(layers)
    try:
        two = algebra.compose(first, second, lower=below)
        whole = algebra.compose(two, *rest, lower=below)
    except ConflictError:
        return
    assert same(stacked(tree, layers), stacked(tree, [members_of(whole)])) == []


@given(LAYER, STACK)
def test_l3_on_disk(home, lower, layers):
    lower, *layers = fitting(nothing(), [lower, *layers])
    with fresh(home) as folder:
        one, two, flat = folder / "one", folder / "two", folder / "flat"
        for root in (one, two):
            apply(lower, root)
        for layer in layers:
            apply(layer, one)
        apply(written(algebra.squash(values([lower, *layers]))), flat)
        assert compare(one, flat, {"root"}) == []
        try:
            composed = algebra.compose(*values(layers), lower=values([lower]))
        except ConflictError:
            return
        apply(written(composed), two)
        assert compare(one, two) == []


def lose_markers(spelled, path, folder):
    pass


def keep_what_is_hidden(tree, stack, part):
    pass


def first_come_first_served(spelled, keep):
    pass


def first_name_only(spelled):
    spelled._linked.clear()


@pytest.mark.parametrize(
    ("module", "name", "wrong"),
    [
        (spelling.Spelled, "marker", lose_markers),
        (folding, "hide", keep_what_is_hidden),
        (spelling.Spelled, "_spell_links", first_name_only),
        (spelling.Spelled, "_raise_folders", first_come_first_served),
    ],
)  # fmt: skip
def test_l3_can_fail(monkeypatch, module, name, wrong):
    monkeypatch.setattr(module, name, wrong)

    @settings(max_examples=300, phases=[Phase.generate], suppress_health_check=list(HealthCheck), report_multiple_bugs=False)
    @given(LAYER, STACK)
    def law(lower, layers):
        assert upon_known(lower, layers) == []

    with pytest.raises(AssertionError):
        law()
