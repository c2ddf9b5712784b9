"""Nothing makes tarscan touch memory that it was not given: guard pages, random states, buffers that change under it."""

from __future__ import annotations

import contextlib
import random
import threading

import numpy as np
import pytest

from lamella._kernels import tarscan
from lamella.columns import ARENA, COLUMNS, TableBuilder
from lamella.errors import LamellaError
from lamella.model import Limits
from lamella.table import EntryTable
from lamella.tar.scanner import Scanner
from lamella.testing.tars import file, layer_tar
from tests.kernels.guarded import guarded, guarded_bytes
from tests.kernels.scanning import rows_of, scanned
from tests.kernels.tarcorpus import CORPUS, XATTRS, broken, cuts

LIMITS = np.array([1 << 40, 1 << 20, 256, 1 << 20, 4096], np.int64)


class GuardedBuilder(TableBuilder):
    """Columns that end at guard pages, with no room to spare."""

    def __init__(self, rows: int = 1, arena: int = 1) -> None:
        super().__init__("tar", rows=rows, arena=arena)
        self._arrays = [a if a is None else guarded(np.zeros_like(a)) for a in self._arrays]

    def grow(self, rows: int = 0, arena: int = 0) -> None:
        if rows:
            self.capacity += 1
        if arena:
            self.arena_capacity += 7
        for i, a in enumerate(self._arrays):
            n = self.arena_capacity if i == ARENA else self.capacity
            if a is not None and len(a) != n:
                self._arrays[i] = guarded(np.concatenate([a, np.zeros(n - len(a), a.dtype)]))

    def finish(self):
        return self.snapshot()


class GuardedScanner(Scanner):
    """Every buffer ends at a guard page; the scratch buffer grows by a few bytes."""

    def __init__(self) -> None:
        super().__init__(builder=GuardedBuilder())
        self._state = guarded_bytes(tarscan.STATE_NBYTES)
        self._scratch = guarded_bytes(1)
        self._limits = guarded(LIMITS)

    def feed(self, chunk):
        return super().feed(guarded(np.frombuffer(chunk, np.uint8)) if chunk else chunk)

    def _grow(self, verdict: int) -> None:
        super()._grow(verdict)
        if verdict == tarscan.SCRATCH_FULL:
            n = len(self._scratch) // 2
            self._scratch = guarded(self._scratch[: n + 41])


@pytest.mark.parametrize("name", CORPUS)
def test_guard_pages(name):
    for pieces in ([CORPUS[name]], cuts(CORPUS[name], random.Random(name))):
        scanner = GuardedScanner()
        for piece in pieces:
            scanner.feed(piece)
        scanner.finish()
        assert rows_of(EntryTable(scanner.builder.finish(), "archive")) == rows_of(scanned(CORPUS[name]))


@pytest.mark.parametrize("seed", range(60))
def test_guard_pages_and_broken_archives(seed):
    rng = random.Random(seed)
    for _ in range(4):
        scanner = GuardedScanner()
        with contextlib.suppress(LamellaError):
            for piece in cuts(broken(CORPUS[rng.choice(sorted(CORPUS))], rng), rng):
                scanner.feed(piece)
            scanner.finish()


def scan_once(data: bytes, state: np.ndarray, scratch: np.ndarray, columns, n_rows: int, arena_used: int) -> None:
    """Scan and finish; refusals of any kind are fine."""
    with contextlib.suppress(LamellaError, ValueError):
        tarscan.scan(data, 0, state, scratch, columns, n_rows, arena_used, LIMITS)
    with contextlib.suppress(LamellaError, ValueError):
        tarscan.finish(state, scratch)


def states(rng: random.Random) -> list[np.ndarray]:
    """States as they are in the middle of archives."""
    found = []
    for name in sorted(CORPUS):
        scanner = Scanner()
        for piece in cuts(CORPUS[name], rng)[: rng.randrange(1, 30)]:
            scanner.feed(piece)
        found.append(scanner._state.copy())
    return found


@pytest.mark.parametrize("seed", range(40))
def test_states_that_no_scan_left(seed):
    """Changed words of a state are noticed or harmless."""
    rng = random.Random(seed)
    columns = GuardedBuilder(8, 500)._arrays
    for state in states(rng):
        words = state.view(np.int64)
        for _ in range(rng.randrange(1, 4)):
            at = rng.choice([rng.randrange(32), rng.randrange(36)])
            words[at] = rng.choice([-1, 0, 1, 3, 7, 8, 100, 511, 4096, 2**31, 2**62, 2**63 - 1, -(2**63)])
        data = guarded(np.frombuffer(CORPUS[rng.choice(sorted(CORPUS))], np.uint8))
        scratch = guarded_bytes(rng.choice([0, 1, 50, 600, 5000]))
        scan_once(data, guarded(state), scratch, tuple(columns), rng.randrange(9), rng.randrange(501))


@pytest.mark.parametrize("seed", range(10))
def test_random_states(seed):
    rng = np.random.default_rng(seed)
    columns = tuple(GuardedBuilder(8, 500)._arrays)
    data = guarded(np.frombuffer(CORPUS["kinds"], np.uint8))
    for _ in range(200):
        state = guarded(rng.integers(0, 256, tarscan.STATE_NBYTES).astype(np.uint8))
        state[np.flatnonzero(rng.random(len(state)) < 0.7)] = 0
        scan_once(data, state, guarded_bytes(100), columns, 0, 0)


@pytest.mark.parametrize("seed", range(20))
def test_rows_before_may_be_anything(seed):
    """The row before is read, to share its extras: where it points is checked."""
    rng = np.random.default_rng(seed)
    builder = GuardedBuilder(8, 500)
    for array, (_, kind) in zip(builder._arrays, COLUMNS, strict=True):
        if array is not None:
            array[:] = rng.integers(0, 256, array.nbytes).astype(np.uint8).view(kind)
    data = layer_tar([file("a", uname="u"), file("b", pax=XATTRS)])
    scan_once(data, np.zeros(tarscan.STATE_NBYTES, np.uint8), guarded_bytes(5000), builder.columns, 4, 100)


@pytest.mark.slow
def test_buffers_that_change_while_they_are_read():
    """Another thread may write to an exported buffer while the GIL is released (kernel contract, 5)."""
    members = [file(f"f{i}", pax=[*XATTRS, ("path", "p" * 300), ("uname", "u")]) for i in range(200)]
    data = guarded(np.frombuffer(CORPUS["sparse"] + layer_tar(members), np.uint8))
    data[len(CORPUS["sparse"]) - 1024 : len(CORPUS["sparse"])] = 0
    scratch, columns = guarded_bytes(9000), GuardedBuilder(300, 60_000)._arrays
    stop = threading.Event()

    def scribble() -> None:
        rng = np.random.default_rng(1)
        noise = rng.integers(0, 256, 9000).astype(np.uint8)
        while not stop.is_set():
            scratch[:] = noise
            columns[ARENA][:9000] = noise
            scratch[::7] = 49

    thread = threading.Thread(target=scribble)
    thread.start()
    try:
        for _ in range(300):
            scan_once(data, np.zeros(tarscan.STATE_NBYTES, np.uint8), scratch, tuple(columns), 0, 0)
    finally:
        stop.set()
        thread.join()


def test_a_hostile_map_asks_for_no_memory():
    """A count of regions is believed only as far as the payload could hold them."""
    limits = Limits(sparse_entries=1 << 40)
    records = [("GNU.sparse.major", 1), ("GNU.sparse.minor", 0), ("GNU.sparse.realsize", 10)]
    scanner = Scanner(limits)
    with pytest.raises(LamellaError):
        scanner.feed(layer_tar([file("s", b"1000000000\n".ljust(600, b"0"), pax=records)]))
    assert len(scanner._scratch) < 1 << 17
