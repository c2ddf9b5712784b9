"""Docker archives made by hand, with the standard library alone: what the reader has to cope with."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.image.layouts import sha256, tar_of

BASE = tar_of({"a": b"one\n", "gone": b"x"})
UPPER = tar_of({"d": None, "d/b": b"two\n", ".wh.gone": b""})


@dataclass
class Members:
    """Members of a tar in the order they will have; a second one of a name is kept."""

    items: list[tuple[tarfile.TarInfo, bytes]] = field(default_factory=list)

    def add(self, name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = "") -> Members:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, target, len(data) if kind == tarfile.REGTYPE else 0
        self.items.append((info, data))
        return self

    def symlink(self, name: str, target: str) -> Members:
        return self.add(name, kind=tarfile.SYMTYPE, target=target)

    def document(self, name: str, value: Any) -> Members:
        return self.add(name, json.dumps(value).encode())

    def data(self) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for info, data in self.items:
                tar.addfile(info, io.BytesIO(data))
        return out.getvalue()

    def write(self, path: Path) -> Path:
        path.write_bytes(self.data())
        return path


def config_of(*tars: bytes, **more: Any) -> bytes:
    diff_ids = [sha256(tar) for tar in tars]
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    return json.dumps(config | more).encode()


def item(config: bytes, layers: list[str], tags: list[str] | None = None) -> dict[str, Any]:
    return {"Config": f"{sha256(config)[7:]}.json", "RepoTags": tags, "Layers": layers}


def archive(*tars: bytes, tags: list[str] | None = None, blobs: list[bytes] | None = None) -> Members:
    """Make an archive of one image as skopeo writes it: a file a layer, named by its diff_id."""
    made = Members()
    names = [f"{sha256(tar)[7:]}.tar" for tar in tars]
    for name, blob in zip(names, blobs or tars, strict=True):
        made.add(name, blob)
    config = config_of(*tars)
    made.add(f"{sha256(config)[7:]}.json", config)
    return made.document("manifest.json", [item(config, names, tags)])


def old_archive(*tars: bytes, names: tuple[str, str] = ("app", "old")) -> Members:
    """Make an archive of Docker before 1.10: ``repositories`` and a folder a layer."""
    made, parent = Members(), None
    for i, tar in enumerate(tars):
        ident = f"{i + 1:064x}"
        container = {"Cmd": ["/bin/sh", "-c", f"step {i}"]}
        document = {"id": ident, "created": f"2014-01-0{i + 1}T00:00:00Z", "container_config": container, "Size": 1}
        document |= {"architecture": "amd64", "os": "linux", "config": {"Env": ["A=b"]}, "author": "me"}
        made.document(f"{ident}/json", document | ({"parent": parent} if parent else {}))
        made.add(f"{ident}/VERSION", b"1.0").add(f"{ident}/layer.tar", tar)
        parent = ident
    return made.document("repositories", {names[0]: {names[1]: parent}})
