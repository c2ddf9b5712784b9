"""What is demanded of a run: targets, the floors below which a figure is a defect, and the verdicts.

The numbers are the project's own promises; a ratio is of medians of wall times, from runs that took turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from lamella.bench.panel import Run

__all__ = ["TARGETS", "Figure", "Target", "costs", "judge", "uppers", "verdict"]

Verdict = Literal["met", "missed", "defect"]
Kind = Literal[
    "faster", "share", "cpu", "rss", "further", "calls", "each", "flat", "times", "rate", "cheaper", "ms", "nanos"
]  # fmt: skip
Runs = Mapping[tuple[str, str, str], Run]  # panel, file system, contender
OURS = "lamella"
TIMES = "\N{MULTIPLICATION SIGN}"
AUTO_CPU = 1.3 / 68_000  # seconds an entry


@dataclass(frozen=True, slots=True)
class Target:
    """One demand. ``sense`` ">=" or "<=" is between the value and ``limit``; beyond ``floor`` it is a defect.

    ``kind``: "faster" is peer's wall time ÷ ours, "share" ours ÷ peer's, "cpu" our CPU seconds, "rss" our peak in MB,
    "further" bytes an entry from ``peer`` to ``ours``, "calls" system calls a file from ``peer`` to ``ours``, "each" our
    microseconds a change beyond a millisecond, "flat" ours ÷ the same for a smaller tree (``peer``), "times" ours ÷ peer's,
    "rate" our gigabytes a second, "cheaper" peer's CPU time ÷ ours, "ms" our milliseconds, "nanos" our nanoseconds each of n.
    """

    panel: str
    fs: str
    kind: Kind
    ours: str
    peer: str
    sense: Literal[">=", "<="]
    limit: float
    floor: float | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """A target, the value that a run gave it, and the verdict."""

    target: Target
    value: float
    limit: float
    verdict: Verdict

    @property
    def text(self) -> str:
        """Say the value as a table does."""
        return _TEXTS[self.target.kind](self.value)

    @property
    def wanted(self) -> str:
        """Say the limit as a table does."""
        return f"{'≥' if self.target.sense == '>=' else '≤'} {_TEXTS[self.target.kind](self.limit)}"


_TEXTS: dict[str, Callable[[float], str]] = {
    "faster": lambda value: f"{value:.2f}{TIMES}",
    "share": lambda value: f"{value:.2f} of its time",
    "cpu": lambda value: f"{value:.2f} s CPU",
    "rss": lambda value: f"{value:.0f} MB",
    "further": lambda value: f"{value:.0f} B an entry",
    "calls": lambda value: f"{value:.2f} a file",
    "each": lambda value: f"{value:.1f} µs a change",
    "flat": lambda value: f"{value:.2f} of the small tree's",
    "times": lambda value: f"{value:.2f}{TIMES} its time",
    "rate": lambda value: f"{value:.2f} GB/s",
    "cheaper": lambda value: f"{value:.1f}{TIMES} less CPU",
    "ms": lambda value: f"{value:.3f} ms",
    "nanos": lambda value: f"{value:.1f} ns each",
}


def _faster(panel: str, fs: str, peer: str, limit: float, *, floor: float | None = None, ours: str = OURS) -> Target:
    return Target(panel, fs, "faster", ours, peer, ">=", limit, floor)


def _diff(kind: Literal["share", "cpu"], ours: str, peer: str, limit: float, floor: float | None = None) -> list[Target]:
    return [Target("diff", fs, kind, ours, peer, "<=", limit, floor) for fs in ("tmpfs", "ext4")]


def _unpack(peer: str, tmpfs: float, ext4: float | None = None, *, floor: float | None = None) -> list[Target]:
    limits = (("tmpfs", tmpfs), ("ext4", tmpfs if ext4 is None else ext4))
    return [_faster("unpack gzip", fs, peer, limit, floor=floor) for fs, limit in limits]


TARGETS: tuple[Target, ...] = (
    _faster("apply gzip", "tmpfs", "tarfile", 3.5, floor=2.5),
    _faster("apply gzip", "tmpfs", "bsdtar", 2.2),
    _faster("apply gzip", "tmpfs", "umoci", 4.0),
    _faster("apply gzip", "tmpfs", "GNU tar + igzip", 1.4, floor=1.1),
    Target("apply gzip", "tmpfs", "rss", OURS, "", "<=", 120, 200),
    _faster("apply gzip", "ext4", "tarfile", 3.5, floor=2.5),
    _faster("apply gzip", "ext4", "bsdtar", 2.2),
    _faster("apply gzip", "ext4", "umoci", 4.0),
    _faster("apply gzip", "ext4", "GNU tar + igzip", 1.6, floor=1.1),
    _faster("apply plain", "tmpfs", "GNU tar", 1.3),
    _faster("apply plain", "ext4", "GNU tar", 1.6),
    _faster("apply zstd", "tmpfs", "lamella, gzip", 1.0),
    _faster("decode", "tmpfs", "lamella, gzip", 1.3, ours="lamella, zstd"),
    _faster("list", "tmpfs", "tarfile", 14.0, floor=8.0),
    _faster("list", "tmpfs", "GNU tar -t", 1.0),
    *_diff("share", "lamella, never", "rsync -n -a", 0.4, 1.0),
    *_diff("share", "lamella, never, xattrs", "rsync -n -aX", 0.5),
    *_diff("cpu", OURS, "", AUTO_CPU),
    _faster("write plain", "tmpfs", "tarfile", 3.8),
    _faster("write gzip", "tmpfs", "tarfile, zlib level 6", 8.0),
    *_unpack("umoci unpack", 5.5),
    *_unpack("umoci raw unpack", 4.0, floor=3.0),
    *_unpack("skopeo, overlay", 5.0),
    *_unpack("ctr, overlayfs", 5.0),
    *_unpack("GNU tar + igzip", 1.6, 2.0, floor=1.3),
    *_unpack("bsdtar", 2.5),
    *_unpack("tarfile", 3.8),
    *(Target("unpack gzip", fs, "rss", OURS, "", "<=", 200, 300) for fs in ("tmpfs", "ext4")),
    Target("unpack zstd", "tmpfs", "rss", OURS, "", "<=", 200, 300),
    _faster("unpack zstd", "tmpfs", "lamella, gzip", 1.0),
    _faster("squash", "tmpfs", "oci-squash", 8.0, floor=5.0),
    _faster("squash", "tmpfs", "docker-squash", 8.0, floor=5.0),
    _faster("import", "ext4", "skopeo, overlay", 4.0, ours="lamella, overlay"),
    _faster("import", "ext4", "ctr, overlayfs", 4.0, ours="lamella, overlay"),
    _faster("copies", "ext4", "ctr, native", 3.0, ours="lamella, vfs"),
    _faster("import", "btrfs", "skopeo, btrfs", 2.5, ours="lamella, btrfs"),
    _faster("compare blocks", "tmpfs", "memcmp", 0.9),
    _faster("compare files", "tmpfs", "cmp", 1.2),
    _faster("snapshot diff", "btrfs", "both walked", 20.0),
    *(_faster("thin", "tmpfs", f"thin_{job}, {shape}", 4.0, ours=f"lamella {job}, {shape}")
      for job in ("check", "delta") for shape in ("singles", "runs")),
    *(Target("thin", "tmpfs", "rss", f"lamella {job}, {shape}", "", "<=", 300)
      for job in ("check", "delta") for shape in ("singles", "runs")),
    _faster("file delta", "tmpfs", "both walked", 8.0, floor=4.0),
    _faster("file delta", "tmpfs", "both walked", 40.0, ours="lamella, names kept"),
    Target("union find", "tmpfs", "times", "lamella, aufs", "kernel overlay", "<=", 4.0),
    Target("union read", "tmpfs", "rate", "lamella, aufs", "", ">=", 0.6),
    Target("mount", "tmpfs", "rss", OURS, "", "<=", 150),
)


def uppers(names: Mapping[tuple[int, int, str], str]) -> tuple[Target, ...]:
    """Return the targets of the changes of an overlay, from the contenders' ``names`` by changes, files and features."""
    found = [Target("upper diff", "tmpfs", "each", name, "", "<=", 10) for name in names.values()]
    for changes, features in dict.fromkeys((changes, features) for changes, _, features in names):
        sizes = sorted(files for n, files, what in names if (n, what) == (changes, features))
        if len(sizes) > 1:
            large, small = (names[changes, files, features] for files in (sizes[-1], sizes[0]))
            found.append(Target("upper diff", "tmpfs", "flat", large, small, "<=", 1.1))
    return tuple(found)


def costs(names: tuple[str, str, str, str], million: str, files: tuple[str, str]) -> tuple[Target, ...]:
    """Return the targets of what is counted; the contenders' names differ with the size of the run."""
    plain, heavy, few, many = names
    return (
        Target("memory", "tmpfs", "rss", plain, "", "<=", 120, 200),
        Target("memory", "tmpfs", "rss", heavy, "", "<=", 120, 200),
        Target("memory", "tmpfs", "further", many, few, "<=", 160),
        Target("memory of diff", "tmpfs", "rss", million, "", "<=", 400),
        Target("system calls", "tmpfs", "calls", files[1], files[0], "<=", 4.2),
    )


def verdict(value: float, sense: Literal[">=", "<="], limit: float, floor: float | None = None) -> Verdict:
    """Judge ``value``: "met", "missed", or "defect" where a floor is not reached either."""
    if (value >= limit) if sense == ">=" else (value <= limit):
        return "met"
    if floor is not None and ((value < floor) if sense == ">=" else (value > floor)):
        return "defect"
    return "missed"


def judge(targets: tuple[Target, ...], runs: Runs, n_entries: int) -> list[Figure]:
    """Return a figure for each target whose runs are there; the limit of "cpu" is for ``n_entries``."""
    figures = []
    for target in targets:
        ours, peer = (runs.get((target.panel, target.fs, name)) for name in (target.ours, target.peer))
        if ours is None or (target.peer and peer is None):
            continue
        limit = target.limit * n_entries if target.kind == "cpu" else target.limit
        value = _value(target.kind, ours, peer or ours)
        figures.append(Figure(target, value, limit, verdict(value, target.sense, limit, target.floor)))
    return figures


def _value(kind: str, ours: Run, peer: Run) -> float:
    if kind == "faster":
        return peer.wall / ours.wall
    if kind == "cheaper":
        return peer.cpu / ours.cpu
    if kind == "share":
        return ours.wall / peer.wall
    if kind == "cpu":
        return ours.cpu
    if kind == "rss":
        return ours.rss / 1e6
    if kind == "each":
        return max(0.0, ours.wall - 1e-3) * 1e6 / int(ours.facts["changes"])
    if kind in ("flat", "times"):
        return ours.wall / peer.wall
    if kind == "ms":
        return ours.wall * 1e3
    if kind == "nanos":
        return ours.wall * 1e9 / int(ours.facts["n"])
    if kind == "rate":
        return float(ours.facts["nbytes"]) / ours.wall / 1e9
    if kind == "further":
        return (ours.rss - peer.rss) / int(ours.facts["entries"] - peer.facts["entries"])
    return int(ours.facts["calls"] - peer.facts["calls"]) / int(ours.facts["files"] - peer.facts["files"])
