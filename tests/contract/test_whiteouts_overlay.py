"""Whiteouts and opaque markers as overlayfs keeps them (items 11 to 17, 24, 27), and as AUFS does."""

from __future__ import annotations

import itertools
import os

import pytest

from lamella.errors import LamellaError
from lamella.testing.listing import listing
from lamella.testing.tars import char, directory, fifo, file, opaque, whiteout
from lamella.testing.trees import Chmod, Dir, File, Symlink
from tests.contract.workbench import DIR, WHITEOUT, apply, shape, tree

pytestmark = pytest.mark.requires("user_xattr")

LOWER = (Dir("d"), File("d/x", b"x"), Dir("d/sub"), File("d/sub/y", b"y"), File("e", b"e"))
OVERLAYS = ["overlay:user", pytest.param("overlay:trusted", marks=pytest.mark.requires("root"))]


@pytest.fixture(params=OVERLAYS)
def space(request):
    """The name space of overlay's own attributes: user or trusted."""
    return request.param.partition(":")[2]


@pytest.fixture
def upper(scratch, space):
    """Give a function that applies members to an empty upper directory above LOWER, and returns it."""

    def run(*members, lower=LOWER):
        below = tree(scratch / "lower", *lower)
        above = tree(scratch / "upper")
        apply(above, *members, dialect=f"overlay:{space}", parents=[below])
        return above

    return run


def is_opaque(path, space) -> bool:
    return dict(listing(path)[b""].xattrs).get(f"{space}.overlay.opaque".encode()) == b"y"


def test_001_a_whiteout_is_a_device_of_number_zero(upper):
    root = upper(whiteout("e"), directory("d"), whiteout("d/x"))
    assert shape(root) == {"d": DIR, "d/x": WHITEOUT, "e": WHITEOUT}


@pytest.mark.requires("root")
def test_001_the_kernel_chooses_the_name_space_by_privilege(scratch):
    below, above = tree(scratch / "lower", *LOWER), tree(scratch / "upper")
    apply(above, directory("d"), opaque("d"), dialect="overlay", parents=[below])
    assert is_opaque(above / "d", "trusted")


@pytest.mark.parametrize("members", list(itertools.permutations([whiteout("d/x"), file("d/x", b"n")])))
def test_002_an_entry_of_the_layer_wins_over_its_whiteout(upper, members):
    assert shape(upper(*members)) == {"d": DIR, "d/x": b"n"}


@pytest.mark.parametrize("at", [0, 1, 2])
def test_003_an_opaque_marker_is_an_attribute_wherever_it_stands(upper, space, at):
    members = [directory("d"), file("d/new", b"n")]
    members.insert(at, opaque("d"))
    root = upper(*members)
    assert shape(root) == {"d": DIR, "d/new": b"n"}
    assert is_opaque(root / "d", space)


@pytest.mark.parametrize("members", list(itertools.permutations([whiteout("d"), whiteout("d/x"), whiteout("d/sub/y")])))
def test_011_a_whiteout_below_a_whiteout_is_nothing_more(upper, members):
    assert shape(upper(*members)) == {"d": WHITEOUT}


@pytest.mark.parametrize("members", list(itertools.permutations([whiteout("d"), file("d", b"file")])))
def test_012_a_whiteout_and_a_file(upper, members):
    assert shape(upper(*members)) == {"d": b"file"}


@pytest.mark.parametrize("members", list(itertools.permutations([whiteout("d"), directory("d", mode=0o700)])))
def test_012_a_whiteout_and_a_directory_are_an_opaque_directory(upper, space, members):
    root = upper(*members)
    assert shape(root) == {"d": DIR}
    assert is_opaque(root / "d", space)
    assert listing(root)[b"d"].mode == 0o700


def test_012_a_directory_that_the_layer_made_something_else_of_before_is_new(upper, space):
    root = upper(fifo("d"), directory("d"), file("d/n", b"n"))
    assert shape(root) == {"d": DIR, "d/n": b"n"}
    assert is_opaque(root / "d", space)


@pytest.mark.parametrize("members", list(itertools.permutations([whiteout("d"), file("d/sub/n", b"n")])))
def test_013_a_child_of_a_whited_out_directory_makes_it_opaque(upper, space, members):
    root = upper(*members, lower=(*LOWER, Chmod("d", 0o700), Chmod("d/sub", 0o711)))
    assert shape(root) == {"d": DIR, "d/sub": DIR, "d/sub/n": b"n"}
    assert is_opaque(root / "d", space)
    now = listing(root)
    assert [(now[p].mode, now[p].mtime_ns) for p in (b"d", b"d/sub")] == [(0o755, 0)] * 2, "nothing of the lower's"


@pytest.mark.parametrize("marker", [opaque(), whiteout("ln")], ids=["opaque", "whiteout"])
def test_013_a_symlink_that_is_hidden_leads_nowhere(upper, marker):
    root = upper(marker, file("ln/n", b"n"), lower=(*LOWER, Symlink("ln", "d")))
    assert {p: v for p, v in shape(root).items() if v != WHITEOUT} == {"ln": DIR, "ln/n": b"n"}


@pytest.mark.parametrize("members", list(itertools.permutations([opaque("d"), whiteout("d/x"), directory("d")])))
def test_014_whiteouts_inside_an_opaque_directory_are_dropped(upper, space, members):
    root = upper(*members)
    assert shape(root) == {"d": DIR}
    assert is_opaque(root / "d", space)


@pytest.mark.parametrize("members", list(itertools.permutations([opaque("d"), whiteout("d/sub/y"), file("d/sub/n", b"n")])))
def test_014_also_further_down(upper, space, members):
    root = upper(*members)
    assert shape(root) == {"d": DIR, "d/sub": DIR, "d/sub/n": b"n"}
    assert is_opaque(root / "d", space)


def test_015_a_whiteout_behind_a_lower_symlink_lands_at_the_real_place(upper):
    root = upper(whiteout("ln/x"), whiteout("ln/sub/y"), lower=(*LOWER, Symlink("ln", "/d")))
    assert shape(root) == {"d": DIR, "d/x": WHITEOUT, "d/sub": DIR, "d/sub/y": WHITEOUT}


def test_016_an_opaque_root_is_a_whiteout_a_name_too(upper, space):
    # overlayfs merges roots whatever xattr they have: tests/layer/test_apply.py mounts one
    root = upper(opaque(), file("f", b"f"))
    assert shape(root) == {"f": b"f", "d": WHITEOUT, "e": WHITEOUT}
    assert is_opaque(root, space)


@pytest.mark.requires("root", "devices")
def test_024_a_device_of_number_zero_is_refused_where_it_would_hide(scratch):
    below, above = tree(scratch / "lower", *LOWER), tree(scratch / "upper")
    with pytest.raises(LamellaError) as caught:
        apply(above, char("e", 0, 0), dialect="overlay", parents=[below])
    assert "e" not in shape(above)
    assert "'e'" in str(caught.value)


@pytest.mark.requires("root", "devices")
def test_024_and_is_a_device_elsewhere(scratch):
    root = tree(scratch / "r", *LOWER)
    apply(root, char("e", 0, 0, mode=0o600))
    assert shape(root)["e"] == WHITEOUT


def test_027_overlays_own_attributes_in_an_image_are_escaped(upper, space):
    own = {f"{space}.overlay.opaque": b"y", f"{space}.overlay.overlay.metacopy": b"1", "user.other": b"o"}
    root = upper(directory("new", xattrs=own))
    assert dict(listing(root)[b"new"].xattrs) == {
        f"{space}.overlay.overlay.opaque".encode(): b"y",
        f"{space}.overlay.overlay.overlay.metacopy".encode(): b"1",
        b"user.other": b"o",
    }


@pytest.mark.requires("root", "overlay")
@pytest.mark.parametrize("redundant", [False, True])
def test_014_the_kernel_sees_what_the_layer_says(scratch, redundant):
    import subprocess

    below, above, work, merged = (tree(scratch / n) for n in ("lower", "upper", "work", "merged"))
    tree(below, *LOWER, Dir("keep"), File("keep/f", b"k"))
    members = [whiteout("e"), directory("d", mode=0o711), opaque("d"), file("d/n", b"n"), file("keep/g", b"g")]
    members += [whiteout("d/x"), whiteout("d/sub")] if redundant else []
    apply(above, *members, dialect="overlay", parents=[below])
    options = f"lowerdir={below},upperdir={above},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, merged], check=True)
    try:
        plain = tree(scratch / "plain", *LOWER, Dir("keep"), File("keep/f", b"k"))
        apply(plain, *members)
        assert shape(merged) == shape(plain)
        assert sorted(os.listdir(merged / "d")) == ["n"]
    finally:
        subprocess.run(["umount", merged], check=True)


@pytest.mark.parametrize("members", list(itertools.permutations([whiteout("e"), opaque("d"), file("d/n", b"n")])))
def test_001_aufs_keeps_the_markers_as_files(scratch, members):
    root = tree(scratch / "upper")
    apply(root, *members, dialect="aufs", parents=[tree(scratch / "lower", *LOWER)])
    assert shape(root) == {".wh.e": b"", "d": DIR, "d/.wh..wh..opq": b"", "d/n": b"n"}


def test_012_aufs_hides_the_content_of_a_directory_made_again(scratch):
    root = tree(scratch / "upper")
    apply(root, whiteout("d"), directory("d"), dialect="aufs", parents=[tree(scratch / "lower", *LOWER)])
    assert shape(root) == {"d": DIR, "d/.wh..wh..opq": b""}


def test_016_aufs_has_an_opaque_root(scratch):
    root = tree(scratch / "upper")
    apply(root, opaque(), dialect="aufs", parents=[tree(scratch / "lower", *LOWER)])
    assert shape(root) == {".wh..wh..opq": b""}
