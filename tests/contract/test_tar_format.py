"""What the bytes of a tar mean: items 74 to 85."""

from __future__ import annotations

import hashlib
import os

import pytest

import lamella
from lamella.errors import LamellaError, LimitExceededError, TarFormatError
from lamella.model import Limits
from lamella.testing.listing import compare
from lamella.testing.tars import Member, block, char, directory, fifo, file, hardlink, layer_tar, pax_header, symlink
from lamella.testing.trees import File
from tests.contract.sparse import SPELLINGS, expanded, pax_10
from tests.contract.workbench import AS_ROOT, apply, diff, found, redone, shape, tree

SECOND = 1_000_000_000


def read(data: bytes, **options) -> list:
    """Read all entries: paths with what the table says of them."""
    with lamella.read_layer(data, **options) as reader:
        return list(reader.table())


def one(*members, style: str = "pax"):
    """Read the only entry."""
    (entry,) = read(layer_tar(members, style=style))
    return entry


PREFIX = {"name": b"name", "prefix": b"pre/fix"}


def test_074_ustars_prefix_and_name_are_joined():
    assert one(Member("x", header=PREFIX)).path == b"pre/fix/name"
    assert one(Member("x", header={"name": b"n" * 100, "prefix": b"p" * 155})).path == b"p" * 155 + b"/" + b"n" * 100


def test_074_gnu_has_no_prefix():
    assert one(Member("x", header={**PREFIX, "magic": b"ustar  \0"})).path == b"name"
    assert one(Member("x", header={**PREFIX, "magic": b""}), style="v7").path == b"name"


def long(flag: str, value: bytes) -> Member:
    return Member("././@LongLink", flag, value, style="gnu")


def test_074_long_names_and_links_of_gnu():
    entry = one(long("K", b"t" * 300 + b"\0"), long("L", b"d/" * 200 + b"f\0"), symlink("cut", "short"), style="gnu")
    assert (entry.path, entry.link_target) == (b"d/" * 200 + b"f", b"t" * 300)


@pytest.mark.parametrize("gnu_first", [False, True])
def test_074_pax_stands_above_gnu_and_gnu_above_ustar(gnu_first):
    pax = pax_header({"path": "pax/path", "linkpath": "pax/link"})
    gnu = [long("L", b"gnu/path\0"), long("K", b"gnu/link\0")]
    before = [*gnu, pax] if gnu_first else [pax, *gnu]
    entry = one(*before, symlink("x", "y", header=PREFIX))
    assert (entry.path, entry.link_target) == (b"pax/path", b"pax/link")
    assert one(*gnu, symlink("x", "y", header=PREFIX)).path == b"gnu/path"


def test_074_headers_hold_for_one_entry():
    data = layer_tar([pax_header({"path": "a", "mtime": "5"}), file("x"), long("L", b"b\0"), file("y"), file("z")])
    assert [(e.path, e.mtime) for e in read(data)] == [(b"a", 5), (b"b", 1_600_000_000), (b"z", 1_600_000_000)]


def test_075_global_headers_hold_for_all_that_follow(scratch):
    root = tree(scratch / "r")
    members = [
        file("before"),
        pax_header({"mtime": "77.5", "SCHILY.xattr.user.g": "1", "comment": "x"}, flag="g"),
        file("a"), file("own", pax={"mtime": "8"}), directory("d"),
        pax_header({"mtime": "99"}, flag="g"), file("later"),
    ]  # fmt: skip
    apply(root, *members)
    times = {p: found(root, p).mtime_ns for p in ("a", "own", "d", "later")}
    assert times == {"a": 77_500_000_000, "own": 8 * SECOND, "d": 77_500_000_000, "later": 99 * SECOND}
    xattrs = {p: found(root, p).xattrs for p in ("before", "a", "own", "d", "later")}
    assert xattrs == {**dict.fromkeys(("a", "own", "d", "later"), ((b"user.g", b"1"),)), "before": ()}
    assert set(shape(root)) == {"before", "a", "own", "d", "later"}


REGIONS = {
    "hole": [],
    "data": [(0, b"x" * 1000)],
    "hole first": [(4096, b"y" * 512), (1 << 20, b"z")],
    "many": [(i * 8192, bytes([i + 1]) * 512) for i in range(60)],
    "odd": [(1, b"a"), (3, b"b"), (513, b"c" * 511), (5000, b"")],
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("regions", REGIONS)
def test_076_sparse_files_are_expanded_in_every_spelling(scratch, spelling, regions):
    size = max((o + len(d) for o, d in REGIONS[regions]), default=0) + 10_000
    member = SPELLINGS[spelling]("dir/sparse", REGIONS[regions], size)
    entry = read(layer_tar([member, file("next", b"n")]))[0]
    assert (entry.path, entry.size) == (b"dir/sparse", size)
    root = tree(scratch / "r")
    apply(root, member, file("next", b"n"))
    assert shape(root) == {"dir": "dir", "dir/sparse": expanded(REGIONS[regions], size), "next": b"n"}
    stored = sum(len(data) + 8192 for _, data in REGIONS[regions])
    assert (root / "dir/sparse").stat().st_blocks * 512 <= stored


@pytest.mark.parametrize(
    "bad",
    [
        pax_10("f", [(0, b"x")], 10, map_text=b"1\n0\n" + bytes(508)),
        pax_10("f", [(0, b"x")], 10, map_text=b"-1\n".ljust(512, b"\0")),
        pax_10("f", [(0, b"x")], 10, map_text=b"2\n0\n1\n0\n1\n".ljust(512, b"\0")),
        pax_10("f", [(20, b"x")], 10),
        pax_10("f", [(0, b"x" * 600)], 1000, map_text=b"1\n0\n5000\n".ljust(512, b"\0")),
        pax_10("f", [], 10, map_text=b"1\n99999999999999999999\n1\n".ljust(512, b"\0")),
        SPELLINGS["0.1"]("f", [(2**62, b"x"), (2**62, b"y")], 2**62),
        SPELLINGS["0.0"]("f", [(9, b"x"), (3, b"y")], 20),
        SPELLINGS["old"]("f", [(0, b"x"), (100, b"y")], 50),
    ],
    ids=["short map", "negative", "overlap", "beyond", "more than stored", "huge", "2**62", "backwards", "old beyond"],
)
def test_076_a_map_that_does_not_fit_is_an_error(bad):
    with pytest.raises(TarFormatError):
        read(layer_tar([bad, file("next")]))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_076_the_length_of_a_map_is_limited(spelling):
    data = layer_tar([SPELLINGS[spelling]("f", [(i * 1024, b"x") for i in range(101)], 1 << 20)])
    assert len(read(data, limits=Limits(sparse_entries=101))) == 1
    with pytest.raises(LimitExceededError) as caught:
        read(data, limits=Limits(sparse_entries=100))
    assert caught.value.limit == "sparse_entries"


def test_076_sparse_files_are_written_on_request_only(scratch):
    root = tree(scratch / "r", File("f", b"x"))
    os.truncate(root / "f", 1 << 22)
    dense, thin = (diff(None, root, sparse=sparse)[1] for sparse in (None, "pax"))
    assert len(dense) > 1 << 22
    assert len(thin) < 20_000
    for data in (dense, thin):
        assert compare(redone(scratch, (), data), root) == []


def test_077_zero_runs_become_holes_on_request_only(scratch):
    content = b"x" + bytes(1 << 20) + b"y" * 5000 + bytes(100_000)
    for name, options, blocks in (("dense", {}, (1 << 20) // 512), ("thin", {"holes": True}, 64)):
        root = tree(scratch / name)
        apply(root, file("f", content), **options)
        assert shape(root) == {"f": content}
        used = (root / "f").stat().st_blocks
        assert used >= blocks if name == "dense" else used <= blocks


class Counting:
    """A sink that keeps nothing."""

    def __init__(self):
        self.nbytes = 0

    def write(self, data) -> int:
        self.nbytes += len(data)
        return len(data)

    def flush(self) -> None:
        """Do nothing."""


@pytest.mark.slow
def test_077_a_diff_warns_of_a_huge_hole(scratch):
    root = tree(scratch / "r", File("var/log/lastlog".replace("/", "-"), b"x"))
    os.truncate(root / "var-log-lastlog", (1 << 30) + 8192)
    sink = Counting()
    info = lamella.diff(None, root, sink, compression="none")
    assert sink.nbytes > 1 << 30
    assert len(info.warnings) == 1
    assert "var-log-lastlog" in str(info.warnings[0])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"0000644\0", 0o644),
        (b"   644 \0", 0o644), (b"644\0\0\0\0\0", 0o644), (b"00000644", 0o644), (b"    644 ", 0o644),
        (b"\x80\0\0\0\0\0\1\xa4", 0o644), (b"       \0", 0), (b"\0" * 8, 0), (b"0       ", 0),
    ],
)  # fmt: skip
def test_078_numbers_are_octal_or_base_256(field, value):
    entry = one(file("f", header={"mode": field, "uid": field, "gid": field}))
    assert (entry.mode, entry.uid, entry.gid) == (value, value, value)


@pytest.mark.parametrize(
    ("field", "seconds"),
    [
        (b"\xff" * 12, -1), (b"\xff" * 11 + b"\xfe", -2),
        (b"\x80" + bytes(3) + (2**62).to_bytes(8, "big"), 2**62),
        (b"\xff" * 4 + (2**64 - 2**40).to_bytes(8, "big"), -(2**40)),
        (b"00000000017 ", 15), (b"14000000000\0", 12 << 27),
    ],
)  # fmt: skip
def test_078_times_may_be_negative_in_base_256(field, seconds):
    assert one(file("f", header={"mtime": field})).mtime == seconds


@pytest.mark.parametrize("field", [b"0000008\0", b"-000644\0", b"0x644\0\0\0", b"6 4\0\0\0\0\0", b"\x81" * 8])
def test_078_other_numbers_are_errors(field):
    with pytest.raises(TarFormatError) as caught:
        one(file("f", header={"uid": field}))
    assert caught.value.offset is not None


def test_079_signed_and_unsigned_checksums_are_accepted():
    plain = layer_tar([file(b"\xff\xfe\x80", b"1")])
    header = plain[:148] + b" " * 8 + plain[156:512]
    signed = sum(b - 256 if b > 127 else b for b in header)
    data = plain[:148] + b"%06o\0 " % (signed & 0o777777) + plain[156:]
    assert read(plain)[0].path == read(data)[0].path == b"\xff\xfe\x80"


@pytest.mark.parametrize("chksum", [b"000000\0 ", b"777777\0 ", b" " * 8])
def test_079_a_wrong_one_is_an_error_with_its_place(chksum):
    with pytest.raises(TarFormatError) as caught:
        read(layer_tar([file("a"), file("f", header={"chksum": chksum})]))
    assert 512 <= caught.value.offset < 1024


ENDS = {
    "two": bytes(1024), "one": bytes(512), "none": b"", "padded": bytes(10240),
    "junk": bytes(1024) + b"after the end" * 99,
    "another tar": bytes(1024) + layer_tar([file("hidden")]),
}  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_080_every_end_is_accepted_and_all_of_it_hashed(scratch, end, compression):
    import gzip

    data = layer_tar([file("f", b"f"), file("g")], end=ENDS[end])
    root = tree(scratch / "r")
    result = lamella.apply(gzip.compress(data) if compression else data, root, rootless=not AS_ROOT)
    assert shape(root) == {"f": b"f", "g": b""}
    assert result.diff_id == "sha256:" + hashlib.sha256(data).hexdigest()
    assert result.uncompressed_size == len(data)
    with lamella.read_layer(data) as reader:
        assert [entry.path for entry in reader] == [b"f", b"g"]
        assert reader.diff_id == result.diff_id


@pytest.mark.parametrize("flag", ["0", "\0", "7"])
def test_081_three_flags_mean_a_file(scratch, flag):
    root = tree(scratch / "r")
    apply(root, Member("f", flag, b"content"))
    assert shape(root) == {"f": b"content"}


@pytest.mark.parametrize("flag", ["8", "9", "A", "I", "N", "X", "Z", "a", " ", "\xff"])
def test_081_an_unknown_flag_is_an_error(scratch, flag):
    root = tree(scratch / "r", File("old"))
    with pytest.raises(TarFormatError) as caught:
        apply(root, Member("etc/odd", flag, b"content"))
    assert caught.value.entry == b"etc/odd"
    assert shape(root) == {"old": b""}


@pytest.mark.parametrize("flag", ["V", "M", "D"])
def test_082_volumes_and_dumps_of_gnu_are_errors(scratch, flag):
    with pytest.raises(TarFormatError) as caught:
        apply(tree(scratch / "r"), Member("label", flag, b"", style="gnu"))
    assert caught.value.entry == b"label"


@pytest.mark.parametrize("style", ["pax", "gnu"])
def test_083_names_are_bytes(scratch, style):
    names = [b"\xff\xfe", b"caf\xe9/\xf0", "caf\u00e9".encode(), b"\x80" * 200, b"a\nb", b"\xed\xa0\x80"]
    root = tree(scratch / "r")
    apply(root, *(file(n) for n in names), symlink(b"s\xff", b"\xfe" * 150), hardlink(b"h\xff", names[0]), style=style)
    there = {os.fsencode(n) for n in shape(root)}
    assert there == {*names, b"caf\xe9", b"s\xff", b"h\xff"}
    data = diff(None, root)[1]
    assert compare(redone(scratch, (), data), root) == []
    assert {e.path for e in read(data) if e.path} == there


@pytest.mark.requires("root", "devices")
def test_084_the_body_of_what_has_no_content_is_skipped(scratch):
    body = b"b" * 700
    members = [
        Member("d/", "5", body), Member("s", "2", body, link="t"), Member("p", "6", body),
        Member("c", "3", body, major=1, minor=3),
        Member("b", "4", body, major=7, minor=9),
    ]  # fmt: skip
    root = tree(scratch / "r")
    apply(root, *(m for member in members for m in (member, file(f"after-{member.type}", b"1"))))
    expected = {"d": "dir", "s": "-> t", "p": "fifo", "c": ("char", 1, 3), "b": ("block", 7, 9)}
    assert shape(root) == {**expected, **{f"after-{n}": b"1" for n in "52634"}}


def test_084_devices_keep_their_numbers():
    big = (1 << 12, 1 << 20)
    for made, member in ((char("c", 1, 3), (1, 3)), (block("b", *big), big), (fifo("p"), (0, 0))):
        entry = one(made)
        assert (entry.rdev_major, entry.rdev_minor) == member


@pytest.mark.parametrize(
    "bad",
    [
        file("f", header={"size": b"\xff" * 12}),
        file("f", header={"size": b"\xff" * 8 + b"\0\0\0\0"}),
        file("f", header={"size": b"\x80" + b"\xff" * 11}),
        file("f", header={"size": b"-0000000001\0"}),
        file("f", pax={"size": "-1"}),
        file("f", pax={"size": str(2**63)}),
        file("f", pax={"size": str(2**64 + 1)}),
        file("f", pax={"size": "1e3"}),
        Member("f", "x", header={"size": b"\xff" * 12}),
        Member("f", "L", header={"size": b"\xff" * 12}),
    ],
)
def test_085_a_negative_or_absurd_size_is_an_error(bad):
    with pytest.raises(LamellaError):
        read(layer_tar([bad, file("next")]))
