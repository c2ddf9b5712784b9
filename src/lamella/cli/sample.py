"""What the demonstration works on: a part of this machine's files, and edits such as people make."""

from __future__ import annotations

import os
import shutil
import stat
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["copy_part", "edit_first", "edit_second", "roomy_folder", "sources"]

MAX_ENTRIES = 6_000
SKIPPED = {"site-packages", "dist-packages", "__pycache__"}


def sources() -> list[Path]:
    """Return the trees that a part is taken of: Python's own library, then documentation."""
    found = [Path(sysconfig.get_paths()["stdlib"]), Path("/usr/share/doc")]
    return [path for path in found if path.is_dir()]


def roomy_folder(nbytes: int) -> str:
    """Return a folder in memory with room for ``nbytes``, else the one that temporary files go to."""
    memory = "/dev/shm"  # noqa: S108  (a fresh folder of our own is made in it)
    if os.access(memory, os.W_OK | os.X_OK):
        room = os.statvfs(memory)
        if room.f_bavail * room.f_frsize > nbytes:
            return memory
    return tempfile.gettempdir()


def copy_part(target: Path, nbytes: int) -> tuple[int, int]:
    """Copy what fits into ``nbytes`` from the sources to ``target``; return numbers of entries and bytes.

    Directories, links and readable regular files only, none above an eighth of the whole, in the order of their names,
    so that the part is the same each time. Times are whole seconds, as packages have them.
    """
    n_entries = copied = 0
    for source in sources():
        for path in _walk(source):
            status = path.lstat()
            if n_entries >= MAX_ENTRIES or copied >= nbytes:
                return n_entries, copied
            to = target / path.relative_to("/")
            if stat.S_ISDIR(status.st_mode):
                to.mkdir(parents=True, exist_ok=True)
            elif stat.S_ISLNK(status.st_mode):
                to.symlink_to(path.readlink())
            elif stat.S_ISREG(status.st_mode) and os.access(path, os.R_OK) and status.st_size <= nbytes // 8:
                shutil.copy(path, to)
                os.utime(to, (status.st_mtime // 1, status.st_mtime // 1))
                copied += status.st_size
            else:
                continue
            n_entries += 1
    return n_entries, copied


def _walk(folder: Path) -> Iterator[Path]:
    yield folder
    inside = sorted(folder.iterdir())
    for path in inside:
        if path.is_dir() and not path.is_symlink() and path.name not in SKIPPED and os.access(path, os.R_OK | os.X_OK):
            yield from _walk(path)
    yield from (path for path in inside if path.is_symlink() or not path.is_dir())


def edit_first(tree: Path) -> list[str]:
    """Change ``tree`` as a day's work would; return what was done, in words."""
    files, folders = _inventory(tree)
    for path in files[:20]:
        with path.open("ab") as file:
            file.write(b"# appended\n")
    for path in files[20:40]:
        path.unlink()
    shutil.rmtree(folders[0])
    folders[1].rename(folders[1].with_name("renamed"))
    for path in files[40:60]:
        path.chmod(0o600)
    files[60].unlink()
    files[60].symlink_to("/somewhere/else")
    return [
        "20 files appended to, 20 deleted, 20 chmod 600",
        "a directory deleted, another one renamed",
        "a file swapped for a symbolic link",
    ]


def edit_second(tree: Path) -> list[str]:
    """Change ``tree`` again, with edits that are easy to miss; return what was done, in words."""
    files, folders = _inventory(tree)
    old = [path for path in files if path.stat().st_mtime_ns % 10**9 == 0]  # not touched by the first edit
    for path in old[:5]:
        _overwrite_unseen(path)
    for path in old[5:15]:
        path.with_name(path.name + ".link").hardlink_to(path)
    shutil.rmtree(folders[0])
    folders[0].write_bytes(b"a file now\n")
    files[-1].unlink()
    files[-1].mkdir()
    (files[-1] / "inside").write_bytes(b"a directory now\n")
    odd = tree / "odd names"
    odd.mkdir()
    odd.chmod(0o1777)
    for name in (b"new\nline", b"latin1-\xe9", b"x" * 255):
        Path(os.fsdecode(os.fsencode(odd) + b"/" + name)).write_bytes(name)
    with (odd / "sparse").open("wb") as file:
        file.truncate(8 << 20)
    return [
        "5 files changed, their size and time kept",
        "10 hard links made",
        "a directory swapped for a file, a file for a directory",
        "names with a newline, with Latin-1, of 255 bytes; a sticky directory; 8 MiB of hole",
    ]


def _overwrite_unseen(path: Path) -> None:
    """Change the first byte of a file and put its time back."""
    status = path.stat()
    with path.open("r+b") as file:
        first = file.read(1)
        file.seek(0)
        file.write(b"!" if first != b"!" else b"?")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _inventory(tree: Path) -> tuple[list[Path], list[Path]]:
    """Return regular files that are not empty, and four directories apart that hold nothing but such files."""
    files: list[Path] = []
    folders: list[Path] = []
    for name, below, names in os.walk(tree):
        below.sort()
        inside = [Path(name, child) for child in sorted(names)]
        regular = [path for path in inside if path.is_file() and not path.is_symlink() and path.stat().st_size]
        if not below and regular and len(folders) < 4 and len(files) > 80:
            folders.append(Path(name))
        else:
            files += regular
    if len(files) < 80 or len(folders) < 4:
        raise OSError(f"too few files of this machine to edit: {len(files)} in {tree}")
    return files, folders
