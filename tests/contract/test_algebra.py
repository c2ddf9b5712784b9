"""What layers make of each other without a file system: items 14, 20, 44, 45, 115 where squash and rebase bear them."""

from __future__ import annotations

from lamella.layer.algebra import compose, minimise, rebase, squash
from lamella.testing.tars import directory, file, hardlink, opaque, symlink, whiteout
from tests.contract.workbench import DIR, apply, found, shape
from tests.laws.composing import members_of, values

D = directory("d")


def test_014_whiteouts_in_an_opaque_directory_are_dropped_by_compose():
    layer = compose(*values([[D, whiteout("d/x")], [D, opaque("d"), file("d/y")]]))
    assert list(layer.table.paths) == [b"d", b"d/.wh..wh..opq", b"d/y"]


def test_020_a_list_of_whiteouts_lets_a_new_base_show_and_an_opaque_marker_does_not(scratch):
    old = [D, file("d/a", b"a"), file("d/b", b"b")]
    new = [*old, file("d/new", b"new")]
    listed = [D, whiteout("d/a"), whiteout("d/b")]
    marked = [D, opaque("d")]
    for name, layer, shown, conflicts in (
        ("listed", listed, {"d": DIR, "d/new": b"new"}, []),
        ("marked", marked, {"d": DIR}, [(b"d/new", "opaque")]),
    ):
        moved = rebase(values([layer]), values([old]), values([new]))
        assert [(c.path, c.kind) for c in moved.conflicts] == conflicts
        root = scratch / name
        apply(root, *new)
        apply(root, *members_of(moved.layers[0]))
        assert shape(root) == shown
        upon_the_old = minimise(moved.layers[0], values([old]))  # each keeps its form
        assert (b"d/.wh..wh..opq" in list(upon_the_old.table.paths)) is (name == "marked")


def test_044_a_link_composed_with_the_whiteout_of_its_target_finds_it(scratch):
    root = scratch / "r"
    apply(root, file("f", b"low"))
    apply(root, *members_of(compose(*values([[hardlink("h", "f")], [whiteout("f")]]))))
    assert shape(root) == {"h": b"low"}


def test_045_a_squashed_link_has_the_bytes_of_its_own_time(scratch):
    layers = [
        [file("f", b"first", mode=0o600), hardlink("alias", "f")],
        [hardlink("late", "f")],
        [file("f", b"second")],
        [whiteout("alias")],
    ]
    root = scratch / "r"
    apply(root, *members_of(squash(values(layers))))
    assert shape(root) == {"f": b"second", "late": b"first"}
    assert found(root, "late").mode == 0o600


def test_045_what_a_link_named_may_be_gone(scratch):
    layers = [[D, file("d/f", b"1"), hardlink("g", "d/f"), hardlink("h", "d/f")], [whiteout("d")]]
    root = scratch / "r"
    apply(root, *members_of(squash(values(layers))))
    assert shape(root) == {"g": b"1", "h": b"1"}
    assert found(root, "g").links == (b"g", b"h")


def test_115_squash_keeps_hard_links_to_symlinks_and_leaves_no_markers(scratch):
    layers = [
        [D, symlink("d/s", "t"), hardlink("d/hs", "d/s"), file("d/x")],
        [D, opaque("d"), symlink("d/s", "t"), hardlink("d/hs", "d/s")],
        [directory("new"), opaque("new"), file("new/f"), whiteout("missing")],
    ]
    flat = squash(values(layers))
    assert not [path for path in flat.table.paths if b".wh." in path]
    root = scratch / "r"
    apply(root, *members_of(flat))
    assert shape(root) == {"d": DIR, "d/s": "-> t", "d/hs": "-> t", "new": DIR, "new/f": b""}
    assert found(root, "d/hs").links == (b"d/hs", b"d/s")
