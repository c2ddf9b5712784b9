"""confine opens below a descriptor, never outside it, with openat2 and without; and gives a thread what is its own.

It takes no buffers but a ``bytes`` path, which ends in a NUL by CPython's contract, and no stream: there is no page to
guard and nothing to cut. What its C code copies are single components, of at most 255 bytes.
"""

from __future__ import annotations

import errno
import os
import threading

import pytest

from lamella._kernels import confine
from lamella.testing.trees import Dir, Fifo, File, Symlink, build
from lamella.tree.scan import directory
from tests.kernels.packing import open_fds
from tests.kernels.placing import own_thread

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
WAYS = pytest.mark.parametrize("by_parts", [False, True], ids=["openat2", "by-parts"])
LONG = "n" * 255
KERNEL = tuple(int(n) for n in os.uname().release.split(".")[:2])


@pytest.fixture
def root(scratch):
    """A root with everything in it, and what it must not reach beside it."""
    build(scratch, Dir("beside"), File("beside/secret", b"secret"))
    where = build(
        scratch / "root", Dir("d"), Dir("d/e"), File("d/e/f", b"inside"), File("f", b"top"), Symlink("link", "d"), Symlink("d/up", ".."),
        Symlink("out", "../beside"), Symlink("d/out", "../../beside/secret"), Symlink("absolute", "/etc"), Symlink("loop", "loop"),
        Symlink("magic", "/proc/self/root"), Fifo("pipe"), Dir(LONG), Dir(f"{LONG}/{LONG}"),
    )  # fmt: skip
    fd = os.open(where, DIRECTORY)
    yield fd
    os.close(fd)


@WAYS
@pytest.mark.parametrize("path", [".", "d", "d/e", LONG, f"{LONG}/{LONG}"])
def test_directories(root, path, by_parts):
    got = confine.open_beneath(root, path.encode(), DIRECTORY, by_parts)
    try:
        assert os.path.samestat(os.fstat(got), os.stat(path, dir_fd=root))
        assert not os.get_inheritable(got)
    finally:
        os.close(got)


@WAYS
@pytest.mark.parametrize(("path", "content"), [("f", b"top"), ("d/e/f", b"inside")])
def test_files(root, path, content, by_parts):
    got = confine.open_beneath(root, path.encode(), os.O_RDONLY, by_parts)
    with os.fdopen(got, "rb") as file:
        assert file.read() == content


@WAYS
@pytest.mark.parametrize(
    "path",
    ["link", "link/e", "d/up", "d/up/d", "out", "out/secret", "d/out", "absolute", "absolute/passwd", "loop", "loop/x", "magic", "magic/etc"],
)  # fmt: skip
def test_096_no_symlink_is_followed_wherever_it_stands(root, path, by_parts):
    for flags in (os.O_RDONLY, DIRECTORY, os.O_PATH | os.O_DIRECTORY):
        with pytest.raises(OSError, match=".") as caught:
            confine.open_beneath(root, path.encode(), flags, by_parts)
        assert caught.value.errno in {errno.ELOOP, errno.ENOTDIR}
        assert caught.value.filename == path.encode()


@WAYS
@pytest.mark.parametrize("path", ["..", "../beside", "../beside/secret", "d/../../beside", "d/e/../../../beside", "/", "/etc", "//etc"])
def test_096_no_path_leads_up(root, path, by_parts):
    before = open_fds()
    for flags in (os.O_RDONLY, DIRECTORY):
        with pytest.raises(OSError, match=".") as caught:
            confine.open_beneath(root, path.encode(), flags, by_parts)
        assert caught.value.errno in {errno.EXDEV, errno.ENOENT}
    assert open_fds() == before


@WAYS
@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("no", errno.ENOENT), ("no/d", errno.ENOENT), ("d/no/f", errno.ENOENT), ("", errno.ENOENT), ("f/x", errno.ENOTDIR),
        ("pipe/x", errno.ENOTDIR), ("d/e/f", errno.ENOTDIR), ("n" * 256, errno.ENAMETOOLONG), ("d/" + "n" * 300, errno.ENAMETOOLONG),
        ("d/" + "n" * 5000, errno.ENAMETOOLONG),
    ],
)  # fmt: skip
def test_errors_are_the_kernels_and_name_the_path(root, path, code, by_parts):
    before = open_fds()
    with pytest.raises(OSError, match=".") as caught:
        confine.open_beneath(root, path.encode(), DIRECTORY, by_parts)
    assert (caught.value.errno, caught.value.filename) == (code, path.encode())
    assert open_fds() == before


@WAYS
def test_deep_paths(root, by_parts):
    fd = os.dup(root)
    for _ in range(300):
        os.mkdir("x", dir_fd=fd)
        deeper = os.open("x", DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    got = confine.open_beneath(root, b"/".join([b"x"] * 300), DIRECTORY, by_parts)
    assert os.path.samestat(os.fstat(got), os.fstat(fd))
    os.close(fd)
    os.close(got)


@WAYS
def test_a_descriptor_that_is_none(by_parts):
    with pytest.raises(OSError, match=".") as caught:
        confine.open_beneath(1 << 20, b"d", DIRECTORY, by_parts)
    assert caught.value.errno == errno.EBADF


def test_paths_are_bytes(root):
    for path in ("d", None, bytearray(b"d")):
        with pytest.raises(TypeError):
            confine.open_beneath(root, path, DIRECTORY)


def test_both_ways_agree_while_a_component_is_swapped_for_a_symlink(scratch):
    """What a lookup meets half way decides; neither way leaves the root."""
    beside = build(scratch / "beside", Dir("e"), File("e/f", b"secret"))
    where = build(scratch / "root", Dir("d"), Dir("d/e"), File("d/e/f", b"inside"), Symlink("bait", os.fspath(beside)))
    fd, stop = os.open(where, DIRECTORY), threading.Event()

    def swap() -> None:
        while not stop.is_set():
            os.rename(where / "d", where / "away")
            os.rename(where / "bait", where / "d")
            os.rename(where / "d", where / "bait")
            os.rename(where / "away", where / "d")

    thread = threading.Thread(target=swap)
    thread.start()
    found = set()
    try:
        for n in range(3_000):
            try:
                got = confine.open_beneath(fd, b"d/e/f", os.O_RDONLY, bool(n % 2))
            except OSError as error:
                found.add(error.errno)
                continue
            found.add(os.read(got, 10))
            os.close(got)
    finally:
        stop.set()
        thread.join()
        os.close(fd)
    assert found <= {b"inside", errno.ENOENT, errno.ELOOP, errno.ENOTDIR}


@pytest.mark.parametrize("mode", [0, 0o400, 0o751, 0o1777, 0o4755])
@pytest.mark.parametrize("name", ["f", "d", "pipe", LONG])
def test_chmod_sets_that_mode_and_no_other(root, name, mode):
    def modes() -> dict[str, int]:
        return {n: os.lstat(n, dir_fd=root).st_mode & 0o7777 for n in os.listdir(root)}

    wanted = modes() | {name: mode}
    confine.chmod(root, name.encode(), mode)
    assert modes() == wanted


@pytest.mark.skipif(KERNEL < (6, 6), reason="without fchmodat2 it is the caller who has looked at the name before")
def test_096_chmod_follows_no_symlink(root):
    before = [os.stat(n, dir_fd=root).st_mode for n in ("d", "../beside")]
    for name in ("link", "out"):
        with pytest.raises(OSError, match=".") as caught:
            confine.chmod(root, name.encode(), 0o777)
        assert (caught.value.errno, caught.value.filename) == (errno.EOPNOTSUPP, name.encode())
    assert [os.stat(n, dir_fd=root).st_mode for n in ("d", "../beside")] == before


def test_chmod_names_what_it_could_not_change(root):
    for fd, name, code in ((root, b"no", errno.ENOENT), (root, b"f/x", errno.ENOTDIR), (1 << 20, b"f", errno.EBADF)):
        with pytest.raises(OSError, match=".") as caught:
            confine.chmod(fd, name, 0o644)
        assert (caught.value.errno, caught.value.filename) == (code, name)
    with pytest.raises(TypeError):
        confine.chmod(root, "f", 0o644)


def test_a_private_umask_is_the_threads_alone(scratch):
    umask = os.umask(0o027)
    here = os.getcwd()
    try:

        def work() -> int:
            (scratch / "open").mkdir(mode=0o777)
            os.chdir(scratch)
            return os.umask(0)

        assert own_thread(work) == 0
        (scratch / "closed").mkdir(mode=0o777)
        assert [(scratch / n).stat().st_mode & 0o777 for n in ("open", "closed")] == [0o777, 0o750]
        assert os.getcwd() == here
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(umask)


def test_syncing_a_file_system(root):
    confine.sync_fs(root)
    with pytest.raises(OSError, match=".") as caught:
        confine.sync_fs(1 << 20)
    assert caught.value.errno == errno.EBADF


EXCHANGE, NOREPLACE = 2, 1


def test_two_names_change_places(scratch):
    build(scratch / "r", Dir("a"), Dir("b"), File("a/x", b"1"), Dir("b/y"))
    with directory(scratch / "r/a") as a, directory(scratch / "r/b") as b:
        confine.rename(a, b"x", b, b"y", EXCHANGE)
        assert (scratch / "r/b/y").read_bytes() == b"1"
        assert (scratch / "r/a/x").is_dir()
        with pytest.raises(FileExistsError) as caught:
            confine.rename(a, b"x", b, b"y", NOREPLACE)
        assert (caught.value.filename, caught.value.filename2) == (b"x", b"y")
