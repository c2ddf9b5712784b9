"""The thread that places, and those that help it to write files."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from lamella._kernels import confine, place
from lamella.stream.worker import on_own_thread

__all__ = ["Crew", "n_placing", "run_placing"]


def n_placing(workers: int | None) -> int:
    """Return how many threads place: ``workers``, or two where two processors are there for them."""
    return workers or min(2, len(os.sched_getaffinity(0)))


class Crew:
    """``n`` threads that serve ``batch`` while the context lasts; an error of theirs is raised at its end."""

    def __init__(self, n: int) -> None:
        self.batch = place.Batch() if n else None
        self._error: BaseException | None = None
        self._threads = [threading.Thread(target=self._serve, name=f"lamella-place-{i + 2}") for i in range(n)]

    def _serve(self) -> None:
        try:
            confine.private_umask()
            if self.batch is not None:
                self.batch.serve()
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            self._error = error

    def __enter__(self) -> Self:
        started: list[threading.Thread] = []
        try:
            for thread in self._threads:
                thread.start()
                started.append(thread)
        except BaseException:
            self._threads = started
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._end()
        if self._error is not None and error is None:
            raise self._error

    def _end(self) -> None:
        if self.batch is not None:
            self.batch.stop()
        for thread in self._threads:
            thread.join()


def run_placing(work: Callable[[], None], stop: Callable[[], None], report: Callable[[], None] | None) -> None:
    """Run ``work`` in a thread with a umask and working directory of its own; see :func:`on_own_thread`."""

    def run() -> None:
        confine.private_umask()
        work()

    on_own_thread("place", run, stop=stop, report=report)
