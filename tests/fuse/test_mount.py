"""A union mounted: by root, by the root of a user namespace, and by a user whom fusermount3 helps."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import signal
import stat
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lamella.drivers._run import attach, detach, is_mounted, mounted, mounts_below
from lamella.errors import DriverUnavailable
from lamella.layer.union import Union
from lamella.model import Mount
from lamella.testing.calls import Directory
from lamella.testing.editors import tree_of
from lamella.testing.listing import compare, listing
from lamella.testing.trees import Dir, Edit, File, Hardlink, Symlink, build

pytestmark = pytest.mark.requires("fuse")

LOWER: tuple[Edit, ...] = (
    File("file", b"lower", mode=0o644), Dir("dir"), File("dir/a", b"a"), File("dir/b", b"bb"), Dir("dir/sub"),
    File("dir/sub/deep", b"deep"), Symlink("link", "file"), Hardlink("hard", "file"), Dir("other"), File("other/x", b"x"),
)  # fmt: skip
HOSTILE = ["a:b", "c,d", "e\\f", "g h", "i\tj\nk", "l=m", "\u00fc", "p\udcff"]
DIALECTS = ["overlay", "aufs"]


@pytest.fixture(params=["box", "user_box"])
def any_box(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def words(folder: Path, *lowers: Path, dialect: str = "overlay", more: tuple[str, ...] = (), read_only: bool = False) -> Mount:
    options = [f"lowerdir+={lower}" for lower in lowers]
    if read_only:
        return Mount("fuse.lamella", "lamella", ("ro", *options, f"dialect={dialect}", *more))
    for name in ("upper", "work"):
        (folder / name).mkdir(exist_ok=True)
    own = (f"upperdir={folder / 'upper'}", f"workdir={folder / 'work'}")
    return Mount("fuse.lamella", "lamella", (*options, *own, f"dialect={dialect}", *more))


@contextlib.contextmanager
def union(folder: Path, *edits: Edit, **how: Any) -> Iterator[Path]:
    """Lend the mount of a union of ``folder / "lower"``; nothing of it is left afterwards."""
    lower, target = folder / "lower", folder / "mnt"
    if not lower.exists():
        build(lower, *(edits or LOWER))
    target.mkdir(exist_ok=True)
    before = set(servers())
    attach([words(folder, lower, **how)], target)
    try:
        yield target
    finally:
        detach(target, lazy=sys.exc_info()[0] is not None)
    assert not is_mounted(target)
    assert set(servers()) <= before


def servers() -> list[int]:
    """Return the processes of this mount namespace that serve a union."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            is_one = entry.name.isdecimal() and b"lamella.fuse" in (entry / "cmdline").read_bytes().split(b"\0")
            if is_one and os.readlink(entry / "ns/mnt") == os.readlink("/proc/self/ns/mnt"):
                found.append(int(entry.name))
    return found


def fails(number: int) -> Any:
    return pytest.raises(OSError, match=re.escape(os.strerror(number)))


# -- what is shown and changed -----------------------------------------------------------------------------------------


def shows(folder: Path, dialect: str) -> list[str]:
    with union(folder, dialect=dialect) as where:
        out = compare(listing(folder / "lower"), listing(where), {"root"})
        (where / "dir/a").unlink()
        (where / "new").write_text("new")
        (where / "file").write_text("changed")
        os.rename(where / "other/x", where / "dir/x")
        os.mkdir(where / "dir/a")
        os.symlink("t", where / "dir/s")
        shown = listing(where)
    with Union([folder / "upper", folder / "lower"], dialect=dialect, writable=False) as again:
        out += compare(shown, tree_of(again), {"root"})
    with union(folder, dialect=dialect) as where:
        out += compare(shown, listing(where), {"root"})
    return out


@pytest.mark.parametrize("dialect", DIALECTS)
def test_it_shows_and_keeps_what_the_union_does(any_box, dialect):
    assert any_box.call(shows, dialect) == []


def hostile(folder: Path) -> None:
    lowers = [build(folder / f"lower{n}" / name, File(f"f{n}", os.fsencode(name))) for n, name in enumerate(HOSTILE)]
    target = folder / "mnt,\\ \udcff\n"
    (folder / "up,:\udcff").mkdir()
    target.mkdir()
    for name in ("u", "w"):
        (folder / "up,:\udcff" / name).mkdir()
    options = (*(f"lowerdir+={lower}" for lower in lowers), f"upperdir={folder}/up,:\udcff/u", f"workdir={folder}/up,:\udcff/w")
    attach([Mount("fuse.lamella", "lamella", options)], target)
    try:
        assert [os.fsdecode((target / f"f{n}").read_bytes()) for n in range(len(HOSTILE))] == HOSTILE
        for name in HOSTILE:
            (target / name).write_text("x")
        assert set(os.listdir(target)) >= set(HOSTILE)
        assert set(os.listdir(folder / "up,:\udcff/u")) == set(HOSTILE)
    finally:
        detach(target)


def test_paths_and_names_are_any_bytes(any_box):
    any_box.call(hostile)


def reads_only(folder: Path) -> None:
    build(folder / "lower", *LOWER)
    target = folder / "mnt"
    target.mkdir()
    with mounted([words(folder, folder / "lower", read_only=True)], folder / "mounts") as where:
        assert compare(listing(folder / "lower"), listing(where), {"root"}) == []
        with fails(errno.EROFS):
            Path(where, "file").write_text("x")
        with fails(errno.EROFS):
            os.mkdir(Path(where, "new"))
    attach([words(folder, folder / "lower")], target, read_only=True)  # with an upper directory that stays as it is
    try:
        with fails(errno.EROFS):
            (target / "new").write_text("x")
    finally:
        detach(target)
    assert os.listdir(folder / "upper") == os.listdir(folder / "work") == os.listdir(folder / "mounts") == []


def test_read_only(any_box):
    any_box.call(reads_only)


def overlays_names(folder: Path) -> None:
    with union(folder) as where:
        with fails(errno.EXDEV):
            os.rename(where / "dir", where / "moved")
        for key in ("trusted.overlay.opaque", "trusted.overlay.own"):
            with fails(errno.ENODATA):
                os.getxattr(where / "dir", key)
            os.setxattr(where / "dir", key, b"y")
            assert os.getxattr(where / "dir", key) == b"y"
        assert set(os.listxattr(where / "dir")) == {"trusted.overlay.opaque", "trusted.overlay.own"}
        assert os.getxattr(folder / "upper/dir", "trusted.overlay.overlay.opaque") == b"y"
        assert sorted(os.listdir(where / "dir")) == ["a", "b", "sub"]
        with fails(errno.EPERM):
            os.mknod(where / "white", stat.S_IFCHR, 0)
        assert os.stat(where / "dir").st_nlink == 1  # of several branches
    with union(folder, more=("redirect_dir=on",)) as where:
        os.rename(where / "dir", where / "moved")
        assert (where / "moved/sub/deep").read_bytes() == b"deep"
        (where / "moved/sub/deep").write_text("changed")
        os.rename(where / "other", where / "moved/other")
        assert (where / "moved/other/x").read_bytes() == b"x"
        shown = listing(where)
    with union(folder, more=("redirect_dir=on",)) as where:
        assert compare(shown, listing(where), {"root"}) == []


def test_as_overlayfs_answers(box):
    box.call(overlays_names)


def numbers(folder: Path) -> None:
    with union(folder) as where:
        before = {path: os.lstat(where / path).st_ino for path in ("dir", "dir/a", "file", "hard", "link", "other/x")}
        assert before["file"] == before["hard"]
        (where / "dir/a").write_text("copied up")
        os.chmod(where / "other/x", 0o600)
        os.rename(where / "other/x", where / "dir/x")
        assert os.stat(where / "dir/x").st_ino == before["other/x"]
        assert {path: os.lstat(where / path).st_ino for path in ("dir", "dir/a", "link")} == {path: before[path] for path in ("dir", "dir/a", "link")}
        for top in ("", "dir"):
            with os.scandir(where / top) as entries:
                assert all(entry.inode() == entry.stat(follow_symlinks=False).st_ino for entry in entries)
        (where / "hard").write_text("other now")  # its other name stays lower: two files
        assert os.stat(where / "file").st_ino == before["file"] != os.stat(where / "hard").st_ino
        assert (where / "file").read_bytes() == b"lower"
        os.link(where / "dir/b", where / "dir/c")
        assert os.stat(where / "dir/b").st_ino == os.stat(where / "dir/c").st_ino
        assert os.stat(where / "dir/b").st_nlink == 2
        with open(where / "dir/b", "r+b") as one, open(where / "dir/c", "rb") as other:
            one.write(b"through one")
            one.flush()
            assert other.read() == b"through one"
    with union(folder) as where:  # a link that the kernel has not seen made
        assert os.stat(where / "dir/c").st_ino == os.stat(where / "dir/b").st_ino
        (where / "dir/c").write_text("once more")
        assert (where / "dir/b").read_text() == "once more"
        os.unlink(where / "dir/c")
        assert os.stat(where / "dir/b").st_nlink == 1


def test_inode_numbers_stay_and_links_share_one(any_box):
    any_box.call(numbers)


def before_copy_up(folder: Path) -> None:
    with union(folder, File("big", b"0" * 1_000_000)) as where, open(where / "big", "rb") as reader:
        assert reader.read(10) == b"0" * 10
        with open(where / "big", "r+b") as writer:
            writer.seek(500_000)
            writer.write(b"1" * 10)
        reader.seek(500_000)
        assert reader.read(12) == b"1" * 10 + b"00"
        os.unlink(where / "big")
        reader.seek(499_999)
        assert reader.read(3) == b"011"
        assert os.fstat(reader.fileno()).st_nlink == 0
    assert (folder / "lower/big").read_bytes() == b"0" * 1_000_000


def test_who_reads_sees_what_is_written_after_a_copy_up(any_box):
    any_box.call(before_copy_up)


def unlinked_lower(folder: Path) -> None:
    with union(folder) as where:
        fd = os.open(where / "dir/a", os.O_RDONLY)
        try:
            os.unlink(where / "dir/a")
            assert os.pread(fd, 9, 0) == b"a"
            assert os.fstat(fd).st_nlink == 0
            with fails(errno.ESTALE):
                os.fchmod(fd, 0o777)
            with fails(errno.ESTALE):
                os.setxattr(fd, "user.x", b"1")
            with fails(errno.ESTALE):
                os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        finally:
            os.close(fd)
    assert stat.S_IMODE(os.stat(folder / "lower/dir/a").st_mode) != 0o777
    assert os.listxattr(folder / "lower/dir/a") == []


def test_a_lower_file_without_a_name_is_never_changed(any_box):
    any_box.call(unlinked_lower)


def on_disk(folder: Path) -> list[str]:
    """Note which descriptors the server syncs: fsync(2) of a file in a mount whose server is this process's child."""
    with union(folder) as where:
        (where / "dir/a").write_text("new")
        server = servers()[0]
        argv = ["strace", "-f", "-e", "trace=fsync,fdatasync", "-o", str(folder / "trace"), "-p", str(server)]
        with subprocess.Popen(argv, stderr=subprocess.PIPE) as tracer:
            assert tracer.stderr is not None
            tracer.stderr.readline()
            for path, call in (("dir/a", os.fsync), ("dir/a", os.fdatasync), ("dir", os.fsync)):
                fd = os.open(where / path, os.O_RDONLY)
                call(fd)
                os.close(fd)
            tracer.terminate()
    return re.findall(r" (f\w+)\(\d+\) += 0", (folder / "trace").read_text())


@pytest.mark.requires("strace")
def test_sync_reaches_the_branch(box):
    assert box.call(on_disk) == ["fsync", "fdatasync", "fsync"]


# -- many at once ------------------------------------------------------------------------------------------------------


def crowd(folder: Path) -> list[str]:
    edits = [Dir("d"), *(File(f"d/f{n}", bytes([n]) * 50_000) for n in range(16))]
    wrong: list[str] = []

    def read(where: Path, until: threading.Event) -> None:
        turn = 0
        while not until.is_set():
            turn += 1
            path = where / f"d/f{turn % 16}"
            with contextlib.suppress(FileNotFoundError):
                data = path.read_bytes()
                if len(set(data)) > 1:
                    wrong.append(f"{path}: {set(data)}")
                os.stat(path)
            if not {f"f{n}" for n in range(0, 16, 2)} <= set(os.listdir(where / "d")):
                wrong.append("a name is missing")

    def write(where: Path, first: int) -> None:
        for turn in range(60):
            path = where / f"d/f{first + 2 * (turn % 8)}"
            new = where / f"d/new{first}"
            new.write_bytes(bytes([turn]) * 50_000)
            os.rename(new, path)
            if first:
                os.unlink(path)

    def guarded(call: Callable[..., None], *args: Any) -> None:
        try:
            call(*args)
        except Exception as error:  # noqa: BLE001
            wrong.append(repr(error))

    with union(folder, *edits) as where:
        over = threading.Event()
        readers = [threading.Thread(target=guarded, args=(read, where, over)) for _ in range(8)]
        writers = [threading.Thread(target=guarded, args=(write, where, first)) for first in (0, 1)]
        for thread in (*readers, *writers):
            thread.start()
        for thread in writers:
            thread.join()
        over.set()
        for thread in readers:
            thread.join()
        shown = listing(where)
    with Union([folder / "upper", folder / "lower"], writable=False) as again:
        return wrong[:5] + compare(shown, tree_of(again), {"root"})


def test_eight_readers_and_two_writers(any_box):
    assert any_box.call(crowd) == []


def killed_reader(folder: Path) -> None:
    with union(folder, File("big", b"x" * (64 << 20))) as where:
        for _ in range(5):
            with subprocess.Popen(["cat", where / "big"], stdout=subprocess.DEVNULL) as reader:
                time.sleep(0.01)
                reader.kill()
        with open(where / "big", "rb") as file:
            assert len(file.read()) == 64 << 20
        os.unlink(where / "big")


def test_a_killed_reader_leaves_no_trace(box):
    box.call(killed_reader)


# -- its server --------------------------------------------------------------------------------------------------------


def killed_server(folder: Path) -> None:
    with union(folder) as where:
        server = servers()[0]
        kept = os.open(where / "file", os.O_RDONLY)
        try:
            os.kill(server, signal.SIGKILL)
            with select_end(server), fails(errno.ENOTCONN):
                os.stat(where / "not asked for yet")
        finally:
            with contextlib.suppress(OSError):  # nobody takes note
                os.close(kept)
        assert is_mounted(where)
    attach([words(folder, folder / "lower")], where)
    try:
        assert (where / "file").read_bytes() == b"lower"
    finally:
        detach(where)


@contextlib.contextmanager
def select_end(pid: int) -> Iterator[None]:
    """Wait until a process that may be no child of ours has ended."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        yield
        return
    try:
        assert select.select([fd], [], [], 10)[0]
        yield
    finally:
        os.close(fd)


def test_the_mount_of_a_killed_server_is_undone(any_box):
    any_box.call(killed_server)


def asked_to_end(folder: Path, number: int) -> None:
    before = mounts_below(folder)
    with union(folder) as where:
        (where / "new").write_text("kept")
        server = servers()[0]
        os.kill(server, number)
        with select_end(server):
            assert mounts_below(folder) == before
    assert (folder / "upper/new").read_text() == "kept"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_unmounts(any_box, number):
    any_box.call(asked_to_end, number)


def outlives(folder: Path) -> str:
    code = (
        "import sys; from lamella.drivers._run import attach; from lamella.model import Mount;"
        "attach([Mount('fuse.lamella', 'lamella', tuple(sys.argv[2:]))], sys.argv[1])"
    )
    build(folder / "lower", *LOWER)
    (folder / "mnt").mkdir()
    argv = [sys.executable, "-c", code, str(folder / "mnt"), *words(folder, folder / "lower").options]
    subprocess.run(argv, check=True, start_new_session=True)
    try:
        return (folder / "mnt/file").read_text()
    finally:
        detach(folder / "mnt")


def test_the_mount_outlives_who_made_it(any_box):
    assert any_box.call(outlives) == "lower"


def in_use(folder: Path) -> None:
    with union(folder) as where, open(where / "file", "rb") as file:
        with fails(errno.EBUSY):
            detach(where)
        detach(where, lazy=True)
        assert not is_mounted(where)
        assert file.read() == b"lower"
        server = servers()[0]
        file.close()
        with select_end(server):
            assert servers() == []


def test_what_is_in_use_is_busy_or_goes_when_it_is_free(any_box):
    any_box.call(in_use)


def foreground(folder: Path) -> tuple[int, str]:
    build(folder / "lower", *LOWER)
    (folder / "mnt").mkdir()
    argv = [sys.executable, "-m", "lamella.fuse", "--foreground", str(folder / "mnt"), f"lowerdir+={folder / 'lower'}", "ro"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE) as child:
        assert child.stderr is not None
        while not is_mounted(folder / "mnt"):
            assert child.poll() is None
            time.sleep(0.01)
        (folder / "mnt/file").read_bytes()
        child.send_signal(signal.SIGINT)
        said = child.stderr.read().decode()
        return child.wait(), said + str(is_mounted(folder / "mnt"))


def test_in_the_foreground_it_ends_at_an_interrupt(box):
    assert box.call(foreground) == (0, "False")


def refused(folder: Path, options: tuple[str, ...], target: str) -> tuple[str, str]:
    build(folder / "lower")
    (folder / "mnt").mkdir()
    try:
        attach([Mount("fuse.lamella", "lamella", tuple(option.format(folder) for option in options))], folder / target)
    except (OSError, DriverUnavailable) as error:
        return type(error).__name__, str(error).replace(str(folder), "")
    detach(folder / target)
    return "", ""


@pytest.mark.parametrize(
    ("options", "target", "kind", "said"),
    [
        (("lowerdir+={}/gone",), "mnt", "FileNotFoundError", "No such file or directory: '/gone'"),
        (("lowerdir+={}/lower",), "gone", "FileNotFoundError", "gone"),
        (("lowerdir+={}/lower", "colour=red"), "mnt", "OSError", "no option 'colour'"),
        (("lowerdir+={}/lower", "dialect=plain"), "mnt", "OSError", "dialect 'plain'"),
        (("lowerdir+={}/lower", "upperdir={}/gone", "workdir={}/lower"), "mnt", "FileNotFoundError", "/gone"),
        (("lowerdir+={}/lower", "upperdir={}/lower", "workdir=/proc"), "mnt", "OSError", "another file system"),
        (("ro",), "mnt", "OSError", "no branch"),
    ],
)
def test_what_cannot_be_mounted_is_said(box, options, target, kind, said):
    got = box.call(refused, options, target)
    assert got[0] == kind
    assert said in got[1]


def unavailable(folder: Path) -> str:
    (folder / "mfusepy.py").write_text("raise ImportError('No module named mfusepy')")
    build(folder / "lower")
    (folder / "mnt").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(folder), *sys.path])
        with pytest.raises(DriverUnavailable) as info:
            attach([words(folder, folder / "lower")], folder / "mnt")
    return str(info.value)


def test_without_mfusepy_it_is_unavailable(box):
    assert "install lamella[fuse]" in box.call(unavailable)


def by_a_user(folder: Path) -> str:
    from lamella.fuse.server import Server  # a program of this user's could not read the package

    lower, where = build(folder / "lower", *LOWER), folder / "mnt"
    where.mkdir()
    mount = words(folder, lower, dialect="overlay:user")
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(50)
            server = Server([os.fsencode(word) for word in (where, *mount.options)])
            server.mount()
            server.serve()
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(0)
    try:
        while not is_mounted(where):
            assert os.waitpid(child, os.WNOHANG) == (0, 0)
            time.sleep(0.01)
        (where / "dir/a").write_text("mine")
        os.rename(where / "file", where / "dir/file")
        assert (where / "dir/file").read_bytes() == b"lower"
        assert os.stat(where / "dir/a").st_uid == os.getuid()
        return "".join(sorted(os.listdir(where / "dir")))
    finally:
        detach(where)
        assert not is_mounted(where)
        os.waitpid(child, 0)


@pytest.mark.requires("fusermount3")
def test_an_ordinary_user_mounts_by_fusermount3(nobody_box):
    assert nobody_box.call(by_a_user) == "abfilesub"


# -- a driver's calls --------------------------------------------------------------------------------------------------


def large(folder: Path) -> int:
    with union(folder, Dir("d"), *(File(f"d/{n:05}", b"") for n in range(12_000))) as where:
        names = os.listdir(where / "d")
        assert sorted(names) == [f"{n:05}" for n in range(12_000)]
        with os.scandir(where / "d") as entries:  # what is removed meanwhile is not missed, nor seen twice
            seen = []
            for entry in entries:
                seen.append(entry.name)
                os.unlink(where / "d" / entry.name)
        assert sorted(seen) == sorted(names)
        os.rmdir(where / "d")
        with Directory(where) as fs:
            assert fs.readdir(b"") == {}
        return len(seen)


def test_a_directory_is_emptied_while_it_is_read(box):
    assert box.call(large, timeout=180) == 12_000
