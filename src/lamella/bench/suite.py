"""A whole run: a layer and an image, every panel by turns, the figures; all on tmpfs, nothing of it left behind."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from lamella.bench import block_level, costs, driver_costs, gate, image_tasks, machine, peers, snapshots, uppers, workloads
from lamella.bench.corpus import Corpus, make_corpus, tree_of
from lamella.bench.gate import Figure
from lamella.bench.ground import Btrfs, Ext4, Tmpfs, memory_folder, remove
from lamella.bench.image_corpus import ImageCorpus, copied_corpus, given_image, image_corpus
from lamella.bench.measure import MeasureError
from lamella.bench.panel import Panel, Run, run_panel
from lamella.errors import LamellaError

__all__ = ["ROUNDS", "AbsentPeers", "Result", "run_suite"]

ROUNDS = 5
Say = Callable[[str], None]


class AbsentPeers(LamellaError):
    """A peer is not installed: nothing was measured. ``names`` are the peers, with where they are to be had."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"absent: {', '.join(names)}")
        self.names = tuple(names)


@dataclass(slots=True)
class Result:
    """What a run found out: ``runs`` with every sample, ``figures`` with verdicts, ``errors`` for what could not be run.

    ``corpus`` and ``image`` are the facts of the layer and of the image, empty where no panel wanted them.
    """

    quick: bool
    rounds: int
    date: str
    machine: dict[str, Any]
    load: dict[str, list[float]]
    peers: dict[str, str]
    libraries: dict[str, str]
    corpus: dict[str, Any] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    image: dict[str, Any] = field(default_factory=dict)

    @property
    def failure(self) -> str | None:
        """Say in one line why the run is no success, None where it is one."""
        below = [figure for figure in self.figures if figure.verdict == "defect"]
        defects = [f"{f.target.panel}/{f.target.fs} {f.text} (wanted {f.wanted})" for f in below]
        said = [f"below the floor: {'; '.join(defects)}"] if defects else []
        said += [f"not measured: {'; '.join(self.errors)}"] if self.errors else []
        return "; ".join(said) or None


def run_suite(
    *, quick: bool = False, rounds: int | None = None, panels: Sequence[str] = (), image: str = "", image_zstd: str = "",
    say: Say = lambda _: None,
) -> Result:  # fmt: skip
    """Measure everything, or the panels whose names begin with one of ``panels``.

    ``quick``: one round of a small corpus. ``image``: an OCI layout, ``DIR[:TAG]``, to measure instead of one of our own
    making, and ``image_zstd`` its zstd twin. AbsentPeers before anything is measured; MeasureError where there is no tmpfs
    or not room enough on it.
    """
    if names := peers.absent():
        raise AbsentPeers(names)
    rounds = rounds or (1 if quick else ROUNDS)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    result = Result(
        quick, rounds, date, machine.describe(), {"before": machine.load()}, peers.versions(), peers.libraries()
    )
    parts = (_LayerPart(quick=quick), _ImagePart(quick=quick, gzip=image, zstd=image_zstd), _FreePart(quick=quick))
    with _home() as home:
        _check_names(panels, [panel.name for part in parts for panel in part.panels(home)])
        for part in parts:
            if any(_is_asked(panel, panels) for panel in part.panels(home)):
                _measure(part, home, panels, result, say)
    result.load["after"] = machine.load()
    found = {(run.panel, run.fs, run.contender): run for run in result.runs}
    entries = result.corpus.get("entries", 0)
    result.figures = gate.judge((*gate.TARGETS, *block_level.TARGETS, *_costs(quick=quick)), found, entries)
    return result


def _is_asked(panel: Panel, panels: Sequence[str]) -> bool:
    return not panels or panel.name.startswith(tuple(panels))


def _measure(part: _Part, home: Path, panels: Sequence[str], result: Result, say: Say) -> None:
    """Run the chosen panels of ``part`` in a folder of its own, and remove it."""
    folder = home / part.name
    folder.mkdir()
    say(f"the {part.name}")
    part.make(folder, result)
    for panel in part.panels(folder):
        if _is_asked(panel, panels):
            runs, complaints = run_panel(panel, result.rounds, say)
            result.runs += runs
            result.errors += complaints
    remove(folder)


def _check_names(asked: Sequence[str], names: Sequence[str]) -> None:
    """MeasureError for a name that no panel's begins with."""
    for word in asked:
        if not any(name.startswith(word) for name in names):
            raise MeasureError(f"no task is called {word!r}; there are {', '.join(names)}")


@contextlib.contextmanager
def _home() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="lamella-bench-", dir=memory_folder()))
    try:
        yield home
    finally:
        remove(home)


class _Part(Protocol):
    """Panels that share what they work on. ``make`` makes it, ``panels`` lists them, if only for their names."""

    name: str

    def make(self, home: Path, result: Result) -> None: ...

    def panels(self, home: Path) -> list[Panel]: ...


class _LayerPart:
    """What is done with one layer and its tree."""

    name = "layer"

    def __init__(self, *, quick: bool) -> None:
        self._quick = quick
        self._corpus: Corpus | None = None
        self._entries = 0

    def make(self, home: Path, result: Result) -> None:
        """Make the corpus and its tree."""
        (home / "corpus").mkdir()
        corpus = make_corpus(home / "corpus", quick=self._quick)
        _check_room(home, _disk_nbytes(corpus.nbytes, corpus.n_entries) + 4 * corpus.nbytes)
        tree_of(corpus, corpus.lower, corpus.upper)
        remove(corpus.upper)
        self._corpus, self._entries = corpus, workloads.count(corpus.lower)
        result.corpus = corpus.facts()

    def panels(self, home: Path) -> list[Panel]:
        """List them."""
        corpus, entries = self._corpus or Corpus(home, "", 0, 0), self._entries
        tmpfs, ext4 = _grounds(home, corpus.nbytes, corpus.n_entries)
        return [
            workloads.decode(corpus, tmpfs),
            workloads.listing(corpus, tmpfs),
            *(workloads.apply_gzip(corpus, ground, entries) for ground in (tmpfs, ext4)),
            *(workloads.apply_plain(corpus, ground, entries) for ground in (tmpfs, ext4)),
            workloads.apply_zstd(corpus, tmpfs, entries),
            *(workloads.diff(corpus, ground) for ground in (tmpfs, ext4)),
            workloads.write_plain(corpus, tmpfs),
            workloads.write_gzip(corpus, tmpfs),
        ]


class _ImagePart:
    """What is done with a whole image, a given one or one of our own making."""

    name = "image"

    def __init__(self, *, quick: bool, gzip: str, zstd: str) -> None:
        self._quick, self._gzip, self._zstd = quick, gzip, zstd
        self._corpus: ImageCorpus | None = None
        self._copied: ImageCorpus | None = None

    def make(self, home: Path, result: Result) -> None:
        """Make the image and its twin, or copy them; and one that is small enough to be copied for each layer."""
        given = self._gzip
        corpus = given_image(home, given, self._zstd) if given else image_corpus(home, quick=self._quick)
        _check_room(home, _disk_nbytes(corpus.nbytes, corpus.entries) + 5 * corpus.nbytes)
        self._corpus = corpus
        self._copied = corpus if given or self._quick else copied_corpus(home / "copied")
        result.image = corpus.facts()

    def panels(self, home: Path) -> list[Panel]:
        """List them."""
        corpus = self._corpus or ImageCorpus("", 0, 0, 0, 0, "", "")
        tmpfs, ext4 = _grounds(home, corpus.nbytes, corpus.entries)
        found = [image_tasks.unpack_gzip(corpus, tmpfs), image_tasks.unpack_gzip(corpus, ext4)]
        if self._zstd or not self._gzip:
            found.append(image_tasks.unpack_zstd(corpus, tmpfs))
        found.append(image_tasks.squash(corpus, tmpfs))
        found += [image_tasks.imports(corpus, ground) for ground in _stacked(home, corpus)]
        copied = self._copied or corpus
        found.append(image_tasks.copies(copied, _piled(home, copied)))
        return [*found, snapshots.mount_image(corpus, tmpfs)]


class _FreePart:
    """What makes its own matter."""

    name = "rest"

    def __init__(self, *, quick: bool) -> None:
        self._quick = quick

    def make(self, home: Path, result: Result) -> None:
        """Make nothing."""

    def panels(self, home: Path) -> list[Panel]:
        """List them."""
        tmpfs, btrfs = Tmpfs(home), _btrfs(home)
        return [
            *block_level.panels(tmpfs, quick=self._quick),
            uppers.upper_diff(tmpfs, quick=self._quick),
            costs.calls(home, tmpfs, quick=self._quick),
            costs.memory(home, tmpfs, quick=self._quick),
            costs.memory_of_diff(tmpfs, quick=self._quick),
            snapshots.snapshot_diff(btrfs, quick=self._quick),
            snapshots.union_find(tmpfs, quick=self._quick),
            snapshots.union_read(tmpfs, quick=self._quick),
            *(driver_costs.driver_costs(ground, quick=self._quick) for ground in (_disk(home), btrfs)),
        ]


def _btrfs(home: Path) -> Btrfs:
    folder = home / "btrfs"
    folder.mkdir(exist_ok=True)
    return Btrfs(folder, 4 << 30, 0)


def _disk(home: Path) -> Ext4:
    folder = home / "ext4"
    folder.mkdir(exist_ok=True)
    return Ext4(folder, 4 << 30, 400_000)


def _grounds(home: Path, nbytes: int, n_entries: int) -> tuple[Tmpfs, Ext4]:
    return Tmpfs(home), Ext4(home, _disk_nbytes(nbytes, n_entries), 2 * n_entries + 10_000)


def _stacked(home: Path, corpus: ImageCorpus) -> tuple[Ext4, Btrfs]:
    """Return grounds for a store: blobs, and a tree a layer that has what is in the layer."""
    folders = home / "stacked", home / "subvolumes"
    for folder in folders:
        folder.mkdir(exist_ok=True)
    disk = _disk_nbytes(corpus.nbytes, corpus.entries)
    return Ext4(folders[0], disk, 2 * corpus.entries + 10_000), Btrfs(folders[1], disk, 0)


def _piled(home: Path, corpus: ImageCorpus) -> Ext4:
    """Return a ground for a store whose trees are whole copies: each file takes whole blocks in each of them."""
    folder = home / "piled"
    folder.mkdir(exist_ok=True)
    nbytes = corpus.piled_nbytes + corpus.nbytes + 3072 * corpus.piled_entries
    return Ext4(folder, (11 * nbytes // 10 + (256 << 20)) & -4096, corpus.piled_entries + 10_000)


def _check_room(home: Path, wanted: int) -> None:
    """MeasureError unless so many bytes are free."""
    room = os.statvfs(home)
    if (free := room.f_bavail * room.f_frsize) < wanted:
        raise MeasureError(f"{wanted >> 20} MiB are wanted on {memory_folder()}, {free >> 20} are there")


def _disk_nbytes(nbytes: int, n_entries: int) -> int:
    """Return how large an ext4 must be for two trees of so many bytes."""
    return (5 * (nbytes + 2048 * n_entries) // 2 + (256 << 20)) & -4096


def _costs(*, quick: bool) -> tuple[gate.Target, ...]:
    names = costs.names_of_memory(quick=quick), costs.name_of_million(quick=quick), costs.names_of_calls(quick=quick)
    return (*gate.costs(*names), *gate.uppers(uppers.names_of_upper(quick=quick)))
