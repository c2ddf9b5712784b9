"""What a run works on, made once: a tar of real files, its gzip and zstd, an image of it for umoci, the tree of it."""

from __future__ import annotations

import json
import subprocess
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from lamella.bench.ground import run
from lamella.bench.measure import MeasureError, program
from lamella.bench.stacks import Synthetic, write_tar

__all__ = ["GZIP", "ZSTD", "Corpus", "deflate", "make_corpus", "pack_zstd", "synthetic_blob", "tree_of"]

SHARE = Path("/usr/share")
FEW = 20_000  # entries: below it a machine's /usr/share is no corpus
LARGE = Synthetic(70_000, 10_000)
SMALL = Synthetic(6_000, 9_000)
GZIP, ZSTD = "zlib level 6", "zstd level 3"
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Corpus:
    """A layer in its spellings below ``home``; ``source`` says of what, ``n_entries`` and ``nbytes`` are the tar's."""

    home: Path
    source: str
    n_entries: int
    nbytes: int

    @property
    def tar(self) -> Path:
        """The tar as it is."""
        return self.home / "layer.tar"

    @property
    def gzip(self) -> Path:
        """One gzip member of it (see GZIP)."""
        return self.home / "layer.tar.gz"

    @property
    def zstd(self) -> Path:
        """One zstd frame of it (see ZSTD)."""
        return self.home / "layer.tar.zst"

    @property
    def image(self) -> Path:
        """An OCI layout of the one gzip layer, tag ``bench``."""
        return self.home / "image"

    @property
    def lower(self) -> Path:
        """The tree of it."""
        return self.home / "lower"

    @property
    def upper(self) -> Path:
        """An unchanged copy of the tree."""
        return self.home / "upper"

    def facts(self) -> dict[str, Any]:
        """Return what a report says of it."""
        return {
            "source": self.source,
            "entries": self.n_entries,
            "bytes": self.nbytes,
            "gzip": {"encoder": GZIP, "bytes": self.gzip.stat().st_size},
            "zstd": {"encoder": ZSTD, "bytes": self.zstd.stat().st_size},
        }


def make_corpus(home: Path, *, quick: bool, layer: Synthetic | None = None) -> Corpus:
    """Make all of a corpus in ``home``: of /usr/share, or ``layer``; a small synthetic one when ``quick``.

    A machine whose /usr/share has fewer than 20,000 entries gets a synthetic one too. MeasureError for what fails.
    """
    layer = SMALL if layer is None and quick else layer
    tar = home / "layer.tar"
    if layer is None:
        # a live tree: status 1 is "a file changed as we read it", and the tar is whole
        run("tar", "--format=gnu", "--sort=name", "--numeric-owner", "-C", "/", "-cf", str(tar), str(SHARE)[1:], status=1)
        source, n_entries = str(SHARE), _count(tar)
        layer = LARGE if n_entries < FEW else None
    if layer is not None:
        with tar.open("wb") as file:
            write_tar(layer, file)
        source, n_entries = f"synthetic, seed {layer.seed}", _count(tar)
    corpus = Corpus(home, source, n_entries, tar.stat().st_size)
    _together(lambda: deflate(corpus.tar, corpus.gzip), lambda: pack_zstd(corpus.tar, corpus.zstd))
    _make_image(corpus)
    return corpus


def tree_of(corpus: Corpus, lower: Path, upper: Path) -> None:
    """Make the tree of ``corpus`` at ``lower`` and a copy of it (``cp -a``) at ``upper``; both with a directory each."""
    lower.mkdir()
    run("tar", "--numeric-owner", "-xpf", str(corpus.tar), "-C", str(lower))
    run("cp", "-a", str(lower), str(upper))


def synthetic_blob(path: Path, layer: Synthetic, *, packed: bool = True) -> Path:
    """Write ``layer`` to ``path`` and return it; as gzip (zlib level 1) if ``packed``."""
    if not packed:
        with path.open("wb") as file:
            write_tar(layer, file)
        return path
    pack = zlib.compressobj(1, zlib.DEFLATED, 31)

    class _Out:
        def write(self, data: bytes) -> int:
            file.write(pack.compress(data))
            return len(data)

        def flush(self) -> None:
            file.write(pack.flush())

    with path.open("wb") as file:
        write_tar(layer, _Out())  # type: ignore[arg-type]
    return path


def deflate(source: Path, target: Path, level: int = 6) -> None:
    """Pack ``source`` as one gzip member, by zlib."""
    pack = zlib.compressobj(level, zlib.DEFLATED, 31)
    with source.open("rb") as tar, target.open("wb") as out:
        while piece := tar.read(_PIECE):
            out.write(pack.compress(piece))
        out.write(pack.flush())


def pack_zstd(source: Path, target: Path) -> None:
    """Pack ``source`` as one zstd frame."""
    import zstandard  # noqa: PLC0415  (the memory of this process shows in every program's that it starts)

    with source.open("rb") as tar, target.open("wb") as out:
        zstandard.ZstdCompressor(level=3).copy_stream(tar, out, size=source.stat().st_size)


def _count(tar: Path) -> int:
    """Count entries as GNU tar lists them: a line each, newlines in names escaped."""
    done = subprocess.run([program("tar") or "tar", "-tf", str(tar)], capture_output=True, check=False)
    if done.returncode != 0:
        raise MeasureError(f"tar: {done.stderr.decode('utf-8', 'replace').strip()}")
    return done.stdout.count(b"\n")


def _together(*calls: Callable[[], None]) -> None:
    failures: list[BaseException] = []

    def guarded(call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001  (raised below)
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _make_image(corpus: Corpus) -> None:
    """Write an OCI image of the gzip layer (OCI image-spec 1.0), its blob a hard link.

    Not by lamella.image: what is imported here shows in the peak memory of every program that this process starts.
    """
    blobs = corpus.image / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def blob(media_type: str, document: dict[str, Any]) -> dict[str, Any]:
        data = json.dumps(document).encode()
        digest = sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    digest, diff_id = _sha256(corpus.gzip), _sha256(corpus.tar)
    (blobs / digest).hardlink_to(corpus.gzip)
    layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": f"sha256:{digest}"}
    config = blob(
        "application/vnd.oci.image.config.v1+json",
        {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff_id}"]}},
    )
    manifest = blob(
        "application/vnd.oci.image.manifest.v1+json",
        {"schemaVersion": 2, "config": config, "layers": [{**layer, "size": corpus.gzip.stat().st_size}]},
    )
    manifest["annotations"] = {"org.opencontainers.image.ref.name": "bench"}
    (corpus.image / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    (corpus.image / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))


def _sha256(path: Path) -> str:
    done = sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            done.update(piece)
    return done.hexdigest()
