"""Which of a server's threads receives requests: one at a time, who answers quick ones himself and then receives again.

Threads that wait for requests together are woken in turn, each on a cold processor and with Python's lock to wait for: four
of them took half as long again as one to answer a walk of a tree. So one thread receives, and lets another do it only while
it is busy with what may take long; or when it turns out that it does, which a watch sees that sleeps while nothing is asked.
"""

from __future__ import annotations

from threading import Event, Lock
from time import sleep

__all__ = ["Turns"]

_TICK = 0.02  # seconds between two looks of the watch: who is busy with one request at both has lost his turn
_QUIET = 50  # looks without a request, after which the watch sleeps


class Turns:
    """One thread at a time has the turn."""

    def __init__(self) -> None:
        self._free = Lock()
        self._state = Lock()  # held to say what the request in hand is
        self._request: object | None = None  # in the hands of who has the turn
        self._awake = Event()

    def take(self) -> None:
        """Wait for the turn."""
        self._free.acquire()

    def give(self) -> None:
        """Let another thread have it."""
        self._free.release()

    def begin(self) -> object:
        """Begin to answer a request without giving the turn away."""
        self._request = request = object()
        if not self._awake.is_set():
            self._awake.set()
        return request

    def end(self, request: object) -> bool:
        """Be done with a request, and tell whether the turn is still the caller's."""
        with self._state:
            if self._request is not request:
                return False
            self._request = None
            return True

    def watch(self) -> None:
        """Give the turn away for who takes too long, for ever: for a thread of its own."""
        last: object | None = None
        n_quiet = 0
        while True:
            self._awake.wait()
            sleep(_TICK)
            with self._state:
                now = self._request
                if now is not None and now is last:
                    self._request = now = None
                    self._free.release()
                n_quiet = n_quiet + 1 if now is None else 0
                last = now
            if n_quiet >= _QUIET:
                self._awake.clear()
                if self._request is not None:  # begun meanwhile
                    self._awake.set()
                n_quiet = 0
