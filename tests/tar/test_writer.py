"""write_layer and write_rows: where content comes from, what is reported, what is refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile

import numpy as np
import pytest
import zstandard

from lamella.columns import AT, F_GHOST, F_IMPLIED
from lamella.errors import FormatError, LimitExceededError
from lamella.model import IdMap, Limits, Progress
from lamella.tar import writer as writer_module
from lamella.tar.reader import read_layer
from lamella.tar.writer import LayerInfo, TarOptions, write_layer, write_rows
from tests.kernels.packing import holes, lay
from tests.reference.rows import table_of

EMPTY_DIFF_ID = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
FILES = {"a": b"1", "d/b": b"x" * 700, "d/empty": b"", "e/" + "n" * 150: bytes(range(256)) * 9_000}


@pytest.fixture
def table(scratch):
    return table_of(lay(scratch / "root", FILES), origin="tree", order="path")


def plain(table, **options) -> tuple[bytes, LayerInfo]:
    out = io.BytesIO()
    info = write_layer(table, out, compression="none", **options)
    return out.getvalue(), info


def contents(tar: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as file:
        return {m.name: file.extractfile(m).read() for m in file if m.isreg()}


def by_row(table):
    return lambda row: FILES[os.fsdecode(table.path(row))]


def test_content_from_a_directory_a_function_and_a_reader_is_the_same_layer(scratch, table):
    tar, info = plain(table, payload=scratch / "root")
    assert contents(tar) == FILES
    assert plain(table, payload=str(scratch / "root"))[0] == tar
    assert plain(table, payload=by_row(table)) == (tar, info)
    with read_layer(tar) as reader:
        read = reader.table()
        assert plain(read, payload=reader) == (tar, info)
    blob = gzip.compress(tar)
    with read_layer(blob) as first, read_layer(blob) as second:
        assert plain(first.table(), payload=second) == (tar, info)


def test_what_is_reported(table):
    tar, info = plain(table, payload=by_row(table))
    digest = "sha256:" + hashlib.sha256(tar).hexdigest()
    assert info == LayerInfo(
        media_type="application/vnd.oci.image.layer.v1.tar",
        digest=digest,
        diff_id=digest,
        size=len(tar),
        uncompressed_size=len(tar),
        entries=len(table),
        codec=info.codec,
        warnings=(),
    )
    assert info.descriptor() == {"mediaType": info.media_type, "digest": digest, "size": len(tar)}
    assert type(info.descriptor()["digest"]) is str


@pytest.mark.parametrize(
    ("compression", "decompress", "suffix"),
    [
        ("gzip", gzip.decompress, "+gzip"),
        ("zstd", lambda b: zstandard.ZstdDecompressor().decompressobj().decompress(b), "+zstd"),
    ],
)
def test_090_the_diff_id_is_the_tars_and_the_digest_the_blobs(scratch, table, compression, decompress, suffix):
    tar, plain_info = plain(table, payload=by_row(table))
    info = write_layer(table, scratch / "out", payload=by_row(table), compression=compression, level=3)
    blob = (scratch / "out").read_bytes()
    assert decompress(blob) == tar
    assert info.diff_id == plain_info.diff_id
    assert info.digest == "sha256:" + hashlib.sha256(blob).hexdigest()
    assert (info.size, info.uncompressed_size) == (len(blob), len(tar))
    assert info.media_type == plain_info.media_type + suffix
    assert "level 3" in info.codec


def test_gzip_is_the_default(table):
    out = io.BytesIO()
    assert write_layer(table, out, payload=by_row(table)).media_type.endswith("+gzip")
    assert out.getvalue()[:2] == b"\x1f\x8b"


def test_040_the_empty_layer():
    tar, info = plain(table_of([]), payload=lambda row: b"")
    assert tar == bytes(1024)
    assert (info.diff_id, info.entries) == (EMPTY_DIFF_ID, 0)


def test_rows_are_in_the_tables_order_or_the_callers(scratch, table):
    out = io.BytesIO()
    rows = [3, 1, 4]
    info = write_rows(table, out, root=scratch / "root", rows=rows, compression="none")
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as file:
        assert [os.fsencode(m.name) for m in file] == [table.path(row) for row in rows]
    assert info.entries == 3
    fd = os.open(scratch / "root", os.O_RDONLY)
    try:
        for some in (rows, iter(rows), np.array(rows, np.int32), range(3)):
            again = io.BytesIO()
            write_rows(table, again, root=fd, rows=some, compression="none")
            assert (again.getvalue() == out.getvalue()) == (not isinstance(some, range))
        os.fstat(fd)
    finally:
        os.close(fd)


def test_no_rows_means_all_of_them(scratch, table):
    out = io.BytesIO()
    assert write_rows(table, out, root=scratch / "root", compression="none").entries == len(table)
    assert out.getvalue() == plain(table, payload=scratch / "root")[0]


@pytest.mark.parametrize("rows", [[-1], [99], [0, 1 << 40]])
def test_row_numbers_outside_the_table(scratch, table, rows):
    with pytest.raises(ValueError, match="outside the table"):
        write_rows(table, io.BytesIO(), root=scratch / "root", rows=rows)


def test_107_ghosts_and_implied_parents_are_left_out():
    table = table_of(
        [{"path": "a"}, {"path": "g", "flags": F_GHOST}, {"path": "i", "type": "5", "flags": F_IMPLIED}, {"path": "i/b"}]
    )
    tar, info = plain(table, payload=lambda row: b"")
    with tarfile.open(fileobj=io.BytesIO(tar)) as file:
        assert file.getnames() == ["a", "i/b"]
    assert info.entries == 2


def test_101_what_changed_meanwhile_is_a_warning(scratch, table):
    (scratch / "root/a").unlink()
    (scratch / "root/d/b").write_bytes(b"short")
    with (scratch / "root/e" / ("n" * 150)).open("ab") as file:
        file.write(b"more")
    tar, info = plain(table, payload=scratch / "root")
    found = contents(tar)
    assert "a" not in found
    assert found["d/b"] == b"short".ljust(700, b"\0")
    assert found["e/" + "n" * 150] == FILES["e/" + "n" * 150]
    assert [w.partition(" while")[0] for w in info.warnings] == [
        "'a' vanished", "'d/b' shrank", f"'e/{'n' * 150}' grew",
    ]  # fmt: skip
    assert info.entries == len(table) - 1


@pytest.mark.parametrize("data", [b"", b"12", b"1234"])
def test_content_of_another_size_is_refused(scratch, data):
    table = table_of([{"path": "it", "size": 3}])
    with pytest.raises(FormatError, match="its row says 3") as caught:
        write_layer(table, scratch / "out", payload=lambda row: data)
    assert caught.value.entry == b"it"
    assert list(scratch.iterdir()) == []


def test_a_row_that_tar_cannot_hold_leaves_no_file(scratch):
    table = table_of([{"path": "it", "pax": {"size": "1"}}])
    for payload in (scratch, lambda row: b""):
        with pytest.raises(FormatError) as caught:
            write_layer(table, scratch / "out", payload=payload)
        assert caught.value.entry == b"it"
    assert list(scratch.iterdir()) == []


def test_an_error_below_a_root_has_the_whole_path(scratch):
    table = table_of([{"path": "d/" + "n" * 256, "size": 3}])
    with pytest.raises(OSError, match="too long") as caught:
        write_layer(table, scratch / "out", payload=scratch)
    assert caught.value.filename == f"{scratch}/d/{'n' * 256}"
    fd = os.open(scratch, os.O_PATH)
    with pytest.raises(OSError, match="too long") as caught:
        write_rows(table, scratch / "out", root=fd)
    os.close(fd)
    assert caught.value.filename == b"d/" + b"n" * 256


def test_a_root_that_is_none(scratch, table):
    with pytest.raises(FileNotFoundError):
        write_layer(table, scratch / "out", payload=scratch / "nowhere")
    with pytest.raises(NotADirectoryError):
        write_layer(table, scratch / "out", payload=scratch / "root/a")
    assert not (scratch / "out").exists()


def test_wrong_options(table):
    with pytest.raises(ValueError, match="sparse"):
        write_layer(table, io.BytesIO(), payload=by_row(table), sparse="gnu")
    with pytest.raises(ValueError, match="lzma"):
        write_layer(table, io.BytesIO(), payload=by_row(table), compression="lzma")
    with pytest.raises(TypeError):
        write_layer(table, io.BytesIO(), payload=5)


def test_061_later_mtimes_are_clamped():
    table = table_of([{"path": "a", "mtime_ns": 5 * 10**9}, {"path": "b", "mtime_ns": 20 * 10**9 + 1}])
    tar, _ = plain(table, payload=lambda row: b"", clamp_mtime=10)
    with tarfile.open(fileobj=io.BytesIO(tar)) as file:
        assert [m.mtime for m in file] == [5, 10]


def test_110_empty_xattrs_are_one_warning():
    table = table_of([{"path": n, "xattrs": {"user.a": b"", "user.b": b""}} for n in "ab"])
    _, info = plain(table, payload=lambda row: b"")
    assert len(info.warnings) == 1
    assert info.warnings[0].startswith("4 extended attributes left out")
    tar, info = plain(table, payload=lambda row: b"", libarchive_xattr=True)
    assert info.warnings == ()
    with read_layer(tar) as reader:
        assert [entry.xattrs for entry in reader] == [{b"user.a": b"", b"user.b": b""}] * 2


def test_headers_larger_than_a_buffer(scratch):
    xattrs = {f"user.{n:03}": bytes([n]) * 60_000 for n in range(40)}
    table = table_of([{"path": "a", "size": 1}, {"path": "b", "size": 3, "xattrs": xattrs}, {"path": "c", "size": 1}])
    for name, data in {"a": b"1", "b": b"123", "c": b"1"}.items():
        (scratch / name).write_bytes(data)
    tar, _ = plain(table, payload=scratch)
    assert len(tar) > 2_400_000
    assert plain(table, payload=lambda row: [b"1", b"123", b"1"][row])[0] == tar
    with read_layer(tar, limits=Limits(pax_bytes=1 << 22)) as reader:
        again = reader.table()
        assert again.xattrs(1) == {os.fsencode(k): v for k, v in xattrs.items()}
        assert reader.read(again[2]) == b"1"


def test_070_ids_of_the_host_become_the_containers():
    table = table_of([{"path": p, "uid": u, "gid": g} for p, u, g in [("a", 100_000, 200_005), ("b", 1000, 200_000)]])
    idmap = IdMap.parse("0:100000:65536,70000:1000:1", "0:200000:10")
    tar, _ = plain(table, payload=lambda row: b"", idmap=idmap)
    with tarfile.open(fileobj=io.BytesIO(tar)) as file:
        assert [(m.uid, m.gid) for m in file] == [(0, 5), (70_000, 0)]
    assert table.uid.tolist() == [100_000, 1000]


@pytest.mark.parametrize(
    ("uid", "ranges", "found"),
    [
        (5, "0:0:10", 5), (9, "0:0:10", 9), (7, "100:7:1,200:0:10", 100), (2**32 - 2, f"0:{2**32 - 2}:1", 0),
        (4, f"{2**32 - 3}:3:99", 2**32 - 2), (3, f"7:{2**70}:5,1:3:1", 1), (0, f"3:0:{2**80}", 3),
    ],
)  # fmt: skip
def test_070_ranges(uid, ranges, found):
    tar, _ = plain(table_of([{"path": "a", "uid": uid}]), payload=lambda row: b"", idmap=IdMap.parse(ranges, "0:0:1"))
    with tarfile.open(fileobj=io.BytesIO(tar)) as file:
        assert file.getmember("a").uid == found


@pytest.mark.parametrize(
    ("uid", "ranges"), [(10, "0:0:10"), (0, "0:1:10"), (5, f"{2**32 - 3}:3:99"), (0, f"0:{2**70}:5"), (1, "0:0:0")]
)
def test_070_an_id_outside_the_map_is_an_error_that_names_the_entry(uid, ranges):
    table = table_of([{"path": "fine", "uid": 10**6}, {"path": "it", "uid": uid}])
    with pytest.raises(FormatError, match=f"uid {uid} is not in the map {ranges}") as caught:
        write_rows(table, io.BytesIO(), root=-1, rows=[1], options=TarOptions(idmap=IdMap.parse(ranges, "0:0:1")))
    assert caught.value.entry == b"it"


def test_070_only_rows_that_are_written_are_mapped():
    table = table_of([{"path": "a", "uid": 10**6}, {"path": "b", "uid": 1}])
    out = io.BytesIO()
    write_rows(table, out, root=-1, rows=[1], compression="none", options=TarOptions(idmap=IdMap.parse("0:1:1", "0:0:1")))
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as file:
        assert file.getmember("b").uid == 0


@pytest.mark.parametrize(("uid", "own", "found"), [("0:1000:1", 1000, 0), ("7:1000:1", 1000, 7), ("7:1000:1", 5, 0)])
def test_070_squash_gives_the_rest_to_the_caller(monkeypatch, uid, own, found):
    monkeypatch.setattr(os, "geteuid", lambda: own)
    monkeypatch.setattr(os, "getegid", lambda: own)
    table = table_of([{"path": "a", "uid": 1000, "gid": 99}])
    tar, _ = plain(table, payload=lambda row: b"", idmap=IdMap.parse("3:1000:1", uid, squash=True))
    with tarfile.open(fileobj=io.BytesIO(tar)) as file:
        assert (file.getmember("a").uid, file.getmember("a").gid) == (3, found)


def test_071_whiteouts_are_not_mapped():
    rows = [{"path": ".wh.a"}, {"path": "d/.wh..wh..opq"}, {"path": "dev", "type": "3"}, {"path": "d/x", "uid": 5, "gid": 5}]
    tar, _ = plain(table_of(rows), payload=lambda row: b"", idmap=IdMap.parse("1:5:1"))
    with tarfile.open(fileobj=io.BytesIO(tar)) as file:
        assert [m.uid for m in file] == [0, 0, 0, 1]
    for row in ({"path": "wh.a"}, {"path": ".wh.a", "size": 1}, {"path": "dev", "type": "3", "rdev_minor": 1}):
        with pytest.raises(FormatError, match="not in the map"):
            plain(table_of([row]), payload=lambda row: b"1", idmap=IdMap.parse("1:5:1"))


def test_115_hard_links_to_symlinks_stay_links():
    rows = [{"path": n, "type": "2", "link_target": "t", "link_group": 0} for n in "ab"]
    tar, _ = plain(table_of(rows), payload=lambda row: b"")
    with tarfile.open(fileobj=io.BytesIO(tar)) as file:
        assert [(m.name, m.type, m.linkname) for m in file] == [("a", b"2", "t"), ("b", b"1", "a")]


def test_048_the_first_row_written_of_a_set_carries_the_data():
    rows = [{"path": n, "size": 3, "link_group": 0} for n in "abc"]
    tar, _ = plain(table_of(rows), payload=lambda row: b"123")
    with tarfile.open(fileobj=io.BytesIO(tar)) as file:
        assert [(m.name, m.type, m.linkname, m.size) for m in file] == [
            ("a", b"0", "", 3), ("b", b"1", "a", 0), ("c", b"1", "a", 0),
        ]  # fmt: skip


def test_077_holes_on_request(scratch):
    row = holes(scratch / "file", 1 << 20, {4096: b"x" * 4096, 1 << 19: b"y" * 100})
    table = table_of([row, {"path": "z"}], origin="tree")
    dense, info = plain(table, payload=scratch)
    assert info.uncompressed_size == len(dense) == (1 << 20) + 2048
    tar, info = plain(table, payload=scratch, sparse="pax")
    assert len(tar) < 20_000
    assert contents(tar) == contents(dense) == {"file": (scratch / "file").read_bytes(), "z": b""}
    with read_layer(tar) as reader:
        read = reader.table()
        for options in ({}, {"sparse": "pax"}):
            again, _ = plain(read, payload=reader, **options)
            assert again == (tar if options else dense)
        assert plain(read, payload=lambda row: (scratch / "file").read_bytes(), sparse="pax")[0] == tar


def test_more_regions_than_the_first_buffer_holds(scratch, monkeypatch):
    row = holes(scratch / "file", 1 << 20, dict.fromkeys(range(0, 1 << 20, 16384), b"x"))
    table = table_of([row], origin="tree")
    tar, _ = plain(table, payload=scratch, sparse="pax")
    monkeypatch.setattr(writer_module, "_N_REGIONS", 2)
    assert plain(table, payload=scratch, sparse="pax")[0] == tar
    monkeypatch.setattr(writer_module, "Limits", lambda: Limits(sparse_entries=20))
    with pytest.raises(LimitExceededError) as caught:
        plain(table, payload=scratch, sparse="pax")
    assert (caught.value.limit, caught.value.entry) == ("sparse_entries", b"file")


@pytest.mark.parametrize("pieces", [[1000], [1] * 1000, [300, 0, 700], [150, 1, 849]])
def test_regions_are_cut_out_of_pieces(pieces):
    data = np.random.default_rng(1).integers(1, 255, 1000, np.uint8).tobytes()
    regions = [(0, 5), (5, 0), (100, 50), (150, 1), (400, 400), (999, 1)]
    table = table_of([{"path": "a", "size": 1000, "sparse": regions}])
    expected, _ = plain(table, payload=lambda row: data, sparse="pax")
    out = io.BytesIO()
    with writer_module.BlobWriter(out, compression="none") as blob:
        writer = writer_module.RowWriter(table, np.arange(1), blob, TarOptions(sparse="pax"), None)

        def cut(row):
            at = 0
            for n in pieces:
                yield memoryview(data)[at : at + n]
                at += n

        writer.copy(cut)
        writer.info(blob)
    assert out.getvalue() == expected
    stored = b"".join(data[off : off + n] for off, n in regions)
    assert expected[2048 : 2048 + len(stored)] == stored


def test_progress_counts_entries(scratch, table):
    for payload in (scratch / "root", by_row(table)):
        seen: list[Progress] = []
        write_layer(table, io.BytesIO(), payload=payload, progress=seen.append)
        assert {(p.stage, p.total, p.unit) for p in seen} == {("write", len(table), "entries")}
        done = [p.done for p in seen]
        assert done == sorted(done)
        assert done[-1] == len(table)
        assert len(done) > 1


def test_an_exception_of_progress_ends_it_and_leaves_nothing(scratch, table):
    def stop(report: Progress) -> None:
        raise KeyboardInterrupt

    before = len(os.listdir("/proc/self/fd"))
    for payload in (scratch / "root", by_row(table)):
        with pytest.raises(KeyboardInterrupt):
            write_layer(table, scratch / "out", payload=payload, progress=stop)
    assert not (scratch / "out").exists()
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_table_is_not_changed(scratch, table):
    before = [None if c is None else c.copy() for c in table.columns]
    plain(table, payload=scratch / "root", clamp_mtime=0, idmap=IdMap.parse("9:0:1"))
    for a, b in zip(before, table.columns, strict=True):
        assert a is b is None or np.array_equal(a, b)
    assert table.columns[AT["uid"]][0] == 0
