"""One layer on its way to a directory: chunks of its tar -> rows -> inodes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from lamella._kernels import confine
from lamella.layer.branch import AufsDialect, OverlayDialect
from lamella.layer.crew import Crew, n_placing, run_placing
from lamella.layer.decide import Decider
from lamella.layer.notes import warnings
from lamella.layer.options import Options, kernel_options
from lamella.layer.parents import Parents
from lamella.layer.placement import Placement
from lamella.layer.staging import Ground
from lamella.layer.whiteout import Dialect
from lamella.model import DiffID, Digest, Progress
from lamella.stream.blob import BlobReader
from lamella.stream.pump import SMALL_NBYTES

__all__ = ["ApplyResult", "Job", "Report"]

Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class ApplyResult:
    """What an apply read and made. Digests are None in the ``.partial`` of an error."""

    digest: Digest | None = None
    diff_id: DiffID | None = None
    media_type: str | None = None
    compressed_size: int = 0
    uncompressed_size: int = 0
    entries: int = 0
    files: int = 0
    bytes_written: int = 0
    whiteouts: int = 0
    opaques: int = 0
    warnings: tuple[str, ...] = field(default=())


class Job:
    """One apply: a thread with a umask of its own places, the caller's waits and reports."""

    def __init__(
        self, reader: BlobReader, here: Ground, parents: Parents | None, options: Options, size: int | None
    ) -> None:
        self._reader, self._here, self._parents, self._options, self._size = reader, here, parents, options, size
        self._placement = Placement(here.root, kernel_options(here, options), options.limits, options.idmap)
        self._dialect = _dialect_of(self._placement, options, parents)
        self._decider = Decider(self._placement, options.policy, self._dialect, parents, options.rootless)
        self._placement.special = self._decider
        small = size is not None and size <= SMALL_NBYTES
        self._crew = Crew(0 if small else n_placing(options.workers) - 1)
        self._placement.batch = self._crew.batch
        self._stop = False

    def run(self, progress: Report | None = None) -> ApplyResult:
        """Place the layer and return what it was; errors of a living tree carry ``.partial``."""
        try:
            run_placing(self._guarded, self._halt, progress and self._report(progress))
        except BaseException as error:
            if not self._here.empty:
                error.partial = self._result()  # type: ignore[attr-defined]
            raise
        return self._result()

    def _halt(self) -> None:
        self._stop = True

    def _report(self, progress: Report) -> Callable[[], None]:
        return lambda: progress(Progress("apply", self._reader.bytes_in, self._size, "bytes"))

    def _guarded(self) -> None:
        with contextlib.closing(self._placement), self._crew:
            self._place()

    def _place(self) -> None:
        placement, offset = self._placement, 0
        placement.imply(b"", self._here.mtime_ns)
        for chunk in self._reader:
            if self._stop:
                raise KeyboardInterrupt
            if not placement.scanner.at_end:
                placement.feed(chunk, offset)
            offset += len(chunk)
        placement.end_layer()
        placement.reset()
        self._decider.finish()
        placement.finish(restore=self._options.policy.parent_mtime == "restore")
        if self._options.sync != "none":
            confine.sync_fs(self._here.root.fd)

    def _result(self) -> ApplyResult:
        files, nbytes = self._placement.counters
        reader = self._reader
        return ApplyResult(
            reader.digest, reader.diff_id, reader.media_type, reader.compressed_size or reader.bytes_in,
            reader.uncompressed_size or self._placement.scanner.offset, self._placement.n_entries, files, nbytes,
            self._dialect.whiteouts, self._dialect.opaques,
            (*self._decider.warnings, *warnings(self._placement)),
        )  # fmt: skip


def _dialect_of(placement: Placement, options: Options, parents: Parents | None) -> Dialect:
    if options.dialect == "plain":
        return Dialect(placement, keep_same_layer=options.policy.same_layer == "keep")
    if options.dialect == "aufs":
        return AufsDialect(placement, parents=parents)
    _, _, namespace = options.dialect.partition(":")
    return OverlayDialect(placement, parents=parents, namespace=namespace or _namespace(placement.root.fd))


def _namespace(fd: int) -> str:
    """Return the xattr namespace that the caller's privilege gives an overlay: trusted needs CAP_SYS_ADMIN."""
    try:
        os.setxattr(fd, "trusted.overlay.lamella", b"")
    except PermissionError:
        return "user"
    os.removexattr(fd, "trusted.overlay.lamella")
    return "trusted"
