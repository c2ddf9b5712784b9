"""The machine that a run ran on, and who else used it meanwhile."""

from __future__ import annotations

import os
import platform
import resource
import time
from pathlib import Path
from typing import Any, Self

import lamella

__all__ = ["Watch", "build", "describe", "high_water", "load"]

_TICK = os.sysconf("SC_CLK_TCK")
_KTHREADD = "2"


def describe() -> dict[str, Any]:
    """Return the processor, number of cores, memory, kernel and Python of this machine."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": pages,
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "architecture": platform.machine(),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model", "cpu"):
            return value.strip()
    return platform.machine()


def build() -> str:
    """Say which build is measured: an installed "wheel" holds no sources of kernels, a "source tree" does."""
    return "source tree" if any(Path(lamella.__file__).parent.glob("_kernels/*.pyx")) else "wheel"


def load() -> list[float]:
    """Return the load averages over 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def high_water(pid: int | str = "self") -> int:
    """Return the peak of a process's resident memory, in bytes (proc(5), VmHWM: since its exec)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no VmHWM in /proc/{pid}/status")


class Watch:
    """Tell how much of a CPU others used while a block ran; a context manager.

    Others: what /proc/stat counts as busy or stolen, less this process, its children that ended, and the kernel's own
    threads (a loop device and write-back work for whoever is measured). ``share`` is in CPUs, 0.1 is a tenth of one. Ticks
    are 10 ms, so what three of them could explain is nobody.
    """

    def __enter__(self) -> Self:
        self.share = 0.0
        self._begin = time.perf_counter(), _others()
        return self

    def __exit__(self, *_: object) -> None:
        wall = time.perf_counter() - self._begin[0]
        used = _others() - self._begin[1]
        self.share = max(0.0, used - 3 / _TICK) / wall


def _others() -> float:
    own = sum(use.ru_utime + use.ru_stime for use in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
    return _busy() - own - _kernel_threads()


def _busy() -> float:
    with open("/proc/stat") as file:
        user, nice, system, _idle, _iowait, _irq, _softirq, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + steal) / _TICK


def _kernel_threads() -> float:
    ticks = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            if fields[1] == _KTHREADD:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICK
