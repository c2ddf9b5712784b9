"""L1: apply(lower, diff(lower, upper)) == upper. L2: diff(x, x) is empty."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import lamella
from lamella.model import ChangeKind
from lamella.testing import strategies
from lamella.testing.listing import compare, listing
from tests.laws.ground import AS_ROOT, apply, diff, expected, fresh, hidden, laid

EMPTY = bytes(1024)
TREES = strategies.trees(privileged=AS_ROOT)


def emitted(data: bytes) -> set[bytes]:
    with lamella.read_layer(data) as reader:
        return set(reader.table().paths)


OPTIONS = st.fixed_dictionaries({
    "whiteouts": st.sampled_from(["explicit", "opaque"]),
    "sparse": st.sampled_from([None, "pax"]),
    "libarchive_xattr": st.booleans(),
    "dir_mtime": st.booleans(),
})  # fmt: skip


@pytest.mark.parametrize("content", ["auto", "always"])
@given(st.data())
def test_l1_a_diff_makes_the_upper_tree_of_the_lower(home, content, data):
    tree = data.draw(TREES)
    edits = data.draw(strategies.edit_scripts(tree, privileged=AS_ROOT))
    options = data.draw(OPTIONS)
    with fresh(home) as folder:
        lower, upper = laid(folder / "lower", tree), laid(folder / "upper", tree, edits)
        before, after = listing(lower), listing(upper)
        assume(content == "always" or not hidden(before, after))
        _, layer = diff(lower, upper, content=content, **options)
        apply(layer, lower)
        wanted = expected(before, after, emitted(layer), dir_mtime=options["dir_mtime"])
        assert compare(wanted, lower) == []
        assert diff(lower, upper, content="always")[1] == EMPTY


@given(st.data())
def test_l1_between_trees_that_have_nothing_to_do_with_each_other(home, data):
    with fresh(home) as folder:
        lower, upper = laid(folder / "lower", data.draw(TREES)), laid(folder / "upper", data.draw(TREES))
        before, after = listing(lower), listing(upper)
        _, layer = diff(lower, upper, content="always", dir_mtime=True)
        assert listing(lower) == before
        assert listing(upper) == after
        apply(layer, lower)
        assert compare(expected(before, after, emitted(layer), dir_mtime=True), lower) == []


@given(st.data())
def test_l1_from_and_to_nothing(home, data):
    tree = data.draw(TREES)
    with fresh(home) as folder:
        upper = laid(folder / "upper", tree)
        _, layer = diff(None, upper)
        apply(layer, folder / "made")
        assert compare(upper, folder / "made") == []
        apply(diff(upper, None)[1], upper)
        assert set(listing(upper)) == {b""}


@given(st.data())
def test_l1_layer_upon_layer(home, data):
    tree = data.draw(TREES)
    with fresh(home) as folder:
        root, now = laid(folder / "root", tree), laid(folder / "now", tree)
        for i in range(3):
            previous = laid(folder / f"previous{i}")
            apply(diff(None, now)[1], previous)
            known = {p: f.type for p, f in listing(now).items() if p}
            script = data.draw(strategies.edits_of(known, privileged=AS_ROOT))
            script.apply(now)
            before, (_, layer) = listing(root), diff(previous, now, content="always", dir_mtime=True)
            apply(layer, root)
            wanted = expected(before, listing(now), emitted(layer), dir_mtime=True)
            assert compare(wanted, root) == []


@given(st.data())
def test_l2_a_diff_of_a_tree_with_itself_is_empty(home, data):
    tree = data.draw(TREES)
    options = data.draw(OPTIONS)
    with fresh(home) as folder:
        one, two = laid(folder / "one", tree), laid(folder / "two", tree)
        for content in ("auto", "always", "never"):
            for other in (one, two):
                info, layer = diff(one, other, content=content, **options)
                assert (layer, info.entries) == (EMPTY, 0)
                assert list(lamella.changes(one, other, content=content)) == []


@given(st.data())
def test_l2_tables_differ_as_their_directories_do(home, data):
    tree = data.draw(TREES)
    edits = data.draw(strategies.edit_scripts(tree, privileged=AS_ROOT))
    with fresh(home) as folder:
        lower, upper = laid(folder / "lower", tree), laid(folder / "upper", tree, edits)
        by_path = list(lamella.changes(lower, upper, content="never"))
        by_table = list(lamella.changes(lamella.scan(lower), lamella.scan(upper), content="never"))
        facts = [[(c.kind, c.path, c.why) for c in changes] for changes in (by_path, by_table)]
        assert facts[0] == facts[1]
        back = {c.path: c.kind for c in lamella.changes(upper, lower, content="never")}
        opposite = {ChangeKind.ADD: ChangeKind.DELETE, ChangeKind.MODIFY: ChangeKind.MODIFY}
        for change in by_path:
            if change.kind in opposite and change.path in back:
                assert back[change.path] == opposite[change.kind]
