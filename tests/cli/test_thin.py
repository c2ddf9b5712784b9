"""``lamella thin check``, ``delta`` and ``ls`` print what thin-provisioning-tools print, and exit as they do."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella._kernels import thinmeta
from lamella.block.listing import FIELDS, disk_units
from lamella.block.metadata import Metadata
from tests.block import images
from tests.reference import thinread


def tool(name: str, *argv: object) -> tuple[int, str, str]:
    done = images.tool(name, *argv)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def flipped(scratch, number: int):
    data = bytearray(images.golden("shared.img"))
    data[4096 * number + 100] ^= 255
    path = scratch / "flipped.bin"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", images.NAMES)
@pytest.mark.parametrize("options", [(), ("--verbose",), ("-m",)])
def test_delta(lamella, scratch, name, options):
    path = images.golden_image(name, scratch)
    argv = ("--snap1", 1, "--snap2", 2, *options, path)
    ran, (status, out, _) = lamella("thin", "delta", *argv), tool("thin_delta", *argv)
    assert (ran.status, ran.out) == (status, out)
    assert ran.status == 0 or "no metadata snapshot" in ran.err
    assert lamella("thin", "delta", "--thin1=1", "--thin2=2", *options, path).out == out


def test_delta_of_a_snapshot_that_is_named(lamella, scratch):
    path = images.golden_image("held", scratch)
    for number in (76, 5):
        argv = ("--snap1", 1, "--snap2", 2, f"-m{number}", path)
        ran, (status, out, _) = lamella("thin", "delta", *argv), tool("thin_delta", *argv)
        assert (ran.status, ran.out) == (status, out)
    assert "metadata snapshot 5 is not the one that is held, 76" in ran.err


def test_delta_of_a_device_that_is_not_there(lamella, scratch):
    path = images.golden_image("held", scratch)
    ran = lamella("thin", "delta", "--snap1", 1, "--snap2", 77, path)
    assert (ran.status, ran.out) == (1, "")
    assert ran.err == "lamella: error: [Errno 61] no thin device 77\n"
    assert lamella("thin", "delta", "--snap1", 1, path).status == 2


@pytest.mark.parametrize("name", images.NAMES)
@pytest.mark.parametrize(
    "options", [(), ("--no-headers",), ("-o", ",".join(FIELDS)), ("-m",), ("-m", "-o", "DEV,SHARED"), ("--format=TRANSACTION,DEV,DEV",)],
)  # fmt: skip
def test_ls(lamella, scratch, name, options):
    path = images.golden_image(name, scratch)
    ran, (status, out, _) = lamella("thin", "ls", *options, path), tool("thin_ls", *options, path)
    assert (ran.status, ran.out) == (status, out)


def test_ls_of_a_pool_without_devices(lamella, scratch):
    path = images.golden_image("empty", scratch)
    for options in ([], ["--no-headers"]):
        assert lamella("thin", "ls", *options, path).out == tool("thin_ls", *options, path)[1]


@given(found=images.devices(4))
def test_ls_of_what_thin_restore_wrote(found, home):
    with images.folder(home) as folder:
        path = images.restored(found, folder)
        from lamella.block.listing import listing

        with Metadata.open(path) as metadata:
            ours = "".join(listing(metadata, FIELDS))
        assert ours == tool("thin_ls", "-o", ",".join(FIELDS), path)[1]


@given(sectors=st.lists(st.integers(0, 46).flatmap(lambda bits: st.integers(0, 2**bits)), min_size=1, max_size=126))
def test_units(sectors, home):
    """Sizes of any magnitude are rounded and cut off as thin_ls does: they are written into details by hand."""
    with images.folder(home) as folder:
        path = images.restored({dev_id: [] for dev_id in range(len(sectors))}, folder)
        data = bytearray(path.read_bytes())
        root = thinread.Image(bytes(data), check=False).details_root
        (most,) = struct.unpack_from("<I", data, 4096 * root + 20)
        for i, mapped in enumerate(sectors):
            struct.pack_into("<Q", data, 4096 * root + 32 + 8 * most + 24 * i, mapped)
        thinmeta.seal(memoryview(data)[4096 * root : 4096 * root + 4096], root, thinread.NODE)
        path.write_bytes(data)
        printed = tool("thin_ls", "--no-headers", "-o", "MAPPED", path)[1].split()
        assert printed == [disk_units(mapped * 128 * 512) for mapped in sectors]


def test_an_unknown_field(lamella, scratch):
    ran = lamella("thin", "ls", "-o", "DEV,FOO", images.golden_image("shared", scratch))
    assert (ran.status, ran.out, ran.err) == (1, "", "lamella: error: unknown field: 'FOO'\n")


@pytest.mark.parametrize("name", images.NAMES)
@pytest.mark.parametrize(
    "options", [(), ("-q",), ("--skip-mappings",), ("--super-block-only",), ("-m",), ("-m", "--skip-mappings"), ("--ignore-non-fatal-errors",)],
)  # fmt: skip
def test_check_of_sound_metadata(lamella, scratch, name, options):
    path = images.golden_image(name, scratch)
    ran, (status, out, err) = lamella("thin", "check", *options, path), tool("thin_check", *options, path)
    assert ran.status == status
    if status:
        assert "no metadata snapshot is held" in ran.err
        return
    assert ran.err == err
    assert ran.out.partition("\n")[0] == out.partition("\n")[0]
    if out:  # the tool counts all blocks but one as free
        with Metadata.open(path) as metadata:
            found = metadata.superblock.metadata_sm
        assert ran.out.splitlines()[1:] == [f"METADATA_FREE_BLOCKS={found.nblocks - found.nallocated}"]


def test_check_of_damaged_metadata(lamella, scratch):
    image = thinread.Image(images.golden("shared.img"))
    leaf = next(int.from_bytes(value, "little") for _, value in image.node(image.roots()[0])[1][1:])
    wrong = {0: "superblock is corrupt", image.details_root: "missing devices: [0, -]", leaf: "thin device 0 is missing mappings [126, -]"}
    wrong[image.data_root] = "missing all mappings for devices: [0, -]"
    for number, what in wrong.items():
        path = flipped(scratch, number)
        ran, (status, _, err) = lamella("thin", "check", path), tool("thin_check", path)
        assert ran.status == status == 1
        why = f"metadata block {number}: checksum is wrong, or it is of another kind at byte {4096 * number}"
        assert f"  {what}\n    {why}\n" in ran.err
        assert [line for line in ran.err.splitlines() if line[:4] != "    "] == [line for line in err.splitlines() if line[:4] != "    "]
        assert lamella("thin", "check", "-q", path) == type(ran)(1, "", "")


def test_check_with_another_root(lamella, scratch):
    path = images.golden_image("shared", scratch)
    image = thinread.Image(images.golden("shared.img"))
    for root in (image.data_root, image.details_root, 400, 10**6):
        argv = ("--override-mapping-root", root, path)
        assert lamella("thin", "check", *argv).status == tool("thin_check", "-q", *argv)[0]


def test_check_clears_the_flag(lamella, scratch):
    path = images.golden_image("needs-check", scratch)
    before = path.read_bytes()
    for options in (["-m"], ["--skip-mappings"], ["--super-block-only"], ["--override-mapping-root=7"], ["--ignore-non-fatal-errors"]):
        assert lamella("thin", "check", "--clear-needs-check-flag", *options, path).status == 2
    assert lamella("thin", "check", path).status == 0
    assert path.read_bytes() == before
    ran = lamella("thin", "check", "--clear-needs-check-flag", path)
    assert (ran.status, ran.err.splitlines()[-1]) == (0, "cleared needs_check flag")
    changed = [i for i, (a, b) in enumerate(zip(before, path.read_bytes(), strict=True)) if a != b]
    assert changed[-1] == 4
    assert lamella("thin", "check", "--clear-needs-check-flag", path).err.splitlines()[-1] == "checking space map counts"


def test_check_does_not_clear_the_flag_of_damaged_metadata(lamella, scratch):
    data = bytearray(images.golden("needs-check.img"))
    image = thinread.Image(bytes(data))
    image.count()
    number = random.Random(1).choice(sorted(set(image.used) - {0}))
    data[4096 * number + 1000] ^= 1
    path = scratch / "damaged.bin"
    path.write_bytes(data)
    assert lamella("thin", "check", "--clear-needs-check-flag", path).status == 1
    assert path.read_bytes() == data


def test_what_is_no_metadata(lamella, scratch):
    zero, short = scratch / "zero", scratch / "short"
    zero.write_bytes(bytes(1 << 20))
    short.write_bytes(b"short")
    for command, argv in (("check", ()), ("ls", ()), ("delta", ("--snap1=1", "--snap2=2"))):
        for path in (zero, short, scratch, scratch / "absent"):
            assert lamella("thin", command, *argv, path).status == tool(f"thin_{command}", *argv, path)[0] == 1
    assert "all zero: no pool is here" in lamella("thin", "check", zero).err


def test_help_and_version(lamella):
    import lamella as package

    for command in ("check", "delta", "ls"):
        assert command in lamella("thin", "--help").out
        assert lamella("thin", command, "-V").out == f"{package.__version__}\n"
    assert lamella("thin", "bogus").status == 2
