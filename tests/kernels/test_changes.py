"""changes: what it refuses, and single rules."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from lamella._kernels import changes as kernel
from lamella.columns import AT
from lamella.model import Why
from tests.kernels.comparing import UNDECIDED, Merge, differences, table
from tests.reference.changes import SECOND, Node

EMPTY = table({})
ADD, MODIFY, DELETE = 1, 2, 3
DIR = Node(type="5")


def merged(lower, upper, options=0):
    return Merge(table(lower).columns, table(upper).columns, options).run()


def test_nothing_and_nothing():
    assert merged({}, {}) == []
    assert kernel.compact(EMPTY.columns) == 0
    kernel.parents(EMPTY.columns, np.zeros(0, np.int32))


def test_from_nothing_all_is_added_and_to_nothing_all_but_the_root_deleted():
    tree = {b"": DIR, b"a": DIR, b"a/b": Node(), b"c": Node(inode=1)}
    assert merged({}, tree) == [(ADD, -1, row, 0) for row in range(4)]
    assert merged(tree, {}) == [(DELETE, 1, -1, 0), (DELETE, 3, -1, 0)]


def test_a_delete_says_where_it_stands_in_the_upper_table():
    lower = {b"": DIR, b"a": Node(), b"c": DIR, b"c/d": Node(inode=1), b"e": Node(inode=2)}
    upper = {b"": DIR, b"b": Node(inode=3), b"d": Node(inode=4)}
    assert merged(lower, upper) == [
        (DELETE, 1, -2, 0), (ADD, -1, 1, 0), (DELETE, 2, -3, 0), (ADD, -1, 2, 0), (DELETE, 4, -4, 0),
    ]  # fmt: skip


def test_slash_is_the_lowest_byte():
    lower = {b"": DIR, b"a": DIR, b"a/z": Node(), b"a!": Node(inode=1)}
    upper = {b"": DIR, b"a": Node(inode=2), b"a!": Node(inode=1)}
    assert merged(lower, upper) == [(MODIFY, 1, 1, Why.TYPE.value)]


def test_a_directory_that_has_no_row_of_its_own_is_not_deleted():
    # as in a tar without parents
    lower, upper = {b"a": DIR, b"a/b": Node()}, {b"a/b": Node(), b"a/c": Node(inode=1)}
    assert merged(lower, upper) == [(ADD, -1, 1, 0)]


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        (0, 0, UNDECIDED),
        (5, 5, 0),
        (0, 5, UNDECIDED),
        (5, 0, UNDECIDED),
        (5, 6, Why.MTIME.value),
        (0, SECOND, Why.MTIME.value),
        (-1, 0, Why.MTIME.value),
        (-SECOND, -SECOND + 1, UNDECIDED),
    ],
)
def test_055_what_times_decide(before, after, why):
    lower = {b"f": Node(content=b"1", mtime_ns=before, dev=1)}
    upper = {b"f": Node(content=b"1", mtime_ns=after, dev=2)}
    assert [row[3] for row in merged(lower, upper)] == [why] * bool(why)
    empty = {b"f": Node(mtime_ns=before, dev=1)}, {b"f": Node(mtime_ns=after, dev=2)}
    assert [row[3] for row in merged(*empty)] == [why & ~UNDECIDED] * bool(why & ~UNDECIDED)


def test_an_attribute_like_a_capability_is_compared_whole():
    for name, longer in ((b"security.capability", b"x" * 25), (b"user.capability.....", b"x" * 24)):
        before, after = ({b"f": Node(mtime_ns=1, xattrs={name: value})} for value in (b"x" * 20, longer))
        assert [d.why for d in differences(before, after, "auto")] == [Why.XATTR]


VERSION_2 = struct.pack("<5I", 0x2000001, 1024, 0, 0, 0)
VERSION_3 = struct.pack("<6I", 0x3000001, 1024, 0, 0, 0, 100000)


@pytest.mark.parametrize(
    ("before", "after", "differ"),
    [
        (VERSION_2, VERSION_2, False),
        (VERSION_2, VERSION_3, False),
        (VERSION_3, VERSION_3[:20] + struct.pack("<I", 200000), False),
        (VERSION_2, struct.pack("<5I", 0x2000000, 1024, 0, 0, 0), True),  # not effective
        (VERSION_3, struct.pack("<5I", 0x2000000, 1024, 0, 0, 0), True),
        (VERSION_2, struct.pack("<5I", 0x2000001, 1025, 0, 0, 0), True),
        (VERSION_3, struct.pack("<5I", 0x2000001, 1024, 0, 0, 1), True),
    ],
)
def test_063_a_capability_is_compared_without_its_root_id(before, after, differ):
    for one, two in ((before, after), (after, before)):
        trees = ({b"f": Node(mtime_ns=1, xattrs={b"security.capability": v, b"user.a": b"1"})} for v in (one, two))
        assert [d.why for d in differences(*trees, "auto")] == [Why.XATTR] * differ


def test_other_extras_of_a_tar_are_no_attributes():
    one = table({b"f": Node(mtime_ns=1, xattrs={b"user.a": b"1"})})
    two = table({b"f": Node(mtime_ns=1, xattrs={b"user.a": b"1", b"user.b": b"2"})})
    begin, arena = int(two.ext_off[0]), two.columns[-1]
    at = bytes(arena).index(b"user.b") - 7
    arena[at] = 2  # an owner's name
    assert at > begin
    assert Merge(one.columns, two.columns).run() == []


def test_wrong_arrays_are_refused():
    one = table({b"": DIR, b"a": Node()})
    good = Merge(one.columns, one.columns)
    for at in range(4):
        out = list(good.out)
        out[at] = out[at][:-1]
        with pytest.raises(ValueError, match="one length"):
            kernel.merge(one.columns, one.columns, good.state, 0, *out, good.match)
    with pytest.raises(ValueError, match="one length"):
        kernel.merge(one.columns, one.columns, good.state, 0, *(c[:0] for c in good.out), good.match)
    with pytest.raises(ValueError, match="one length"):
        kernel.merge(one.columns, one.columns, good.state[:-1], 0, *good.out, good.match)
    for state, match in (([3, 0, 0, -1], 2), ([0, -1, 0, -1], 2), ([0, 0, 65, -1], 2), ([0, 0, 0, 2], 2), ([0, 0, 0, -1], 3)):
        with pytest.raises(ValueError, match="one merge"):
            kernel.merge(one.columns, one.columns, np.array(state), 0, *good.out, np.zeros(match, np.int32))
    with pytest.raises(ValueError, match="length"):
        kernel.links(
            one.columns, one.columns, good.match[:1], *[np.zeros(2, k) for k in (np.uint8, np.int32, np.int32, np.uint8)]
        )
    with pytest.raises(ValueError, match="long"):
        kernel.parents(one.columns, np.zeros(1, np.int32))
    with pytest.raises(ValueError, match="short"):
        kernel.compact(table({b"abc": Node()}).columns, np.zeros(2, np.uint8))


@pytest.mark.parametrize("column", ["name_off", "ext_off"])
def test_a_row_outside_its_arena_is_an_error(column):
    one, two = (table({b"": DIR, b"a": Node(mtime_ns=1, xattrs={b"user.a": v})}) for v in (b"1", b"2"))
    two.columns[AT[column]][1] = 1 << 40
    with pytest.raises(ValueError, match="arena"):
        Merge(one.columns, two.columns).run()
    with pytest.raises(ValueError, match="arena"):
        kernel.compact(two.columns)
    if column == "name_off":
        with pytest.raises(ValueError, match="arena"):
            kernel.parents(two.columns, np.zeros(2, np.int32))


def test_a_run_of_extras_that_ends_inside_an_item_is_an_error():
    one, two = (table({b"a": Node(mtime_ns=1, xattrs={b"user.a": v})}) for v in (b"1", b"2"))
    two.columns[AT["ext_len"]][0] -= 1
    for a, b in ((one, two), (two, one)):
        with pytest.raises(ValueError, match="arena"):
            Merge(a.columns, b.columns).run()


def test_a_link_text_outside_its_arena_is_an_error():
    one, two = (table({b"a": Node(type="2", target=target)}) for target in (b"x", b"y"))
    two.columns[AT["link_len"]][0] = 1 << 14
    for a, b in ((one, two), (two, one)):
        with pytest.raises(ValueError, match="arena"):
            Merge(a.columns, b.columns).run()


def test_a_link_group_that_names_no_row_is_an_error():
    one = table({b"a": Node(), b"b": Node()})
    for group in (2, 1 << 30):
        bad = table({b"a": Node(), b"b": Node()})
        bad.columns[AT["link_group"]][:] = group
        for a, b in ((one, bad), (bad, one)):
            arrays = [np.zeros(2, kind) for kind in (np.uint8, np.int32, np.int32, np.uint8)]
            with pytest.raises(ValueError, match="no row"):
                kernel.links(a.columns, b.columns, np.arange(2, dtype=np.int32), *arrays)
