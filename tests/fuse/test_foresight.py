"""Which directory a walk lists next."""

from __future__ import annotations

from lamella.fuse.foresight import Foresight


def test_a_walk_is_foreseen_once_a_guess_was_right():
    foresight = Foresight()
    below = {1: [2, 5, 6], 2: [3, 4], 5: [], 6: [7]}
    guesses = []
    for directory in range(1, 8):  # depth first
        foresight.found(directory, below.get(directory, []))
        guesses.append(foresight.listed(directory))
    assert guesses == [None, 3, 4, 5, 6, 7, None]


def test_who_jumps_about_is_not_followed():
    foresight = Foresight()
    foresight.found(1, [2, 3, 4, 5])
    assert [foresight.listed(number) for number in (1, 3, 2, 5, 4)] == [None] * 5


def test_what_is_known_has_an_end(monkeypatch):
    monkeypatch.setattr("lamella.fuse.foresight._LIMIT", 10)
    foresight = Foresight()
    foresight.found(1, range(2, 12))
    foresight.found(2, range(20, 25))
    assert len(foresight._next) == 5
