"""What a measurement is, and the two ways to take one: a job in a fresh interpreter, a pipe of programs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lamella.bench.machine import Watch, high_water
from lamella.errors import LamellaError

__all__ = ["MeasureError", "Sample", "Taken", "alone", "in_python", "pipe", "program", "programs", "traced"]

SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


class MeasureError(LamellaError):
    """A contender failed, or did not do what it was measured for."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement. ``wall cpu`` in seconds, CPU is user + system of all threads and children.

    ``rss`` is the peak in bytes: of a job its own interpreter's (``floor``: before the job ran), of programs the largest
    one's, which is never below the peak of the process that started them (``floor``). ``others``: CPUs that others used
    meanwhile.
    """

    wall: float
    cpu: float
    rss: int
    floor: int = 0
    others: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)


def program(name: str) -> str | None:
    """Find ``name`` on PATH or in the administrator's folders; None where there is none."""
    return shutil.which(name) or shutil.which(name, path=SBIN)


# everything that is started in it ends with it, and its mounts are its own
ALONE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private")


def alone(job: str, *arguments: object) -> Sample:
    """Run a job as :func:`in_python` does, in mount and process namespaces of its own; root only.

    What the job tells in ``facts`` of ``wall``, ``cpu`` and ``rss`` takes the place of the interpreter's own.
    """
    path = program(ALONE[0])
    if path is None:
        raise MeasureError(f"{ALONE[0]} is not installed")
    if os.geteuid() != 0:
        raise MeasureError("namespaces of our own need root")
    sample = in_python(job, *arguments, prefix=[path, *ALONE[1:]])
    told = {name: sample.facts[name] for name in ("wall", "cpu", "rss") if name in sample.facts}
    return replace(sample, **told)


def in_python(job: str, *arguments: object, prefix: Sequence[str] = ()) -> Sample:
    """Run a job of :mod:`lamella.bench.child` in a fresh interpreter; ``prefix`` is a program to run it under."""
    argv = [*prefix, sys.executable, "-m", "lamella.bench.child", job, *map(str, arguments)]
    with Watch() as watch:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MeasureError(f"{job}: {_last_line(done.stderr) or f'exit status {done.returncode}'}")
    return Sample(**json.loads(done.stdout.splitlines()[-1]), others=watch.share)


def programs(*stages: Sequence[str]) -> Sample:
    """Run programs as a pipe, the last one's output dropped: wall time from before the first starts until all have ended."""
    with Watch() as watch:
        taken = pipe(*stages)
    return Sample(taken.wall, taken.cpu, taken.rss, high_water(), watch.share)


@dataclass(frozen=True, slots=True)
class Taken:
    """What a pipe of programs took: seconds, and the largest one's peak in bytes."""

    wall: float
    cpu: float
    rss: int


def pipe(*stages: Sequence[str], status: int = 0) -> Taken:
    """Run programs as a pipe and tell what they took; MeasureError for one that ends with more than ``status``."""
    with open(os.memfd_create("complaints"), "w+b") as complaints:
        wall = time.perf_counter()
        started = _start(stages, complaints)
        ended = _ends(started)
        wall = time.perf_counter() - wall
        for process, (_, code, _) in zip(started, ended, strict=True):
            process.returncode = os.waitstatus_to_exitcode(code)
        complaints.seek(0)
        text = complaints.read().decode("utf-8", "replace")
    for process, argv in zip(started, stages, strict=True):
        if not 0 <= process.returncode <= status:
            raise MeasureError(f"{argv[0]}: {_last_line(text) or f'exit status {process.returncode}'}")
    uses = [use for _, _, use in ended]
    return Taken(wall, sum(use.ru_utime + use.ru_stime for use in uses), max(use.ru_maxrss for use in uses) * 1024)


def _ends(started: list[subprocess.Popen[bytes]]) -> list[tuple[int, int, Any]]:
    try:
        return [os.wait4(process.pid, 0) for process in started]
    except BaseException:  # interrupted: nobody goes on writing where we clean up
        for process in started:
            process.kill()
            process.wait()
        raise


def _start(stages: Sequence[Sequence[str]], complaints: Any) -> list[subprocess.Popen[bytes]]:
    started: list[subprocess.Popen[bytes]] = []
    source: Any = subprocess.DEVNULL
    for at, (name, *arguments) in enumerate(stages):
        path = program(name)
        if path is None:
            raise MeasureError(f"{name} is not installed")
        out = subprocess.DEVNULL if at + 1 == len(stages) else subprocess.PIPE
        started.append(subprocess.Popen([path, *arguments], stdin=source, stdout=out, stderr=complaints))
        if source not in (None, subprocess.DEVNULL):
            source.close()
        source = started[-1].stdout
    return started


def traced(job: str, *arguments: object) -> Sample:
    """Run a job under ``strace -f -c``, the interpreter's start included.

    ``facts["calls"]`` is the number of system calls, ``facts["by_name"]`` that of each.
    """
    path = program("strace")
    if path is None:
        raise MeasureError("strace is not installed")
    with tempfile.NamedTemporaryFile("r") as log:
        sample = in_python(job, *arguments, prefix=[path, "-f", "-c", "-o", log.name])
        rows = [line.split() for line in log.read().splitlines()]
    counts = {row[-1]: int(row[3]) for row in rows if len(row) > 4 and row[3].isdigit()}
    if "total" not in counts:
        raise MeasureError("strace: no totals")
    sample.facts["calls"] = counts.pop("total")
    sample.facts["by_name"] = counts
    return sample


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""
