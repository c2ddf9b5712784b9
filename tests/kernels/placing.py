"""What the tests of the placing kernel share: rows with their bytes, fed in any pieces, by a thread of the engine's kind."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lamella._kernels import confine, index, place
from lamella.columns import AT, F_IMPLIED
from lamella.table import EntryTable
from lamella.testing import trees
from tests.reference.rows import table_of

AS_ROOT = os.geteuid() == 0
SEED = 7
SERVERS = 0  # threads that help; tests/kernels/conftest.py runs everything without and with them
DIR = ord("5")
OWN = place.CHOWN if AS_ROOT else 0
TOP = {"path": b"", "type": "5", "flags": F_IMPLIED}  # the root, as the engine notes it before anything else
PAD = b"\xee" * 3  # between payloads, so that nothing is where it is by luck

Row = Mapping[str, Any]
# what a test does about a row that needs a decision: True when the row is done with, False to try again
Decide = Callable[["Job", int, int], bool]


def stream_of(rows: Iterable[Row]) -> tuple[list[Row], bytes]:
    """Give every row its ``data`` a place in one stream; ``size`` is its length unless the row says otherwise."""
    out, stream = [], b""
    for row in rows:
        data = row.get("data")
        plain = {k: v for k, v in row.items() if k != "data"}
        if data is not None:
            stream += PAD
            plain = {"size": len(data), **plain, "data_off": len(stream)}
            stream += data
        out.append(plain)
    return out, stream + PAD


def skip(job: Job, special: int, row: int) -> bool:
    """Leave the row out."""
    return True


class Job:
    """One placing below ``fd``. ``fit`` makes each buffer (a guarded one, say); ``specials`` collects path and code."""

    def __init__(
        self, fd: int, rows: Sequence[Row], options: int = OWN, *, uids: Sequence[int] | None = None,
        gids: Sequence[int] | None = None, warnings: int = 64, decide: Decide = skip, fit: Callable[[Any], Any] = np.array,
        servers: int | None = None,
    ) -> None:  # fmt: skip
        plain, stream = stream_of([TOP, *rows])
        self.fd, self.decide, self.fit = fd, decide, fit
        self.table: EntryTable = table_of(plain)
        self.columns = tuple(None if c is None else fit(c) for c in self.table.columns)
        self.stream = np.frombuffer(stream, np.uint8)
        self.n = len(self.table)
        self.state = fit(np.zeros(place.STATE_NBYTES, np.uint8))
        self.slots = fit(np.zeros(1 << (self.n + 2).bit_length(), np.uint32))
        self.uids, self.gids = (None if i is None else fit(np.array(i, np.int64)) for i in (uids, gids))
        self.found = fit(np.zeros(2 * warnings, np.int64))
        self.specials: list[tuple[bytes, int]] = []
        self.asked: list[int] = []
        self.left_out: list[bytes] = []  # directories that finish() could not open
        self.at = 1
        self.servers = SERVERS if servers is None else servers
        self.batch = place.Batch() if self.servers else None
        place.open_state(self.state, fd, options)
        index.insert(self.slots, SEED, self.columns, 0, 1)

    def column(self, name: str) -> Any:
        return self.columns[AT[name]]

    def call(self, begin: int, end: int, chunk: Any, chunk_off: int) -> tuple[int, int]:
        """Call the kernel once."""
        return place.place(
            self.state, self.columns, begin, end, chunk, chunk_off, self.slots, SEED, self.uids, self.gids, self.found,
            self.batch,
        )

    def feed(self, begin: int, end: int, upto: int | None = None) -> None:
        """Place rows before ``upto`` (all) with the stream's bytes [begin, end); ask ``decide`` where the kernel does."""
        chunk, upto = self.fit(self.stream[begin:end]), self.n if upto is None else upto
        while True:
            self.at, special = self.call(self.at, upto, chunk, begin)
            if not special:
                return
            self.specials.append((self.table.path(self.at), special))
            self.asked.append(self.at)
            if self.decide(self, special, self.at):
                self.at += 1

    def run(self, cuts: Sequence[int] = ()) -> Job:
        """Place everything, the stream cut at ``cuts``, and finish its directories."""
        with served(self.batch, self.servers):
            return self._run(cuts)

    def _run(self, cuts: Sequence[int]) -> Job:
        places = [0, *sorted(cuts), len(self.stream)]
        try:
            for begin, end in itertools.pairwise(places):
                self.feed(begin, end)
            assert self.counters[4] == -1
            order, at = self.order, 0
            while (at := self.finish(at, order=order)) < len(order):
                self.left_out.append(self.table.path(int(order[at])))
                at += 1
        finally:
            place.reset(self.state)
        return self

    @property
    def order(self) -> Any:
        """The directories that have a row, children first."""
        rows = np.flatnonzero(np.asarray(self.column("type")) == DIR).astype(np.int64)
        kept = index.sort(self.columns, rows, np.empty_like(rows))
        return self.fit(rows[:kept][::-1])

    def finish(self, begin: int = 0, order: Any = None) -> int:
        order = self.order if order is None else order
        return place.finish(self.state, self.columns, order, begin, self.uids, self.gids, self.found)

    @property
    def counters(self) -> tuple[int, int, int, int, int]:
        return place.counters(self.state)

    @property
    def warnings(self) -> list[tuple[bytes, int]]:
        pairs = self.found[: 2 * self.counters[3]].reshape(-1, 2).tolist()
        return [(self.table.path(row), code) for row, code in pairs]


@contextlib.contextmanager
def served(batch: place.Batch | None, n: int) -> Iterator[None]:
    """Have ``n`` threads serve ``batch``."""
    threads = [threading.Thread(target=own_thread, args=(batch.serve,)) for _ in range(n)] if batch else []
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        if batch is not None:
            batch.stop()
        for thread in threads:
            thread.join()


def own_thread(work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run ``work`` in a thread with a umask and a working directory of its own, as the engine does; its result or error."""
    got: list[Any] = [None, None]

    def run() -> None:
        try:
            confine.private_umask()
            got[0] = work(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - raised again below
            got[1] = error

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if got[1] is not None:
        raise got[1]
    return got[0]


def placed(root: Path, rows: Sequence[Row], options: int = OWN, *, cuts: Sequence[int] = (), **more: Any) -> Job:
    """Place rows below ``root``, which is made where it is absent, from the first to the directories' metadata."""
    root.mkdir(exist_ok=True)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return own_thread(lambda: Job(fd, rows, options, **more).run(cuts))  # type: ignore[no-any-return]
    finally:
        os.close(fd)


def rows_of(edits: Iterable[trees.Edit]) -> list[Row]:
    """Say in rows what edits say, those that make an inode or a link."""
    rows: list[Row] = []
    for e in edits:
        path = os.fsencode(e.path)
        if isinstance(e, trees.Hardlink):
            rows.append({"path": path, "type": "1", "link_target": os.fsencode(e.target)})
            continue
        assert isinstance(e, trees.Node)
        mode = e.default_mode if e.mode is None else e.mode
        row = {"path": path, "mode": mode, "mtime_ns": e.mtime_ns, "uid": e.uid or 0, "gid": e.gid or 0, "xattrs": e.xattrs}
        if isinstance(e, trees.File):
            row |= {"type": "0", "data": e.content}
        elif isinstance(e, trees.Symlink):
            row |= {"type": "2", "link_target": os.fsencode(e.target), "mode": 0o777}
        elif isinstance(e, trees.Device):
            row |= {"type": "3" if e.kind == "char" else "4", "rdev_major": e.major, "rdev_minor": e.minor}
        else:
            row |= {"type": "5" if isinstance(e, trees.Dir) else "6"}
        rows.append(row)
    return rows
