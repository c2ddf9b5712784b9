"""Apply n layers to a directory as one job.

Layers are decoded from the top: a row claims its path, and what a higher layer hides is digested but never written.
What a pass from the top cannot know is repaired afterwards (a hard link to a hidden file: its layer is decoded once
more), or the stack is applied from the bottom. The outcome is that of one layer applied after another.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lamella._kernels import confine, place
from lamella.layer.claims import Claims, Unforeseen
from lamella.layer.crew import Crew, n_placing, run_placing
from lamella.layer.decide import Decider
from lamella.layer.implied import ensure_dir
from lamella.layer.job import ApplyResult, Job, Report
from lamella.layer.notes import warnings
from lamella.layer.options import Options, kernel_options
from lamella.layer.parents import Parents
from lamella.layer.placement import Placement
from lamella.layer.policy import Policy
from lamella.layer.staging import Ground, ground
from lamella.layer.whiteout import Dialect
from lamella.model import Progress
from lamella.stream.blob import BlobReader
from lamella.stream.source import open_source

__all__ = ["StackLayer", "apply_stack", "readers"]

_RING_NBYTES = 16 << 20  # two layers are decoded at a time
_FORESEEN = {place.PARENT, place.DEVICE, place.LINK, place.OWNER}


@dataclass(frozen=True, slots=True)
class StackLayer:
    """A layer of a stack: ``open`` gives what BlobReader takes, anew each time; the rest is checked against it."""

    open: Callable[[], Any]
    media_type: str | None = None
    digest: str | None = None
    diff_id: str | None = None
    size: int | None = None


def apply_stack(
    layers: Sequence[StackLayer], root: Any, options: Options, progress: Report | None = None
) -> list[ApplyResult]:
    """Apply ``layers``, the lowest first, to ``root``; an ApplyResult each.

    An absent or empty root appears whole, every digest verified, or not at all. Into a living tree the layers go one by
    one, each verified before it changes anything, and errors carry ``.partial``, that of the layer which failed. Where
    the root is empty and the policy is the default, an entry that a higher layer hides is read and digested but not
    made, so nothing that the file system would say of it is an error. Errors: those of :func:`lamella.apply`.
    """
    with contextlib.ExitStack() as stack:
        below = stack.enter_context(Parents(options.parents)) if options.parents else None
        here = stack.enter_context(ground(root))
        if not here.empty:
            for layer in layers:
                with _reading(layer, options) as reader:
                    reader.drain()
        elif len(layers) > 1 and _from_the_top(options):
            try:
                return _TopDown(layers, here, options).run(progress)
            except Unforeseen:
                here.root.empty(os.dup(here.root.fd), b"")
        return _bottom_up(layers, here, below, options, progress)


def _from_the_top(options: Options) -> bool:
    plain = options.dialect == "plain" and options.policy == Policy() and not options.keep_dirlinks
    return plain and (options.idmap is None or options.idmap.squash)


@contextlib.contextmanager
def _reading(layer: StackLayer, options: Options) -> Iterator[BlobReader]:
    with (
        open_source(layer.open()) as source,
        BlobReader(
            source, media_type=layer.media_type, expected_digest=layer.digest, expected_diff_id=layer.diff_id,
            expected_size=layer.size, limits=options.limits, ring_bytes=_RING_NBYTES,
        ) as reader,
    ):  # fmt: skip
        yield reader


def readers(layers: Sequence[StackLayer], options: Options) -> Generator[BlobReader, None, None]:
    """Give an open reader of each of ``layers``, the next one reading ahead while one is used. Close the generator."""
    todo = iter(layers)
    with contextlib.ExitStack() as ahead:
        reader = _started(ahead, todo, options)
        while reader is not None:
            with ahead.pop_all():
                following = _started(ahead, todo, options)
                yield reader
            reader = following


def _started(stack: contextlib.ExitStack, todo: Iterator[StackLayer], options: Options) -> BlobReader | None:
    layer = next(todo, None)
    if layer is None:
        return None
    reader = stack.enter_context(_reading(layer, options))
    reader.start()
    return reader


def _bottom_up(
    layers: Sequence[StackLayer], here: Ground, parents: Parents | None, options: Options, progress: Report | None
) -> list[ApplyResult]:
    results = []
    with contextlib.closing(readers(layers, options)) as each:
        for layer, reader in zip(layers, each, strict=True):
            results.append(Job(reader, here, parents, options, layer.size).run(progress))
            here = replace(here, fresh=False, mtime_ns=os.fstat(here.root.fd).st_mtime_ns)
    return results


@dataclass(slots=True)
class _Part:
    """What one layer of the stack came to: its rows are [begin, end) of the placement."""

    begin: int
    end: int
    result: ApplyResult


class _TopDown:
    """One job: a thread places the layers, the highest first."""

    def __init__(self, layers: Sequence[StackLayer], here: Ground, options: Options) -> None:
        self._layers, self._here, self._options = layers, here, options
        self._placement = Placement(here.root, kernel_options(here, options), options.limits, options.idmap)
        self._decider = Decider(self._placement, options.policy, Dialect(self._placement), None, options.rootless)
        self._placement.special = self._decide
        self._claims = Claims(self._placement)
        self._placement.judge = self._claims
        self._crew = Crew(n_placing(options.workers) - 1)
        self._placement.batch = self._crew.batch
        self._parts: list[_Part] = []  # the highest first
        self._stop = False
        self._n_read = 0

    def run(self, progress: Report | None) -> list[ApplyResult]:
        sizes = [layer.size for layer in self._layers]
        total = None if None in sizes else sum(size or 0 for size in sizes)

        def report() -> None:
            if progress is not None:
                progress(Progress("unpack", self._n_read, total, "bytes"))

        run_placing(self._guarded, self._halt, progress and report)
        return self._results()

    def _halt(self) -> None:
        self._stop = True

    def _decide(self, special: int, row: int) -> bool:
        if special not in _FORESEEN:
            raise Unforeseen(f"question {special} of {self._placement.path(row)!r}")
        return self._decider(special, row)

    def _guarded(self) -> None:
        with contextlib.closing(self._placement), self._crew:
            self._place()

    def _place(self) -> None:
        placement = self._placement
        placement.imply(b"", self._here.mtime_ns)
        with contextlib.closing(readers(self._layers[::-1], self._options)) as each:
            for level, reader in zip(reversed(range(len(self._layers))), each, strict=True):
                self._place_layer(level, reader)
        placement.judge = None
        for level, rows in itertools.groupby(self._claims.restore, key=lambda found: found[0]):
            self._restore(level, [(row, source) for _, row, source in rows])
        placement.reset()
        for path in self._claims.missing():
            os.close(ensure_dir(placement, path, None))
        placement.finish(restore=True, entries=self._claims.directories())
        if self._options.sync != "none":
            confine.sync_fs(self._here.root.fd)

    def _place_layer(self, level: int, reader: BlobReader) -> None:
        placement, before, read = self._placement, self._placement.counters, self._n_read
        self._claims.level, begin, n_implied = level, placement.builder.n_rows, placement.n_implied
        self._pass(reader, placement.feed)
        placement.end_layer()
        self._n_read = read + reader.bytes_in
        end, after, (whiteouts, opaques) = placement.builder.n_rows, placement.counters, self._claims.counts()
        self._parts.append(_Part(begin, end, ApplyResult(
            reader.digest, reader.diff_id, reader.media_type, reader.compressed_size or reader.bytes_in,
            reader.uncompressed_size or 0, end - begin - (placement.n_implied - n_implied), after[0] - before[0],
            after[1] - before[1], whiteouts, opaques, tuple(self._decider.warnings),
        )))  # fmt: skip
        self._decider.warnings.clear()

    def _pass(self, reader: BlobReader, use: Callable[[memoryview, int], object]) -> None:
        """Hand the chunks of a layer and their offsets to ``use``, up to the end of the tar."""
        offset, read = 0, self._n_read
        for chunk in reader:
            if self._stop:
                raise KeyboardInterrupt
            if not self._placement.scanner.at_end:
                use(chunk, offset)
            offset += len(chunk)
            self._n_read = read + reader.bytes_in

    def _restore(self, level: int, pairs: list[tuple[int, int]]) -> None:
        """Make hard links to what was hidden: the first of an inode from the layer's bytes, the others from it."""
        placement, (files, nbytes) = self._placement, self._placement.counters
        first: dict[int, int] = {}
        for row, source in pairs:
            first.setdefault(source, row)
        sources = sorted(first, key=lambda source: int(placement.column("data_off")[source]))
        begin = placement.builder.n_rows
        for source in sources:
            placement.repeat(source, placement.path(first[source]))
        for row, source in pairs:
            if first[source] != row:
                placement.retarget(placement.repeat(row, placement.path(row)), placement.path(first[source]))
        at, end = begin, placement.builder.n_rows

        def use(chunk: memoryview, offset: int) -> None:
            nonlocal at
            at = placement.place(at, end, chunk, offset)

        with _reading(self._layers[level], self._options) as reader:
            self._pass(reader, use)
        part, (more_files, more) = self._parts[-1 - level], placement.counters
        result = part.result
        part.result = replace(
            result, files=result.files + more_files - files, bytes_written=result.bytes_written + more - nbytes
        )

    def _results(self) -> list[ApplyResult]:
        """Return the results, the lowest layer first, with the kernel's warnings where their rows are."""
        return [
            replace(part.result, warnings=(*part.result.warnings, *warnings(self._placement, part.begin, part.end)))
            for part in reversed(self._parts)
        ]
