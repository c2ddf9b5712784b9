"""The reader against tarfile, GNU tar and bsdtar: what they write is read, and read as they read it."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lamella
from lamella.model import EntryType
from tests import parts
from tests.tar import peers

# name -> the program it takes, and how it archives a directory
MAKERS: dict[str, tuple[str | None, Callable[[Path], bytes]]] = {
    f"GNU tar {style}": ("tar", lambda root, style=style: peers.gnu(root, f"--format={style}"))
    for style in ("oldgnu", "gnu", "posix")
}
MAKERS["GNU tar old sparse"] = ("tar", lambda root: peers.gnu(root, "--format=gnu", "--sparse"))
for version in ("0.0", "0.1", "1.0"):
    MAKERS[f"GNU tar sparse {version}"] = (
        "tar",
        lambda root, version=version: peers.gnu(root, "--format=posix", "--sparse", f"--sparse-version={version}"),
    )
for style in ("pax", "gnutar"):
    MAKERS[f"bsdtar {style}"] = ("bsdtar", lambda root, style=style: peers.bsd(root, f"--format={style}"))
MAKERS["tarfile pax"] = (None, lambda root: peers.python(root, tarfile.PAX_FORMAT))
MAKERS["tarfile gnu"] = (None, lambda root: peers.python(root, tarfile.GNU_FORMAT))


@pytest.fixture(scope="module")
def trees(home, worker) -> dict[bool, Path]:
    """Give a directory with any names and one whose names are UTF-8."""
    folder = home / f"peers-{worker}"
    folder.mkdir()
    yield {utf8: peers.tree(folder / str(utf8), utf8=utf8) for utf8 in (False, True)}
    peers.run("rm", "-rf", str(folder))


@pytest.fixture(scope="module")
def archives(trees) -> Callable[..., bytes]:
    """Give ``archive(name, utf8)``, made once."""
    made: dict[tuple[str, bool], bytes] = {}

    def archive(name: str, utf8: bool = False) -> bytes:
        program, make = MAKERS[name]
        if program is not None:
            parts.requires(program)
        if (name, utf8) not in made:
            made[name, utf8] = make(trees[utf8])
        return made[name, utf8]

    return archive


def entries(data: bytes) -> list[dict[str, Any]]:
    """Read with ours; content as its digest."""
    found = []
    with lamella.read_layer(data) as reader:
        for e in reader:
            row = {"path": e.path, "type": e.type.value, "mode": e.mode, "uid": e.uid, "gid": e.gid, "size": e.size}
            row |= {"mtime": (e.mtime, e.mtime_nsec), "link": e.link_target, "device": (e.rdev_major, e.rdev_minor)}
            row |= {"uname": e.uname, "gname": e.gname, "sha256": None, "sparse": e.sparse is not None}
            if e.type is EntryType.FILE:
                row["sha256"] = hashlib.sha256(reader.read(e)).hexdigest()
            found.append(row)
    return found


@pytest.mark.parametrize("name", MAKERS)
def test_nothing_of_the_tree_is_lost(name, archives, trees):
    rows = {row["path"]: row for row in entries(archives(name))}
    there = {os.fsencode(p.relative_to(trees[False])) for p in trees[False].rglob("*")}
    assert set(rows) - {b""} == there
    assert sum(row["sparse"] for row in rows.values()) == 6 or "sparse" not in name
    for path in there:
        status = os.lstat(os.path.join(os.fsencode(trees[False]), path))
        row = rows[path]
        assert row["mode"] == status.st_mode & 0o7777
        assert (row["uid"], row["gid"]) == (status.st_uid, status.st_gid)
        assert row["device"] == (os.major(status.st_rdev), os.minor(status.st_rdev))
        if row["sha256"] is not None:
            content = Path(os.fsdecode(os.path.join(os.fsencode(trees[False]), path))).read_bytes()
            assert row["sha256"] == hashlib.sha256(content).hexdigest()
        if name == "GNU tar posix":
            assert row["mtime"] == divmod(status.st_mtime_ns, 10**9)


@pytest.mark.parametrize("name", MAKERS)
def test_as_tarfile_reads_it(name, archives):
    data = archives(name)
    rows = entries(data)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
        assert len(members) == len(rows)
        for member, row in zip(members, rows, strict=True):
            assert row["path"] == peers.normal(os.fsencode(member.name))
            assert row["type"] == ("0" if member.isreg() else member.type.decode())
            assert (row["mode"], row["uid"], row["gid"]) == (member.mode & 0o7777, member.uid, member.gid)
            assert (row["uname"], row["gname"]) == (member.uname.encode(), member.gname.encode())
            assert row["mtime"][0] + row["mtime"][1] / 1e9 == pytest.approx(member.mtime, abs=1e-6)
            if row["type"] in "34":
                assert row["device"] == (member.devmajor, member.devminor)
            target = os.fsencode(member.linkname)
            assert row["link"] == (peers.normal(target) if row["type"] == "1" else target)
            if row["type"] == "0":
                assert row["size"] == member.size
                assert row["sha256"] == hashlib.sha256(tar.extractfile(member).read()).hexdigest()


@pytest.mark.requires("tar")
@pytest.mark.parametrize("name", MAKERS)
def test_as_gnu_tar_reads_it(name, archives):
    data = archives(name)
    keys = ("path", "type", "mode", "uid", "gid", "size", "link", "device")
    assert [tuple(row[k] for k in keys) for row in entries(data)] == peers.listed_by_gnu(data)


@pytest.mark.requires("bsdtar")
@pytest.mark.parametrize("name", MAKERS)
def test_as_bsdtar_reads_it(name, archives):
    data = archives(name, utf8=True)
    ours = {row["path"]: row for row in entries(data)}
    theirs = peers.listed_by_bsdtar(data)
    assert len(theirs) == len(ours)
    for path, kind, mode, uid, gid, size, mtime, target, device, sha256 in theirs:
        row = ours[path]
        assert (mode, uid, gid, device) == (row["mode"], row["uid"], row["gid"], row["device"])
        if row["mtime"][0] >= 0 or row["mtime"][1] == 0:  # test_reader_disagreements.py
            assert mtime == row["mtime"]
        if row["type"] != "1":
            assert (kind, size, target) == (row["type"], row["size"], row["link"])
            assert sha256 == row["sha256"] or row["sparse"]  # it leaves holes out of the digest


@pytest.mark.requires("tar")
def test_the_oldest_formats(scratch):
    """ustar and v7 hold less: short names, small ids, whole seconds from 1970 on."""
    root = scratch / "r"
    for folder in ("d", "d/" * 70):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / "f").write_bytes(b"1" * 600)
    os.symlink("d/f", root / "s")
    os.link(root / "d/f", root / "h")
    ustar = peers.gnu(root, "--format=ustar", "--mtime=@5")
    peers.run("rm", "-r", str(root / "d/d"))
    v7 = peers.gnu(root, "--format=v7", "--mtime=@5")
    for data, n in ((ustar, 75), (v7, 5)):
        rows = entries(data)
        assert len(rows) == n
        assert {row["mtime"] for row in rows} == {(5, 0)}
        keys = ("path", "type", "mode", "uid", "gid", "size", "link", "device")
        assert [tuple(row[k] for k in keys) for row in rows] == peers.listed_by_gnu(data)


@pytest.mark.requires("user_xattr")
@pytest.mark.parametrize("maker", ["tar", "bsdtar"])
def test_extended_attributes(scratch, maker):
    parts.requires(maker)
    root = scratch / "r"
    root.mkdir()
    (root / "f").touch()
    xattrs = {b"user.text": b"1", b"user.binary": b"\0\xff\n=", b"user.long": b"x" * 3000}
    for name, value in xattrs.items():
        os.setxattr(root / "f", name, value)
    data = peers.gnu(root, "--format=posix", "--xattrs") if maker == "tar" else peers.bsd(root, "--format=pax", "--xattrs")
    with lamella.read_layer(data) as reader:
        table = reader.table()
        assert table[table.find(b"f")].xattrs == xattrs
