"""Apply one layer to a directory: blob -> tar stream -> rows -> inodes, digests on the way."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any, Literal

from lamella.layer.job import ApplyResult, Job, Report
from lamella.layer.options import Options
from lamella.layer.parents import Parents
from lamella.layer.policy import Policy, policy_of
from lamella.layer.staging import ground
from lamella.model import IdMap, Limits
from lamella.stream.blob import BlobReader
from lamella.stream.source import Source, open_source

__all__ = ["ApplyResult", "apply", "verify"]

Path = str | os.PathLike[str]


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
    """Apply the layer ``source`` (path, binary file object, buffer, or a BlobReader that is open) to the directory ``root``.

    An absent or empty root appears whole or not at all. Into a living tree every exception carries ``.partial``,
    and with a seekable source ``expected_*`` are checked before the first change. Errors: FormatError and its kin for
    wrong bytes, UnsafePathError, LimitExceededError, ConflictError, OSError of the file system. Rules: OCI image-spec
    layer.md; numbers in comments are those of the tests in tests/contract. ``workers`` threads write the files of a layer
    above 256 KiB (None: two, where there are two processors); decoding and hashing have theirs beside.
    """
    chosen = policy_of(policy)
    options = Options(dialect, parents, chosen, limits, idmap, xattrs, rootless, keep_dirlinks, holes, sync, workers)
    with contextlib.ExitStack() as stack:
        if isinstance(source, BlobReader):  # which has limits and digests of its own
            below = stack.enter_context(Parents(parents)) if parents else None
            return Job(source, stack.enter_context(ground(root)), below, options, None).run(progress)
        bytes_ = stack.enter_context(open_source(source))
        below = stack.enter_context(Parents(parents)) if parents else None
        here = stack.enter_context(ground(root))
        if not here.empty and (expected_diff_id or expected_digest) and bytes_.seekable:
            verify(bytes_, limits, expected_digest, expected_diff_id)
        reader = stack.enter_context(
            BlobReader(bytes_, expected_digest=expected_digest, expected_diff_id=expected_diff_id, limits=limits)
        )
        return Job(reader, here, below, options, bytes_.size).run(progress)


def verify(source: Source, limits: Limits, digest: str | None, diff_id: str | None) -> None:
    """Read ``source`` to its end against its digests, and go back to its start."""
    with BlobReader(source, expected_digest=digest, expected_diff_id=diff_id, limits=limits) as reader:
        reader.drain()
    source.rewind()
