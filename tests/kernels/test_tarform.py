"""tarform: every spelling of a row, pinned bytes, refusals, and where it stops."""

from __future__ import annotations

import hashlib
import io
import tarfile

import numpy as np
import pytest

from lamella._kernels import tarform
from lamella.columns import AT, F_ATIME, F_SPARSE
from lamella.errors import FormatError
from tests.reference.rows import table_of

BLOCK = 512
END = bytes(2 * BLOCK)


def form(rows, *, order=None, links=False, **options):
    """Return the headers of ``rows`` without content, and the number of xattrs left out."""
    table = table_of(rows)
    out = np.zeros(1 << 20, np.uint8)
    numbers = np.arange(len(table)) if order is None else np.array(order)
    group = np.full(len(table), -1, np.int32) if links else None
    at = nbytes = lost = 0
    while at < len(numbers):
        n, more, _, n_lost = tarform.form(table.columns, numbers, out[nbytes:], at, group, **options)
        assert n > 0
        at, nbytes, lost = at + n, nbytes + more, lost + n_lost
    return out[:nbytes].tobytes(), lost


def members(data: bytes):
    with tarfile.open(fileobj=io.BytesIO(data + END)) as tar:
        return tar.getmembers()


def records(data: bytes) -> list[tuple[bytes, bytes]]:
    """Read the records of the pax header at the beginning of ``data``, by their own length."""
    assert data[156:157] == b"x"
    body, out = data[BLOCK : BLOCK + int(data[124:135], 8)], []
    while body:
        length = int(body[: body.index(b" ")])
        key, _, value = body[body.index(b" ") + 1 : length - 1].partition(b"=")
        assert body[length - 1 : length] == b"\n"
        out.append((key, value))
        body = body[length:]
    return out


def header_of(data: bytes) -> bytes:
    """Return the entry's own header, behind the pax header if there is one."""
    if data[156:157] != b"x":
        return data[:BLOCK]
    skip = BLOCK + -(-int(data[124:135], 8) // BLOCK) * BLOCK
    return data[skip : skip + BLOCK]


FIXED = [
    {"path": "", "type": "5", "mtime": 1_700_000_000},
    {"path": "etc", "type": "5", "mode": 0o1777, "mtime": 1},
    {"path": "etc/passwd", "mode": 0o4755, "uid": 7, "gid": 2_097_151, "mtime_ns": 1_234_567_890_123_456_789},
    {"path": "etc/" + "n" * 101, "uname": "u" * 31, "gname": "g" * 32},
    {"path": "p" * 155 + "/" + "n" * 100, "mtime_ns": -1},
    {"path": "d" * 99, "type": "5"},
    {"path": "d" * 100, "type": "5", "uid": 2_097_152, "gid": 4_294_967_294},
    {"path": "link", "type": "2", "link_target": "/" + "t" * 99, "mode": 0o777},
    {"path": "longlink", "type": "2", "link_target": "t" * 101, "mode": 0o777},
    {"path": "hard", "type": "1", "link_target": "etc/passwd"},
    {"path": "null", "type": "3", "rdev_major": 1, "rdev_minor": 3},
    {"path": "disk", "type": "4", "rdev_major": 4_294_967_295, "rdev_minor": 2_097_151},
    {"path": "pipe", "type": "6", "mtime": 0o77777777777 + 1},
    {"path": b"raw\xff\n", "xattrs": {"user.b": b"1\n\0", "user.a": b"0"}, "pax": {"comment": "kept"}, "atime_ns": 5},
    {"path": "empty-xattr", "xattrs": {"user.none": b"", "user.a=b": b"x"}},
]


def test_the_bytes_are_pinned():
    # a change here changes every diff_id: it is a change of format
    data, lost = form(FIXED)
    assert lost == 2
    assert hashlib.sha256(data).hexdigest() == GOLDEN
    more, lost = form(FIXED, libarchive_xattr=True, clamp_mtime=1_000_000_000)
    assert lost == 0
    assert hashlib.sha256(more).hexdigest() == GOLDEN_OPTIONS


GOLDEN = "1ab5b54ab7535bdb30311d545a5af2b88d2d467abb0ab732e159467876bcaecc"
GOLDEN_OPTIONS = "f2d20b8988a06a6122bb5c1623d10548b0cb622b4c959a2ae929785af8901bdf"


def test_a_plain_file_is_one_ustar_block():
    data, _ = form([{"path": "a/b", "mode": 0o640, "uid": 1, "gid": 2, "mtime": 3, "uname": "me", "gname": "us"}])
    assert len(data) == BLOCK
    fields = {0: b"a/b\0", 100: b"0000640\0", 108: b"0000001\0", 116: b"0000002\0", 124: b"00000000000\0"}
    fields |= {136: b"00000000003\0", 156: b"0\0", 257: b"ustar\x0000", 265: b"me\0", 297: b"us\0"}
    fields |= {329: b"0000000\0", 337: b"0000000\0"}
    for at, text in fields.items():
        assert data[at : at + len(text)] == text
    total = sum(data) - sum(data[148:156]) + 8 * 32
    assert data[148:156] == b"%06o\0 " % total


def test_the_root_is_dot_slash():
    data, _ = form([{"path": "", "type": "5"}])
    assert data[:4] == b"./\0\0"
    data, _ = form([{"path": "", "type": "5", "mtime_ns": 1}])
    assert data[:13] == b"PaxHeaders/.\0"
    assert records(data) == [(b"mtime", b"0.000000001")]


def test_the_pax_header_has_canonical_metadata():
    data, _ = form([{"path": "some/" + "n" * 200, "mode": 0o4711, "uid": 5, "gid": 6, "mtime": 7, "uname": "me"}])
    (member,) = members(data)
    assert member.name == "some/" + "n" * 200
    assert data[:100] == b"PaxHeaders/" + b"n" * 89
    assert [int(data[at : at + 7], 8) for at in (100, 108, 116, 136)] == [0o644, 0, 0, 0]
    assert data[265:329] == bytes(64)
    assert data[257:265] == b"ustar\x0000"


@pytest.mark.parametrize("n", [1, 99, 100, 101, 154, 155, 156, 157, 255, 256, 257, 258, 4095, 65_000])
@pytest.mark.parametrize("kind", ["0", "5"])
def test_a_path_of_one_component(n, kind):
    (member,) = members(form([{"path": "n" * n, "type": kind}])[0])
    assert (member.name, member.type) == ("n" * n, kind.encode())


@pytest.mark.parametrize("kind", ["0", "5"])
def test_a_path_is_split_where_it_fits(kind):
    for before in (1, 54, 55, 100, 154, 155, 156, 200):
        for behind in (1, 98, 99, 100, 101):
            path = "p" * before + "/" + "n" * behind
            data, _ = form([{"path": path, "type": kind}])
            assert members(data)[0].name == path
            fits = before + 1 + behind + (kind == "5") <= 100 or (before <= 155 and behind + (kind == "5") <= 100)
            assert (len(data) == BLOCK) == fits, (before, behind)


def test_the_split_is_at_the_last_slash_that_fits():
    data, _ = form([{"path": "/".join(["abcdefghi"] * 20)}])  # 199 bytes, a slash at every tenth
    assert data[345 : 345 + 150] == b"/".join([b"abcdefghi"] * 15) + b"\0"


@pytest.mark.parametrize("path", ["//" + "n" * 99, "a" * 120 + "//" + "b" * 90, "x/" * 127 + "y", "/" * 120 + "z"])
def test_odd_slashes_come_back(path):
    data, _ = form([{"path": path}])
    name = members(data)[0].name
    assert name == path


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (-1, b"-0.000000001"),
        (-500_000_000, b"-0.5"),
        (-1_750_000_000, b"-1.75"),
        (-(10**9), b"-1"),
        (-(10**9) - 1, b"-1.000000001"),
        (1, b"0.000000001"),
        (1_500_000_000, b"1.5"),
        (0o100000000000 * 10**9, b"8589934592"),
        ((2**63 - 1) * 10**9 + 999_999_999, b"9223372036854775807.999999999"),
        (-(2**63) * 10**9, b"-9223372036854775808"),
        (-(2**63) * 10**9 + 1, b"-9223372036854775807.999999999"),
    ],
)
def test_times_that_the_field_cannot_hold(ns, text):
    data, _ = form([{"path": "a", "mtime_ns": ns}])
    assert records(data) == [(b"mtime", text)]
    seconds = ns // 10**9
    assert int(header_of(data)[136:147], 8) == (seconds if 0 <= seconds < 8**11 else 0)


@pytest.mark.parametrize("seconds", [0, 1, 0o77777777777])
def test_whole_seconds_need_no_record(seconds):
    data, _ = form([{"path": "a", "mtime": seconds}])
    assert (len(data), int(data[136:147], 8)) == (BLOCK, seconds)


def test_only_later_times_are_clamped():
    rows = [{"path": "a", "mtime_ns": ns} for ns in (99 * 10**9, 100 * 10**9, 100 * 10**9 + 1, 101 * 10**9, -(10**9))]
    found = [member.mtime for member in members(form(rows, clamp_mtime=100)[0])]
    assert found == [99, 100, 100, 100, -1]
    assert members(form(rows[:1], clamp_mtime=-7)[0])[0].mtime == -7


def test_atime_is_written_where_the_row_has_one():
    assert records(form([{"path": "a", "atime_ns": -1}])[0]) == [(b"atime", b"-0.000000001")]
    assert records(form([{"path": "a", "atime_ns": 3 * 10**9}])[0]) == [(b"atime", b"3")]
    table = table_of([{"path": "a", "atime_ns": 3}])
    table.columns[AT["flags"]][0] ^= F_ATIME
    out = np.zeros(4096, np.uint8)
    assert tarform.form(table.columns, np.arange(1), out)[1] == BLOCK


def test_large_owners():
    data, _ = form([{"path": "a", "uid": 2_097_152, "gid": 2**32 - 2}])
    assert records(data) == [(b"gid", b"4294967294"), (b"uid", b"2097152")]
    assert header_of(data)[108:124] == b"0000000\0" * 2
    assert len(form([{"path": "a", "uid": 2_097_151}])[0]) == BLOCK


def test_large_sizes():
    data, _ = form([{"path": "a", "size": 8**11 - 1}])
    assert (len(data), data[124:136]) == (BLOCK, b"77777777777\0")
    data, _ = form([{"path": "a", "size": 2**63 - 1}])
    assert records(data) == [(b"size", b"9223372036854775807")]
    assert header_of(data)[124:136] == b"00000000000\0"


def test_devices():
    for value in (0, 1, 2_097_151, 2_097_152, 2**32 - 1):
        (member,) = members(form([{"path": "d", "type": "4", "rdev_major": value, "rdev_minor": value}])[0])
        assert (member.devmajor, member.devminor, member.type) == (value, value, b"4")
    data, _ = form([{"path": "f", "rdev_major": 5, "rdev_minor": 5}])
    assert data[329:345] == b"0000000\0" * 2


def test_only_files_have_a_size():
    rows = [{"path": "x", "type": kind, "size": 99, "link_target": "t"} for kind in "123456"]
    data, _ = form(rows)
    assert len(data) == 6 * BLOCK
    assert all(data[at + 124 : at + 136] == b"00000000000\0" for at in range(0, len(data), BLOCK))


def test_only_links_have_a_target():
    data, _ = form([{"path": "x", "type": kind, "link_target": "t"} for kind in "012"])
    assert [data[at + 157 : at + 159] for at in range(0, len(data), BLOCK)] == [b"\0\0", b"t\0", b"t\0"]


def test_long_targets_and_owner_names():
    data, _ = form([{"path": "a", "type": "2", "link_target": "t" * 101, "uname": "u" * 32, "gname": b"\xff" * 32}])
    assert records(data) == [(b"gname", b"\xff" * 32), (b"linkpath", b"t" * 101), (b"uname", b"u" * 32)]
    assert header_of(data)[157:257] == b"t" * 100
    assert header_of(data)[265:329] == bytes(64)


def test_xattrs_are_raw_and_records_are_in_order():
    xattrs = {b"user.\xff": b"\0\n=", b"security.capability": bytes(range(20))}
    data, lost = form([{"path": "n" * 101, "xattrs": xattrs, "uid": 1 << 24, "mtime_ns": 1, "pax": {"a": "1", "z": "2"}}])
    found = records(data)
    assert lost == 0
    assert found[0] == (b"SCHILY.xattr.security.capability", bytes(range(20)))
    assert found[1] == (b"SCHILY.xattr.user.\xff", b"\0\n=")
    assert [key for key, _ in found[2:]] == [b"mtime", b"path", b"uid", b"a", b"z"]


def test_110_an_empty_xattr_is_left_out_and_counted():
    data, lost = form([{"path": "a", "xattrs": {"user.x": b"", "user.y": b"1"}}, {"path": "b", "xattrs": {"user.x": b""}}])
    assert lost == 2
    assert [m.pax_headers for m in members(data)] == [{"SCHILY.xattr.user.y": "1"}, {}]


def test_110_libarchive_form_carries_it_on_request():
    xattrs = {b"user.e": b"", b"user.=%\xff ~": b"abcd", b"user.y": b"\xfb\xff\xbf"}
    data, lost = form([{"path": "a", "xattrs": xattrs}], libarchive_xattr=True)
    assert lost == 0
    assert records(data) == [
        (b"LIBARCHIVE.xattr.user.%3D%25%FF%20~", b"YWJjZA"),
        (b"LIBARCHIVE.xattr.user.e", b""),
        (b"LIBARCHIVE.xattr.user.y", b"+/+/"),
        (b"SCHILY.xattr.user.y", b"\xfb\xff\xbf"),
    ]


def test_every_record_counts_itself():
    for n in [*range(1, 130), *range(960, 1010), *range(9_960, 10_010)]:
        assert records(form([{"path": "a", "pax": {"k": "v" * n}}])[0]) == [(b"k", b"v" * n)]


def test_a_keyword_without_a_value_is_left_out():
    assert records(form([{"path": "a", "pax": {"k": "", "l": "1"}}])[0]) == [(b"l", b"1")]
    assert len(form([{"path": "a", "pax": {"k": ""}}])[0]) == BLOCK


@pytest.mark.parametrize(
    "keyword",
    [
        "path",
        "linkpath",
        "size",
        "uid",
        "gid",
        "mtime",
        "atime",
        "uname",
        "gname",
        "GNU.sparse.size",
        "SCHILY.xattr.x",
        "LIBARCHIVE.xattr.x",
        "SCHILY.realsize",
        "",
        "a=b",
        "a\0b",
    ],
)
def test_a_keyword_that_a_column_holds_is_refused(keyword):
    with pytest.raises(FormatError, match="keyword") as caught:
        form([{"path": "x"}, {"path": "it", "pax": {keyword: "1"}}])
    assert caught.value.entry == b"it"


BAD_ROWS = {
    "type": ({"path": "it"}, {"type": ord("7")}),
    "type-nul": ({"path": "it"}, {"type": 0}),
    "size": ({"path": "it"}, {"size": -1}),
    "nsec": ({"path": "it"}, {"mtime_nsec": 10**9}),
    "nul": ({"path": "i\0t"}, {}),
    "nul-target": ({"path": "it", "type": "2", "link_target": "a\0"}, {}),
    "no-name": ({"path": ""}, {}),
    "uname": ({"path": "it", "uname": "a\0b"}, {}),
    "xattr": ({"path": "it", "xattrs": {b"a\0b": b"1"}}, {}),
    "no-xattr-name": ({"path": "it", "xattrs": {b"": b"1"}}, {}),
    "extras": ({"path": "it", "uname": "me"}, {"ext_len": 6}),
    "extras-end": ({"path": "it", "uname": "me"}, {"ext_len": 8}),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_what_tar_cannot_hold_is_refused(name):
    row, columns = BAD_ROWS[name]
    table = table_of([{"path": "fine"}, row])
    for column, value in columns.items():
        table.columns[AT[column]][1] = value
    with pytest.raises(FormatError) as caught:
        tarform.form(table.columns, np.arange(2), np.zeros(4096, np.uint8))
    assert caught.value.entry == table.path(1)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("name_off", -1),
        ("name_off", 1 << 40),
        ("name_off", 2**63 - 1),
        ("path_len", 65_535),
        ("link_len", 65_535),
        ("ext_off", -1),
        ("ext_off", 2**63 - 1),
        ("ext_len", 2**32 - 1),
    ],
)
def test_a_row_outside_the_arena_is_a_value_error(column, value):
    table = table_of([{"path": "it", "uname": "me"}])
    table.columns[AT[column]][0] = value
    with pytest.raises(ValueError, match="outside the arena"):
        tarform.form(table.columns, np.arange(1), np.zeros(4096, np.uint8))


def test_row_numbers_outside_the_table():
    table = table_of([{"path": "it"}])
    for row in (-1, 1, 2**62):
        with pytest.raises(ValueError, match="row"):
            tarform.form(table.columns, np.array([row]), np.zeros(4096, np.uint8))
    with pytest.raises(ValueError, match="row 2 of 1"):
        tarform.form(table.columns, np.arange(1), np.zeros(4096, np.uint8), 2)


def test_nothing_is_legal():
    table = table_of([])
    assert tarform.form(table.columns, np.zeros(0, np.int64), np.zeros(0, np.uint8)) == (0, 0, 0, 0)
    table = table_of([{"path": "a"}])
    assert tarform.form(table.columns, np.arange(1), np.zeros(0, np.uint8)) == (0, 0, 0, 0)


def test_it_stops_behind_a_row_with_content():
    table = table_of([{"path": "a"}, {"path": "b", "size": 700}, {"path": "c"}])
    out = np.zeros(4096, np.uint8)
    assert tarform.form(table.columns, np.arange(3), out) == (2, 2 * BLOCK, 700, 0)
    assert tarform.form(table.columns, np.arange(3), out, 2) == (1, BLOCK, 0, 0)
    assert tarform.form(table.columns, np.arange(3), out, 3) == (0, 0, 0, 0)


@pytest.mark.parametrize("cap", [512, 513, 1024, 1535, 1536, 2000, 2048, 2560, 5000])
def test_the_bytes_do_not_depend_on_the_room(cap):
    table = table_of(FIXED)
    rows, whole = np.arange(len(table)), form(FIXED)[0]
    out, at, data, lost = np.zeros(cap, np.uint8), 0, b"", 0
    while at < len(rows):
        n, nbytes, payload, n_lost = tarform.form(table.columns, rows, out, at)
        if n == 0:
            assert nbytes == n_lost == payload == 0
            n, nbytes, _, n_lost = tarform.form(table.columns, rows[at : at + 1], bigger := np.zeros(4096, np.uint8))
            data += bigger[:nbytes].tobytes()
        else:
            data += out[:nbytes].tobytes()
        at, lost = at + n, lost + n_lost
    assert data == whole
    assert lost == 2


def test_hard_link_sets():
    rows = [{"path": p, "type": k, "link_group": g, "link_target": t, "size": s} for p, k, g, t, s in [
        ("a", "0", 0, "", 5), ("b", "0", 0, "", 5), ("s", "2", 2, "to", 0), ("t", "2", 2, "to", 0),
        ("n", "3", 4, "", 0), ("m", "3", 4, "", 0), ("alone", "0", -1, "", 0),
        ("c", "0", 0, "", 5),
        ("own", "1", 0, "own-target", 0),
    ]]  # fmt: skip
    found = []
    for order in (list(range(9)), [7, 3, 1, 2, 0, 5, 4, 6, 8]):
        data, _ = form(rows, order=order, links=True)
        heads = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
        found.append([(h[:100].rstrip(b"\0"), h[156:157], h[157:257].rstrip(b"\0"), int(h[124:135], 8)) for h in heads])
    assert found[0] == [
        (b"a", b"0", b"", 5), (b"b", b"1", b"a", 0), (b"s", b"2", b"to", 0), (b"t", b"1", b"s", 0),
        (b"n", b"3", b"", 0), (b"m", b"1", b"n", 0), (b"alone", b"0", b"", 0), (b"c", b"1", b"a", 0),
        (b"own", b"1", b"own-target", 0),
    ]  # fmt: skip
    assert [(path, kind, to) for path, kind, to, _ in found[1]] == [
        (b"c", b"0", b""), (b"t", b"2", b"to"), (b"b", b"1", b"c"), (b"s", b"1", b"t"), (b"a", b"1", b"c"),
        (b"m", b"3", b""), (b"n", b"1", b"m"), (b"alone", b"0", b""), (b"own", b"1", b"own-target"),
    ]  # fmt: skip


def test_links_that_name_no_row_are_ignored():
    table = table_of([{"path": "a", "link_group": 0}, {"path": "b", "link_group": 7}])
    out = np.zeros(4096, np.uint8)
    assert tarform.form(table.columns, np.arange(2), out, 0, np.array([99], np.int32))[0] == 2
    assert out[156] == out[BLOCK + 156] == ord("0")


def sparse_entry(size, regions, **options):
    data, _ = form([{"path": "d/holes", "size": size, "sparse": regions}], sparse=True, **options)
    head = header_of(data)
    text = data[data.index(head) + BLOCK :]
    return dict(records(data)), head, text


def test_76_sparse_rows_are_pax_1_0():
    keys, head, text = sparse_entry(1 << 20, [(4096, 10), (8192, 0), (1 << 19, 512)])
    assert keys == {
        b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.name": b"d/holes",
        b"GNU.sparse.realsize": b"1048576",
    }  # fmt: skip
    assert head[:24] == b"GNUSparseFile.0/holes\0\0\0"
    assert text == b"3\n4096\n10\n524288\n512\n1048576\n0\n".ljust(BLOCK, b"\0")
    assert int(head[124:135], 8) == BLOCK + 522


def test_sparse_maps_at_their_edges():
    assert sparse_entry(100, [])[2].rstrip(b"\0") == b"1\n100\n0\n"
    assert sparse_entry(100, [(0, 100)])[2].rstrip(b"\0") == b"1\n0\n100\n"
    assert sparse_entry(100, [(90, 10)])[2].rstrip(b"\0") == b"1\n90\n10\n"
    keys, head, text = sparse_entry(1 << 62, [(i * 1000, 1) for i in range(400)])
    assert text.count(b"\n") == 803
    assert len(text) % BLOCK == 0
    keys, head, _ = sparse_entry(2**63 - 1, [(0, 2**62)])
    assert int(keys[b"size"]) == 2**62 + BLOCK
    assert head[124:136] == b"00000000000\0"


def test_a_sparse_row_is_dense_unless_asked():
    table = table_of([{"path": "a", "size": 1000, "sparse": [(0, 1)]}])
    out = np.zeros(4096, np.uint8)
    assert tarform.form(table.columns, np.arange(1), out) == (1, BLOCK, 1000, 0)
    assert tarform.form(table.columns, np.arange(1), out, sparse=True)[2] == 1
    table.columns[AT["flags"]][0] ^= F_SPARSE
    assert tarform.form(table.columns, np.arange(1), out, sparse=True)[2] == 1000


@pytest.mark.parametrize(
    "regions",
    [
        [(5, 5), (0, 1)],
        [(0, 5), (4, 1)],
        [(0, 101)],
        [(101, 0)],
        [(-1, 5)],
        [(0, -1)],
        [(2**63 - 1, 2**63 - 1)],
        [(100, 1)],
    ],
)
def test_wrong_regions_are_refused(regions):
    with pytest.raises(FormatError, match="regions"):
        sparse_entry(100, regions)


def test_regions_of_a_torn_length_are_refused():
    table = table_of([{"path": "a", "size": 1000, "sparse": [(0, 1)]}])
    table.columns[AT["ext_len"]][0] -= 8
    arena = table.columns[AT["arena"]]
    arena[1 + 3 : 1 + 7] = np.frombuffer((8).to_bytes(4, "little"), np.uint8)
    with pytest.raises(FormatError, match="extras"):
        tarform.form(table.columns, np.arange(1), np.zeros(4096, np.uint8), sparse=True)


def test_an_atime_of_a_torn_length_is_refused():
    table = table_of([{"path": "a", "atime_ns": 5}])
    table.columns[AT["ext_len"]][0] -= 4
    table.columns[AT["arena"]][1 + 3] = 8
    with pytest.raises(FormatError, match="extras"):
        tarform.form(table.columns, np.arange(1), np.zeros(4096, np.uint8))
    table = table_of([{"path": "a", "atime_ns": 5}])
    table.columns[AT["arena"]][-4:] = 255
    with pytest.raises(FormatError, match="time"):
        tarform.form(table.columns, np.arange(1), np.zeros(4096, np.uint8))
