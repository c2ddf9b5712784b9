"""Rows and the streams that their content lies in become a tar: against tarform and slices, at every cut."""

from __future__ import annotations

import numpy as np
import pytest

from lamella._kernels import splice, tarform
from lamella.errors import FormatError
from tests.kernels.guarded import guarded, guarded_bytes, guarded_columns
from tests.reference.rows import table_of

SOURCE = bytes(range(256)) * 12
ROWS = [
    {"path": "d", "type": "5"},
    {"path": "d/a", "size": 5},
    {"path": "d/empty"},
    {"path": "d/" + "n" * 150, "size": 512},
    {"path": "h", "type": "1", "link_target": "d/a"},
    {"path": "z", "size": 700, "xattrs": {"user.x": b"v" * 900}},
]
OFFS = [-1, 3, -1, 20, -1, 1_000]


def wanted(rows=ROWS, offs=OFFS, **options) -> bytes:
    """Say the same by tarform, row by row."""
    table, out = table_of(rows), b""
    for row, off in enumerate(offs):
        head = bytearray(1 << 13)
        _, nbytes, payload, _ = tarform.form(table.columns, np.array([row]), head, **options)
        out += head[:nbytes] + SOURCE[off : off + payload] + bytes(-payload % 512)
    return out


def spliced(columns, offs, *, chunk=3072, cap=1 << 16, head=512, begin=0, end=None, source=SOURCE, **options) -> bytes:
    rows, offs = np.arange(len(offs)), np.array(offs, np.int64)
    state = np.zeros(splice.STATE_ITEMS, np.int64)
    state[0] = begin
    made, at, verdict, heads = b"", 0, splice.FULL, np.zeros(head, np.uint8)
    while verdict != splice.DONE:
        out = guarded_bytes(cap)
        piece = guarded(np.frombuffer(source[at : at + chunk], np.uint8))
        nbytes, verdict = splice.splice(
            columns, rows, offs, len(rows) if end is None else end, state, piece, at, out, heads, **options
        )
        assert verdict != splice.FULL or nbytes == cap
        made += out[:nbytes].tobytes()
        if verdict == splice.MORE:
            at += len(piece)
            assert at < len(source)
        elif verdict == splice.HEAD:
            heads = np.zeros(2 * len(heads), np.uint8)
    return made


def test_it_is_headers_and_content_in_turn():
    assert spliced(table_of(ROWS).columns, OFFS) == wanted()


@pytest.mark.parametrize("cap", [1, 7, 511, 512, 513, 4096])
@pytest.mark.parametrize("chunk", [1, 100, 511, 3000])
def test_how_it_is_cut_does_not_matter(cap, chunk):
    columns = guarded_columns(table_of(ROWS).columns)
    assert spliced(columns, OFFS, cap=cap, chunk=chunk) == wanted()


def test_ranges_follow_each_other():
    columns = table_of(ROWS).columns
    parts = [spliced(columns, OFFS, begin=b, end=e) for b, e in ((0, 2), (2, 2), (2, 5), (5, 6))]
    assert b"".join(parts) == wanted()
    assert spliced(columns[:0] + table_of([]).columns, []) == b""


def test_options_are_those_of_forming():
    rows = [{"path": "a", "size": 3, "mtime_ns": 10**19}, {"path": "b", "size": 4, "xattrs": {"user.e": b""}}]
    columns = table_of(rows).columns
    for options in ({"clamp_mtime": 5}, {"libarchive_xattr": True}, {}):
        assert spliced(columns, [0, 9], **options) == wanted(rows, [0, 9], **options)


def test_a_sparse_row_takes_what_its_source_has():
    rows = [{"path": "s", "size": 1000, "sparse": [(10, 5), (900, 7)]}]
    made = spliced(table_of(rows).columns, [4], sparse=True)
    assert made == wanted(rows, [4], sparse=True)
    assert made[-512:] == SOURCE[4:16] + bytes(500)


def test_xattrs_left_out_are_counted():
    state = np.zeros(splice.STATE_ITEMS, np.int64)
    columns = table_of([{"path": "b", "xattrs": {"user.e": b""}}]).columns
    args = (np.arange(1), np.array([-1]), 1, state, b"", 0, bytearray(4096), bytearray(4096))
    assert splice.splice(columns, *args) == (512, splice.DONE)
    assert state[6] == 1


def call(columns, *, rows=(0,), offs=(0,), end=1, state=None, chunk=SOURCE, at=0, out=4096, head=512):
    state = np.zeros(splice.STATE_ITEMS, np.int64) if state is None else np.array(state, np.int64)
    rows, offs = np.array(rows, np.int64), np.array(offs, np.int64)
    return splice.splice(columns, rows, offs, end, state, chunk, at, bytearray(out), bytearray(head))


def test_callers_that_lie():
    columns = table_of([{"path": "a", "size": 3}]).columns
    assert call(columns) == (1024, splice.DONE)
    assert call(columns, out=0) == (0, splice.FULL)
    assert call(columns, chunk=b"") == (512, splice.MORE)
    for wrong in (
        {"rows": (7,)}, {"rows": (-1,)}, {"end": 2}, {"end": -1}, {"offs": (0, 1)}, {"at": -1}, {"head": 511},
        {"state": [0] * 3}, {"state": [2, 0, 0, 0, 0, 0, 0]}, {"state": [-1, 0, 0, 0, 0, 0, 0]},
        {"state": [0, 5, 4, 0, 0, 0, 0]}, {"state": [0, 0, 9999, 0, 0, 0, 0]}, {"state": [0, -1, 0, 0, 0, 0, 0]},
        {"state": [0, 0, 0, 2**63 - 2, 5, 0, 0]}, {"state": [0, 0, 0, 0, -1, 0, 0]}, {"state": [0, 0, 0, 0, 0, -1, 0]},
        {"offs": (0,), "at": 10}, {"state": [1, 0, 0, -2, 5, 0, 0]}, {"offs": (-5,)},
    ):  # fmt: skip
        with pytest.raises(ValueError):  # noqa: PT011 - which one does not matter
            call(columns, **wrong)
    with pytest.raises(FormatError):
        call(table_of([{"path": "a\0b"}]).columns)
    with pytest.raises(ValueError, match="arena"):
        call((*columns[:-1], columns[-1][:0]))


def test_offsets_at_the_end_of_numbers():
    columns = table_of([{"path": "a", "size": 2**62}]).columns
    assert call(columns, offs=(2**62 - 1,), head=2048) == (1536, splice.MORE)
    for wrong in ({"offs": (2**62,)}, {"offs": (-(2**63),)}, {"at": 2**63 - 1}):
        with pytest.raises(ValueError, match="content|offsets"):
            call(columns, head=2048, **{"offs": (0,), **wrong})
