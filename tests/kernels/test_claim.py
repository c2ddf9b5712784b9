"""claim judges rows from the top layer down: what is seen, what has to be asked, from any cuts and any memory.

What the verdicts come to in a file system is law L11 (tests/laws/test_l11_stacks.py).
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella._kernels import claim
from lamella.columns import AT, F_DOTDOT, F_EXISTED, F_IMPLIED, F_SKIP
from tests.kernels.guarded import guarded, guarded_front
from tests.reference.rows import table_of

SEED = 11
FIT: Callable[[Any], Any] = np.array
Row = dict[str, Any]


def f(path: str, **fields: Any) -> Row:
    return {"path": path, "type": "0", **fields}


def d(path: str) -> Row:
    return {"path": path, "type": "5"}


def s(path: str) -> Row:
    return {"path": path, "type": "2", "link_target": "elsewhere"}


def h(path: str, target: str) -> Row:
    return {"path": path, "type": "1", "link_target": target}


class Judge:
    """The rows of a stack in one table, the top layer first, judged layer by layer."""

    def __init__(self, layers: Sequence[Sequence[Row]], *, fit: Callable[[Any], Any] = FIT, nodes: int = 64, names: int = 512) -> None:
        rows = [row for layer in layers for row in layer]
        self.fit, self.table = fit, table_of(rows)
        self.columns = tuple(None if c is None else fit(c) for c in self.table.columns)
        self.ends = np.cumsum([len(layer) for layer in layers]).tolist()
        self.state, self.nodes = fit(np.zeros(claim.STATE_NBYTES, np.uint8)), fit(np.zeros(nodes * claim.NODE_NBYTES, np.uint8))
        self.names, self.slots = fit(np.zeros(names, np.uint8)), fit(np.zeros(4, np.uint32))
        self.origin = fit(np.zeros(len(rows), np.int32))
        self.asked: list[tuple[bytes, int, int]] = []
        claim.open_claims(self.state, self.nodes)

    def call(self, begin: int, end: int, level: int) -> tuple[int, int, int]:
        return claim.claim(
            self.state, self.nodes, self.slots, SEED, self.names, self.columns, self.origin, begin, end, level
        )  # fmt: skip

    def grow(self) -> None:
        for name in ("nodes", "names"):
            array = getattr(self, name)
            setattr(self, name, self.fit(np.concatenate([array, np.zeros(claim.NODE_NBYTES, np.uint8)])))
        slots = self.fit(np.zeros(2 * len(self.slots), np.uint32))
        claim.refill(self.state, self.nodes, slots, SEED, self.names)
        self.slots = slots

    def run(self, cuts: Sequence[int] = ()) -> Judge:
        """Judge everything; a question that is none of the caller's repairs ends it."""
        begin = 0
        for i, end in enumerate(self.ends):
            level = len(self.ends) - 1 - i
            for upto in sorted({*(c for c in cuts if begin < c < end), end}):
                while True:
                    begin, why, source = self.call(begin, upto, level)
                    if why == claim.FULL:
                        self.grow()
                        continue
                    if not why:
                        break
                    self.asked.append((self.table.path(begin), why, source))
                    if why not in (claim.RELINK, claim.RESTORE):
                        return self
                    begin += 1
        return self

    @property
    def seen(self) -> list[bytes]:
        """Paths of the rows that are to be made, in order."""
        flags = self.columns[AT["flags"]]
        return [self.table.path(i) for i in range(len(self.table)) if not flags[i] & F_SKIP]

    @property
    def directories(self) -> list[tuple[bytes, int]]:
        """Path and row of what gives a directory its metadata."""
        out = np.zeros(len(self.table) + 1, np.int64)
        rows = out[: claim.directories(self.state, self.nodes, out)]
        return sorted((self.table.path(int(row)), int(row)) for row in rows)

    @property
    def missing(self) -> list[bytes]:
        return sorted(claim.missing(self.state, self.nodes, self.names))

    def outcome(self) -> tuple[Any, ...]:
        return self.seen, self.asked, self.directories, self.missing, claim.counts(self.state)


# -- what is seen ---------------------------------------------------------------------------------------------------

SEEN = {
    "nothing above": ([[d("a"), f("a/b")]], ["a", "a/b"]),
    "a file above": ([[f("a")], [f("a")]], ["a"]),
    "a file above a directory": ([[f("a")], [d("a"), f("a/b"), d("a/c")]], ["a"]),
    "a directory above a file": ([[d("a")], [f("a")]], ["a"]),
    "what a directory above a file hides": ([[d("a")], [f("a")], [d("a"), f("a/b")]], ["a"]),
    "directories merge": ([[d("a"), f("a/1")], [d("a"), f("a/2")]], ["a", "a/1", "a/2"]),
    "a whiteout": ([[f(".wh.a")], [d("a"), f("a/b")]], []),
    "a whiteout in a directory": ([[d("a"), f("a/.wh.b")], [d("a"), f("a/b"), f("a/c")]], ["a", "a/c"]),
    "a whiteout of its own layer": ([[f(".wh.a"), f("a")], [f("a")]], ["a"]),
    "a whiteout after it": ([[f("a"), f(".wh.a")], [f("a")]], ["a"]),
    "an opaque directory": ([[d("a"), f("a/.wh..wh..opq"), f("a/1")], [d("a"), f("a/2"), d("a/3")]], ["a", "a/1"]),
    "an opaque root": ([[f(".wh..wh..opq"), f("1")], [f("2"), d("3"), f("3/4")]], ["1"]),
    "a hidden layer hides": ([[f(".wh.a")], [d("a"), f("a/.wh.b")], [d("a"), f("a/b")]], []),
    "made anew": ([[d("a"), f("a/1")], [f(".wh.a")], [d("a"), f("a/2")]], ["a", "a/1"]),
    "links of a layer": ([[f("a"), h("b", "a"), h("c", "b")]], ["a", "b", "c"]),
    "a link that is hidden": ([[f("b")], [f("a"), h("b", "a")]], ["b", "a"]),
    "a link whose first name is hidden": ([[f("a")], [f("a"), h("b", "a")]], ["a"]),
    "implied": ([[f("a/b/c")], [d("a"), d("a/b")]], ["a/b/c"]),
    "all of it": ([[d("")], [d(""), f("a")]], ["a"]),
}


@pytest.mark.parametrize("case", SEEN)
def test_what_is_seen(case):
    layers, seen = SEEN[case]
    assert Judge(layers).run().seen == [path.encode() for path in seen]


def test_a_directory_takes_the_metadata_of_its_highest_entry():
    judge = Judge([[f("a/x")], [d("a"), d("b")], [d("a"), d("b"), d("c"), d("c")]]).run()
    assert judge.directories == [(b"a", 1), (b"b", 2), (b"c", 6)]
    flags = judge.columns[AT["flags"]]
    assert [bool(flags[i] & F_EXISTED) for i in range(1, 7)] == [True, False, True, True, False, True]


def test_a_hidden_entry_gives_no_metadata_and_is_not_there():
    judge = Judge([[f("a/x")], [f(".wh.a")], [d("a")]]).run()
    assert judge.directories == []
    assert judge.columns[AT["flags"]][2] & (F_SKIP | F_EXISTED) == F_SKIP


def test_a_directory_stays_when_all_that_implied_it_is_hidden():
    assert Judge([[f("a/b/.wh.c")], [f("a/b/c")]]).run().missing == [b"a", b"a/b"]
    assert Judge([[f(".wh.a")], [f("a/b/c")]]).run().missing == []
    assert Judge([[f("a/b/.wh.c")], [f("a/b/c")], [d("a"), d("a/b")]]).run().missing == []
    assert Judge([[f("a/.wh.b")]]).run().missing == []  # a marker makes nothing


def test_markers_are_counted():
    judge = Judge([[f(".wh.a"), f("b/.wh.c"), f("d/.wh..wh..opq"), f("e")]]).run()
    assert (claim.counts(judge.state), claim.counts(judge.state)) == ((2, 1), (0, 0))


def test_rows_of_the_engine_are_not_judged():
    judge = Judge([[{**d("a"), "flags": F_IMPLIED}, f("b")]]).run()
    assert judge.seen == [b"a", b"b"]


# -- what is asked --------------------------------------------------------------------------------------------------

ASKED = {
    "through": ([[f("a/b")], [s("a")]], b"a", claim.THROUGH),
    "through a file": ([[f("a/b")], [f("a")]], b"a", claim.THROUGH),
    "a marker through": ([[f("a/.wh.b")], [s("a")]], b"a", claim.THROUGH),
    "a hidden entry through": ([[f(".wh.a")], [f("a/b")], [s("a")]], b"a", claim.THROUGH),
    "through before the entry": ([[f("a/b"), d("a")], [s("a")]], b"a", claim.THROUGH),
    "a link's target through": ([[d("b"), f("b/f"), h("c", "a/f")], [s("a")]], b"c", claim.LINK),
    "below its own layer": ([[f("a"), f("a/b")]], b"a/b", claim.BELOW),
    "below a link": ([[s("a"), f("a/.wh.b")]], b"a/.wh.b", claim.BELOW),
    "before its own layer": ([[f("a/b"), f("a")]], b"a", claim.THROUGH),
    "twice": ([[f("a"), f("a")]], b"a", claim.TWICE),
    "a directory, then a file": ([[d("a"), f("a")]], b"a", claim.TWICE),
    "a file, then a directory": ([[f("a"), d("a")]], b"a", claim.TWICE),
    "a link to a lower layer": ([[h("b", "a")], [f("a")]], b"b", claim.LINK),
    "a link to what comes later": ([[h("b", "a"), f("a")]], b"b", claim.LINK),
    "a link to itself": ([[h("a", "a")]], b"a", claim.LINK),
    "a link to a directory": ([[d("a"), h("b", "a")]], b"b", claim.LINK),
    "a link to nothing": ([[h("a", "")]], b"a", claim.LINK),
    "a whiteout of nothing": ([[f(".wh.")]], b".wh.", claim.MARKER),
    "a whiteout of a dot": ([[f("a/.wh..")]], b"a/.wh..", claim.MARKER),
    "a whiteout of two": ([[f(".wh...")]], b".wh...", claim.MARKER),
    "aufs metadata": ([[f(".wh..wh.aufs")]], b".wh..wh.aufs", claim.MARKER),
    "below aufs metadata": ([[f(".wh..wh.plnk/1")]], b".wh..wh.plnk/1", claim.MARKER),
    "dots": ([[{**f("a/../b"), "flags": F_DOTDOT}]], b"a/../b", claim.NAME),
    "a root that is a file": ([[f("")]], b"", claim.NAME),
}


@pytest.mark.parametrize("case", ASKED)
def test_what_is_asked(case):
    layers, path, why = ASKED[case]
    assert Judge(layers).run().asked[-1][:2] == (path, why)


@pytest.mark.parametrize(
    "layers",
    [
        [[d("a"), f("a/b")], [s("a")]],
        [[f("a/b")], [d("a")], [s("a")]],
        [[f("a/b")], [f(".wh.a")], [s("a")]],
        [[f("a/b")], [f(".wh..wh..opq")], [s("a")]],
        [[s("a")], [f("a/b")]],
    ],
)
def test_a_directory_in_between_answers_it(layers):
    assert Judge(layers).run().asked == []


def test_links_to_what_is_hidden_are_the_callers():
    top = [f("a"), f("e")]
    judge = Judge([top, [f("a"), h("b", "a"), h("c", "b"), f("d"), h("e", "d"), h("g", "e")]]).run()
    assert judge.asked == [(b"b", claim.RESTORE, 2), (b"c", claim.RESTORE, 2), (b"g", claim.RELINK, 5)]
    assert judge.seen == [b"a", b"e", b"d", b"g"]


# -- any cuts, any memory -------------------------------------------------------------------------------------------

PATHS = st.sampled_from(["a", "b", "a/b", "a/c", "b/c", "a/b/c", "a/b/d"])
ROWS = st.one_of(
    PATHS.map(f), PATHS.map(d), PATHS.map(d), PATHS.map(s), st.builds(h, PATHS, PATHS),
    PATHS.map(lambda p: f("/".join([*p.split("/")[:-1], ".wh." + p.split("/")[-1]]))), PATHS.map(lambda p: f(p + "/.wh..wh..opq")),
)  # fmt: skip
STACKS = st.lists(st.lists(ROWS, max_size=8), min_size=1, max_size=4)


@given(STACKS, st.lists(st.integers(0, 30), max_size=6))
def test_however_rows_come_in_and_memory_grows_the_verdicts_are_the_same(layers, cuts):
    whole = Judge(layers).run().outcome()
    assert Judge(layers, nodes=1, names=1).run(cuts).outcome() == whole


@given(STACKS, st.booleans())
def test_nothing_outside_the_buffers_is_touched(layers, front):
    fit = guarded_front if front else guarded
    assert Judge(layers, fit=fit, nodes=1, names=8).run().outcome() == Judge(layers).run().outcome()


@given(STACKS, st.integers(0, 2**32))
def test_memory_that_lies_is_survived(layers, seed):
    """Nodes, slots, names, origins and rows overwritten with anything: an error or a wrong verdict, no more."""
    rng = random.Random(seed)
    judge = Judge(layers, fit=rng.choice((guarded, guarded_front)), nodes=8, names=40)
    begin = 0
    for i, end in enumerate(judge.ends):
        for _ in range(6):
            with contextlib.suppress(ValueError):
                begin = min(judge.call(begin, end, len(judge.ends) - 1 - i)[0] + 1, end)
            lied = rng.choice(["nodes", "slots", "names", "origin", "state"])
            view = getattr(judge, lied).view(np.uint8)
            for _ in range(rng.randrange(1, 9)):
                if len(view):
                    view[rng.randrange(len(view))] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))
            with contextlib.suppress(ValueError, IndexError):  # a row that the table has not
                judge.directories  # noqa: B018
            with contextlib.suppress(ValueError):
                judge.missing  # noqa: B018


def test_what_does_not_fit_is_refused():
    judge = Judge([[f("a")]])
    small = np.zeros(claim.STATE_NBYTES - 1, np.uint8)
    with pytest.raises(ValueError, match="bytes"):
        claim.open_claims(small, judge.nodes)
    with pytest.raises(ValueError, match="bytes"):
        claim.counts(small)
    with pytest.raises(ValueError, match="not a state"):
        claim.directories(small, judge.nodes, np.zeros(1, np.int64))
    with pytest.raises(ValueError, match="rows"):
        judge.call(0, 2, 0)
    with pytest.raises(ValueError, match="level"):
        judge.call(0, 1, claim.MAX_LEVEL + 1)
    judge.slots = np.zeros(6, np.uint32)
    with pytest.raises(ValueError, match="power of two"):
        judge.call(0, 1, 0)
    judge = Judge([[d("a"), d("b")]]).run()
    with pytest.raises(ValueError, match="more than 1"):
        claim.directories(judge.state, judge.nodes, np.zeros(1, np.int64))
    with pytest.raises(ValueError, match="cannot hold"):
        claim.refill(judge.state, judge.nodes, np.zeros(4, np.uint32), SEED, judge.names)
    with pytest.raises(ValueError, match="smaller"):
        claim.claim(judge.state, judge.nodes[: claim.NODE_NBYTES], judge.slots, SEED, judge.names, judge.columns, judge.origin, 0, 1, 0)
