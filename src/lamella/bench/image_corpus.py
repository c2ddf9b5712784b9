"""An image to measure with: an OCI layout of sixteen gzip layers and its zstd twin, of this machine's files, or a given one.

It is made in a process of its own, whose memory shows in nobody's (:mod:`lamella.bench.image_jobs`, "make-image").
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import stat
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

from lamella.bench.corpus import GZIP, ZSTD, deflate, pack_zstd
from lamella.bench.ground import run
from lamella.bench.image_plan import EDIT, N_LAYERS, Item, Plan
from lamella.bench.measure import MeasureError, in_python
from lamella.bench.stacks import Pool, Synthetic

__all__ = [
    "MIDDLE", "ImageCorpus", "blobs_of", "copied_corpus", "given_image", "image_corpus", "make_image", "piled",
    "synthetic_base",
]  # fmt: skip

TAG = "bench"
SOURCES = (("/usr/lib", 12_000, 500 << 20), ("/usr/share", 36_000, 500 << 20))  # entries, bytes at most
FEW = 20_000  # entries: below it a machine's /usr is no corpus
LARGE, MIDDLE, SMALL = Synthetic(48_000, 12_000), Synthetic(12_000, 16_000), Synthetic(6_000, 9_000)
BIG, QUICK_BIG = 64 << 20, 2 << 20
LARGEST = 64 << 20
_REF_NAME = "org.opencontainers.image.ref.name"
_NOISE = 32 << 10
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_MEDIA = "application/vnd.oci.image."


@dataclass(frozen=True, slots=True)
class ImageCorpus:
    """An image as two layouts. ``entries nbytes`` are of all its layers' tars; ``visible`` is what they show.

    ``piled_entries piled_nbytes``: of a tree for each layer with all that is below it, nothing hidden.

    ``zstd`` is empty where there is no twin, ``visible`` 0 where nobody knows yet. ``given``: not one of ours, so that a
    peer that knows no layers may stumble.
    """

    source: str
    layers: int
    entries: int
    nbytes: int
    visible: int
    gzip: str
    zstd: str
    given: bool = False
    piled_entries: int = 0
    piled_nbytes: int = 0

    def layout(self, codec: str) -> Path:
        """Return the directory of the ``"gzip"`` or the ``"zstd"`` layout."""
        return Path(_split(self.gzip if codec == "gzip" else self.zstd)[0])

    def facts(self) -> dict[str, Any]:
        """Return what a report says of it."""
        found: dict[str, Any] = {
            "source": self.source, "layers": self.layers, "entries": self.entries, "bytes": self.nbytes,
            "visible": self.visible,
        }  # fmt: skip
        for codec, ref, encoder in (("gzip", self.gzip, GZIP), ("zstd", self.zstd, ZSTD)):
            if ref:
                nbytes = sum(path.stat().st_size for path, _ in blobs_of(ref))
                found[codec] = {"bytes": nbytes, "encoder": "as given" if self.given else encoder}
        return found


def image_corpus(home: Path, *, quick: bool) -> ImageCorpus:
    """Have an image made in ``home``, of this machine's /usr, or a small synthetic one when ``quick``."""
    sample = in_python("make-image", home, "small" if quick else "large")
    return ImageCorpus(**sample.facts)


def copied_corpus(home: Path) -> ImageCorpus:
    """Have an image made in ``home`` of which a whole copy for each layer fits into a few GiB."""
    home.mkdir()
    return ImageCorpus(**in_python("make-image", home, "middle").facts)


def piled(sizes: Iterable[int]) -> int:
    """Return the sum of what a pile has after each of ``sizes`` was put upon it."""
    return sum(accumulate(sizes))


def given_image(home: Path, gzip: str, zstd: str = "") -> ImageCorpus:
    """Return the corpus of a given image, ``DIR[:TAG]`` or ``oci:DIR[:TAG]``, copied to ``home``, and of its zstd twin."""
    refs = []
    for codec, ref in (("gzip", gzip), ("zstd", zstd)):
        if ref:
            folder, tag = _split(ref)
            run("cp", "-rL", folder, str(home / codec))
            refs.append(f"oci:{home / codec}:{tag or _only_tag(home / codec)}")
    sample = in_python("count-image", refs[0])
    facts: dict[str, Any] = {"source": Path(_split(gzip)[0]).name, "visible": 0, "gzip": refs[0], "zstd": "".join(refs[1:])}
    return ImageCorpus(**sample.facts, **facts, given=True)


def _split(ref: str) -> tuple[str, str]:
    folder, _, tag = ref.removeprefix("oci:").partition(":")
    return folder, tag


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise MeasureError(f"no OCI layout: {error}") from None
    return found


def _only_tag(layout: Path) -> str:
    tags = [_name(manifest) for manifest in _json(layout / "index.json")["manifests"]]
    if len(tags) != 1 or not tags[0]:
        raise MeasureError(f"{layout.name}: which image? It has {', '.join(map(str, tags))}")
    return str(tags[0])


def blobs_of(ref: str) -> list[tuple[Path, str]]:
    """Return path and media type of the layers of the image ``oci:DIR:TAG``, the lowest first."""
    folder, tag = _split(ref)
    layout = Path(folder)
    found = [manifest for manifest in _json(layout / "index.json")["manifests"] if _name(manifest) == tag]
    if not found:
        raise MeasureError(f"{layout.name}: no image {tag!r}")
    manifest = _json(_blob(layout, found[0]["digest"]))
    if "layers" not in manifest:
        raise MeasureError(f"{layout.name}: {tag!r} is no single image")
    return [(_blob(layout, layer["digest"]), layer["mediaType"]) for layer in manifest["layers"]]


def _name(manifest: dict[str, Any]) -> Any:
    return manifest.get("annotations", {}).get(_REF_NAME)


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def make_image(home: Path, *, quick: bool, base: Sequence[Item] | None = None) -> dict[str, Any]:
    """Make the image in ``home`` and return its facts; ``base`` instead of this machine's files."""
    source, items = _base(quick=quick) if base is None else ("given", list(base))
    plan = Plan(items, big_nbytes=QUICK_BIG if quick else BIG)
    pool = Pool(LARGE.seed)
    entries: list[int] = []
    with ThreadPoolExecutor(2) as threads:
        jobs = []
        for number, layer in enumerate(plan.layers()):
            entries.append(len(layer))
            jobs.append(threads.submit(_pack, home, number, layer, pool))
        packed = [job.result() for job in jobs]
    refs = {codec: _write_layout(home, codec, packed) for codec in ("gzip", "zstd")}
    nbytes = [int(one["nbytes"]) for one in packed]
    return asdict(ImageCorpus(
        source, N_LAYERS, sum(entries), sum(nbytes), len(plan.visible), refs["gzip"], refs["zstd"],
        piled_entries=piled(entries), piled_nbytes=piled(nbytes),
    ))  # fmt: skip


def _base(*, quick: bool) -> tuple[str, list[Item]]:
    found = [] if quick else [item for source in SOURCES for item in _walk(*source)]
    if len(found) >= FEW:
        return " and ".join(path for path, *_ in SOURCES), found
    layer = SMALL if quick else LARGE
    return f"synthetic, seed {layer.seed}", synthetic_base(layer)


def synthetic_base(layer: Synthetic) -> list[Item]:
    """Return the entries of ``layer`` but for its hard links, below ``srv``."""
    return [
        Item(f"srv/{m.path.decode()}", m.kind.decode(), m.mode, nbytes=m.nbytes, link=m.link.decode(), member=m)
        for m in layer.members() if m.kind != b"1"
    ]  # fmt: skip


def _walk(top: str, most_entries: int, most_nbytes: int) -> Iterator[Item]:
    """Yield directories, files and symlinks below ``top`` and itself, sorted, until there are enough."""
    todo = [top]
    while todo and most_entries and most_nbytes > 0:
        path = todo.pop()
        try:
            path.encode()
            is_whiteout = os.path.basename(path).startswith(".wh.")
            found = os.lstat(path)
            item = None if is_whiteout else _item(path, found)
            if item is not None and item.kind == "5":
                todo += sorted((f"{path}/{name}" for name in os.listdir(path)), reverse=True)
        except (OSError, UnicodeError):  # gone, not ours to read, or a name that not all peers spell alike
            continue
        if item is not None:
            most_entries, most_nbytes = most_entries - 1, most_nbytes - item.nbytes
            yield item


def _item(path: str, found: os.stat_result) -> Item | None:
    about = path[1:], stat.S_IMODE(found.st_mode), (found.st_uid, found.st_gid), int(found.st_mtime)
    name, mode, owner, mtime = about
    if stat.S_ISDIR(found.st_mode):
        return Item(name, "5", mode, owner, mtime)
    if stat.S_ISLNK(found.st_mode):
        return Item(name, "2", 0o777, owner, mtime, link=os.readlink(path))
    if stat.S_ISREG(found.st_mode) and found.st_size <= LARGEST and os.access(path, os.R_OK):
        return Item(name, "0", mode, owner, mtime, found.st_size, source=path)
    return None


def _pack(home: Path, number: int, layer: list[Item], pool: Pool) -> dict[str, Any]:
    """Write one layer in its spellings and return their digests and sizes."""
    tar = home / f"layer-{number}.tar"
    with tar.open("wb") as out:
        for item in layer:
            _write(item, out, pool)
        out.write(bytes(1024))
    made: dict[str, Any] = {"nbytes": tar.stat().st_size, "diff_id": _sha256(tar)}
    for codec, pack in (("gzip", deflate), ("zstd", pack_zstd)):
        blob = home / f"layer-{number}.{codec}"
        pack(tar, blob)
        made[codec] = {"digest": _sha256(blob), "size": blob.stat().st_size, "path": blob}
    tar.unlink()
    return made


def _write(item: Item, out: BinaryIO, pool: Pool) -> None:
    """Write an entry as pax interchange does it (POSIX.1-2001)."""
    header = tarfile.TarInfo(item.path)
    header.type, header.mode, header.mtime, header.linkname = item.kind.encode(), item.mode, item.mtime, item.link
    header.uid, header.gid = item.owner
    header.size = item.nbytes if item.kind == "0" else 0
    out.write(header.tobuf(tarfile.PAX_FORMAT))
    left = header.size
    for piece in _content(item, pool) if left else ():
        out.write(piece[:left])
        left = max(0, left - len(piece))
    out.write(bytes(left + -header.size % 512))  # a file that shrank as we read it


def _content(item: Item, pool: Pool) -> Iterator[bytes]:
    if item.big:
        for at in range(0, item.big, 2 * _NOISE):
            noise = hashlib.shake_256(b"%d" % at).digest(_NOISE)
            yield noise
            yield noise[:4096][::-1] * (_NOISE // 4096) if item.edit and at == item.big // 2 else bytes(_NOISE)
        return
    if item.edit:
        yield EDIT % item.edit
    if item.member is not None:
        yield from pool.pieces(item.member)
    elif item.source:
        with open(item.source, "rb") as file:
            while piece := file.read(1 << 20):
                yield piece


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_layout(home: Path, codec: str, packed: list[dict[str, Any]]) -> str:
    """Move the blobs of ``codec`` into an OCI layout (image-spec 1.1) and return its reference."""
    layout = home / codec
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def document(media_type: str, fields: dict[str, Any]) -> dict[str, Any]:
        data = json.dumps(fields).encode()
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": f"{_MEDIA}{media_type}", "digest": f"sha256:{digest}", "size": len(data)}

    layers = []
    for one in packed:
        made = one[codec]
        made["path"].rename(blobs / made["digest"])
        media_type = f"{_MEDIA}layer.v1.tar+{codec}"
        layers.append({"mediaType": media_type, "digest": f"sha256:{made['digest']}", "size": made["size"]})
    machine = platform.machine()
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{one['diff_id']}" for one in packed]}
    history = [{"created": "2023-11-14T22:13:20Z", "created_by": f"layer {number}"} for number in range(len(packed))]
    about = {"architecture": _MACHINES.get(machine, machine), "os": "linux", "config": {}, "rootfs": rootfs, "history": history}
    config = document("config.v1+json", about)
    manifest = document("manifest.v1+json", {"schemaVersion": 2, "config": config, "layers": layers})
    manifest["annotations"] = {_REF_NAME: TAG}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    (layout / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
    return f"oci:{layout}:{TAG}"
