"""Threads that an interrupt neither kills nor leaves behind."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from lamella.stream.ring import Cancelled

__all__ = ["Worker", "on_own_thread"]

T = TypeVar("T")


class Worker(threading.Thread):
    """A daemon thread that runs ``work`` and reports its exception to ``failed`` instead of the terminal."""

    def __init__(self, name: str, work: Callable[[], None], failed: Callable[[BaseException], None]) -> None:
        super().__init__(name=f"lamella-{name}", daemon=True)
        self._work = work
        self._failed = failed
        self._launched = False
        self._over = threading.Lock()  # held while the work is not over

    def start(self) -> None:
        """Start, once; this thread's signals wait meanwhile, and do not concern the new one.

        An interrupt in the middle of ``Thread.start`` can kill the new thread before its first line: both share a lock
        that an interrupted waiter releases for the other.
        """
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            self._over.acquire()
            self._launched = True
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def over(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds, and tell whether it is over, or never came to life.

        An interrupted ``Thread.join`` takes a thread that runs for one that has ended, up to Python 3.12.
        """
        if not self._launched:
            return True
        if not self._over.acquire(timeout=timeout):
            return not self.is_alive()
        self._over.release()
        self.join()
        return True

    def wait(self) -> None:
        """Wait until it is over; nothing to wait for where it never came to life."""
        while not self.over(1.0):
            pass

    def run(self) -> None:
        """Run the work; called by the interpreter."""
        try:
            self._work()
        except Cancelled:
            return
        except BaseException as error:  # noqa: BLE001 - it is raised again in the caller's thread
            self._failed(error)
        finally:
            del self._work, self._failed  # they hold the ring and its buffers
            self._over.release()


def on_own_thread(
    name: str, work: Callable[[], T], *, stop: Callable[[], None] | None = None, report: Callable[[], None] | None = None
) -> T:
    """Run ``work`` in a thread that is nobody else's, and return its result or raise its error.

    The thread may have a umask and a working directory of its own. ``report`` is called ten times a second meanwhile, and at
    the end. An interrupt, or an error of ``report``, calls ``stop`` and is raised once the thread has ended.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again below
            done.set_exception(error)

    worker = Worker(name, run, done.set_exception)
    try:
        worker.start()
        ended = False
        while not ended:
            ended = worker.over(0.1 if report else 1.0)
            if report:
                report()
    except BaseException:
        if stop:
            stop()
        worker.wait()
        raise
    return done.result()
