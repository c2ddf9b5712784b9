"""lamella.changes, lamella.diff and the Changeset between them."""

from __future__ import annotations

import io
import os
import shutil
import tarfile

import numpy as np
import pytest

import lamella
from lamella.errors import LimitExceededError, WhiteoutError
from lamella.layer import changeset
from lamella.layer.emission import joined
from lamella.layer.treetable import as_tree
from lamella.model import ChangeKind, Why
from lamella.testing.trees import Chmod, Dir, File, Hardlink, Remove, Script, Symlink, Utime, Write, build
from tests.contract.workbench import diff, diffed
from tests.kernels.packing import open_fds
from tests.reference.rows import table_of

LOWER = (
    Dir("a"), File("a/x", content=b"1"), File("a/y", content=b"2"), Dir("b"), Dir("b/c"), File("b/c/d"), File("e"),
    Hardlink("h", "e"), Dir("s"), File("s/1"), File("s/2"), Symlink("l"), Dir("keep"), File("keep/me"),
)  # fmt: skip


@pytest.fixture
def two(scratch):
    """Give a function that builds a lower tree and an upper one that was edited."""

    def make(*edits):
        lower = build(scratch / "lower", *LOWER)
        upper = build(scratch / "upper", *LOWER)
        Script(edits).apply(upper)
        return lower, upper

    return make


def told(changes):
    return [(c.kind.value, c.path, c.why) for c in changes]


def test_a_changeset_is_a_row_of_changes(two):
    lower, upper = two(Remove("b"), File("a/new"), Chmod("e", 0o600), Remove("s"), File("s"))
    changes = lamella.changes(lower, upper)
    assert told(changes) == [
        ("add", b"a/new", Why(0)),
        ("delete", b"b", Why(0)),
        ("modify", b"e", Why.MODE),
        ("modify", b"h", Why.MODE),
        ("modify", b"s", Why.TYPE),
    ]
    assert len(changes) == 5
    added, deleted, changed = list(changes)[:3]
    assert (added.before, added.after.path) == (None, b"a/new")
    assert (deleted.before.path, deleted.after) == (b"b", None)
    assert (changed.before.mode, changed.after.mode) == (0o644, 0o600)
    assert changed.kind is ChangeKind.MODIFY
    with pytest.raises(AttributeError):
        changed.path = b"x"
    assert list(changes.lower.paths) == list(lamella.scan(lower).paths)
    assert list(changes.upper.paths) == list(lamella.scan(upper).paths)


def test_rows_come_with_their_directories_whiteouts_first(two):
    lower, upper = two(Remove("b/c/d"), Remove("a/x"), File("a/!"), Remove("l"), File("keep/+"))
    table = lamella.changes(lower, upper).table()
    assert list(table.paths) == [b".wh.l", b"a", b"a/.wh.x", b"a/!", b"b", b"b/c", b"b/c/.wh.d", b"keep", b"keep/+"]
    assert table.order == "archive"
    for path in (b".wh.l", b"a/.wh.x"):
        entry = table[table.find(path)]
        assert (entry.type, entry.size, entry.mode, entry.uid, entry.gid, entry.mtime_ns) == (
            lamella.EntryType.FILE, 0, 0, 0, 0, 0,
        )  # fmt: skip


def test_an_opaque_marker_stands_only_where_nothing_lower_is_left(two):
    lower, upper = two(
        Remove("b/c/d"), Remove("a/x"), Remove("s/1"), Remove("s/2"), File("s/3"), Remove("keep/me"), Dir("keep/me")
    )
    table = lamella.changes(lower, upper).table("opaque")
    assert list(table.paths) == [
        b"a", b"a/.wh.x", b"b", b"b/c", b"b/c/.wh..wh..opq", b"keep", b"keep/me", b"s", b"s/.wh..wh..opq", b"s/3",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="whiteouts"):
        lamella.changes(lower, upper).table("implicit")


def test_016_an_emptied_root_may_be_opaque(scratch):
    lower, upper = build(scratch / "l", *LOWER), build(scratch / "u", File("new"))
    assert list(lamella.changes(lower, upper).table("opaque").paths) == [b".wh..wh..opq", b"new"]
    assert list(lamella.changes(lower, None).table("opaque").paths) == [
        b".wh.a", b".wh.b", b".wh.e", b".wh.h", b".wh.keep", b".wh.l", b".wh.s",
    ]  # fmt: skip


def test_008_names_that_are_markers(two):
    lower, upper = two(File("a/.wh.x"))
    with pytest.raises(WhiteoutError) as caught:
        lamella.changes(lower, upper).table()
    assert caught.value.entry == b"a/.wh.x"
    with pytest.raises(WhiteoutError) as caught:
        lamella.changes(upper, lower).table()  # its whiteout would be another's
    assert caught.value.entry == b"a/.wh.x"
    assert len(lamella.changes(upper, upper).table()) == 0


def test_a_marker_inside_a_name_is_none(two):
    lower, upper = two(File("a/x.wh.y"), File("a/.w"), Dir("d.wh."), File("d.wh./.w"))
    assert len(lamella.changes(lower, upper).table()) == 5


def test_a_whiteout_too_long_for_a_table():
    upper = table_of([{"path": b"d", "type": "5"}], origin="tree", order="path")
    with pytest.raises(LimitExceededError):
        joined(upper, np.zeros(1, np.int64), [(0, b"x" * 65_536)])


def test_links_stay_sets_in_the_layer(two):
    lower, upper = two(Hardlink("a/z", "e"))
    table = lamella.changes(lower, upper).table()
    assert list(table.paths) == [b"a", b"a/z", b"e", b"h"]
    assert table.link_group.tolist() == [-1, 1, 1, 1]
    members = diffed(lower, upper)
    assert [m.type for m in members.values()] == [tarfile.DIRTYPE, tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.LNKTYPE]


def test_a_name_that_leaves_its_set_is_a_change_and_the_first_one_keeps_the_inode(two):
    lower, upper = two(Remove("h"), File("h"))
    shutil.copystat(lower / "h", upper / "h")
    os.utime(upper / "h", ns=(0, os.lstat(lower / "h").st_mtime_ns))
    assert told(lamella.changes(lower, upper)) == [("modify", b"h", Why.LINKS)]
    assert told(lamella.changes(upper, lower)) == [("modify", b"e", Why.LINKS), ("modify", b"h", Why.LINKS)]


def test_content_is_compared_where_asked(two):
    when = 10**9 + 5
    lower, upper = two()
    for root in (lower, upper):
        for path in ("a/x", "a/y"):
            Utime(path, when).apply(root)
    (upper / "a/x").write_bytes(b"!")
    Utime("a/x", when).apply(upper)
    assert told(lamella.changes(lower, upper)) == []
    assert told(lamella.changes(lower, upper, content="never")) == []
    assert told(lamella.changes(lower, upper, content="always")) == [("modify", b"a/x", Why.CONTENT)]
    with pytest.raises(ValueError, match="content"):
        lamella.changes(lower, upper, content="some")


def test_many_files_are_compared_on_both_threads(scratch):
    files = [File(f"{i:04}", content=b"%4d" % i * (i % 5)) for i in range(600)]
    lower, upper = build(scratch / "l", *files), build(scratch / "u", *files)
    odd = [f"{i:04}" for i in range(3, 600, 37)]
    for name in odd:
        when = os.lstat(upper / name).st_mtime_ns
        (upper / name).write_bytes(b"x" * os.lstat(upper / name).st_size)
        os.utime(upper / name, ns=(when, when))
    changes = lamella.changes(lower, upper)
    wanted = [n for n in odd if (upper / n).stat().st_size and (lower / n).read_bytes() != (upper / n).read_bytes()]
    assert told(changes) == [("modify", os.fsencode(n), Why.CONTENT) for n in wanted]


def test_101_a_file_that_cannot_be_compared_is_a_change(two, monkeypatch):
    lower, upper = two()
    merge = lamella.layer.diff.merged

    def and_lose(*args):
        (upper / "a/x").unlink()
        return merge(*args)

    monkeypatch.setattr(lamella.layer.diff, "merged", and_lose)
    changes = lamella.changes(lower, upper)
    assert told(changes) == [("modify", b"a/x", Why.CONTENT)]
    info = changes.write(io.BytesIO())
    assert len(info.warnings) == 1
    assert "a/x" in info.warnings[0]


def test_tables_stand_for_trees(two):
    lower, upper = two(File("a/new", content=b"1"), Remove("e"))
    tables = lamella.scan(lower), lamella.scan(upper)
    wanted = told(lamella.changes(lower, upper, content="never"))
    assert told(lamella.changes(*tables, content="never")) == wanted
    assert told(lamella.changes(lower, tables[1], content="never")) == wanted
    with pytest.raises(ValueError, match="content"):
        lamella.changes(*tables)


def test_a_table_is_written_with_a_payload_or_where_there_is_no_content(two):
    lower, upper = two(File("a/new", content=b"12"), Remove("l"))
    whole = io.BytesIO()
    info = lamella.diff(lower, upper, whole, compression="none", content="never")
    changes = lamella.changes(lamella.scan(lower), lamella.scan(upper), content="never")
    table = changes.table()
    for payload in (upper, lambda row: b"12" if table.path(row) == b"a/new" else b""):
        out = io.BytesIO()
        assert changes.write(out, compression="none", payload=payload).diff_id == info.diff_id
        assert out.getvalue() == whole.getvalue()
    with pytest.raises(ValueError, match="payload"):
        changes.write(io.BytesIO())
    only_deletes = lamella.changes(lamella.scan(lower), None)
    assert only_deletes.write(io.BytesIO()).entries == 7


def test_a_layer_is_a_table_of_the_tree_it_makes(two):
    lower, upper = two(Hardlink("b/l", "l"), Hardlink("a/z", "b/l"))
    layer = io.BytesIO()
    lamella.diff(None, upper, layer)
    with lamella.read_layer(layer.getvalue()) as reader:
        table = reader.table()
    assert told(lamella.changes(table, upper, content="never", dir_mtime=True)) == []
    wanted = told(lamella.changes(lower, upper, content="never"))
    assert told(lamella.changes(lower, table, content="never")) == wanted
    assert told(lamella.changes(table, lower, content="never")) == told(lamella.changes(upper, lower, content="never"))


def test_links_of_a_layer_to_what_it_has_not_stay_links():
    rows = [
        {"path": b"a", "type": "1", "link_target": b"gone"}, {"path": b"b", "type": "1", "link_target": b"c"},
        {"path": b"c", "type": "1", "link_target": b"b"}, {"path": b"d", "type": "5"},
        {"path": b"e", "type": "1", "link_target": b"d"}, {"path": b"f", "type": "1", "link_target": b"f"},
    ]  # fmt: skip
    table = as_tree(table_of(rows))
    assert bytes(table.type) == b"111511"
    assert (table.link_group == -1).all()


def test_a_changeset_is_written_wherever_the_process_has_gone(two, monkeypatch):
    _, upper = two(File("a/new", content=b"12"))
    monkeypatch.chdir(upper.parent)
    changes = lamella.changes("lower", "upper")
    monkeypatch.chdir("/")
    assert changes.write(io.BytesIO()).entries == 2


def test_077_holes_of_what_is_not_in_the_layer_are_no_matter(two):
    lower, upper = two()
    for root in (lower, upper):
        (root / "keep/log").touch()
        os.truncate(root / "keep/log", 3 << 30)
        Utime("keep/log", 10**18 + 1).apply(root)
        Utime("keep", 10**18).apply(root)
    info, data = diff(lower, upper)
    assert (info.warnings, data) == ((), bytes(1024))


def test_wrong_paths_are_errors_and_nothing_stays_open(two):
    lower, upper = two()
    before = open_fds()
    for pair in ((lower, upper / "none"), (lower / "none", upper), (lower, upper / "e")):
        with pytest.raises(OSError, match=r"none|/e") as caught:
            lamella.changes(*pair)
        assert str(caught.value.filename).startswith(str(upper.parent))
    assert open_fds() == before


def test_the_same_trees_give_the_same_bytes(two):
    lower, upper = two(Write("a/x", b"!"), Remove("b"), Hardlink("a/z", "e"))
    copy = upper.parent / "copy"
    shutil.copytree(upper, copy, symlinks=True)
    first, second = diff(lower, upper), diff(lower, upper)
    assert first[1] == second[1]
    assert first[0].diff_id == second[0].diff_id


def test_an_empty_table_has_an_order():
    table = changeset.empty_table()
    assert (len(table), table.order) == (0, "path")
    assert told(lamella.changes(None, None)) == []


def test_the_names_of_one_file_are_read_once(two, monkeypatch):
    lower, upper = two(Hardlink("a/z", "e"), Write("e", b"!"))
    Write("e", b"?").apply(lower)
    asked = []
    same = lamella.layer.comparing.content_kernel.same

    def counting(low_fd, low, up_fd, up, rows_a, *rest):
        asked.extend(rows_a.tolist())
        return same(low_fd, low, up_fd, up, rows_a, *rest)

    monkeypatch.setattr(lamella.layer.comparing.content_kernel, "same", counting)
    changes = lamella.changes(lower, upper, content="always")
    assert [(c.path, c.why & Why.CONTENT) for c in changes if c.kind is ChangeKind.MODIFY] == [
        (b"e", Why.CONTENT), (b"h", Why.CONTENT),
    ]  # fmt: skip
    paths = [changes.lower.path(row) for row in asked]
    assert sorted(paths) == [b"a/x", b"a/y", b"e"]
