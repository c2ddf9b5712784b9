"""Whose turn it is to receive requests: quick ones keep it, whoever takes long loses it."""

from __future__ import annotations

import threading

import pytest

from lamella.fuse import turns as module
from lamella.fuse.turns import Turns

PATIENCE, PAUSES = 30, 3000


@pytest.fixture
def turns() -> Turns:
    """Turns with a watch."""
    made = Turns()
    threading.Thread(target=made.watch, daemon=True).start()
    return made


def taken(turns: Turns) -> threading.Event:
    """Let another thread wait for the turn; the event says that it has it."""
    event = threading.Event()

    def wait() -> None:
        turns.take()
        event.set()

    threading.Thread(target=wait, daemon=True).start()
    return event


def test_quick_requests_keep_the_turn():
    turns = Turns()  # nobody watches: nothing but give() ends a turn
    turns.take()
    other = taken(turns)
    assert all(turns.end(turns.begin()) for _ in range(1000))
    assert not other.is_set()
    turns.give()
    assert other.wait(PATIENCE)


def test_who_takes_long_loses_the_turn(turns):
    turns.take()
    request = turns.begin()
    assert taken(turns).wait(PATIENCE)
    other = turns.begin()  # of who has it now
    assert not turns.end(request)
    assert turns.end(other)


def test_the_watch_is_awake_again_when_it_is_needed(monkeypatch):
    monkeypatch.setattr(module, "_QUIET", 1)
    turns = Turns()
    threading.Thread(target=turns.watch, daemon=True).start()
    for _ in range(3):
        turns.take()
        assert turns.end(turns.begin())
        for _ in range(PAUSES):
            if not turns._awake.is_set():
                break
            threading.Event().wait(0.01)
        assert not turns._awake.is_set()  # it sleeps while nothing is asked
        turns.begin()
        assert taken(turns).wait(PATIENCE)
        turns.give()
