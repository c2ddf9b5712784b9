"""Jobs of :mod:`lamella.bench.child` about whole images: ours, and those of peers that must be kept to themselves.

A peer's job runs in namespaces of its own (:func:`lamella.bench.measure.alone`) and may write on the file system that is
measured and nowhere else: an image may hold symlinks to anywhere, and some peers follow them.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["IMAGE_JOBS"]

Facts = dict[str, Any]
Call = Callable[[], Facts]
_SYS_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _RDONLY = 442, -100, 0x8000, 1  # mount_setattr(2), Linux 5.12


def _unpack(ref: str, root: str) -> Call:
    from lamella import open_image  # noqa: PLC0415  (each job imports its own things, and no other's)

    def call() -> Facts:
        with open_image(ref) as image:
            done = image.unpack(root)
        return {"entries": done.entries, "files": done.files, "written": done.bytes_written, "warnings": len(done.warnings)}

    return call


def _squash(ref: str, out: str) -> Call:
    from lamella import open_image  # noqa: PLC0415

    def call() -> Facts:
        with open_image(ref) as image:
            squashed = image.squash()
            squashed.save(f"oci:{out}:squashed")
        return {"layers": len(squashed.layers), "nbytes": sum(layer.size or 0 for layer in squashed.layers)}

    return call


def _pipes(folder: str, status: str, words: str) -> Call:
    from lamella.bench.measure import pipe  # noqa: PLC0415

    _write_only_to(folder)

    def call() -> Facts:
        taken = [pipe(*stages, status=int(status)) for stages in json.loads(words)]
        wall, cpu = sum(one.wall for one in taken), sum(one.cpu for one in taken)
        return {"wall": wall, "cpu": cpu, "rss": max(one.rss for one in taken)}

    return call


def _tarfile_unpack(folder: str, strict: str, *layers: str) -> Call:
    import tarfile  # noqa: PLC0415

    _write_only_to(folder)

    def call() -> Facts:
        for layer in layers:
            with tarfile.open(layer, "r:gz", errorlevel=1 if strict == "1" else 0) as tar:
                tar.extractall(f"{folder}/root", numeric_owner=True, filter="fully_trusted")  # noqa: S202  (kept to its own ground)
        return {}

    return call


def _store_import(folder: str, ref: str, driver: str) -> Call:
    import lamella  # noqa: PLC0415
    from lamella.tree.root import sync_tree  # noqa: PLC0415

    def call() -> Facts:
        with lamella.Store(f"{folder}/store", driver=driver) as store:
            name = store.import_image(ref)
            kind = store.choice.driver
        sync_tree(folder)
        return {"name": name, "snapshots": sum(path.name.isdecimal() for path in Path(folder, "store", kind).iterdir())}

    return call


def _ctr_import(folder: str, archive: str, snapshotter: str = "overlayfs", sync: str = "") -> Call:
    from lamella.bench.daemons import Containerd  # noqa: PLC0415
    from lamella.bench.measure import pipe  # noqa: PLC0415

    _write_only_to(folder)
    daemon = Containerd(Path(folder))

    def call() -> Facts:
        taken = daemon.facts(pipe([*daemon.client, "images", "import", "--snapshotter", snapshotter, archive]))
        if sync:
            more = pipe(["sync", "-f", folder])
            taken |= {"wall": taken["wall"] + more.wall, "cpu": taken["cpu"] + more.cpu}
        return taken

    return call


def _oci_squash(folder: str, archive: str, out: str) -> Call:
    from oci_squash.cli import run  # noqa: PLC0415

    _write_only_to(folder)
    sys.argv = ["oci-squash", "--output-path", out, "--tag", "squashed:latest", archive]

    def call() -> Facts:
        run()
        return {"nbytes": os.stat(out).st_size}

    return call


def _docker_squash(folder: str, ref: str, out: str) -> Call:
    from docker_squash.cli import CLI  # noqa: PLC0415

    from lamella.bench.daemons import Dockerd  # noqa: PLC0415
    from lamella.bench.measure import pipe  # noqa: PLC0415

    _write_only_to(folder)
    daemon = Dockerd(Path(folder))
    os.environ["DOCKER_HOST"] = daemon.address
    pipe(["skopeo", "--insecure-policy", "copy", "-q", "--dest-daemon-host", daemon.address, ref, "docker-daemon:bench:latest"])
    sys.argv = ["docker-squash", "--output-path", out, "--load-image", "false", "--tag", "squashed:latest", "bench:latest"]
    cpu = daemon.cpu()

    def call() -> Facts:
        CLI().run()
        return {"nbytes": os.stat(out).st_size, "daemon": daemon.cpu() - cpu, "daemon_rss": daemon.rss()}

    return call


def _make_image(home: str, size: str) -> Call:
    from lamella.bench.image_corpus import MIDDLE, make_image, synthetic_base  # noqa: PLC0415

    return lambda: make_image(Path(home), quick=size != "large", base=synthetic_base(MIDDLE) if size == "middle" else None)


def _count_image(ref: str) -> Call:
    from lamella import open_image  # noqa: PLC0415
    from lamella.bench.image_corpus import piled  # noqa: PLC0415

    def call() -> Facts:
        entries: list[int] = []
        nbytes: list[int] = []
        with open_image(ref) as image:
            for layer in image.layers:
                with layer.reader() as reader:
                    entries.append(len(reader.table()))
                    nbytes.append(reader.uncompressed_size or 0)
        return {
            "layers": len(entries), "entries": sum(entries), "nbytes": sum(nbytes),
            "piled_entries": piled(entries), "piled_nbytes": piled(nbytes),
        }  # fmt: skip

    return call


def _upper_make(home: str, name: str, n_changes: str, features: str) -> Call:
    from lamella.bench.uppers import make_upper  # noqa: PLC0415

    return lambda: make_upper(Path(home), name, int(n_changes), features=features)


def _upper(upper: str, lower: str, repeats: str) -> Call:
    from lamella.bench.uppers import time_upper  # noqa: PLC0415

    return lambda: time_upper(upper, lower, int(repeats))


IMAGE_JOBS: dict[str, Callable[..., Call]] = {
    "count-image": _count_image,
    "ctr-import": _ctr_import,
    "docker-squash": _docker_squash,
    "make-image": _make_image,
    "make-upper": _upper_make,
    "oci-squash": _oci_squash,
    "pipes": _pipes,
    "squash": _squash,
    "store-import": _store_import,
    "tarfile-unpack": _tarfile_unpack,
    "unpack": _unpack,
    "upper": _upper,
}


def _write_only_to(folder: str) -> None:
    """Make everything read-only for this mount namespace but the file system ``folder`` is on; temporary files go there."""
    mount = Path(folder).absolute()
    while not mount.is_mount():
        mount = mount.parent
    if mount == Path("/"):
        raise OSError(f"{folder} is on the root file system")
    _set_mount("/", _AT_RECURSIVE, add=_RDONLY)
    _set_mount(str(mount), 0, remove=_RDONLY)
    scratch = Path(folder) / "scratch"
    scratch.mkdir()
    os.environ["TMPDIR"] = str(scratch)


def _set_mount(path: str, flags: int, *, add: int = 0, remove: int = 0) -> None:
    attributes = struct.pack("=4Q", add, remove, 0, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_SYS_MOUNT_SETATTR, _AT_FDCWD, os.fsencode(path), flags, attributes, len(attributes)) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
