"""OCI image layouts made by hand, with the standard library alone: what the reader has to cope with."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LAYER = "application/vnd.oci.image.layer.v1.tar"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
REF_NAME = "org.opencontainers.image.ref.name"


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def tar_of(files: dict[str, bytes | None]) -> bytes:
    """Make a tar of files (None: a directory), every header the same but for name and size."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.mode = 0o644 if data is not None else 0o755
            info.type = tarfile.REGTYPE if data is not None else tarfile.DIRTYPE
            info.size = len(data or b"")
            tar.addfile(info, io.BytesIO(data or b""))
    return out.getvalue()


@dataclass
class HandMade:
    """A layout in ``path`` whose every document can be bent before it is written."""

    path: Path
    tars: list[bytes] = field(default_factory=lambda: [tar_of({"a": b"one\n"}), tar_of({"d": None, "d/b": b"two\n"})])
    media_type: str = LAYER + "+gzip"
    config: dict[str, Any] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)
    blobs: list[bytes] = field(default_factory=list)

    def write(self, tag: str | None = "latest") -> HandMade:
        """Write an image; a second call adds another one to the index."""
        self.path.mkdir(exist_ok=True)
        (self.path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        compress = (lambda data: gzip.compress(data, mtime=0)) if self.media_type.endswith("gzip") else bytes
        self.blobs = [compress(tar) for tar in self.tars]
        layers = [self.blob(blob) | {"mediaType": self.media_type} for blob in self.blobs]
        diff_ids = [sha256(tar) for tar in self.tars]
        config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
        stored = self.document(config | self.config, CONFIG)
        manifest = {"schemaVersion": 2, "config": stored, "layers": layers} | self.manifest
        self.list(self.document(manifest, MANIFEST), tag)
        return self

    def blob(self, data: bytes) -> dict[str, Any]:
        """Store ``data``; return the rest of its descriptor."""
        digest = sha256(data)
        (self.path / "blobs/sha256").mkdir(parents=True, exist_ok=True)
        (self.path / "blobs/sha256" / digest[7:]).write_bytes(data)
        return {"digest": digest, "size": len(data)}

    def document(self, value: Any, media_type: str) -> dict[str, Any]:
        return {"mediaType": media_type} | self.blob(json.dumps(value).encode())

    def list(self, descriptor: dict[str, Any], tag: str | None) -> None:
        """Add a descriptor to the index."""
        index_path = self.path / "index.json"
        index = json.loads(index_path.read_text()) if index_path.exists() else {"schemaVersion": 2, "manifests": []}
        named = descriptor | ({"annotations": {REF_NAME: tag}} if tag else {})
        index["manifests"].append(named)
        index_path.write_text(json.dumps(index))

    def stored(self, digest: str) -> Path:
        return self.path / "blobs/sha256" / digest.removeprefix("sha256:")

    @property
    def reference(self) -> str:
        return f"oci:{self.path}"
