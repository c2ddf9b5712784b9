"""Paths looked up in one branch: the same rows as a walk gives, in any memory; and what overlay's attributes say."""

from __future__ import annotations

import os
import stat
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella._kernels import changes, lookup, walk
from lamella.columns import ARENA, AT, COLUMNS
from lamella.layer.own import lower_path, read_own
from lamella.layer.pathtable import concatenated, named, path_table
from lamella.table import EntryTable
from lamella.testing import strategies
from lamella.testing.trees import Dir, File, Socket, Symlink, build
from lamella.tree.scan import scan
from tests.kernels.guarded import guarded, guarded_bytes, guarded_columns
from tests.kernels.walking import ROAD_AT, ROAD_CWD, empty_columns, opened

AT_END, OUTPUT_FULL = 3, 2
NOT_OURS = {"link_group", "data_off", "arena", "name_off", "ext_off"}


class Lookup:
    """One call's arrays, of any size; ``fit`` makes each."""

    def __init__(self, paths: EntryTable, *, arena: int = 1 << 16, scratch: int = 1 << 14, fit: Any = np.array) -> None:
        n = len(paths)
        parents = np.empty(n, np.int32)
        changes.parents(paths.columns, parents)
        self.names = tuple(None if c is None else fit(np.asarray(c)) for c in paths.columns)
        self.order, self.parents = fit(np.argsort(parents, kind="stable").astype(np.int64)), fit(parents)
        self.want, self.facts, self.verdict = fit(np.ones(n, np.uint8)), fit(np.zeros(n, np.uint8)), fit(np.zeros(n, np.uint8))
        self.nlink, self.state = fit(np.zeros(n, np.uint32)), np.zeros(lookup.N_STATE, np.int64)
        self.columns: tuple[Any, ...] = tuple(None if c is None else fit(c) for c in empty_columns(n, arena))
        self.scratch, self.fit, self.n_full = fit(np.zeros(scratch, np.uint8)), fit, 0

    def step(self, fd: int, options: int = ROAD_AT) -> int:
        return lookup.follow(
            fd, self.names, self.order, self.parents, self.want, self.columns, self.verdict, self.facts, self.nlink,
            self.state, self.scratch, options,
        )  # fmt: skip

    def run(self, fd: int, options: int = ROAD_AT) -> EntryTable:
        while self.step(fd, options) == OUTPUT_FULL:
            self.n_full += 1
            need_arena, need_scratch = int(self.state[2]), int(self.state[3])
            assert need_arena > 0 or need_scratch > len(self.scratch)
            columns = list(self.columns)
            used = int(self.state[1])
            columns[ARENA] = self.fit(np.concatenate([columns[ARENA][:used], np.zeros(need_arena, np.uint8)]))
            self.columns = tuple(columns)
            self.scratch = self.fit(np.zeros(-(-max(need_scratch, len(self.scratch)) // 8) * 8, np.uint8))
        columns = [c if c is None or i == ARENA else np.array(c) for i, c in enumerate(self.columns)]
        columns[AT["link_group"]][self.verdict != lookup.FOUND_ROW] = -1
        return EntryTable(tuple(columns), "path")


def same(a: EntryTable, b: EntryTable) -> None:
    assert list(a.paths) == list(b.paths)
    assert list(a.link_targets) == list(b.link_targets)
    assert [a.xattrs(i) for i in range(len(a))] == [b.xattrs(i) for i in range(len(b))]
    for name, _ in COLUMNS:
        if name not in NOT_OURS:
            assert np.array_equal(a.columns[AT[name]], b.columns[AT[name]]), name


@pytest.mark.parametrize("options", [ROAD_AT, ROAD_CWD, ROAD_AT | lookup.OPTION_BY_PARTS])
@given(tree=strategies.trees())
def test_all_paths_of_a_tree_give_the_rows_of_its_walk(home: Path, options: int, tree: Any) -> None:
    if options & ROAD_AT and not walk.has_xattrat():
        pytest.skip("this kernel has no listxattrat")
    from tests.laws.ground import fresh, laid

    def run() -> None:
        if options & ROAD_CWD:
            walk.own_cwd()
        with fresh(home) as folder, opened(laid(folder / "t", tree)) as fd:
            table = scan(folder / "t")
            same(Lookup(table).run(fd, options), table)

    with ThreadPoolExecutor(1) as pool:  # a thread of its own: it moves its working directory
        pool.submit(run).result()


def test_memory_of_any_size_gives_the_same(scratch: Path) -> None:
    xattrs = {f"user.{i}": b"v" * 300 for i in range(8)}
    root = build(scratch / "t", Dir("d"), File("d/f", b"1", xattrs=xattrs), Symlink("d/l", "x" * 900), File("e", xattrs=xattrs))
    table = scan(root)
    with opened(root) as fd:
        for arena, space in ((1, 8), (1, 1 << 14), (5000, 304), (1 << 16, 1 << 14)):
            asked = Lookup(table, arena=arena, scratch=space, fit=guarded)
            same(asked.run(fd), table)
            assert (asked.n_full > 0) == (arena < 1 << 16)


def test_what_is_not_there_or_not_wanted_has_no_row(scratch: Path) -> None:
    root = build(scratch / "t", Dir("d"), File("d/f"), Symlink("l", "d"), Socket("s"), File("file"))
    os.mknod(root / "w", stat.S_IFCHR, 0)
    paths = path_table([b"d/f", b"d/none", b"l/f", b"file/x", b"s", b"w", b"none/x", b"x" * 300, b"d/" + b"y" * 300])
    asked = Lookup(paths)
    asked.want[paths.find(b"d/f")] = 0
    with opened(root) as fd:
        asked.run(fd)
    verdicts = dict(zip(paths.paths, asked.verdict.tolist(), strict=True))
    assert [p for p, v in verdicts.items() if v == lookup.FOUND_ROW] == [b"", b"d", b"file", b"l"]
    assert (verdicts[b"s"], verdicts[b"w"]) == (lookup.SOCKET_ROW, lookup.WHITEOUT_ROW)
    assert verdicts[b"d/f"] == 0
    assert verdicts[b"d/none"] == verdicts[b"l/f"] == verdicts[b"file/x"] == verdicts[b"x" * 300] == 1


def test_where_nothing_is_a_whiteout_all_but_sockets_has_a_row(scratch: Path) -> None:
    root = build(scratch / "t", Dir("d"), File("d/.wh.f"), File("d/f"), Socket("s"))
    os.mknod(root / "w", stat.S_IFCHR, 0)
    table = scan(root)
    with opened(root) as fd:
        same(Lookup(table).run(fd, ROAD_AT | lookup.OPTION_PLAIN if walk.has_xattrat() else lookup.OPTION_PLAIN), table)
    assert table.find(b"w") > 0


@pytest.mark.parametrize("path", [b"..", b"d/..", b"d/../x", b".", b"d/.", b"a\0b"])
def test_nothing_outside_the_root_is_asked(scratch: Path, path: bytes) -> None:
    build(scratch / "x")
    root = build(scratch / "t", Dir("d"))
    with opened(root) as fd, pytest.raises(OSError, match=r"Invalid|cross-device"):
        Lookup(named([b"", b"d", path] if path.startswith(b"d") else [b"", path])).run(fd)


def test_arrays_of_other_lengths_are_refused(scratch: Path) -> None:
    root = build(scratch / "t", File("f"))
    for name in ("parents", "want", "verdict", "facts", "nlink"):
        asked = Lookup(scan(root))
        setattr(asked, name, getattr(asked, name)[:-1])
        with opened(root) as fd, pytest.raises(ValueError, match="length"):
            asked.run(fd)
    asked = Lookup(scan(root))
    asked.state = asked.state[:-1]
    with opened(root) as fd, pytest.raises(ValueError, match="state"):
        asked.run(fd)


@pytest.mark.parametrize("change", ["order", "parents", "name_off", "next", "arena"])
def test_numbers_that_lie_are_refused(scratch: Path, change: str) -> None:
    root = build(scratch / "t", Dir("d"), File("d/f"))
    asked = Lookup(scan(root), fit=guarded)
    if change == "name_off":
        asked.names[AT["name_off"]][:] = 1 << 40
    elif change in {"next", "arena"}:
        asked.state[{"next": 0, "arena": 1}[change]] = -1
    else:
        getattr(asked, change)[:] = 1 << 20
    with opened(root) as fd, pytest.raises(OSError, match="Invalid"):
        asked.run(fd)


# -- overlay's own attributes ---------------------------------------------------------------------------------------------

KEYS = st.sampled_from([
    b"user.a", b"trusted.overlay.opaque", b"trusted.overlay.redirect", b"trusted.overlay.metacopy", b"user.overlay.whiteout",
    b"user.overlay.opaque", b"trusted.overlay.overlay.opaque", b"user.overlay.overlay.overlay.x", b"trusted.overlay.origin",
    b"trusted.overlay.", b"trusted.overlay.overlay.", b"trusted.overlayx", b"user.overlay.redirect",
])  # fmt: skip
RUNS = st.lists(st.dictionaries(KEYS, st.sampled_from([b"y", b"x", b"", b"/to", b"n"]), max_size=5), min_size=1, max_size=6)


def table_of(runs: list[dict[bytes, bytes]]) -> EntryTable:
    table = named(b"%03d" % i for i in range(len(runs)))
    columns = list(table.columns)
    text, at = [], len(columns[ARENA])
    for row, run in enumerate(runs):
        data = b"".join(struct.pack("<BHI", 1, len(k), len(v)) + k + v for k, v in sorted(run.items()))
        columns[AT["ext_off"]][row], columns[AT["ext_len"]][row] = at, len(data)
        text.append(data)
        at += len(data)
    columns[ARENA] = np.concatenate([columns[ARENA], np.frombuffer(b"".join(text), np.uint8)])
    return EntryTable(guarded_columns(tuple(columns)), "path")


def expected(run: dict[bytes, bytes], prefixes: list[bytes]) -> tuple[dict[bytes, bytes], set[str]]:
    """Say in Python what is left of a run and what it means."""
    left, facts = {}, set()
    for key, value in run.items():
        prefix = next((p for p in prefixes if key.startswith(p)), None)
        name = key[len(prefix) :] if prefix else b""
        if prefix is None:
            left[key] = value
        elif name.startswith(b"overlay.") and name != b"overlay.":
            left[prefix + name[8:]] = value
        elif name == b"opaque" and value in {b"y", b"x"}:
            facts.add("opaque" if value == b"y" else "xwhiteouts")
        elif name in {b"metacopy", b"whiteout"} or (name == b"redirect" and value):
            facts.add(name.decode())
    return left, facts


BITS = {
    "whiteout": lookup.FACT_HIDING, "opaque": lookup.FACT_OPAQUE, "xwhiteouts": lookup.FACT_XWHITEOUTS,
    "metacopy": lookup.FACT_METACOPY, "redirect": lookup.FACT_REDIRECT,
}  # fmt: skip


@pytest.mark.parametrize("dialect", ["overlay", "overlay:trusted", "overlay:user"])
@given(runs=RUNS)
def test_027_own_attributes_are_read_and_taken_out_and_nested_ones_unescaped(dialect: Any, runs: list[Any]) -> None:
    spaces = [dialect.partition(":")[2]] if ":" in dialect else ["trusted", "user"]
    table = table_of(runs)
    own = read_own(table.columns, dialect)
    after = EntryTable(own.columns, "path")
    for row, run in enumerate(runs):
        left, facts = expected(run, [f"{space}.overlay.".encode() for space in spaces])
        assert after.xattrs(row) == left
        assert list(after.xattrs(row)) == sorted(left)
        assert own.facts[row] == sum(BITS[fact] for fact in facts)
        assert (row in own.texts) == ("redirect" in facts)


def test_a_malformed_run_or_short_memory_is_refused() -> None:
    for length in (1, 8, 29):
        table = table_of([{b"trusted.overlay.opaque": b"y"}])
        table.columns[AT["ext_len"]][0] = length
        with pytest.raises(ValueError, match="malformed|arena|short"):
            read_own(table.columns, "overlay")
    table = table_of([{b"user.a": b"1"}])
    arrays = [np.zeros(1, kind) for kind in ("u1", "i8", "u2", "i8", "u4")]
    with pytest.raises(ValueError, match="short"):
        lookup.own(table.columns, 3, *arrays, guarded_bytes(3))
    with pytest.raises(ValueError, match="differ"):
        lookup.own(table.columns, 3, arrays[0], np.zeros(2, np.int64), *arrays[2:], guarded_bytes(30))


@pytest.mark.parametrize("text", [b"/", b"", b"/a//b", b"a/b", b".", b"..", b"/../a", b"a\0"])
def test_a_redirect_stays_below_the_root(text: bytes) -> None:
    from lamella.errors import UnsafePathError

    with pytest.raises(UnsafePathError):
        lower_path(b"x", text, b"p")


def test_a_redirect_goes_from_the_root_or_beside() -> None:
    assert lower_path(b"p/x", b"/a/b", b"q") == b"a/b"
    assert lower_path(b"p/x", b"n", b"q") == b"q/n"
    assert lower_path(b"x", b"n", b"") == b"n"


def test_tables_are_joined_in_path_order() -> None:
    table, order = concatenated([named([b"", b"b", b"b-x"]), named([b"a", b"b/c"])])
    assert list(table.paths) == [b"", b"a", b"b", b"b/c", b"b-x"]
    assert order.tolist() == [0, 3, 1, 4, 2]
    assert list(path_table([b"b/c/d", b"a"]).paths) == [b"", b"a", b"b", b"b/c", b"b/c/d"]
