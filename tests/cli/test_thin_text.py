"""``lamella thin dump``, ``restore`` and ``repair``: thin_dump's bytes on stdout, and status 1 with one line where it fails."""

from __future__ import annotations

import pytest

from tests.block import images
from tests.block.test_dumping import OPTIONS, dumped
from tests.block.test_restoring import blank


def test_dump(lamella, scratch):
    path = images.golden_image("held", scratch)
    assert lamella("thin", "dump", path).out.encode() == images.golden("held.xml")
    assert lamella("thin", "dump", "-f", "human_readable", path).out.encode() == images.golden("held.txt")
    for words in (["-m"], ["--metadata-snap"]):
        assert lamella("thin", "dump", *words, path).out.encode() == images.golden("held.held.xml")
    ran = lamella("thin", "dump", "-r", "-o", scratch / "out.xml", path)
    assert (ran.status, ran.out, (scratch / "out.xml").read_bytes()) == (0, "", images.golden("held.xml"))


@pytest.mark.parametrize("case", OPTIONS)
def test_options_of_dump(lamella, scratch, case):
    words, options = OPTIONS[case]
    path = images.golden_image("shared", scratch)
    assert lamella("thin", "dump", *words, path).out.encode() == dumped(path, **options)


@pytest.mark.requires("thin_dump")
def test_a_snapshot_by_its_block(lamella, scratch):
    path = images.golden_image("held", scratch)
    held = int.from_bytes(images.golden("held.img")[56:64], "little")
    theirs = images.tool("thin_dump", f"-m{held}", path)
    assert lamella("thin", "dump", f"-m{held}", path).out.encode() == theirs.stdout
    assert lamella("thin", "dump", f"--metadata-snap={held}", path).out.encode() == theirs.stdout


def test_restore(lamella, scratch):
    text, path = scratch / "in.xml", blank(scratch)
    text.write_bytes(images.golden("deep.xml"))
    for words in (["-i", text, "-o", path], ["-q", "--input", text, "--output", path]):
        ran = lamella("thin", "restore", *words)
        assert (ran.status, ran.out, ran.err) == (0, "", "")
        assert dumped(path) == images.golden("deep.xml")
    lamella("thin", "restore", "-i", text, "-o", path, "--transaction-id", 99)
    assert b'transaction="99"' in dumped(path, mappings=False).splitlines()[0]


def test_restore_fails(failed, lamella, scratch):
    text = scratch / "in.xml"
    text.write_bytes(images.golden("deep.xml")[:-30])
    assert "No such file" in failed("thin", "restore", "-i", text, "-o", scratch / "absent").err
    assert not (scratch / "absent").exists()
    assert "No such file" in failed("thin", "restore", "-i", scratch / "absent", "-o", blank(scratch)).err
    assert "too small" in failed("thin", "restore", "-i", text, "-o", blank(scratch, 12)).err
    assert "too early" in failed("thin", "restore", "-i", text, "-o", blank(scratch)).err
    assert lamella("thin", "restore", "-i", text).status == 2


def test_repair(failed, lamella, scratch):
    path, target = images.golden_image("shared", scratch), blank(scratch)
    ran = lamella("thin", "repair", "-i", path, "-o", target, "--data-block-size", 256)
    assert (ran.status, ran.out, ran.err) == (0, "", "")
    assert dumped(target) == images.golden("shared.xml").replace(b'data_block_size="128"', b'data_block_size="256"')
    path.write_bytes(b"\xa5" * (4096 * 20))
    assert "metadata block 0" in failed("thin", "repair", "-i", path, "-o", target).err
