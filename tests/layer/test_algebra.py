"""compose, squash, minimise, invert and rebase: what comes out row by row, what is refused, and how content is read."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

import lamella
from lamella.errors import ConflictError, UnsafePathError, WhiteoutError
from lamella.layer.algebra import Composed, TarLayer, compose, invert, minimise, rebase, squash
from lamella.testing.listing import compare, listing
from lamella.testing.tars import Member, directory, file, hardlink, layer_tar, opaque, symlink, whiteout
from tests.laws.composing import members_of, nothing, stacked, values, written
from tests.laws.ground import apply
from tests.layer import engines
from tests.reference.rows import table_of

Layer = list[Member]


def rows(layer: Composed) -> list[str]:
    """Say what a layer has, a row a string: ``d/ f=content s->target h=>target .wh.x``."""
    out = []
    for member in members_of(layer):
        name = bytes(member.path).decode()
        tail = {"5": "/", "2": f"->{bytes(member.link).decode()}", "1": f"=>{bytes(member.link).decode()}"}
        default = "" if ".wh." in name else f"={member.content.decode()}"
        out.append(name + tail.get(member.type, default))
    return out


D, F = directory("d"), file("d/f", b"1")


@pytest.mark.parametrize(
    ("first", "second", "want"),
    [
        ([D, F], [file("g", b"2")], ["d/", "d/f=1", "g=2"]),
        ([D, F], [D, file("d/f", b"2")], ["d/", "d/f=2"]),
        ([D, F], [D, whiteout("d/f")], ["d/", "d/.wh.f"]),
        ([D, F], [whiteout("d")], [".wh.d"]),
        ([D, F], [D, opaque("d"), file("d/g", b"2")], ["d/", "d/.wh..wh..opq", "d/g=2"]),
        ([D, F], [file("d/g", b"2"), opaque("d")], ["d/", "d/.wh..wh..opq", "d/g=2"]),
        ([D, F], [file("d", b"2")], ["d=2"]),
        ([file("d", b"2")], [D, F], ["d/", "d/.wh..wh..opq", "d/f=1"]),
        ([whiteout("d")], [D, F], ["d/", "d/.wh..wh..opq", "d/f=1"]),
        ([whiteout("d")], [F], ["d/", "d/.wh..wh..opq", "d/f=1"]),
        ([whiteout("d"), D, F], [D, whiteout("d/f")], ["d/", "d/.wh..wh..opq"]),
        ([D, opaque("d")], [D, whiteout("d/f")], ["d/", "d/.wh..wh..opq"]),
        ([D, F], [hardlink("g", "d/f")], ["d/", "d/f=1", "g=>d/f"]),
        ([D, F, hardlink("g", "d/f")], [D, file("d/f", b"2")], ["d/", "g=1", "d/f=2"]),
        ([D, F, hardlink("d/g", "d/f")], [D, whiteout("d/f")], ["d/", "d/.wh.f", "d/g=1"]),
        ([hardlink("g", "f")], [file("f", b"2")], ["g=>f", "f=2"]),
        ([hardlink("g", "f")], [whiteout("f")], ["g=>f", ".wh.f"]),
        ([file("f", b"1"), file("f", b"2")], [], ["f=2"]),
        ([D, symlink("ln", "d")], [file("ln/f", b"2")], ["d/", "ln->d", "d/f=2"]),
        ([D, F, symlink("ln", "d")], [whiteout("ln/f")], ["d/", "d/.wh.f", "ln->d"]),
        ([symlink("s", "t"), hardlink("h", "s")], [whiteout("s")], [".wh.s", "h->t"]),
        ([whiteout("x")], [opaque()], [".wh..wh..opq"]),
        ([], [], []),
    ],
)  # fmt: skip
def test_compose_upon_any_tree(first, second, want):
    assert rows(compose(*values([first, second]))) == want


@pytest.mark.parametrize(
    ("first", "second", "path"),
    [
        ([F], [D, file("d/f", b"2")], b"d/f"),  # d may be a symlink, and then the first f is elsewhere
        ([F], [whiteout("d/f")], b"d/.wh.f"),
        ([D, F], [whiteout("e/f")], b"e/.wh.f"),
        ([whiteout("d/f")], [file("g")], b"d"),
        ([symlink("ln", "e")], [file("ln/f")], b"e"),  # which the lower tree may not have
        ([F, directory("d/f")], [], b"d/f"),
        ([D, hardlink("g", "d")], [], b"g"),
        ([hardlink("x", "l")], [directory("l"), hardlink("l/y", "x"), whiteout("x")], b"l/y"),
    ],
)  # fmt: skip
def test_what_one_layer_cannot_say_upon_any_tree(first, second, path):
    with pytest.raises(ConflictError) as caught:
        compose(*values([first, second]))
    assert caught.value.path == path


def test_what_is_known_of_the_lower_tree_decides():
    layers = values([[F], [whiteout("d/f"), file("ln/g", b"2")]])
    assert rows(compose(*layers, lower="directories")) == ["d/.wh.f", "ln/g=2"]
    below = [directory("d"), directory("real"), symlink("ln", "real")]
    assert rows(compose(*layers, lower=values([below]))) == ["real/g=2"]
    assert rows(compose(*layers, lower=())) == ["d/", "ln/", "ln/g=2"]


def test_what_an_apply_refuses_is_refused():
    for layer, error in (
        ([whiteout("d/..")], WhiteoutError),
        ([file("a/../b")], UnsafePathError),
        ([symlink("./", "x")], UnsafePathError),
        ([hardlink("g", "missing")], ConflictError),
    ):
        with pytest.raises(error):
            squash(values([layer]))


def test_symlinks_that_lead_to_each_other_end():
    many = [symlink(f"s{i}", "/".join([f"s{i + 1}/.."] * 9)) for i in range(60)]
    for layer in ([symlink("a", "b"), symlink("b", "a"), file("a/f")], [*many, directory("s60"), file("s0/f")]):
        assert rows(squash(values([layer])))[-1].endswith("/f=")


def test_markers_many_times_over():
    first = [D, *(file(f"d/{i}") for i in range(2000))]
    second = [D, *(file(f"d/n{i}") for i in range(2000)), *[opaque("d")] * 2000, *[whiteout("d")] * 2000]
    assert len(squash(values([first, second])).table) == 2001


def test_layers_that_aufs_left_traces_in():
    layer = [directory(".wh..wh.plnk"), file(".wh..wh.plnk/1.2", b"x"), hardlink("f", ".wh..wh.plnk/1.2"),
             hardlink("g", ".wh..wh.plnk/1.2"), file(".wh..wh.aufs")]  # fmt: skip
    assert rows(squash(values([layer]))) == ["f=x", "g=>f"]


def test_an_iterator_of_layers_is_asked_when_the_one_before_is_folded():
    layers = values([[D], [F]])
    assert rows(squash(iter(layers))) == ["d/", "d/f=1"]


# -- content ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_content_is_read_once_and_forward(compression):
    big = [file(f"f{i}", bytes([i]) * 100_000) for i in range(30)]
    out = io.BytesIO()
    with lamella.read_layer(layer_tar(big)) as reader:
        lamella.write_layer(reader.table(), out, payload=reader, compression=compression)
    opened = []

    def open_blob() -> lamella.LayerReader:
        opened.append(1)
        return lamella.read_layer(out.getvalue(), digests=False)

    with open_blob() as reader:
        table = reader.table()
    opened.clear()
    layer = squash([TarLayer(table, open_blob), *values([[file("f3", b"new"), whiteout("f4")]])])
    tree = stacked(nothing(), [members_of(layer)])
    assert sorted(tree.root.names) == sorted(b"f%d" % i for i in range(30) if i != 4)
    assert tree.root.names[b"f3"].inode.content == b"new"
    assert tree.root.names[b"f29"].inode.content == bytes([29]) * 100_000
    assert len(opened) == 1


def test_a_layer_of_which_nothing_is_wanted_is_not_opened():
    def refuse() -> lamella.LayerReader:
        raise AssertionError("opened")

    (lower,) = values([[F]])
    layer = squash([TarLayer(lower.table, refuse), *values([[file("d/f", b"2")]])])
    assert rows(layer) == ["d/", "d/f=2"]


def test_content_by_a_callable_and_none_at_all():
    table = table_of([{"path": "a", "size": 3}, {"path": "b", "size": 2}])
    layer = squash([TarLayer(table, read=lambda row: b"xyz"[: 3 - row])])
    assert rows(layer) == ["a=xyz", "b=xy"]
    with pytest.raises(ValueError, match="only a table"):
        written(squash([table]))


def test_the_result_is_a_layer_and_knows_its_rows():
    one = compose(*values([[D, F], [file("g", b"2")]]))
    two = compose(one, *values([[whiteout("g"), file("h", b"3")]]))
    assert rows(two) == ["d/", "d/f=1", ".wh.g", "h=3"] or rows(two) == [".wh.g", "d/", "d/f=1", "h=3"]
    marker = list(two.table.paths).index(b".wh.g")
    assert two.origin[marker] == -1
    assert one.origin.tolist() == [0, 0, 1]
    assert one.origin_row.tolist() == [0, 1, 0]


@pytest.mark.parametrize("codec", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("sparse", [None, "pax"])
def test_what_is_written_is_what_is_read(codec, sparse):
    """Content is spliced out of the tars, whatever they are, and holes are filled or kept."""
    names = [f"f{i}" for i in range(40)]
    rows_of = [{"path": n, "size": 50_000, "sparse": [(100, 300), (40_000, 7)]} if i % 7 == 3 else
               {"path": n, "size": 900 * i} for i, n in enumerate(names)]  # fmt: skip
    table = table_of(rows_of)

    def content(row: int) -> bytes:
        data = bytearray(bytes([row + 1]) * int(table.size[row]))
        if table.sparse(row) is not None:
            data[:100], data[400:40_000], data[40_007:] = bytes(100), bytes(39_600), bytes(9_993)
        return bytes(data)

    out = io.BytesIO()
    lamella.write_layer(table, out, payload=content, compression=codec, sparse="pax")
    first, second = TarLayer.of(out.getvalue()), TarLayer.of(layer_tar([file("f5", b"new"), whiteout("f6")]))
    one = compose(first, second)
    for layer in (one, compose(one, *values([[file("last", b"x")]])), squash([first, second])):
        made = io.BytesIO()
        info = layer.write(made, compression=codec, sparse=sparse)
        with lamella.read_layer(made.getvalue()) as reader:
            found = {e.path.decode(): reader.read(e) for e in reader if e.type.value == "0" and b".wh." not in e.path}
        assert info.entries == len(layer.table)
        wanted = {n: content(i) for i, n in enumerate(names) if i not in {5, 6}} | {"f5": b"new"}
        assert {n: c for n, c in found.items() if n != "last"} == wanted


def test_a_tar_that_is_not_the_one_of_the_table():
    long, short = layer_tar([file("f", b"x" * 5000)]), layer_tar([file("f")])
    (value,) = values([[file("f", b"x" * 5000)]])
    assert len(written(squash([TarLayer(value.table, lambda: lamella.read_layer(long))]))) == 6656
    with pytest.raises(lamella.errors.TruncatedError):
        written(squash([TarLayer(value.table, lambda: lamella.read_layer(short))]))


def test_metadata_xattrs_and_holes_come_along():
    first = [file("f", b"x" * 10, mode=0o4711, uid=5, gid=6, mtime_ns=-1, xattrs={"user.a": b"\0="})]
    layer = squash(values([first, [hardlink("g", "f")], [whiteout("f")]]))
    (member,) = members_of(layer)
    assert (member.path, member.mode, member.uid, member.gid, member.mtime_ns) == (b"g", 0o4711, 5, 6, -1)
    assert member.xattrs == {b"user.a": b"\0="}
    sparse = table_of([{"path": "s", "size": 10, "sparse": [(2, 3)]}])
    table = squash([TarLayer(sparse, read=lambda _: b"\0\0abc\0\0\0\0\0")]).table
    assert table.sparse(0).tolist() == [[2, 3]]


def test_a_table_of_a_directory_is_a_lower_tree(scratch):
    root = scratch / "r"
    apply([D, F, hardlink("d/g", "d/f"), symlink("ln", "d")], root)
    layers = values([[whiteout("ln/f")], [file("ln/f", b"2")]])
    assert rows(compose(*layers, lower=[lamella.scan(root)])) == ["d/f=2"]
    assert [e.type.value for e in squash([lamella.scan(root)]).table if e.path.startswith(b"d/")] == ["0", "1"]


# -- minimise, invert, rebase -----------------------------------------------------------------------------------------

BASE = [D, F, file("d/g", b"2"), directory("e"), file("e/x", b"3"), hardlink("e/y", "e/x")]


@pytest.mark.parametrize(
    ("layer", "want"),
    [
        ([D, F], []),
        ([D, file("d/f", b"9")], ["d/", "d/f=9"]),
        ([directory("d", mode=0o700), F], ["d/"]),
        ([whiteout("d/f"), whiteout("d/missing"), whiteout("nowhere/x")], ["d/.wh.f"]),
        ([whiteout("d"), whiteout("d/f")], [".wh.d"]),
        ([D, opaque("d"), F, file("d/g", b"2")], []),
        ([D, opaque("d"), F], ["d/", "d/.wh..wh..opq", "d/f=1"]),
        ([file("e/x", b"3"), hardlink("e/y", "e/x")], []),
        ([file("e/x", b"3")], ["e/x=3"]),  # no more a name of what e/y is
        ([hardlink("e/y", "e/x"), hardlink("e/x", "e/x")], []),
        ([hardlink("z", "e/x")], ["z=>e/x"]),
    ],
)  # fmt: skip
def test_minimise(layer, want):
    (value,) = values([layer])
    small = minimise(value, values([BASE]))
    assert rows(small) == want


def test_minimise_without_content_to_compare():
    (layer,), base = values([[D, F]]), values([BASE])
    assert list(minimise(layer.table, [base[0].table]).table.paths) == [b"d", b"d/f"]
    assert list(minimise(layer.table, [base[0].table], content="never").table.paths) == []


@pytest.mark.parametrize(
    ("layer", "want"),
    [
        ([file("d/new")], ["d/", "d/.wh.new"]),
        ([file("d/f", b"9")], ["d/", "d/f=1"]),
        ([whiteout("d")], ["d/", "d/f=1", "d/g=2"]),
        ([whiteout("e/x")], ["e/", "e/x=>e/y"]),
        ([file("e/x", b"9"), whiteout("e/y")], ["e/", "e/x=3", "e/y=>e/x"]),
        ([file("d", b"9")], ["d/", "d/f=1", "d/g=2"]),
        ([D, opaque("d"), file("d/f", b"9")], ["d/", "d/f=1", "d/g=2"]),
        ([directory("d", mode=0o700)], ["d/"]),
        ([opaque(), directory("d"), directory("e")], ["d/", "d/f=1", "d/g=2", "e/", "e/x=3", "e/y=>e/x"]),
    ],
)  # fmt: skip
def test_invert(layer, want):
    assert rows(invert(*values([layer]), values([BASE]))) == want


def test_what_the_root_was_must_be_known():
    with pytest.raises(ConflictError):
        invert(*values([[directory("./", mode=0o700)]]), values([BASE]))
    (member,) = members_of(invert(*values([[directory("./", mode=0o700)]]), values([[directory("./", mode=0o711)]])))
    assert (member.path, member.mode) == (b"./", 0o711)


def moved(layer: Layer, old: Layer, new: Layer) -> tuple[list[str], list[tuple[str, str]]]:
    result = rebase(values([layer]), values([old]), values([new]))
    assert all(c.layer == 0 and c.reason for c in result.conflicts)
    return rows(result.layers[0]), sorted((c.path.decode(), c.kind) for c in result.conflicts)


NEW = [directory("d"), file("d/f", b"new"), file("d/h", b"4"), directory("e"), file("e/x", b"3"), hardlink("e/y", "e/x")]


@pytest.mark.parametrize(
    ("layer", "want", "conflicts"),
    [
        ([D, file("d/own", b"9")], ["d/", "d/own=9"], []),
        ([D, file("d/f", b"9")], ["d/", "d/f=9"], [("d/f", "both-changed")]),
        ([D, file("d/f", b"new")], ["d/", "d/f=new"], []),
        ([D, F], ["d/"], []),  # unchanged: the new base's is taken
        ([D, file("d/h", b"9")], ["d/", "d/h=9"], [("d/h", "both-added")]),
        ([D, file("d/g", b"9")], ["d/", "d/g=9"], [("d/g", "changed-and-deleted")]),
        ([whiteout("d/f")], ["d/.wh.f"], [("d/f", "deleted-and-changed")]),
        ([whiteout("d/g")], [], []),
        ([whiteout("d")], [".wh.d"], [("d", "deleted-and-changed")]),
        ([hardlink("z", "d/f")], ["z=1"], [("d/f", "link")]),
        ([hardlink("z", "e/x")], ["z=>e/x"], []),
        ([hardlink("z", "d/g")], ["z=2"], [("d/g", "link")]),
    ],
)  # fmt: skip
def test_rebase(layer, want, conflicts):
    assert moved(layer, BASE, NEW) == (want, conflicts)


def test_rebase_takes_metadata_that_the_layer_did_not_change():
    new = [directory("d", mode=0o711), F]
    result = rebase(values([[D, file("d/x")]]), values([[D, F]]), values([new]))
    assert result.conflicts == ()
    assert next(m.mode for m in members_of(result.layers[0])) == 0o711
    assert moved([directory("d", mode=0o700)], [D, F], new) == (["d/"], [("d", "both-changed")])
    assert moved([file("d/x")], [D, F], [file("other")])[1] == [("d", "parent")]


def test_several_layers_are_moved_one_upon_the_other():
    layers = [[D, file("d/own", b"1")], [D, file("d/own", b"2"), hardlink("z", "d/own")], [whiteout("d/own")]]
    result = rebase(values(layers), values([BASE]), values([NEW]))
    assert [rows(layer) for layer in result.layers] == [
        ["d/", "d/own=1"], ["d/", "d/own=2", "z=>d/own"], ["d/.wh.own"],
    ]  # fmt: skip
    assert result.conflicts == ()


# -- other programs ---------------------------------------------------------------------------------------------------

STACK: list[Layer] = [
    [directory("./"), directory("opt"), file("opt/f", b"1", uid=3), symlink("opt/s", "f"), hardlink("opt/hs", "opt/s"),
     directory("opt/old"), file("opt/old/x"), directory("bin"), symlink("sbin", "bin")],
    [directory("opt"), hardlink("opt/hf", "opt/f"), whiteout("opt/old"), file("sbin/tool", b"t", mode=0o4755)],
    [directory("opt"), file("opt/f", b"2"), directory("opt/old"), opaque("opt/old"), file("opt/old/y", b"y")],
]  # fmt: skip


def plain(scratch: Path) -> tuple[Path, bytes]:
    for layer in STACK:
        apply(layer, scratch / "want")
    return scratch / "want", written(squash(values(STACK)))


@pytest.mark.requires("root", "tar")
def test_gnu_tar_extracts_a_squashed_layer(scratch):
    want, flat = plain(scratch)
    made = engines.gnu_tar(scratch / "tar", flat, ["--delay-directory-restore"])  # a directory's rows are of two layers
    assert compare(want, made) == []


@pytest.mark.requires("root", "umoci")
def test_umoci_unpacks_a_squashed_layer_and_a_composed_one(scratch):
    want, flat = plain(scratch)
    for name in ("one", "two"):
        (scratch / name).mkdir()
    assert compare(want, engines.umoci(scratch / "one", flat)) == []
    first, *rest = values(STACK)
    two = [layer_tar(STACK[0]), written(compose(*rest, lower=[first]))]
    assert compare(want, engines.umoci(scratch / "two", *two)) == []


@pytest.mark.requires("root", "skopeo")
def test_containers_storage_takes_a_squashed_layer(scratch):
    want, flat = plain(scratch)
    known = {b""} | {path for path, found in listing(want).items() if found.links}  # it splits hard-linked symlinks (114)
    made = listing(engines.podman(scratch, flat))
    assert {p: f for p, f in made.items() if p not in known} == {p: f for p, f in listing(want).items() if p not in known}
