"""changes against its oracle: any two trees, in memory of any size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamella._kernels import changes as kernel
from tests.kernels.comparing import DIR_MTIME, OPTIONS, Merge, consistent, differences, pairs, table, trees
from tests.kernels.guarded import guarded, guarded_bytes, guarded_columns
from tests.reference import changes as reference

N = settings().max_examples * 4


@pytest.mark.parametrize("content", list(OPTIONS))
@given(pairs(), st.booleans())
@settings(max_examples=N)
def test_changes_are_those_of_the_oracle(content, two, dir_mtime):
    lower, upper = two
    wanted = reference.changes(lower, upper, content, dir_mtime=dir_mtime)
    assert differences(lower, upper, content, dir_mtime=dir_mtime) == wanted


@given(pairs(), st.integers(1, 5), st.integers(0, 7))
def test_however_the_output_is_cut_it_is_the_same(two, cap, options):
    a, b = (guarded_columns(table(tree).columns) for tree in two)
    whole, cut = Merge(a, b, options), Merge(a, b, options, cap=cap, fit=guarded)
    assert whole.run() == cut.run()
    assert whole.match.tolist() == cut.match.tolist()


@given(pairs())
def test_a_tree_does_not_differ_from_itself(two):
    tree, _ = two
    for content in OPTIONS:
        assert differences(tree, reference.moved(tree, 9), content, dir_mtime=True) == []
    rows = Merge(table(tree).columns, table(tree).columns, OPTIONS["always"] | DIR_MTIME).run()
    assert rows == []  # one inode on both sides: not even undecided


@given(pairs())
def test_a_layer_of_the_changes_makes_the_upper_link_sets_of_the_lower(two):
    # L1 for inodes: what is in the layer is new, one inode for each upper set; the rest stays
    lower, upper = two
    found = reference.changes(lower, upper, "always")
    emitted = {d.path for d in found if d.kind is not reference.ChangeKind.DELETE}
    now = {}
    for path, node in upper.items():
        if node.type != "5":
            now[path] = ("new", node.dev, node.inode) if path in emitted else ("old", lower[path].dev, lower[path].inode)
    after = {p: frozenset(q for q in now if now[q] == now[p]) for p in now}
    assert after == reference.sets(upper)


@given(trees([reference.Node()], dev=1))
def test_parents_are_the_nearest_directories(tree):
    one = table(tree)
    out = guarded(np.zeros(len(one), np.int32))
    kernel.parents(guarded_columns(one.columns), out)
    paths = list(one.paths)
    assert [paths[i] if i >= 0 else None for i in out.tolist()] == [
        path.rpartition(b"/")[0] if path else None for path in paths
    ]


@given(pairs())
def test_compacted_rows_say_the_same(two):
    one = table(two[0])
    columns = guarded_columns(one.columns)
    nbytes = kernel.compact(columns)
    arena = guarded_bytes(nbytes)
    assert kernel.compact(columns, arena) == nbytes
    moved = type(one)((*columns[:-1], arena), "path")
    for name in ("paths", "link_targets"):
        assert list(getattr(moved, name)) == list(getattr(one, name))
    assert [moved.xattrs(i) for i in range(len(one))] == [one.xattrs(i) for i in range(len(one))]


@given(pairs(), st.randoms(use_true_random=False))
def test_spoilt_columns_do_no_harm(two, rng):
    lower, upper = (list(guarded_columns(table(consistent(tree)).columns)) for tree in two)
    for columns in (lower, upper):
        for _ in range(rng.randrange(6)):
            column = rng.choice([c for c in columns if c is not None])
            if len(column):
                view = column.view(np.uint8)
                view[rng.randrange(len(view))] = rng.randrange(256)
    merge = Merge(tuple(lower), tuple(upper), rng.randrange(8), cap=3, fit=guarded)
    n_lower, n_upper = len(lower[0]), len(upper[0])
    calls = [
        merge.run,
        lambda: kernel.links(tuple(lower), tuple(upper), merge.match, guarded_bytes(n_upper),
                             guarded(np.zeros(n_upper, np.int32)), guarded(np.zeros(n_lower, np.int32)),
                             guarded_bytes(n_upper)),
        lambda: kernel.parents(tuple(lower), guarded(np.zeros(n_lower, np.int32))),
        lambda: kernel.compact(tuple(lower), guarded_bytes(100)),
    ]  # fmt: skip
    for call in calls:
        try:
            call()
        except ValueError:
            continue
