"""Other programs that make a tree of layers, each as one call: tars in, a directory out."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.image.layouts import HandMade

ENV = {**os.environ, "TZ": "UTC", "LC_ALL": "C.UTF-8"}


class Refused(Exception):
    """The program ended with an error: what it said."""


def run(*argv: str | Path, data: bytes | None = None) -> str:
    """Run a program; Refused when it fails. Return what it said on stderr."""
    done = subprocess.run(argv, input=data, capture_output=True, env=ENV, check=False)
    said = done.stderr.decode(errors="replace")
    if done.returncode != 0:
        raise Refused(said)
    return said


def umoci(where: Path, *tars: bytes) -> Path:
    """Unpack an image of these layers by umoci."""
    image = HandMade(where / "image", tars=list(tars)).write()
    return unpacked_by_umoci(where, image.path)


def unpacked_by_umoci(where: Path, image: Path) -> Path:
    """Unpack an image that is there."""
    run("umoci", "raw", "unpack", *(["--rootless"] if os.geteuid() else []), "--image", f"{image}:latest", where / "umoci")
    return where / "umoci"


def podman(where: Path, *tars: bytes) -> Path:
    """Import an image of these layers into containers-storage, the vfs driver; return the top layer's directory."""
    image = HandMade(where / "image", tars=list(tars)).write()
    return stored_by_podman(where, image.path)


def stored_by_podman(where: Path, image: Path) -> Path:
    """Import an image that is there."""
    root = where / "storage"
    run("skopeo", "--insecure-policy", "copy", "-q", f"oci:{image}:latest",
        f"containers-storage:[vfs@{root}+{where}/run]localhost/name:latest")  # fmt: skip
    (stored,) = json.loads((root / "vfs-images/images.json").read_text())
    return root / "vfs/dir" / stored["layer"]


def gnu_tar(root: Path, tar: bytes, options: Sequence[str] = ()) -> Path:
    """Extract into a directory by GNU tar, metadata and all. (--acls would clear the ACLs that come as attributes.)"""
    root.mkdir(exist_ok=True)
    asked = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "--warning=no-timestamp", *options]
    run("tar", _flag(tar), "-xpf", "-", *asked, "-C", root, data=tar)
    return root


def _flag(tar: bytes) -> str:
    return "-z" if tar[:2] == b"\x1f\x8b" else "--no-auto-compress"  # it cannot look into a pipe


def bsdtar(root: Path, tar: bytes, options: Sequence[str] = ()) -> Path:
    """Extract into a directory by bsdtar, metadata and all.

    Of a name in a pax record that is no UTF-8 it says that it cannot be converted, makes it all the same, and fails.
    """
    root.mkdir(exist_ok=True)
    try:
        run("bsdtar", "-xpf", "-", "--acls", "--xattrs", "--fflags", "--numeric-owner", *options, "-C", root, data=tar)
    except Refused as refused:
        if any("can't be converted" not in line and "Error exit delayed" not in line for line in str(refused).splitlines()):
            raise
    return root
