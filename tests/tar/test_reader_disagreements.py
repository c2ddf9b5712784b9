"""Where readers of tar are known to disagree, on purpose or not, and what ours does: agree with the majority, or raise.

Each line names a case, says what ours makes of it (``type path`` for each entry, or REFUSED) and what the others were
seen to make of it: GNU tar 1.34, bsdtar 3.6.2 and the tarfile of CPython 3.11. What Go's archive/tar does, which most
container engines use, is told in words. An entry of None is not compared: it differs between versions.
"""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from typing import NamedTuple

import pytest

from lamella.testing.tars import Member, file, layer_tar, pax_header
from tests import parts
from tests.contract.sparse import pax_10
from tests.kernels.scanning import REFUSED as REFUSALS
from tests.kernels.scanning import scanned
from tests.tar.peers import ENV, MTREE_TYPES, unescaped

REFUSED = "refused"
Said = list[str] | str | None


class Case(NamedTuple):
    why: str
    data: bytes
    ours: Said
    gnu: Said
    bsd: Said
    python: Said


F = file("f")
INNER = layer_tar([file("inner")], end=b"")
PREFIX = {"name": b"name", "prefix": b"pre/fix"}
AF, F_ONLY = ["0 a", "0 f"], ["0 f"]
CASES = {
    "lone zero block": Case(
        "Majority: it ends the archive. Go refuses a header after it.",
        layer_tar([file("a"), bytes(512), F]), ["0 a"], ["0 a"], ["0 a"], ["0 a"],
    ),
    "end marker cut": Case(
        "Bytes that are no whole block: a blob cut short must not pass for a layer (tests/contract 89).",
        layer_tar([file("a"), F], end=bytes(100)), REFUSED, AF, REFUSED, AF,
    ),
    "header cut": Case("As above.", layer_tar([file("a"), F], end=b"")[:-100], REFUSED, ["0 a"], REFUSED, ["0 a"]),
    "link with a size, no body": Case(
        "All agree; Go too: it never reads a body there.",
        layer_tar([file("a"), Member("l", "1", size=700, link="a"), F]), ["0 a", "1 l", "0 f"], ["0 a", "1 l", "0 f"],
        ["0 a", "1 l", "0 f"], ["0 a", "1 l", "0 f"],
    ),
    "link with a body": Case(
        "POSIX allows it (47): what is no header is passed over. bsdtar resynchronises with a warning, the others fail or stop.",
        layer_tar([file("a"), Member("l", "1", b"x" * 700, link="a"), F]), ["0 a", "1 l", "0 f"], REFUSED,
        ["0 a", "1 l", "0 f"], ["0 a", "1 l"],
    ),
    "link with a body that is a tar": Case(
        "Majority, and Go: what looks like a header is one. bsdtar believes pax archives their sizes.",
        layer_tar([file("a"), Member("l", "1", INNER, link="a", pax={"comment": "x"}), F]),
        ["0 a", "1 l", "0 inner", "0 f"], ["0 a", "1 l", "0 inner", "0 f"], ["0 a", "1 l", "0 f"],
        ["0 a", "1 l", "0 inner", "0 f"],
    ),
    "directory with a body": Case(
        "As for links (84).", layer_tar([Member("d/", "5", b"x" * 700), F]), ["5 d", "0 f"], REFUSED, ["5 d", "0 f"], ["5 d"],
    ),
    "unknown type flag": Case(
        "POSIX and the others: a file. Item 81: raised.",
        layer_tar([Member("u", "Q", b"x"), F]), REFUSED, ["? u", "0 f"], ["0 u", "0 f"], ["Q u", "0 f"],
    ),
    "volume label": Case(
        "Item 82.", layer_tar([Member("vol", "V", style="gnu"), F]), REFUSED, ["V vol", "0 f"], F_ONLY, ["V vol", "0 f"],
    ),
    "slash on a ustar file": Case(
        "Item 36, Go's rule: a file. GNU tar and bsdtar make a directory.",
        layer_tar([Member("d/", "0"), F]), ["0 d", "0 f"], ["5 d", "0 f"], ["5 d", "0 f"], ["0 d", "0 f"],
    ),
    "slash, type flag NUL": Case(
        "All agree, whatever the magic.", layer_tar([Member("d/", "\0"), F]), ["5 d", "0 f"], ["5 d", "0 f"], ["5 d", "0 f"],
        ["5 d", "0 f"],
    ),
    "slash in a v7 archive": Case(
        "Item 36.", layer_tar([Member("d/", "0", style="v7"), F]), ["5 d", "0 f"], ["5 d", "0 f"], ["5 d", "0 f"],
        ["0 d", "0 f"],
    ),
    "prefix in a GNU header": Case(
        "GNU has none there. Go takes ASCII that is no number for one, since its own writer once put it there.",
        layer_tar([Member("x", header={**PREFIX, "magic": b"ustar  \0"}), F]), ["0 name", "0 f"], ["0 name", "0 f"],
        ["0 name", "0 f"], ["0 pre/fix/name", "0 f"],
    ),
    "prefix in a v7 header": Case(
        "v7 has none.", layer_tar([Member("x", header={**PREFIX, "magic": b""}), F]), ["0 name", "0 f"], ["0 name", "0 f"],
        ["0 name", "0 f"], ["0 pre/fix/name", "0 f"],
    ),
    "two pax headers": Case(
        "GNU, bsdtar and Go: the second; tarfile: the first.",
        layer_tar([pax_header({"path": "1"}), pax_header({"path": "2"}), file("x"), F]), REFUSED, ["0 2", "0 f"], REFUSED,
        ["0 1", "0 f"],
    ),
    "two long names": Case(
        "As above.", layer_tar([Member("L", "L", b"one", style="gnu"), Member("L", "L", b"two", style="gnu"), file("x"), F]),
        REFUSED, ["0 two", "0 f"], ["0 two", "0 f"], ["0 one", "0 f"],
    ),
    "global between pax and its member": Case(
        "Go forgets the pax header, the others do not.",
        layer_tar([pax_header({"path": "p"}), pax_header({"comment": "c"}, flag="g"), file("x"), F]), REFUSED,
        ["0 p", "0 f"], ["0 p", "0 f"], ["0 p", "0 f"],
    ),
    "global path": Case(
        "POSIX: it holds for all (75). bsdtar and Go ignore global headers.",
        layer_tar([pax_header({"path": "p"}, flag="g"), file("x"), F]), ["0 p", "0 p"], ["0 p", "0 p"], ["0 x", "0 f"],
        ["0 p", "0 p"],
    ),
    "global size": Case(
        "GNU tar skips by it, the others do not: two archives in one.",
        layer_tar([pax_header({"size": "512"}, flag="g"), file("x"), F, F]), REFUSED, ["0 x", "0 f"], ["0 x", "0 f", "0 f"],
        ["0 x", "0 f", "0 f"],
    ),
    "pax header at the end": Case(
        "Something is missing.", layer_tar([F, pax_header({"path": "p"})]), REFUSED, F_ONLY, REFUSED, REFUSED,
    ),
    "pax record that is too long": Case(
        "Malformed; as Go.", layer_tar([Member("p", "x", b"99 path=p\n"), file("x"), F]), REFUSED, REFUSED, REFUSED, None,
    ),
    "NULs behind the pax records": Case(
        "Majority: padding.", layer_tar([Member("p", "x", b"9 path=p\n\0\0\0"), file("x"), F]), ["0 p", "0 f"], ["0 p", "0 f"],
        REFUSED, ["0 p", "0 f"],
    ),
    "pax uid that is no number": Case(
        "As Go; tarfile reads 0.", layer_tar([file("x", pax={"uid": "abc"}), F]), REFUSED, REFUSED, ["0 x", "0 f"],
        ["0 x", "0 f"],
    ),
    "NUL in a pax path": Case(
        "As Go; the others cut there, or keep it.", layer_tar([file("x", pax={"path": b"p\0q"}), F]), REFUSED, ["0 p", "0 f"],
        ["0 p", "0 f"], ["0 p\0q", "0 f"],
    ),
    "empty pax path": Case(
        "Unset, as POSIX has it.", layer_tar([file("x", pax={"path": b""}), F]), ["0 x", "0 f"], ["0 ", "0 f"], ["0 x", "0 f"],
        ["0 ", "0 f"],
    ),
    "Solaris extended header": Case(
        "All agree but Go, which does not know it.", layer_tar([pax_header({"path": "p"}, flag="X"), file("x"), F]),
        ["0 p", "0 f"], ["0 p", "0 f"], ["0 p", "0 f"], ["0 p", "0 f"],
    ),
    "sparse map beyond the file": Case(
        "As Go (CVE-2025-58183 was its neighbour); the others list it.", layer_tar([pax_10("s", [(20, b"x")], 10), F]), REFUSED,
        ["0 s", "0 f"], ["0 s", "0 f"], ["0 s", "0 f"],
    ),
    "time with an exponent": Case(
        "tarfile writes and reads such (1e-09); GNU tar and bsdtar read the digits before it; Go refuses.",
        layer_tar([file("x", pax={"mtime": "1e-05"}), F]), REFUSED, ["0 x", "0 f"], ["0 x", "0 f"], ["0 x", "0 f"],
    ),
    "octal with a minus": Case(
        "As Go and bsdtar.", layer_tar([file("x", header={"mode": b"-000644\0"}), F]), REFUSED, ["0 x", "0 f"], REFUSED,
        ["0 x", "0 f"],
    ),
    "digits after the end of a number": Case(
        "As Go and tarfile.", layer_tar([file("x", header={"mode": b"644 4\0\0\0"}), F]), REFUSED, ["0 x", "0 f"], REFUSED,
        REFUSED,
    ),
}  # fmt: skip


def by_ours(data: bytes) -> Said:
    try:
        return [f"{e.type.value} {e.name}" for e in scanned(data)]
    except REFUSALS:
        return REFUSED


def by_tarfile(data: bytes) -> Said:
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            return [f"{m.type.replace(tarfile.AREGTYPE, b'0').decode()} {m.name.rstrip('/')}" for m in tar.getmembers()]
    except tarfile.TarError:
        return REFUSED


def by_gnu(data: bytes) -> Said:
    argv = ["tar", "-tv", "--full-time", "--numeric-owner", "--quoting-style=escape", "-f", "-"]
    done = subprocess.run(argv, input=data, capture_output=True, env=ENV, check=False)
    kinds = {"-": "0", "h": "1", "l": "2", "d": "5"}
    found = re.findall(
        r"^(.)\S+ .*\d:\d\d:\d\S* +(.*?)/?(?: link to .*| -> .*|--V.*| unknown .*)?$", done.stdout.decode(), re.MULTILINE
    )
    return [f"{kinds.get(kind, kind)} {name}" for kind, name in found] if done.returncode == 0 else REFUSED


def by_bsdtar(data: bytes) -> Said:
    argv = ["bsdtar", "-tvf", "-"]
    done = subprocess.run(argv, input=data, capture_output=True, env=ENV, check=False)
    kinds = {"-": "0", "h": "1", "l": "2", "d": "5"}
    lines = done.stdout.decode().splitlines()
    found = [(line[0], line.split(None, 8)[8].partition(" -> ")[0].partition(" link to ")) for line in lines]
    said = [f"{'1' if link else kinds[kind]} {name.rstrip('/')}" for kind, (name, link, _) in found]
    return said if done.returncode == 0 else REFUSED


@pytest.mark.parametrize("name", CASES)
def test_ours(name):
    assert by_ours(CASES[name].data) == CASES[name].ours


@pytest.mark.parametrize("name", CASES)
def test_tarfile(name):
    assert CASES[name].python in (None, by_tarfile(CASES[name].data))


@pytest.mark.requires("tar")
@pytest.mark.parametrize("name", CASES)
def test_gnu_tar(name):
    assert CASES[name].gnu in (None, by_gnu(CASES[name].data))


@pytest.mark.requires("bsdtar")
@pytest.mark.parametrize("name", CASES)
def test_bsdtar(name):
    assert CASES[name].bsd in (None, by_bsdtar(CASES[name].data))


NEGATIVE = layer_tar([file("x", pax={"mtime": "-1.5"})])


def test_a_negative_fraction_is_a_fraction_of_a_negative_number():
    assert scanned(NEGATIVE)[0].mtime_ns == -1_500_000_000
    with tarfile.open(fileobj=io.BytesIO(NEGATIVE)) as tar:
        assert tar.getmembers()[0].mtime == -1.5


def test_bsdtar_adds_it_instead():
    parts.requires("bsdtar")
    argv = ["bsdtar", "-cf", "-", "--format=mtree", "--options=mtree:!all,mtree:time,mtree:type", "@-"]
    line = subprocess.run(argv, input=NEGATIVE, capture_output=True, env=ENV, check=True).stdout.decode().splitlines()[1]
    assert unescaped(line.split()[0]) == b"./x"
    assert MTREE_TYPES["file"] == "0"
    assert "time=-1.500000000" in line  # meant: -1 + 0.5
