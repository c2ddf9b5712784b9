"""Hand-over between threads: order, credits, failures of either side, nobody left waiting."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella.stream.ring import Cancelled, Ring
from lamella.stream.worker import Worker

SLOT = 1000


def started(work, failed=None):
    problems = []
    worker = Worker("test", work, failed or problems.append)
    worker.start()
    return worker


def lent(ring, n):
    return ring.lend(memoryview(bytes(n)))


@given(
    sizes=st.lists(st.integers(1, 5000), max_size=40),
    limit=st.integers(SLOT, 10_000),
    pauses=st.lists(st.booleans(), min_size=1, max_size=7),
)
def test_both_channels_see_every_item_in_order_within_the_credits(sizes, limit, pauses):
    ring = Ring(("one", "two"), nbytes=limit, slot_nbytes=SLOT)
    seen = {"one": [], "two": []}

    def consume(channel, parity):
        while (item := ring.get(channel)) is not None:
            if pauses[len(seen[channel]) % len(pauses)] == parity:
                time.sleep(0.0001)
            seen[channel].append(bytes(item.data))
            ring.release(item)

    workers = [started(lambda: consume("one", True)), started(lambda: consume("two", False))]
    sent = []
    for n, size in enumerate(sizes):
        content = bytes([n % 256]) * size
        if size <= SLOT:
            item = ring.acquire()
            item.data = item.data[:size]
            item.data[:] = content
        else:
            item = ring.lend(memoryview(content))
        sent.append(content)
        ring.put(item, "one", "two")
    ring.finish()
    for worker in workers:
        worker.join()
    assert seen == {"one": sent, "two": sent}
    assert ring.used == 0
    assert ring.peak <= max(limit, *sizes, 0)


def test_buffers_are_used_again():
    ring = Ring(("only",), nbytes=3 * SLOT, slot_nbytes=SLOT)
    seen = set()
    worker = started(lambda: [ring.release(item) for item in iter(lambda: ring.get("only"), None)])
    for _ in range(100):
        item = ring.acquire()
        seen.add(id(item.data.obj))
        ring.put(item, "only")
    ring.finish()
    worker.join()
    assert len(seen) <= 3


def test_the_producer_waits_for_the_slowest_consumer():
    ring = Ring(("fast", "slow"), nbytes=2 * SLOT, slot_nbytes=SLOT)
    for _ in range(2):
        ring.put(ring.acquire(), "fast", "slow")
    for _ in range(2):
        ring.release(ring.get("fast"))
    third = []
    worker = started(lambda: third.append(ring.acquire()))
    worker.join(0.05)
    assert not third
    ring.release(ring.get("slow"))
    worker.join()
    assert len(third) == 1
    assert ring.peak == 2 * SLOT


def test_competing_consumers_share_a_channel_and_results_come_back():
    ring = Ring(("work", "order"), nbytes=8 * SLOT, slot_nbytes=SLOT)

    def work():
        while (item := ring.get("work")) is not None:
            time.sleep(0.0001 * (item.data[0] % 3))
            ring.complete(item, bytes(item.data) * 2)
            ring.release(item)

    results = []

    def collect():
        while (item := ring.get("order")) is not None:
            results.append(ring.result(item))
            ring.release(item)

    workers = [started(work), started(work), started(collect)]
    for n in range(50):
        item = ring.acquire()
        item.data = item.data[:1]
        item.data[0] = n
        ring.put(item, "work", "order")
    ring.finish()
    for worker in workers:
        worker.join()
    assert results == [bytes((n, n)) for n in range(50)]


def test_a_producers_failure_arrives_behind_what_it_put():
    ring = Ring(("only",), nbytes=10_000, slot_nbytes=SLOT)

    def produce():
        for n in (1, 2, 3):
            ring.put(lent(ring, n), "only")
        raise OSError("the disk is gone")

    started(produce, ring.finish).join()
    for n in (1, 2, 3):
        assert len(ring.get("only").data) == n
    for _ in range(2):
        with pytest.raises(OSError, match="the disk is gone") as caught:
            ring.get("only")
    ring.cancel(caught.value)  # what a second consumer's thread reports
    assert ring.failure is None, "it arrives in its order, not at once"


def test_a_consumers_failure_stops_everyone_at_once():
    ring = Ring(("one", "two"), nbytes=SLOT, slot_nbytes=SLOT)

    def consume():
        ring.get("one")
        raise MemoryError("no room to hash")

    worker = started(consume, ring.cancel)
    ring.put(ring.acquire(), "one", "two")
    with pytest.raises(MemoryError, match="no room to hash"):
        ring.acquire()
    worker.join()
    for call in (lambda: ring.get("two"), lambda: lent(ring, 1)):
        with pytest.raises(MemoryError):
            call()


@pytest.mark.parametrize("waiting", ["acquire", "lend", "get", "result"])
def test_cancel_wakes_who_waits(waiting):
    ring = Ring(("one", "two"), nbytes=SLOT, slot_nbytes=SLOT)
    item = ring.acquire()
    ring.put(item, "one")
    call = {
        "acquire": ring.acquire,
        "lend": lambda: lent(ring, 5),
        "get": lambda: ring.get("two"),
        "result": lambda: ring.result(item),
    }[waiting]
    outcome = []

    def wait():
        try:
            call()
        except Cancelled as error:
            outcome.append(error)
            raise

    worker = started(wait)
    worker.join(0.02)
    assert worker.is_alive()
    ring.cancel()
    worker.join(10)
    assert not worker.is_alive()
    assert len(outcome) == 1
    with pytest.raises(Cancelled):
        ring.put(item, "two")


def test_the_first_reason_stays():
    ring = Ring(("only",), nbytes=SLOT, slot_nbytes=SLOT)
    ring.cancel(OSError("first"))
    ring.cancel(OSError("second"))
    ring.cancel()
    with pytest.raises(OSError, match="first"):
        ring.get("only")


def test_an_item_above_all_credits_is_let_in_alone():
    ring = Ring(("only",), nbytes=10, slot_nbytes=SLOT)
    ring.put(lent(ring, 500), "only")
    second = []
    worker = started(lambda: second.append(lent(ring, 1)))
    worker.join(0.02)
    assert not second
    ring.release(ring.get("only"))
    worker.join()
    assert second


def test_workers_are_daemons_and_report():
    problems = []
    worker = started(lambda: 1 // 0, problems.append)
    worker.join()
    assert worker.daemon
    assert [type(problem) for problem in problems] == [ZeroDivisionError]
    assert started(lambda: (_ for _ in ()).throw(Cancelled()), problems.append).join() is None
    assert len(problems) == 1
    assert threading.current_thread().name not in worker.name
