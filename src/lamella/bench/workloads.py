"""The tasks that are measured: who takes part, with which words, and that each did what was asked of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from lamella.bench import peers
from lamella.bench.corpus import Corpus, tree_of
from lamella.bench.ground import Ground
from lamella.bench.measure import MeasureError, Sample, in_python, programs
from lamella.bench.panel import Contender, Panel

__all__ = ["apply_gzip", "apply_plain", "apply_zstd", "decode", "diff", "listing", "write_gzip", "write_plain"]

OURS = "lamella"
TAR = ("tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf")
BSDTAR = ("bsdtar", "--numeric-owner", "-xpf")
_LEAVES_OUT = {peer.name: peer.leaves_out for peer in peers.PEERS}


def _by_job(name: str, job: str, *arguments: object, entries: int = 0) -> Contender:
    def measure(folder: Path) -> Sample:
        sample = in_python(job, *arguments, folder / "root")
        _check(folder / "root", entries)
        return sample

    return Contender(name, measure, f"job {job}, in a fresh interpreter, its start left out")


def _by_programs(name: str, stages: Callable[[Path], Sequence[Sequence[str]]], *, entries: int, leaves_out: str) -> Contender:
    def measure(folder: Path) -> Sample:
        root = folder / "root"
        if name != "umoci":  # it makes its own
            root.mkdir()
        sample = programs(*stages(root))
        _check(root, entries)
        return sample

    how = " | ".join(" ".join(Path(word).name if "/" in word else word for word in stage) for stage in stages(Path("ROOT")))
    return Contender(name, measure, how, leaves_out)


def _apply(layer: Path, entries: int, name: str = OURS) -> Contender:
    return _by_job(name, "apply", layer, entries=entries)


def _tarfile(name: str, layer: Path, mode: str, entries: int) -> Contender:
    def measure(folder: Path) -> Sample:
        (folder / "root").mkdir()
        sample = in_python("tarfile-apply", layer, folder / "root", mode)
        _check(folder / "root", entries)
        return sample

    how = f"tarfile.open(mode={mode!r}).extractall(filter='fully_trusted'), start left out"
    return Contender(name, measure, how, peers.TARFILE_LEAVES_OUT)


def _fastar(layer: Path, entries: int) -> Contender:
    def measure(folder: Path) -> Sample:
        (folder / "root").mkdir()
        sample = in_python("fastar-apply", layer, folder / "root")
        _check(folder / "root", entries)
        return sample

    return Contender("fastar", measure, "fastar.open().unpack(), start left out", _LEAVES_OUT["fastar"])


def _tar(name: str, archive: Sequence[str], entries: int) -> Contender:
    return _by_programs(
        name, lambda root: [[*TAR, *archive, "-C", str(root)]], entries=entries, leaves_out=_LEAVES_OUT["GNU tar"]
    )


def _check(root: Path, entries: int) -> None:
    """MeasureError unless the tree at ``root`` has ``entries``, its root counted (0: any)."""
    found = count(root)
    if entries and found != entries:
        raise MeasureError(f"made {found} of {entries} entries")


def count(root: Path) -> int:
    """Count the names below ``root`` and itself."""
    n_found, folders = 1, [os.fspath(root)]
    while folders:
        with os.scandir(folders.pop()) as inside:
            for entry in inside:
                n_found += 1
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
    return n_found


def apply_gzip(corpus: Corpus, ground: Ground, entries: int) -> Panel:
    """Apply the gzip layer; ours with both digests."""
    igzip = _by_programs(
        "GNU tar + igzip",
        lambda root: [["igzip", "-dc", str(corpus.gzip)], [*TAR, "-", "-C", str(root)]],
        entries=entries, leaves_out=_LEAVES_OUT["GNU tar"],
    )  # fmt: skip
    bsdtar = _by_programs(
        "bsdtar", lambda root: [[*BSDTAR, str(corpus.gzip), "-C", str(root)]],
        entries=entries, leaves_out=_LEAVES_OUT["bsdtar"],
    )  # fmt: skip
    umoci = _by_programs(
        "umoci",
        lambda root: [["umoci", "raw", "unpack", "--image", f"{corpus.image}:bench", str(root)]],
        entries=entries, leaves_out=_LEAVES_OUT["umoci"],
    )  # fmt: skip
    contenders = [_apply(corpus.gzip, entries), igzip, bsdtar, _tarfile("tarfile", corpus.gzip, "r|gz", entries), umoci]
    if ground.name == "tmpfs":  # no target against these: once is enough
        contenders += [_tar("GNU tar", [str(corpus.gzip)], entries), _fastar(corpus.gzip, entries)]
    return Panel("apply gzip", "apply a gzip layer", ground, tuple(contenders))


def apply_plain(corpus: Corpus, ground: Ground, entries: int) -> Panel:
    """Apply the uncompressed layer; ours with its digest."""
    both = (_apply(corpus.tar, entries), _tar("GNU tar", [str(corpus.tar)], entries))
    return Panel("apply plain", "apply an uncompressed layer", ground, both)


def apply_zstd(corpus: Corpus, ground: Ground, entries: int) -> Panel:
    """Apply the zstd layer, and beside it our own apply of the gzip layer."""
    contenders = (
        _apply(corpus.zstd, entries),
        _apply(corpus.gzip, entries, "lamella, gzip"),
        _tar("GNU tar + zstd", [str(corpus.zstd)], entries),
    )
    return Panel("apply zstd", "apply a zstd layer", ground, contenders)


def decode(corpus: Corpus, ground: Ground) -> Panel:
    """Decode alone, no digest, nothing placed."""

    def contender(name: str, layer: Path) -> Contender:
        return Contender(name, lambda _: in_python("decode", layer), "BlobReader(digests=False).drain(), start left out")

    sides = (contender("lamella, zstd", corpus.zstd), contender("lamella, gzip", corpus.gzip))
    return Panel("decode", "decode a layer, nothing else", ground, sides)


def listing(corpus: Corpus, ground: Ground) -> Panel:
    """Read the headers of the uncompressed layer."""

    def job(name: str, what: str, leaves_out: str = "") -> Contender:
        def measure(_: Path) -> Sample:
            sample = in_python(what, corpus.tar)
            if sample.facts["entries"] != corpus.n_entries:
                raise MeasureError(f"{sample.facts['entries']} of {corpus.n_entries} entries listed")
            return sample

        return Contender(name, measure, f"job {what}, start left out", leaves_out)

    def tar(name: str, flags: str) -> Contender:
        return Contender(name, lambda _: programs(["tar", flags, str(corpus.tar)]), f"tar {flags} > /dev/null")

    contenders = (
        job(OURS, "list"),
        job("lamella, an Entry each", "list-entries"),
        tar("GNU tar -t", "-tf"),
        tar("GNU tar -tv", "-tvf"),
        job("tarfile", "tarfile-list"),
    )
    return Panel("list", "list the headers", ground, contenders)


def diff(corpus: Corpus, ground: Ground) -> Panel:
    """Compare two unchanged trees."""

    def ours(name: str, content: str, xattrs: str) -> Contender:
        def measure(folder: Path) -> Sample:
            sample = in_python("changes", folder / "lower", folder / "upper", content, xattrs)
            if sample.facts["changes"]:
                raise MeasureError(f"{sample.facts['changes']} changes found in unchanged trees")
            return sample

        return Contender(name, measure, f"changes(content={content!r}, xattrs={xattrs!r}), start left out")

    def rsync(name: str, flags: str) -> Contender:
        def measure(folder: Path) -> Sample:
            return programs(["rsync", "-n", flags, f"{folder}/lower/", f"{folder}/upper/"])

        return Contender(name, measure, f"rsync -n {flags} LOWER/ UPPER/", "content of equal size and time")

    contenders = (
        ours("lamella, never", "never", "none"),
        rsync("rsync -n -a", "-a"),
        ours("lamella, never, xattrs", "never", "all"),
        rsync("rsync -n -aX", "-aX"),
        ours(OURS, "auto", "all"),
    )

    def prepare(folder: Path) -> None:
        tree_of(corpus, folder / "lower", folder / "upper")

    return Panel("diff", "compare two unchanged trees", ground, contenders, prepare)


def write_plain(corpus: Corpus, ground: Ground) -> Panel:
    """Write the tree as an uncompressed layer; ours with its digest."""
    contenders = (
        _writer(OURS, "write", corpus.lower, "none"),
        _writer("tarfile", "tarfile-write", corpus.lower, "w:"),
        _tar_writer("GNU tar", corpus.lower),
    )
    return Panel("write plain", "write a tree as a layer", ground, contenders)


def write_gzip(corpus: Corpus, ground: Ground) -> Panel:
    """Write the tree as a gzip layer; ours with both digests."""
    contenders = (
        _writer(OURS, "write", corpus.lower, "gzip"),
        _writer("tarfile, zlib level 6", "tarfile-write", corpus.lower, "w:gz"),
        _tar_writer("GNU tar + igzip -1", corpus.lower, "igzip -1"),
    )
    return Panel("write gzip", "write a tree as a gzip layer", ground, contenders)


def _writer(name: str, job: str, tree: Path, mode: str) -> Contender:
    def measure(folder: Path) -> Sample:
        return in_python(job, tree, folder / "out", mode)

    return Contender(name, measure, f"job {job} {mode}, start left out", "" if job == "write" else "xattrs, digests")


def _tar_writer(name: str, tree: Path, packer: str = "") -> Contender:
    def measure(folder: Path) -> Sample:
        out = folder / "out"
        pack = ["-I", packer] if packer else []
        sample = programs(["tar", "--numeric-owner", *pack, "-C", str(tree), "-cf", str(out), "."])
        sample.facts["nbytes"] = out.stat().st_size
        return sample

    return Contender(name, measure, f"tar {'-I ' + repr(packer) + ' ' if packer else ''}-cf OUT", "xattrs, digests")
