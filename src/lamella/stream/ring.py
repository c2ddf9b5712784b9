"""Bounded hand-over of buffers between threads.

One producer puts items, each into some of the ring's channels; a channel is an ordered queue that one consumer empties,
or several that compete. An item's bytes are charged to the ring's credits until every consumer has released it, and its
buffer is then used again: first touch of a fresh page costs more than filling it. A hop costs a few microseconds, so
items should hold 256 KiB and more.

Nobody is left waiting: a producer's failure arrives behind the items before it, a consumer's failure or :meth:`cancel`
at the next call of everyone else.
"""

from __future__ import annotations

import mmap
import threading
from collections import deque
from queue import SimpleQueue

__all__ = ["Cancelled", "Item", "Ring"]


class Cancelled(Exception):
    """The ring was closed by the other side; for the threads below it, never for a user."""


class Item:
    """``data`` on its way through a ring, with the producer's ``tag``.

    Where it came from :meth:`Ring.acquire`, ``data`` is a buffer to fill, and to cut to its length before ``put``.
    """

    __slots__ = ("_buffer", "_credit", "_done", "_n_readers", "_result", "data", "tag")

    def __init__(self, data: memoryview, credit: int, buffer: memoryview | None = None, tag: str = "") -> None:
        self.data = data
        self.tag = tag
        self._buffer = buffer
        self._credit = credit
        self._n_readers = 0
        self._done = False
        self._result = b""


class _Gate:
    """Where threads wait for news of a ring, called under its lock except for the waiting itself.

    A Condition will not do: interrupted while it takes its lock back, it releases a lock that it does not hold. Here a
    waiter holds nothing, and waking it is one call that may be repeated.
    """

    def __init__(self) -> None:
        self._tickets: deque[SimpleQueue[None]] = deque()

    def ticket(self) -> SimpleQueue[None]:
        """Return what to ``get()`` from, once the ring's lock is released: that is the waiting."""
        ticket: SimpleQueue[None] = SimpleQueue()
        self._tickets.append(ticket)
        return ticket

    def admit_one(self) -> None:
        """Wake the one who waits longest, if any."""
        if self._tickets:
            self._tickets[0].put(None)  # first: an interrupt between the two must not lose who waits
            self._tickets.popleft()

    def admit_all(self) -> None:
        """Wake everyone."""
        while self._tickets:
            self.admit_one()


class Ring:
    """``channels`` names the queues; at most ``nbytes`` are charged at a time; pooled buffers hold ``slot_nbytes``.

    An item larger than all credits is let in when the ring is empty. ``used`` and ``peak`` are charged bytes, now and
    at most.
    """

    def __init__(self, channels: tuple[str, ...], *, nbytes: int, slot_nbytes: int) -> None:
        self._lock = threading.Lock()
        self._room = _Gate()
        self._ready = {channel: _Gate() for channel in channels}
        self._results = _Gate()
        self._queues: dict[str, deque[Item]] = {channel: deque() for channel in channels}
        self._pool: list[memoryview] = []
        self._limit = nbytes
        self._slot_nbytes = slot_nbytes
        self._ended = False
        self._failure: BaseException | None = None  # the producer's, behind what it put
        self._cancelled = False  # for everyone, at once
        self._reason: BaseException | None = None
        self.used = 0
        self.peak = 0

    # the producer's side

    def acquire(self) -> Item:
        """Wait for credits and return an item with a pooled buffer to fill."""
        self._charge(self._slot_nbytes)
        with self._lock:
            buffer = self._pool.pop() if self._pool else None
        if buffer is None:
            buffer = _pages(self._slot_nbytes)
        return Item(buffer, self._slot_nbytes, buffer)

    def lend(self, data: memoryview, tag: str = "") -> Item:
        """Wait for credits and return an item around bytes that live elsewhere."""
        self._charge(data.nbytes)
        return Item(data, data.nbytes, None, tag)

    def _charge(self, nbytes: int) -> None:
        while True:
            with self._lock:
                self._check()
                if not self.used or self.used + nbytes <= self._limit:
                    self.used += nbytes
                    self.peak = max(self.peak, self.used)
                    return
                ticket = self._room.ticket()
            ticket.get()

    def put(self, item: Item, *channels: str) -> None:
        """Hand ``item`` to ``channels``; each must release it."""
        with self._lock:
            self._check()
            item._n_readers = len(channels)
            for channel in channels:
                self._queues[channel].append(item)
                self._ready[channel].admit_one()

    def finish(self, failure: BaseException | None = None) -> None:
        """End every channel behind what was put; ``failure`` is then raised there."""
        with self._lock:
            self._ended = True
            self._failure = failure
            for ready in self._ready.values():
                ready.admit_all()

    # the consumers' side

    def get(self, channel: str) -> Item | None:
        """Wait for the channel's next item; None at its end."""
        queue = self._queues[channel]
        while True:
            with self._lock:
                self._check()
                if queue:
                    return queue.popleft()
                if self._failure is not None:
                    raise self._failure
                if self._ended:
                    return None
                ticket = self._ready[channel].ticket()
            ticket.get()

    def release(self, item: Item) -> None:
        """Say that one consumer is done with ``item``; the last one gives its credits and its buffer back."""
        with self._lock:
            item._n_readers -= 1
            if item._n_readers > 0:
                return
            self.used -= item._credit
            if item._buffer is not None:
                self._pool.append(item._buffer)
            self._room.admit_one()

    def complete(self, item: Item, result: bytes) -> None:
        """Attach to ``item`` what one consumer made of it."""
        with self._lock:
            item._result, item._done = result, True
            self._results.admit_all()

    def result(self, item: Item) -> bytes:
        """Wait for what another consumer makes of ``item``."""
        while True:
            with self._lock:
                self._check()
                if item._done:
                    return item._result
                ticket = self._results.ticket()
            ticket.get()

    # everyone's

    def cancel(self, reason: BaseException | None = None) -> None:
        """Make every call of everyone raise ``reason`` (Cancelled unless given), from now on; the first reason stays.

        The producer's own failure is no reason: it arrives in its order.
        """
        with self._lock:
            if reason is not None and reason is self._failure:
                return
            if not self._cancelled:
                self._cancelled, self._reason = True, reason
            self._pool.clear()
            for queue in self._queues.values():
                queue.clear()
            for gate in (self._room, self._results, *self._ready.values()):
                gate.admit_all()

    def _check(self) -> None:
        if self._reason is not None:
            raise self._reason
        if self._cancelled:
            raise Cancelled  # a new one each time: a kept one would keep the frames it went through, and their buffers

    @property
    def failure(self) -> BaseException | None:
        """Return the reason that the ring was cancelled for, or None."""
        return self._reason


def _pages(nbytes: int) -> memoryview:
    """Return a buffer that begins a page.

    The kernel's copy between a page of a file and memory that is 16 bytes off a line, where malloc puts large blocks, is
    three times as slow.
    """
    return memoryview(mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
