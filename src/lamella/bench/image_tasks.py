"""The tasks that are measured on a whole image: unpack it, squash it; who takes part, and that each did what was asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lamella.bench import peers
from lamella.bench.ground import Ground, run
from lamella.bench.image_corpus import ImageCorpus, blobs_of
from lamella.bench.measure import MeasureError, Sample, alone, in_python
from lamella.bench.panel import Contender, Panel
from lamella.bench.workloads import BSDTAR, OURS, TAR, count

__all__ = ["copies", "imports", "squash", "unpack_gzip", "unpack_zstd"]

LEFT_OUT = "start left out"
NO_LAYERS = f"{peers.NONE}: what a layer hides is written too"
_UNPACKED = {"gzip": "igzip", "zstd": "zstd"}


class Tally:
    """What the tree of an image must have: as planned, or else what the first contender found."""

    def __init__(self, corpus: ImageCorpus) -> None:
        self._names = corpus.visible + 1 if corpus.visible else 0
        self._least = 0 if corpus.given else self._names

    def check(self, root: Path) -> None:
        """MeasureError unless the tree at ``root`` has the names that it must have."""
        found = count(root)
        self._names = self._names or found
        if found != self._names:
            raise MeasureError(f"made {found} of {self._names} entries")

    def check_more(self, root: Path) -> None:
        """MeasureError where the tree at ``root``, in which nothing is hidden, has fewer names than that."""
        if (found := count(root)) < self._least:
            raise MeasureError(f"made {found} of at least {self._least} entries")


def unpack_gzip(corpus: ImageCorpus, ground: Ground) -> Panel:
    """Unpack the image of gzip layers; ours with both digests of every layer verified."""
    tally = Tally(corpus)
    layout = corpus.layout("gzip")
    contenders = (
        _ours(OURS, corpus.gzip, tally),
        _umoci("umoci unpack", ["unpack"], corpus, tally),
        _umoci("umoci raw unpack", ["raw", "unpack"], corpus, tally),
        _skopeo(corpus),
        _ctr(corpus, layout),
        _tar("gzip", corpus, tally),
        _bsdtar(corpus, tally),
        _tarfile(corpus, tally),
    )
    return Panel("unpack gzip", "unpack an image of gzip layers", ground, contenders)


def unpack_zstd(corpus: ImageCorpus, ground: Ground) -> Panel:
    """Unpack the zstd twin, and beside it our own unpack of the gzip layers."""
    tally = Tally(corpus)
    contenders = (
        _ours(OURS, corpus.zstd, tally),
        _ours("lamella, gzip", corpus.gzip, tally),
        _tar("zstd", corpus, tally),
    )
    return Panel("unpack zstd", "unpack an image of zstd layers", ground, contenders)


def imports(corpus: ImageCorpus, ground: Ground) -> Panel:
    """Import the image into a store, a snapshot for each layer, all of it on disk in the end: by drivers, and by peers."""
    if ground.name == "btrfs":
        contenders: tuple[Contender, ...] = _into_store(corpus, "btrfs"), _skopeo(corpus, "btrfs", sync=True)
    else:
        peers_ = _skopeo(corpus, sync=True), _ctr(corpus, corpus.layout("gzip"), "overlayfs", sync=True)
        contenders = (_into_store(corpus, "overlay"), *peers_)
    return Panel("import", "import an image of gzip layers into a store", ground, contenders, max_rounds=3)


def copies(corpus: ImageCorpus, ground: Ground) -> Panel:
    """Import an image into a store that keeps a whole tree for each layer, all of it on disk in the end."""
    contenders = _into_store(corpus, "vfs"), _ctr(corpus, corpus.layout("gzip"), "native", sync=True)
    return Panel("copies", "import an image into a store, a whole copy a layer", ground, contenders, max_rounds=3)


def _into_store(corpus: ImageCorpus, driver: str) -> Contender:
    def measure(folder: Path) -> Sample:
        sample = in_python("store-import", folder, corpus.gzip, driver)
        if sample.facts["snapshots"] != corpus.layers:
            raise MeasureError(f"made {sample.facts['snapshots']} of {corpus.layers} snapshots")
        return sample

    return Contender(f"lamella, {driver}", measure, f"Store(ROOT, driver={driver!r}).import_image(REF), syncfs, {LEFT_OUT}")


def _ours(name: str, ref: str, tally: Tally) -> Contender:
    def measure(folder: Path) -> Sample:
        sample = in_python("unpack", ref, folder / "root")
        tally.check(folder / "root")
        return sample

    return Contender(name, measure, f"open_image(REF).unpack(ROOT), {LEFT_OUT}")


def _pipes(folder: Path, pipes: Sequence[Sequence[Sequence[str]]], status: int = 0) -> Sample:
    """Run one pipe of programs after another, kept to ``folder``'s file system."""
    return alone("pipes", folder, status, json.dumps(pipes))


def _umoci(name: str, words: list[str], corpus: ImageCorpus, tally: Tally) -> Contender:
    image = corpus.gzip.removeprefix("oci:")

    def measure(folder: Path) -> Sample:
        sample = _pipes(folder, [[["umoci", *words, "--image", image, str(folder / "root")]]])
        tally.check(folder / "root" / "rootfs" if words == ["unpack"] else folder / "root")
        return sample

    return Contender(name, measure, f"umoci {' '.join(words)} --image REF ROOT", "nothing")


def _skopeo(corpus: ImageCorpus, driver: str = "overlay", *, sync: bool = False) -> Contender:
    trees = "btrfs/subvolumes/*" if driver == "btrfs" else "overlay/*/diff"

    def measure(folder: Path) -> Sample:
        store = f"containers-storage:[{driver}@{folder}/store+{folder}/run]bench:latest"
        flags = ["--insecure-policy", "--tmpdir", str(folder / "scratch")]
        synced = [[["sync", "-f", str(folder)]]] if sync else []
        sample = _pipes(folder, [[["skopeo", *flags, "copy", "-q", corpus.gzip, store]], *synced])
        _check_layers(list((folder / "store").glob(trees)), corpus)
        return sample

    how = f"skopeo copy REF containers-storage:[{driver}@STORE+RUN]NAME{'; sync -f STORE' if sync else ''}"
    return Contender(f"skopeo, {driver}", measure, how, "diff_ids")


def _ctr(corpus: ImageCorpus, layout: Path, snapshotter: str = "overlayfs", *, sync: bool = False) -> Contender:
    def measure(folder: Path) -> Sample:
        archive = _archive(layout)
        sample = alone("ctr-import", folder, archive, snapshotter, "sync" if sync else "")
        inner = "*/fs" if snapshotter == "overlayfs" else "*"
        _check_layers(list(folder.glob(f"data/*.{snapshotter}/snapshots/{inner}")), corpus)
        return sample

    how = f"ctr images import --snapshotter {snapshotter} ARCHIVE{'; sync -f DATA' if sync else ''}"
    told = f"{how} (by unpigz where it is installed), containerd's start left out"
    return Contender(f"ctr, {snapshotter}", measure, told, "nothing")


def _check_layers(found: list[Path], corpus: ImageCorpus) -> None:
    if len(found) < corpus.layers:
        raise MeasureError(f"made {len(found)} of {corpus.layers} layers")


def _archive(layout: Path) -> Path:
    """Return a tar of ``layout``, made when it is first asked for."""
    archive = layout.with_suffix(".tar")
    if not archive.exists():
        run("tar", "-C", str(layout), "-cf", str(archive), "index.json", "oci-layout", "blobs")
    return archive


def _tar(codec: str, corpus: ImageCorpus, tally: Tally) -> Contender:
    unpacker = _UNPACKED[codec]

    def measure(folder: Path) -> Sample:
        root = folder / "root"
        root.mkdir()
        layers = blobs_of(corpus.gzip if codec == "gzip" else corpus.zstd)
        pipes = [[[unpacker, "-dcq", str(blob)], [*TAR, "-", "-C", str(root)]] for blob, _ in layers]
        sample = _pipes(folder, pipes, 2 if corpus.given else 0)
        tally.check_more(root)
        return sample

    how = f"{unpacker} -dcq BLOB | {' '.join(TAR)} - -C ROOT, one layer after another"
    return Contender(f"GNU tar + {unpacker}", measure, how, NO_LAYERS)


def _bsdtar(corpus: ImageCorpus, tally: Tally) -> Contender:
    def measure(folder: Path) -> Sample:
        root = folder / "root"
        root.mkdir()
        pipes = [[[*BSDTAR, str(blob), "-C", str(root)]] for blob, _ in blobs_of(corpus.gzip)]
        sample = _pipes(folder, pipes, 1 if corpus.given else 0)
        tally.check_more(root)
        return sample

    return Contender("bsdtar", measure, f"{' '.join(BSDTAR)} BLOB -C ROOT, one layer after another", NO_LAYERS)


def _tarfile(corpus: ImageCorpus, tally: Tally) -> Contender:
    def measure(folder: Path) -> Sample:
        root = folder / "root"
        root.mkdir()
        sample = alone("tarfile-unpack", folder, 0 if corpus.given else 1, *(blob for blob, _ in blobs_of(corpus.gzip)))
        tally.check_more(root)
        return sample

    how = f"tarfile.open(mode='r:gz').extractall(filter='fully_trusted'), one layer after another, {LEFT_OUT}"
    return Contender("tarfile", measure, how, f"xattrs, {NO_LAYERS}")


def squash(corpus: ImageCorpus, ground: Ground) -> Panel:
    """Make one layer of all; ours compressed, with both digests, in a layout."""

    def ours(folder: Path) -> Sample:
        return in_python("squash", corpus.gzip, folder / "out")

    def oci_squash(folder: Path) -> Sample:
        return alone("oci-squash", folder, _archive(corpus.layout("gzip")), folder / "out.tar")

    def docker_squash(folder: Path) -> Sample:
        sample = alone("docker-squash", folder, corpus.gzip, folder / "out.tar")
        cpu, rss = sample.cpu + sample.facts["daemon"], max(sample.rss, sample.facts["daemon_rss"])
        return Sample(sample.wall, cpu, rss, sample.floor, sample.others, sample.facts)

    tar = "compression, digests of blobs"
    contenders = (
        Contender(OURS, ours, f"open_image(REF).squash().save(OCI), gzip, {LEFT_OUT}"),
        Contender("oci-squash", oci_squash, f"oci-squash --output-path OUT ARCHIVE, {LEFT_OUT}", tar),
        Contender("docker-squash", docker_squash, f"docker-squash --output-path OUT, of an image in dockerd, {LEFT_OUT}", tar),
    )
    return Panel("squash", "squash an image to one layer", ground, contenders, max_rounds=3)
