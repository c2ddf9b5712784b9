"""Nothing makes place touch memory that it was not given, nor anything outside its root; hostile rows in a sandbox."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lamella._kernels import place
from lamella.columns import ARENA, COLUMNS
from lamella.testing.listing import compare, listing
from lamella.testing.trees import Dir, File, Symlink, build
from tests.kernels.guarded import guarded, guarded_front
from tests.kernels.packing import open_fds
from tests.kernels.placing import OWN, Job, own_thread, placed, rows_of
from tests.kernels.test_place import KINDS, folder, one
from tests.kernels.test_place_cuts import FILES, outcome
from tests.sandbox import in_moat

pytestmark = pytest.mark.usefixtures("servers")
REFUSED = (ValueError, OSError)
OPTIONS = [getattr(place, n) for n in (
    "FRESH", "TOLERANT", "NO_XATTRS", "SELINUX", "ESCAPE_OVERLAY", "NO_TRUSTED", "HOLES", "KEEP_DIRLINKS",
    "ASK_DUPLICATES", "ASK_LINKS", "WRITABLE_DIRS", "CLAMP_TIMES", "ZERO_DEVICE",
)]  # fmt: skip


# -- guard pages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fit", [guarded, guarded_front], ids=["end", "front"])
@pytest.mark.parametrize("options", [0, place.HOLES, place.FRESH], ids=["plain", "holes", "fresh"])
def test_buffers_may_end_and_begin_where_memory_does(scratch, fit, options):
    more = [{**row, "path": f"more/{row['path']}", **({"link_target": "more/a"} if "link_target" in row else {})} for row in FILES]
    rows = [*rows_of(KINDS), folder("more"), *more]
    options |= OWN | place.ZERO_DEVICE
    placed(scratch / "plain", rows, options)
    job = placed(scratch / "guarded", rows, options, fit=fit)
    assert compare(scratch / "plain", scratch / "guarded") == []
    cuts = random.Random(5).sample(range(len(job.stream)), 30)
    placed(scratch / "cut", rows, options, fit=fit, cuts=cuts)
    assert outcome(scratch / "cut") == outcome(scratch / "plain")


@pytest.mark.parametrize("fit", [guarded, guarded_front], ids=["end", "front"])
def test_no_room_at_all(scratch, fit):
    rows = [one("f", xattrs={b"user.overlay.x": b"1"}, uid=5)]
    job = placed(scratch / "r", rows, fit=fit, warnings=0, uids=[], gids=[])
    assert job.warnings == []


# -- rows that lie --------------------------------------------------------------------------------------------------

LINKS = (
    Dir("d"), File("d/f", b"inside"), Symlink("out", "MOAT/treasure"), Symlink("up", "../.."), Symlink("d/deep", "../../treasure"),
    Symlink("proc", "/proc/self/root"), Symlink("cwd", "/proc/self/cwd"), Symlink("self", "."), Symlink("loop", "loop"),
)  # fmt: skip
WAYS = [
    b"..", b"../..", b"d/..", b"d/../..", b"./..", b"out", b"out/", b"up", b"up/moat/treasure", b"d/deep", b"proc", b"cwd", b"self",
    b"loop", b"/", b"//", b"/..", b".", b"d/.", b"d//", b"d/./deep", b"d\0/x", b"out\0", b"\0", b"/proc/self/root", b"/etc",
]  # fmt: skip
NAMES = [b"new", b"secret", b"..", b".", b"", b"passwd", b"\0", b"../secret", b"trap"]


def raw(root: Path, rows: list[dict[str, Any]], options: int, seed: int | None = None) -> list[bytes]:
    """Place rows as they are, the index saying that everything is there; return the paths that were asked about."""
    moat = os.fsencode(root.parent)
    rows = [{**r, **{k: r[k].replace(b"MOAT", moat) for k in ("path", "link_target") if k in r}} for r in rows]
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return own_thread(_raw, fd, rows, options)  # type: ignore[no-any-return]
    finally:
        os.close(fd)


def _raw(fd: int, rows: list[dict[str, Any]], options: int) -> list[bytes]:
    job = Job(fd, rows, options, fit=guarded)
    asked = []
    for row in range(1, job.n):
        job.at = row
        try:
            job.feed(0, len(job.stream), row + 1)
        except REFUSED:
            asked.append(job.table.path(row))
            place.reset(job.state)
    asked += [path for path, _ in job.specials]
    order, at = np.arange(job.n), 0
    while at < job.n:
        with contextlib.suppress(*REFUSED):
            at = job.finish(at, order=order)
        at += 1
    place.reset(job.state)
    return asked


@pytest.mark.parametrize("kind", ["0", "1", "2", "5", "6"])
@pytest.mark.parametrize("way", WAYS)
def test_096_no_path_leads_out_whatever_the_flags_say(box, way, kind):
    """The rows do not carry the flag for ``..`` that tarscan gives them, and their parents have rows of their own."""
    target = {"1": b"d/f", "2": b"x"}.get(kind, b"")
    rows = [folder(way), *(one(way + b"/" + n, b"escaped", type=kind, link_target=target, mode=0o777) for n in NAMES)]
    rows += [one(way + b"/x/" + n, b"escaped", type=kind, link_target=target) for n in NAMES[:2]]
    for options in (OWN, OWN | place.KEEP_DIRLINKS, OWN | place.FRESH):
        found = box.call(in_moat, LINKS, raw, rows, options)
        assert found.kind == (), found.trace
        assert (found.escaped, found.leaked) == ([], [])


@pytest.mark.parametrize("way", WAYS)
def test_096_no_link_target_leads_out(box, way):
    targets = [way, way + b"/secret", way + b"/../secret", b"/" + way + b"/passwd", b"d/../" + way, way + b"/treasure/secret"]
    rows = [one(b"l%d" % i, type="1", link_target=t) for i, t in enumerate([*targets, b"MOAT/passwd", b"MOAT/treasure/secret"])]
    found = box.call(in_moat, LINKS, raw, rows, OWN)
    assert found.kind == (), found.trace
    assert (found.escaped, found.leaked) == ([], [])


def spoilt_rows(root: Path, seeds: range) -> int:
    """Place rows of which random fields are random, from guarded buffers; return how many calls refused."""
    refused = 0
    for seed in seeds:
        rng = random.Random(seed)
        where = build(root / f"{seed}", *LINKS[:2], Symlink("out", os.fsencode(root.parent) + b"/treasure"))
        fd = os.open(where, os.O_RDONLY | os.O_DIRECTORY)
        before = open_fds()
        try:
            refused += own_thread(_spoilt, fd, rng)
        finally:
            os.close(fd)
        assert open_fds() == before - 1, seed
    return refused


ODD = [-1, 0, 1, 2, 48, 49, 50, 53, 54, 255, 4095, 4096, 0xFFFF, 0xFFFF_FFFF, 1 << 40, 2**63 - 1, -(2**63)]


def _spoil(array: Any, rng: random.Random, limit: int) -> None:
    info = np.iinfo(array.dtype)
    for _ in range(rng.choice((1, 1, 2, len(array)))):
        value = rng.choice((rng.randrange(limit), rng.choice(ODD), rng.randrange(-limit, limit)))
        array[rng.randrange(len(array))] = min(max(value, info.min), info.max)


def _spoilt(fd: int, rng: random.Random) -> int:
    options = (OWN if rng.random() < 0.5 else 0) | sum(rng.sample(OPTIONS, rng.randrange(4)))
    fit = rng.choice((guarded, guarded_front))
    job = Job(fd, [*rows_of(KINDS), *FILES, one("out/x", b"y")], options, fit=fit, warnings=rng.choice((0, 1, 9)),
              uids=rng.choice((None, [0, 5, 9], [rng.choice(ODD) for _ in range(5)])))  # fmt: skip
    names = [i for i, (name, _) in enumerate(COLUMNS) if job.columns[i] is not None]
    for at in rng.sample(names, rng.choice((1, 1, 2, 5))):
        _spoil(job.columns[at], rng, 256 if at == ARENA else len(job.columns[ARENA]) + 9)
    if rng.random() < 0.3:
        _spoil(job.slots, rng, job.n + 5)
    refused = 0
    ends = sorted(rng.sample(range(len(job.stream)), 3))
    try:
        for begin, end in zip([0, *ends], [*ends, len(job.stream)], strict=True):
            while job.at < job.n:
                try:
                    job.feed(begin, end)
                    break
                except REFUSED:
                    refused += 1
                    place.reset(job.state)
                    job.at += 1
        order, at = fit(np.array([rng.randrange(job.n) for _ in range(job.n)], np.int64)), 0
        while at < job.n:
            with contextlib.suppress(*REFUSED):
                at = job.finish(at, order=order)
            at += 1
    finally:
        place.reset(job.state)
    return refused


@pytest.mark.parametrize("first", range(0, 400, 100))
def test_rows_that_lie_are_refused_or_harmless(box, first):
    found = box.call(in_moat, (), spoilt_rows, range(first, first + 100))
    assert found.kind == (), found.trace
    assert (found.escaped, found.leaked) == ([], [])
    assert found.result > 0


# -- buffers that others write to -----------------------------------------------------------------------------------


def in_child(where: Path, work: Callable[..., None], *args: Any) -> int:
    """Run ``work`` in a forked child, which may close and write anything of its own; return how it ended."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(50)  # the default action ends the process
        code = 1
        try:
            work(where, *args)
            code = 0
        except BaseException:  # noqa: BLE001 - nothing of the parent's may run in here
            (where / "trace").write_text(traceback.format_exc())
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    assert not (where / "trace").exists(), (where / "trace").read_text()
    return status


def spoilt_states(where: Path, seeds: range) -> None:
    """Call the kernel with states of which some words are anything; descriptors of this process may go, too."""
    for seed in seeds:
        rng = random.Random(seed)
        root = where / f"{seed}"
        root.mkdir()
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        job = Job(fd, [*rows_of(KINDS), *FILES], OWN, fit=rng.choice((guarded, guarded_front)), warnings=2)
        words = job.state.view(np.int32)
        n = len(job.stream)
        for _ in range(12):
            begin = rng.randrange(n)
            with contextlib.suppress(*REFUSED):
                job.feed(begin, min(n, begin + rng.randrange(3_000)), rng.randint(job.at, job.n))
            at = rng.choice((rng.randrange(32), rng.randrange(220), rng.randrange(len(words))))
            words[at] = rng.choice((-1, 0, 1, 5, 63, 64, 65, 4096, -5, 2**31 - 1, -(2**31), rng.randrange(-100, 100)))
            job.at = rng.randrange(1, job.n)
            with contextlib.suppress(*REFUSED):
                job.finish(0)
        with contextlib.suppress(*REFUSED):
            place.reset(job.state)
        for other in range(3, 64):
            with contextlib.suppress(OSError):
                os.close(other)


def spoilt_words(where: Path) -> None:
    """Change one number of a state after another while a sparse file, or an ordinary one, is half written."""
    fd = os.open(where, os.O_RDONLY | os.O_DIRECTORY)
    sparse = one("s", b"x" * 900, sparse=[(0, 100), (4096, 100), (8192, 700)], size=9_000)
    for row, cut in ((sparse, 150), (one("f", b"y" * 900), 150)):
        for word in range(4, 40):
            for value in (-1, -(1 << 20), -(1 << 50), 1 << 50, 1 << 62, -(2**63)):
                job = Job(fd, [folder("d"), row, one("d/after")], OWN, fit=guarded_front)
                job.feed(0, cut)
                job.state.view(np.int64)[word] = value
                with contextlib.suppress(*REFUSED):
                    job.feed(cut, len(job.stream))
                with contextlib.suppress(*REFUSED):
                    job.finish()
                with contextlib.suppress(*REFUSED):
                    place.reset(job.state)
                for other in range(fd + 1, 64):
                    with contextlib.suppress(OSError):
                        os.close(other)


def test_any_number_of_a_state_in_the_middle_of_a_file(box):
    assert box.call(in_child, spoilt_words) == 0


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_states_that_no_call_left_do_no_harm_to_memory(box, first):
    assert box.call(in_child, spoilt_states, range(first, first + 50)) == 0


def scribbled(where: Path, rounds: int) -> None:
    """Place and finish while another thread writes to every column, the arena, the index and the order of rows."""
    rows = [row for i in range(12) for row in (folder(f"{i}"), *(one(f"{i}/{f}", b"x" * f) for f in range(9)))]
    fd = os.open(where, os.O_RDONLY | os.O_DIRECTORY)
    job = Job(fd, rows, OWN, fit=guarded)
    order = guarded(np.arange(job.n, dtype=np.int64))
    targets = [*(c for c in job.columns if c is not None), job.slots, order]
    saved = [t.copy() for t in targets]
    stop = threading.Event()

    def scribble() -> None:
        rng = np.random.default_rng(3)
        while not stop.is_set():
            for target, good in zip(targets, saved, strict=True):
                noise = rng.integers(-(2**62), 2**62, len(target)).astype(target.dtype)
                target[:] = noise
                target[:] = good

    thread = threading.Thread(target=scribble)
    thread.start()
    try:
        for _ in range(rounds):
            place.open_state(job.state, fd, OWN)
            job.at = 1
            while job.at < job.n:
                with contextlib.suppress(*REFUSED):
                    job.feed(0, len(job.stream))
                job.at += 1
            place.reset(job.state)
            for begin in range(0, job.n, 7):
                with contextlib.suppress(*REFUSED):
                    job.finish(begin, order=order)
    finally:
        stop.set()
        thread.join()


def test_buffers_that_change_while_they_are_read(box):
    assert box.call(in_child, scribbled, 15) == 0


def reordered(where: Path, rounds: int) -> None:
    """Finish directories while the order of rows, which was looked through at the beginning, becomes nonsense."""
    fd = os.open(where, os.O_RDONLY | os.O_DIRECTORY)
    job = Job(fd, [folder("d")], OWN, fit=guarded)
    job.feed(0, len(job.stream))
    order = np.ones(20_000, np.int64)
    for _ in range(rounds):
        order[:] = 1
        timer = threading.Timer(0.002, order.fill, [1 << 40])
        timer.start()
        with contextlib.suppress(*REFUSED):
            job.finish(order=order)
        timer.join()


def test_an_order_that_changes_while_it_is_followed(box):
    assert box.call(in_child, reordered, 3) == 0


# -- directories that others replace (the pattern of CVE-2025-47290) ------------------------------------------------


def swapped(root: Path, rounds: int) -> int:
    """Place below d/e while another thread swaps d, and d/e, for symlinks that lead out; return how many were made."""
    rows = [folder("d"), folder("d/e"), *(one(f"d/e/{i}", b"escaped?") for i in range(40)), folder("d/e/f"), one("d/e/f/g", b"x")]
    treasure = os.fspath(root.parent / "treasure")
    os.symlink(treasure, root / "bait")
    stop = threading.Event()
    places = [(root / "d", root / "bait", root / "away"), (root / "d/e", root / "bait", root / "gone")]

    def swap() -> None:
        n = 0
        while not stop.is_set():
            real, bait, away = places[n % 2]
            with contextlib.suppress(OSError):
                os.rename(real, away)
                os.rename(bait, real)
                os.rename(real, bait)
                os.rename(away, real)
            n += 1

    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    thread = threading.Thread(target=swap)
    thread.start()
    n_made = 0
    try:
        for n in range(rounds):
            job = Job(fd, rows, OWN)
            job.decide = lambda job, special, row: True
            while job.at < job.n:
                with contextlib.suppress(*REFUSED):
                    job.feed(0, len(job.stream), min(job.n, job.at + 1 + n % 5))
                if job.at < job.n and n % 3 == 0:
                    place.reset(job.state)  # as where the engine removed something
                job.at += job.counters[4] < 0 and n % 2
            with contextlib.suppress(*REFUSED):
                job.finish(n % 3)
            n_made += job.counters[0]
            place.reset(job.state)
    finally:
        stop.set()
        thread.join()
        os.close(fd)
    return n_made


def test_097_ancestors_that_are_swapped_for_symlinks_lead_nowhere(box):
    found = box.call(in_moat, (), swapped, 60)
    assert found.kind == (), found.trace
    assert (found.escaped, found.leaked) == ([], [])
    assert found.result > 0


def test_097_a_remembered_directory_is_not_looked_up_by_a_name_that_changed(scratch):
    """Without a reset the rows go where the directory went; with it they are asked about; never where the link leads."""
    outside = build(scratch / "outside", Dir("x"))
    root = build(scratch / "r")
    fd = os.open(root, os.O_RDONLY)
    try:
        for reset in (False, True):
            job = Job(fd, [folder("d"), one("d/1"), one("d/2"), folder("d/sub"), one("d/sub/3")])
            job.feed(0, len(job.stream), 3)
            os.rename(root / "d", root / "was")
            os.symlink(outside, root / "d")
            if reset:
                place.reset(job.state)
            job.feed(0, len(job.stream))
            asked = [path for path, _ in job.specials]
            assert asked == ([b"d/2", b"d/sub", b"d/sub/3"] if reset else [])
            assert job.finish() == 0 if reset else True
            place.reset(job.state)
            assert listing(outside).keys() == {b"", b"x"}
            (root / "d").unlink()
            for path in sorted((root / "was").rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            (root / "was").rmdir()
    finally:
        os.close(fd)


def test_the_last_component_is_never_followed(box):
    names = (b"out", b"up", b"proc", b"d/deep")
    rows = [folder(b"d"), *(one(n, b"escaped", type=k, link_target=b"d/f") for n in names for k in "0126")]
    found = box.call(in_moat, LINKS, raw, rows, OWN)
    assert (found.kind, found.escaped, found.leaked) == ((), [], [])
    assert {found.tree[p].type for p in names} == {"fifo"}

