"""Apply one layer to a directory: blob -> tar stream -> rows -> inodes, digests on the way."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lamella._kernels import confine, place
from lamella.layer.branch import AufsDialect, OverlayDialect
from lamella.layer.crew import Crew, n_placing
from lamella.layer.decide import Decider
from lamella.layer.parents import Parents
from lamella.layer.placement import Placement
from lamella.layer.policy import Policy, policy_of
from lamella.layer.staging import Ground, ground
from lamella.layer.whiteout import Dialect
from lamella.model import DiffID, Digest, IdMap, Limits, Progress
from lamella.stream.blob import BlobReader
from lamella.stream.pump import SMALL_NBYTES
from lamella.stream.source import Source, open_source

__all__ = ["ApplyResult", "apply"]

Path = str | os.PathLike[str]
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


@dataclass(frozen=True, slots=True)
class _Options:
    dialect: str
    parents: Sequence[Path]
    policy: Policy
    limits: Limits
    idmap: IdMap | None
    xattrs: str
    rootless: bool
    keep_dirlinks: bool
    holes: bool
    sync: str
    workers: int | None


def apply(
    source: Any,
    root: Path,
    *,
    dialect: str = "plain",
    parents: Sequence[Path] = (),
    policy: str | Policy = "spec",
    limits: Limits = Limits(),
    idmap: IdMap | None = None,
    xattrs: Literal["all", "all+selinux", "none"] = "all",
    rootless: bool = False,
    keep_dirlinks: bool = False,
    holes: bool = False,
    sync: Literal["none", "fs", "file"] = "none",
    expected_diff_id: str | None = None,
    expected_digest: str | None = None,
    workers: int | None = None,
    progress: Report | None = None,
) -> ApplyResult:
    """Apply the layer ``source`` (path, binary file object or buffer) to the directory ``root``.

    An absent or empty root appears whole or not at all. Into a living tree every exception carries ``.partial``,
    and with a seekable source ``expected_*`` are checked before the first change. Errors: FormatError and its kin for
    wrong bytes, UnsafePathError, LimitExceededError, ConflictError, OSError of the file system. Rules: OCI image-spec
    layer.md; numbers in comments are those of the tests in tests/contract. ``workers`` threads write the files of a layer
    above 256 KiB (None: two, where there are two processors); decoding and hashing have theirs beside.
    """
    _check(dialect, xattrs, sync, workers)
    chosen = policy_of(policy)
    options = _Options(dialect, parents, chosen, limits, idmap, xattrs, rootless, keep_dirlinks, holes, sync, workers)
    with contextlib.ExitStack() as stack:
        bytes_ = stack.enter_context(open_source(source))
        below = stack.enter_context(Parents(parents)) if parents else None
        here = stack.enter_context(ground(root))
        if not here.fresh and (expected_diff_id or expected_digest) and bytes_.seekable:
            _verify(bytes_, limits, expected_digest, expected_diff_id)
        reader = stack.enter_context(
            BlobReader(bytes_, expected_digest=expected_digest, expected_diff_id=expected_diff_id, limits=limits)
        )
        return _Job(reader, here, below, options, bytes_.size).run(progress)


def _check(dialect: str, xattrs: str, sync: str, workers: int | None) -> None:
    for name, value, known in (
        ("dialect", dialect, ("plain", "overlay", "overlay:trusted", "overlay:user", "aufs")),
        ("xattrs", xattrs, ("all", "all+selinux", "none")),
        ("sync", sync, ("none", "fs", "file")),
    ):
        if value not in known:
            raise ValueError(f"{name} {value!r}; one of {', '.join(known)}")
    if workers is not None and workers < 1:
        raise ValueError("workers is at least 1")


def _verify(source: Source, limits: Limits, digest: str | None, diff_id: str | None) -> None:
    with BlobReader(source, expected_digest=digest, expected_diff_id=diff_id, limits=limits) as reader:
        reader.drain()
    source.rewind()


class _Job:
    """One apply: a thread with a umask of its own places, the caller's waits and reports."""

    def __init__(
        self, reader: BlobReader, here: Ground, parents: Parents | None, options: _Options, size: int | None
    ) -> None:
        self._reader, self._here, self._parents, self._options, self._size = reader, here, parents, options, size
        self._placement = Placement(here.root, _kernel_options(here, options), options.limits, options.idmap)
        self._dialect = _dialect_of(self._placement, options, parents)
        self._decider = Decider(self._placement, options.policy, self._dialect, parents, options.rootless)
        self._placement.special = self._decider
        small = size is not None and size <= SMALL_NBYTES
        self._crew = Crew(0 if small else n_placing(options.workers) - 1)
        self._placement.batch = self._crew.batch
        self._error: BaseException | None = None
        self._stop = False

    def run(self, progress: Report | None) -> ApplyResult:
        thread = threading.Thread(target=self._guarded, name="lamella-place")
        thread.start()
        try:
            while thread.is_alive():
                thread.join(0.1 if progress else None)
                if progress:
                    progress(Progress("apply", self._reader.bytes_in, self._size, "bytes"))
        except BaseException:
            self._stop = True
            thread.join()
            raise
        if self._error is not None:
            if not self._here.fresh:
                self._error.partial = self._result()  # type: ignore[attr-defined]
            raise self._error
        return self._result()

    def _guarded(self) -> None:
        try:
            confine.private_umask()
            with self._crew:
                self._place()
        except BaseException as error:  # noqa: BLE001 - raised again by run()
            self._error = error
        finally:
            try:
                self._placement.close()
            except OSError as error:
                self._error = self._error or error

    def _place(self) -> None:
        placement, offset = self._placement, 0
        placement.imply(b"", self._here.mtime_ns)
        for chunk in self._reader:
            if self._stop:
                raise KeyboardInterrupt
            if not placement.scanner.at_end:
                placement.feed(chunk, offset)
            offset += len(chunk)
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
            (*self._decider.warnings, *self._placement.warnings()),
        )  # fmt: skip


def _kernel_options(here: Ground, options: _Options) -> int:
    overlay = options.dialect.startswith("overlay")
    chosen = {
        place.FRESH: here.fresh,
        place.CHOWN: not options.rootless,
        place.TOLERANT: options.rootless,
        place.NO_XATTRS: options.xattrs == "none",
        place.SELINUX: options.xattrs == "all+selinux",
        place.ESCAPE_OVERLAY: overlay,
        place.NO_TRUSTED: options.policy.trusted == "drop" or options.rootless,
        place.HOLES: options.holes,
        place.SYNC: options.sync == "file",
        place.KEEP_DIRLINKS: options.keep_dirlinks,
        place.ASK_DUPLICATES: options.policy.duplicates == "error",
        place.ASK_LINKS: options.policy.link_metadata == "apply",
        place.WRITABLE_DIRS: os.geteuid() != 0,
        place.CLAMP_TIMES: options.policy.times == "zero",
        place.ZERO_DEVICE: not overlay or options.policy.zero_device == "make",
    }
    return sum(bit for bit, wanted in chosen.items() if wanted)


def _dialect_of(placement: Placement, options: _Options, parents: Parents | None) -> Dialect:
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
