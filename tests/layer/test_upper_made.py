"""Upper directories and branches made by hand: what the kernel never writes, what a reader must not trust, and no parents."""

from __future__ import annotations

import io
import os
import socket
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

import lamella
from lamella._kernels import walk
from lamella.errors import ConflictError, UnsafePathError, WhiteoutError
from lamella.model import ChangeKind, Why
from lamella.testing.listing import compare
from lamella.testing.trees import Dir, Edit, File, Hardlink, Symlink, build

pytestmark = pytest.mark.requires("user_xattr", "devices")

LOWER: tuple[Edit, ...] = (
    Dir("d"), File("d/x", b"x"), Dir("d/sub"), File("d/sub/y", b"y"), File("e", b"e", xattrs={"user.k": b"v"}),
)  # fmt: skip
OWN = "user.overlay."
ADD, MODIFY, DELETE = ChangeKind.ADD, ChangeKind.MODIFY, ChangeKind.DELETE


def own(path: Path, **values: bytes) -> Path:
    for name, value in values.items():
        os.setxattr(path, OWN + name.replace("__", "."), value, follow_symlinks=False)
    return path


def whiteout(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR, 0)


def found(upper: Path, *parents: Path, **options: Any) -> list[tuple[ChangeKind, bytes]]:
    return [(change.kind, change.path) for change in lamella.changes_from_upper(upper, parents, **options)]


def layer(upper: Path, *parents: Path, **options: Any) -> lamella.EntryTable:
    out = io.BytesIO()
    lamella.diff_from_upper(upper, out, parents, compression="none", **options)
    with lamella.read_layer(out.getvalue()) as reader:
        return reader.table()


@pytest.fixture
def lower(scratch: Path) -> Path:
    return build(scratch / "lower", *LOWER)


@pytest.fixture
def upper(scratch: Path) -> Path:
    return build(scratch / "upper")


# -- overlay ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("marked", [True, False])
def test_025_an_empty_file_is_a_whiteout_where_its_directory_says_so(lower, upper, marked):
    build(upper, Dir("d"), File("d/x"))
    own(upper / "d" / "x", whiteout=b"")
    if marked:
        own(upper / "d", opaque=b"x")
    assert found(upper, lower) == [(DELETE if marked else MODIFY, b"d/x")]
    assert found(build(upper.parent / "top"), upper, lower) == []
    top = build(upper.parent / "over", Dir("d"), File("d/x", b"again"))
    assert found(top, upper, lower) == [(ADD if marked else MODIFY, b"d/x")]


def test_025_a_file_with_content_is_no_whiteout(lower, upper):
    build(upper, Dir("d"), File("d/x", b"content"))
    own(upper / "d" / "x", whiteout=b"")
    own(upper / "d", opaque=b"x")
    assert found(upper, lower) == [(MODIFY, b"d/x")]


def test_026_opaque_x_hides_nothing(lower, upper):
    build(upper, Dir("d"))
    own(upper / "d", opaque=b"x")
    assert found(upper, lower) == []
    own(upper / "d", opaque=b"y")
    assert found(upper, lower) == [(DELETE, b"d/sub"), (DELETE, b"d/x")]


def test_027_attributes_of_a_nested_overlay_leave_unescaped_and_its_own_do_not(lower, upper):
    build(upper, File("new", b"n", xattrs={"user.other": b"o"}))
    own(upper / "new", origin=b"1", impure=b"y", nlink=b"U+1", overlay__opaque=b"y", overlay__overlay__x=b"2")
    table = layer(upper, lower)
    wanted = {b"user.other": b"o", b"user.overlay.opaque": b"y", b"user.overlay.overlay.x": b"2"}
    assert table.xattrs(table.find(b"new")) == wanted


def test_027_attributes_of_a_nested_overlay_are_compared(lower, upper):
    own(lower / "e", overlay__opaque=b"y")
    build(upper, File("e", b"e", xattrs={"user.k": b"v"}))
    own(upper / "e", overlay__opaque=b"y", origin=b"?")
    assert found(upper, lower) == []
    own(upper / "e", overlay__opaque=b"x")
    assert [(c.path, c.why) for c in lamella.changes_from_upper(upper, [lower])] == [(b"e", Why.XATTR)]


def test_049_a_file_that_has_all_its_names_is_not_parted_from_those_that_went(lower, upper):
    build(lower, Dir("many"), File("many/a", b"m"), Hardlink("b", "many/a"))
    whiteout(upper / "many")
    build(upper, File("b", b"m"))
    assert [(c.kind, c.path) for c in lamella.changes_from_upper(upper, [lower])] == [(MODIFY, b"b"), (DELETE, b"many")]
    own(upper / "b", nlink=b"U-1")  # as the kernel counts with index=on
    assert found(upper, lower) == [(DELETE, b"many")]
    assert found(upper, lower, dialect="overlay:trusted") == [(MODIFY, b"b"), (DELETE, b"many")]


def test_one_namespace_is_what_the_other_is_not(lower, upper):
    build(upper, Dir("d"))
    own(upper / "d", opaque=b"y")
    assert found(upper, lower, dialect="overlay:user") == [(DELETE, b"d/sub"), (DELETE, b"d/x")]
    assert found(upper, lower, dialect="overlay:trusted") == [(MODIFY, b"d")]


def test_010_a_whiteout_of_nothing_is_no_change(lower, upper):
    whiteout(upper / "nothing")
    assert found(upper, lower) == []


def test_116_a_socket_hides_what_is_below_and_is_left_out(lower, upper):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.fspath(upper / "e"))
    changes = lamella.changes_from_upper(upper, [lower])
    assert [(c.kind, c.path) for c in changes] == [(DELETE, b"e")]
    assert ["socket" in note for note in changes.warnings] == [True]


@pytest.mark.parametrize("text", [b"/a/../b", b"..", b"a/b", b"/", b"//d"])
def test_a_redirect_that_leads_nowhere_is_refused(lower, upper, text):
    build(upper, Dir("n"))
    own(upper / "n", redirect=text)
    with pytest.raises(UnsafePathError) as info:
        found(upper, lower)
    assert info.value.entry == b"n"
    with pytest.raises(UnsafePathError):
        found(build(upper.parent / "top", Dir("n"), File("n/f")), upper, lower)


def test_a_redirect_to_what_is_not_there_shows_nothing(lower, upper):
    build(upper, Dir("n"), File("n/f", b"f"))
    own(upper / "n", redirect=b"/missing")
    assert found(upper, lower) == [(ADD, b"n"), (ADD, b"n/f")]


def test_content_that_no_parent_has_is_an_error(lower, upper, scratch):
    build(upper, File("m", b""))
    os.truncate(upper / "m", 5)
    own(upper / "m", metacopy=b"")
    assert found(upper, lower) == [(ADD, b"m")]
    for parents in ((), (lower,)):
        with pytest.raises(ConflictError) as info:
            lamella.diff_from_upper(upper, scratch / "out", parents)
        assert info.value.path == b"m"
        assert not (scratch / "out").exists()


def test_the_content_of_a_redirected_file_is_found_through_all_parents(lower, upper, scratch):
    build(upper, File("m", b""))
    os.truncate(upper / "m", 1)
    own(upper / "m", metacopy=b"", redirect=b"/n")
    middle = build(scratch / "middle", File("n"))
    os.truncate(middle / "n", 1)
    own(middle / "n", metacopy=b"", redirect=b"/d/x")
    out = io.BytesIO()
    lamella.diff_from_upper(upper, out, [middle, lower], compression="none")
    root = build(scratch / "root")
    lamella.apply(out.getvalue(), root, rootless=os.geteuid() != 0)
    assert (root / "m").read_bytes() == b"x"


def test_077_holes_are_kept_wherever_the_content_is(lower, scratch):
    (lower / "holes").mkdir()
    for name, pieces in {"front": [1 << 20], "mid": [0, 1 << 20], "none": [0], "all": [], "end": [0, 1 << 16]}.items():
        with open(lower / "holes" / name, "wb") as file:
            file.truncate(9 if name == "none" else 3 << 20)
            for at in pieces:
                file.seek(at)
                file.write(b"data" * 2 + b"!")
    os.setxattr(lower / "holes" / "mid", "user.k", b"v")
    os.link(lower / "holes" / "mid", lower / "holes" / "mid2")
    upper, merged = build(scratch / "upper", Dir("moved")), scratch / "merged"
    own(upper / "moved", redirect=b"/holes")
    whiteout(upper / "holes")
    subprocess.run(["cp", "-a", "--sparse=always", lower, merged], check=True)
    os.rename(merged / "holes", merged / "moved")
    for path in ("", "moved"):
        os.utime(upper / path, ns=(0, (merged / path).stat().st_mtime_ns))
        os.chmod(upper / path, (merged / path).stat().st_mode & 0o7777)
    for sparse in (None, "pax"):
        ours, theirs = io.BytesIO(), io.BytesIO()
        lamella.diff_from_upper(upper, ours, [lower], compression="none", sparse=sparse)
        lamella.diff(lower, merged, theirs, compression="none", sparse=sparse)
        assert ours.getvalue() == theirs.getvalue()


def test_a_name_like_a_whiteout_is_refused(lower, upper):
    build(upper, File(".wh.x"))
    with pytest.raises(WhiteoutError):
        layer(upper, lower)


# -- without parents ----------------------------------------------------------------------------------------------------


def test_without_parents_everything_is_new_and_whiteouts_delete_what_nobody_knows(upper):
    build(upper, Dir("d"), File("d/f", b"f"))
    whiteout(upper / "gone")
    whiteout(upper / "d" / "x")
    changes = list(lamella.changes_from_upper(upper))
    assert [(c.kind, c.path) for c in changes] == [
        (ADD, b""), (ADD, b"d"), (ADD, b"d/f"), (DELETE, b"d/x"), (DELETE, b"gone"),
    ]  # fmt: skip
    assert [c.before for c in changes] == [None] * 5
    assert list(layer(upper).paths) == [b"", b".wh.gone", b"d", b"d/.wh.x", b"d/f"]


def test_without_parents_an_opaque_directory_stays_one(upper):
    build(upper, Dir("d"), File("d/f", b"f"))
    own(upper / "d", opaque=b"y")
    assert list(layer(upper).paths) == [b"", b"d", b"d/.wh..wh..opq", b"d/f"]


def test_without_parents_a_renamed_directory_is_a_conflict(upper):
    build(upper, Dir("n"))
    own(upper / "n", redirect=b"/d")
    with pytest.raises(ConflictError) as info:
        found(upper)
    assert info.value.path == b"n"


# -- AUFS ---------------------------------------------------------------------------------------------------------------


def test_017_an_aufs_branch_is_its_names_without_its_metadata(lower, upper):
    build(
        upper, Dir("d"), File("d/.wh.x"), File(".wh.e"), File(".wh.nothing"), File("new", b"n"), Dir(".wh..wh.plnk"),
        Hardlink(".wh..wh.plnk/1.2", "new"), Dir(".wh..wh.orph"), File(".wh..wh.orph/o"), File(".wh..wh.aufs"),
    )  # fmt: skip
    assert found(upper, lower, dialect="aufs") == [(DELETE, b"d/x"), (DELETE, b"e"), (ADD, b"new")]
    top = build(upper.parent / "top", File("e", b"again"), Dir("d"), File("d/.wh..wh..opq"), Dir("d/sub"))
    assert found(top, upper, lower, dialect="aufs") == [(DELETE, b"d/sub/y"), (ADD, b"e")]
    assert found(top, lower, upper, dialect="aufs") == [(DELETE, b"d/sub/y"), (DELETE, b"d/x"), (MODIFY, b"e")]


def test_002_an_entry_beside_its_whiteout_in_a_branch_is_shown(lower, upper):
    build(upper, Dir("d"), File(".wh.d"), File("d/n", b"n"), File("e", b"other"), File(".wh.e"))
    wanted = [(DELETE, b"d/sub"), (DELETE, b"d/x"), (ADD, b"d/n"), (MODIFY, b"e")]
    assert sorted(found(upper, lower, dialect="aufs"), key=str) == sorted(wanted, key=str)
    top = build(upper.parent / "top", Dir("d"), Dir("d/sub"), File("d/n", b"n"))
    assert found(top, upper, lower, dialect="aufs") == [(ADD, b"d/sub")]


def test_006_a_branch_with_a_whiteout_of_nothing_is_refused(lower, upper):
    build(upper, File(".wh."))
    with pytest.raises(WhiteoutError):
        found(upper, lower, dialect="aufs")


def test_016_an_opaque_root_of_a_branch_hides_all(lower, upper):
    build(upper, File(".wh..wh..opq"), Dir("d"))
    assert found(upper, lower, dialect="aufs") == [(DELETE, b"d/sub"), (DELETE, b"d/x"), (DELETE, b"e")]
    assert found(build(upper.parent / "top", File("e")), upper, lower, dialect="aufs") == [(ADD, b"e")]


# -- errors and options ---------------------------------------------------------------------------------------------------


def test_wrong_words_are_refused(lower, upper):
    with pytest.raises(ValueError, match="dialect"):
        found(upper, lower, dialect="plain")
    with pytest.raises(ValueError, match="xattrs"):
        found(upper, lower, xattrs="some")


def test_a_directory_that_is_not_there_is_named(lower, upper, scratch):
    with pytest.raises(FileNotFoundError) as info:
        found(upper, lower, scratch / "none")
    assert info.value.filename == str(scratch / "none")


def closed(folder: Path, where: str) -> tuple[str, str]:
    """Read where a directory is closed, as an ordinary user; return the error's path and the one meant."""
    build(folder / "lower", Dir("d"), Dir("d/sub"), File("d/sub/f"))
    build(folder / "upper", Dir("d"), Dir("d/sub"), File("d/sub/f", b"1"))
    at = folder / where / "d" / "sub"
    at.chmod(0)
    try:
        lamella.changes_from_upper(folder / "upper", [folder / "lower"])
    except PermissionError as error:
        return os.fsdecode(error.filename), str(at)
    finally:
        at.chmod(0o700)
    raise AssertionError("it was read")


@pytest.mark.parametrize("where", ["lower", "upper"])
def test_an_error_has_its_whole_path(nobody_box, where):
    said, meant = nobody_box.call(closed, where)
    assert said in {meant, f"{meant}/f"}


def test_without_attributes_none_count(lower, upper):
    build(upper, File("e", b"e"), Dir("d"))
    own(upper / "d", opaque=b"y")
    assert found(upper, lower, xattrs="none") == [(DELETE, b"d/sub"), (DELETE, b"d/x")]


def test_a_kernel_without_listxattrat_gives_the_same(lower, upper, scratch, monkeypatch):
    build(upper, Dir("n"), File("e", b"e", xattrs={"user.k": b"w"}), Symlink("d", "n"))
    own(upper / "n", redirect=b"/d")
    wanted = [(c.kind, c.path, c.why) for c in lamella.changes_from_upper(upper, [lower])]
    assert [path for _, path, _ in wanted] == [b"d", b"e", b"n", b"n/sub", b"n/sub/y", b"n/x"]
    monkeypatch.setattr(walk, "has_xattrat", lambda: False)
    here = os.getcwd()
    assert [(c.kind, c.path, c.why) for c in lamella.changes_from_upper(upper, [lower])] == wanted
    assert os.getcwd() == here
    with pytest.raises(UnsafePathError):  # out of its thread
        found(upper, own_text(scratch / "m", b".."), lower)


def own_text(path: Path, text: bytes) -> Path:
    own(build(path, Dir("n")) / "n", redirect=text)
    return path


def test_it_is_written_after_the_process_went_elsewhere(lower, upper, scratch, monkeypatch):
    build(upper, File("f", b"content"), Symlink("l", "f"))
    monkeypatch.chdir(scratch)
    changes = lamella.changes_from_upper("upper", ["lower"])
    monkeypatch.chdir("/")
    out = io.BytesIO()
    changes.write(out, compression="none")
    lamella.apply(out.getvalue(), lower, rootless=os.geteuid() != 0)
    assert compare(lower, lower) == []
    assert (lower / "f").read_bytes() == b"content"
