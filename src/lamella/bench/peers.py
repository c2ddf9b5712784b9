"""The programs and packages that are compared with: whether they are here, their versions, what they leave out."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import re
import subprocess
from dataclasses import dataclass

from lamella.bench.measure import program

__all__ = ["LIBRARIES", "NONE", "PEERS", "TOOLS", "Peer", "absent", "versions"]

_VERSION = re.compile(r"\d+\.\d+[\w.+~-]*")


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer: a Debian ``package`` with the ``program`` it is found by, or a PyPI package (``program`` empty)."""

    name: str
    package: str
    program: str = ""
    flag: str = "--version"
    leaves_out: str = ""

    @property
    def is_here(self) -> bool:
        """Tell whether it can be run."""
        return bool(program(self.program)) if self.program else importlib.util.find_spec(self.package) is not None

    @property
    def version(self) -> str:
        """Return the version it states of itself."""
        if not self.program:
            return importlib.metadata.version(self.package)
        argv = [program(self.program) or self.program, self.flag]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        match = _VERSION.search(done.stdout or done.stderr)
        return match[0] if match else "unknown"

    @property
    def source(self) -> str:
        """Say where it is to be had."""
        return f"Debian package {self.package}" if self.program else f"PyPI package {self.package}"


NONE = "digests, whiteouts, confinement"
PEERS: tuple[Peer, ...] = (
    Peer("GNU tar", "tar", "tar", leaves_out=NONE),
    Peer("bsdtar", "libarchive-tools", "bsdtar", leaves_out=NONE),
    Peer("umoci", "umoci", "umoci", leaves_out="nothing"),
    Peer("igzip", "isal", "igzip"),
    Peer("zstd", "zstd", "zstd"),
    Peer("rsync", "rsync", "rsync"),
    Peer("skopeo", "skopeo", "skopeo"),
    Peer("ctr", "containerd", "ctr"),
    Peer("containerd", "containerd", "containerd"),
    Peer("dockerd", "docker.io", "dockerd"),
    Peer("thin_check", "thin-provisioning-tools", "thin_check", "-V"),
    Peer("docker-squash", "docker_squash"),
    Peer("oci-squash", "oci_squash"),
    Peer("thin-provisioning-tools", "thin-provisioning-tools", "thin_check", leaves_out="counts of data blocks"),
    Peer("fastar", "fastar", leaves_out=f"owners, set-id bits, xattrs, {NONE}"),
)
# what a run works with besides; an ext4's own are asked for where it is made (ground.py)
TOOLS: tuple[Peer, ...] = (
    Peer("strace", "strace", "strace"),
    Peer("mount", "mount", "mount"),
    Peer("unshare", "util-linux", "unshare"),
    Peer("cp", "coreutils", "cp"),
    Peer("rm", "coreutils", "rm"),
)
TARFILE_LEAVES_OUT = f"xattrs, {NONE}"
LIBRARIES = ("isal", "zlib-ng", "zstandard", "numpy", "xxhash")


def absent() -> list[str]:
    """Name every peer and tool that is not here, and where it is to be had; empty when all are."""
    return [f"{peer.name} ({peer.source})" for peer in (*PEERS, *TOOLS) if not peer.is_here]


def versions() -> dict[str, str]:
    """Return the version of each peer and tool by name; CPython's tarfile and zlib have the interpreter's."""
    found = {peer.name: peer.version for peer in (*PEERS, *TOOLS) if peer.package != "coreutils"}
    return {**found, "tarfile": platform.python_version()}


def libraries() -> dict[str, str]:
    """Return the versions of the libraries that the engine stands on, where they are installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # isal or zlib-ng, by architecture
            continue
    return found
