"""Threads of their own: results, errors, and interrupts at any moment."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from lamella.stream.worker import on_own_thread


def test_the_result_and_the_error():
    assert on_own_thread("test", lambda: threading.current_thread().name) == "lamella-test"
    with pytest.raises(ZeroDivisionError):
        on_own_thread("test", lambda: 1 // 0)


@pytest.mark.parametrize("report", [None, lambda: None], ids=["silent", "reporting"])
def test_an_interrupt_stops_and_waits(report):
    stopped, seen = threading.Event(), []

    def work():
        os.kill(os.getpid(), signal.SIGINT)
        stopped.wait(60)
        time.sleep(0.2)  # an interrupt of Thread.join would not wait for this
        seen.append("the end of the work")

    with pytest.raises(KeyboardInterrupt):
        on_own_thread("test", work, stop=lambda: (seen.append("stop"), stopped.set()), report=report)
    assert seen == ["stop", "the end of the work"]


def test_an_error_of_the_report_stops_and_waits():
    stopped, seen = threading.Event(), []

    def work():
        stopped.wait(60)
        seen.append("the end of the work")

    with pytest.raises(ZeroDivisionError):
        on_own_thread("test", work, stop=stopped.set, report=lambda: 1 // 0)
    assert seen == ["the end of the work"]
