"""How a layer is applied: the options of apply() and of an unpack as one value, and what they mean to the kernel."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from lamella._kernels import place
from lamella.layer.policy import Policy
from lamella.layer.staging import Ground
from lamella.model import IdMap, Limits

__all__ = ["Options", "kernel_options"]


@dataclass(frozen=True, slots=True)
class Options:
    """The options that :func:`lamella.apply` describes. ValueError for a value that none of them has."""

    dialect: str = "plain"
    parents: Sequence[str | os.PathLike[str]] = ()
    policy: Policy = field(default_factory=Policy)
    limits: Limits = Limits()
    idmap: IdMap | None = None
    xattrs: str = "all"
    rootless: bool = False
    keep_dirlinks: bool = False
    holes: bool = False
    sync: str = "none"
    workers: int | None = None

    def __post_init__(self) -> None:
        for name, value, known in (
            ("dialect", self.dialect, ("plain", "overlay", "overlay:trusted", "overlay:user", "aufs")),
            ("xattrs", self.xattrs, ("all", "all+selinux", "none")),
            ("sync", self.sync, ("none", "fs", "file")),
        ):
            if value not in known:
                raise ValueError(f"{name} {value!r}; one of {', '.join(known)}")
        if self.workers is not None and self.workers < 1:
            raise ValueError("workers is at least 1")


def kernel_options(here: Ground, options: Options) -> int:
    """Return the options of the place kernel for an apply to ``here``."""
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
