"""What seven engines did with the same layers: items 103 to 117."""

from __future__ import annotations

import itertools
import os
import struct
import subprocess

import pytest

import lamella
from lamella.errors import DigestMismatchError
from lamella.testing.listing import compare, listing
from lamella.testing.tars import directory, file, layer_tar, opaque, symlink, whiteout
from lamella.testing.trees import MTIME_NS, Chmod, Device, Dir, File, Remove, Socket, Symlink, Utime, Write
from tests.contract.workbench import (
    AS_ROOT,
    DIR,
    WHITEOUT,
    apply,
    changed,
    diff,
    diffed,
    entries,
    found,
    redone,
    shape,
    tree,
)

SECOND = 1_000_000_000
WWW = (Dir("srv"), Dir("srv/www-1"), File("srv/www-1/a", b"a"), File("srv/www-1/b", b"b"), Symlink("srv/www", "www-1"))
MADE_ANEW = [directory("srv/www"), opaque("srv/www"), whiteout("srv/www/a"), file("srv/www/new", b"n")]


@pytest.mark.parametrize("order", [o for o in itertools.permutations(range(4)) if o.index(3) > o.index(0)])
def test_103_below_a_name_that_the_layer_makes_anew_nothing_is_hidden(scratch, order):
    root = tree(scratch / "r", *WWW)
    apply(root, *(MADE_ANEW[i] for i in order))
    made = {"srv": DIR, "srv/www": DIR, "srv/www/new": b"n"}
    assert shape(root) == {**made, "srv/www-1": DIR, "srv/www-1/a": b"a", "srv/www-1/b": b"b"}


@pytest.mark.parametrize(
    "members", list(itertools.permutations([symlink("srv/www", "elsewhere"), opaque("srv/www"), whiteout("srv/www/a")]))
)
def test_103_nor_below_a_link_that_it_makes(scratch, members):
    root = tree(scratch / "r", *WWW)
    apply(root, *members)
    now = shape(root)
    assert (now["srv/www-1/a"], now["srv/www"]) == (b"a", "-> elsewhere")


@pytest.mark.parametrize(
    "members", list(itertools.permutations([whiteout("srv/www"), opaque("srv/www"), whiteout("srv/www/b")]))
)
def test_103_nor_below_a_link_that_it_hides(scratch, members):
    root = tree(scratch / "r", *WWW)
    apply(root, *members)
    assert shape(root) == {"srv": DIR, "srv/www-1": DIR, "srv/www-1/a": b"a", "srv/www-1/b": b"b"}


def test_104_a_diff_says_nothing_below_what_is_no_directory(scratch):
    edits = (
        Dir("Africa"),
        File("Africa/Abidjan", b"1"),
        Dir("Africa/deep"),
        File("Africa/deep/er"),
        Dir("x"),
        File("x/y"),
    )
    lower = tree(scratch / "l", *edits)
    upper = tree(scratch / "u", *edits, Symlink("Africa", "zones"), File("x", b"now a file"))
    data = diff(lower, upper)[1]
    assert set(entries(data)) - {"", "."} == {"Africa", "x"}
    assert compare(redone(scratch, edits, data), upper) == []


@pytest.mark.parametrize("first", [0, 1])
def test_104_a_layer_that_does_is_accepted_and_hides_nothing(scratch, first):
    edits = (Dir("Africa"), File("Africa/Abidjan", b"1"), Dir("zones"), File("zones/Abidjan", b"2"))
    members = [symlink("Africa", "zones"), whiteout("Africa/Abidjan")]
    root = tree(scratch / "r", *edits)
    apply(root, members[first], members[1 - first])
    assert shape(root) == {"Africa": "-> zones", "zones": DIR, "zones/Abidjan": b"2"}


THROUGH = (
    Dir("real"),
    File("real/old", b"o"),
    Symlink("ln", "real"),
    Symlink("abs", "/real"),
    Symlink("two", "ln/../abs"),
)


@pytest.mark.parametrize("way", ["ln", "abs", "two"])
def test_105_an_entry_through_a_lower_symlink_follows_it(scratch, way):
    root = tree(scratch / "r", *THROUGH)
    apply(root, file(f"{way}/through", b"t"), directory(f"{way}/sub"))
    now = shape(root)
    assert (now["real/through"], now["real/sub"], now["real/old"]) == (b"t", DIR, b"o")
    assert {p: now[p] for p in ("ln", "abs", "two")} == {"ln": "-> real", "abs": "-> /real", "two": "-> ln/../abs"}


def test_105_a_link_of_the_layer_itself_is_followed_too(scratch):
    root = tree(scratch / "r", *THROUGH)
    apply(root, symlink("new", "real/."), file("new/through", b"t"))
    assert shape(root)["real/through"] == b"t"
    assert shape(root)["new"] == "-> real/."


def test_105_a_folder_that_is_implied_through_a_link_is_implied_all_the_same(scratch):
    root = tree(scratch / "r")
    apply(root, symlink("top", "/.."), file("top/a/f"), file("a/b/g"), file("top/a/b/h"))
    assert {p: found(root, p).mtime_ns for p in ("a", "a/b")} == {"a": 0, "a/b": 0}


@pytest.mark.requires("user_xattr")
@pytest.mark.parametrize("way", ["ln", "abs", "two"])
def test_105_on_an_overlay_it_is_resolved_in_the_parents(scratch, way):
    lower = tree(scratch / "l", *THROUGH, Chmod("real", 0o711), Utime("real", 5))
    upper = tree(scratch / "u")
    apply(upper, file(f"{way}/through", b"t"), dialect="overlay:user", parents=[lower])
    assert shape(upper) == {"real": DIR, "real/through": b"t"}
    assert (found(upper, "real").mode, found(upper, "real").mtime_ns) == (0o711, 5)


@pytest.mark.parametrize("way", ["ln", "abs", "two"])
def test_106_a_whiteout_through_a_lower_symlink_follows_it(scratch, way):
    root = tree(scratch / "r", *THROUGH)
    apply(root, whiteout(f"{way}/old"))
    assert "real/old" not in shape(root)
    assert shape(root)["ln"] == "-> real"


@pytest.mark.requires("user_xattr")
@pytest.mark.parametrize("way", ["ln", "abs", "two"])
@pytest.mark.parametrize("marker", ["whiteout", "opaque"])
def test_106_on_an_overlay_it_is_resolved_in_the_parents(scratch, way, marker):
    lower, upper = tree(scratch / "l", *THROUGH), tree(scratch / "u")
    member = whiteout(f"{way}/old") if marker == "whiteout" else opaque(way)
    apply(upper, member, dialect="overlay:user", parents=[lower])
    assert shape(upper) == ({"real": DIR, "real/old": WHITEOUT} if marker == "whiteout" else {"real": DIR})
    assert dict(found(upper, "real").xattrs) == ({} if marker == "whiteout" else {b"user.overlay.opaque": b"y"})


@pytest.mark.requires("root", "overlay")
def test_107_a_ghost_is_tolerated(scratch):
    lower = tree(scratch / "l", Dir("d"), Device("d/ghost", 0, 0), File("d/real", b"1"), File("z", b"z"))
    upper, work, merged = (tree(scratch / n) for n in ("u", "w", "m"))
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, merged], check=True)
    try:
        assert "ghost" in os.listdir(merged / "d")
        assert not os.path.lexists(merged / "d/ghost")
        table = lamella.scan(merged)
        assert {p for p in table.paths if p and b"ghost" not in p} == {b"d", b"d/real", b"z"}
        assert set(diffed(None, merged)) - {".", ""} == {"d", "d/real", "z"}
        info, _ = diff(None, merged)
        assert ["d/ghost" in str(w) for w in info.warnings] == [True]
    finally:
        subprocess.run(["umount", merged], check=True)


def test_108_implied_parents_are_open_to_all(scratch):
    apply(scratch / "r", file("a/b/c/f"))
    assert {found(scratch / "r", p).mode for p in ("a", "a/b", "a/b/c")} == {0o755}


def acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)


NO_ID = 0xFFFFFFFF
DEFAULT_ACL = acl((1, 7, NO_ID), (2, 7, 1000), (4, 5, NO_ID), (16, 7, NO_ID), (32, 0, NO_ID))
ACCESS_ACL = acl((1, 6, NO_ID), (2, 4, 7), (4, 4, NO_ID), (16, 4, NO_ID), (32, 0, NO_ID))


@pytest.mark.requires("setfacl")
def test_109_a_default_acl_does_not_leak_into_what_is_made_below_it(scratch):
    root = tree(scratch / "r", Dir("low", xattrs={"system.posix_acl_default": DEFAULT_ACL}))
    members = [
        directory("d", xattrs={"system.posix_acl_default": DEFAULT_ACL}), file("d/f", mode=0o644), directory("d/sub"),
        file("d/sub/g", mode=0o4755), file("low/implied/h", mode=0o600), file("low/f", mode=0o666),
        file("d/own", mode=0o640, xattrs={"system.posix_acl_access": ACCESS_ACL}),
    ]  # fmt: skip
    apply(root, *members)
    now = listing(root)
    assert {p: f.mode for p, f in now.items() if f.type == "file"} == {
        b"d/f": 0o644, b"d/sub/g": 0o4755, b"low/implied/h": 0o600, b"low/f": 0o666, b"d/own": 0o640,
    }  # fmt: skip
    assert {p: dict(f.xattrs) for p, f in now.items() if f.xattrs} == {
        b"d": {b"system.posix_acl_default": DEFAULT_ACL},
        b"low": {b"system.posix_acl_default": DEFAULT_ACL},
        b"d/own": {b"system.posix_acl_access": ACCESS_ACL},
    }


@pytest.mark.requires("setfacl")
def test_109_nor_from_the_folder_of_the_root(scratch):
    above = tree(scratch / "above", Dir("", xattrs={"system.posix_acl_default": DEFAULT_ACL}))
    apply(above / "r", file("d/f", mode=0o644))
    assert {p: (f.mode, f.xattrs) for p, f in listing(above / "r").items()} == {
        b"": (0o755, ()), b"d": (0o755, ()), b"d/f": (0o644, ()),
    }  # fmt: skip


@pytest.mark.requires("user_xattr")
def test_110_an_empty_record_is_no_attribute_but_the_other_spelling_is(scratch):
    root = tree(scratch / "r")
    empty = {"SCHILY.xattr.user.a": "", "LIBARCHIVE.xattr.user.b": "", "SCHILY.xattr.user.c": "1"}
    lamella.apply(layer_tar([file("f", pax=empty)]), root, rootless=not AS_ROOT)
    assert dict(found(root, "f").xattrs) == {b"user.b": b"", b"user.c": b"1"}


FAR = [-1, -SECOND, -SECOND - 1, -(2**31) * SECOND, 2**35 * SECOND + 1, 13_569_465_600 * SECOND]


def test_111_far_times_go_into_a_layer_and_out_of_it(scratch):
    upper = tree(scratch / "u", *(File(f"f{i}", mtime_ns=time) for i, time in enumerate(FAR)), Symlink("s", mtime_ns=-5))
    data = diff(None, upper)[1]
    assert compare(redone(scratch, (), data), upper) == []
    with lamella.read_layer(data) as reader:
        times = {e.path: e.mtime_ns for e in reader}
    assert {p: t for p, t in times.items() if p.startswith(b"f")} == {b"f%d" % i: t for i, t in enumerate(FAR)}
    assert changed(upper, upper) == {}


def test_112_a_diff_of_a_changed_tree_applied_and_diffed_again_is_empty(scratch):
    edits = (Dir("d", mtime_ns=5), File("d/f", b"1"), Dir("e"), File("e/x"), Utime("d", 5))
    lower = tree(scratch / "l", *edits)
    upper = tree(scratch / "u", *edits, File("d/new", b"n"), Remove("e/x"), Utime("e", 7), Utime("d", 8))
    again = redone(scratch, edits, diff(lower, upper)[1])
    assert compare(again, upper) == []
    assert changed(upper, again, dir_mtime=True) == {}
    apply(again, file("d/more"), whiteout("d/new"))
    assert found(again, "d").mtime_ns == 8


@pytest.mark.parametrize("seekable", [True, False])
@pytest.mark.parametrize("which", ["expected_diff_id", "expected_digest"])
def test_113_a_wrong_digest_is_refused(scratch, seekable, which):
    root = tree(scratch / "r", File("living", b"1"))
    before = listing(root)
    data = layer_tar([file("f", b"f"), whiteout("living")])
    wrong = "sha256:" + "0" * 64
    (scratch / "l.tar").write_bytes(data)
    with (scratch / "l.tar").open("rb") as plain, subprocess.Popen(["cat"], stdin=plain, stdout=subprocess.PIPE) as cat:
        source = data if seekable else cat.stdout
        with pytest.raises(DigestMismatchError) as caught:
            lamella.apply(source, root, rootless=not AS_ROOT, **{which: wrong})
    assert caught.value.expected == wrong
    assert str(caught.value.actual).startswith("sha256:")
    if seekable:
        assert listing(root) == before, "checked before the first change"
    else:
        assert caught.value.partial.entries == 2


def test_116_a_socket_is_skipped_with_a_warning(scratch):
    upper = tree(scratch / "u", File("f"), Socket("d-sock"), File("z"))
    info, data = diff(None, upper)
    assert set(entries(data)) - {".", ""} == {"f", "z"}
    assert ["d-sock" in str(w) for w in info.warnings] == [True]


def test_116_a_socket_that_takes_the_place_of_a_file_is_a_removal(scratch):
    edits = (File("f"), File("s", b"1"))
    lower, upper = tree(scratch / "l", *edits), tree(scratch / "u", *edits, Socket("s"))
    assert shape(redone(scratch, edits, diff(lower, upper)[1])) == {"f": b""}


ANCESTORS = (
    Dir("a", mode=0o711, mtime_ns=3),
    Dir("a/b", mode=0o2750),
    File("a/b/f", b"1"),
    File("a/b/g"),
    Dir("quiet"),
    File("quiet/q"),
)


@pytest.mark.parametrize(
    ("edit", "names"),
    [
        (Write("a/b/f", b"2"), ["a", "a/b", "a/b/f"]),
        (File("a/b/new"), ["a", "a/b", "a/b/new"]),
        (Remove("a/b/g"), ["a", "a/b", "a/b/.wh.g"]),
        (Chmod("a/b", 0o700), ["a", "a/b"]),
        (File("top"), ["top"]),
    ],
)
def test_117_every_ancestor_is_emitted_once_before_its_children(scratch, edit, names):
    lower = tree(scratch / "l", *ANCESTORS)
    upper = tree(scratch / "u", *ANCESTORS, edit, Utime("a", 3), Utime("a/b", 4), Utime("", MTIME_NS))
    got = diffed(lower, upper)
    assert list(got) == names
    for name in ("a", "a/b"):
        if name in got:
            now = found(upper, name)
            assert (got[name].mode, int(got[name].mtime)) == (now.mode, now.mtime_ns // SECOND)
    assert [change.path.decode() for change in lamella.changes(lower, upper)] == [os.fsdecode(edit.path)]


def test_117_the_root_only_where_it_differs(scratch):
    lower = tree(scratch / "l", *ANCESTORS)
    upper = tree(scratch / "u", *ANCESTORS, File("new"), Chmod("", 0o700))
    members = list(diffed(lower, upper).values())
    assert (members[0].name.strip("./"), members[0].mode, members[0].isdir()) == ("", 0o700, True)
    assert [m.name for m in members[1:]] == ["new"]


def test_117_a_time_alone_is_not_emitted(scratch):
    lower = tree(scratch / "l", *ANCESTORS)
    upper = tree(scratch / "u", *ANCESTORS, Utime("quiet", 9), Utime("a/b", 9))
    assert diffed(lower, upper) == {}
    assert list(diffed(lower, upper, dir_mtime=True)) == ["a", "a/b", "quiet"]
