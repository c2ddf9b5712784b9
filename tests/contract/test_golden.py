"""Tars that other programs wrote (tests/golden/README.md)."""

from __future__ import annotations

from pathlib import Path

import pytest

import lamella
from tests.contract.sparse import expanded
from tests.contract.workbench import AS_ROOT, DIR, found, shape, tree

GOLDEN = Path(__file__).parent.parent / "golden"
LONG = "/".join(["d" * 120, "d" * 120, "f"])
SPARSE = expanded([(5000, b"one"), (100_000, b"two")], 150_000)
HALF = 1_600_000_000_500_000_000


def unpacked(scratch, *names: str) -> Path:
    root = tree(scratch / "r")
    for name in names:
        lamella.apply(GOLDEN / name, root, rootless=not AS_ROOT)
    return root


@pytest.mark.parametrize("version", ["old", "0.0", "0.1", "1.0"])
def test_076_sparse_files_of_gnu_tar(scratch, version):
    root = unpacked(scratch, f"gnu-sparse-{version}.tar")
    assert shape(root) == {"sparse.bin": SPARSE}
    assert found(root, "sparse.bin").mtime_ns == (HALF if version != "old" else HALF // 10**9 * 10**9)
    assert (root / "sparse.bin").stat().st_blocks * 512 < 20_000


@pytest.mark.parametrize("style", ["gnu", "pax"])
def test_074_long_names_of_gnu_tar(scratch, style):
    root = unpacked(scratch, f"gnu-long-{style}.tar")
    assert shape(root) == {"d" * 120: DIR, LONG.removesuffix("/f"): DIR, LONG: b"x", "s": f"-> {LONG}", "h": b"x"}
    assert found(root, "h").links == (LONG.encode(), b"h")


def test_036_version_7_of_gnu_tar(scratch):
    assert shape(unpacked(scratch, "gnu-v7.tar")) == {"v": DIR, "v/f": b"v"}


@pytest.mark.requires("user_xattr")
@pytest.mark.parametrize("program", ["gnu", "bsdtar"])
def test_068_attributes_of_other_tars(scratch, program):
    root = unpacked(scratch, f"{program}-xattrs.tar")
    got = dict(found(root, "x").xattrs)
    assert {b"user.plain": b"1", b"user.bin": b"\0\n\xff"}.items() <= got.items()
    assert found(root, "x").mtime_ns == HALF
    if program == "bsdtar":
        assert {b"user.a=b": b"eq", b"user.empty": b""}.items() <= got.items()


def test_001_layers_of_umoci(scratch):
    zones = {"zones": DIR, "zones/Abidjan": b"z"}
    root = unpacked(scratch, "umoci-layer-0.tar")
    assert shape(root) == {"Africa": DIR, "Africa/Abidjan": b"1", "d": DIR, "d/gone": b"2", "d/kept": b"3", **zones}
    lamella.apply(GOLDEN / "umoci-layer-1.tar", root, rootless=not AS_ROOT)
    assert shape(root) == {"Africa": "-> zones", "d": DIR, "d/new": b"n", "d/kept": b"3", **zones}


def test_104_a_whiteout_below_a_new_symlink_of_umoci(scratch):
    with lamella.read_layer(GOLDEN / "umoci-layer-1.tar") as reader:
        assert {b"Africa", b"Africa/.wh.Abidjan"} <= set(reader.table().paths)
    assert "zones/Abidjan" in shape(unpacked(scratch, "umoci-layer-0.tar", "umoci-layer-1.tar"))


def test_033_the_global_header_of_git(scratch):
    assert shape(unpacked(scratch, "git-archive.tar")) == {"sub": DIR, "sub/f": b"g"}
