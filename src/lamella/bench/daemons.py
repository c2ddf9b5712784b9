"""Daemons that peers cannot do without, of our own: below one folder, on a socket in it, without a network.

They are started in namespaces of their own (:func:`lamella.bench.measure.alone`) and end with the job that started them,
with their mounts, however it ends. The kernel does that; nothing has to be asked to stop.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lamella.bench.ground import run
from lamella.bench.measure import SBIN, MeasureError, Taken, program

__all__ = ["Containerd", "Daemon", "Dockerd"]

PATIENCE = 60.0  # seconds until a daemon listens; it takes one or two
_TICK = os.sysconf("SC_CLK_TCK")
_CONTAINERD = """\
version = 2
root = "{folder}/data"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing",
    "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "{folder}/c.sock"
[debug]
  address = ""
"""


class Daemon:
    """A daemon that listens on ``path``; MeasureError where it does not."""

    def __init__(self, argv: Sequence[str], path: Path) -> None:
        found = program(argv[0])
        if found is None:
            raise MeasureError(f"{argv[0]} is not installed")
        self._log = path.with_suffix(".log")
        environment = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:{SBIN}"}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [found, *argv[1:]], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )
        self._wait(argv[0], path)

    def _wait(self, name: str, path: Path) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self._process.poll() is None:
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(str(path)) == 0:
                    return
            time.sleep(0.05)
        lines = self._log.read_text(errors="replace").splitlines()
        raise MeasureError(f"{name} did not start: {lines[-1] if lines else 'it says nothing'}")

    def cpu(self) -> float:
        """Return the CPU seconds that it and what it started used so far."""
        return sum(_seconds(pid) for pid in _family(self._process.pid))

    def rss(self) -> int:
        """Return the largest peak of memory of it and what it started, in bytes."""
        return max(_peak(pid) for pid in _family(self._process.pid))


class Containerd(Daemon):
    """containerd with its overlayfs snapshotter."""

    def __init__(self, folder: Path) -> None:
        config, address = folder / "config.toml", folder / "c.sock"
        config.write_text(_CONTAINERD.format(folder=folder))
        super().__init__(["containerd", "--config", str(config)], address)
        self.client = ("ctr", "--address", str(address))
        self._cpu = self.cpu()

    def facts(self, client: Taken) -> dict[str, Any]:
        """Return what client and daemon took together, since the daemon's start."""
        cpu = self.cpu() - self._cpu
        return {"wall": client.wall, "cpu": client.cpu + cpu, "rss": max(client.rss, self.rss())}


class Dockerd(Daemon):
    """dockerd, with the containerd that it starts; ``address`` for its clients."""

    def __init__(self, folder: Path) -> None:
        path = folder / "d.sock"
        self.address = f"unix://{path}"
        config = folder / "daemon.json"
        config.write_text("{}")
        _own_etc(folder)
        options = {
            "config-file": config, "storage-driver": "overlay2", "data-root": folder / "data", "exec-root": folder / "exec",
            "host": self.address, "pidfile": folder / "pid", "bridge": "none", "iptables": "false", "ip6tables": "false",
            "ip-forward": "false", "ip-masq": "false",
        }  # fmt: skip
        super().__init__(["dockerd", *(f"--{name}={value}" for name, value in options.items())], path)


def _own_etc(folder: Path) -> None:
    """Lay an overlay over /etc: the daemon writes a key there whatever it is told."""
    upper, work = folder / "etc", folder / "etc.work"
    upper.mkdir()
    work.mkdir()
    run("mount", "-t", "overlay", "overlay", "-o", f"lowerdir=/etc,upperdir={upper},workdir={work}", "/etc")


def _family(pid: int) -> list[int]:
    """Return ``pid`` and the processes below it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        threads = [path.name for path in Path(f"/proc/{pid}/task").iterdir() if path.name != str(pid)]
        for thread in threads:
            children += Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
    except OSError:  # it has ended
        return []
    return [pid, *(below for child in children for below in _family(int(child)))]


def _seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICK  # its own and of its children that have ended


def _peak(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
