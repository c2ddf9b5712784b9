"""Archives by other programs, and what other programs read in an archive."""

from __future__ import annotations

import io
import os
import re
import subprocess
import tarfile
from pathlib import Path
from typing import Any

ENV = {**os.environ, "TZ": "UTC", "LC_ALL": "C.UTF-8"}
NAMES = [
    "plain", "a b", "x" * 100, "y" * 101, "n" * 255, "deep/" * 30 + "f", "deep/" * 60 + "g", "uml\u00e4ut", "back\\slash",
    "new\nline", "-dash", "per%cent", "equal=s", b"\xff\xfe", b"z\xc3" + b"\x80" * 110,
]  # fmt: skip
SIZES = [0, 1, 511, 512, 513, 1024, 100_000]
TIMES = [0, 1, 1_600_000_000_123_456_789, 2**33 * 10**9, -1_500_000_000, -1, 1_700_000_000 * 10**9]


def tree(root: Path, *, utf8: bool = False) -> Path:
    """Make a directory that holds everything a tar can; with ``utf8`` no name that bsdtar would not read from pax."""
    root.mkdir()
    for i, name in enumerate(name for name in NAMES if not utf8 or isinstance(name, str)):
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(bytes([65 + i]) * SIZES[i % len(SIZES)])
        os.chmod(path, [0o644, 0o4755, 0o2711, 0o1600, 0 if os.geteuid() == 0 else 0o400][i % 5])
    os.symlink("plain", root / "short link")
    os.symlink("/abs/./olute//" + "t" * 200, root / "long link")
    os.link(root / "plain", root / "hard")
    os.link(root / ("deep/" * 60 + "g"), root / ("h" * 150))
    os.link(root / "short link", root / "hard to a link", follow_symlinks=False)
    os.mkfifo(root / "fifo")
    (root / "empty dir").mkdir(mode=0o1777)
    for name, n in (("holes only", 0), ("one", 1), ("four", 4), ("five", 5), ("thirty", 30), ("hundred", 100)):
        with open(root / name, "wb") as file:
            for i in range(n):
                file.seek((2 * i + 1) * 65536)
                file.write(bytes([i + 1]) * (4096 + i))
            file.truncate((2 * n + 2) * 65536)
    if os.geteuid() == 0:
        os.chown(root / "plain", 2**21 + 5, 2**31 + 7)
        os.mknod(root / "null", 0o20666, os.makedev(1, 3))
        os.mknod(root / "disk", 0o60660, os.makedev(259, 70_000))
    for i, path in enumerate(sorted(root.rglob("*"))):
        os.utime(path, ns=(TIMES[i % 7],) * 2, follow_symlinks=False)
    return root


def run(*argv: str, data: bytes | None = None, **options: Any) -> bytes:
    """Run a program; its complaint is this function's."""
    done = subprocess.run(argv, input=data, capture_output=True, env=ENV, check=False, **options)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


def gnu(root: Path, *options: str) -> bytes:
    """Archive ``root`` with GNU tar."""
    return run("tar", "--sort=name", *options, "-cf", "-", "-C", str(root), ".")


def bsd(root: Path, *options: str) -> bytes:
    """Archive ``root`` with bsdtar."""
    return run("bsdtar", *options, "-cf", "-", "-C", str(root), ".")


def _plain_time(member: tarfile.TarInfo) -> tarfile.TarInfo:
    # tarfile would spell a nanosecond 1e-09, which no other reader takes for a time
    member.mtime = member.mtime if abs(member.mtime) > 1 else 0
    return member


def python(root: Path, style: int) -> bytes:
    """Archive ``root`` with tarfile."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=style) as tar:
        tar.add(root, arcname=".", filter=_plain_time)
    return out.getvalue()


# what a program says of an entry: path, type, mode, uid, gid, size, and then what it knows more
Said = tuple[Any, ...]
GNU_LINE = re.compile(
    r"(?P<mode>.{10}) (?P<uid>\d+)/(?P<gid>\d+) +(?P<size>\d+|\d+,\d+) (?P<day>-?\d+-\d\d-\d\d) (?P<clock>[\d:.]+) +(?P<name>.*)"
)
GNU_TYPES = {"-": "0", "h": "1", "l": "2", "c": "3", "b": "4", "d": "5", "p": "6"}
BITS = {"r": 4, "w": 2, "x": 1, "s": 1, "t": 1}


def unescaped(name: str) -> bytes:
    """Undo ``--quoting-style=escape`` and mtree's octal."""
    short = {"n": b"\n", "t": b"\t", "s": b" ", "a": b"\a", "r": b"\r", "b": b"\b", "f": b"\f", "v": b"\v"}
    raw = name.encode("utf-8", "surrogateescape")

    def one(match: re.Match[bytes]) -> bytes:
        code = match[1]
        return bytes([int(code, 8) & 255]) if code.isdigit() else short.get(code.decode(), code)

    return re.sub(rb"\\([0-7]{3}|.)", one, raw, flags=re.DOTALL)


def normal(path: bytes) -> bytes:
    return b"/".join(p for p in path.split(b"/") if p not in (b"", b"."))


def mode_of(letters: str) -> int:
    """Read ``rwsr-x--t``."""
    mode = 0
    for i, letter in enumerate(letters):
        mode |= BITS.get(letter, 0) << (6 - 3 * (i // 3))
        if letter in "sStT":
            mode |= 0o4000 >> (i // 3)
    return mode


def listed_by_gnu(data: bytes) -> list[Said]:
    """Read the archive with GNU tar: ... link target, device."""
    options = ["--full-time", "--numeric-owner", "--quoting-style=escape"]
    text = run("tar", "-tv", *options, "-f", "-", data=data).decode("utf-8", "surrogateescape")
    found = []
    for line in text.splitlines():
        m = GNU_LINE.fullmatch(line)
        assert m, line
        kind = GNU_TYPES[m["mode"][0]]
        name, _, link = m["name"].partition({"1": " link to ", "2": " -> "}.get(kind, "\0"))
        device = tuple(map(int, m["size"].split(","))) if kind in "34" else (0, 0)
        size = int(m["size"]) if kind == "0" else 0
        target = normal(unescaped(link)) if kind == "1" else unescaped(link)
        mode = mode_of(m["mode"][1:])
        found.append((normal(unescaped(name)), kind, mode, int(m["uid"]), int(m["gid"]), size, target, device))
    return found


MTREE_TYPES = {"file": "0", "link": "2", "char": "3", "block": "4", "dir": "5", "fifo": "6"}


def listed_by_bsdtar(data: bytes) -> list[Said]:
    """Read the archive with bsdtar: ... mtime, symlink target, device, sha256 of the content."""
    keys = "type,mode,uid,gid,size,time,link,device,sha256"
    options = "--options=mtree:!all," + ",".join(f"mtree:{key}" for key in keys.split(","))
    text = run("bsdtar", "-cf", "-", "--format=mtree", options, "@-", data=data).decode("utf-8", "surrogateescape")
    found = []
    for line in text.replace("\\\n", "").splitlines():
        if line.startswith("#") or not line:
            continue
        name, *words = line.split(" ")
        value = dict(word.partition("=")[::2] for word in words)
        seconds, _, fraction = value.get("time", "0.0").partition(".")
        device = tuple(int(n, 0) for n in value["device"].split(",")[1:]) if "device" in value else (0, 0)
        kind = MTREE_TYPES[value["type"]]
        found.append(
            (normal(unescaped(name)), kind, int(value["mode"], 8), int(value["uid"]), int(value["gid"]),
             int(value.get("size", 0)) if kind == "0" else 0, (int(seconds), int(fraction or 0)),
             unescaped(value.get("link", "")), device, value.get("sha256digest"))
        )  # fmt: skip
    return found
