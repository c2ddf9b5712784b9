"""A Docker daemon of our own: below one folder, on a socket in it, without a network; gone at the end."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import parts

STARTING = 60.0  # seconds; it takes two where nothing else runs
KEY = Path("/etc/docker/key.json")  # the daemon makes it whatever it is told


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("docker", timeout=120)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Daemon:
    """Docker's Engine API at the socket ``path``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def call(self, method: str, url: str, body: Any = None, kind: str = "application/json") -> bytes:
        """Make one call; an error of the daemon's is an AssertionError with its words."""
        connection = _Connection(self._path)
        try:
            connection.request(method, url, body, {"Content-Type": kind})
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        assert answer.status < 400, data.decode()
        return data

    def load(self, archive: Path) -> str:
        """Load a docker-archive; return what the daemon says."""
        with archive.open("rb") as file:
            said = self.call("POST", "/images/load?quiet=1", file, "application/x-tar").decode()
        assert "error" not in said, said
        return said

    def inspect(self, name: str) -> dict[str, Any]:
        """Return what the daemon knows of an image."""
        return json.loads(self.call("GET", f"/images/{name}/json"))

    def save(self, name: str) -> bytes:
        """Return the archive that ``docker save`` writes."""
        return self.call("GET", f"/images/{name}/get")

    def export(self, name: str) -> bytes:
        """Return the file system of a container of an image, which never runs, as a tar."""
        made = json.loads(self.call("POST", "/containers/create", json.dumps({"Image": name, "Cmd": ["/x"]})))
        try:
            return self.call("GET", f"/containers/{made['Id']}/export")
        finally:
            self.call("DELETE", f"/containers/{made['Id']}")


@contextlib.contextmanager
def running(folder: Path, driver: str) -> Iterator[Daemon]:
    """Run a daemon that keeps everything in ``folder``; skip the test where it cannot start."""
    parts.requires("root", "dockerd")
    path = folder / "docker.sock"
    options = {"storage-driver": driver, "data-root": folder / "data", "exec-root": folder / "exec", "host": f"unix://{path}"}
    options |= {"pidfile": folder / "pid", "bridge": "none", "iptables": "false", "ip6tables": "false"}
    options |= {"ip-forward": "false", "ip-masq": "false"}
    argv = [str(parts.program("dockerd")), *(f"--{name}={value}" for name, value in options.items())]
    log, config, had_key = folder / "log", folder / "daemon.json", KEY.exists()
    config.write_text("{}")
    argv.append(f"--config-file={config}")
    env = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:{parts.SBIN}"}
    with log.open("wb") as out:
        daemon = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, start_new_session=True)
    try:
        made = Daemon(path)
        _wait(daemon, made, log)
        yield made
    finally:
        _end(daemon)
        for point in parts.mounts_below(folder):
            parts.run("umount", "-l", point)
        if not had_key:
            KEY.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                KEY.parent.rmdir()


def _wait(daemon: subprocess.Popen[bytes], made: Daemon, log: Path) -> None:
    end = time.monotonic() + STARTING
    while time.monotonic() < end and daemon.poll() is None:
        with contextlib.suppress(OSError):
            made.call("GET", "/_ping")
            return
        time.sleep(0.05)
    lines = log.read_text(errors="replace").splitlines()[-5:]
    pytest.skip(f"requires dockerd: it did not start: {' | '.join(lines)}")


def _end(daemon: subprocess.Popen[bytes]) -> None:
    """Ask it to end, with what it started; then make sure."""
    daemon.terminate()
    try:
        daemon.wait(30)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait(30)
