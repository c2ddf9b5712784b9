"""tarscan: what a call takes and gives, what each fault says, limits, numbers, names and extras."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella._kernels import tarscan
from lamella.columns import AT, TableBuilder
from lamella.errors import LimitExceededError, TarFormatError, TruncatedError
from lamella.model import Limits
from lamella.tar.scanner import Scanner
from lamella.testing.tars import Member, char, directory, file, hardlink, layer_tar, padded, pax_header, symlink
from tests.contract.sparse import SPELLINGS, old_gnu, pax_00, pax_10
from tests.kernels.scanning import rows_of, scanned
from tests.kernels.tarcorpus import CORPUS, XATTRS
from tests.reference.tar import parse

SECOND = 10**9
LIMITS = np.array([1 << 40, 1 << 20, 256, 1 << 20, 4096], np.int64)


def one(*members, **options) -> dict:
    (row,) = rows_of(scanned(layer_tar(members, **options)))
    return row


def refusal(data: bytes, kind=TarFormatError, **options):
    with pytest.raises(kind) as caught:
        scanned(data, **options)
    return caught.value


@pytest.mark.parametrize("name", CORPUS)
def test_agrees_with_the_reference(name):
    expected = [{k: v for k, v in e.items() if k != "content"} for e in parse(CORPUS[name])]
    assert rows_of(scanned(CORPUS[name])) == expected


@pytest.mark.parametrize("name", CORPUS)
def test_data_off_points_at_the_content(name):
    table = scanned(CORPUS[name])
    for entry, expected in zip(table, parse(CORPUS[name]), strict=True):
        if entry.data_off >= 0:
            packed = entry.size if entry.sparse is None else int(entry.sparse[:, 1].sum())
            assert CORPUS[name][entry.data_off : entry.data_off + packed] == expected["content"]
        else:
            assert not expected.get("content")


# -- the call ---------------------------------------------------------------------------------------------------------


class Call:
    """The arguments of one scan, to be changed."""

    def __init__(self, data: bytes, *, rows: int = 64, arena: int = 1 << 16, scratch: int = 1 << 16) -> None:
        self.buf, self.begin = data, 0
        self.state = np.zeros(tarscan.STATE_NBYTES, np.uint8)
        self.scratch = np.zeros(scratch, np.uint8)
        self.columns = TableBuilder("tar", rows=rows, arena=arena).columns
        self.n_rows = self.arena_used = 0
        self.limits = LIMITS

    def __call__(self) -> int:
        self.begin, self.n_rows, self.arena_used, verdict = tarscan.scan(
            self.buf, self.begin, self.state, self.scratch, self.columns, self.n_rows, self.arena_used, self.limits
        )
        return verdict


def test_verdicts():
    data = layer_tar([file("a", b"1"), file("b", pax={"comment": "c" * 100})])
    call = Call(data[:700])
    assert call() == tarscan.NEED_INPUT
    assert (call.begin, call.n_rows) == (700, 1)
    call.buf, call.begin = data[700:], 0
    assert call() == tarscan.AT_END
    assert (call.begin, call.n_rows) == (len(data) - 700, 2)
    assert tarscan.offset(call.state) == len(data)
    call.buf, call.begin = b"anything", 0
    assert call() == tarscan.AT_END
    assert tarscan.offset(call.state) == len(data) + 8
    assert len({tarscan.NEED_INPUT, tarscan.OUTPUT_FULL, tarscan.SCRATCH_FULL, tarscan.AT_END}) == 4


@pytest.mark.parametrize("small", [{"rows": 1}, {"arena": 20}, {"scratch": 50}])
def test_a_full_output_can_be_grown(small):
    data = layer_tar([file("a", b"1", uname="user"), file("b", pax={"comment": "c" * 100})])
    call = Call(data, **small)
    assert call() == (tarscan.SCRATCH_FULL if "scratch" in small else tarscan.OUTPUT_FULL)
    assert call.n_rows == 1
    assert call() != tarscan.AT_END  # asking again changes nothing
    with pytest.raises(ValueError, match="a row waits"):
        tarscan.finish(call.state, call.scratch)
    call.columns = TableBuilder("tar", rows=1 + call.n_rows, arena=1 << 10).columns
    call.scratch = np.concatenate([call.scratch, np.zeros(1000, np.uint8)])
    assert call() == tarscan.AT_END
    assert (call.n_rows, call.columns[AT["path_len"]][1]) == (2, 1)
    tarscan.finish(call.state, call.scratch)


def test_empty_input_is_an_empty_archive():
    call = Call(b"", scratch=0, arena=0, rows=0)
    assert call() == tarscan.NEED_INPUT
    tarscan.finish(call.state, call.scratch)
    assert len(scanned(b"")) == 0
    assert len(scanned([])) == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("begin", -1), ("begin", 10**6), ("state", np.zeros(5, np.uint8)), ("limits", np.zeros(4, np.int64)),
        ("n_rows", -1), ("n_rows", 65), ("arena_used", -1), ("arena_used", 1 << 20), ("columns", ()),
        ("columns", (None,) * 20), ("state", np.full(tarscan.STATE_NBYTES, 255, np.uint8)),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(name, value):
    call = Call(layer_tar([file("a")]))
    setattr(call, name, value)
    with pytest.raises(ValueError, match="."):
        call()


def test_read_only_buffers_are_refused():
    call = Call(b"")
    call.state = bytes(tarscan.STATE_NBYTES)
    with pytest.raises((BufferError, ValueError)):
        call()


def test_a_smaller_scratch_buffer_is_refused():
    call = Call(pax_header({"comment": "c" * 100}))
    assert call() == tarscan.NEED_INPUT
    call.scratch = call.scratch[:50].copy()
    with pytest.raises(ValueError, match="scratch"):
        call()
    with pytest.raises(ValueError, match="scratch"):
        tarscan.finish(call.state, call.scratch)


def test_payload_is_jumped_over_not_read():
    """A terabyte of payload between two headers: the state moves on by as much as it is given."""
    call = Call(layer_tar([file("a", size=1 << 40)], style="gnu", end=b""))
    assert call() == tarscan.NEED_INPUT
    fields = call.state.view(np.int64)
    assert fields[0] == 512
    assert fields[2] == 1 << 40
    assert call.columns[AT["size"]][0] == 1 << 40


# -- faults -----------------------------------------------------------------------------------------------------------

PAX_OFF = 512  # the first header's body
FAULTS = {
    "bad checksum": ([file("a"), file("b", header={"chksum": b"0000001\0"})], 512, None),
    "unknown type flag 'Q'": ([Member("a/./b", "Q")], 0, b"a/b"),
    "unsupported type flag 'M'": ([Member("a", "M", style="gnu")], 0, b"a"),
    "malformed mode": ([file("a", header={"mode": b"0000009\0"})], 0, b"a"),
    "malformed uid": ([file("a", pax={"uid": "x"})], PAX_OFF, b"a"),
    "malformed gid": ([file("a", pax={"gid": 2**32})], 1024, b"a"),
    "malformed size": ([file("a", pax={"size": "-1"})], PAX_OFF, b"a"),
    "malformed mtime": ([file("a", pax={"mtime": "1e9"})], PAX_OFF, b"a"),
    "malformed atime": ([file("a", pax={"path": "b", "atime": ".5"})], PAX_OFF, b"a"),
    "malformed device number": ([char("a", 1, 2, header={"major": b"-1"})], 0, b"a"),
    "malformed pax record": ([Member("p", "x", b"6 a=b\n5 x=\n9 y=1\n")], PAX_OFF + 11, b"p"),
    "NUL in a pax name": ([pax_header([("a", "b"), ("path", b"c\0")]), file("x")], PAX_OFF + 6, b"@PaxHeader"),
    "global pax header gives a size": ([pax_header({"a": "b", "size": "1"}, flag="g")], PAX_OFF + 6, b"pax_global_header"),
    "two extended headers of one kind": ([pax_header({"a": "b"})] * 2, 1024, b"@PaxHeader"),
    "misplaced global pax header": ([pax_header({"a": "b"}), pax_header({"a": "b"}, flag="g")], 1024, b"pax_global_header"),
    "no member after an extended header": ([pax_header({"a": "b"})], 1024, None),
    "malformed sparse map": ([pax_10("s", [(9, b"a"), (3, b"b")], 10)], 1024, b"s"),
    "unknown sparse format": ([Member("s", "S", style="pax")], 0, b"s"),
    "malformed extended attribute": ([file("a", pax={"LIBARCHIVE.xattr.u": "A"})], PAX_OFF, None),
}  # fmt: skip


@pytest.mark.parametrize("sentence", FAULTS)
def test_a_fault_says_what_where_and_in_which_entry(sentence):
    members, offset, entry = FAULTS[sentence]
    error = refusal(layer_tar(members))
    assert str(error).startswith(sentence)
    assert error.offset == offset
    assert entry is None or error.entry == entry


CUTS = {
    "input ends inside a header": ([file("a")], 300, None),
    "input ends inside an extended header": ([pax_header({"comment": "c" * 600})], 800, b"@PaxHeader"),
    "input ends inside a payload": ([file("a", b"1" * 600)], 1000, b"a"),
    "input ends before the member of an extended header": ([pax_header({"a": "b"})], 1024, None),
}


@pytest.mark.parametrize("sentence", CUTS)
def test_a_cut_says_where(sentence):
    members, at, entry = CUTS[sentence]
    error = refusal(layer_tar(members)[:at], TruncatedError)
    assert (str(error).startswith(sentence), error.offset, error.entry) == (True, at, entry)


LIMITED = {
    "entries": ([file("a"), file("b"), file("c")], Limits(entries=2), 3, b"c"),
    "pax_bytes": ([file("a", pax={"comment": "c" * 500})], Limits(pax_bytes=100), 513, b"@PaxHeader"),
    "xattrs": ([file("a", xattrs={f"user.{i}": b"1" for i in range(9)})], Limits(xattrs=8), 9, None),
    "sparse_entries": ([pax_00("s", [(2 * i, b"x") for i in range(9)], 20)], Limits(sparse_entries=8), 9, b"s"),
    "path": ([file("a/" * 30 + "b")], Limits(path=60), 61, b"a/" * 30 + b"b"),
}


@pytest.mark.parametrize("limit", LIMITED)
def test_limits_are_named_with_what_was_met(limit):
    members, limits, value, entry = LIMITED[limit]
    scanned(layer_tar(members))
    error = refusal(layer_tar(members), LimitExceededError, limits=limits)
    assert (error.limit, error.value) == (limit, value)
    assert entry is None or error.entry == entry


@pytest.mark.parametrize(
    ("members", "limits"),
    [
        ([file("a"), file("b")], Limits(entries=2)),
        ([file("a", xattrs={f"user.{i}": b"1" for i in range(8)})], Limits(xattrs=8)),
        ([file("a" * 60)], Limits(path=60)),
        ([symlink("a", "b" * 60)], Limits(path=60)),
    ],
)
def test_limits_include_their_value(members, limits):
    assert len(scanned(layer_tar(members), limits=limits)) == len(members)


@pytest.mark.parametrize("member", [hardlink("a", "b" * 101), symlink("a", "b" * 101)])
def test_links_are_held_against_the_path_limit(member):
    assert refusal(layer_tar([member]), LimitExceededError, limits=Limits(path=100)).value == 101


def test_no_name_is_longer_than_a_column_can_say():
    limits = Limits(path=1 << 20)
    row = rows_of(scanned(layer_tar([symlink(b"p" * 65535, b"l" * 65535)]), limits=limits))[0]
    assert (len(row["path"]), len(row["link"])) == (65535, 65535)
    for member in (file("p" * 65536), symlink("a", "l" * 65536)):
        assert refusal(layer_tar([member]), LimitExceededError, limits=limits).limit == "path"


def test_other_keywords_are_limited_too():
    keywords = {f"k{i}": "v" for i in range(256)}
    assert len(one(file("a", pax=keywords))["pax"]) == 256
    assert refusal(layer_tar([file("a", pax=keywords | {"more": "1"})]), LimitExceededError).limit == "xattrs"


def test_global_records_cannot_multiply_without_end():
    """A megabyte of global records, read again for each entry, is not worth a gigabyte of work a thousand entries."""
    head = pax_header([(f"k{i}", "v" * 4000) for i in range(250)], flag="g")
    data = head + b"".join(layer_tar([file(f"f{i}", uname=f"u{i}")], end=b"") for i in range(200))
    assert refusal(data, LimitExceededError).limit == "pax_bytes"
    small = pax_header({"comment": "c" * 4000}, flag="g") + layer_tar([file("a")], end=b"") * 40_000
    assert len(scanned(small)) == 40_000
    headers = pax_header({"comment": "c" * 400_000}, flag="g") * 3
    assert refusal(headers + bytes(512), LimitExceededError).limit == "pax_bytes"


# -- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds", "nsec"),
    [
        ("0", 0, 0), ("1.5", 1, 500_000_000), ("-1", -1, 0), ("-1.5", -2, 500_000_000), ("-0.5", -1, 500_000_000),
        ("1.", 1, 0), ("5.1234567899", 5, 123_456_789), ("-5.0000000001", -6, 999_999_999), ("-0", 0, 0),
        ("-0.99999999999", -1, 0), ("0.000000001", 0, 1), ("9223372036854775807.999999999", 2**63 - 1, 999_999_999),
        ("-9223372036854775808", -(2**63), 0), ("-9223372036854775807.000000001", -(2**63), 999_999_999),
        ("-9223372036854775807.9999999999", -(2**63), 0), ("00000000000000000000000001", 1, 0),
    ],
)  # fmt: skip
def test_times(text, seconds, nsec):
    row = one(file("f", pax={"mtime": text, "atime": text}))
    assert row["mtime"] == row["atime"] == (seconds, nsec)


@pytest.mark.parametrize(
    "text",
    ["-", ".", ".5", "1.x", "1.-5", "+1", " 1", "1 ", "0x1", "1e3", "9223372036854775808", "-9223372036854775808.5",
     "-9223372036854775809", "1.5.5", "inf", "nan", b"1\0"],
)  # fmt: skip
def test_other_times_are_refused(text):
    refusal(layer_tar([file("f", pax={"mtime": text})]))


@given(st.integers(-(2**62), 2**62), st.text("0123456789", max_size=15), st.booleans())
def test_times_are_rounded_down(whole, fraction, minus):
    text = f"{'-' if minus else ''}{abs(whole)}.{fraction}"
    value = Fraction(int(f"{abs(whole)}{fraction}") * (-1 if minus else 1), 10 ** len(fraction))
    assert one(file("f", pax={"mtime": text}))["mtime"] == divmod(value * SECOND // 1, SECOND)


@given(st.integers(0, 2**63 - 1))
def test_integers(value):
    row = one(file("f", pax={"mtime": value, "uid": value % 2**32}))
    assert (row["mtime"], row["uid"]) == ((value, 0), value % 2**32)


@pytest.mark.parametrize(
    "text", ["", "4611686018427387904", "9223372036854775807", "9223372036854775808", "18446744073709551616", "1" * 40]
)
def test_sizes_that_no_archive_has(text):
    if text:
        refusal(layer_tar([file("f", pax={"size": text})]))
    else:
        assert one(file("f", b"12", pax={"size": text}))["size"] == 2


def test_a_size_in_pax_counts_for_the_payload():
    data = layer_tar([file("f", b"x" * 1000, size=5, pax={"size": 1000}), file("g")])
    assert [(r["path"], r["size"]) for r in rows_of(scanned(data))] == [(b"f", 1000), (b"g", 0)]


NAMES = {
    "a": b"a", "/a": b"a", "./a": b"a", "a/": b"a", "a//b": b"a/b", "a/./b": b"a/b", "a/.": b"a", ".": b"", "/": b"",
    "": b"", "./": b"", "//.//": b"", ".a": b".a", "..a": b"..a", "a..": b"a..", "...": b"...", "a/.b/.": b"a/.b",
    "../a": b"../a", "a/../b": b"a/../b", "a/..": b"a/..", "..": b"..",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("long", [False, True])
def test_paths_are_normalised(name, long):
    front = "d/" * 70 if long else ""
    expected = b"d/" * 70 + NAMES[name] if long else NAMES[name]
    row = one(directory("x", header={} if long else {"name": name.encode()}, pax={"path": front + name} if long else {}))
    assert row["path"] == expected.removesuffix(b"/")
    assert row["dotdot"] == (b".." in NAMES[name].split(b"/"))


@pytest.mark.parametrize("name", NAMES)
def test_hard_link_targets_are_normalised_and_symlinks_verbatim(name):
    hard, soft = one(hardlink("h", name)), one(symlink("s", name))
    assert hard["link"] == NAMES[name]
    assert hard["dotdot"] == (b".." in NAMES[name].split(b"/"))
    assert (soft["link"], soft["dotdot"]) == (name.encode(), False)


def test_a_name_may_fill_its_field():
    row = one(symlink("x", "y", header={"name": b"n" * 100, "link": b"l" * 100, "uname": b"u" * 32, "gname": b"g" * 32}))
    assert [len(row[k]) for k in ("path", "link", "uname", "gname")] == [100, 100, 32, 32]


def test_names_end_at_a_nul():
    row = one(file("x", header={"name": b"a\0b", "uname": b"u\0v"}), style="gnu")
    assert (row["path"], row["uname"]) == (b"a", b"u")
    assert one(Member("l", "L", b"long\0rest", style="gnu"), file("x"))["path"] == b"long"


def test_extended_attributes_of_both_spellings():
    row = one(file("f", pax=XATTRS))
    assert row["xattrs"] == {b"user.b": b"\0\1\n=", b"user.a": b"1", b"user.=A": b"\xff" * 5, b"user.empty": b""}
    assert row["pax"] == {b"comment": b"d", b"SCHILY.acl.access": b"user::rw-"}


@given(st.dictionaries(st.binary(min_size=1, max_size=9).filter(lambda n: b"=" not in n and b"\0" not in n),
                       st.binary(min_size=1, max_size=70), max_size=9))  # fmt: skip
def test_extended_attributes_are_bytes(xattrs):
    row = one(file("f", xattrs=xattrs))
    assert row["xattrs"] == xattrs
    assert row["pax"] == {}


@pytest.mark.parametrize(
    "record",
    [("LIBARCHIVE.xattr.", "AA"), ("SCHILY.xattr.", "1"), ("LIBARCHIVE.xattr.a%4", "AA"), ("LIBARCHIVE.xattr.a%zz", "AA"),
     ("LIBARCHIVE.xattr.a%00", "AA"), ("LIBARCHIVE.xattr.a", "A A"), ("LIBARCHIVE.xattr.a", "A"), ("LIBARCHIVE.xattr.a", "A-_")],
)  # fmt: skip
def test_malformed_attributes(record):
    refusal(layer_tar([file("f", pax=[record])]))


@pytest.mark.parametrize("nbytes", range(5))
def test_base64_may_be_padded(nbytes):
    value = bytes(range(250, 250 + nbytes))
    text = base64.b64encode(value)
    for spelled in (text, text.rstrip(b"=")):
        assert one(file("f", pax=[("LIBARCHIVE.xattr.user.a", spelled)]))["xattrs"] == {b"user.a": value}


def test_attributes_are_the_same_however_little_scratch_there_is():
    data = layer_tar([file("f", pax=[(f"LIBARCHIVE.xattr.user.{i}", base64.b64encode(bytes([i]) * 40)) for i in range(20)])])
    runs = set()
    for scratch in range(8, 6000, 200):
        call = Call(data, scratch=scratch)
        while (verdict := call()) != tarscan.AT_END:
            assert verdict == tarscan.SCRATCH_FULL
            call.scratch = np.concatenate([call.scratch, np.zeros(24, np.uint8)])
        begin, nbytes = (int(call.columns[AT[name]][0]) for name in ("ext_off", "ext_len"))
        runs.add(bytes(call.columns[AT["arena"]][begin : begin + nbytes]))
    assert [len(run) > 20 * 40 for run in runs] == [True]


@pytest.mark.parametrize(
    "record", [("SCHILY.devmajor", "x"), ("SCHILY.devminor", "1-"), ("SCHILY.devmajor", 2**32), ("SCHILY.devminor", 2**32)]
)
def test_devices_in_pax_are_numbers_of_32_bits(record):
    error = refusal(layer_tar([char("a", 1, 2, pax=[record])]))
    assert str(error).startswith("malformed device number")
    assert error.entry == b"a"


def test_devices_in_pax_count():
    row = one(char("a", 1, 2, pax={"SCHILY.devmajor": 2**32 - 1, "SCHILY.devminor": 2**20}))
    assert (row["major"], row["minor"]) == (2**32 - 1, 2**20)


def test_equal_extras_are_kept_once():
    members = [file(f"f{i}", uname="user", gname="group", xattrs={"user.a": b"1" * 100}) for i in range(50)]
    table = scanned(layer_tar(members))
    assert len(set(table.ext_off.tolist())) == 1
    assert len(table.columns[AT["arena"]]) < 50 * 3 + 200
    mixed = scanned(layer_tar([file("a", uname="u"), file("b"), file("c", uname="v"), file("d", uname="v")]))
    assert [e.uname for e in mixed] == [b"u", b"", b"v", b"v"]


def test_a_row_s_extras_come_in_order():
    table = scanned(layer_tar([file("f", uname="u", gname="g", pax=[*XATTRS, ("atime", "5")])]))
    assert [tag for tag, _, _ in table.extras(0)] == [1, 1, 1, 1, 2, 3, 4, 4, 6]


@pytest.mark.parametrize("make", SPELLINGS.values(), ids=SPELLINGS)
def test_sparse_rows(make):
    regions = [(0, b"a" * 100), (1000, b"b"), (5000, b"")]
    table = scanned(layer_tar([make("dir/s", regions, 9000), file("n")]))
    assert (table[0].path, table[0].size, table[0].sparse.tolist()) == (b"dir/s", 9000, [[0, 100], [1000, 1]])
    assert table.flags[0] == 2


PAX_01 = [("GNU.sparse.size", 5), ("GNU.sparse.numblocks", 1)]
BAD_SPARSE = {
    "a version to come": ("unknown sparse format", file("s", pax={"GNU.sparse.major": 2, "GNU.sparse.minor": 0})),
    "no size of the file": ("malformed sparse map", file("s", pax={"GNU.sparse.major": 1, "GNU.sparse.minor": 0})),
    "half a pair": ("malformed sparse map", file("s", b"a", pax=[*PAX_01, ("GNU.sparse.map", "0,1,2")])),
    "more pairs than bytes": ("malformed sparse map", pax_10("s", [(0, b"a")], 9, map_text=padded(b"1000\n"))),
    "old, its size no number": ("malformed size", replace(old_gnu("s", [], 9), header={483: b"x" * 12})),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_SPARSE)
def test_maps_that_no_file_has(name):
    sentence, member = BAD_SPARSE[name]
    error = refusal(layer_tar([member]))
    assert str(error).startswith(sentence)
    assert error.entry == b"s"


def test_old_sparse_with_long_name_and_many_blocks():
    regions = [(1000 * i, b"%03d" % i) for i in range(100)]
    long = Member("x", "L", b"d/" * 100 + b"s\0", style="gnu")
    row = one(long, old_gnu("cut", regions, 10**6), style="gnu")
    assert row["path"] == b"d/" * 100 + b"s"
    assert row["sparse"] == [(1000 * i, 3) for i in range(100)]


# -- files ------------------------------------------------------------------------------------------------------------


def from_file(path, base: int = 0, **options):
    scanner = Scanner(**options)
    with open(path, "rb") as file_:
        assert scanner.scan_fd(file_.fileno(), base=base)
    return scanner


@pytest.mark.parametrize("name", CORPUS)
@pytest.mark.parametrize("base", [0, 777])
def test_a_file_gives_what_its_bytes_give(scratch, name, base):
    path = scratch / "f.tar"
    path.write_bytes(b"#" * base + CORPUS[name])
    scanner = from_file(path, base, builder=TableBuilder("tar", rows=1, arena=8))
    from lamella.table import EntryTable

    assert rows_of(EntryTable(scanner.builder.finish(), "archive")) == rows_of(scanned(CORPUS[name]))


def test_payload_of_a_file_is_not_read(scratch):
    path = scratch / "f.tar"
    path.write_bytes(layer_tar([file(f"f{i}", b"x" * (1 << 20)) for i in range(40)]))
    script = (
        "import sys; from lamella.tar.scanner import Scanner\n"
        "import os; fd = os.open(sys.argv[1], os.O_RDONLY); s = Scanner()\n"
        "io = lambda: [int(l.split()[1]) for l in open('/proc/self/io')][0:3:2]\n"
        "a = io(); s.scan_fd(fd); b = io(); print(s.builder.n_rows, *(y - x for x, y in zip(a, b)))"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    n_rows, n_bytes, n_calls = map(int, done.stdout.split())
    assert n_rows == 40
    assert n_calls <= 40 + 5
    assert n_bytes <= (40 + 5) * 4096 + 4096


def n_reads() -> int:
    """Count this process's reads so far."""
    return int(Path("/proc/self/io").read_text().split()[5])


def test_small_files_share_a_read(scratch):
    path = scratch / "f.tar"
    path.write_bytes(layer_tar([file(f"f{i}", b"x") for i in range(400)]))
    before = n_reads()
    assert from_file(path).builder.n_rows == 400
    assert n_reads() - before <= 400 // 3


@pytest.mark.parametrize("keep", [300, 513, 600, 1000, 1023, 1100, 2559])
def test_a_short_file_is_noticed(scratch, keep):
    path = scratch / "f.tar"
    path.write_bytes(layer_tar([file("a", b"1" * 512), file("b", b"2" * 600)])[:keep])
    with pytest.raises(TruncatedError):
        from_file(path)


def test_a_size_beyond_the_file_is_noticed(scratch):
    path = scratch / "f.tar"
    path.write_bytes(layer_tar([file("a", b"1", size=1 << 50)]))
    with pytest.raises(TruncatedError) as caught:
        from_file(path)
    assert caught.value.entry == b"a"


def test_a_file_stops_at_a_number_of_rows(scratch):
    path = scratch / "f.tar"
    path.write_bytes(layer_tar([file(f"f{i}", b"x" * (i * 100)) for i in range(100)]))
    scanner, seen = Scanner(), 0
    with path.open("rb") as file_:
        done = False
        while not done:
            scanner.builder = TableBuilder("tar", rows=7, arena=16)
            done = scanner.scan_fd(file_.fileno(), max_rows=7)
            seen += scanner.builder.n_rows
            assert scanner.builder.n_rows <= 7
    assert (seen, scanner.at_end) == (100, True)


def test_what_is_no_file_is_refused():
    read, write = os.pipe()
    try:
        with pytest.raises(ValueError, match="regular"):
            Scanner().scan_fd(read)
    finally:
        os.close(read)
        os.close(write)
    with pytest.raises(OSError, match="descriptor"):
        Scanner().scan_fd(read)


def test_errors_of_reading_pass_through(scratch):
    path = scratch / "f.tar"
    path.write_bytes(layer_tar([file("a")]))
    fd = os.open(path, os.O_WRONLY)
    try:
        with pytest.raises(OSError, match="descriptor") as caught:
            Scanner().scan_fd(fd)
        assert caught.value.errno == 9
    finally:
        os.close(fd)


def test_padded_is_what_the_corpus_needs():
    assert len(padded(b"1")) == 512
