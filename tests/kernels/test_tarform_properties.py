"""tarform for any rows: what it writes is read back alike, it stays in its buffers, and hostile columns are refused."""

from __future__ import annotations

import io
import tarfile
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella._kernels import tarform
from lamella.columns import ARENA, COLUMNS
from tests.kernels.guarded import guarded, guarded_bytes, guarded_columns
from tests.reference.rows import table_of

BLOCK = 512
END = bytes(2 * BLOCK)
NAMES = st.binary(min_size=1, max_size=120).filter(lambda name: not {0, 47} & set(name) and name not in (b".", b".."))
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(b"/".join)
TEXTS = st.binary(max_size=60).filter(lambda text: b"\0" not in text)
KEYWORDS = st.from_regex(r"[A-Z]{1,12}\.[a-z]{1,9}", fullmatch=True).filter(lambda k: not k.startswith("GNU.sparse"))
ROWS = st.fixed_dictionaries(
    {
        "path": PATHS,
        "type": st.sampled_from("0123456"),
        "mode": st.integers(0, 0o7777),
        "uid": st.integers(0, 2**32 - 1),
        "gid": st.integers(0, 2**32 - 1),
        "mtime_ns": st.integers(-(2**62), 2**70) | st.integers(-(2**63) * 10**9, 2**63 * 10**9 - 1),
        "rdev_major": st.integers(0, 2**32 - 1),
        "rdev_minor": st.integers(0, 2**32 - 1),
        "link_target": PATHS,
    },
    optional={
        "xattrs": st.dictionaries(NAMES, st.binary(max_size=50), max_size=4),
        "uname": TEXTS,
        "gname": TEXTS,
        "pax": st.dictionaries(KEYWORDS, TEXTS, max_size=3),
        "atime_ns": st.integers(-(2**63) * 10**9, 2**63 * 10**9 - 1),
    },
)


def headers(table, out, **options) -> bytes:
    n, nbytes, payload, _ = tarform.form(table.columns, np.arange(len(table)), out, **options)
    assert (n, payload) == (len(table), 0)
    return bytes(out[:nbytes])


def text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


@given(st.lists(ROWS, max_size=5))
def test_tarfile_reads_the_rows(rows):
    data = headers(table_of(rows), np.zeros(1 << 20, np.uint8))
    with tarfile.open(fileobj=io.BytesIO(data + END), encoding="utf-8", errors="surrogateescape") as tar:
        found = tar.getmembers()
    assert len(found) == len(rows)
    for member, row in zip(found, rows, strict=True):
        assert member.name == text(row["path"]).rstrip("/")
        assert member.type == row["type"].encode()
        assert (member.mode, member.uid, member.gid) == (row["mode"], row["uid"], row["gid"])
        assert member.linkname == (text(row["link_target"]).rstrip("/") if row["type"] in "12" else "")
        assert Decimal(member.pax_headers.get("mtime", int(member.mtime))) * 10**9 == row["mtime_ns"]
        if row["type"] in "34":
            assert (member.devmajor, member.devminor) == (row["rdev_major"], row["rdev_minor"])
        assert member.uname == text(row.get("uname", b""))
        assert member.gname == text(row.get("gname", b""))
        if "atime_ns" in row:
            assert Decimal(member.pax_headers["atime"]) * 10**9 == row["atime_ns"]
        for name, value in row.get("xattrs", {}).items():
            if value and b"=" not in name:
                assert member.pax_headers[f"SCHILY.xattr.{text(name)}"] == text(value)


@given(st.lists(ROWS, min_size=1, max_size=3), st.booleans())
def test_output_and_columns_may_end_where_memory_ends(rows, libarchive):
    table = table_of(rows)
    whole = headers(table, np.zeros(1 << 20, np.uint8), libarchive_xattr=libarchive)
    table.columns = guarded_columns(table.columns)
    assert headers(table, guarded_bytes(len(whole)), libarchive_xattr=libarchive) == whole
    for cap in {min(cap, len(whole) - 1) for cap in (0, 1, 511, 512, 513, len(whole) // 2, len(whole))}:
        n, nbytes, _, _ = tarform.form(
            table.columns, guarded(np.arange(len(rows))), guarded_bytes(cap), libarchive_xattr=libarchive
        )
        assert n < len(rows)
        assert nbytes <= cap


@pytest.mark.parametrize("regions", [[], [(0, 1)], [(9, 1), (900_000, 100_000)], [(i * 1000, i + 1) for i in range(500)]])
def test_a_sparse_map_may_end_where_memory_ends(regions):
    table = table_of([{"path": "n" * 101, "size": 1_000_000, "sparse": regions}])
    rows = np.arange(1)
    nbytes = tarform.form(table.columns, rows, np.zeros(1 << 16, np.uint8), sparse=True)[1]
    columns = guarded_columns(table.columns)
    assert tarform.form(columns, rows, guarded_bytes(nbytes), sparse=True)[:2] == (1, nbytes)
    for cap in (0, nbytes - 1, nbytes - 512, nbytes - 513, 512, 1024):
        assert tarform.form(columns, rows, guarded_bytes(cap), sparse=True) == (0, 0, 0, 0)


@given(st.randoms(use_true_random=False), st.integers(0, 40))
def test_hostile_columns_never_leave_their_buffers(random, n_changes):
    table = table_of(
        [
            {"path": "a/b", "type": "5", "xattrs": {"user.a": b"1"}, "uname": "me", "pax": {"x": "y"}},
            {"path": "sp", "size": 5000, "sparse": [(0, 10), (100, 20)], "atime_ns": 7, "link_group": 1},
            {"path": "l", "type": "2", "link_target": "to", "link_group": 1},
        ]
    )
    columns = guarded_columns(table.columns)
    for _ in range(n_changes):
        at = random.randrange(len(COLUMNS))
        if columns[at] is not None and columns[at].size:
            raw = columns[at].view(np.uint8)
            where = random.randrange(len(raw))
            raw[where] = random.choice([0, 1, 127, 128, 255, random.randrange(256), raw[where] ^ 1])
    out, links = guarded_bytes(random.choice([512, 4096, 1 << 17])), guarded(np.full(3, -1, np.int32))
    for row in range(3):
        try:
            n, nbytes, payload, _ = tarform.form(
                columns, np.array([row]), out, 0, links, libarchive_xattr=bool(n_changes & 1), sparse=True
            )
        except ValueError:
            continue
        assert n in (0, 1)
        assert nbytes % BLOCK == 0
        assert payload >= 0


def test_columns_that_are_none():
    table = table_of([{"path": "a"}])
    out = np.zeros(512, np.uint8)
    for columns in (table.columns[:-1], (None, *table.columns[1:]), (*table.columns[:ARENA], None)):
        with pytest.raises(ValueError, match="column"):
            tarform.form(columns, np.arange(1), out)
    wrong = list(table.columns)
    wrong[0] = wrong[0].astype(np.uint16)
    with pytest.raises(ValueError, match="column 0"):
        tarform.form(tuple(wrong), np.arange(1), out)
